"""The debug registers (Intel SDM vol. 3B, chapter 18.2): four addresses, status, control."""

from __future__ import annotations

from typing import Final

COUNT: Final = 4
STATUS: Final = 6
CONTROL: Final = 7
#: R/W and LEN fields of DR7 (figure 18-1).
_KINDS: Final = {"x": 0, "w": 1, "rw": 3}
_LENGTHS: Final = {1: 0, 2: 1, 8: 2, 4: 3}


def is_length_valid(kind: str, address: int, length: int) -> bool:
    """1, 2, 4 or 8 bytes, aligned to their length; an execute breakpoint has length 1."""
    if kind == "x":
        return length == 1
    return length in _LENGTHS and address % length == 0


def control_bits(index: int, kind: str, length: int) -> int:
    """What turns on register ``index`` in DR7."""
    return 1 << 2 * index | (_KINDS[kind] | _LENGTHS[length] << 2) << (16 + 4 * index)


def has_fired(status: int, index: int) -> bool:
    """Whether DR6 says that register ``index`` matched."""
    return bool(status >> index & 1)
