"""Records of the target's rings, made records as every engine gives them."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from dprobed.arch.x86_64.registers import FS_BASE
from dprobed.arch.x86_64.time_stamp import TimeStamps
from dprobed.engine.inline.rings import RingRecord
from dprobed.engine.interface import RecordSink
from dprobed.engine.probe import Attachment
from dprobed.proc import procfs
from dprobed.proc.names import NAMES
from dprobed.program.exec.native.abi import Blob
from dprobed.program.exits import BUDGET, EXCEPTION
from dprobed.tracee.lifecycle import State
from dprobed.tracee.ptrace import Gone, Registers
from dprobed.tracee.thread import Thread
from dprobed.wire.protocol import RawRecord

#: Threads that are remembered after their end, since records of theirs may be left.
_REMEMBERED: Final = 10_000
#: How a program may end besides as its instructions say.
_ALWAYS: Final = frozenset((EXCEPTION, BUDGET))
#: More CPUs than trampolines can tell apart, and more hits than there can be.
_CPUS: Final = 1 << 12
_HITS: Final = 1 << 48
#: How long a thread's user id, once read, is taken for true.
_IDENTITY_NS: Final = 100_000_000


def log_room(blob: Blob) -> int:
    """Bytes for a log, in words."""
    return -(-blob.log_bytes // 8) * 8


def raw_room(blob: Blob) -> int:
    """Bytes for what says where words without prefix lie in a log, in words."""
    return -(-4 * blob.raw_pairs // 8) * 8


def room_of(blob: Blob) -> int:
    """Bytes that a program needs besides its ``struct hit``."""
    return log_room(blob) + raw_room(blob) + blob.scratch_bytes


class ThreadPointers:
    """Which thread has its local variables where (the base of fs), as their first stops show.

    One whose place nobody knows is the process's first: it sets that up itself.
    """

    def __init__(self, tgid: int, registers: Registers) -> None:
        self._tgid: Final = tgid
        self._registers: Final = registers
        #: The latest last: a child in ``vfork`` has its parent's.
        self._tids: Final[dict[int, list[int]]] = {}

    def is_others(self, thread: Thread) -> bool:
        """Whether another has had its there where a stopped thread has its own; raises Gone."""
        pointer = self._registers.load(thread.tid)[FS_BASE]
        return self._tids.get(pointer, [thread.tid])[-1] != thread.tid

    def note(self, thread: Thread) -> None:
        """A thread is stopped; raises Gone."""
        pointer = self._registers.load(thread.tid)[FS_BASE]
        if len(self._tids) > _REMEMBERED:
            self._tids.clear()
        tids = self._tids.setdefault(pointer, [])
        if pointer and thread.tid not in tids:
            tids.append(thread.tid)

    def shares(self, tid: int) -> bool:
        """Whether a thread has its there where another one has, too."""
        return any(tid in tids and len(tids) > 1 for tids in self._tids.values())

    def forget(self, tid: int) -> None:
        """A thread has ended that had its where another one has, too."""
        for tids in self._tids.values():
            if tid in tids and len(tids) > 1:
                tids.remove(tid)

    def tid(self, pointer: int) -> int:
        """The thread that has its variables there."""
        tids = self._tids.get(pointer)
        return tids[-1] if tids else self._tgid


class RecordPlaces:
    """The places whose numbers records have."""

    def __init__(self) -> None:
        self._places: Final[list[Attachment]] = []
        self._exits: Final[list[frozenset[int]]] = []
        self._firsts: Final[list[int]] = []

    def number(self, attachment: Attachment, exits: frozenset[int], first: int = 1) -> int:
        """A number for a place, whose program has these exits; ``first``: the number of the first
        hit that may make a record."""
        self._places.append(attachment)
        self._exits.append(exits | _ALWAYS)
        self._firsts.append(first)
        return len(self._places) - 1

    def __setitem__(self, number: int, attachment: Attachment) -> None:
        self._places[number] = attachment

    def of(self, record: RingRecord) -> Attachment | None:
        """The place of a record; None: no trampoline of ours can have made it."""
        number = record.site
        is_ours = (
            number < len(self._places)
            and record.exit in self._exits[number]
            and self._firsts[number] <= record.hit < _HITS
            and record.cpu < _CPUS
        )
        return self._places[number] if is_ours else None

    def copy(self, twins: dict[Attachment, Attachment]) -> RecordPlaces:
        """The same numbers in a copy of the address space."""
        other = RecordPlaces()
        other._places.extend(twins.get(each, each) for each in self._places)
        other._exits.extend(self._exits)
        other._firsts.extend(self._firsts)
        return other


class RecordReader:
    """Makes records of what is found in rings."""

    def __init__(self, pid: int, sink: RecordSink, pointers: ThreadPointers) -> None:
        self._pid: Final = pid
        self._sink: Final = sink
        self._pointers: Final = pointers
        self._uids: Final[dict[int, tuple[int, int]]] = {}
        #: The names of threads, for when they have ended.
        self._names: Final[dict[int, bytes]] = {}

    def take(self, records: Iterable[RingRecord], places: RecordPlaces, clock: TimeStamps) -> bool:
        """Pass these on; false: there are some that no trampoline of ours has made."""
        are_ours = True
        latest = time.monotonic_ns()
        for each in records:
            attachment = places.of(each)
            if attachment is None:
                are_ours = False
                continue
            probe = attachment.probe
            tid = self._pointers.tid(each.thread)
            room = -(-each.raw_count // 2) * 8
            self._sink.add(probe, RawRecord(
                probe.program, probe.index, attachment.number, self._pid, tid, self._name(tid),
                self._uid(tid), each.cpu,
                min(max(clock.nanoseconds(each.tsc), 0), latest), each.hit, each.exit,
                each.major, each.minor,
                each.body[room : room + each.log_size],
                struct.unpack_from(f"<{2 * each.raw_count}H", each.body),
                each.exception if each.exit == EXCEPTION else None,
            ))  # fmt: skip
        return are_ours

    def _name(self, tid: int) -> bytes:
        name = NAMES.of(tid) or self._names.get(tid, b"")
        if len(self._names) > _REMEMBERED:
            self._names.clear()
        self._names[tid] = name
        return name

    def note(self, thread: Thread) -> None:
        """A thread is stopped, and may come by; raises Gone."""
        self._pointers.note(thread)
        self._name(thread.tid)

    def note_stopped(self, threads: Iterable[Thread]) -> None:
        """The same of those of these that are stopped."""
        for thread in threads:
            if thread.state in (State.STOPPED, State.HELD):
                with suppress(Gone):
                    self.note(thread)

    def is_to_read(self, thread: Thread) -> bool:
        """Whether records have to be read before ``note``: those of another thread; raises Gone."""
        return self._pointers.is_others(thread)

    def shares(self, tid: int) -> bool:
        """Whether records have to be read before ``forget``."""
        return self._pointers.shares(tid)

    def forget(self, tid: int) -> None:
        """A thread has ended; records of it may be left."""
        self._pointers.forget(tid)

    def _uid(self, tid: int) -> int:
        now = time.monotonic_ns()
        uid, until = self._uids.get(tid, (0, 0))
        if now > until:
            found = procfs.real_ids(tid)
            if found is not None:
                uid = found[0]
            self._uids[tid] = uid, now + _IDENTITY_NS
        return uid
