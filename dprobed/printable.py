"""Escapes untrusted text (names of processes, paths, arguments) for a terminal or a log.

Such text may have control characters in it, which a terminal obeys, and line feeds, by which it
could forge a line of the log.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

#: Not escaped in our messages of several lines, which have source code in them.
LAYOUT: Final = "\n\t"


def printable(text: str, keep: str = "") -> str:
    """The text with every unprintable character escaped: ``\\x1b``, ``\\n``, ``\\u202e``.

    ``keep``: characters that are not escaped.
    """
    if text.isprintable():
        return text
    # Of a name that is not UTF-8 the bytes are replaced, wherever it is shown.
    text = "".join("\ufffd" if "\udc80" <= each <= "\udcff" else each for each in text)
    return "".join(
        letter
        if letter.isprintable() or letter in keep
        else letter.encode("unicode_escape").decode()
        for letter in text
    )


def readable(name: str | Path) -> str:
    """A path as text that can be sent and printed: bytes that are not UTF-8 are replaced."""
    return os.fsencode(name).decode(errors="replace")


def located(place: str, text: str) -> str:
    """A message with the place in a program's source that it is about, if that is known."""
    return f"{place}: {text}" if place else text
