"""The FXSAVE image: where what stands in it (Intel SDM vol. 1, table 10-2)."""

from __future__ import annotations

from typing import Final

#: Where the mask of MXCSR's bits is. An image that gives none (0) means the default one (11.6.6).
MXCSR_MASK: Final = 28
DEFAULT_MXCSR_MASK: Final = 0xFFBF
#: Where xmm0 is, and the bytes of each of these registers.
XMM: Final = 160
XMM_SIZE: Final = 16
