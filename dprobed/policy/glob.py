"""Patterns of policies and selections: ``*``, ``?``, ``[a-z]``, ``[!a-z]``, ``{one,other}``.

In a path, only ``**`` and a slash itself match a slash. A pattern matches the whole text, and an
empty text matches nothing: it is what is not known, or not there.

What a process says of itself may be megabytes that are made for a pattern to be slow on, so that
no star is ever tried twice. With braces written out, a pattern is fixed pieces with stars between
them, and where the first possible place for a piece does not lead to a match no later one does:

- after a ``*`` in a path: two places of a piece have no slash between them, so that what can be
  reached from the later can be reached from the earlier;
- after a ``**``: the same holds for all that stands before the next ``**``, taken as one.

So each of those is an atomic group. The last ``**`` alone tries all places, from the end.

Not by ``fnmatch``, which takes as little time, but whose star matches slashes and which knows no
braces; nor by wcmatch, which takes an unclosed ``[`` or ``{`` literally where a policy needs an
error with its place, and 29 ms to import (this module: 8 ms). Without the atomic groups
``*a*a*a*b`` takes 2.5 s on 400 letters, and 16 times as long on twice as many; with them 0.13 ms on
128 KiB.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Final

_CLASS: Final = re.compile(r"\[(!?)(\]?[^\]]*)\]")
#: Patterns that one with braces stands for, at most, and their letters together: enough for four of
#: the longest path, and read in a fraction of a second.
_MOST: Final = 256
_LETTERS: Final = 1 << 14
#: Length of the expression for them, sets of letters included.
_LONGEST: Final = 1 << 18
_TOO_LONG: Final = f"with its braces expanded it has more than {_LETTERS} characters"
#: Stars among the tokens of a pattern; every other token is a regular expression for one letter.
_ONE: Final = "*"
_MANY: Final = "**"

_Tokens = tuple[str, ...]
#: How a pattern of a whole path can begin.
_BEGINNINGS: Final[tuple[_Tokens, ...]] = (("/",), (_ONE,), (_MANY,))


class GlobError(Exception):
    """A pattern that is none; ``at``: where in it, from 0."""

    def __init__(self, at: int, message: str) -> None:
        super().__init__(message)
        self.at = at


def translate(pattern: str, *, path: bool) -> re.Pattern[str]:
    """The pattern as a regular expression for ``fullmatch``; raises GlobError.

    A pattern for a path that has no slash in it is for the last part of the path.
    """
    if not pattern:
        raise GlobError(0, "an empty pattern matches nothing")
    whole = (_MANY, "/") if path and "/" not in pattern and pattern != "**" else ()
    found = "|".join(_expression((*whole, *tokens)) for tokens in _written_out(pattern, path))
    if len(found) > _LONGEST:
        raise GlobError(0, _TOO_LONG)
    return re.compile(f"(?s:{found})")


def refuse_vain(pattern: str) -> None:
    """Raise GlobError for a pattern of a path that no path can match, since each is absolute."""
    if "/" in pattern and any(each[:1] not in _BEGINNINGS for each in _written_out(pattern, True)):
        raise GlobError(0, "this never matches: a path begins with a slash")


def linked(pattern: str, real: Callable[[str], str]) -> dict[str, re.Pattern[str]]:
    """What a pattern of a path means besides, because names in it are links.

    For each such path (with wildcards: its first folders) the pattern with the path to which it
    leads. ``real``: where a path or a base name leads to; empty: to nothing known.
    """
    found: dict[str, re.Pattern[str]] = {}
    for tokens in _written_out(pattern, True):
        letters = tuple(itertools.takewhile(_is_letter, tokens))
        if len(letters) < len(tokens):
            # Of a name with a wildcard in it only the folders before.
            while letters and letters[-1] != "/":
                letters = letters[:-1]
        name = "".join(each[-1] for each in letters)
        rest = tokens[len(letters) :]
        folder = name.rstrip("/") if rest else name
        if not folder or (rest and not folder.startswith("/")):
            continue
        path = real(folder)
        same = path == folder if "/" in folder else path.rpartition("/")[2] == folder
        if path and not same:
            slash = "/" if rest and path != "/" else ""
            escaped = tuple(map(re.escape, path + slash))
            found[path] = re.compile(f"(?s:{_expression((*escaped, *rest))})")
    return found


def _is_letter(token: str) -> bool:
    return token != _ONE and (len(token) == 1 or (len(token) == 2 and token[0] == "\\"))


def _written_out(pattern: str, path: bool) -> list[_Tokens]:
    """The patterns without braces that a pattern stands for."""
    #: For each brace that is open: where it is, the alternatives so far, and what was before it.
    braces: list[tuple[int, list[_Tokens], list[_Tokens]]] = []
    current: list[_Tokens] = [()]
    at = 0
    while at < len(pattern):
        letter = pattern[at]
        token = ""
        if letter == "*":
            run = len(pattern[at:]) - len(pattern[at:].lstrip("*"))
            token = _ONE if run == 1 and path else _MANY
            at += run - 1
        elif letter == "?":
            token = "[^/]" if path else "."
        elif letter == "[":
            match = _CLASS.match(pattern, at)
            if match is None:
                raise GlobError(at, "`[` is not closed; write `[[]` for the character itself")
            token = "(?!/)" * path + _set(match, at)
            at = match.end() - 1
        elif letter == "{":
            braces.append((at, [], current))
            current = [()]
        elif letter == "," and braces:
            braces[-1][1].extend(current)
            current = [()]
        elif letter == "}" and braces:
            opened, alternatives, before = braces.pop()
            alternatives += current
            if len(before) * len(alternatives) > _MOST:
                raise GlobError(opened, f"these braces expand to more than {_MOST} patterns")
            current = [(*first, *then) for first in before for then in alternatives]
        else:
            token = re.escape(letter)
        if token:
            current = [(*tokens, token) for tokens in current]
            if sum(map(len, current)) > _LETTERS:
                raise GlobError(at, _TOO_LONG)
        at += 1
    if braces:
        raise GlobError(braces[-1][0], "`{` is not closed; write `[{]` for the character itself")
    return current


def _expression(tokens: _Tokens) -> str:
    first, *further = _split(tokens, _MANY)
    if not further:
        return _run(first, ends=True)
    middle = (f"(?>.*?{_run(each, ends=False)})" for each in further[:-1])
    return f"{_run(first, ends=False)}{''.join(middle)}.*{_run(further[-1], ends=True)}"


def _run(tokens: _Tokens, *, ends: bool) -> str:
    """Pieces with stars between them that stop at a slash; ``ends``: nothing comes after them."""
    first, *further = ("".join(piece) for piece in _split(tokens, _ONE))
    last = f"[^/]*{further.pop()}" if ends and further else ""
    return first + "".join(f"(?>[^/]*?{piece})" for piece in further) + last


def _split(tokens: _Tokens, star: str) -> list[_Tokens]:
    parts: list[_Tokens] = []
    start = 0
    for at, token in enumerate(tokens):
        if token == star:
            parts.append(tokens[start:at])
            start = at + 1
    return [*parts, tokens[start:]]


def _set(match: re.Match[str], at: int) -> str:
    negated, letters = match[1], match[2]
    text = letters.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
    text = text.replace("&", "\\&").replace("~", "\\~").replace("|", "\\|").replace("^", "\\^")
    try:
        re.compile(f"[{'^' if negated else ''}{text}]")
    except re.error:
        raise GlobError(at, f"`[{negated}{letters}]` is not a valid set of characters") from None
    return f"[{'^' if negated else ''}{text}]"
