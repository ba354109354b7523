"""Formats: what ``%`` begins in those of ``printf`` and in those of times, read in this one place.

A conversion of ``printf`` is ``%``, flags (``-+ #0``), a width, ``.`` and a precision, the length
of a C type, and a letter; ``%%`` is a percent sign. Widths count letters, not bytes.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from dprobed.program.bt.text_bytes import encoded

#: No width or precision may be more than this.
MOST_WIDTH: Final = 4096
#: Nor that of a time's: what is longer, the C library's strftime does not make.
MOST_TIME_WIDTH: Final = 255
_CONVERSION: Final = re.compile(
    r"%(?P<flags>[-+ #0]*)(?P<width>[0-9]*)(?:\.(?P<precision>[0-9]*))?"
    r"(?P<length>hh|h|ll|l|q|j|z|t|L)?(?P<kind>r[xh]?|[diuoxXcspeEfFgG])"
)
#: As far as what is none seems to go: flags, numbers and a letter.
_ODD: Final = re.compile(r"%[-+ #0-9.*$hlqjztL]*[^\s\0]?")
_TIME: Final = re.compile(r"%[-_0^#+]*(?P<width>[0-9]*)[EO]?[A-Za-z%+]")
#: Bits of a number, by the length that is written before its conversion.
_BITS: Final = {"hh": 8, "h": 16, "": 32}


class Conversion(msgspec.Struct, frozen=True):
    """A conversion of ``printf``. ``kind``: its letter, or ``r``, ``rx``, ``rh``; ``precision``:
    None where none is written; ``bits``: those of a number that count; ``start``, ``end``: where it
    is in its format."""

    kind: str
    flags: str = ""
    width: int = 0
    precision: int | None = None
    bits: int = 64
    start: int = 0
    end: int = 0


class FormatError(Exception):
    """A format that is none: what is wrong from ``start`` to before ``end`` of its bytes."""

    def __init__(self, form: str, start: int, end: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.start = len(encoded(form[:start]))
        self.end = len(encoded(form[:end]))
        self.hint = hint


def parts(form: str) -> list[str | Conversion]:
    """The text and the conversions of a format; raises FormatError."""
    found: list[str | Conversion] = []
    at = 0
    while (start := form.find("%", at)) >= 0:
        found.append(form[at:start])
        if form.startswith("%%", start):
            found.append("%")
            at = start + 2
            continue
        match = _CONVERSION.match(form, start)
        if match is None:
            raise _no_conversion(form, start)
        at = match.end()
        found.append(_conversion(match))
    found.append(form[at:])
    return [each for each in found if each]


def _conversion(match: re.Match[str]) -> Conversion:
    precision = match["precision"]
    return Conversion(
        kind=match["kind"],
        flags=match["flags"],
        width=_number(match["width"]),
        precision=None if precision is None else _number(precision),
        bits=_BITS.get(match["length"] or "", 64),
        start=match.start(),
        end=match.end(),
    )


def _number(digits: str) -> int:
    """A width: more than is possible, where it has many digits."""
    digits = digits.lstrip("0")
    return int(digits or 0) if len(digits) < 10 else MOST_WIDTH + 1


def _no_conversion(form: str, start: int) -> FormatError:
    odd = _ODD.match(form, start)
    assert odd is not None
    message, hint = f"{odd[0]} is no conversion", "use %d, %s, %x and the like"
    if "*" in odd[0]:
        hint = "write the width itself: %8d"
    elif not odd[0].strip("%-+ #"):
        message, hint = "a % in the format has no conversion behind it", "write %%"
    return FormatError(form, start, odd.end(), message, hint)


def checked(form: str) -> list[Conversion]:
    """The conversions of a format that is to be used; raises FormatError."""
    found = [each for each in parts(form) if isinstance(each, Conversion)]
    for one in found:
        if max(one.width, one.precision or 0) > MOST_WIDTH:
            message = f"a width or precision is at most {MOST_WIDTH}"
            raise FormatError(form, one.start, one.end, message)
    return found


def check_plain(form: str) -> None:
    """Refuse a NUL in what the system is given: it would end there; raises FormatError."""
    at = form.find("\0")
    if at >= 0:
        raise FormatError(form, at, at + 1, "a NUL ends this text", "leave it out")


def time_parts(form: str) -> list[tuple[str, bool]]:
    """The parts of a format of times, and of each whether it is a conversion; a ``%`` that is none
    is text."""
    found = []
    at = 0
    for match in _TIME.finditer(form):
        found.append((form[at : match.start()], False))
        found.append((match[0], _number(match["width"]) <= MOST_TIME_WIDTH))
        at = match.end()
    found.append((form[at:], False))
    return [each for each in found if each[0]]


def check_time(form: str) -> None:
    """Refuse a format of times that means nothing; raises FormatError."""
    check_plain(form)
    at = 0
    for part, conversion in time_parts(form):
        end = at + len(part)
        wide = not conversion and _TIME.match(part) is not None
        if wide:
            message = f"the width of a time is at most {MOST_TIME_WIDTH}"
            raise FormatError(form, at, end, message)
        at = end
