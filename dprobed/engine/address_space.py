"""One address space of the target: its patched sites, their slots, and the pages that hold these.

Rules:

* A *site* is one patched place; any number of probes hang on it. Its original bytes are read once,
  when it is made, and through the overlay of the other sites' original bytes.
* Text is changed while the world is stopped, one byte a site, and only where the byte is what we
  expect: ours when we take a site out (a module may have been unmapped and another mapped in its
  place), the original one when we put it in.
* An ``int3`` alone does not tell that it is ours: programs fill memory with them. Nor does text
  without a file tell that it is not: some programs move theirs to huge pages. What is around does.
* Slots lie in *areas*: pages that the target maps for us within reach of the module. A slot is used
  again only after every thread has been taken out of it.
* A target may unmap what it did not map itself, and map what is its own there. So each page of an
  area ends with a mark, and nothing is written there, nor unmapped, without a look at that.
* The undo is known before the change: a site is in ``by_trap`` before its byte is written.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from dprobed.arch.x86_64.registers import RIP
from dprobed.arch.x86_64.relocation import Displaced, Position, RelocationError, Where, displace
from dprobed.proc import maps, procfs, refusals
from dprobed.tracee import ptrace
from dprobed.tracee.memory import PAGE, Memory
from dprobed.tracee.ptrace import Gone, Registers
from dprobed.tracee.remote_syscall import RemoteSyscallError
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup

if TYPE_CHECKING:
    from dprobed.engine.probe import Attachment

INT3: Final = b"\xcc"
SLOT: Final = 64
#: In the last slot of each page of an area: ud2, and whose it is.
MARK: Final = b"\x0f\x0bslots of dprobed"
#: Bytes of text before and behind a site, of its page, by which it is known again.
_AROUND: Final = 16
_REACH: Final = (1 << 31) - (1 << 20)
_GAP: Final = 16 * PAGE
#: What the stack may still grow; the kernel leaves 128 MiB at least (mmap_base, arch/x86/mm).
_STACK_ROOM: Final = 64 << 20
_LOWEST: Final = 1 << 20
_HIGHEST: Final = (1 << 47) - PAGE
_SYSCALL: Final = b"\x0f\x05"
_SYS_MMAP: Final = 9
_SYS_MUNMAP: Final = 11
_SYS_PRCTL: Final = 157
_PR_SET_DUMPABLE: Final = 4
_PROT_READ_EXEC: Final = 5
_MAP_PRIVATE_ANONYMOUS_FIXED_NOREPLACE: Final = 0x100022


class SpaceError(Exception):
    """The address space cannot be prepared; one line."""


class Site:
    """One patched place."""

    __slots__ = (
        "address",
        "around",
        "attachments",
        "callback",
        "displaced",
        "gone",
        "original",
        "plain",
        "slot",
        "trap",
    )

    def __init__(
        self,
        address: int,
        original: bytes,
        slot: int,
        displaced: Displaced,
        around: tuple[bytes, bytes],
    ) -> None:
        self.address: Final = address
        #: Where a thread's rip is after the breakpoint fired.
        self.trap: Final = address + 1
        self.original: Final = original
        self.slot: Final = slot
        self.displaced: Final = displaced
        #: The text before and behind its first byte.
        self.around: Final = around
        self.attachments: list[Attachment] = []
        #: Of the tracer itself (the dynamic loader's notification); called at each hit.
        self.callback: Callable[[Thread], None] | None = None
        #: Its module was unmapped.
        self.gone = False
        #: A SIGTRAP behind it is its breakpoint and calls for its programs only (``classify``).
        self.plain = False

    def twin(self) -> Site:
        """The same in a copy of the memory."""
        other = Site(self.address, self.original, self.slot, self.displaced, self.around)
        other.gone = self.gone
        return other

    def position(self, offset: int) -> Position:
        """What a thread is equivalent to that stands ``offset`` bytes into the slot."""
        for at, position in reversed(self.displaced.positions):
            if at <= offset:
                return position
        raise AssertionError("a slot has a position at offset 0")


def _pushes(displaced: Displaced) -> bool:
    """Whether a ``push`` stands for a ``call``: a shadow stack would know nothing of it."""
    return any(position.where is Where.INSIDE for _, position in displaced.positions)


class Area:
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

    def copy(self) -> Area:
        """The same pages in another process."""
        other = Area(self.start, 0)
        other.end = self.end
        other.free = list(self.free)
        other.lost = self.lost
        return other


def _maps(tid: int) -> list[maps.Line]:
    """A thread's mappings; raises Gone and SpaceError."""
    try:
        return maps.lines(procfs.mappings(tid))
    except PermissionError:
        raise SpaceError(
            "the target has made itself not dumpable, so its list of mappings is root's; ask root"
        ) from None
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise SpaceError(f"its list of mappings is {error.strerror}") from None
        raise Gone(tid) from None


class AddressSpace:
    """One address space: the target's, or what is left of it after ``exec`` in a CLONE_VM child."""

    def __init__(self, tgid: int, memory: Memory) -> None:
        """``memory`` is closed with it."""
        self.tgid = tgid
        self.memory = memory
        #: Our changes cannot be taken out.
        self.sealed = False
        self.by_trap: dict[int, Site] = {}
        self.areas: list[Area] = []
        #: A debugger's breakpoints where no site can be (a return to the stack): what was there.
        self.raw: dict[int, bytes] = {}
        self._slots: dict[int, Site] = {}
        #: By address, those that wait for ``arm``.
        self._unarmed: dict[int, Site] = {}
        self._gate = 0

    # --- looking ---

    def text(self, address: int, length: int) -> bytes:
        """Code as it is without us; short or empty where nothing is mapped."""
        data = bytearray(self.memory.peek(address, length))
        for offset in range(len(data)):
            site = self.by_trap.get(address + offset + 1)
            if site is not None and data[offset] == INT3[0]:
                data[offset] = site.original[0]
            elif (original := self.raw.get(address + offset)) is not None:
                data[offset] = original[0]
        return bytes(data)

    def slot_at(self, rip: int) -> tuple[Site, int] | None:
        """The site in whose slot ``rip`` is, and how many bytes into it."""
        for area in self.areas:
            if area.start <= rip < area.end:
                offset = (rip - area.start) % SLOT
                site = self._slots.get(rip - offset)
                return None if site is None else (site, offset)
        return None

    def sites(self) -> list[Site]:
        """All that have a slot, armed or not."""
        return list(self._slots.values())

    def lose_area_of(self, site: Site) -> list[Site]:
        """Slots in the same area as this site's cannot be used any more: whose these are."""
        lost = []
        for area in self.areas:
            if area.start <= site.slot < area.end:
                area.lost = True
                lost += [
                    each for slot, each in self._slots.items() if area.start <= slot < area.end
                ]
        return lost

    def stands(self, site: Site) -> bool:
        """Whether the ``int3`` at this site is there, and ours."""
        before, behind = site.around
        expected = before + INT3 + behind
        found = self.memory.peek(site.address - len(before), len(expected))
        if found == expected:
            return True
        if found[len(before) : len(before) + 1] != INT3:
            return False
        # Other sites may be near.
        if self._around(site.address) == site.around:
            return True
        # Either the target patched its code close by, or something else is mapped there.
        return not site.gone and self._is_of_a_file(site.address)

    def _around(self, address: int) -> tuple[bytes, bytes]:
        before = min(_AROUND, address % PAGE)
        behind = min(_AROUND, PAGE - 1 - address % PAGE)
        return self.text(address - before, before), self.text(address + 1, behind)

    def _is_of_a_file(self, address: int) -> bool:
        """Whether a file is mapped there; also if that cannot be told."""
        try:
            lines = _maps(self.tgid)
        except (Gone, SpaceError):
            return True
        for line in lines:
            if line.start <= address < line.end:
                return line.inode != 0
        return not lines  # the leading thread has ended, and shows nothing

    def whole_areas(self) -> list[Area]:
        """Those that are still ours, not unmapped by the target nor put to its own use.

        All of them where the target executes another program: that we are to hear of.
        """
        peek = self.memory.peek
        whole = [
            area
            for area in self.areas
            if all(peek(mark, len(MARK)) == MARK for mark in area.marks())
        ]
        if len(whole) < len(self.areas) and self.memory.is_gone():
            return list(self.areas)
        return whole

    # --- preparing: nothing of the target's own is changed ---

    def reserve(self, group: ThreadGroup, addresses: Iterable[int]) -> None:
        """Have the target map room for slots near these addresses; stops the world.

        Raises SpaceError and Gone.
        """
        missing: list[int] = []
        whole = self.whole_areas()
        for area in self.areas:
            area.lost = area.lost or area not in whole
        self.areas = [
            area
            for area in self.areas
            if area in whole or any(area.start <= slot < area.end for slot in self._slots)
        ]
        usable = [area for area in whole if not area.lost]
        room = {id(area): len(area.free) for area in usable}
        for address in sorted(addresses):
            for area in usable:
                if self._reaches(area.start, area.end, address) and room[id(area)] > 0:
                    room[id(area)] -= 1
                    break
            else:
                missing.append(address)
        while missing:
            first = missing[0]
            cluster = [address for address in missing if address - first < _REACH // 2]
            size = -(-len(cluster) // (PAGE // SLOT - 1)) * PAGE
            with group.borrower.borrowed(self.tgid) as thread:
                self._map_area(group, thread, cluster[0], cluster[-1], size)
            missing = missing[len(cluster) :]

    @staticmethod
    def _reaches(start: int, end: int, address: int) -> bool:
        return abs(address - start) < _REACH and abs(end - address) < _REACH

    def _map_area(self, group: ThreadGroup, thread: Thread, low: int, high: int, size: int) -> None:
        # A thread on its way to a slot that is not there any more must not find another there.
        lost = [(area.start, area.end) for area in self.areas if area.lost]
        for start in self._gaps(thread.tid, low, high, size, lost):
            result = self.call(
                group,
                thread,
                _SYS_MMAP,
                start,
                size,
                _PROT_READ_EXEC,
                _MAP_PRIVATE_ANONYMOUS_FIXED_NOREPLACE,
                0xFFFF_FFFF_FFFF_FFFF,
                0,
            )
            if result == start:
                area = Area(start, size)
                for mark in area.marks():
                    self.memory.poke(mark, MARK)
                self.areas.append(area)
                return
            if result > 0:  # before Linux 4.17 the flag is only a hint
                self.call(group, thread, _SYS_MUNMAP, result, size)
            elif result != -17:  # EEXIST: somebody was faster
                raise SpaceError(
                    f"the target cannot map {size} bytes for slots: {os.strerror(-result)}"
                )
        raise SpaceError(f"no free address for slots within 2 GiB of {low:#x}")

    @staticmethod
    def _gaps(
        tid: int, low: int, high: int, size: int, taken: Iterable[tuple[int, int]] = ()
    ) -> list[int]:
        """Free addresses within reach, the nearest first; not in what is ``taken``.

        Preferred is the upper end of a gap, away from what grows up (the heap); below the stack,
        which grows down, its lower end. Hundreds of threads leave no other gap near libraries:
        their stacks are mapped one right below the other.
        """
        found: list[tuple[int, int]] = []
        floor = _LOWEST
        mapped = [(start, end, False) for start, end in (*taken, (_HIGHEST, _HIGHEST))]
        for line in _maps(tid):
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

    def call(self, group: ThreadGroup, thread: Thread, number: int, *arguments: int) -> int:
        """An injected system call, past a seccomp filter where that is allowed.

        Raises SpaceError and Gone.
        """
        return self._call_at(self.gate(thread.tid), group, thread, number, arguments)

    def _call_at(
        self, gate: int, group: ThreadGroup, thread: Thread, number: int, arguments: tuple[int, ...]
    ) -> int:
        found = procfs.status(thread.tid)
        if found is None or not found.seccomp:
            return self._inject(group, thread, gate, number, arguments)
        if not refusals.may_suspend_seccomp():
            raise SpaceError(
                "the target has a seccomp filter, which may kill it for a system call of ours; "
                "as root it can be suspended for that moment"
            )
        try:
            ptrace.set_options(thread.tid, ptrace.OPTIONS | ptrace.PTRACE_O_SUSPEND_SECCOMP)
        except ptrace.PtraceError as error:
            raise SpaceError(f"the target's seccomp filter cannot be suspended: {error}") from error
        try:
            return self._inject(group, thread, gate, number, arguments)
        finally:
            ptrace.set_options(thread.tid, ptrace.OPTIONS)

    @staticmethod
    def _inject(
        group: ThreadGroup, thread: Thread, gate: int, number: int, arguments: tuple[int, ...]
    ) -> int:
        try:
            return group.remote.make(thread, gate, number, *arguments)
        except RemoteSyscallError as error:
            raise SpaceError(str(error)) from error

    def gate(self, tid: int) -> int:
        """The address of a ``syscall`` instruction: in the vDSO, else in any code there is.

        Raises SpaceError and Gone.
        """
        if self._gate and self.memory.peek(self._gate, 2) == _SYSCALL:
            return self._gate
        for line in sorted(_maps(tid), key=lambda each: each.name != b"[vdso]"):
            if b"x" not in line.perms or line.name == b"[vsyscall]":
                continue
            start, end = line.start, line.end
            while start < end:
                chunk = self.memory.peek(start, min(end - start, 1 << 20))
                at = chunk.find(_SYSCALL)
                if at >= 0 and self.text(start + at, 2) == _SYSCALL:
                    self._gate = start + at
                    return self._gate
                if not chunk:
                    break
                start += len(chunk)
        if self.memory.is_gone():
            raise Gone(tid)
        raise SpaceError("the target has no syscall instruction to borrow")

    def make_site(self, address: int) -> Site:
        """The site at an address, made ready but not armed; raises SpaceError with the reason."""
        known = self.by_trap.get(address + 1) or self._unarmed.get(address)
        if known is not None:
            return known
        code = self.text(address, 15)
        if not code:
            raise SpaceError(f"no memory is mapped at {address:#x}")
        for area in self.areas:
            if area.free and not area.lost and self._reaches(area.start, area.end, address):
                break
        else:
            raise SpaceError(f"no slot is free within 2 GiB of {address:#x}")
        slot = area.free[-1]
        try:
            displaced = displace(code, address, slot)
        except RelocationError as error:
            raise SpaceError(f"the instruction at {address:#x} cannot be probed: {error}") from None
        if _pushes(displaced) and self._has_shadow_stack():
            raise SpaceError(
                f"the call at {address:#x} cannot be probed: the target has a hardware shadow stack"
            )
        if len(displaced.code) > SLOT or not self.memory.poke(slot, displaced.code):
            raise SpaceError(f"the slot for {address:#x} cannot be written")
        area.free.pop()
        around = self._around(address)
        site = Site(address, code[: displaced.length], slot, displaced, around)
        self._slots[slot] = self._unarmed[address] = site
        return site

    def discard_unarmed(self) -> None:
        """Give the slots back of sites that were made ready and did not come to be armed."""
        for site in list(self._unarmed.values()):
            self.free(site)
        self._unarmed.clear()

    def _has_shadow_stack(self) -> bool:
        found = procfs.status(self.tgid)
        return found is not None and found.shadow_stack

    # --- changing text: the world is stopped ---

    def arm(self, site: Site) -> bool:
        """Write the breakpoint; false when the original instruction is not there any more.

        Nor for a site of the memory that was there before the target executed another program.
        """
        if self._slots.get(site.slot) is not site:
            return False
        if self.by_trap.get(site.trap) is site:
            if self.stands(site):
                return True
            del self.by_trap[site.trap]  # the target got rid of it: what is there is its own
        if self.text(site.address, site.displaced.length) != site.original:
            return False
        self.by_trap[site.trap] = site
        if self.memory.poke(site.address, INT3):
            self._unarmed.pop(site.address, None)
            return True
        del self.by_trap[site.trap]
        return False

    def disarm(self, site: Site) -> None:
        """Put the original byte back, if it is our breakpoint that stands there."""
        if self.by_trap.get(site.trap) is not site:
            return
        self._put_back(site)
        del self.by_trap[site.trap]

    def _put_back(self, site: Site) -> None:
        if self.stands(site):
            self.memory.poke(site.address, site.original[:1])

    def free(self, site: Site) -> None:
        """Give a disarmed site's slot back; no thread may be in it."""
        self._slots.pop(site.slot, None)
        for area in self.areas:
            if area.start <= site.slot < area.end:
                area.free.append(site.slot)

    def copy(self, group: ThreadGroup, thread: Thread) -> AddressSpace:
        """The space of a ``fork`` child that keeps its copy of our changes.

        Without what came after the ``fork``. A site that is not armed any more is there with its
        slot, in which the child's thread may be. Raises OSError when the child is gone, SpaceError
        and Gone.
        """
        other = self._other(group, thread)
        memory = other.memory
        for area in self.areas:
            if memory.peek(area.start, 1):
                other.areas.append(area.copy())
        twins = {site: site.twin() for site in self._slots.values()}
        # Any breakpoint of these may be there.
        other.by_trap.update((twin.trap, twin) for twin in twins.values())
        for site, twin in twins.items():
            has_slot = memory.peek(site.slot, len(site.displaced.code)) == site.displaced.code
            if has_slot:
                other._slots[twin.slot] = twin
                if self.by_trap.get(site.trap) is site and (site.gone or other.arm(twin)):
                    continue
            # Taken out while a thread, perhaps in ``fork``, could not be stopped; or the child was
            # not given the area (MADV_DONTFORK).
            other._put_back(twin)
            other.by_trap.pop(twin.trap, None)
        self._undo_raw(memory)
        return other

    def is_copied_in(self, group: ThreadGroup, thread: Thread) -> bool:
        """Whether a child that was forked from an unknown process has our slots in its memory.

        Raises Gone, and SpaceError when that cannot be seen.
        """
        try:
            memory = self._open_copy(group, thread)
        except OSError:
            raise Gone(thread.tid) from None
        try:
            return any(
                memory.peek(site.slot, len(site.displaced.code)) == site.displaced.code
                for site in self._slots.values()
            )
        finally:
            memory.close()

    def undone_copy(self, group: ThreadGroup, thread: Thread) -> AddressSpace:
        """The space of a ``fork`` child that is let go, with our changes of its text undone.

        Raises OSError when the child is gone, SpaceError and Gone.
        """
        other = self._other(group, thread)
        memory = other.memory
        other.areas = [area.copy() for area in self.areas]
        other._slots = dict(self._slots)
        # Also those taken out while a thread, perhaps in ``fork``, could not be stopped.
        other.by_trap.update((site.trap, site) for site in self._slots.values())
        for site in self._slots.values():
            other.disarm(site)
        self._undo_raw(memory)
        return other

    def _undo_raw(self, memory: Memory) -> None:
        """Take a debugger's breakpoints out of a copy of this space."""
        for address, original in self.raw.items():
            if memory.peek(address, 1) == INT3:
                memory.poke(address, original)

    def sealed_copy(self, tgid: int) -> AddressSpace:
        """The space of a ``fork`` child whose memory is closed to us: our changes stay in it."""
        other = AddressSpace(tgid, Memory.closed())
        other.sealed = True
        other.areas = [area.copy() for area in self.areas]
        for site in self._slots.values():
            twin = site.twin()
            other._slots[twin.slot] = other.by_trap[twin.trap] = twin
        return other

    def _other(self, group: ThreadGroup, thread: Thread) -> AddressSpace:
        other = AddressSpace(thread.tgid, self._open_copy(group, thread))
        other._gate = self._gate
        return other

    def _open_copy(self, group: ThreadGroup, thread: Thread) -> Memory:
        """Raises OSError when the child is gone, SpaceError and Gone."""
        try:
            return Memory(thread.tid)
        except PermissionError:
            # Not dumpable, which it has from its parent, and we are not root: its memory is closed
            # to us, but not its registers. So it opens it itself for that moment. It has just come
            # out of the system call that made it, whose instruction is the way in again: of the
            # parent's memory, in which others are known, nothing may be left.
            gate = Registers().load(thread.tid)[RIP] - len(_SYSCALL)
            self._call_at(gate, group, thread, _SYS_PRCTL, (_PR_SET_DUMPABLE, 1))
            try:
                return Memory(thread.tid)
            finally:
                self._call_at(gate, group, thread, _SYS_PRCTL, (_PR_SET_DUMPABLE, 0))

    def unmap_areas(self, group: ThreadGroup, thread: Thread) -> None:
        """Have ``thread``'s process unmap the areas that are still ours.

        Raises SpaceError and Gone.
        """
        for area in self.whole_areas():
            self.call(group, thread, _SYS_MUNMAP, area.start, area.end - area.start)

    def close(self) -> None:
        """Forget everything; what is in the target stays."""
        self.memory.close()
        self.by_trap.clear()
        self.raw.clear()
        self._slots.clear()
        self._unarmed.clear()
        self.areas.clear()
