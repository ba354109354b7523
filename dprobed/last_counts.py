"""What a tracer's probes have counted, in the file of its change journal: who comes after it counts
on from there.

It is noted every second or so, not at each hit: behind the table of changes there is room for two
notes, written by turns, so that one of them is whole whenever the tracer is killed. Each begins
with

    0  u32  CRC-32 of the next 16 bytes
    4  u32  CRC-32 of the note
    8  u32  its length, and 12 u32 0
    16 u64  when that was so (monotonic ns)

As long as nothing is counted only the time is written anew. What is in the note is the tracer's
own, and says nothing of what others have.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from typing import Final

from dprobed.change_journal import MOST, RECORD

#: The longest note: of some 40,000 probes.
ROOM: Final = 4 << 20
_BEGIN: Final = MOST * RECORD
_HEAD: Final = struct.Struct("<IIIIQ")
#: Bytes of a note that there is room for.
LONGEST: Final = ROOM - _HEAD.size


def outlives(descriptor: int) -> bool:
    """Whether the file has a name, by which it is found again: that of a single command has not."""
    return os.fstat(descriptor).st_nlink > 0


def _head(note: bytes, time: int) -> bytes:
    head = _HEAD.pack(0, zlib.crc32(note), len(note), 0, time)
    return zlib.crc32(head[4:]).to_bytes(4, "little") + head[4:]


class LastCounts:
    """Writes them; raises OSError where there is no room: then the last ones stay."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: Final = descriptor
        self._turn = 0
        self._note = b""

    def write(self, note: bytes, time: int) -> None:
        """What is so at ``time``."""
        if len(note) > LONGEST:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        turn = 1 - self._turn
        begin = _BEGIN + turn * ROOM
        done = os.pwrite(self._descriptor, note, begin + _HEAD.size)
        if done != len(note):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.pwrite(self._descriptor, _head(note, time), begin)
        self._turn, self._note = turn, note

    def renew(self, time: int) -> None:
        """The same is still so at ``time``."""
        os.pwrite(self._descriptor, _head(self._note, time), _BEGIN + self._turn * ROOM)


def read(descriptor: int) -> tuple[int, bytes] | None:
    """The last note, and when that was so; None: there is none. Raises OSError."""
    found: list[tuple[int, bytes]] = []
    for turn in (0, 1):
        begin = _BEGIN + turn * ROOM
        head = os.pread(descriptor, _HEAD.size, begin)
        if len(head) != _HEAD.size or not any(head):
            continue
        checksum, of_note, length, _, time = _HEAD.unpack(head)
        if checksum != zlib.crc32(head[4:]) or length > ROOM:
            continue
        note = os.pread(descriptor, length, begin + _HEAD.size)
        if len(note) == length and of_note == zlib.crc32(note):
            found.append((time, note))
    return max(found, default=None)
