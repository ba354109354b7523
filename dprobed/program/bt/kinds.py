"""Kinds of values in a script, how many words each is on the stack, and how two of them meet.

========= ============================================================================
kind      words, the last one on top of the stack
========= ============================================================================
Integer   the number, extended to 64 bits; so is a boolean, an enumerator, a pointer
String    constant: its number in ``Bundle.strings``. In the target: most bytes, address.
          Either: all ones and the number, or most bytes and address
Short     two: the first eight bytes on top
HeldText  as many as its bytes need: the first eight on top, and zeros behind the last one
Bytes     how many, address
Object    the address (of a struct or an array)
Stack     none: it is taken where it is used
Tuple     those of its items, the first one's on top
========= ============================================================================
"""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeAlias

import msgspec

from dprobed.program.bt import bundle
from dprobed.program.bt.type_table import TypeTable
from dprobed.program.types import (
    ArrayType,
    EnumType,
    FloatType,
    IntegerType,
    PointerType,
    StructType,
)

#: The length of a string that is a constant, where it could be either.
CONSTANT_MARK: Final = (1 << 64) - 1


class Integer(msgspec.Struct, frozen=True):
    """``literal``: its signedness is that of what it meets."""

    size: int = 8
    signed: bool = True
    literal: bool = False


class Boolean(msgspec.Struct, frozen=True):
    """0 or 1."""


class Float(msgspec.Struct, frozen=True):
    """The bits of a floating-point number."""

    size: int = 8


class Enumerator(msgspec.Struct, frozen=True):
    """``of``: the enum's index in the table of types."""

    of: int


class Pointer(msgspec.Struct, frozen=True):
    """``to``: index in the table of types."""

    to: int


class Form(Enum):
    """Where a string is."""

    CONSTANT = "constant"
    TARGET = "target"
    EITHER = "either"


class String(msgspec.Struct, frozen=True):
    """``most``: bytes at most."""

    form: Form
    most: int = 1024


class Short(msgspec.Struct, frozen=True):
    """``own``: the name of the thread itself."""

    own: bool = True


class HeldText(msgspec.Struct, frozen=True):
    """A text that a map has, or that is to be one; ``size``: bytes, a multiple of 8."""

    size: int


class Bytes(msgspec.Struct, frozen=True):
    """``of``: bytes, inet or mac."""

    of: str = "bytes"


class Object(msgspec.Struct, frozen=True):
    """A struct or an array at an address; ``of``: index in the table of types."""

    of: int


class Stack(msgspec.Struct, frozen=True):
    """The thread's; ``kernel``: in the kernel."""

    mode: str
    depth: int
    kernel: bool = False

    @property
    def name(self) -> str:
        """What instructions call it."""
        return "kstack" if self.kernel else "ustack"


class ShownWord(msgspec.Struct, frozen=True):
    """A word that is shown in its own way."""

    value: bundle.Value


class Tuple(msgspec.Struct, frozen=True):
    """Several values."""

    items: tuple[Kind, ...]
    names: tuple[str, ...] = ()


class Void(msgspec.Struct, frozen=True):
    """No value."""


Kind: TypeAlias = (
    Integer
    | Boolean
    | Float
    | Enumerator
    | Pointer
    | String
    | Short
    | HeldText
    | Bytes
    | Object
    | Stack
    | ShownWord
    | Tuple
    | Void
)

#: All texts.
TEXTS: Final = (String, Short, HeldText)

INT64: Final = Integer()
UINT64: Final = Integer(8, False)
UINT32: Final = Integer(4, False)
LITERAL: Final = Integer(8, True, True)
BOOLEAN: Final = Boolean()
VOID: Final = Void()


def words(kind: Kind) -> int:
    """How many words a value is."""
    if isinstance(kind, String):
        return 1 if kind.form is Form.CONSTANT else 2
    if isinstance(kind, Short | Bytes):
        return 2
    if isinstance(kind, HeldText):
        return kind.size // 8
    if isinstance(kind, Tuple):
        return sum(map(words, kind.items))
    return 0 if isinstance(kind, Stack | Void) else 1


def is_number(kind: Kind) -> bool:
    """Whether arithmetic can be done with it."""
    return isinstance(kind, Integer | Boolean | Enumerator)


def is_word(kind: Kind) -> bool:
    """Whether it is a word that can be tested for 0."""
    return isinstance(kind, Integer | Boolean | Enumerator | Pointer)


def is_signed(kind: Kind) -> bool:
    """Whether a number can be below 0."""
    return isinstance(kind, Integer) and kind.signed


def of_type(types: TypeTable, index: int) -> Kind | None:
    """The kind of a value of a C type; None: it has none (void, a function)."""
    one = types.plain(index)
    if isinstance(one, IntegerType):
        if one.boolean:
            return BOOLEAN
        return Integer(one.size, one.signed) if one.size in (1, 2, 4, 8) else None
    if isinstance(one, FloatType):
        return Float(one.size) if one.size in (4, 8) else None
    if isinstance(one, EnumType):
        return Enumerator(types.plain_index(index))
    if isinstance(one, PointerType):
        return Pointer(one.to)
    if isinstance(one, StructType | ArrayType):
        return Object(types.plain_index(index))
    return None


def value_of(types: TypeTable, kind: Kind) -> bundle.Value:
    """How whoever shows it is told of a value."""
    if isinstance(kind, Integer):
        return bundle.Integer(kind.size, kind.signed)
    if isinstance(kind, Boolean):
        return bundle.Boolean()
    if isinstance(kind, Float):
        return bundle.Float(kind.size)
    if isinstance(kind, Enumerator):
        one = types.plain(kind.of)
        assert isinstance(one, EnumType)
        return bundle.Enum(one.name, one.values, one.size, one.signed)
    if isinstance(kind, Pointer):
        return bundle.Pointer()
    if isinstance(kind, String):
        return bundle.String()
    if isinstance(kind, Short):
        return bundle.ShortText()
    if isinstance(kind, HeldText):
        return bundle.HeldText(kind.size)
    if isinstance(kind, Bytes):
        return bundle.Memory(kind.of)
    if isinstance(kind, Object):
        if isinstance(types.plain(kind.of), ArrayType):
            return bundle.Array(kind.of)
        return bundle.Struct(kind.of)
    if isinstance(kind, Stack):
        return bundle.Stack(kind.mode, kind.depth)
    if isinstance(kind, Tuple):
        return bundle.Tuple(tuple(value_of(types, each) for each in kind.items), kind.names)
    if isinstance(kind, ShownWord):
        return kind.value
    return bundle.Integer()


def shown(types: TypeTable, kind: Kind) -> str:
    """The name of a kind, for messages."""
    if isinstance(kind, Integer):
        return f"{'int' if kind.signed else 'uint'}{8 * kind.size}"
    if isinstance(kind, Pointer):
        return f"{types.shown(kind.to)} *"
    if isinstance(kind, Object | Enumerator):
        return types.shown(kind.of)
    if isinstance(kind, Float):
        return "float" if kind.size == 4 else "double"
    if isinstance(kind, Tuple):
        return "(" + ", ".join(shown(types, each) for each in kind.items) + ")"
    names = {
        Boolean: "bool",
        String: "string",
        Short: "string",
        HeldText: "string",
        Bytes: "buffer",
        Stack: "ustack",
        Void: "nothing",
    }
    if isinstance(kind, ShownWord):
        return type(kind.value).__name__.lower()
    return names.get(type(kind), "something")


def met(one: Kind | None, other: Kind) -> Kind | None:
    """The kind that both are; None: there is none."""
    if one is None or one == other:
        return other
    if isinstance(one, Integer) and isinstance(other, Integer):
        return integers(one, other)
    if is_number(one) and is_number(other):
        return INT64
    if isinstance(one, String) and isinstance(other, String):
        form = one.form if one.form is other.form else Form.EITHER
        return String(form, max(one.most, other.most))
    if isinstance(one, HeldText) and isinstance(other, TEXTS):
        return HeldText(max(one.size, held(other).size))
    if isinstance(other, HeldText) and isinstance(one, TEXTS):
        return HeldText(max(held(one).size, other.size))
    if isinstance(one, Short | String) and isinstance(other, Short | String):
        return _texts(one, other)
    if isinstance(one, Pointer) and isinstance(other, Pointer):
        return one
    if isinstance(one, Pointer) and isinstance(other, Integer):
        return one if other.literal else (UINT64 if not other.signed else INT64)
    if isinstance(other, Pointer) and isinstance(one, Integer):
        return other if one.literal else (UINT64 if not one.signed else INT64)
    if isinstance(one, Tuple) and isinstance(other, Tuple) and len(one.items) == len(other.items):
        items = [met(a, b) for a, b in zip(one.items, other.items, strict=True)]
        known = [each for each in items if each is not None]
        return Tuple(tuple(known), one.names) if len(known) == len(items) else None
    if isinstance(one, Stack) and isinstance(other, Stack) and one.kernel == other.kernel:
        return one if one.depth >= other.depth else other
    return None


def held(kind: String | Short | HeldText) -> HeldText:
    """The text that a map can have of one."""
    if isinstance(kind, HeldText):
        return kind
    return HeldText(16 if isinstance(kind, Short) else max(8, kind.most + 7 & ~7))


def kept(kind: Kind) -> Kind:
    """The kind of what a map has of a value: texts of the process are gone after the hit."""
    if isinstance(kind, Tuple):
        return Tuple(tuple(map(kept, kind.items)), kind.names)
    if isinstance(kind, Short) or (isinstance(kind, String) and kind.form is not Form.CONSTANT):
        return held(kind)
    return kind


def can_be_kept(kind: Kind) -> bool:
    """Whether a map can have it."""
    if isinstance(kind, Tuple):
        return bool(kind.items) and all(map(can_be_kept, kind.items))
    return not isinstance(kind, Bytes | Object | Stack | Void)


def _texts(one: Short | String, other: Short | String) -> Kind | None:
    """A thread's name and a short constant make a short text, and with others one in words."""
    for each in (one, other):
        if isinstance(each, String) and each.form is Form.EITHER:
            return None
        if isinstance(each, String) and (each.form is Form.TARGET or each.most > 15):
            return HeldText(max(held(one).size, held(other).size))
    return Short(all(isinstance(each, Short) and each.own for each in (one, other)))


def integers(one: Integer, other: Integer) -> Integer:
    """The kind that two numbers are together."""
    if one.literal and other.literal:
        return LITERAL
    if one.literal or other.literal:
        fixed = other if one.literal else one
        return Integer(8, fixed.signed)
    size = max(one.size, other.size)
    if one.signed == other.signed:
        return Integer(size, one.signed)
    unsigned = other if one.signed else one
    return Integer(8, unsigned.size < 8)
