"""Reads and writes the memory of a target, in two ways for two purposes.

* *Text* (``peek``, ``poke``) goes through ``/proc/PID/mem``: it ignores page protection, which is
  what changing text needs (the kernel copies the private page). The descriptor holds the address
  space itself, so it also serves when the leader is a zombie.
* *A program's accesses* (``read``, ``write``) go through ``process_vm_readv``/``writev`` with the
  thread that hit the probe: they fault where the target's own access would fault.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

from dprobed.arch.x86_64.paging import PAGE, USER_END
from dprobed.arch.x86_64.python_ptrace import structures
from dprobed.proc import maps
from dprobed.program.exec.interface import MemoryFault

_CHUNK: Final = 1 << 16


_libc = ctypes.PyDLL(None)
_readv = _libc.process_vm_readv
_writev = _libc.process_vm_writev
for _function in (_readv, _writev):
    _function.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p]
    _function.argtypes += [ctypes.c_ulong, ctypes.c_ulong]
    _function.restype = ctypes.c_long

_buffer = bytearray(_CHUNK)
_anchor = (ctypes.c_char * _CHUNK).from_buffer(_buffer)
_here = structures.iovec_struct(ctypes.addressof(_anchor), 0)
_there = structures.iovec_struct(0, 0)
_here_at: Final = ctypes.addressof(_here)
_there_at: Final = ctypes.addressof(_there)


def read_partial(tid: int, address: int, length: int) -> bytes:
    """As many bytes as can be read from ``address`` on, up to ``length``: maybe none."""
    if address >= USER_END:
        return b""
    if length <= _CHUNK:
        _here.len = _there.len = length
        _there.buf = address
        got = _readv(tid, _here_at, 1, _there_at, 1, 0)
        if got == length:
            return bytes(_buffer[:length])
        # A fault in the first page returns -1; in a later one, what came before it, but only in
        # whole iovec elements before Linux 3.16: go on by pages.
    parts = []
    end = min(address + length, USER_END)
    while address < end:
        step = min(end, (address // PAGE + 1) * PAGE) - address
        _here.len = _there.len = step
        _there.buf = address
        if _readv(tid, _here_at, 1, _there_at, 1, 0) != step:
            break
        parts.append(bytes(_buffer[:step]))
        address += step
    return b"".join(parts)


def read(tid: int, address: int, length: int) -> bytes:
    """Exactly ``length`` bytes; raises MemoryFault."""
    data = read_partial(tid, address, length)
    if len(data) != length:
        raise MemoryFault((address + len(data)) & 0xFFFF_FFFF_FFFF_FFFF)
    return data


def write(tid: int, address: int, data: bytes) -> None:
    """Write where the target itself may write; raises MemoryFault, then nothing is written."""
    first = min(len(data), PAGE - address % PAGE)
    if first < len(data) and not writable(tid, address + first):
        raise MemoryFault(address + first)
    length = len(data)
    if address >= USER_END or length > _CHUNK:
        raise MemoryFault(address)
    _buffer[:length] = data
    _here.len = _there.len = length
    _there.buf = address
    if _writev(tid, _here_at, 1, _there_at, 1, 0) != length:
        raise MemoryFault(address)


def writable(tid: int, address: int) -> bool:
    """Whether the target may write the byte at ``address``, from its list of mappings."""
    try:
        found = maps.at(tid, address)
    except OSError:
        return False
    return found is not None and found.perms[1:2] == b"w"


class Memory:
    """The memory of one address space through ``/proc/PID/mem``, whatever its pages' protection."""

    def __init__(self, tid: int | None) -> None:
        """The memory of a thread; ``None``: of one that may not be opened, where nothing is read.

        Raises OSError when the thread is gone or may not be traced.
        """
        self._fd = -1 if tid is None else os.open(f"/proc/{tid}/mem", os.O_RDWR | os.O_CLOEXEC)

    @classmethod
    def closed(cls) -> Memory:
        """The memory of a process that may not be opened: nothing is read there."""
        return cls(None)

    def __del__(self) -> None:
        # Of a space that could not be set up: its process may end at any step.
        if hasattr(self, "_fd"):
            self.close()

    def close(self) -> None:
        """Close the descriptor; nothing is read or written from now on."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def peek(self, address: int, length: int) -> bytes:
        """Up to ``length`` bytes: fewer at the end of a mapping, none where there is none."""
        try:
            return os.pread(self._fd, length, address)
        except (OSError, OverflowError):
            return b""

    def is_gone(self) -> bool:
        """Whether no process has this address space any more."""
        try:
            # Where nothing is mapped that would be an error (mem_rw, fs/proc/base.c).
            return not os.pread(self._fd, 1, PAGE)
        except OSError:
            return False

    def poke(self, address: int, data: bytes) -> bool:
        """Store bytes; false when the page is not there (any more)."""
        try:
            return os.pwrite(self._fd, data, address) == len(data)
        except (OSError, OverflowError):
            return False
