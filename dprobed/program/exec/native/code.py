"""LLVM's representation in the pieces that native programs are made of: words, memory, loops.

LLVM comes through llvmlite, which is imported here and in ``machine_code`` only: that takes 90 ms
and 60 MB, so that only the compiler process does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

from llvmlite import ir

#: A value, a function, a module of LLVM's; llvmlite has no types of its own.
Value: TypeAlias = Any

I1: Final = ir.IntType(1)
I64: Final = ir.IntType(64)
PTR: Final = ir.PointerType()
PAIR: Final = ir.LiteralStructType([I64, I64])
_BYTE: Final = ir.IntType(8)
_INTEGERS: Final = {width: ir.IntType(8 * width) for width in (1, 2, 4, 8)}


def word(number: int) -> Value:
    """A word that is known."""
    return ir.Constant(I64, number & ((1 << 64) - 1))


class CodeWriter:
    """One function in the making. A *variable* is a word in its frame, until LLVM finds it a
    register."""

    def __init__(
        self, module: Value, name: str, arguments: Sequence[Value], result: Value = I64
    ) -> None:
        self.module: Final = module
        self.function: Final = ir.Function(module, ir.FunctionType(result, arguments), name)
        self.function.attributes.add("noredzone")
        self.function.attributes.add("nounwind")
        if name != "run":
            self.function.linkage = "internal"
            self.function.attributes.add("noinline")
        self._entry = self.function.append_basic_block("entry")
        self.b: Final = ir.IRBuilder(self.function.append_basic_block("begin"))
        self._frame = ir.IRBuilder(self._entry)
        self._begin = self.b.block

    @property
    def arguments(self) -> Sequence[Value]:
        """What it was called with."""
        return self.function.args  # type: ignore[no-any-return]

    def close(self) -> None:
        """All of it was written."""
        self._frame.branch(self._begin)

    # -- variables ----------------------------------------------------------------------------

    def variable(self, value: Value = None) -> Value:
        """A new variable; it has the ``value``, set where the function is written now."""
        found = self._allocated(I64)
        if value is not None:
            self.b.store(value, found)
        return found

    def room(self, size: int) -> Value:
        """The address of ``size`` bytes in the frame, a whole number of words."""
        return self._allocated(ir.ArrayType(I64, size // 8))

    def _allocated(self, kind: Value) -> Value:
        found = self._frame.alloca(kind)
        found.type = PTR
        return found

    def get(self, variable: Value) -> Value:
        """What a variable has."""
        return self.b.load(variable, typ=I64)

    def set(self, variable: Value, value: Value) -> None:
        """Give a variable a value."""
        self.b.store(value, variable)

    def add_to(self, variable: Value, value: Value) -> None:
        """Add to a variable."""
        self.set(variable, self.b.add(self.get(variable), value))

    # -- memory -------------------------------------------------------------------------------

    def at(self, pointer: Value, offset: Value | int) -> Value:
        """The address so many bytes behind another."""
        offset = word(offset) if isinstance(offset, int) else offset
        return self.b.gep(pointer, [offset], source_etype=_BYTE)

    def load(self, pointer: Value, offset: Value | int = 0, width: int = 8) -> Value:
        """A number of ``width`` bytes, from any address."""
        kind = _INTEGERS[width]
        found = self.b.load(self.at(pointer, offset), typ=kind, align=1)
        return found if width == 8 else self.b.zext(found, I64)

    def store(
        self, value: Value | int, pointer: Value, offset: Value | int = 0, width: int = 8
    ) -> None:
        """Store the low ``width`` bytes, at any address."""
        value = word(value) if isinstance(value, int) else value
        if width != 8:
            value = self.b.trunc(value, _INTEGERS[width])
        self.b.store(value, self.at(pointer, offset), align=1)

    def load_whole(self, pointer: Value) -> Value:
        """A word that others may write at the same time."""
        return self.b.load_atomic(pointer, "monotonic", 8, typ=I64)

    def store_whole(self, value: Value, pointer: Value) -> None:
        """Store a word that others may read at the same time."""
        # ``store_atomic`` of llvmlite knows only pointers that say to what.
        made = ir.instructions.StoreAtomicInstr(self.b.block, value, pointer, "monotonic", 8)
        self.b._insert(made)

    def swapped(self, pointer: Value, before: Value, after: Value) -> Value:
        """Give a word another value if it has this one; whether it had."""
        found = self.b.cmpxchg(pointer, before, after, "seq_cst", "seq_cst")
        return self.b.extract_value(found, 1)

    def pause(self) -> None:
        """Tell the processor that another thread is waited for."""
        kind = ir.FunctionType(ir.VoidType(), [])
        self.b.call(ir.InlineAsm(kind, "pause", "~{memory}", side_effect=True), [])

    def leading_zeros(self, value: Value) -> Value:
        """How many; 64 of 0."""
        return self.b.ctlz(value, ir.Constant(I1, 0))

    def load_pointer(self, pointer: Value, offset: Value | int) -> Value:
        """An address that stands there."""
        return self.b.inttoptr(self.load(pointer, offset), PTR)

    def address(self, pointer: Value) -> Value:
        """An address as a word."""
        return self.b.ptrtoint(pointer, I64)

    def put_bytes(self, data: bytes, pointer: Value, offset: Value | int = 0) -> None:
        """Store bytes that are known."""
        target = self.at(pointer, offset)
        at = 0
        while at < len(data):
            width = next(size for size in (8, 4, 2, 1) if size <= len(data) - at)
            self.store(int.from_bytes(data[at : at + width], "little"), target, at, width)
            at += width

    def copy(self, target: Value, source: Value, count: Value, width: int) -> None:
        """Copy ``count`` numbers of ``width`` bytes, the first one first."""
        with self.each(count) as n:
            at = self.b.mul(n, word(width)) if width > 1 else n
            self.store(self.load(source, at, width), target, at, width)

    # -- conditions and loops -----------------------------------------------------------------

    def test(self, relation: str, left: Value, right: Value | int) -> Value:
        """Compare two words, unsigned; with ``s`` before the relation signed."""
        right = word(right) if isinstance(right, int) else right
        if relation.startswith("s"):
            return self.b.icmp_signed(relation[1:], left, right)
        return self.b.icmp_unsigned(relation, left, right)

    @contextmanager
    def when(self, condition: Value, likely: bool | None = None) -> Iterator[None]:
        """Only if the condition holds."""
        with self.b.if_then(condition, likely=likely):
            yield

    def choose(self, condition: Value, yes: Value | int, no: Value | int) -> Value:
        """One of two words."""
        return self.b.select(condition, _word(yes), _word(no))

    def least(self, left: Value | int, right: Value | int) -> Value:
        """The lesser of two words, unsigned."""
        left, right = _word(left), _word(right)
        return self.choose(self.b.icmp_unsigned("<", left, right), left, right)

    def most(self, left: Value | int, right: Value | int) -> Value:
        """The greater of two words, unsigned."""
        left, right = _word(left), _word(right)
        return self.choose(self.b.icmp_unsigned(">", left, right), left, right)

    @contextmanager
    def loop(self, condition: Callable[[], Value]) -> Iterator[None]:
        """While the condition, which is asked before each round, holds."""
        head, body, after = (self.function.append_basic_block() for _ in range(3))
        self.b.branch(head)
        self.b.position_at_end(head)
        self.b.cbranch(condition(), body, after)
        self.b.position_at_end(body)
        yield
        if not self.b.block.is_terminated:
            self.b.branch(head)
        self.b.position_at_end(after)

    @contextmanager
    def each(self, count: Value) -> Iterator[Value]:
        """For each number from 0 on below ``count``."""
        number = self.variable(word(0))
        with self.loop(lambda: self.test("<", self.get(number), count)):
            yield self.get(number)
            self.add_to(number, word(1))

    # -- functions ----------------------------------------------------------------------------

    def call(self, function: Value, *arguments: Value | int) -> Value:
        """Call another function of the module."""
        return self.b.call(function, [_word(each) for each in arguments])

    def first(self, pair: Value) -> Value:
        """The first of the two words that a function has returned."""
        return self.b.extract_value(pair, 0)

    def second(self, pair: Value) -> Value:
        """The second one."""
        return self.b.extract_value(pair, 1)

    def give(self, first: Value | int, second: Value | int | None = None) -> None:
        """Return a word, or two."""
        if second is None:
            self.b.ret(_word(first))
            return
        pair = self.b.insert_value(ir.Constant(PAIR, ir.Undefined), _word(first), 0)
        self.b.ret(self.b.insert_value(pair, _word(second), 1))

    def system_call(self, number: int, *arguments: Value | int) -> Value:
        """What the kernel says."""
        registers = ("{rdi}", "{rsi}", "{rdx}", "{r10}", "{r8}", "{r9}")[: len(arguments)]
        inputs = ",".join(("{rax}", *registers))
        assembly = ir.InlineAsm(
            ir.FunctionType(I64, [I64] * (1 + len(arguments))),
            "syscall",
            f"={{rax}},{inputs},~{{rcx}},~{{r11}},~{{memory}}",
            side_effect=True,
        )
        return self.b.call(assembly, [word(number), *map(_word, arguments)])


def _word(value: Value | int) -> Value:
    return word(value) if isinstance(value, int) else value
