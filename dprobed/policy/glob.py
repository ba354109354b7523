"""Patterns of policies: ``*``, ``?``, ``[a-z]``, ``[!a-z]``, ``{one,other}``.

In a path, ``*`` and ``?`` stop at a slash, ``**`` does not. A pattern matches the whole text, and
an empty text matches nothing: it is what is not known, or not there.
"""

from __future__ import annotations

import re
from typing import Final

_CLASS: Final = re.compile(r"\[(!?)(\]?[^\]]*)\]")


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
    parts = [".*/"] if path and "/" not in pattern and pattern != "**" else []
    one, many = ("[^/]", "[^/]*") if path else (".", ".*")
    at = depth = opened = 0
    while at < len(pattern):
        letter = pattern[at]
        if letter == "*":
            run = len(pattern[at:]) - len(pattern[at:].lstrip("*"))
            parts.append(many if run == 1 else ".*")
            at += run - 1
        elif letter == "?":
            parts.append(one)
        elif letter == "[":
            match = _CLASS.match(pattern, at)
            if match is None:
                raise GlobError(at, "`[` is not closed; write `[[]` for the letter itself")
            parts.append(_set(match, at))
            at = match.end() - 1
        elif letter == "{":
            depth, opened = depth + 1, at
            parts.append("(?:")
        elif letter == "}" and depth:
            depth -= 1
            parts.append(")")
        else:
            parts.append("|" if letter == "," and depth else re.escape(letter))
        at += 1
    if depth:
        raise GlobError(opened, "`{` is not closed; write `[{]` for the letter itself")
    return re.compile("(?s:" + "".join(parts) + ")")


def _set(match: re.Match[str], at: int) -> str:
    negated, letters = match[1], match[2]
    text = letters.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
    text = text.replace("&", "\\&").replace("~", "\\~").replace("|", "\\|").replace("^", "\\^")
    try:
        re.compile(f"[{'^' if negated else ''}{text}]")
    except re.error:
        raise GlobError(at, f"`[{negated}{letters}]` is no set of letters") from None
    return f"[{'^' if negated else ''}{text}]"
