"""Values of GNU's C++ library as what they stand for: strings, sequences, maps, smart pointers.

By the names of members, which are part of its ABI; a value that does not have them, or whose counts
cannot be, is shown by its members.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from dprobed.program.showing.nodes import (
    Shown,
    ShownList,
    ShownMap,
    ShownNothing,
    ShownNumber,
    ShownPointer,
    ShownStruct,
    ShownText,
)
from dprobed.program.showing.viewing import Viewing
from dprobed.program.types import (
    VOID,
    IntegerType,
    PointerType,
    StructType,
    Type,
    plain,
    size_of,
)

#: Sizes and counts beyond are no container's.
_MOST: Final = 1 << 40
_NODE_OF_TREE: Final = 32
_NODE_OF_LIST: Final = 16
_DEEPEST: Final = 16
_BLOCK_OF_DEQUE: Final = 512


class _Part:
    """A value of a struct: its members by name, also those of base classes."""

    def __init__(self, viewer: Viewing, kind: Type | None, raw: bytes, index: int = VOID) -> None:
        self._viewer = viewer
        self.kind = kind
        self.raw = raw
        self.index = index

    def get(self, path: str) -> _Part | None:
        """A member by names with dots between."""
        part: _Part | None = self
        for name in path.split("."):
            part = part._member(name, 0) if part is not None else None
        return part

    def _member(self, name: str, depth: int) -> _Part | None:
        kind = self.kind
        if not isinstance(kind, StructType) or depth > _DEEPEST:
            return None
        inherited = []
        for member in kind.members:
            size = size_of(self._viewer.types, member.type)
            inner = plain(self._viewer.types, member.type)
            raw = self.raw[member.offset : member.offset + size]
            part = _Part(self._viewer, inner, raw, member.type)
            if member.name == name and not member.base:
                return part
            if (member.base or not member.name) and not member.virtual:
                inherited.append(part)
        for part in inherited:
            found = part._member(name, depth + 1)
            if found is not None:
                return found
        return None

    def number(self, path: str) -> int | None:
        """A member that is a pointer or a number."""
        part = self.get(path)
        return int.from_bytes(part.raw[:8], "little") if part is not None and part.raw else None

    def pointee(self, path: str) -> int | None:
        """The index of the type that a member points to."""
        part = self.get(path)
        kind = part.kind if part is not None else None
        return kind.to if isinstance(kind, PointerType) else None


_Shower = Callable[[Viewing, StructType, _Part, int], "Shown | None"]


def shown(
    viewer: Viewing, kind: StructType, raw: bytes, address: int | None, depth: int
) -> Shown | None:
    """What a value stands for; None: it is shown by its members."""
    name = kind.name.removeprefix("std::").removeprefix("__cxx11::").removeprefix("__debug::")
    shower = _SHOWERS.get(name.partition("<")[0])
    if shower is None:
        return None
    return shower(viewer, kind, _Part(viewer, kind, raw), depth)


def _string(viewer: Viewing, kind: StructType, part: _Part, depth: int) -> Shown | None:
    data = part.number("_M_dataplus._M_p")
    length = part.number("_M_string_length")
    of = part.pointee("_M_dataplus._M_p")
    if data is None or of is None:
        return None
    if length is None:  # of before GCC 5: counted in front of the text
        length = viewer.word(data - 24)
    return _text(viewer, of, data, length)


def _view(viewer: Viewing, kind: StructType, part: _Part, depth: int) -> Shown | None:
    data, length, of = part.number("_M_str"), part.number("_M_len"), part.pointee("_M_str")
    if data is None or of is None:
        return None
    return _text(viewer, of, data, length)


def _text(viewer: Viewing, of: int, data: int, length: int | None) -> Shown | None:
    if length is None or length > _MOST:
        return None
    size = size_of(viewer.types, of)
    kind = plain(viewer.types, of)
    if size == 1:
        if not length:
            return viewer.string(data, 0)
        return viewer.string(data, length) or ShownNothing("its text cannot be read")
    if not isinstance(kind, IntegerType) or size not in (2, 4):
        return None
    shown_length = min(length, viewer.limits.string)
    raw = viewer.read(data, shown_length * size)
    if raw is None:
        return ShownNothing("its text cannot be read")
    text = raw.decode("utf-16-le" if size == 2 else "utf-32-le", "backslashreplace")
    return ShownText(text, length > shown_length)


def _vector(viewer: Viewing, kind: StructType, part: _Part, depth: int) -> Shown | None:
    if kind.name.startswith("std::vector<bool"):
        return _bits(viewer, part)
    start, finish = part.number("_M_impl._M_start"), part.number("_M_impl._M_finish")
    of = part.pointee("_M_impl._M_start")
    if start is None or finish is None or of is None:
        return None
    size = size_of(viewer.types, of)
    if not size or finish < start or (finish - start) % size or finish - start > _MOST:
        return None
    return _sequence(viewer, of, start, (finish - start) // size, depth)


def _sequence(viewer: Viewing, of: int, start: int, count: int, depth: int) -> Shown:
    """Elements one after the other in memory."""
    if not count:
        return ShownList(())
    size = size_of(viewer.types, of)
    wanted = min(count, viewer.limits.width)
    raw = viewer.read(start, wanted * size)
    if raw is None:
        return ShownNothing("its elements cannot be read")
    found = viewer.elements(of, wanted, raw, start, depth + 1)
    return ShownList(found.elements, count - wanted)


def _bits(viewer: Viewing, part: _Part) -> Shown | None:
    start, finish = part.number("_M_impl._M_start._M_p"), part.number("_M_impl._M_finish._M_p")
    offset = part.number("_M_impl._M_finish._M_offset")
    if start is None or finish is None or offset is None or not 0 <= finish - start < _MOST:
        return None
    count = (finish - start) * 8 + (offset & 0xFFFF_FFFF)
    wanted = min(count, viewer.limits.width)
    raw = viewer.read(start, (wanted + 7) // 8) if wanted else b""
    if raw is None:
        return ShownNothing("its elements cannot be read")
    bits = int.from_bytes(raw, "little")
    found = tuple(
        ShownNumber(bits >> at & 1, "true" if bits >> at & 1 else "false") for at in range(wanted)
    )
    return ShownList(found, count - wanted)


def _deque(viewer: Viewing, kind: StructType, part: _Part, depth: int) -> Shown | None:
    of = part.pointee("_M_impl._M_start._M_cur")
    names = ("_M_start._M_cur", "_M_start._M_last", "_M_start._M_node", "_M_finish._M_cur",
             "_M_finish._M_first", "_M_finish._M_node")  # fmt: skip
    found = [part.number(f"_M_impl.{each}") for each in names]
    size = size_of(viewer.types, of) if of is not None else 0
    if of is None or not size or any(each is None for each in found):
        return None
    cur, last, node, end, first, end_node = (each or 0 for each in found)
    each_block = _BLOCK_OF_DEQUE // size if size < _BLOCK_OF_DEQUE else 1
    blocks = (end_node - node) // 8
    count = (end - cur) // size
    if blocks:
        count = (last - cur) // size + (blocks - 1) * each_block + (end - first) // size
    if not 0 <= count < _MOST:
        return None
    elements: list[Shown] = []
    while len(elements) < min(count, viewer.limits.width):
        elements.append(viewer.value_at(of, cur, depth + 1))
        cur += size
        if cur == last:
            node += 8
            cur = viewer.word(node) or 0
            last = cur + each_block * size
    return ShownList(tuple(elements), count - len(elements))


def _list(viewer: Viewing, kind: StructType, part: _Part, depth: int) -> Shown | None:
    following = part.number("_M_impl._M_node._M_next")
    count = part.number("_M_impl._M_node._M_size")
    if following is None or not kind.arguments:
        return None
    of = kind.arguments[0]
    elements: list[Shown] = []
    wanted = viewer.limits.width if count is None else min(count, viewer.limits.width)
    while len(elements) < wanted and following:
        elements.append(viewer.value_at(of, following + _NODE_OF_LIST, depth + 1))
        following = viewer.word(following) or 0
    return ShownList(tuple(elements), (count or len(elements)) - len(elements))


def _nodes_of_tree(viewer: Viewing, part: _Part) -> Iterator[int]:
    """The nodes of a red-black tree, by their order."""
    parent = part.number("_M_t._M_impl._M_header._M_parent") or 0
    above: list[int] = []
    node = parent
    while node or above:
        while node:
            above.append(node)
            if len(above) > 128:
                return
            node = viewer.word(node + 16) or 0
        node = above.pop()
        yield node
        node = viewer.word(node + 24) or 0


def _nodes_of_table(viewer: Viewing, part: _Part) -> Iterator[int]:
    """The nodes of a hash table, as they are chained."""
    node = part.number("_M_h._M_before_begin._M_nxt") or 0
    while node:
        yield node
        node = viewer.word(node) or 0


def _kept_type(viewer: Viewing, kind: StructType) -> int | None:
    """The type of what the nodes have: the last argument is the allocator of it."""
    for index in reversed(kind.arguments):
        allocator = plain(viewer.types, index)
        if isinstance(allocator, StructType) and allocator.name.startswith("std::allocator<"):
            bases = (plain(viewer.types, each.type) for each in allocator.members if each.base)
            for each in (allocator, *bases):
                if isinstance(each, StructType) and each.arguments:
                    return each.arguments[0]
    return None


def _tree(viewer: Viewing, kind: StructType, part: _Part, depth: int) -> Shown | None:
    count = part.number("_M_t._M_impl._M_node_count")
    return _keyed(viewer, kind, count, _nodes_of_tree(viewer, part), _NODE_OF_TREE, depth)


def _table(viewer: Viewing, kind: StructType, part: _Part, depth: int) -> Shown | None:
    count = part.number("_M_h._M_element_count")
    return _keyed(viewer, kind, count, _nodes_of_table(viewer, part), 8, depth)


def _keyed(
    viewer: Viewing,
    kind: StructType,
    count: int | None,
    nodes: Iterator[int],
    offset: int,
    depth: int,
) -> Shown | None:
    """A map or a set whose elements are so far behind the beginning of its nodes."""
    of = _kept_type(viewer, kind)
    if of is None or count is None or count > _MOST:
        return None
    wanted = min(count, viewer.limits.width)
    found: list[Shown] = []
    for node in nodes:
        if len(found) >= wanted:
            break
        found.append(viewer.value_at(of, node + offset, depth))
    pairs = [
        (each.members[0][1], each.members[1][1])
        for each in found
        if isinstance(each, ShownStruct) and len(each.members) == 2
    ]
    if "map<" in kind.name.partition("<")[0] + "<" and len(pairs) == len(found):
        return ShownMap(tuple(pairs), count - len(found))
    return ShownList(tuple(found), count - len(found))


def _shared(viewer: Viewing, kind: StructType, part: _Part, depth: int) -> Shown | None:
    address, control = part.number("_M_ptr"), part.number("_M_refcount._M_pi")
    of = part.pointee("_M_ptr")
    if address is None or of is None:
        return None
    counts = viewer.read(control + 8, 8) if control else None
    name = ""
    if counts is not None:
        uses = int.from_bytes(counts[:4], "little")
        weak = int.from_bytes(counts[4:], "little") - (uses > 0)
        name = f"used by {uses}" + (f", weakly by {weak}" if weak > 0 else "")
        if not uses:
            return ShownPointer(address, None, "expired")
    return _pointed(viewer, of, address, depth, name)


def _pointed(viewer: Viewing, of: int, address: int, depth: int, name: str = "") -> Shown:
    if not address or depth >= viewer.limits.depth:
        return ShownPointer(address, None, name)
    return ShownPointer(address, viewer.value_at(of, address, depth + 1), name)


def _unique(viewer: Viewing, kind: StructType, part: _Part, depth: int) -> Shown | None:
    found = _first_pointer(viewer, kind, part.raw, 0)
    if found is None:
        return None
    return _pointed(viewer, *found, depth)


def _first_pointer(
    viewer: Viewing, kind: Type | None, raw: bytes, depth: int
) -> tuple[int, int] | None:
    """Type and address of the first pointer within a value."""
    if isinstance(kind, PointerType):
        return kind.to, int.from_bytes(raw[:8], "little")
    if isinstance(kind, StructType) and depth < _DEEPEST:
        for member in kind.members:
            inner = plain(viewer.types, member.type)
            found = _first_pointer(viewer, inner, raw[member.offset :], depth + 1)
            if found is not None:
                return found
    return None


def _array(viewer: Viewing, kind: StructType, part: _Part, depth: int) -> Shown | None:
    elements = part.get("_M_elems")
    if elements is None:
        return None
    return viewer.value(elements.index, elements.raw, None, depth)


def _optional(viewer: Viewing, kind: StructType, part: _Part, depth: int) -> Shown | None:
    engaged = part.get("_M_payload._M_engaged")
    value = part.get("_M_payload._M_payload._M_value")
    if engaged is None or value is None:
        return None
    if not engaged.raw[:1].strip(b"\0"):
        return ShownStruct((), "nullopt")
    return viewer.value(value.index, value.raw, None, depth)


_SHOWERS: Final[dict[str, _Shower]] = {
    "basic_string": _string,
    "basic_string_view": _view,
    "vector": _vector,
    "deque": _deque,
    "list": _list,
    "map": _tree,
    "multimap": _tree,
    "set": _tree,
    "multiset": _tree,
    "unordered_map": _table,
    "unordered_multimap": _table,
    "unordered_set": _table,
    "unordered_multiset": _table,
    "shared_ptr": _shared,
    "weak_ptr": _shared,
    "unique_ptr": _unique,
    "array": _array,
    "optional": _optional,
}
