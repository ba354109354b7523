"""Strings of targets as text in which each is told apart from every other.

Most are UTF-8, and are as they are. In what is not, a byte that is no UTF-8 is written ``\\xNN``,
and a backslash as two; and so it is in what is UTF-8 and looks as if that had been done with it.
"""

from __future__ import annotations

import re
from typing import Final

_LOOKS_ESCAPED: Final = re.compile(rb"\\(?:x[0-9a-f]{2}|\\)")
_ESCAPE: Final = re.compile(rb"\\(?:x([0-9a-f]{2})|\\)")


def told_apart(raw: bytes) -> str:
    """A string as text that no other has."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return raw.replace(b"\\", b"\\\\").decode(errors="backslashreplace")
    return text.replace("\\", "\\\\") if _LOOKS_ESCAPED.search(raw) else text


def meant(text: str) -> bytes:
    """The string whose text that is."""
    return _ESCAPE.sub(
        lambda found: bytes.fromhex(found[1].decode()) if found[1] else b"\\",
        text.encode("utf-8", "replace"),
    )
