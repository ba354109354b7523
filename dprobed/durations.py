"""Durations as people write them: ``500ms``, ``30s``, ``10m``, ``2h``, ``1d``."""

from __future__ import annotations

import re
from typing import Final

_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*(ms|[smhd]?)", re.ASCII)
_SECONDS: Final = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(text: str) -> float | None:
    """How many seconds a text means (without a unit: seconds); None where it is no duration."""
    match = _DURATION.fullmatch(text.strip())
    return None if match is None else float(match[1]) * _SECONDS[match[2]]


def text(number: float) -> str:
    """So many seconds in at most two units, as people write them: ``1h30m``; rounded down."""
    if number < 1:
        return f"{int(number * 1000)}ms"
    left, parts = int(number), []
    for unit in "dhms":
        size = int(_SECONDS[unit])
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
        elif parts:
            break
    return "".join(parts[:2])
