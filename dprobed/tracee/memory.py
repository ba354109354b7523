"""Reads and writes the memory of a target, in two ways for two purposes.

* *Text* (``peek``, ``poke``) goes through ``/proc/PID/mem``: it ignores page protection, which is
  what changing text needs (the kernel copies the private page). The descriptor holds the address
  space itself, so it also serves when the leader is a zombie.
* *A program's accesses* (``read``, ``write``) go through ``process_vm_readv``/``writev`` with the
  thread that hit the probe: they fault where the target's own access would fault.

No access may sleep without limit, and one to a page that is not there may: of memory that the
target itself fills (userfaultfd; the thread that does may stand at a probe, and wait for us), or of
a file whose file system does not answer. So before each one ``pagemap`` says which pages are there,
which costs 1 us of a hit's 17; nothing about a mapping is remembered, since it may change at any
time. For a page that is not there the list of mappings says what it is:

* Memory without a file, or of a file system that answers by itself (``proc.mounts``), is accessed
  through ``/proc/PID/mem``, which fails where userfaultfd would have to wait (handle_userfault,
  fs/userfaultfd.c: not without FAULT_FLAG_ALLOW_RETRY, which access_remote_vm does not give).
* Any other is read by a helper process that can be given up (``proc.helper``). A file of which a
  page did not come is not waited for again for a while, and others of the same address space for a
  moment only.

What is left is the instant between the look and the access: a page that goes just then.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Sequence
from typing import Final

from dprobed.arch.x86_64.paging import PAGE, USER_END
from dprobed.arch.x86_64.python_ptrace import structures
from dprobed.proc import helper, maps, mounts
from dprobed.program.exec.interface import MemoryFault

_CHUNK: Final = 1 << 16
#: Pages that are looked up at once.
_PAGES: Final = 512
#: Bytes of an entry of ``pagemap``; its highest bit is set where the page is there, these where it
#: is of a file, and where the target wants to be asked before it is written to.
# Documentation/admin-guide/mm/pagemap.rst
_ENTRY: Final = 8
_HIGHEST: Final = 7
_IS_THERE: Final = 0x80
_OF_FILE: Final = 1 << 61
_ASKED_BEFORE: Final = 1 << 57
#: No process has memory below, unless it is told to map it there (vm.mmap_min_addr).
_LOWEST: Final = 1 << 16
#: Seconds for which a file is waited for while another one of that address space is silent, and
#: how long that is so.
_MOMENT: Final = 0.01
_HURRIED: Final = 10.0


_libc = ctypes.PyDLL(None)
# Without types of the arguments, which would take longer than the system call does (1.5 us); so no
# argument may be an integer of more than 32 bits.
_readv = _libc.process_vm_readv
_writev = _libc.process_vm_writev
for _function in (_readv, _writev):
    _function.restype = ctypes.c_ssize_t

#: Looked up once, since each call of a function whose return is probed calls them twice.
_pread: Final = os.pread
_from_bytes: Final = int.from_bytes

_buffer = bytearray(_CHUNK)
_anchor = (ctypes.c_char * _CHUNK).from_buffer(_buffer)
_data = memoryview(_buffer)
_vectors = (structures.iovec_struct * 2)()
_vectors[0].buf = ctypes.addressof(_anchor)
_here_at: Final = ctypes.c_void_p(ctypes.addressof(_vectors[0]))
_there_at: Final = ctypes.c_void_p(ctypes.addressof(_vectors[1]))
#: The same as words, which are set in less time: our address and length, the target's.
_words = memoryview(_vectors).cast("B").cast("Q")
_HERE_LENGTH, _THERE, _THERE_LENGTH = 1, 2, 3


def read_present(tid: int, address: int, length: int) -> bytes:
    """As many bytes as can be read from ``address`` on, up to ``length``: maybe none.

    For pages that are there, or that the kernel itself has just used: of others it may sleep.
    """
    if address >= USER_END:
        return b""
    if length <= _CHUNK:
        _words[_HERE_LENGTH] = _words[_THERE_LENGTH] = length
        _words[_THERE] = address
        got = _readv(tid, _here_at, 1, _there_at, 1, 0)
        if got == length:
            return _data[:length].tobytes()
        # A fault in the first page returns -1; in a later one, what came before it, but only in
        # whole iovec elements before Linux 3.16: go on by pages.
    parts = []
    end = min(address + length, USER_END)
    while address < end:
        step = min(end, (address // PAGE + 1) * PAGE) - address
        _words[_HERE_LENGTH] = _words[_THERE_LENGTH] = step
        _words[_THERE] = address
        if _readv(tid, _here_at, 1, _there_at, 1, 0) != step:
            break
        parts.append(_data[:step].tobytes())
        address += step
    return b"".join(parts)


def writable(tid: int, address: int) -> bool:
    """Whether the target may write the byte at ``address``, from its list of mappings."""
    try:
        found = maps.at(tid, address)
    except OSError:
        return False
    return found is not None and found.perms[1:2] == b"w"


@helper.job
def _read_as_thread(
    values: Sequence[helper.Value], descriptors: Sequence[int]
) -> tuple[list[helper.Value], int]:
    """Read through a thread, whose address space is not locked meanwhile; else by descriptor."""
    tid, address, length = (int(each or 0) for each in values)
    data = read_present(tid, address, length) if tid else b""
    if not data:
        # Nothing there, or it may be read only by its tracer (Yama), whose descriptor this is.
        data = os.pread(descriptors[0], length, address)
    return [data], -1


class Memory:
    """The memory of one address space."""

    def __init__(self, tid: int | None) -> None:
        """The memory of a thread; ``None``: of one that may not be opened, where nothing is read.

        Raises OSError when the thread is gone or may not be traced.
        """
        #: Of the same address space, also after the thread's ``exec``.
        self._fd = self._pagemap = -1
        if tid is not None:
            self._fd = os.open(f"/proc/{tid}/mem", os.O_RDWR | os.O_CLOEXEC)
            with contextlib.suppress(OSError):
                self._pagemap = os.open(f"/proc/{tid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        self._tid: Final = tid or 0
        #: Until when nothing in it is waited for longer than a moment.
        self._hurried_until = 0.0

    @classmethod
    def closed(cls) -> Memory:
        """The memory of a process that may not be opened: nothing is read there."""
        return cls(None)

    def __del__(self) -> None:
        # Of a space that could not be set up: its process may end at any step.
        self.close()

    def close(self) -> None:
        """Close the descriptors; nothing is read or written from now on."""
        for descriptor in (self._fd, self._pagemap):
            if descriptor >= 0:
                os.close(descriptor)
        self._fd = self._pagemap = -1

    # --- a program's accesses ---

    def read(self, tid: int, address: int, length: int) -> bytes:
        """Exactly ``length`` bytes, as the thread would; raises MemoryFault."""
        data = self.read_partial(tid, address, length)
        if len(data) != length:
            raise MemoryFault((address + len(data)) & 0xFFFF_FFFF_FFFF_FFFF)
        return data

    def read_partial(self, tid: int, address: int, length: int) -> bytes:
        """As many bytes as the thread could read from ``address`` on, up to ``length``."""
        # In place, for one page or two: this is what most hits pay for.
        first = address >> 12
        size = ((address + length - 1 >> 12) - first + 1) * _ENTRY
        if address < USER_END and size <= 2 * _ENTRY:
            try:
                entries = os.pread(self._pagemap, size, first * _ENTRY)
                if entries[_HIGHEST] & entries[-1] & _IS_THERE:
                    return read_present(tid, address, length)
            except (OSError, IndexError):
                pass
        return self._read(tid, address, length, by_thread=True)

    def write(self, tid: int, address: int, data: bytes) -> None:
        """Write where the thread could; raises MemoryFault, then nothing is written."""
        length = len(data)
        second = (address // PAGE + 1) * PAGE
        if address + length > USER_END or length > PAGE:
            raise MemoryFault(address)
        ends_in_second = second < address + length
        if ends_in_second and not writable(tid, second):
            raise MemoryFault(second)
        entries = self._entries_of(address, address + length)
        if all(each < 0 and not each & (_OF_FILE | _ASKED_BEFORE) for each in entries):
            _buffer[:length] = data
            _words[_HERE_LENGTH] = _words[_THERE_LENGTH] = length
            _words[_THERE] = address
            if _writev(tid, _here_at, 1, _there_at, 1, 0) != length:
                raise MemoryFault(address)
            return
        for at in (address, second) if ends_in_second else (address,):
            if not self._may_write(tid, at):
                raise MemoryFault(at)
        self._write_all(address, data)

    def _may_write(self, tid: int, address: int) -> bool:
        """Whether the thread could write there, and so can we by descriptor without a wait."""
        try:
            line = maps.at(tid, address)
        except OSError:
            return False
        if line is None or line.perms[1:2] != b"w":
            return False
        # What is shared with a file server may have to be asked for, too: not ours to alter.
        return _is_local(line) or (
            line.perms[3:4] == b"p" and bool(self._read(tid, address, 1, by_thread=True))
        )

    def _write_all(self, address: int, data: bytes) -> None:
        """Write, or nothing where a page must be asked for; raises MemoryFault."""
        try:
            before = os.pread(self._fd, len(data), address)
            done = os.pwrite(self._fd, data, address) if len(before) == len(data) else 0
        except OSError:
            raise MemoryFault(address) from None
        if done != len(data):
            if done:
                os.pwrite(self._fd, before[:done], address)
            raise MemoryFault(address + done)

    # --- whatever its pages' protection ---

    def peek(self, address: int, length: int) -> bytes:
        """Up to ``length`` bytes: fewer at the end of a mapping, none where there is none."""
        if not 0 <= address < USER_END:
            return b""
        return self._read(self._tid, address, length, by_thread=False)

    def glance(self, address: int, length: int) -> bytes:
        """The same where the kernel itself keeps something: that page is there."""
        try:
            return os.pread(self._fd, length, address)
        except (OSError, OverflowError):
            return b""

    def word(self, address: int) -> int:
        """The word where the kernel or the processor itself has just kept one; 0: none."""
        try:
            return _from_bytes(_pread(self._fd, 8, address), "little")
        except (OSError, OverflowError):
            return 0

    def is_gone(self) -> bool:
        """Whether no process has this address space any more."""
        try:
            # Where nothing is mapped that would be an error (mem_rw, fs/proc/base.c).
            return not os.pread(self._fd, 1, PAGE)
        except OSError:
            return False

    def poke(self, address: int, data: bytes) -> bool:
        """Store bytes; false when the page is not there (any more)."""
        if not 0 <= address < USER_END:
            return False
        if any(each >= 0 for each in self._entries_of(address, address + len(data))) and len(
            self.peek(address, len(data))
        ) != len(data):
            return False
        try:
            return os.pwrite(self._fd, data, address) == len(data)
        except OSError:
            return False

    def fill(self, address: int, data: bytes) -> bool:
        """Store bytes in memory that we have had mapped, which is no file's: it comes at once."""
        try:
            return os.pwrite(self._fd, data, address) == len(data)
        except OSError:
            return False

    # --- pages that may not be there ---

    def _entries_of(self, address: int, end: int) -> list[int]:
        """What ``pagemap`` says of the pages from here to there, as far as we look; negative: is
        there."""
        first = address // PAGE
        count = min((end - 1) // PAGE - first + 1, _PAGES)
        try:
            found = os.pread(self._pagemap, count * _ENTRY, first * _ENTRY)
        except OSError:
            found = b""
        return memoryview(found.ljust(count * _ENTRY, b"\0")).cast("q").tolist()

    def _read(self, tid: int, address: int, length: int, *, by_thread: bool) -> bytes:
        """As much as can be read without waiting for long; as the thread could, or in any case."""
        end = min(address + length, USER_END)
        parts = []
        line: maps.Line | None = None
        while address < end:
            entries = self._entries_of(address, end)
            there = next((n for n, each in enumerate(entries) if each >= 0), len(entries))
            size = min((address // PAGE + (there or 1)) * PAGE, end) - address
            if there:
                part = read_present(tid, address, size) if by_thread else self.glance(address, size)
            else:
                if line is None or not line.start <= address < line.end:
                    line = _mapping(tid, address) if address >= _LOWEST or not by_thread else None
                part = self._fetch(tid, address, size, line, by_thread)
            parts.append(part)
            if len(part) != size:
                break
            address += size
        return b"".join(parts)

    def _fetch(
        self, tid: int, address: int, size: int, line: maps.Line | None, by_thread: bool
    ) -> bytes:
        """Read in a page that is not there."""
        if by_thread and (line is None or line.perms[:1] != b"r"):
            return b""
        if line is not None and _is_local(line):
            return self.glance(address, size)
        # Without a line: of an address space that the thread has left.
        file = (line.device, line.inode) if line is not None else (b"", self._tid)
        patience = _MOMENT if time.monotonic() < self._hurried_until else helper.PATIENCE
        try:
            (data,), _ = helper.HELPER.do(
                file,
                _read_as_thread,
                (tid if by_thread else 0, address, size),
                (self._fd,),
                patience,
            )
        except helper.SilentError:
            self._hurried_until = time.monotonic() + _HURRIED
            return b""
        except OSError:
            return b""
        assert isinstance(data, bytes)
        return data


def _mapping(tid: int, address: int) -> maps.Line | None:
    try:
        return maps.at(tid, address)
    except OSError:
        return None


def _is_local(line: maps.Line) -> bool:
    """Whether a page of a mapping is read without asking anybody but the disk."""
    return not line.inode or mounts.is_local(mounts.device_of(line.device))
