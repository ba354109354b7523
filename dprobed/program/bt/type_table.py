"""The types of a script: those of the language, those that it declares, those of debug information.

One table holds them all, so that a bundle can carry it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dprobed.program.bt.tree import TypeName
from dprobed.program.bt.world import Typed
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
)

#: Words that the names of C's own types are made of.
BASIC_WORDS: Final = frozenset(
    (
        *("char", "short", "int", "long", "signed", "unsigned", "_Bool", "float", "double"),
        *("void",),
    )
)
_FIXED: Final = {
    **{f"int{8 * size}": (size, True) for size in (1, 2, 4, 8)},
    **{f"uint{8 * size}": (size, False) for size in (1, 2, 4, 8)},
    **{f"int{8 * size}_t": (size, True) for size in (1, 2, 4, 8)},
    **{f"uint{8 * size}_t": (size, False) for size in (1, 2, 4, 8)},
    **{f"u{8 * size}": (size, False) for size in (1, 2, 4, 8)},
    **{f"s{8 * size}": (size, True) for size in (1, 2, 4, 8)},
    **{f"__u{8 * size}": (size, False) for size in (1, 2, 4, 8)},
    **{f"__s{8 * size}": (size, True) for size in (1, 2, 4, 8)},
    **dict.fromkeys(("size_t", "uintptr_t", "uint64_t"), (8, False)),
    **dict.fromkeys(("ssize_t", "off_t", "intptr_t", "ptrdiff_t", "time_t"), (8, True)),
    **dict.fromkeys(("pid_t", "clockid_t"), (4, True)),
    **dict.fromkeys(("uid_t", "gid_t", "mode_t", "socklen_t"), (4, False)),
}


class TypeTable:
    """Types by index, and their names."""

    def __init__(self, ask: Callable[[str], Typed | None] | None = None) -> None:
        self.entries: list[Type] = []
        self.names: dict[str, int] = {}
        #: Enumerators: value, and the index of their type.
        self.constants: dict[str, tuple[int, int]] = {}
        self._ask = ask
        self._taken: dict[int, tuple[tuple[Type, ...], int]] = {}
        self._made: dict[Type, int] = {}

    def add(self, one: Type) -> int:
        """The index of a type."""
        known = self._made.get(one)
        if known is not None:
            return known
        self.entries.append(one)
        self._made[one] = len(self.entries) - 1
        return self._made[one]

    def reserve(self) -> int:
        """An index for a type that is to be set by ``complete``."""
        self.entries.append(StructType("struct", "", 0))
        return len(self.entries) - 1

    def complete(self, index: int, one: Type) -> None:
        """Set a type that was reserved."""
        self.entries[index] = one

    def integer(self, size: int, signed: bool) -> int:
        """A type of the language (``uint32``)."""
        return self.add(IntegerType(f"{'int' if signed else 'uint'}{8 * size}", size, signed))

    def pointer(self, to: int) -> int:
        """A pointer to a type."""
        return self.add(PointerType(to))

    def take(self, typed: Typed) -> int:
        """A type of another table, which comes in as a whole."""
        known = self._taken.get(id(typed.table))
        if known is None:
            base = len(self.entries)
            self._taken[id(typed.table)] = (typed.table, base)
            self.entries += (_moved(one, base) for one in typed.table)
            for at, one in enumerate(typed.table, base):
                if isinstance(one, EnumType):
                    for name, value in one.values:
                        self.constants.setdefault(name, (value, at))
        else:
            base = known[1]
        return typed.index if typed.index == VOID else typed.index + base

    # -- names ----------------------------------------------------------------------------------

    def is_type(self, word: str) -> bool:
        """Whether a word begins the name of a type."""
        return (
            word in BASIC_WORDS
            or word in _FIXED
            or word in self.names
            or word in ("bool", "string", "struct", "union", "enum", "const", "volatile")
        )

    def goes_on(self, words: list[str]) -> bool:
        """Whether the words are several that make one name of C's."""
        return len(words) > 1 and all(word in BASIC_WORDS for word in words)

    def named(self, name: str) -> int | None:
        """The type with this name; None: there is none."""
        known = self.names.get(name)
        if known is not None:
            return known
        made = self._own(name)
        if made is None and self._ask is not None:
            typed = self._ask(name)
            made = None if typed is None else self.take(typed)
        if made is not None:
            self.names[name] = made
        return made

    def _own(self, name: str) -> int | None:
        if name in _FIXED:
            width, signed = _FIXED[name]
            return self.add(IntegerType(name, width, signed))
        words = name.split()
        if name in ("bool", "_Bool"):
            return self.add(IntegerType("bool", 1, boolean=True))
        if name == "void":
            return VOID
        if not words or not all(word in BASIC_WORDS for word in words):
            return None
        kinds = sorted(word for word in words if word not in ("signed", "unsigned", "int"))
        unsigned = "unsigned" in words
        if kinds in (["float"], ["double"], ["double", "long"]):
            return self.add(FloatType(name, {"float": 4, "double": 8}.get(" ".join(kinds), 16)))
        sizes = {"": 4, "char": 1, "short": 2, "long": 8, "long long": 8}
        size = sizes.get(" ".join(kinds))
        if size is None:
            return None
        return self.add(IntegerType(name, size, not unsigned, character=size == 1))

    def written(self, name: TypeName) -> int | None:
        """The type that a script writes; None: it is not known."""
        found = self.named(name.name)
        if found is None:
            if not name.pointers or name.name.split()[0] not in ("struct", "union"):
                return None
            # A pointer to what nobody knows can be kept and shown.
            found = VOID
        index: int = found
        for _ in range(name.pointers):
            index = self.pointer(index)
        for count in reversed(name.counts):
            index = self.add(ArrayType(index, count or None))
        return index

    # -- what they are --------------------------------------------------------------------------

    def plain(self, index: int) -> Type | None:
        """A type without its other names; None: void."""
        for _ in range(100):
            if not 0 <= index < len(self.entries):
                return None
            one = self.entries[index]
            if not isinstance(one, AliasType):
                return one
            index = one.to
        return None

    def plain_index(self, index: int) -> int:
        """The index of a type without its other names."""
        for _ in range(100):
            if not 0 <= index < len(self.entries):
                return VOID
            one = self.entries[index]
            if not isinstance(one, AliasType):
                return index
            index = one.to
        return VOID

    def size(self, index: int, depth: int = 0) -> int:
        """Bytes of a value; of void and of functions 1, of arrays without a count 0."""
        one = self.plain(index)
        if isinstance(one, IntegerType | FloatType | EnumType | StructType):
            return one.size
        if isinstance(one, PointerType):
            return 8
        if isinstance(one, ArrayType) and depth < 20:
            return (one.count or 0) * self.size(one.of, depth + 1)
        return 1

    def alignment(self, index: int, depth: int = 0) -> int:
        """Where values of a type begin: at a multiple of this."""
        one = self.plain(index)
        if isinstance(one, ArrayType) and depth < 20:
            return self.alignment(one.of, depth + 1)
        if isinstance(one, StructType):
            members = (self.alignment(each.type, depth + 1) for each in one.members)
            return max(members, default=1) if depth < 20 else 1
        return max(1, min(self.size(index), 16))

    def member(self, index: int, name: str, depth: int = 0) -> Member | None:
        """A member, also of anonymous structs in it and of base classes; its offset is from the
        beginning of all."""
        one = self.plain(index)
        if not isinstance(one, StructType) or depth > 20:
            return None
        for each in one.members:
            if each.name == name and name:
                return each
        for each in one.members:
            if not each.name or each.base:
                inner = self.member(each.type, name, depth + 1)
                if inner is not None:
                    return Member(
                        inner.name, inner.type, inner.offset + each.offset, inner.bit, inner.bits
                    )
        return None

    def shown(self, index: int, depth: int = 0) -> str:
        """The name of a type, for messages."""
        if not 0 <= index < len(self.entries) or depth > 20:
            return "void"
        one = self.entries[index]
        if isinstance(one, PointerType):
            return f"{self.shown(one.to, depth + 1)} *"
        if isinstance(one, ArrayType):
            return f"{self.shown(one.of, depth + 1)}[{one.count or ''}]"
        if isinstance(one, StructType):
            return f"{one.kind} {one.name or '(anonymous)'}"
        if isinstance(one, EnumType):
            return f"enum {one.name}"
        if isinstance(one, FunctionType):
            return "a function"
        return one.name


def _moved(one: Type, base: int) -> Type:
    """A type whose references are those of a table that begins at another index."""

    def to(index: int) -> int:
        return index if index == VOID else index + base

    if isinstance(one, PointerType):
        return PointerType(to(one.to), one.reference)
    if isinstance(one, ArrayType):
        return ArrayType(to(one.of), one.count)
    if isinstance(one, AliasType):
        return AliasType(one.name, to(one.to))
    if isinstance(one, FunctionType):
        return FunctionType(to(one.result), tuple(map(to, one.parameters)))
    if isinstance(one, StructType):
        members = tuple(
            Member(each.name, to(each.type), each.offset, each.bit, each.bits, each.base)
            for each in one.members
        )
        return StructType(one.kind, one.name, one.size, members, one.language)
    return one
