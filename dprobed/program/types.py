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
    an anonymous struct or union; ``base``: it is a base class.
    """

    name: str
    type: int
    offset: int
    bit: int = 0
    bits: int = 0
    base: bool = False


class StructType(msgspec.Struct, frozen=True, tag="struct"):
    """A struct, class or union (``kind``) of ``size`` bytes; ``language``: of its source."""

    kind: str
    name: str
    size: int
    members: tuple[Member, ...] = ()
    language: str = "c"


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
