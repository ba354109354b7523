"""Where variables are at a place: steps of a small stack machine, as debug information says it.

The machine has words of 64 bits and the registers and memory of the stopped thread. What the
compiler wrote relative to a frame is resolved already, for the one place that was asked about; what
is left is registers, addresses in the module, and arithmetic, which a compiler of scripts turns
into its own instructions, and ``evaluate`` computes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from dprobed.program.types import VOID, Type

#: The names of DWARF's registers 0 to 16 as the language has them; 17 to 32 are ``xmm0`` to 15.
REGISTERS: Final = ("rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp",
                    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip")  # fmt: skip
_FIRST_XMM: Final = 17
_LAST_XMM: Final = 32

_MASK: Final = (1 << 64) - 1


class LocationStep(msgspec.Struct, frozen=True, array_like=True):
    """One step; ``value`` is what it pushes or how far it goes.

    ``constant``, ``register`` (its number), ``address`` (of the module's file: to add to where it
    is loaded), ``thread`` (of the module's thread-local data: this many bytes into that of the
    thread) push a word. ``load`` and ``load_signed`` replace an address by what is there, ``value``
    bytes. ``low`` and ``low_signed`` leave the low ``value`` bits of the word, extended. ``pick``
    copies the word ``value`` below the top; ``drop``, ``swap`` and ``rotate`` (the top goes under
    the next two) move words; ``plus`` adds ``value``. The others are arithmetic on one word
    (``negate``, ``not``, ``absolute``) or on two: ``a b sub`` is a - b; comparisons are signed,
    and give 1 or 0. ``truncate`` makes an integer of a floating number of ``value`` bytes,
    ``to_float`` the other way.
    """

    op: str
    value: int = 0


class LocationPiece(msgspec.Struct, frozen=True):
    """A part of a variable: ``bits`` of it, from ``bit`` of what is at ``location`` on."""

    bits: int
    bit: int
    location: VariableLocation


class VariableLocation(msgspec.Struct, frozen=True):
    """Where a variable is.

    ``kind``: ``memory``: at the address that ``steps`` compute; ``register``: in the one that
    ``steps`` push; ``value``: nowhere, but ``steps`` compute what it is; ``bytes``: it is always
    ``data``; ``pieces``; ``absent``: ``reason`` says why it cannot be told here, and ``there`` from
    which address up to which of the module it could.
    """

    kind: Literal["memory", "register", "value", "bytes", "pieces", "absent"]
    steps: tuple[LocationStep, ...] = ()
    data: bytes = b""
    pieces: tuple[LocationPiece, ...] = ()
    reason: str = ""
    there: tuple[tuple[int, int], ...] = ()


class SourceVariable(msgspec.Struct, frozen=True):
    """A variable as it is seen at a place.

    ``kind``: what it is. ``frame``: 0 for the innermost of the functions that were inlined into
    each other there, then outwards; -1 for what is outside of functions. ``depth``: of the block in
    its function that it is in, so that of two with one name the deeper one is meant.
    """

    name: str
    type: int
    location: VariableLocation
    kind: Literal["parameter", "local", "static", "global"]
    frame: int = 0
    depth: int = 0
    line: int = 0
    artificial: bool = False


class SourceFrame(msgspec.Struct, frozen=True):
    """A function at a place: the one that is there, or into which that was inlined."""

    name: str
    file: str = ""
    line: int = 0
    inlined: bool = False


class Visible(msgspec.Struct, frozen=True):
    """What is visible at ``address`` of a module; the variables of inner blocks come first."""

    address: int
    frames: tuple[SourceFrame, ...]
    variables: tuple[SourceVariable, ...]
    types: tuple[Type, ...]


class FunctionPlace(msgspec.Struct, frozen=True):
    """Where the code of a function begins, with its parameters there; ``inlined``: a copy of it,
    within the function ``within``."""

    address: int
    end: int
    parameters: tuple[SourceVariable, ...]
    inlined: bool = False
    within: str = ""
    file: str = ""
    line: int = 0


class SourceFunction(msgspec.Struct, frozen=True):
    """A function of a module. ``name``: as in the source, with its namespace and, in C++, the types
    of its parameters; ``symbol``: as the linker calls it; ``result``: the type that it returns."""

    name: str
    symbol: str
    result: int
    places: tuple[FunctionPlace, ...]
    file: str = ""
    line: int = 0
    language: str = "c"
    variadic: bool = False


class Functions(msgspec.Struct, frozen=True):
    """Functions, and the types that they refer to."""

    functions: tuple[SourceFunction, ...]
    types: tuple[Type, ...]


class NamedType(msgspec.Struct, frozen=True):
    """A type that was asked for by name: ``index`` in ``types``."""

    index: int = VOID
    types: tuple[Type, ...] = ()


class Unreadable(Exception):
    """A value cannot be computed; the text says why."""


#: The words of the registers by number; of ``xmm`` registers 16 bytes, as one number.
Registers = Callable[[int], "int | None"]
#: From address and size to bytes; None where they cannot be read.
Memory = Callable[[int, int], "bytes | None"]


class StoppedThread(msgspec.Struct, frozen=True):
    """A stopped thread: ``bias`` is where the module is loaded, ``thread`` gives the address of so
    many bytes into the module's thread-local data."""

    registers: Registers
    memory: Memory
    bias: int = 0
    thread: Callable[[int], int | None] = lambda _: None


def register_name(number: int) -> str:
    """What the language calls one of DWARF's registers."""
    if number < len(REGISTERS):
        return REGISTERS[number]
    if _FIRST_XMM <= number <= _LAST_XMM:
        return f"xmm{number - _FIRST_XMM}"
    return f"register {number}"


def signed(value: int, bits: int = 64) -> int:
    """A word's low bits as a signed number."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def run(steps: tuple[LocationStep, ...], machine: StoppedThread) -> int:
    """What the steps compute; raises Unreadable."""
    stack: list[int] = []
    try:
        for step in steps:
            _step(step, stack, machine)
        return stack[-1] & _MASK
    except IndexError:
        raise Unreadable("its debug information is damaged") from None
    except ZeroDivisionError:
        raise Unreadable("it divides by zero") from None


def _step(step: LocationStep, stack: list[int], machine: StoppedThread) -> None:
    op, value = step.op, step.value
    if op in _PUSHES:
        stack.append(_PUSHES[op](machine, value))
    elif op in ("load", "load_signed"):
        address = stack.pop()
        raw = machine.memory(address, value)
        if raw is None or len(raw) < value:
            raise Unreadable(f"its memory at {address:#x} cannot be read")
        stack.append(int.from_bytes(raw, "little", signed=op == "load_signed") & _MASK)
    elif op == "plus":
        stack.append(stack.pop() + value & _MASK)
    elif op == "low":
        stack.append(stack.pop() & (1 << value) - 1)
    elif op == "low_signed":
        stack.append(signed(stack.pop(), value) & _MASK)
    elif op in ("truncate", "to_float"):
        stack.append(_converted(op, stack.pop(), value))
    elif op == "pick":
        stack.append(stack[-1 - value])
    elif op == "drop":
        stack.pop()
    elif op == "swap":
        stack[-1], stack[-2] = stack[-2], stack[-1]
    elif op == "rotate":
        stack[-1], stack[-2], stack[-3] = stack[-2], stack[-3], stack[-1]
    elif op in _UNARY:
        stack.append(_UNARY[op](signed(stack.pop())) & _MASK)
    else:
        second, first = stack.pop(), stack.pop()
        stack.append(_BINARY[op](first, second) & _MASK)


def _converted(op: str, word: int, size: int) -> int:
    form = "<f" if size == 4 else "<d"
    try:
        if op == "truncate":
            (number,) = struct.unpack(form, word.to_bytes(16, "little")[:size])
            return int(number) & _MASK
        return int.from_bytes(struct.pack(form, signed(word)), "little")
    except (OverflowError, ValueError):
        raise Unreadable("it is no number") from None


def _register(machine: StoppedThread, number: int) -> int:
    value = machine.registers(number)
    if value is None:
        raise Unreadable(f"{register_name(number)} is not known")
    return value


def _thread(machine: StoppedThread, offset: int) -> int:
    value = machine.thread(offset)
    if value is None:
        raise Unreadable("the thread's data is not found")
    return value


def _quotient(first: int, second: int) -> int:
    a, b = signed(first), signed(second)
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


_PUSHES: Final[dict[str, Callable[[StoppedThread, int], int]]] = {
    "constant": lambda _, value: value & _MASK,
    "register": _register,
    "address": lambda machine, value: machine.bias + value & _MASK,
    "thread": _thread,
}
_UNARY: Final[dict[str, Callable[[int], int]]] = {
    "negate": lambda a: -a,
    "not": lambda a: ~a,
    "absolute": abs,
}
_BINARY: Final[dict[str, Callable[[int, int], int]]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": _quotient,
    "mod": lambda a, b: a % b,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "shl": lambda a, b: a << b if b < 64 else 0,
    "shr": lambda a, b: a >> b if b < 64 else 0,
    "sar": lambda a, b: signed(a) >> min(b, 63),
    "eq": lambda a, b: int(a == b),
    "ne": lambda a, b: int(a != b),
    "ge": lambda a, b: int(signed(a) >= signed(b)),
    "gt": lambda a, b: int(signed(a) > signed(b)),
    "le": lambda a, b: int(signed(a) <= signed(b)),
    "lt": lambda a, b: int(signed(a) < signed(b)),
}
#: Every step that there is, for whoever compiles them.
STEPS: Final = frozenset((*_PUSHES, "load", "load_signed", "plus", "low", "low_signed", "truncate",
                          "to_float", "pick",
                          "drop", "swap", "rotate", *_UNARY, *_BINARY))  # fmt: skip


def bytes_of(location: VariableLocation, size: int, machine: StoppedThread) -> bytes:
    """The ``size`` bytes of a variable; raises Unreadable."""
    match location.kind:
        case "memory":
            address = run(location.steps, machine)
            raw = machine.memory(address, size)
            if raw is None or len(raw) < size:
                raise Unreadable(f"its memory at {address:#x} cannot be read")
            return raw
        case "register":
            number = location.steps[0].value
            return _register(machine, number).to_bytes(16, "little").ljust(size, b"\0")[:size]
        case "value":
            return run(location.steps, machine).to_bytes(8, "little").ljust(size, b"\0")[:size]
        case "bytes":
            return location.data.ljust(size, b"\0")[:size]
        case "pieces":
            return _joined(location.pieces, size, machine)
        case _:
            raise Unreadable(location.reason)


def _joined(pieces: tuple[LocationPiece, ...], size: int, machine: StoppedThread) -> bytes:
    number, at = 0, 0
    for piece in pieces:
        if at >= size * 8:
            break
        bits = min(piece.bits, size * 8 - at)
        raw = bytes_of(piece.location, (piece.bit + bits + 7) // 8, machine)
        part = int.from_bytes(raw, "little") >> piece.bit & (1 << bits) - 1
        number |= part << at
        at += bits
    return number.to_bytes(size, "little")
