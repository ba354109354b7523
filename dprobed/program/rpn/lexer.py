"""Source text into lines of tokens, each knowing where it was written.

Comments become blanks of the same width before anything else happens, so columns stay true; a line
that ends in a backslash goes on in the next.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from dprobed.program.model import MAX_DIAGNOSTICS, Diagnostic


class TokenKind(Enum):
    """Kinds of tokens."""

    NAME = "name"
    NUMBER = "number"
    CHARACTER = "character"
    STRING = "string"
    PUNCTUATION = "punctuation"


class Origin(NamedTuple):
    """One physical line; ``file`` and ``line`` are what ``#line`` says, if there is one."""

    file: str
    line: int
    text: str


class Token(NamedTuple):
    """``column`` from 1; ``space``: blanks before it. A macro's tokens stand where it was used."""

    kind: TokenKind
    text: str
    origin: Origin
    column: int
    width: int
    space: bool

    def moved_to(self, use: Token) -> Token:
        """This token of a macro's text, at the place of the macro's use."""
        return self._replace(origin=use.origin, column=use.column, width=use.width)


class LogicalLine(msgspec.Struct):
    """One logical line: where it starts, and its tokens."""

    origin: Origin
    tokens: list[Token]


class Diagnostics:
    """Collects what is wrong with a program, so that all of it is reported at once."""

    def __init__(self) -> None:
        self.found: list[Diagnostic] = []

    def at(
        self, token: Token, message: str, hint: str = "", width: int | None = None, note: str = ""
    ) -> None:
        """Something is wrong with this token (and what follows it, up to ``width`` columns)."""
        self.add(
            Diagnostic(
                token.origin.file,
                token.origin.line,
                token.column,
                message,
                hint,
                token.origin.text,
                token.width if width is None else width,
                note,
            )
        )

    def span(self, tokens: Sequence[Token], message: str, hint: str = "") -> None:
        """Something is wrong with several tokens together."""
        first, last = tokens[0], tokens[-1]
        width = first.width
        if first.origin == last.origin:
            width = max(width, last.column + last.width - first.column)
        self.at(first, message, hint, width)

    def line(self, origin: Origin, message: str, hint: str = "") -> None:
        """Something is wrong with a whole line."""
        column = len(origin.text) - len(origin.text.lstrip()) + 1
        width = max(1, len(origin.text.strip()))
        self.add(
            Diagnostic(origin.file, origin.line, column, message, hint, origin.text.rstrip(), width)
        )

    def add(self, diagnostic: Diagnostic) -> None:
        """Keep it, unless it is known already or there are far too many."""
        if len(self.found) < MAX_DIAGNOSTICS and diagnostic not in self.found:
            self.found.append(diagnostic)


_COMMENTS = re.compile(
    r"""(?P<keep>"(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])+')
      | //[^\n]* | /\*.*?\*/ | (?P<open>/\*.*)""",
    re.VERBOSE | re.DOTALL,
)
_NOT_NEWLINE = re.compile(r"[^\n]")
_TOKEN = re.compile(
    r"""(?P<blank>\s+)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<number>[0-9]\w*)
      | (?P<character>'(?:\\(?:x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)|[^'\\\n])')
      | (?P<string>"(?:\\.|[^"\\\n])*")
      | (?P<punctuation><<|>>|<=|>=|==|!=|&&|\|\||.)""",
    re.VERBOSE | re.ASCII,
)
_KINDS = {kind.value: kind for kind in TokenKind}
_ESCAPES = {"n": 10, "t": 9, "r": 13, "0": 0, "a": 7, "b": 8, "f": 12, "v": 11}
_MOST_DIGITS = 40
_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]+|0[bB][01]+|0[0-7]*|[1-9][0-9]*)[uUlL]{0,3}\Z", re.ASCII)


def shown(file: str | Path) -> str:
    """A file's name as text that can be kept and sent: bytes that are not UTF-8 are replaced."""
    return os.fsencode(file).decode(errors="replace")


def read_lines(text: str, file: str, diagnostics: Diagnostics) -> Iterator[LogicalLine]:
    """The logical lines of a text, the empty ones left out."""
    file = shown(file)
    physical = text.split("\n")

    def blank(match: re.Match[str]) -> str:
        if match["keep"] is not None:
            return match[0]
        if match["open"] is not None:
            row = text.count("\n", 0, match.start())
            column = match.start() - (text.rfind("\n", 0, match.start()) + 1)
            origin = Origin(file, row + 1, physical[row].rstrip("\r"))
            token = Token(TokenKind.PUNCTUATION, "/*", origin, column + 1, 2, False)
            diagnostics.at(token, "comment without an end", "close it with */")
        return _NOT_NEWLINE.sub(" ", match[0])

    rows = _COMMENTS.sub(blank, text).split("\n")
    number = 0
    while number < len(rows):
        first = Origin(file, number + 1, physical[number].rstrip("\r"))
        tokens: list[Token] = []
        while True:
            row = rows[number].rstrip()
            goes_on = row.endswith("\\") and number + 1 < len(rows)
            origin = Origin(file, number + 1, physical[number].rstrip("\r"))
            tokens += tokenize(row[:-1] if goes_on else row, origin, spaced=bool(tokens))
            number += 1
            if not goes_on:
                break
        if tokens:
            yield LogicalLine(first, tokens)


def tokenize(row: str, origin: Origin, spaced: bool = False) -> Iterator[Token]:
    """The tokens of one row of text."""
    space = spaced
    for match in _TOKEN.finditer(row):
        kind = match.lastgroup
        assert kind is not None
        if kind == "blank":
            space = True
            continue
        width = match.end() - match.start()
        yield Token(_KINDS[kind], match[0], origin, match.start() + 1, width, space)
        space = False


def written(tokens: Iterable[Token]) -> str:
    """The tokens as one text, a blank where there were blanks."""
    text = ""
    for token in tokens:
        text += (" " if token.space and text else "") + token.text
    return text


_UNQUOTED: Final = {"n": "\n", "t": "\t"}


def unquote(text: str) -> str:
    """What a string token stands for: a backslash takes the next character as it is, but for
    ``\\n`` and ``\\t``, which are in names of files, too."""
    return re.sub(r"\\(.)", lambda found: _UNQUOTED.get(found[1], found[1]), text[1:-1])


def number(token: Token) -> int | None:
    """The value of a number or character token; None when it is malformed."""
    if token.kind is TokenKind.CHARACTER:
        return _character(token.text[1:-1])
    match = _NUMBER.match(token.text)
    if match is None:
        return None
    digits = match[1].lower()
    if digits.startswith(("0x", "0b")):
        return int(digits, 0)
    # So many digits fit into no word, and thousands of them are more than Python converts.
    return int(digits, 8) if digits.startswith("0") else int(digits[:_MOST_DIGITS])


def _character(body: str) -> int:
    if not body.startswith("\\"):
        return ord(body)
    if body[1] == "x" and len(body) > 2:
        return int(body[2:], 16)
    if body[1] in "01234567":
        return int(body[1:], 8)
    return _ESCAPES.get(body[1], ord(body[1]))
