"""Texts and their bytes: a text is UTF-8, and each byte that is not is a surrogate in it, as
Python has it for the names of files. So every byte that a script writes (``"\\xff"``) or that a
process has comes out as it is.
"""

from __future__ import annotations


def encoded(text: str) -> bytes:
    """The bytes of a text."""
    return text.encode("utf-8", "surrogateescape")


def decoded(data: bytes) -> str:
    """The text that bytes are."""
    return data.decode("utf-8", "surrogateescape")


def up_to_nul(text: str) -> bytes:
    """The bytes that a text has where it is compared and measured: a NUL is its end, as in C."""
    return encoded(text).split(b"\0", 1)[0]
