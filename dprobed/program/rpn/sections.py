"""What parsing leaves of a source file: sections of keyword values, instructions and labels.

A value or an operand that is refused leaves a gap here (None, ``broken``), so that the rest of the
file is still checked and nothing is reported twice.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import msgspec

from dprobed.program.exceptions import ExCode
from dprobed.program.isa import Instruction
from dprobed.program.keywords import HEADER, RETURN_PART, Keyword, Value
from dprobed.program.model import SourcePlace
from dprobed.program.rpn.expression import ExpressionError, evaluate
from dprobed.program.rpn.lexer import Diagnostics, Token

#: Names that every expression knows.
CONSTANTS = {f"EX_{code.name}": int(code) for code in ExCode}


class SourceInstruction(msgspec.Struct):
    """One instruction of the source. ``operand``: the tokens of its operand."""

    instruction: Instruction
    token: Token
    width: int
    operand: list[Token]
    value: int | str = 0
    label: Token | None = None
    broken: bool = False


class SourceSection(msgspec.Struct):
    """The header, or one probe definition."""

    known: Mapping[str, Keyword]
    first: Token | None = None
    values: dict[str, Any] = msgspec.field(default_factory=dict)
    places: dict[str, tuple[Token, int]] = msgspec.field(default_factory=dict)
    instructions: list[SourceInstruction] = msgspec.field(default_factory=list)
    #: The labels of the parts of a return probe, and before which instruction they stand.
    parts: dict[str, tuple[Token, int]] = msgspec.field(default_factory=dict)

    @property
    def split(self) -> int | None:
        """Before which instruction the return part begins that an entry part is before."""
        _, position = self.parts.get(RETURN_PART, (None, 0))
        return position or None

    def usable(self) -> dict[str, Any]:
        """The values that are not refused; a refused text still counts as given."""
        found = {n: v for n, v in self.values.items() if v is not None}
        for name in self.refused():
            found.pop(name, None)
            if self.known[name].value in (Value.TEXT, Value.PLACE, Value.ADDRESS):
                found[name] = "-"
        return found

    def refused(self) -> list[str]:
        """The keywords whose values are refused."""
        return [name for name, value in self.values.items() if value is None]


class SourceLabel(msgspec.Struct):
    """A label of the source: it stands before the instruction ``position`` of a probe."""

    token: Token
    probe: int
    position: int


class ParsedFile(msgspec.Struct):
    """A whole source file with what it includes."""

    name: str
    header: SourceSection = msgspec.field(default_factory=lambda: SourceSection(HEADER))
    probes: list[SourceSection] = msgspec.field(default_factory=list)
    labels: dict[str, SourceLabel] = msgspec.field(default_factory=dict)


def source_place(token: Token) -> SourcePlace:
    """Where a token was written."""
    return SourcePlace(token.origin.file, token.origin.line, token.column)


def nearest(text: str, known: Mapping[str, object] | set[str]) -> str:
    """A hint that names what was probably meant; empty where nothing is like it."""
    close = difflib.get_close_matches(text, known, 1)
    return f"did you mean `{close[0]}`?" if close else ""


def evaluated(
    tokens: list[Token], diagnostics: Diagnostics, names: Mapping[str, int] | None = None
) -> int | None:
    """The value of an expression; None where it has none, which is reported.

    ``names``: further ones that mean a number here.
    """
    try:
        return evaluate(tokens, {**CONSTANTS, **names} if names else CONSTANTS)
    except ExpressionError as error:
        at = error.token or tokens[-1]
        hint = nearest(at.text, names) if names else ""
        diagnostics.at(at, error.message, hint or error.hint)
        return None
