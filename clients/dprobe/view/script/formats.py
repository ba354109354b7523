"""``printf``: a format, read once, and its arguments.

Conversions are those of C, with the widths of its types (``%d`` shows 32 bits of a number, ``%lld``
all 64), and ``%r``, ``%rx`` and ``%rh`` for bytes. What a conversion cannot show of a value (``%d``
of a text) is shown as the value's own text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from dprobe.lib.script.values import Address, Buffer, NamedNumber, Shown
from dprobe.view.script.values import escaped, hexadecimal, spaced, text
from dprobed.program.bt.conversions import MOST_WIDTH, Conversion, parts
from dprobed.program.bt.text_bytes import decoded

_BYTES: Final = {"r": escaped, "rx": hexadecimal, "rh": spaced}


@lru_cache(maxsize=1024)
def _parts(form: str) -> tuple[str | Conversion, ...]:
    return tuple(parts(form))


def formatted(form: str, arguments: Sequence[Shown]) -> str:
    """What ``printf`` prints."""
    left = iter(arguments)
    return "".join(
        part if isinstance(part, str) else _converted(part, next(left, 0)) for part in _parts(form)
    )


def _converted(part: Conversion, value: Shown) -> str:
    if part.kind in "diuxX" and isinstance(value, int):  # most are
        return _integer(part, value)
    if part.kind in _BYTES and isinstance(value, Buffer):
        return _padded(part, _BYTES[part.kind](value.data))
    if part.kind in "sr":
        shown = text(value)
        return _padded(part, shown if part.precision is None else shown[: _precision(part)])
    number = _number(value)
    if part.kind in "eEfFgG":
        real = value if isinstance(value, float) else number
        return _padded(part, text(value)) if real is None else _real(part, float(real))
    if number is None:
        return _padded(part, text(value))
    if part.kind == "p":
        return _padded(part, f"{number & _mask(64):#x}" if number else "(nil)")
    if part.kind == "c":
        return _padded(part, decoded(bytes([number & 0xFF])))
    return _integer(part, number)


def _width(part: Conversion) -> int:
    return min(part.width, MOST_WIDTH)


def _precision(part: Conversion) -> int:
    return min(part.precision or 0, MOST_WIDTH)


def _number(value: Shown) -> int | None:
    if isinstance(value, Address | NamedNumber):
        return value.value
    if isinstance(value, float):
        return int(value) if math.isfinite(value) else None
    return value if isinstance(value, int) else None


def _mask(bits: int) -> int:
    return (1 << bits) - 1


def _real(part: Conversion, number: float) -> str:
    """``%f`` and its like; what is no number has no digits to fill up with zeros."""
    flags = part.flags if math.isfinite(number) else part.flags.replace("0", "")
    dot = "" if part.precision is None else f".{_precision(part)}"
    return f"%{flags}{_width(part) or ''}{dot}{part.kind}" % number


def _integer(part: Conversion, number: int) -> str:
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
        digits = digits.rjust(_precision(part), "0")
    if "#" in part.flags and number and part.kind in "xX":
        sign = f"0{part.kind}"
    elif "#" in part.flags and part.kind == "o" and not digits.startswith("0"):
        digits = f"0{digits}"
    if "0" in part.flags and "-" not in part.flags and part.precision is None:
        digits = digits.rjust(_width(part) - len(sign), "0")
    return _padded(part, sign + digits)


def _padded(part: Conversion, shown: str) -> str:
    width = _width(part)
    return shown.ljust(width) if "-" in part.flags else shown.rjust(width)
