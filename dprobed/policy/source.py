"""A TOML file while it is checked: what is in it, where each thing stands, what is wrong with it.

Whoever reads a value gets something usable or None; that something was wrong is noted here, so
that a file is read to its end and everything wrong with it is told at once.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeVar

from dprobed.policy.locate import KeyPath, Places, Span
from dprobed.printable import readable
from dprobed.program.model import Diagnostic

T = TypeVar("T")

_AT: Final = re.compile(r"(.*?) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhd])", re.ASCII)
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PERCENT: Final = re.compile(r"(\d{1,3}(?:\.\d{1,9})?)\s*%", re.ASCII)
#: Numbers in a file are at most this: nothing that is counted comes near it.
_MOST: Final = 1_000_000_000
#: Bytes that a file may have: a mistake is not read to the end of memory.
_MAX_FILE: Final = 1 << 20
#: Symbolic links on the way to a file, as many as the kernel follows.
_MOST_LINKS: Final = 40
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


class PolicyError(Exception):
    """Files that are refused, with everything that is wrong with them."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__(self.diagnostics)

    def __str__(self) -> str:
        return "\n".join(map(str, self.diagnostics))


class Source:
    """One file. ``data``: what is in it; empty where it could not be read or parsed.

    ``trust``: the user whose daemon will do what it says; None: it is only looked at.
    """

    def __init__(self, path: Path, trust: int | None = None) -> None:
        self.path = path
        self._name = readable(path)
        self.faults: list[Diagnostic] = []
        self.data: dict[str, Any] = {}
        self._places: Places | None = None
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
            self._at(len(before), len(before[-1]) + 1, "this is no UTF-8", "save the file as UTF-8")
            return
        if text.startswith("\ufeff"):
            self._at(1, 1, "the file begins with a byte order mark", "save it without one")
            return
        self._parse(text)

    def _parse(self, text: str) -> None:
        try:
            self.data = tomllib.loads(text)
            self._places = Places(text)
        except tomllib.TOMLDecodeError as error:
            self._syntax(text, str(error))
        except RecursionError:
            self.data = {}
            self._plain("is no policy: lists or tables stand in each other without end")
        except ValueError:
            # Python's own limit on the digits of a number, which tomllib does not know of.
            found = _LONG_NUMBER.search(text)
            lines = text[: found.start() if found else 0].split("\n")
            self._at(len(lines), len(lines[-1]) + 1, "this number is too large")

    # -- what is wrong -----------------------------------------------------------------------------

    def fault(self, path: KeyPath, message: str, hint: str = "", note: str = "") -> None:
        """Something is wrong with a value."""
        assert self._places is not None
        self._note(self._places.value(path), message, hint, note)

    def fault_key(self, path: KeyPath, message: str, hint: str = "") -> None:
        """Something is wrong with a key, or with a whole table."""
        assert self._places is not None
        self._note(self._places.key(path), message, hint)

    def fault_within(self, path: KeyPath, at: int, message: str) -> None:
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
        self.faults.append(
            Diagnostic(self._name, span.line, span.column, message, hint, text, span.length, note)
        )

    def _plain(self, message: str) -> None:
        self.faults.append(Diagnostic(self._name, 0, 0, message))

    def _at(self, line: int, column: int, message: str, hint: str = "") -> None:
        self.faults.append(Diagnostic(self._name, line, column, message, hint))

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
        self.faults.append(
            Diagnostic(self._name, line, column, f"no TOML: {what}", "", line_text.rstrip())
        )

    # -- values ------------------------------------------------------------------------------------

    def table(self, path: KeyPath, value: object, known: Iterable[str]) -> dict[str, Any]:
        """A table with no other keys than those known; the others are left out."""
        if not isinstance(value, dict):
            self.fault(path, f"`{_name(path)}` is a table, not {_kind(value)}")
            return {}
        names = list(known)
        for key in value:
            if key not in names:
                self.fault_key((*path, key), f"unknown key `{key}`", suggestion(key, names))
        return {key: each for key, each in value.items() if key in names}

    def of_type(self, path: KeyPath, value: object, kind: type[T]) -> T | None:
        """A value of a type."""
        if isinstance(value, str) and "\0" in value:
            self.fault(path, f"`{_name(path)}` has a zero byte in it")
            return None
        if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
            return value
        self.fault(path, f"`{_name(path)}` is {_TYPES[kind]}, not {_kind(value)}")
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
        self.fault(path, f"unknown {what} `{text}`", hint)
        return None

    def strings(self, path: KeyPath, value: object) -> list[tuple[KeyPath, str]]:
        """A text, or a list of them, each with its path."""
        if isinstance(value, str):
            return [] if self.of_type(path, value, str) is None else [(path, value)]
        if not isinstance(value, list):
            message = f"`{path[-1]}` is text or a list of texts, not {_kind(value)}"
            self.fault(path, message, _quoted(value))
            return []
        if not value:
            self.fault(
                path, f"`{path[-1]}` is an empty list", "leave the key out, or fill the list"
            )
        found = []
        for number, each in enumerate(value):
            if isinstance(each, str):
                found += self.strings((*path, number), each)
            else:
                message = f"`{path[-1]}` has texts in it, not {_kind(each)}"
                self.fault((*path, number), message, _quoted(each))
        return found

    def duration(self, path: KeyPath, value: object) -> float | None:
        """Seconds."""
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if match is None or not float(match[1]):
            self.fault(path, f"`{path[-1]}` is a time", 'write "30s", "10m", "2h" or "1d"')
            return None
        return float(match[1]) * _SECONDS[match[2]]

    def share(self, path: KeyPath, value: object) -> float | None:
        """A share: more than nothing, at most all."""
        match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
        if match is None or not 0 < float(match[1]) <= 100:
            hint = 'write "5%": more than 0 and at most 100'
            self.fault(path, f"`{path[-1]}` is a share of the time", hint)
            return None
        return float(match[1]) / 100

    def positive(self, path: KeyPath, value: object) -> int | None:
        """A whole number from 1 on."""
        number = self.of_type(path, value, int)
        if number is not None and not 1 <= number <= _MOST:
            self.fault(path, f"`{path[-1]}` is {'1 or more' if number < 1 else f'at most {_MOST}'}")
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


class UntrustedError(OSError):
    """A file that others could have written; ``strerror`` says so."""


def read(path: Path, most: int, trust: int | None) -> bytes:
    """The bytes of a file, at most so many, that user ``trust`` may rely on; raises OSError.

    What is checked is what is read: nobody can put another file in its place in between. A pipe or
    a device could keep the daemon waiting, and is not read; None: whoever asks may wait.
    """
    if trust is not None and (why := _distrusted_way(path, trust)):
        raise UntrustedError(errno.EPERM, why)
    # Else the opening of a pipe waits already.
    waits = 0 if trust is None else os.O_NONBLOCK
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | waits), "rb") as file:
        status = os.fstat(file.fileno())
        if trust is not None and not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        if trust is not None and (why := _distrusted(status, path, trust)):
            raise UntrustedError(errno.EPERM, why)
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes")
    return data


def distrusted(path: Path, uid: int) -> str:
    """Why a daemon of user ``uid`` must not do what is in a folder; empty: it may.

    Whoever can write to what root's daemon reads could do with it whatever root can. Raises
    OSError.
    """
    return _distrusted_way(path, uid) or _distrusted(path.stat(), path, uid)


def _distrusted_way(path: Path, uid: int) -> str:
    """Why somebody else could put another file in its place; empty: nobody can. Raises OSError.

    Where nobody else can write to the folders that lead there, from the root on, what they lead to
    stays the same after this look, too.
    """
    for step, status in _way(path):
        if stat.S_ISLNK(status.st_mode):
            # Whoever owns it where all may write (/tmp) can put another one there.
            if status.st_uid not in (0, uid):
                return f"the link {readable(step)} on the way to it belongs to {status.st_uid}"
        # In a folder with the sticky bit each entry is its owner's, who is looked at as well.
        elif (why := _distrusted(status, step, uid)) and (
            status.st_uid not in (0, uid) or not status.st_mode & stat.S_ISVTX
        ):
            return f"the folder {readable(step)} on the way to it {why}"
    return ""


def _way(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The folders and symbolic links that lead to a file, from the root on; raises OSError."""
    at = Path("/")
    left = list(reversed((path if path.is_absolute() else Path.cwd() / path).parts[1:]))
    links = 0
    yield at, at.lstat()
    while left:
        name = left.pop()
        if name == "..":
            at = at.parent
            continue
        step = at / name
        status = step.lstat()
        if not stat.S_ISLNK(status.st_mode):
            if left:
                yield step, status
            at = step
            continue
        yield step, status
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = step.readlink()
        if target.is_absolute():
            at = Path("/")
        left += reversed(target.parts[1:] if target.is_absolute() else target.parts)


def _distrusted(status: os.stat_result, path: Path, uid: int) -> str:
    if status.st_uid not in (0, uid):
        return f"belongs to user {status.st_uid}; run: chown {uid} {readable(path)}"
    if status.st_mode & (0o022 if uid == 0 else 0o002):
        return f"can be written to by others; run: chmod go-w {readable(path)}"
    return ""
