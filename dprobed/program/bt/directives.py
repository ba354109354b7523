"""Lines that begin with ``#``: taken out of the text, with what a condition leaves out.

``#define NAME text`` gives a name a meaning, ``#include`` takes another file in, and ``#if`` with
its like leave lines out. In the text blanks stand in their place, so that all else stays where it
is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from dprobed.program.bt.source import Problems, SourceText, TextSpan

_DIRECTIVE: Final = re.compile(r"^[ \t]*#[ \t]*(\w*)[ \t]*((?:\\\r?\n|[^\n])*)", re.MULTILINE)
_DEFINE: Final = re.compile(r"([A-Za-z_]\w*)(\(?)(.*)", re.ASCII | re.DOTALL)
#: Headers that declare what the compiler knows.
_KNOWN_NAMES: Final = frozenset(
    (
        *("errno.h", "signal.h", "stdint.h", "stdio.h", "stddef.h", "fcntl.h", "sys/socket.h"),
        *("sys/types.h", "linux/types.h", "unistd.h", "stdbool.h", "linux/errno.h", "asm/errno.h"),
        *("linux/signal.h", "linux/socket.h", "stdlib.h", "string.h", "inttypes.h"),
    )
)


class Directives:
    """Works through the directives of files. ``defined``: names and what they stand for;
    ``include`` is given a file's name, where that is written, and whether it is in quotes."""

    def __init__(self, problems: Problems, include: Callable[[str, TextSpan, bool], None]) -> None:
        self._problems = problems
        self._include = include
        self.defined: dict[str, SourceText] = {}

    def run(self, source: SourceText) -> None:
        """Do what they say; ``source.text`` is without them afterwards."""
        text = source.text
        if text.startswith("#!"):
            end = text.find("\n")
            text = _blank(text, 0, len(text) if end < 0 else end)
        #: Of each open condition: whether its lines are taken, and whether some were before.
        taken: list[tuple[bool, bool]] = []
        skipped_from = 0
        for found in list(_DIRECTIVE.finditer(text)):
            if _in_comment(text, found.start()):
                continue
            word, rest = found[1], found[2].replace("\\\r\n", " ").replace("\\\n", " ").strip()
            rest = re.sub(r"//.*|/\*.*?\*/", "", rest, flags=re.DOTALL).strip()
            span = TextSpan(source, found.start() + found[0].index("#"), found.end())
            live = all(each for each, _ in taken)
            before = live
            if word in ("ifdef", "ifndef", "if"):
                holds = live and self._holds(word, rest, span)
                taken.append((holds, holds))
            elif word in ("else", "elif"):
                if not taken:
                    self._problems.add(span, f"`#{word}` without an `#if`")
                else:
                    _, done = taken.pop()
                    outer = all(each for each, _ in taken)
                    holds = outer and not done and (word == "else" or self._holds("if", rest, span))
                    taken.append((holds, done or holds))
            elif word == "endif":
                if taken:
                    taken.pop()
                else:
                    self._problems.add(span, "`#endif` without an `#if`")
            elif live:
                source.text = text
                self._one(word, rest, span)
            now = all(each for each, _ in taken)
            if before and not now:
                skipped_from = found.end()
            elif not before and now:
                text = _blank(text, skipped_from, found.start())
            text = _blank(text, found.start(), found.end())
        if not all(each for each, _ in taken):
            text = _blank(text, skipped_from, len(text))
        if taken:
            self._problems.add(TextSpan(source, len(text), len(text)), "an `#if` has no `#endif`")
        source.text = text

    def _holds(self, word: str, rest: str, span: TextSpan) -> bool:
        if word in ("ifdef", "ifndef"):
            return (rest in self.defined) is (word == "ifdef")
        if rest in ("0", "1"):
            return rest == "1"
        found = re.fullmatch(r"(!?)\s*defined\s*\(?\s*(\w+)\s*\)?", rest)
        if found is None:
            self._problems.add(span, "only `#if 0`, `#if 1` and `defined(NAME)` are possible")
            return False
        return (found[2] in self.defined) is not bool(found[1])

    def _one(self, word: str, rest: str, span: TextSpan) -> None:
        if word == "define":
            found = _DEFINE.match(rest)
            if found is None:
                self._problems.add(span, "`#define` is followed by a name")
            elif found[2]:
                self._problems.add(
                    span, "a `#define` with arguments is not possible", "write macro NAME(a) { … }"
                )
            else:
                self.defined[found[1]] = SourceText(span.source.name, found[3].strip())
        elif word == "undef":
            self.defined.pop(rest, None)
        elif word == "include":
            found = re.fullmatch(r'<([^>]+)>|"([^"]+)"', rest)
            if found is None:
                self._problems.add(span, '`#include` is followed by <FILE> or "FILE"')
            elif (found[1] or found[2]) not in _KNOWN_NAMES:
                self._include(found[1] or found[2], span, found[2] is not None)
        elif word == "error":
            self._problems.add(span, rest or "#error")
        elif word and word not in ("pragma", "line"):
            self._problems.add(span, f"there is no directive `#{word}`")


def _blank(text: str, start: int, end: int) -> str:
    """The text with blanks in place of a part of it; lines stay."""
    part = re.sub(r"[^\n]", " ", text[start:end])
    return text[:start] + part + text[end:]


def _in_comment(text: str, at: int) -> bool:
    """Whether a place is within a comment or a string of several lines."""
    opened = text.rfind("/*", 0, at)
    return opened >= 0 and text.find("*/", opened, at) < 0
