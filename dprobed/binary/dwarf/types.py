"""From entries that describe types to a table of types (DWARF 5, section 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dprobed.binary.dwarf import constants as dw
from dprobed.binary.dwarf.units import DebugEntry
from dprobed.binary.errors import LocationError
from dprobed.binary.leb128 import uleb
from dprobed.program.types import (
    VOID,
    AliasType,
    ArrayType,
    EnumType,
    FloatType,
    FunctionType,
    IntegerType,
    Member,
    PointerType,
    StructType,
    Type,
    Variant,
    plain,
    size_of,
)

#: Types that one table has; what is beyond has no members.
MOST_TYPES: Final = 20_000
#: Members, values of an enum, and dimensions that are kept.
_MOST_MEMBERS: Final = 4096
_MOST_DIMENSIONS: Final = 16
_LARGEST: Final = 1 << 62

_QUALIFIERS: Final = frozenset((dw.CONST_TYPE, dw.VOLATILE_TYPE, dw.RESTRICT_TYPE, dw.ATOMIC_TYPE))
_KINDS: Final = {dw.STRUCTURE_TYPE: "struct", dw.CLASS_TYPE: "class", dw.UNION_TYPE: "union"}
#: Names of what the standard libraries of C++ and Rust have, whose values are shown in a way of
#: their own.
_STANDARD: Final = ("std::", "__gnu_cxx::", "alloc::")
_SCOPES: Final = frozenset((dw.NAMESPACE, dw.STRUCTURE_TYPE, dw.CLASS_TYPE, dw.UNION_TYPE,
                            dw.ENUMERATION_TYPE))  # fmt: skip
#: Encodings of base types.
_BOOLEAN, _COMPLEX, _FLOAT, _SIGNED, _SIGNED_CHAR = 2, 3, 4, 5, 6
_UNSIGNED_CHAR, _DECIMAL, _UTF = 8, 0xF, 0x10
_FARTHEST: Final = 32

#: What a type that is only declared is elsewhere; None where it is nowhere.
Complete = Callable[[DebugEntry], "DebugEntry | None"]


def qualified_name(entry: DebugEntry) -> str:
    """The name of a type, function or variable with that of what it is within."""
    name = entry.text(dw.NAME)
    if not name or entry.unit.language == "c":
        return name
    return _scope(entry) + name


def _scope(entry: DebugEntry) -> str:
    """``outer::inner::`` of what an entry is within."""
    for _ in range(_FARTHEST):
        # What is defined outside says where it is declared.
        origin = entry.origin
        if origin is None:
            break
        entry = origin
    parts: list[str] = []
    parent = entry.parent
    while parent is not None and parent.tag in _SCOPES and len(parts) < _FARTHEST:
        name = parent.text(dw.NAME)
        parts.append(name or ("(anonymous namespace)" if parent.tag == dw.NAMESPACE else ""))
        parent = parent.parent
    return "".join(f"{part}::" for part in reversed(parts) if part)


class TypeBuilder:
    """Makes one table; a type is in it once."""

    def __init__(self, complete: Complete = lambda _: None) -> None:
        self._complete = complete
        self._types: list[Type | None] = []
        self._known: dict[tuple[int, int, int], int] = {}
        self._made: dict[Type, int] = {}
        self._open: list[tuple[int, DebugEntry]] = []

    def of(self, entry: DebugEntry) -> int:
        """The index of the type that an entry has (DW_AT_type); VOID where it has none."""
        where, value = entry.where(dw.TYPE)
        referred = where.referred(value) if value is not None else None
        return self.add(referred) if referred is not None else VOID

    def table(self) -> tuple[Type, ...]:
        """All types that were added, and to which they refer; raises LocationError."""
        while self._open:
            index, entry = self._open.pop(0)
            self._types[index] = self._make(entry)
        return tuple(each if each is not None else _nothing() for each in self._types)

    def add(self, entry: DebugEntry) -> int:
        """The index of a type."""
        for _ in range(_FARTHEST):
            known = self._known.get(entry.key)
            if known is not None:
                return known
            if entry.tag in _QUALIFIERS:
                referred = entry.reference(dw.TYPE)
            elif dw.SIGNATURE in entry.attributes:
                referred = entry.reference(dw.SIGNATURE)
                if referred is None:
                    break
            else:
                break
            if referred is None:
                return VOID
            entry = referred
        if entry.tag in _QUALIFIERS:
            return VOID  # a circle
        index = self._known[entry.key] = len(self._types)
        self._types.append(None)
        self._open.append((index, entry))
        return index

    def _own(self, made: Type) -> int:
        """The index of a type that no entry describes by itself."""
        known = self._made.get(made)
        if known is None:
            known = self._made[made] = len(self._types)
            self._types.append(made)
        return known

    # -- by kind -------------------------------------------------------------------------------

    def _make(self, entry: DebugEntry) -> Type:
        tag = entry.tag
        if tag == dw.BASE_TYPE:
            return self._base(entry)
        if tag in _KINDS:
            return self._struct(entry)
        if tag == dw.POINTER_TYPE:
            return PointerType(self.of(entry))
        if tag in (dw.REFERENCE_TYPE, dw.RVALUE_REFERENCE_TYPE):
            return PointerType(self.of(entry), reference=True)
        if tag == dw.TYPEDEF:
            return AliasType(qualified_name(entry), self.of(entry))
        if tag == dw.ARRAY_TYPE:
            return self._array(entry)
        if tag == dw.ENUMERATION_TYPE:
            return self._enum(entry)
        if tag == dw.SUBROUTINE_TYPE:
            parameters = [
                self.of(child) for child in entry.children() if child.tag == dw.FORMAL_PARAMETER
            ]
            return FunctionType(self.of(entry), tuple(parameters[:_MOST_MEMBERS]))
        if tag == dw.PTR_TO_MEMBER_TYPE:
            referred = entry.reference(dw.TYPE)
            is_function = referred is not None and referred.tag == dw.SUBROUTINE_TYPE
            return IntegerType("pointer to member", 16 if is_function else 8, signed=True)
        if tag == dw.UNSPECIFIED_TYPE:
            return AliasType(entry.text(dw.NAME) or "void", VOID)
        if tag == dw.SUBRANGE_TYPE:
            return AliasType(entry.text(dw.NAME) or "range", self.of(entry))
        return AliasType(entry.text(dw.NAME) or f"type of an unknown kind ({tag:#x})", VOID)

    def _base(self, entry: DebugEntry) -> Type:
        name = entry.text(dw.NAME)
        size = _bytes(entry)
        encoding = entry.number(dw.ENCODING, 0)
        if encoding == _FLOAT:
            return FloatType(name, size)
        if encoding == _COMPLEX:
            part = self._own(FloatType(name.replace("complex ", ""), size // 2))
            members = Member("real", part, 0), Member("imaginary", part, size // 2)
            return StructType("complex", name, size, members)
        characters = (_SIGNED_CHAR, _UNSIGNED_CHAR, _UTF)
        return IntegerType(
            name,
            size,
            signed=encoding in (_SIGNED, _SIGNED_CHAR),
            boolean=encoding == _BOOLEAN,
            character=encoding in characters,
        )

    def _enum(self, entry: DebugEntry) -> Type:
        name = qualified_name(entry)
        if dw.DECLARATION in entry.attributes:
            entry = self._complete(entry) or entry
        referred = entry.reference(dw.TYPE)
        size = _bytes(entry)
        values: list[tuple[str, int]] = []
        for child in entry.children():
            if child.tag == dw.ENUMERATOR and len(values) < _MOST_MEMBERS:
                values.append((child.text(dw.NAME), child.number(dw.CONST_VALUE, 0)))
        signed = any(value < 0 for _, value in values)
        if referred is not None:
            base = plain(self._sub(referred), 0)
            if isinstance(base, IntegerType):
                signed = base.signed
                size = size or base.size
        size = size or 4
        bits = 8 * size
        if signed:  # however many bytes it is written with
            values = [(text, value - (1 << bits) if value >> (bits - 1) > 0 else value)
                      for text, value in values]  # fmt: skip
        return EnumType(name, size, signed, tuple(values))

    @staticmethod
    def _sub(entry: DebugEntry) -> tuple[Type, ...]:
        """A type alone, for what has to be known of it at once."""
        table = TypeBuilder()
        index = table.add(entry)
        return table.table() if index == 0 else ()

    def _array(self, entry: DebugEntry) -> Type:
        counts: list[int | None] = []
        for child in entry.children():
            if child.tag == dw.SUBRANGE_TYPE and len(counts) < _MOST_DIMENSIONS:
                counts.append(_count(child))
        of = self.of(entry)
        for count in reversed(counts[1:]):
            of = self._own(ArrayType(of, count))
        return ArrayType(of, counts[0] if counts else None)

    def _struct(self, entry: DebugEntry) -> Type:
        kind, name = _KINDS[entry.tag], qualified_name(entry)
        language = entry.unit.language
        if dw.DECLARATION in entry.attributes:
            found = self._complete(entry)
            if found is None or dw.DECLARATION in found.attributes:
                return StructType(kind, name, 0, (), language, complete=False)
            entry = found
        size = _bytes(entry)
        if len(self._types) > MOST_TYPES:
            return StructType(kind, name, size, (), language, complete=False)
        members: list[Member] = []
        variants: tuple[Variant, ...] = ()
        discriminant: Member | None = None
        arguments: list[int] = []
        for child in entry.children():
            if len(members) >= _MOST_MEMBERS:
                break
            if child.tag in (dw.MEMBER, dw.INHERITANCE):
                member = self._member(child)
                if member is not None:
                    members.append(member)
            elif child.tag == dw.TEMPLATE_TYPE_PARAMETER and name.startswith(_STANDARD):
                arguments.append(self.of(child))
            elif child.tag == dw.VARIANT_PART:
                discriminant, variants = self._variants(child)
        return StructType(
            kind,
            name,
            size,
            tuple(members),
            language,
            True,
            variants,
            discriminant,
            tuple(arguments[:_MOST_MEMBERS]),
        )

    def _member(self, entry: DebugEntry) -> Member | None:
        """A member or base class; None for one that is in no object (static)."""
        if entry.tag == dw.MEMBER and entry.attributes.keys() & {dw.EXTERNAL, dw.DECLARATION}:
            return None
        name = entry.text(dw.NAME)
        index = self.of(entry)
        base = entry.tag == dw.INHERITANCE
        offset, virtual = _member_offset(entry)
        bits = entry.number(dw.BIT_SIZE, 0)
        bit = 0
        if 0 < bits <= 128:
            first = entry.number(dw.DATA_BIT_OFFSET, -1)
            if first < 0:
                first = 8 * offset
                if dw.BIT_OFFSET in entry.attributes:  # counted from the most significant bit
                    size = entry.number(dw.BYTE_SIZE, 0) or self._size(entry)
                    first += 8 * size - entry.number(dw.BIT_OFFSET, 0) - bits
            offset, bit = divmod(first, 8)
        else:
            bits = 0
        return Member(name, index, offset, bit, bits, base, virtual)

    def _size(self, entry: DebugEntry) -> int:
        referred = entry.reference(dw.TYPE)
        return size_of(self._sub(referred), 0) if referred is not None else 0

    def _variants(self, part: DebugEntry) -> tuple[Member | None, tuple[Variant, ...]]:
        told = part.reference(dw.DISCR)
        discriminant = self._member(told) if told is not None else None
        found: list[Variant] = []
        for child in part.children():
            if child.tag != dw.VARIANT or len(found) >= _MOST_MEMBERS:
                continue
            member = next((each for each in child.children() if each.tag == dw.MEMBER), None)
            made = self._member(member) if member is not None else None
            if made is None:
                continue
            values: tuple[int, ...] | None = None
            if dw.DISCR_VALUE in child.attributes:
                values = (child.number(dw.DISCR_VALUE, 0),)
            elif dw.DISCR_LIST in child.attributes:
                values = _discriminants(child)
            found.append(Variant(values, made))
        return discriminant, tuple(found)


def _bytes(entry: DebugEntry) -> int:
    size = entry.number(dw.BYTE_SIZE, 0)
    return size if 0 <= size < _LARGEST else 0


def _count(subrange: DebugEntry) -> int | None:
    """Elements of a dimension; None where it is not a constant."""
    if subrange.is_constant(dw.COUNT):
        count = subrange.number(dw.COUNT, 0)
        return count if 0 <= count < _LARGEST else None
    if not subrange.is_constant(dw.UPPER_BOUND):
        return None
    upper = subrange.number(dw.UPPER_BOUND, 0)
    form = subrange.attributes[dw.UPPER_BOUND][0]
    widths = {dw.DATA1: 8, dw.DATA2: 16, dw.DATA4: 32, dw.DATA8: 64}
    if upper == (1 << widths.get(form, 64)) - 1 and form != dw.DATA1:
        return 0  # -1: no elements
    count = upper - subrange.number(dw.LOWER_BOUND, 0) + 1
    return count if 0 <= count < _LARGEST else None


def _member_offset(entry: DebugEntry) -> tuple[int, bool]:
    """Where a member is; whether that is only how to find it (a virtual base class)."""
    value = entry.attributes.get(dw.MEMBER_LOCATION)
    if value is None:
        return 0, False
    if isinstance(value[1], int):
        return value[1], False
    raw = value[1]
    try:
        if raw[:1] == b"\x23":  # DW_OP_plus_uconst
            return uleb(raw, 1)[0], False
        if raw[:2] == b"\x12\x06":  # dup, deref, a number, minus, deref, plus
            if 0x30 <= raw[2] <= 0x4F:
                return -(raw[2] - 0x30), True
            width = {0x08: 1, 0x0A: 2, 0x0C: 4}.get(raw[2])
            if raw[2] == 0x10:
                return -uleb(raw, 3)[0], True
            if width is not None:
                return -int.from_bytes(raw[3 : 3 + width], "little"), True
    except IndexError as error:
        raise entry.unit.debug.damaged("the place of a member") from error
    raise LocationError(
        f"{entry.unit.debug.elf.path}: the place of a member of a type is not known"
    )


def _discriminants(variant: DebugEntry) -> tuple[int, ...]:
    """The values of a DW_AT_discr_list."""
    raw = variant.attributes[dw.DISCR_LIST][1]
    found: list[int] = []
    at = 0
    try:
        while isinstance(raw, bytes) and at < len(raw) and len(found) < _MOST_MEMBERS:
            first, after = uleb(raw, at + 1)
            last = first
            if raw[at]:
                last, after = uleb(raw, after)
            found += range(first, min(last, first + 255) + 1)
            at = after
    except IndexError as error:
        raise variant.unit.debug.damaged("a variant of a type") from error
    return tuple(found)


def _nothing() -> Type:
    return AliasType("void", VOID)
