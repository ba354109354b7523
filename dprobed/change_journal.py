"""The change journal: what a tracer has changed in its targets, in a file that outlives it.

The undo of each change is in it *before* the change is made, and goes when the change is undone.
So it is a table of what is there now, and no log: it needs no compaction, and is as long as the
most that was there at once. The tracer writes it itself, with one ``pwrite`` for each change (it
has a descriptor from the daemon): what is written is in the kernel, and stays when tracer and
daemon are killed together.

Layout: records of ``RECORD`` bytes, little-endian; one of zeros is free. The first is the tracer's
own.

    0  u32  CRC-32 of the rest
    4  u16  kind
    6  u16  bytes of data
    8  u32  process, and 12 u32 0
    16 u64  when that started (clock ticks since boot)
    24 u64  address
    32      data, zeros behind it

A record whose checksum is wrong (torn, or not ours) is no record. What is in it was written with
the rights of a tracer's user: who reads it acts with no others.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Final

import msgspec

RECORD: Final = 128
#: Records of one tracer; more are refused, and what they were to undo is not done.
MOST: Final = 1 << 18
_HEAD: Final = struct.Struct("<IHHIIQQ")
_ROOM: Final = RECORD - _HEAD.size
_FREE: Final = bytes(RECORD)
_SITE: Final = struct.Struct("<QB15sB16sB16s")
#: Records that are read at once.
_CHUNK: Final = 1 << 13


class Kind(IntEnum):
    """What was changed."""

    #: The tracer that writes the journal; its data: of which boot of the machine that is.
    TRACER = 1
    #: A breakpoint; the address is that of the slot of its displaced instruction.
    SITE = 2
    #: A mapping for slots, and one for a guard.
    AREA = 3
    GUARD = 4
    #: A debugger's breakpoint: the byte that was there.
    RAW = 5
    #: Debug registers of the process's threads are set.
    WATCH = 6
    #: The target's own disposition of SIGTRAP, which a hit has reset in the kernel.
    DISPOSITION = 7
    #: Where threads make system calls for us: there were zeros.
    GATE = 8
    #: A copy of the process, for a core: a child of it. The address is its number, the data when it
    #: was started, and its number in the process's own pid namespace.
    COPY = 9
    #: The signal mask of a thread (the address is its id) that makes a step for us.
    MASK = 10
    #: The semaphore of a static probe, which is counted up by one; the data is what it was.
    SEMAPHORE = 11
    #: A jump in place of an instruction, which is the data; and a mapping for what it leads to.
    JUMP = 12
    CODE = 13


class Change(msgspec.Struct, frozen=True):
    """One change. ``start``: with ``pid`` it identifies a process (``procfs.start_time``)."""

    kind: Kind
    pid: int
    start: int
    address: int
    data: bytes = b""


class SiteChange(msgspec.Struct, frozen=True):
    """The data of a breakpoint: where it is, the instruction that was there, and what is before and
    behind its first byte."""

    address: int
    original: bytes
    before: bytes
    behind: bytes

    def pack(self) -> bytes:
        """As the data of a ``Change``."""
        original, before, behind = self.original, self.before, self.behind
        return _SITE.pack(
            self.address, len(original), original, len(before), before, len(behind), behind
        )

    @classmethod
    def unpack(cls, data: bytes) -> SiteChange | None:
        """From the data of a ``Change``; None: it is none."""
        if len(data) != _SITE.size:
            return None
        address, length, original, length_before, before, length_behind, behind = _SITE.unpack(data)
        if not length <= len(original) or not max(length_before, length_behind) <= len(before):
            return None
        return cls(address, original[:length], before[:length_before], behind[:length_behind])


def pack(change: Change) -> bytes:
    """A record."""
    data = change.data
    head = (change.kind, len(data), change.pid, 0, change.start, change.address)
    record = _HEAD.pack(0, *head) + data.ljust(_ROOM, b"\0")
    return zlib.crc32(record[4:]).to_bytes(4, "little") + record[4:]


def unpack(record: bytes) -> Change | None:
    """What a record says; None: nothing, or it is torn."""
    if len(record) != RECORD or record == _FREE:
        return None
    checksum, kind, length, pid, _, start, address = _HEAD.unpack_from(record)
    if checksum != zlib.crc32(record[4:]) or length > _ROOM:
        return None
    try:
        known = Kind(kind)
    except ValueError:
        return None  # A later version's.
    return Change(known, pid, start, address, record[_HEAD.size : _HEAD.size + length])


def read(descriptor: int) -> Iterator[tuple[int, Change]]:
    """The records of a journal, each with its number; raises OSError."""
    for first in range(0, MOST, _CHUNK):
        data = os.pread(descriptor, _CHUNK * RECORD, first * RECORD)
        if data.count(0) == _CHUNK * RECORD:
            continue  # A hole: what else is in the file comes behind (``last_counts``).
        for at in range(0, len(data), RECORD):
            change = unpack(data[at : at + RECORD])
            if change is not None:
                yield first + at // RECORD, change
        if len(data) < _CHUNK * RECORD:
            return


def names(descriptor: int) -> bool:
    """Whether anything stands in the table of a journal, besides who writes it; raises OSError."""
    for first in range(RECORD, MOST * RECORD, _CHUNK * RECORD):
        data = os.pread(descriptor, min(_CHUNK * RECORD, MOST * RECORD - first), first)
        if data.strip(b"\0"):
            return True
        if not data:
            break
    return False


def boot() -> bytes:
    """This boot of the machine; start times are of one."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb", buffering=0) as file:
            return file.read(_ROOM).strip()
    except OSError:
        return b""


def writer(descriptor: int) -> tuple[int, int]:
    """Pid and start time of the tracer that writes a journal; zeros before it does. Raises OSError.

    The tracer says so itself: to be believed about its own targets only.
    """
    change = unpack(os.pread(descriptor, RECORD, 0))
    if change is None or change.kind is not Kind.TRACER or change.data != boot():
        return 0, 0
    return change.pid, change.start


class ChangeJournal:
    """The journal of this tracer. ``found``: what another left in it, when it was killed.

    What is of another boot of the machine concerns nobody any more.
    """

    def __init__(self, descriptor: int, pid: int, start: int) -> None:
        """``pid`` and ``start`` are the tracer's own. Raises OSError."""
        self._descriptor: Final = descriptor
        self.found: Final[dict[tuple[int, int], list[Change]]] = {}
        self._free: list[int] = []
        #: Of what was found: number by change.
        self._numbers: Final[dict[Change, int]] = {}
        self._end = 1
        me = Change(Kind.TRACER, pid, start, 0, boot())
        before = unpack(os.pread(descriptor, RECORD, 0))
        if before is not None and before.data != me.data:
            os.ftruncate(descriptor, 0)
        for number, change in read(descriptor):
            if number:
                self._free += range(number - 1, self._end - 1, -1)
                self._end = number + 1
                self._numbers[change] = number
                self.found.setdefault((change.pid, change.start), []).append(change)
        os.pwrite(descriptor, pack(me), 0)

    def write(self, change: Change) -> int:
        """Note a change that is about to be made; its number. Raises OSError: then it must not be
        made."""
        number = self._numbers.get(change)
        if number is not None:
            return number  # It is there since before us.
        number = self._free.pop() if self._free else self._end
        if number >= MOST:
            raise OSError(errno.ENOSPC, f"the change journal has {MOST} entries at most")
        try:
            done = os.pwrite(self._descriptor, pack(change), number * RECORD)
        except OSError:
            self._put_back(number)
            raise
        if done != RECORD:
            self._put_back(number)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._end = max(self._end, number + 1)
        return number

    def _put_back(self, number: int) -> None:
        if number < self._end:
            self._free.append(number)

    def free(self, number: int) -> None:
        """A change is undone, or what was changed is gone."""
        os.pwrite(self._descriptor, _FREE, number * RECORD)
        self._free.append(number)

    def take(self, pid: int, start: int) -> list[Change]:
        """What was found of a process; its entries are the caller's to free from now on."""
        return self.found.pop((pid, start), [])

    def drop(self, pid: int, start: int) -> None:
        """A process of which something was found is gone."""
        for change in self.take(pid, start):
            self.free(self.number_of(change))

    def number_of(self, change: Change) -> int:
        """The number of a change that was found; it is another's from now on."""
        return self._numbers.pop(change)


class Changes:
    """What is noted of one address space."""

    def __init__(self, journal: ChangeJournal | None, pid: int, start: int) -> None:
        """``journal`` None: of an address space in which nothing is changed."""
        self._journal: Final = journal
        self._pid: Final = pid
        self._start: Final = start
        self._numbers: Final[dict[tuple[Kind, int], int]] = {}

    def of_child(self, pid: int, start: int) -> Changes:
        """Those of another address space of this tracer's, with nothing noted."""
        return Changes(self._journal, pid, start)

    def adopt(self) -> list[Change]:
        """What a tracer that was killed has left there: noted here from now on."""
        if self._journal is None:
            return []
        found = self._journal.take(self._pid, self._start)
        for change in found:
            number = self._journal.number_of(change)
            former = self._numbers.setdefault((change.kind, change.address), number)
            if former != number:
                self._journal.free(number)
        return found

    def note(self, kind: Kind, address: int, data: bytes = b"") -> None:
        """Before the change; raises OSError, and then it must not be made."""
        if self._journal is not None and (kind, address) not in self._numbers:
            change = Change(kind, self._pid, self._start, address, data)
            self._numbers[kind, address] = self._journal.write(change)

    def forget(self, kind: Kind, address: int) -> None:
        """After it was undone."""
        number = self._numbers.pop((kind, address), None)
        if number is not None and self._journal is not None:
            self._journal.free(number)

    def clear(self) -> None:
        """Everything is undone, or the address space is gone."""
        self.forget_all(list(self._numbers))

    def forget_all(self, noted: Iterable[tuple[Kind, int]]) -> None:
        """After these were undone."""
        for kind, address in noted:
            self.forget(kind, address)
