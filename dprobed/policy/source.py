"""A TOML file while it is checked: its values, their places, and diagnostics.

Reading a value returns something usable or None; what is wrong becomes a diagnostic, so that a file
is read to its end and everything wrong with it is reported at once.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeVar

from dprobed.durations import seconds
from dprobed.policy.locate import KeyPath, Span, TomlPlaces
from dprobed.policy.model import Stay
from dprobed.policy.trust import UntrustedError, read
from dprobed.printable import readable
from dprobed.program.model import Diagnostic

T = TypeVar("T")

_AT: Final = re.compile(r"(.*?) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)
_PERCENT: Final = re.compile(r"(\d{1,3}(?:\.\d{1,9})?)\s*%", re.ASCII)
#: Numbers in a file are at most this: nothing that is counted comes near it.
_MOST: Final = 1_000_000_000
#: Bytes that a file may have: a mistake is not read to the end of memory.
_MAX_FILE: Final = 1 << 20
#: More digits than Python would convert.
_LONG_NUMBER: Final = re.compile(r"[0-9][0-9_]{4000,}")
_TYPES: Final[dict[type, str]] = {
    bool: "true or false",
    str: "text",
    int: "a whole number",
    float: "a decimal number",
    list: "a list",
    dict: "a table",
}


class PolicyFile:
    """One file. ``data``: what is in it; empty where it could not be read or parsed.

    ``trust``: the user whose daemon will do what it says; None: it is only looked at.
    """

    def __init__(self, path: Path, trust: int | None = None) -> None:
        self.path = path
        self._name = readable(path)
        self.diagnostics: list[Diagnostic] = []
        self.data: dict[str, Any] = {}
        self._places: TomlPlaces | None = None
        try:
            data = read(path, _MAX_FILE, trust)
        except UntrustedError as error:
            self._plain(str(error.strerror))
            return
        except OSError as error:
            self._plain(f"cannot be read: {error.strerror}")
            return
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            before = data[: error.start].decode().split("\n")
            self._at(
                len(before), len(before[-1]) + 1, "this is not UTF-8", "save the file as UTF-8"
            )
            return
        if text.startswith("\ufeff"):
            self._at(1, 1, "the file begins with a byte order mark", "save it without one")
            return
        self._parse(text)

    def _parse(self, text: str) -> None:
        try:
            self.data = tomllib.loads(text)
            self._places = TomlPlaces(text)
        except tomllib.TOMLDecodeError as error:
            self._syntax(text, str(error))
        except RecursionError:
            self.data = {}
            self._plain("is not a policy: lists or tables are nested too deeply")
        except ValueError:
            # Python's own limit on the digits of a number, which tomllib does not know of.
            found = _LONG_NUMBER.search(text)
            lines = text[: found.start() if found else 0].split("\n")
            self._at(len(lines), len(lines[-1]) + 1, "this number is too large")

    # -- what is wrong -----------------------------------------------------------------------------

    def report(self, path: KeyPath, message: str, hint: str = "", note: str = "") -> None:
        """Something is wrong with a value."""
        assert self._places is not None
        self._note(self._places.value(path), message, hint, note)

    def report_key(self, path: KeyPath, message: str, hint: str = "") -> None:
        """Something is wrong with a key, or with a whole table."""
        assert self._places is not None
        self._note(self._places.key(path), message, hint)

    def report_within(self, path: KeyPath, at: int, message: str) -> None:
        """Something is wrong at the letter ``at`` of a text."""
        assert self._places is not None
        span = self._places.value(path)
        line = self._places.line(span.line)
        # Behind the quote, if the text is written as it is.
        if span.length > at + 2 and "\\" not in line:
            span = Span(span.line, span.column + 1 + at, 1)
        self._note(span, message, "")

    def place(self, path: KeyPath) -> str:
        """``file:line`` of a key."""
        assert self._places is not None
        return f"{self._name}:{self._places.key(path).line}"

    def _note(self, span: Span, message: str, hint: str, note: str = "") -> None:
        assert self._places is not None
        text = self._places.line(span.line)
        self.diagnostics.append(
            Diagnostic(self._name, span.line, span.column, message, hint, text, span.length, note)
        )

    def _plain(self, message: str) -> None:
        self.diagnostics.append(Diagnostic(self._name, 0, 0, message))

    def _at(self, line: int, column: int, message: str, hint: str = "") -> None:
        self.diagnostics.append(Diagnostic(self._name, line, column, message, hint))

    def _syntax(self, text: str, message: str) -> None:
        match = _AT.match(message)
        lines = text.split("\n")
        if match is None:
            self._plain(message)
            return
        line = int(match[2]) if match[2] else len(lines)
        column = int(match[3]) if match[3] else len(lines[-1]) + 1
        what = match[1][:1].lower() + match[1][1:]
        line_text = lines[line - 1] if line <= len(lines) else ""
        self.diagnostics.append(
            Diagnostic(self._name, line, column, f"no TOML: {what}", "", line_text.rstrip())
        )

    # -- values ------------------------------------------------------------------------------------

    def table(self, path: KeyPath, value: object, known: Iterable[str]) -> dict[str, Any]:
        """A table with no other keys than those known; the others are left out."""
        if not isinstance(value, dict):
            self.report(path, f"`{_name(path)}` is a table, not {_kind(value)}")
            return {}
        names = list(known)
        for key in value:
            if key not in names:
                self.report_key((*path, key), f"unknown key `{key}`", suggestion(key, names))
        return {key: each for key, each in value.items() if key in names}

    def of_type(self, path: KeyPath, value: object, kind: type[T]) -> T | None:
        """A value of a type."""
        if isinstance(value, str) and "\0" in value:
            self.report(path, f"`{_name(path)}` contains a NUL byte")
            return None
        if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
            return value
        self.report(path, f"`{_name(path)}` is {_TYPES[kind]}, not {_kind(value)}")
        return None

    def choice(
        self, path: KeyPath, value: object, names: Iterable[str], what: str = "word"
    ) -> str | None:
        """One of several words; ``what`` they are."""
        known = list(names)
        text = self.of_type(path, value, str)
        if text is None or text in known:
            return text
        hint = suggestion(text, known) or f"it is one of: {', '.join(known)}"
        self.report(path, f"unknown {what} `{text}`", hint)
        return None

    def strings(self, path: KeyPath, value: object) -> list[tuple[KeyPath, str]]:
        """A text, or a list of them, each with its path."""
        if isinstance(value, str):
            return [] if self.of_type(path, value, str) is None else [(path, value)]
        if not isinstance(value, list):
            message = f"`{path[-1]}` is text or a list of texts, not {_kind(value)}"
            self.report(path, message, _quoted(value))
            return []
        if not value:
            self.report(
                path, f"`{path[-1]}` is an empty list", "leave the key out, or fill the list"
            )
        found = []
        for number, each in enumerate(value):
            if isinstance(each, str):
                found += self.strings((*path, number), each)
            else:
                message = f"`{path[-1]}` has texts in it, not {_kind(each)}"
                self.report((*path, number), message, _quoted(each))
        return found

    def duration(self, path: KeyPath, value: object) -> float | None:
        """Seconds."""
        # A unit must be there: a bare number is one that somebody took for something else.
        number = seconds(value) if isinstance(value, str) and value[-1:].isalpha() else None
        if not number:
            self.report(path, f"`{path[-1]}` is a time", 'write "30s", "10m", "2h" or "1d"')
            return None
        return number

    def stay(self, path: KeyPath, value: object) -> Stay:
        """How long something stays."""
        table = self.table(path, value, ("for", "max_hits"))
        seconds = hits = None
        if "for" in table:
            seconds = self.duration((*path, "for"), table["for"])
        if "max_hits" in table:
            hits = self.positive((*path, "max_hits"), table["max_hits"])
        return Stay(seconds, hits)

    def share(self, path: KeyPath, value: object) -> float | None:
        """A share: more than nothing, at most all."""
        match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
        if match is None or not 0 < float(match[1]) <= 100:
            hint = 'write "5%": more than 0 and at most 100'
            self.report(path, f"`{path[-1]}` is a share of the time", hint)
            return None
        return float(match[1]) / 100

    def positive(self, path: KeyPath, value: object) -> int | None:
        """A whole number from 1 on."""
        number = self.of_type(path, value, int)
        if number is not None and not 1 <= number <= _MOST:
            self.report(
                path, f"`{path[-1]}` is {'1 or more' if number < 1 else f'at most {_MOST}'}"
            )
            return None
        return number


def _name(path: KeyPath) -> str | int:
    """What people call it: of what stands in a list, the list."""
    return path[-1] if isinstance(path[-1], str) else path[-2]


def suggestion(name: str, names: Iterable[str]) -> str:
    """Did you mean."""
    near = get_close_matches(name, list(names), 1, 0.6)
    return f"did you mean `{near[0]}`?" if near else ""


def _quoted(value: object) -> str:
    """A hint for who wrote the number of a user as one."""
    return f'write "{value}"' if type(value) is int else ""


def _kind(value: object) -> str:
    return _TYPES.get(type(value), "a date or a time")
