"""Rings of records that the target writes and we read, one for each CPU.

A record is reserved by moving the head, filled in, and marked as whole; who finds no room counts
the record as lost, and goes on. A thread may be moved to another CPU, interrupted or ended at any
point: only the reservation has to be one piece, and is (``lock cmpxchg``). We read what is whole up
to the first that is not yet, put zeros there, and move the tail.
"""

from __future__ import annotations

import os
import struct
from typing import Final, NamedTuple

from dprobed.arch.x86_64.trampoline import (
    RECORD_DATA,
    RING_DATA,
    RING_HEAD,
    RING_TAIL,
    Rings,
)
from dprobed.engine.address_space import AddressSpace
from dprobed.engine.inline.shared import SharedMemory
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup

#: Bytes of a ring.
SIZE: Final = 1 << 20
_STRIDE: Final = RING_DATA + 2 * SIZE
#: Rings at most: on a machine with more CPUs, some share one.
_MOST: Final = 64
#: Bytes of a record at most.
LONGEST: Final = 1 << 16
# See ``arch.x86_64.trampoline``: size, state, site, time, thread, hit, exit, cpu, sizes, numbers,
# exception.
_RECORD: Final = struct.Struct("<IIQQQQqQQQQQQQQ")  # 112 bytes
#: Its first two fields. All that is reserved is whole words.
_BEGIN: Final = struct.Struct("<II")
_WORD: Final = 8
_MASK: Final = SIZE - 1
DAMAGE: Final = "the process has written over the memory of its records"


class RingRecord(NamedTuple):
    """A record. ``thread``: where its thread has its local variables; ``body``: pairs of numbers,
    which say what in the log is raw, and the log; each rounded up to words."""

    tsc: int
    site: int
    thread: int
    hit: int
    exit: int
    cpu: int
    log_size: int
    raw_count: int
    major: int
    minor: int
    exception: tuple[int, int, int]
    body: bytes


def _words(piece: bytes, at: int, size: int) -> tuple[int, ...] | None:
    """The words of a record of so many bytes; None: it is none."""
    if size % _WORD or not RECORD_DATA <= size <= min(len(piece) - at, LONGEST):
        return None
    words = _RECORD.unpack_from(piece, at)
    log_size, raw_count = words[8:10]
    return words if log_size + -(-raw_count // 2) * 8 <= size - RECORD_DATA else None


class RingMemory:
    """The rings of one address space."""

    def __init__(self, shared: SharedMemory, count: int) -> None:
        self.shared: Final = shared
        self.count: Final = count
        self.layout: Final = Rings(shared.address, count, SIZE, _STRIDE)
        #: Why a ring is not read any more: what the target wrote there is no record.
        self.damage = ""
        #: What was read of each, ever.
        self._tails: Final = [0] * count
        view = shared.view
        file_stride = RING_DATA + SIZE
        self._words: Final = [
            view[at : at + RING_DATA].cast("Q") for at in range(0, count * file_stride, file_stride)
        ]
        self._data: Final = [
            view[at + RING_DATA : at + file_stride]
            for at in range(0, count * file_stride, file_stride)
        ]

    @classmethod
    def make(
        cls, space: AddressSpace, group: ThreadGroup, thread: Thread, name: int, at: int = 0
    ) -> RingMemory:
        """Have a borrowed thread map some; see ``SharedMemory``."""
        count = 1
        while count < min(os.cpu_count() or 1, _MOST):
            count *= 2
        parts = []
        for number in range(count):
            there, here = number * _STRIDE, number * (RING_DATA + SIZE)
            parts += [
                (there, here, RING_DATA + SIZE),
                (there + RING_DATA + SIZE, here + RING_DATA, SIZE),
            ]
        return cls(SharedMemory.map_parts(space, group, thread, name, parts, at), count)

    def read(self, *, final: bool) -> list[RingRecord]:
        """What is whole, in the order of time. ``final``: nobody writes any more, so what is not
        whole never will be."""
        found: list[RingRecord] = []
        for number, (words, data) in enumerate(zip(self._words, self._data, strict=True)):
            # The target can write there as well as its trampolines: nothing is taken for granted.
            head, tail = words[RING_HEAD // 8], self._tails[number]
            if head == tail or self.damage:
                continue
            start, length = tail & _MASK, head - tail
            if not 0 < length <= SIZE or length % _WORD:
                self.damage = DAMAGE
                continue
            piece = bytes(data[start : start + length])
            piece += bytes(data[: length - len(piece)])
            read = self._parse(piece, found, final)
            first = min(read, SIZE - start)
            data[start : start + first] = bytes(first)
            data[: read - first] = bytes(read - first)
            words[RING_TAIL // 8] = self._tails[number] = tail + read
        found.sort()
        return found

    def _parse(self, piece: bytes, found: list[RingRecord], final: bool) -> int:
        """Append what is whole; how many bytes were read."""
        at = 0
        while at + RECORD_DATA <= len(piece):
            size, state = _BEGIN.unpack_from(piece, at)
            if not size or not (state or final):
                break
            words = _words(piece, at, size)
            if words is None:
                self.damage = DAMAGE
                break
            if state:
                body = piece[at + RECORD_DATA : at + size]
                found.append(
                    RingRecord._make((words[3], words[2], *words[4:12], words[12:15], body))
                )
            at += size
        else:
            if at < len(piece):
                self.damage = DAMAGE  # Less was reserved there than a record takes.
        return at
