"""Words of a script, one at a time: which ones can come depends on where the parser is.

Code is words, numbers and operators; a probe's place (``uprobe:/bin/bash:readline``) is one run of
letters, with its own rules.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final, NamedTuple

from dprobed.program.bt.source import Problems, SourceText, TextSpan
from dprobed.program.bt.text_bytes import decoded, encoded


class Kind(Enum):
    """Kinds of tokens."""

    NUMBER = "number"
    TEXT = "string"
    NAME = "name"
    VARIABLE = "variable"
    MAP = "map"
    POSITIONAL = "positional parameter"
    OPERATOR = "operator"
    END = "end"


class ScriptToken(NamedTuple):
    """A word. ``text``: as written, of a string what it stands for; ``value``: of a number."""

    kind: Kind
    text: str
    span: TextSpan
    value: int = 0


OPERATORS: Final = (
    *("<<=", ">>="),
    *("++", "--", "&&", "||", "==", "!=", "<=", ">=", "<<", ">>", "->", ".."),
    *("+=", "-=", "*=", "/=", "%=", "&=", "|=", "^="),
    *"+-*/%&|^~!<>=?:;,.()[]{}",
)
_BLANK: Final = re.compile(r"(?:[ \t\r\n\f\v]+|//[^\n]*|/\*.*?\*/)+", re.DOTALL)
_WORD: Final = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_VARIABLE: Final = re.compile(r"\$(?:[A-Za-z_]\w*|\d+|#)", re.ASCII)
_MAP: Final = re.compile(r"@(?:[A-Za-z_]\w*)?", re.ASCII)
_NUMBER: Final = re.compile(
    r"(?P<hex>0[xX][0-9a-fA-F_]+)(?P<hu>[uUlL]*)(?!\w)"
    r"|(?P<sci>[0-9][0-9_]*[eE][0-9]+)(?!\w)"
    r"|(?P<dec>[0-9][0-9_]*)(?P<unit>ns|us|ms|s|m|h|d|[uU]?[lL]{0,2}|[lL]{0,2}[uU]?)(?!\w)",
    re.ASCII,
)
_OPERATOR: Final = re.compile("|".join(map(re.escape, OPERATORS)))
_UNITS: Final = {
    "ns": 1,
    "us": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86400 * 10**9,
}
_ESCAPES: Final = {
    "n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "a": "\a", "b": "\b", "f": "\f",
    "v": "\v", "e": "\x1b",
}  # fmt: skip
_ESCAPE: Final = re.compile(r"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
_STRING: Final = re.compile(r'"((?:[^"\\\n]|\\.)*)"', re.DOTALL)
_NUMBERS: Final = "write 10, 0x0a, 012 (octal) or 10s"
#: Numbers have 64 bits.
MOST: Final = (1 << 64) - 1


class Lexer:
    """Takes words off a text from ``at`` on. ``part``: of this part of it only."""

    def __init__(
        self, source: SourceText, problems: Problems, part: TextSpan | None = None
    ) -> None:
        self.source = source
        self.text = source.text if part is None else source.text[: part.end]
        self.at = 0 if part is None else part.start
        self._problems = problems

    def span(self, start: int, end: int) -> TextSpan:
        """A part of the text."""
        return TextSpan(self.source, start, end)

    def skip_blank(self) -> None:
        """Go to behind blanks and comments."""
        found = _BLANK.match(self.text, self.at)
        if found is not None:
            self.at = found.end()
        if self.text.startswith("/*", self.at):
            start, self.at = self.at, len(self.text)
            self._problems.add(self.span(start, start + 2), "this comment has no end", "write */")

    def next(self) -> ScriptToken:
        """The next word of code."""
        while True:
            self.skip_blank()
            text, start = self.text, self.at
            if start >= len(text):
                return ScriptToken(Kind.END, "", self.span(len(text), len(text)))
            token = self._word(text, start)
            if token is not None:
                self.at = token.span.end
                return token
            self.at = start + 1
            self._problems.add(self.span(start, self.at), f"`{_shown(text[start])}` means nothing")

    def _word(self, text: str, start: int) -> ScriptToken | None:
        letter = text[start]
        if letter == '"':
            return self._string(text, start)
        if letter == "$" and (found := _VARIABLE.match(text, start)):
            kind = Kind.VARIABLE if found[0][1].isalpha() or found[0][1] == "_" else Kind.POSITIONAL
            return self._token(kind, found)
        if letter == "@" and (found := _MAP.match(text, start)):
            return self._token(Kind.MAP, found)
        if letter.isdecimal() and letter.isascii():
            return self._number(text, start)
        if found := _WORD.match(text, start):
            return self._token(Kind.NAME, found)
        if found := _OPERATOR.match(text, start):
            return self._token(Kind.OPERATOR, found)
        return None

    def _token(self, kind: Kind, found: re.Match[str]) -> ScriptToken:
        return ScriptToken(kind, found[0], self.span(found.start(), found.end()))

    def _number(self, text: str, start: int) -> ScriptToken:
        found = _NUMBER.match(text, start)
        if found is None:
            word = re.compile(r"\w+", re.ASCII).match(text, start)
            end = word.end() if word is not None else start + 1
            span = self.span(start, end)
            self._problems.add(span, f"`{span.text}` is not a number", _NUMBERS)
            return ScriptToken(Kind.NUMBER, span.text, span)
        span = self.span(start, found.end())
        value = _value(found)
        if value is None:
            self._problems.add(span, f"`{span.text}` is not a number", _NUMBERS)
            value = 0
        elif value > MOST:
            self._problems.add(
                span, f"`{span.text}` is not a number of 64 bits", f"the greatest one is {MOST}"
            )
            value = 0
        return ScriptToken(Kind.NUMBER, found[0], span, value)

    def _string(self, text: str, start: int) -> ScriptToken:
        found = _STRING.match(text, start)
        if found is None:
            end = text.find("\n", start)
            span = self.span(start, len(text) if end < 0 else end)
            self._problems.add(span, "this string has no end", 'write " behind it')
            return ScriptToken(Kind.TEXT, "", span)
        span = self.span(start, found.end())

        def escaped(one: re.Match[str]) -> str:
            inner = one[1]
            if _of_escape(inner) is None:
                at = self.span(start + 1 + one.start(), start + 1 + one.end())
                self._problems.add(
                    at,
                    f"`{_shown(one[0])}` means nothing in a string",
                    'there are \\n \\t \\r \\\\ \\" \\x1b and \\033',
                )
            return _of_escape(inner) or ""

        # Bytes that are letters together become them.
        return ScriptToken(Kind.TEXT, decoded(encoded(_ESCAPE.sub(escaped, found[1]))), span)


def _of_escape(inner: str) -> str | None:
    """What is meant by the letters behind a backslash; None: nothing."""
    if inner == "\n":
        return ""
    if inner[0] == "x" and len(inner) > 1:
        return decoded(bytes([int(inner[1:], 16)]))
    if inner[0] in "01234567":
        return decoded(bytes([int(inner, 8) & 0xFF]))
    return _ESCAPES.get(inner)


def part_of_text(literal: TextSpan, start: int, end: int) -> TextSpan:
    """Where a part of a string is written; ``start``, ``end``: bytes of what it stands for. What
    is not one string in quotes (strings beside each other) is shown as a whole."""
    found = _STRING.fullmatch(literal.text)
    if found is None:
        return literal
    inner, at, size = found[1], 0, 0
    places = {0: 0}
    while at < len(inner):
        escape = _ESCAPE.match(inner, at)
        size += len(encoded(inner[at] if escape is None else _of_escape(escape[1]) or ""))
        at = at + 1 if escape is None else escape.end()
        places.setdefault(size, at)
    first = literal.start + 1
    stop = places.get(end, len(inner))
    return TextSpan(literal.source, first + places.get(start, 0), first + stop)


def _value(found: re.Match[str]) -> int | None:
    """The number, any one above ``MOST`` where it has too many digits; None: it is none."""
    if found["hex"]:
        digits = found["hex"][2:].replace("_", "")
        return _whole(digits, 16) if digits else None
    if found["sci"]:
        base, power = re.split("[eE]", found["sci"].replace("_", ""))
        scale: int = 10 ** min(_whole(power), 20)
        return _whole(base) * scale
    digits = found["dec"].replace("_", "")
    octal = len(digits) > 1 and digits[0] == "0"
    if octal and set(digits) - set("01234567"):
        return None
    return _whole(digits, 8 if octal else 10) * _UNITS.get(found["unit"], 1)


def _whole(digits: str, base: int = 10) -> int:
    """A number of at most so many digits that it is quickly read: more are too many anyway."""
    digits = digits.lstrip("0") or "0"
    return int(digits, base) if len(digits) < 40 else MOST + 1


def _shown(text: str) -> str:
    return text if text.isprintable() else text.encode("unicode_escape").decode()
