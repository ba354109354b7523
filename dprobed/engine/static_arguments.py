"""The arguments of static probes (USDT): how the one at a place is read at a hit.

By a tracer that has the thread stopped, or by a native program (``program.exec.native.abi``).
"""

from __future__ import annotations

from typing import NamedTuple

from dprobed.arch.x86_64.argument import Argument
from dprobed.arch.x86_64.fxsave import XMM, XMM_SIZE
from dprobed.arch.x86_64.paging import WORD
from dprobed.arch.x86_64.registers import REGISTER_NAMES
from dprobed.program.exec.interface import ADDRESS_END, Context, MemoryFault, Reader
from dprobed.program.exec.native.abi import NO_REGISTER, ArgumentKind, argument_words


class StaticArgument(NamedTuple):
    """An argument at one place. ``read``: reads it of a stopped thread; ``words``: where it is,
    as native programs are told; ``registers``: by their index, those that it needs; ``is_vector``:
    it is in a floating point register."""

    read: Reader
    words: tuple[int, int]
    registers: frozenset[int]
    is_vector: bool


def placed(argument: Argument, bias: int) -> StaticArgument:
    """An argument; ``bias``: from addresses of its file to those in memory."""
    is_vector = argument.kind == "sse"
    base = NO_REGISTER
    if is_vector:
        base = int(argument.base.removeprefix("xmm"))
    elif argument.base:
        base = REGISTER_NAMES.index(argument.base)
    scaled = REGISTER_NAMES.index(argument.scaled) if argument.scaled else NO_REGISTER
    words = argument_words(
        ArgumentKind[argument.kind.upper()],
        argument.size,
        argument.signed,
        argument.value + (bias if argument.relative else 0),
        base,
        scaled,
        argument.scale,
    )
    named = {scaled} if is_vector else {base, scaled}
    registers = frozenset(named - {NO_REGISTER})
    return StaticArgument(_reader(argument, bias), words, registers, is_vector)


def unreadable() -> StaticArgument:
    """One that nothing can read."""
    words = argument_words(ArgumentKind.MEMORY, 8, False, 0)
    return StaticArgument(_read_nothing, words, frozenset(), False)


def _read_nothing(_: Context) -> int:
    raise MemoryFault(0)


def _reader(argument: Argument, bias: int) -> Reader:
    if argument.kind == "constant":
        value = _extended(argument, argument.value)
        return lambda context: value
    if argument.kind == "register":
        number, shift = REGISTER_NAMES.index(argument.base), argument.value
        return lambda context: _extended(argument, context.regs[number] >> shift)
    if argument.kind == "sse":
        first = XMM + XMM_SIZE * int(argument.base.removeprefix("xmm"))
        last = first + argument.size
        return lambda context: _extended(
            argument, int.from_bytes(context.fpregs()[first:last], "little")
        )
    return _memory_reader(argument, argument.value + (bias if argument.relative else 0))


def _memory_reader(argument: Argument, offset: int) -> Reader:
    base = REGISTER_NAMES.index(argument.base) if argument.base else -1
    index = REGISTER_NAMES.index(argument.scaled) if argument.scaled else -1

    def read(context: Context) -> int:
        address = offset
        if base >= 0:
            address += context.regs[base]
        if index >= 0:
            address += context.regs[index] * argument.scale
        address &= WORD
        if address >= ADDRESS_END:
            raise MemoryFault(address)
        raw = context.read(address, argument.size)
        return _extended(argument, int.from_bytes(raw, "little"))

    return read


def _extended(argument: Argument, raw: int) -> int:
    """The word that a value of the argument's size is, by its sign."""
    bits = 8 * argument.size
    raw &= (1 << bits) - 1
    if argument.signed and raw >> (bits - 1):
        raw -= 1 << bits
    return raw & WORD
