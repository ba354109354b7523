"""``printf``: a format, read once, and its arguments.

Conversions are those of C, with the widths of its types (``%d`` shows 32 bits of a number, ``%lld``
all 64), and ``%r``, ``%rx`` and ``%rh`` for bytes. What a conversion cannot show of a value (``%d``
of a text) is shown as the value's own text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import msgspec

from dprobe.lib.script.values import Address, Buffer, NamedNumber, Shown
from dprobe.view.script.values import escaped, hexadecimal, spaced, text

_CONVERSION: Final = re.compile(
    r"%(?P<flags>[-+ #0]*)(?P<width>\d+)?(?:\.(?P<precision>\d*))?"
    r"(?P<length>hh|h|ll|l|q|j|z|t|L)?(?P<kind>[diuoxXcspeEfFgGaA%]|r[xh]?)"
)
#: Bits of a number, by the length that is written before its conversion.
_BITS: Final = {"hh": 8, "h": 16, "": 32}
_BYTES: Final = {"r": escaped, "rx": hexadecimal, "rh": spaced}
#: No width or precision may make more than this.
_MOST: Final = 4096


class _Part(msgspec.Struct, frozen=True):
    """Text, or a conversion (``kind``)."""

    literal: str = ""
    kind: str = ""
    flags: str = ""
    width: int = 0
    precision: int | None = None
    bits: int = 64


@lru_cache(maxsize=1024)
def _parsed(form: str) -> tuple[_Part, ...]:
    parts = []
    at = 0
    for match in _CONVERSION.finditer(form):
        parts.append(_Part(form[at : match.start()]))
        at = match.end()
        if match["kind"] == "%":
            parts.append(_Part("%"))
            continue
        precision = match["precision"]
        parts.append(
            _Part(
                kind=match["kind"],
                flags=match["flags"],
                width=min(int(match["width"] or 0), _MOST),
                precision=None if precision is None else min(int(precision or 0), _MOST),
                bits=_BITS.get(match["length"] or "", 64),
            )
        )
    parts.append(_Part(form[at:]))
    return tuple(part for part in parts if part.literal or part.kind)


def formatted(form: str, arguments: Sequence[Shown]) -> str:
    """What ``printf`` prints."""
    left = iter(arguments)
    return "".join(
        part.literal if not part.kind else _converted(part, next(left, 0)) for part in _parsed(form)
    )


def _converted(part: _Part, value: Shown) -> str:
    if part.kind in "diuxX" and isinstance(value, int):  # most are
        return _integer(part, value)
    if part.kind in _BYTES and isinstance(value, Buffer):
        return _padded(part, _BYTES[part.kind](value.data))
    if part.kind in "sr":
        shown = text(value)
        return _padded(part, shown if part.precision is None else shown[: part.precision])
    if isinstance(value, float) and part.kind in "eEfFgGaA":
        return _padded(part, f"%{part.flags}{_dot(part)}{part.kind}" % value)
    number = _number(value)
    if number is None:
        return _padded(part, text(value))
    if part.kind == "p":
        return _padded(part, f"{number & _mask(64):#x}" if number else "(nil)")
    if part.kind == "c":
        return _padded(part, chr(number & 0xFF))
    if part.kind in "eEfFgGaA":
        return _padded(part, f"%{part.flags}{_dot(part)}{part.kind}" % float(number))
    return _integer(part, number)


def _dot(part: _Part) -> str:
    return "" if part.precision is None else f".{part.precision}"


def _number(value: Shown) -> int | None:
    if isinstance(value, Address | NamedNumber):
        return value.value
    if isinstance(value, float):
        return int(value)
    return value if isinstance(value, int) else None


def _mask(bits: int) -> int:
    return (1 << bits) - 1


def _integer(part: _Part, number: int) -> str:
    """``%d`` and its like, with its flags as C has them."""
    number &= _mask(part.bits)
    sign = ""
    if part.kind in "di":
        if number >> (part.bits - 1):
            number = (1 << part.bits) - number
            sign = "-"
        else:
            sign = "+" if "+" in part.flags else " " if " " in part.flags else ""
    digits = format(number, {"d": "d", "i": "d", "u": "d"}.get(part.kind, part.kind))
    if part.precision is not None:
        digits = digits.rjust(part.precision, "0")
    if "#" in part.flags and number and part.kind in "xX":
        sign = f"0{part.kind}"
    elif "#" in part.flags and part.kind == "o" and not digits.startswith("0"):
        digits = f"0{digits}"
    if "0" in part.flags and "-" not in part.flags and part.precision is None:
        digits = digits.rjust(part.width - len(sign), "0")
    return _padded(part, sign + digits)


def _padded(part: _Part, shown: str) -> str:
    return shown.ljust(part.width) if "-" in part.flags else shown.rjust(part.width)
