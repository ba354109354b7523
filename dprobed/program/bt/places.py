"""Reads the place of a probe off a script's text: parts between colons, some of them in quotes.

A part goes on up to a colon, a comma, a brace or a blank. A ``/`` belongs to the part that is a
path (the module, or a source file); behind it, it begins the predicate.
"""

from __future__ import annotations

import re
from typing import Final

from dprobed.program.bt.lexer import Lexer
from dprobed.program.bt.source import Problems
from dprobed.program.bt.tree import Place

#: What cannot begin a place: a comma before it is one too many.
PLACE_END: Final = ("{", "/", "")
_PART: Final = re.compile(r"[^\s:,{}/\"]*")
_PATH: Final = re.compile(r"[^\s:,{}\"]*")
_FILE_LINE: Final = re.compile(r"[\w./+@-]+\.\w+:\d+", re.ASCII)
#: Whose first part behind the name is a path.
_WITH_PATH: Final = frozenset(("uprobe", "uretprobe", "usdt", "u", "ur", "U"))
#: Kinds of a place that are not followed by any part with a path.
KINDS: Final = frozenset(
    (
        *("uprobe", "uretprobe", "usdt", "u", "ur", "U", "watchpoint", "asyncwatchpoint", "w"),
        *("aw", "interval", "i", "profile", "p", "self", "kprobe", "k", "kretprobe", "kr"),
        *("tracepoint", "t", "rawtracepoint", "rt", "fentry", "f", "fexit", "fr", "kfunc"),
        *("kretfunc", "hardware", "h", "software", "s", "iter", "it", "bench", "test"),
    )
)


def place_parts(text: str, start: int, problems: Problems, lexer: Lexer) -> Place | None:
    """The place that begins there; the lexer is behind it then. None: there is none."""
    at = start
    parts: list[str] = []
    quoted: list[bool] = []
    if watched := re.compile(r"watch[ \t]+(?=[\w*&$.\"])").match(text, at):
        parts, quoted, at = ["watch"], [False], watched.end()
    while True:
        path = _takes_path(parts, text, at)
        if text[at : at + 1] == '"':
            end = text.find('"', at + 1)
            line = text.find("\n", at)
            if end < 0 or 0 <= line < end:
                problems.add(lexer.span(at, at + 1), "this string has no end", 'write " behind it')
                return None
            part, at = text[at + 1 : end], end + 1
            more = _PART.match(text, at)
            if more is not None and more[0]:
                part, at = part + more[0], more.end()
            quoted.append(True)
        else:
            found = (_PATH if path else _PART).match(text, at)
            assert found is not None
            part, at = found[0], found.end()
            part, at = _bracketed(text, part, at)
            quoted.append(False)
        parts.append(part)
        if text[at : at + 1] == ":" and text[at + 1 : at + 2] != ":":
            at += 1
            continue
        if text[at : at + 2] == "::":
            # C++: a name goes on.
            rest = re.compile(r"::[^\s,{}/]*").match(text, at)
            assert rest is not None
            parts[-1], at = parts[-1] + rest[0], rest.end()
            while text[at : at + 1] == ":" and text[at + 1 : at + 2] != ":":
                break
            if text[at : at + 1] == ":":
                at += 1
                continue
        break
    if not any(parts) or at == start:
        return None
    lexer.at = at
    return Place(lexer.span(start, at), text[start:at], tuple(parts), tuple(quoted))


def _takes_path(parts: list[str], text: str, at: int) -> bool:
    """Whether the part that begins there may have slashes in it."""
    if len(parts) == 1 and parts[0] in _WITH_PATH:
        return True
    return _FILE_LINE.match(text, at) is not None


def _bracketed(text: str, part: str, at: int) -> tuple[str, int]:
    """A C++ function with its parameters, as far as it is written without quotes."""
    while part.count("(") > part.count(")"):
        end = text.find(")", at)
        line = text.find("\n", at)
        if end < 0 or 0 <= line < end:
            break
        more = _PART.match(text, end + 1)
        assert more is not None
        part, at = text[at - len(part) : more.end()], more.end()
    return part, at
