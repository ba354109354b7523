"""Evaluates the DWARF expressions of unwinding rules: those of PLT entries, signal frames, and
code that aligns its stack (DWARF 5, section 2.5; straight runs of operations only)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

WORD: Final = (1 << 64) - 1
_MOST_STEPS: Final = 128
_FIXED: Final = {0x08: (1, False), 0x09: (1, True), 0x0A: (2, False), 0x0B: (2, True),
                 0x0C: (4, False), 0x0D: (4, True), 0x0E: (8, False), 0x0F: (8, True)}  # fmt: skip


class EvaluationError(Exception):
    """An expression that is damaged, or uses what is not known here."""


def evaluate(
    code: bytes,
    register: Callable[[int], int],
    load: Callable[[int], int],
    *pushed: int,
) -> int:
    """What an expression computes; ``pushed`` is on its stack at first.

    ``register`` gives the value of a register by DWARF's number, ``load`` the word at an address;
    what they raise goes through. Raises EvaluationError.
    """
    stack = list(pushed)
    at = steps = 0
    try:
        while at < len(code):
            steps += 1
            if steps > _MOST_STEPS:
                raise EvaluationError("too long")
            op = code[at]
            at += 1
            if 0x30 <= op <= 0x4F:  # lit
                stack.append(op - 0x30)
            elif 0x50 <= op <= 0x6F:  # reg
                stack.append(register(op - 0x50))
            elif 0x70 <= op <= 0x8F:  # breg
                number, at = _leb(code, at, signed=True)
                stack.append(register(op - 0x70) + number & WORD)
            elif op in _FIXED:
                size, signed = _FIXED[op]
                number = int.from_bytes(code[at : at + size], "little", signed=signed)
                stack.append(number & WORD)
                at += size
            elif op in (0x10, 0x11):  # constu, consts
                number, at = _leb(code, at, signed=op == 0x11)
                stack.append(number & WORD)
            elif op == 0x23:  # plus_uconst
                number, at = _leb(code, at, signed=False)
                stack.append(stack.pop() + number & WORD)
            elif op == 0x06:  # deref
                stack.append(load(stack.pop()))
            elif op == 0x12:  # dup
                stack.append(stack[-1])
            elif op == 0x13:  # drop
                stack.pop()
            elif op == 0x14:  # over
                stack.append(stack[-2])
            elif op == 0x15:  # pick
                stack.append(stack[-1 - code[at]])
                at += 1
            elif op == 0x16:  # swap
                stack[-2:] = [stack[-1], stack[-2]]
            elif op == 0x1F:  # neg
                stack.append(-stack.pop() & WORD)
            elif op == 0x20:  # not
                stack.append(~stack.pop() & WORD)
            elif op in _BINARY:
                top = stack.pop()
                stack.append(_BINARY[op](stack.pop(), top) & WORD)
            elif op != 0x96:  # nop
                raise EvaluationError(f"operation {op:#x}")
        return stack[-1]
    except IndexError as error:
        raise EvaluationError("damaged") from error


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _shifted(word: int, by: int) -> int:
    return word << by if by < 64 else 0


_BINARY: Final[dict[int, Callable[[int, int], int]]] = {
    0x1A: int.__and__,
    0x1C: int.__sub__,
    0x1E: int.__mul__,
    0x21: int.__or__,
    0x22: int.__add__,
    0x24: _shifted,
    0x25: lambda word, by: word >> min(by, 64),
    0x26: lambda word, by: _signed(word) >> min(by, 64),
    0x27: int.__xor__,
    0x29: int.__eq__,
    0x2A: lambda left, right: _signed(left) >= _signed(right),
    0x2B: lambda left, right: _signed(left) > _signed(right),
    0x2C: lambda left, right: _signed(left) <= _signed(right),
    0x2D: lambda left, right: _signed(left) < _signed(right),
    0x2E: int.__ne__,
}


def _leb(code: bytes, at: int, *, signed: bool) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = code[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
        if shift > 63:
            raise EvaluationError("a number of more than 64 bits")
    if signed and byte & 0x40:
        value -= 1 << shift
    return value, at
