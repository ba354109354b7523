"""Text of others on a terminal or in a log: what a process chose as its name may be anything.

Names of processes, paths and arguments may have control characters in them, which a terminal
obeys, and line feeds, with which a line of somebody else's making looks like one of ours.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

#: What does not show and is ours in messages of several lines, with source code in them.
LAYOUT: Final = "\n\t"


def printable(text: str, keep: str = "") -> str:
    """The text with every character escaped that does not show: ``\\x1b``, ``\\n``, ``\\u202e``.

    ``keep``: those that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        letter
        if letter.isprintable() or letter in keep
        else letter.encode("unicode_escape").decode()
        for letter in text
    )


def readable(name: str | Path) -> str:
    """A file's name, or what it is in, as text that can be sent and printed: a name may have bytes
    that are no UTF-8."""
    return os.fsencode(name).decode(errors="replace")


def located(place: str, text: str) -> str:
    """A message with the place in a program's source that it is about, if that is known."""
    return f"{place}: {text}" if place else text
