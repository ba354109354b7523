"""Values of Rust as what they stand for: strings, slices, vectors, enums with what they carry."""

from __future__ import annotations

from typing import Final

from dprobed.program.showing.nodes import Shown, ShownList, ShownNothing, ShownStruct
from dprobed.program.showing.viewing import Viewing
from dprobed.program.types import PointerType, StructType, plain, size_of

_MOST: Final = 1 << 40
_DEEPEST: Final = 16


def shown(
    viewer: Viewing, kind: StructType, raw: bytes, address: int | None, depth: int
) -> Shown | None:
    """What a value stands for; None: it is shown by its members."""
    if kind.variants:
        return _enum(viewer, kind, raw, address, depth)
    if kind.name.startswith("&"):
        return _slice(viewer, kind, raw, depth)
    if kind.name == "alloc::string::String":
        found = _owned(viewer, kind, raw)
        return _text(viewer, *found) if found is not None else None
    if kind.name.startswith("alloc::vec::Vec<") and kind.arguments:
        found = _owned(viewer, kind, raw)
        return _list(viewer, kind.arguments[0], *found, depth) if found is not None else None
    return None


def _enum(
    viewer: Viewing, kind: StructType, raw: bytes, address: int | None, depth: int
) -> Shown | None:
    told: int | None = None
    if kind.discriminant is not None:
        size = size_of(viewer.types, kind.discriminant.type)
        told = int.from_bytes(raw[kind.discriminant.offset :][:size], "little")
    chosen = next(
        (each for each in kind.variants if each.values is not None and told in each.values), None
    ) or next((each for each in kind.variants if each.values is None), None)
    if chosen is None:
        return ShownNothing(f"no variant of {kind.name}")
    member = chosen.member
    inner = plain(viewer.types, member.type)
    if not isinstance(inner, StructType):
        return None
    part = raw[member.offset : member.offset + inner.size]
    at = None if address is None else address + member.offset
    if not inner.members:
        return ShownStruct((), member.name)
    return viewer.members(inner, part, at, depth, member.name)


def _slice(viewer: Viewing, kind: StructType, raw: bytes, depth: int) -> Shown | None:
    """``&str`` and ``&[T]``: an address and a length."""
    members = {each.name: each for each in kind.members}
    data, length = members.get("data_ptr"), members.get("length")
    if data is None or length is None:
        return None
    pointer = plain(viewer.types, data.type)
    if not isinstance(pointer, PointerType):
        return None
    start = int.from_bytes(raw[data.offset :][:8], "little")
    count = int.from_bytes(raw[length.offset :][:8], "little")
    if kind.name.endswith("str"):
        return _text(viewer, start, count)
    return _list(viewer, pointer.to, start, count, depth)


def _owned(viewer: Viewing, kind: StructType, raw: bytes) -> tuple[int, int] | None:
    """Address and length of what a vector, or a string, owns."""
    address = _within(viewer, kind, raw, _is_pointer, 0)
    length = _within(viewer, kind, raw, _is_length, 0)
    return (address, length) if address is not None and length is not None else None


def _is_pointer(viewer: Viewing, name: str, index: int) -> bool:
    return isinstance(plain(viewer.types, index), PointerType)


def _is_length(viewer: Viewing, name: str, index: int) -> bool:
    return name == "len"


def _within(
    viewer: Viewing, kind: StructType, raw: bytes, wanted: object, depth: int
) -> int | None:  # fmt: skip
    assert callable(wanted)
    for member in kind.members:
        part = raw[member.offset :]
        if wanted(viewer, member.name, member.type):
            return int.from_bytes(part[:8], "little")
        inner = plain(viewer.types, member.type)
        if isinstance(inner, StructType) and depth < _DEEPEST:
            found = _within(viewer, inner, part, wanted, depth + 1)
            if found is not None:
                return found
    return None


def _text(viewer: Viewing, start: int, count: int) -> Shown | None:
    if count > _MOST:
        return None
    return viewer.string(start, count) or ShownNothing("its text cannot be read")


def _list(viewer: Viewing, of: int, start: int, count: int, depth: int) -> Shown | None:
    size = size_of(viewer.types, of)
    if count > _MOST:
        return None
    wanted = min(count, viewer.limits.width)
    raw = viewer.read(start, wanted * size) if wanted and size else b""
    if raw is None:
        return ShownNothing("its elements cannot be read")
    found = viewer.elements(of, wanted, raw, start, depth + 1)
    return ShownList(found.elements, count - wanted)
