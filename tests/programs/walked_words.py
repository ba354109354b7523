"""What the walking executor makes of words: tests and operations, written for themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dprobed.program.exec.ir import Test, WordOp
from dprobed.program.isa import WORD_BITS

SIGN: Final = 1 << (WORD_BITS - 1)

TESTS: Final[dict[Test, Callable[[int], bool]]] = {
    Test.LT: lambda word: word >= SIGN,
    Test.LE: lambda word: word == 0 or word >= SIGN,
    Test.GT: lambda word: 0 < word < SIGN,
    Test.GE: lambda word: word < SIGN,
    Test.EQ: lambda word: word == 0,
    Test.NE: lambda word: word != 0,
}


def _bits(low: int, high: int) -> int:
    """The bits from ``low`` to ``high``, counted from 1."""
    return sum(1 << (bit - 1) for bit in range(low, high + 1))


def _copied(word: int, bit: int, others: int) -> int:
    """``word`` with ``others`` set to what ``bit`` is."""
    return word | others if word & _bits(bit, bit) else word & ~others


def _rotated(word: int, count: int) -> int:
    bits = f"{word:064b}"
    return int(bits[count:] + bits[:count], 2)


COMPUTED: Final[dict[WordOp, Callable[[int, int], int]]] = {
    WordOp.ADD: lambda a, b: (a + b) % (1 << 64),
    WordOp.SUB: lambda a, b: (a - b) % (1 << 64),
    WordOp.MUL: lambda a, b: (a * b) % (1 << 64),
    WordOp.AND: lambda a, b: a & b,
    WordOp.OR: lambda a, b: a | b,
    WordOp.XOR: lambda a, b: a ^ b,
    WordOp.ROL: _rotated,
    WordOp.ROR: lambda a, b: _rotated(a, 64 - b),
    WordOp.SHL: lambda a, b: 0 if b >= 64 else a * 2**b % (1 << 64),
    WordOp.SHR: lambda a, b: 0 if b >= 64 else a // 2**b,
    WordOp.COPY_LEFT: lambda a, b: _copied(a, b, _bits(b + 1, 64)),
    WordOp.COPY_RIGHT: lambda a, b: _copied(a, b, _bits(1, b - 1)),
    WordOp.ZERO_LEFT: lambda a, b: a & _bits(1, b),
    WordOp.ZERO_RIGHT: lambda a, b: a & _bits(b, 64),
}
