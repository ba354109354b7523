"""Resident areas: our pages in a target, for out-of-line slots, within reach of its modules.

A target may unmap what it did not map itself, and map what is its own there. So each page of an
area ends with a mark, and nothing is written there, nor unmapped, without a look at that.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from dprobed.arch.x86_64.breakpoint import UD2
from dprobed.arch.x86_64.paging import NEAR, PAGE, USER_END, WORD
from dprobed.arch.x86_64.relocation import MAX_SLOT as SLOT
from dprobed.arch.x86_64.syscalls import SYS_MMAP, SYS_MUNMAP
from dprobed.change_journal import Changes, Kind
from dprobed.engine import remote_calls
from dprobed.engine.errors import SpaceError
from dprobed.engine.remote_calls import RemoteCalls, note
from dprobed.tracee.memory import Memory
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup

#: In the last slot of each page of an area: an invalid instruction, and our name.
MARK: Final = UD2 + b"slots of dprobed"
_REACH: Final = NEAR - (1 << 20)
_GAP: Final = 16 * PAGE
#: What the stack may still grow; the kernel leaves 128 MiB at least (mmap_base, arch/x86/mm).
_STACK_ROOM: Final = 64 << 20
_LOWEST: Final = 1 << 20
_HIGHEST: Final = USER_END - PAGE
_PROT_READ_EXEC: Final = 5
_MAP_PRIVATE_ANONYMOUS_FIXED_NOREPLACE: Final = 0x100022
_NO_FILE: Final = WORD
_EEXIST: Final = -17


class SlotPages:
    """Pages in the target that hold slots."""

    __slots__ = ("end", "free", "lost", "start")

    def __init__(self, start: int, size: int) -> None:
        self.start: Final = start
        self.end = start + size
        #: The target did something to it: no place for new slots.
        self.lost = False
        marks = self.marks()
        self.free = [
            slot for slot in range(start + size - SLOT, start - SLOT, -SLOT) if slot not in marks
        ]

    def marks(self) -> range:
        """Where its marks are."""
        return range(self.start + PAGE - SLOT, self.end, PAGE)

    def holds(self, address: int) -> bool:
        """Whether an address is in it."""
        return self.start <= address < self.end

    def reaches(self, address: int) -> bool:
        """Whether the code at an address and that in its slots reach each other."""
        return abs(address - self.start) < _REACH and abs(self.end - address) < _REACH

    def copy(self) -> SlotPages:
        """The same pages in another process."""
        other = SlotPages(self.start, 0)
        other.end = self.end
        other.free = list(self.free)
        other.lost = self.lost
        return other


class ResidentArea:
    """All areas of one address space."""

    def __init__(self, tgid: int, memory: Memory, calls: RemoteCalls, changes: Changes) -> None:
        self._tgid: Final = tgid
        self.areas: list[SlotPages] = []
        self._memory: Final = memory
        self._calls: Final = calls
        self._changes: Final = changes

    def of(self, address: int) -> SlotPages | None:
        """The area that an address is in."""
        return next((area for area in self.areas if area.holds(address)), None)

    def near(self, address: int) -> SlotPages | None:
        """An area with a free slot for the instruction at an address."""
        for area in self.areas:
            if area.free and not area.lost and area.reaches(address):
                return area
        return None

    def has_room(self, address: int) -> bool:
        """Whether there is a free slot for an address, and its area is still ours."""
        area = self.near(address)
        return area is not None and self._is_whole(area)

    def _is_whole(self, area: SlotPages) -> bool:
        return all(self._memory.peek(mark, len(MARK)) == MARK for mark in area.marks())

    def give_back(self, slot: int) -> None:
        """A slot is free again; no thread may be in it."""
        for area in self.areas:
            if area.holds(slot):
                area.free.append(slot)

    def whole(self) -> list[SlotPages]:
        """The areas that are still ours, not unmapped or reused by the target.

        All of them while the target is in ``exec``, which is reported later.
        """
        whole = [area for area in self.areas if self._is_whole(area)]
        if len(whole) < len(self.areas) and self._memory.is_gone():
            return list(self.areas)
        return whole

    def reserve(
        self, group: ThreadGroup, tgid: int, addresses: Iterable[int], used: Iterable[int]
    ) -> None:
        """Have the target map room for slots near these addresses; stops all threads.

        ``used``: slots that are taken. Raises SpaceError and Gone.
        """
        missing = self._without_room(addresses, used)
        while missing:
            first = missing[0]
            cluster = [address for address in missing if address - first < _REACH // 2]
            size = -(-len(cluster) // (PAGE // SLOT - 1)) * PAGE
            with group.borrower.borrowed(tgid) as thread:
                self._map_area(group, thread, cluster[0], cluster[-1], size)
            missing = missing[len(cluster) :]

    def _without_room(self, addresses: Iterable[int], used: Iterable[int]) -> list[int]:
        """The addresses for which there is no slot yet, ascending."""
        whole = self.whole()
        for area in self.areas:
            area.lost = area.lost or area not in whole
        taken = list(used)
        self.areas[:] = [
            area for area in self.areas if area in whole or any(map(area.holds, taken))
        ]
        usable = [area for area in whole if not area.lost]
        room = {id(area): len(area.free) for area in usable}
        missing: list[int] = []
        for address in sorted(addresses):
            for area in usable:
                if area.reaches(address) and room[id(area)] > 0:
                    room[id(area)] -= 1
                    break
            else:
                missing.append(address)
        return missing

    def _map_area(self, group: ThreadGroup, thread: Thread, low: int, high: int, size: int) -> None:
        area = SlotPages(self.map(group, thread, low, high, size, Kind.AREA), size)
        for mark in area.marks():
            self._memory.poke(mark, MARK)
        self.areas.append(area)

    def map(
        self, group: ThreadGroup, thread: Thread, low: int, high: int, size: int, kind: Kind
    ) -> int:
        """Have a thread map executable memory near these addresses; where. It is noted before.

        Raises SpaceError and Gone.
        """
        # A thread on its way to a slot that is not there any more must not find another there.
        lost = [(area.start, area.end) for area in self.areas if area.lost]
        for start in gaps(thread.tid, low, high, size, lost):
            if self.map_at(group, thread, start, size, kind):
                return start
        raise SpaceError(f"no free address for slots within 2 GiB of {low:#x}")

    def map_at(self, group: ThreadGroup, thread: Thread, start: int, size: int, kind: Kind) -> bool:
        """The same there; false: somebody was faster. Raises SpaceError and Gone."""
        note(self._changes, kind, start, size.to_bytes(8, "little"))
        result = self._calls.call(
            group,
            thread,
            SYS_MMAP,
            start,
            size,
            _PROT_READ_EXEC,
            _MAP_PRIVATE_ANONYMOUS_FIXED_NOREPLACE,
            _NO_FILE,
            0,
        )
        if result == start:
            return True
        self._changes.forget(kind, start)
        if result > 0:  # before Linux 4.17 the flag is only a hint
            self._calls.call(group, thread, SYS_MUNMAP, result, size)
        elif result != _EEXIST:  # somebody was faster
            raise SpaceError(
                f"the target cannot map {size} bytes for slots: {os.strerror(-result)}"
            )
        return False

    def unmap(self, group: ThreadGroup, thread: Thread) -> None:
        """Have ``thread``'s process unmap the areas that are still ours.

        Raises SpaceError and Gone.
        """
        for area in self.whole():
            self._calls.call(group, thread, SYS_MUNMAP, area.start, area.end - area.start)
            self._changes.forget(Kind.AREA, area.start)

    def adopt(self, start: int, size: int) -> None:
        """Take over an area that another tracer left, if there; raises SpaceError and Gone."""
        area = SlotPages(start, size)
        self.areas.append(area)
        if self.is_blank(start, size):
            for mark in area.marks():
                self._memory.poke(mark, MARK)
        if area not in self.whole():
            self.areas.remove(area)
            self._changes.forget(Kind.AREA, start)

    def is_blank(self, start: int, size: int) -> bool:
        """Whether what was to be mapped here is, and nothing was written there yet."""
        return self._memory.peek(start, size) == bytes(size) and any(
            (line.start, line.end, line.perms, line.inode) == (start, start + size, b"r-xp", 0)
            for line in remote_calls.mappings(self._tgid)
        )


def gaps(
    tid: int, low: int, high: int, size: int, taken: Iterable[tuple[int, int]] = ()
) -> list[int]:
    """Free addresses within reach, the nearest first; not in what is ``taken``.

    Preferred is the upper end of a gap, away from what grows up (the heap); below the stack, which
    grows down, its lower end. Hundreds of threads leave no other gap near libraries: their stacks
    are mapped one right below the other. Raises SpaceError and Gone.
    """
    found: list[tuple[int, int]] = []
    floor = _LOWEST
    mapped = [(start, end, False) for start, end in (*taken, (_HIGHEST, _HIGHEST))]
    for line in remote_calls.mappings(tid):
        mapped.append((line.start, line.end, line.name == b"[stack]"))
    for start, end, is_stack in sorted(mapped):
        if start > _HIGHEST:
            break
        if is_stack:
            here = (floor + _GAP) // PAGE * PAGE
            fits = start - here - size >= _STACK_ROOM
        else:
            here = (start - _GAP - size) // PAGE * PAGE
            # The far end of a huge gap may be out of reach where its near end is not.
            here = min(here, (low + _REACH - 2 * size) // PAGE * PAGE)
            fits = here >= floor + _GAP
        if fits:
            distance = max(abs(here - low), abs(here + size - high))
            if distance < _REACH and abs(here + size - low) < _REACH:
                found.append((distance, here))
        floor = max(floor, end)
    return [here for _, here in sorted(found)]
