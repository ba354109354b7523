"""Numbers in the text of a place: C's notations."""

from __future__ import annotations

from dprobed.binary.errors import LocationError


def number_of(text: str) -> int:
    """A number in C's notation: 0x…, octal with a leading 0, decimal; raises LocationError."""
    try:
        if text[:2].lower() == "0x":
            return int(text, 16)
        return int(text, 8) if len(text) > 1 and text[0] == "0" else int(text)
    except ValueError:
        raise LocationError(f"{text[:40]!r} is not a number that can be used here") from None
