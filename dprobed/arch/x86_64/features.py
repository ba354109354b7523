"""What this machine's processor and kernel let programs use."""

from __future__ import annotations

import ctypes
from typing import Final

_AT_HWCAP2: Final = 26
#: In it: ``rdfsbase`` and its like may be used (arch/x86/include/uapi/asm/hwcap2.h).
_HWCAP2_FSGSBASE: Final = 2

_getauxval: Final = ctypes.PyDLL(None).getauxval
_getauxval.argtypes = [ctypes.c_ulong]
_getauxval.restype = ctypes.c_ulong

#: Whether ``rdfsbase`` may be used.
HAS_FS_BASE: Final = bool(_getauxval(_AT_HWCAP2) & _HWCAP2_FSGSBASE)
