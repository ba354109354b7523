"""C declarations of a script: ``struct``, ``union``, ``enum`` and ``typedef``, laid out as the
System V ABI for x86-64 has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dprobed.program.bt.lexer import Kind
from dprobed.program.types import (
    AliasType,
    ArrayType,
    EnumType,
    FunctionType,
    Member,
    StructType,
)

if TYPE_CHECKING:
    from dprobed.program.bt.expressions import ExpressionParser

#: Elements of an array and bytes of a struct at most.
_MOST: Final = 1 << 24


def declaration(parser: ExpressionParser) -> None:
    """A declaration at the top of a script."""
    typedef = parser.token.text == "typedef"
    if typedef:
        parser.advance()
    base, _ = _specifier(parser)
    while not parser.at(";") and parser.token.kind is not Kind.END:
        if not typedef:
            break
        name, index, _ = _declarator(parser, base)
        if name:
            parser.types.names[name] = parser.types.add(AliasType(name, index))
        if not parser.accept(","):
            break
    # Scripts leave the ; behind a struct out.
    if typedef:
        parser.expect(";")
    else:
        parser.accept(";")


def _specifier(parser: ExpressionParser) -> tuple[int, bool]:
    """The type that a declaration begins with, and whether it was a struct or an enum that is
    declared here."""
    while parser.token.kind is Kind.NAME and parser.token.text in ("const", "volatile", "static"):
        parser.advance()
    word = parser.token.text if parser.token.kind is Kind.NAME else ""
    if word in ("struct", "union"):
        return _struct(parser)
    if word == "enum":
        return _enum(parser)
    name = parser.type_name_only()
    index = parser.types.named(name.name)
    if index is None:
        parser.fail_at(
            name.span,
            f"there is no type `{name.name}`",
            "declare it before, or include the file that does",
        )
    return index, False


def _struct(parser: ExpressionParser) -> tuple[int, bool]:
    types = parser.types
    kind = parser.advance().text
    _attributes(parser)
    name = parser.advance().text if parser.token.kind is Kind.NAME else ""
    key = f"{kind} {name}"
    index = types.names.get(key) if name else None
    if not parser.at("{"):
        if index is None:
            index = types.named(key)
        if index is None:
            index = types.reserve()
            types.complete(index, StructType(kind, name, 0))
            types.names[key] = index
        return index, False
    if index is None or (isinstance(old := types.entries[index], StructType) and old.members):
        index = types.reserve()
    if name:
        types.names[key] = index
        # C++ says it without its keyword.
        types.names.setdefault(name, index)
    start = parser.advance().span
    parser.deeper(start)
    layout = _Layout(parser, kind)
    while not parser.at("}") and parser.token.kind is not Kind.END:
        _members(parser, layout)
    parser.depth -= 1
    parser.expect("}")
    layout.packed = _attributes(parser)
    types.complete(index, StructType(kind, name, *layout.finished()))
    return index, True


def _members(parser: ExpressionParser, layout: _Layout) -> None:
    """A line of members."""
    base, _ = _specifier(parser)
    if parser.accept(";"):
        layout.add("", base, 0, anonymous=True)
        return
    while True:
        name, index, bits = _declarator(parser, base)
        layout.add(name, index, bits)
        if not parser.accept(","):
            break
    _attributes(parser)
    parser.expect(";")


def _declarator(parser: ExpressionParser, base: int) -> tuple[str, int, int]:
    """Name, type and bits of one thing that is declared."""
    types = parser.types
    index = base
    while parser.accept("*"):
        index = types.pointer(index)
        while parser.token.kind is Kind.NAME and parser.token.text in ("const", "volatile"):
            parser.advance()
    if parser.accept("("):
        # A pointer to a function: what it takes is of no interest.
        while parser.accept("*"):
            pass
        name = parser.advance().text if parser.token.kind is Kind.NAME else ""
        parser.expect(")")
        _skip_bracket(parser)
        return name, types.pointer(types.add(FunctionType(index))), 0
    name = parser.advance().text if parser.token.kind is Kind.NAME else ""
    bits = 0
    counts: list[int | None] = []
    while parser.accept("["):
        counts.append(None if parser.at("]") else _constant(parser))
        parser.expect("]")
    for count in reversed(counts):
        index = types.add(ArrayType(index, count))
    if parser.accept(":"):
        span = parser.token.span
        bits = _constant(parser)
        if bits > 8 * types.size(index):
            parser.fail_at(span, f"a bit field of {bits} bits does not fit into its type")
    return name, index, bits


def _constant(parser: ExpressionParser) -> int:
    """A number, also by an enumerator's name or a `#define`."""
    token = parser.token
    value = parser.constant()
    if value is None or not 0 <= value <= _MOST:
        parser.fail_at(token.span, "a number is needed here, which the compiler knows")
    return value


def _enum(parser: ExpressionParser) -> tuple[int, bool]:
    types = parser.types
    parser.advance()
    name = parser.advance().text if parser.token.kind is Kind.NAME else ""
    key = f"enum {name}"
    if not parser.at("{"):
        index = types.named(key)
        if index is None:
            parser.fail(f"there is no `{key}`", "declare it before")
        return index, False
    parser.advance()
    index = types.reserve()
    following, values = 0, []
    while parser.token.kind is Kind.NAME:
        one = parser.advance().text
        if parser.accept("="):
            token = parser.token
            given = parser.constant()
            if given is None:
                parser.fail_at(token.span, "a number is needed here, which the compiler knows")
            following = given
        values.append((one, following))
        types.constants[one] = (following, index)
        following += 1
        if not parser.accept(","):
            break
    parser.expect("}")
    signed = any(value < 0 for _, value in values)
    wide = any(not -(1 << 31) <= value < 1 << 32 for _, value in values)
    types.complete(index, EnumType(name, 8 if wide else 4, signed, tuple(values)))
    if name:
        types.names[key] = index
        types.names.setdefault(name, index)
    return index, True


def _attributes(parser: ExpressionParser) -> bool:
    """Skip ``__attribute__((…))``; whether one of them is ``packed``."""
    packed = False
    while parser.token.kind is Kind.NAME and parser.token.text in ("__attribute__", "__packed"):
        packed |= parser.advance().text == "__packed"
        if parser.at("("):
            packed |= "packed" in _skip_bracket(parser)
    return packed


def _skip_bracket(parser: ExpressionParser) -> str:
    """Go to behind a bracket; its text."""
    start = parser.expect("(").span
    depth = 1
    end = start
    while depth and parser.token.kind is not Kind.END:
        if parser.at("("):
            depth += 1
        elif parser.at(")"):
            depth -= 1
        end = parser.advance().span
    return start.to(end).text


class _Layout:
    """Where the members of a struct are."""

    def __init__(self, parser: ExpressionParser, kind: str) -> None:
        self._types = parser.types
        self._union = kind == "union"
        self.packed = False
        self._members: list[tuple[str, int, int]] = []

    def add(self, name: str, index: int, bits: int, anonymous: bool = False) -> None:
        """The next member."""
        plain = self._types.plain(index)
        if anonymous and not isinstance(plain, StructType):
            return
        self._members.append((name, index, bits))

    def finished(self) -> tuple[int, tuple[Member, ...]]:
        """Size and members."""
        types = self._types
        found: list[Member] = []
        at = most = 0  # bits
        alignment = 1
        for name, index, bits in self._members:
            size = types.size(index)
            aligned = 1 if self.packed else types.alignment(index)
            if self._union:
                at = 0
            if bits:
                unit = 8 * size
                if not self.packed and at // unit != (at + bits - 1) // unit:
                    at = -(-at // unit) * unit
                found.append(Member(name, index, at // 8, at % 8, bits))
                at += bits
            else:
                at = -(-at // (8 * aligned)) * 8 * aligned
                found.append(Member(name, index, at // 8))
                at += 8 * size
            alignment = max(alignment, aligned)
            most = max(most, at)
        size = -(-most // 8)
        return -(-size // alignment) * alignment, tuple(
            each for each in found if not (each.bits and not each.name)
        )
