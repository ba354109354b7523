"""Types of values in a target, as debug information or a script declares them.

A type refers to others by their index in a ``Types`` table, so that types which refer to themselves
(a list's node) need no special form, and a table can be cached and sent between processes.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

#: The index of a type that is not known (``void``, an incomplete one).
VOID: Final = -1


class IntegerType(msgspec.Struct, frozen=True, tag="integer"):
    """An integer of ``size`` bytes; ``name`` as in the source (``unsigned int``).

    ``boolean`` and ``character``: how it is shown.
    """

    name: str
    size: int
    signed: bool = False
    boolean: bool = False
    character: bool = False


class FloatType(msgspec.Struct, frozen=True, tag="float"):
    """A floating number of ``size`` bytes: 4, 8, or 16 (80 bits, padded)."""

    name: str
    size: int


class EnumType(msgspec.Struct, frozen=True, tag="enum"):
    """Named values; ``size`` in bytes."""

    name: str
    size: int
    signed: bool = False
    values: tuple[tuple[str, int], ...] = ()


class PointerType(msgspec.Struct, frozen=True, tag="pointer"):
    """An address of a value; ``reference``: a C++ or Rust reference, which is followed silently."""

    to: int
    reference: bool = False


class ArrayType(msgspec.Struct, frozen=True, tag="array"):
    """``count`` elements, one after the other; None: so many as memory has (``int a[]``)."""

    of: int
    count: int | None = None


class Member(msgspec.Struct, frozen=True):
    """A member at ``offset`` bytes; ``bits`` > 0: a bit field of so many from ``bit`` on.

    ``bit`` counts from the least significant bit of the byte at ``offset``. ``name`` is empty for
    an anonymous struct or union; ``base``: it is a base class. ``virtual``: one that has no fixed
    place: how far it is, is ``offset`` (negative) bytes behind where the first word points to.
    """

    name: str
    type: int
    offset: int
    bit: int = 0
    bits: int = 0
    base: bool = False
    virtual: bool = False


class Variant(msgspec.Struct, frozen=True):
    """What a Rust enum is where its discriminant is one of ``values``; None: otherwise."""

    values: tuple[int, ...] | None
    member: Member


class StructType(msgspec.Struct, frozen=True, tag="struct"):
    """A struct, class or union (``kind``) of ``size`` bytes; ``language``: of its source.

    ``complete``: whether its members are known. ``arguments``: the types that a template of the
    standard library was made with. ``variants``: of a Rust enum, which is told by
    ``discriminant`` (None: it has one variant).
    """

    kind: str
    name: str
    size: int
    members: tuple[Member, ...] = ()
    language: str = "c"
    complete: bool = True
    variants: tuple[Variant, ...] = ()
    discriminant: Member | None = None
    arguments: tuple[int, ...] = ()


class AliasType(msgspec.Struct, frozen=True, tag="alias"):
    """Another name for a type: a typedef. ``const`` and ``volatile`` are left out of the table."""

    name: str
    to: int


class FunctionType(msgspec.Struct, frozen=True, tag="function"):
    """A function, to which pointers point."""

    result: int = VOID
    parameters: tuple[int, ...] = ()


Type: TypeAlias = (
    IntegerType
    | FloatType
    | EnumType
    | PointerType
    | ArrayType
    | StructType
    | AliasType
    | FunctionType
)

#: A table: types refer to each other by their index.
Types: TypeAlias = tuple[Type, ...]

#: How far aliases and arrays are followed; further they are a circle.
_FARTHEST: Final = 64


def plain(types: Types, index: int) -> Type | None:
    """The type behind its aliases; None: it is not known."""
    for _ in range(_FARTHEST):
        if not 0 <= index < len(types):
            return None
        found = types[index]
        if not isinstance(found, AliasType):
            return found
        index = found.to
    return None


def size_of(types: Types, index: int) -> int:
    """Bytes of a value; 0: not known."""
    count = 1
    for _ in range(_FARTHEST):
        match plain(types, index):
            case IntegerType(size=size) | FloatType(size=size) | EnumType(size=size):
                return count * size
            case StructType(size=size):
                return count * size
            case PointerType():
                return count * 8
            case ArrayType(of=of, count=elements):
                count *= elements or 0
                index = of
            case _:
                return 0
    return 0


def type_name(types: Types, index: int, name: str = "") -> str:
    """A type as C writes it (``struct point *``, ``int (*)(long)``); with the name of what has it,
    as that is declared: ``char name[16]``."""
    return _declared(types, index, name, _FARTHEST)


def _declared(types: Types, index: int, inner: str, left: int) -> str:
    if not left or not 0 <= index < len(types):
        return _beside("void", inner)
    match types[index]:
        case PointerType(to=to, reference=reference):
            mark = ("&" if reference else "*") + inner
            if 0 <= to < len(types) and isinstance(types[to], ArrayType | FunctionType):
                mark = f"({mark})"
            return _declared(types, to, mark, left - 1)
        case ArrayType(of=of, count=count):
            return _declared(types, of, f"{inner}[{'' if count is None else count}]", left - 1)
        case FunctionType(result=result, parameters=parameters):
            listed = ", ".join(_declared(types, each, "", left // 2) for each in parameters)
            return _declared(types, result, f"{inner}({listed})", left - 1)
        case StructType(kind=kind, name=name, language=language):
            named = f"{kind} {name}" if language == "c" else name
            return _beside(named if name else f"{kind} {{...}}", inner)
        case EnumType(name=name):
            return _beside(f"enum {name or '{...}'}", inner)
        case found:
            return _beside(found.name, inner)


def _beside(name: str, inner: str) -> str:
    return f"{name} {inner}" if inner else name
