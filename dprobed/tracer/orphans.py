"""Orphans: processes whose tracer was killed, and what it has left in them.

Its change journal, which this tracer was given, names all of it. First the text is restored, in all
of them, without stopping any: a thread of one that is not guarded would die at the next breakpoint.
A byte is written only where an ``int3`` is with the bytes around it that were there. Then each is
attached to, and detached from at once: by that threads leave our pages, which are unmapped, and
dispositions and debug registers are put right.

A process that has another tracer by now is left alone, and stays in the journal.

A child that was forked before its tracer was killed has the breakpoints, too, and may have another
parent by now. So every process that this user may write to is looked at once, for a breakpoint at
one of the places with the bytes around it that were there. Where there is one, semaphores of static
probes are counted down, too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container, Iterable, Iterator
from itertools import islice
from typing import Final

from dprobed.arch.x86_64.breakpoint import INT3
from dprobed.arch.x86_64.paging import PAGE
from dprobed.change_journal import Change, Kind, SiteChange
from dprobed.engine.semaphores import SEMAPHORE_BYTES
from dprobed.proc import procfs
from dprobed.tracer.debug.folders import remove_abandoned, socket_folder
from dprobed.tracer.inserted import RequestError
from dprobed.tracer.targets import Targets
from dprobed.wire import protocol
from dprobed.wire.notices import NoticeKind

#: Descendants of one process that are looked at: they have its breakpoints if it forked meanwhile.
_DESCENDANTS: Final = 1000
#: Places by which a copy of a text is known, and the bytes around each that it takes.
_OLDEST: Final = 4
_CONTEXT: Final = 8
#: Bytes of an entry of ``pagemap``, and what its bits say: that the page is there, in memory or
#: swapped out, and that it is of a file, or shared.
# Documentation/admin-guide/mm/pagemap.rst
_ENTRY: Final = 8
_IS_THERE: Final = 3 << 62
_OF_FILE: Final = 1 << 61


class Orphans:
    """The processes that a tracer was given besides its own targets."""

    def __init__(self, targets: Targets) -> None:
        self._targets: Final = targets
        self._journal: Final = targets.context.journal

    def recover(self) -> list[int]:
        """Put right what can be; tells of each. Those that could not be attached to."""
        remove_abandoned(socket_folder())
        there = []
        for (pid, start), changes in list(self._journal.found.items()):
            if procfs.start_time(pid) != start or procfs.has_ended(pid):
                self._journal.drop(pid, start)
            else:
                there.append((pid, changes))
        seen: set[int] = set()
        removed = {pid: restore(pid, changes, seen) for pid, changes in there}
        for stray in strays([changes for _, changes in there], seen):
            self._tell(
                NoticeKind.RECOVERED, stray, "breakpoints of its parent's lost tracer removed"
            )
        return [pid for pid, _ in there if not self._release(pid, removed[pid])]

    def _release(self, pid: int, removed: int) -> bool:
        """Undo the rest; false: another tracer has the process."""
        try:
            self._targets.attach(protocol.Attach(0, pid))
        except RequestError as error:
            if procfs.has_ended(pid):
                return True
            self._tell(NoticeKind.ORPHAN, pid, f"something of its lost tracer may be left: {error}")
            return False
        except Exception as error:
            if (target := self._targets.by_pid.get(pid)) is not None:
                self._targets.fail(target, error)
            self._tell(
                NoticeKind.ORPHAN, pid, f"something of its lost tracer may be left: {error!r}"
            )
            return True
        left = "" if self._targets.leave(pid) else "; its pages go when it wakes"
        self._tell(
            NoticeKind.RECOVERED, pid, f"{removed} breakpoints of its lost tracer removed{left}"
        )
        return True

    def _tell(self, kind: NoticeKind, pid: int, text: str) -> None:
        self._targets.context.reporter.send(protocol.TargetEvent(kind, pid, pid, text))


def restore(pid: int, changes: Iterable[Change], seen: set[int]) -> int:
    """Restore a process's text, and that of its fork children; how many breakpoints there were.

    ``seen``: gets them all.
    """
    text = _Text(changes)
    family = [pid]
    count = 0
    for each in family:
        seen.add(each)
        if len(family) <= _DESCENDANTS:
            family += procfs.children(each)
        with _memory(each) as memory:
            if memory is not None:
                found = text.restore(memory)
                count += found
                # The process itself is attached to, which does that with all else.
                if found and each != pid:
                    text.lower(memory)
    return count


def strays(orphans: list[list[Change]], seen: Container[int]) -> Iterator[int]:
    """Restore the text of all other processes that have breakpoints of these; each of them."""
    texts = [text for changes in orphans if (text := _Text(changes)).marks]
    if not texts:
        return
    for name in os.listdir("/proc"):  # noqa: PTH208
        if not name.isdecimal() or (pid := int(name)) in seen or pid == os.getpid():
            continue
        with _memory(pid) as memory:
            if memory is None:
                continue
            its = [text for text in texts if text.restore(memory, text.marks)]
            for text in its:
                text.restore(memory)
                text.lower(memory)
            if its:
                yield pid


class _Memory:
    """A process's memory, where breakpoints may be. Raises OSError."""

    def __init__(self, tid: int) -> None:
        self.descriptor: Final = os.open(f"/proc/{tid}/mem", os.O_RDWR | os.O_CLOEXEC)
        try:
            self._pagemap: Final = os.open(f"/proc/{tid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(self.descriptor)
            raise

    def close(self) -> None:
        """Close the descriptors."""
        os.close(self.descriptor)
        os.close(self._pagemap)

    def has_own(self, address: int) -> bool:
        """Whether the page is a copy that the process has of its own, as it is where a breakpoint
        was written; raises OSError. Others would perhaps be waited for without end: a file system
        does not answer, the process itself is to fill them."""
        entry = int.from_bytes(os.pread(self._pagemap, _ENTRY, address // PAGE * _ENTRY), "little")
        return bool(entry & _IS_THERE) and not entry & _OF_FILE


@contextlib.contextmanager
def _memory(pid: int) -> Iterator[_Memory | None]:
    """A process's memory to write to; None: it is gone, not ours to write to, or traced by another
    process, whose breakpoints may be there."""
    found = procfs.status(pid)
    memory = None
    if found is not None and not found.tracer:
        with contextlib.suppress(OSError):
            memory = _Memory(procfs.live_thread(pid))
    try:
        yield memory
    finally:
        if memory is not None:
            memory.close()


class _Text:
    """What was changed in the text of one address space, and of its copies."""

    def __init__(self, changes: Iterable[Change]) -> None:
        self._sites: Final[list[SiteChange]] = []
        #: The first byte of each place's instruction.
        self._original: Final[dict[int, int]] = {}
        #: Semaphores that were counted up, and what they were before.
        self._semaphores: Final[list[tuple[int, int]]] = []
        for change in changes:
            if change.kind is Kind.SEMAPHORE:
                before = int.from_bytes(change.data[:SEMAPHORE_BYTES], "little")
                self._semaphores.append((change.address, before))
            elif change.kind is Kind.SITE:
                site = SiteChange.unpack(change.data)
                if site is not None and site.original:
                    self._sites.append(site)
                    self._original[site.address] = site.original[0]
            elif change.kind is Kind.RAW and change.data:
                site = SiteChange(change.address, change.data[:1], b"", b"")
                self._sites.append(site)
                self._original[site.address] = site.original[0]

    @property
    def marks(self) -> list[SiteChange]:
        """The oldest places that a copy is known by: not by a lone byte."""
        known = (each for each in self._sites if len(each.before + each.behind) >= _CONTEXT)
        return list(islice(known, _OLDEST))

    def lower(self, memory: _Memory) -> None:
        """Count down the semaphores, in a copy in which breakpoints were still there."""
        descriptor = memory.descriptor
        for address, before in self._semaphores:
            with contextlib.suppress(OSError, OverflowError):
                if not memory.has_own(address):
                    continue
                now = int.from_bytes(os.pread(descriptor, SEMAPHORE_BYTES, address), "little")
                if now > before:
                    os.pwrite(descriptor, (now - 1).to_bytes(SEMAPHORE_BYTES, "little"), address)

    def restore(self, memory: _Memory, sites: Iterable[SiteChange] | None = None) -> int:
        """Restore it, or these places of it; how many breakpoints there were."""
        count, descriptor = 0, memory.descriptor
        for site in self._sites if sites is None else sites:
            first = site.address - len(site.before)
            size = len(site.before) + 1 + len(site.behind)
            try:
                if not memory.has_own(site.address):
                    continue
                now = bytearray(os.pread(descriptor, size, first))
                if now[len(site.before) : len(site.before) + 1] != INT3 or len(now) != size:
                    continue
                for offset, byte in enumerate(now):
                    if byte == INT3[0]:  # Other places may be near.
                        now[offset] = self._original.get(first + offset, byte)
                if bytes(now) == site.before + site.original[:1] + site.behind:
                    count += os.pwrite(descriptor, site.original[:1], site.address)
            except (OSError, OverflowError):
                continue
        return count
