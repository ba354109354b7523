"""Page size, end of user space, reach of a 32-bit displacement."""

from __future__ import annotations

from typing import Final

PAGE: Final = 4096
#: The first address that no process has (4-level paging).
USER_END: Final = 1 << 47
#: How far a 32-bit displacement reaches.
NEAR: Final = 1 << 31
#: A word of all ones: registers are counted modulo its successor.
WORD: Final = 0xFFFF_FFFF_FFFF_FFFF
