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


def _flags() -> set[str]:
    """What the first processor can do, by the kernel's names."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            line = next((each for each in file if each.startswith("flags")), "")
    except OSError:
        return set()
    return set(line.partition(":")[2].split())


#: Whether the time stamp counter is a clock, which is read together with the CPU.
HAS_CLOCK: Final = _flags() >= {"constant_tsc", "nonstop_tsc", "rdtscp"}
#: Whether ``rdfsbase`` may be used.
HAS_FS_BASE: Final = bool(_getauxval(_AT_HWCAP2) & _HWCAP2_FSGSBASE)
