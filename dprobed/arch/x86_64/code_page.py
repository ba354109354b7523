"""Machine code of ours in our own memory: executable without ever having been writable, as
MemoryDenyWriteExecute= allows (systemd.exec(5))."""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Final

_libc: Final = ctypes.PyDLL(None, use_errno=True)
_mmap: Final = _libc.mmap
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_mmap.restype = ctypes.c_void_p
_MAP_FAILED: Final = ctypes.c_void_p(-1).value


def mapped(code: bytes) -> int:
    """The address of the code, which stays mapped; raises OSError where nothing executable may be
    mapped."""
    file = os.memfd_create("dprobed-code", os.MFD_CLOEXEC)
    try:
        os.write(file, code)
        use = mmap.PROT_READ | mmap.PROT_EXEC
        address: int | None = _mmap(None, len(code), use, mmap.MAP_PRIVATE, file, 0)
    finally:
        os.close(file)
    if address is None or address == _MAP_FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return address
