"""The breakpoint sites of one address space, and the slots of their displaced instructions.

Rules:

* A *site* is one patched place, with any number of probes. Its original bytes are read once,
  when it is made, and through the overlay of the other sites' original bytes.
* Text is changed while all threads are stopped (but see ``returns``), one byte a site, and only
  where the byte is what we expect: ours when we take a site out (a module may have been unmapped
  and another mapped in its place), the original one when we put it in.
* An ``int3`` alone does not tell that it is ours: programs fill memory with them. Nor does text
  without a file tell that it is not: some programs move theirs to huge pages. What is around does.
* A slot is used again only after every thread has left it.
* The undo is known before the change: a site is in ``by_trap`` before its byte is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from dprobed.arch.x86_64.breakpoint import INT3
from dprobed.arch.x86_64.paging import PAGE
from dprobed.arch.x86_64.relocation import MAX_SLOT as SLOT
from dprobed.arch.x86_64.relocation import Displaced, Position, RelocationError, Where, displace
from dprobed.change_journal import Change, Kind, SiteChange
from dprobed.engine import remote_calls
from dprobed.engine.address_space import AddressSpace
from dprobed.engine.errors import SpaceError
from dprobed.engine.probe import Attachment
from dprobed.engine.remote_calls import note
from dprobed.engine.trap.guard import Guard
from dprobed.proc import procfs
from dprobed.tracee.ptrace import Gone
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup

#: Bytes of text before and behind a site, of its page, by which it is known again.
_AROUND: Final = 16
#: No instruction is longer.
_LONGEST: Final = 15


class NativePrograms:
    """Native programs in the target that a breakpoint leads to: ``target`` is where a thread goes
    on, and does what the displaced instruction does; ``lose`` takes the place from their probes,
    and says which these were."""

    __slots__ = ("lose", "target")

    def __init__(self, target: int, lose: Callable[[], list[Attachment]]) -> None:
        self.target: Final = target
        self.lose: Final = lose


class Site:
    """A breakpoint site: one patched place, and the slot of its displaced instruction."""

    __slots__ = (
        "address",
        "around",
        "attachments",
        "callback",
        "displaced",
        "entered",
        "gone",
        "native",
        "onward",
        "original",
        "plain",
        "seen",
        "simple",
        "slot",
        "trap",
        "users",
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
        #: Native programs that it leads to, and where a thread goes on: there, or in the slot.
        self.native: NativePrograms | None = None
        self.onward = slot
        self.displaced: Final = displaced
        #: The text before and behind its first byte.
        self.around: Final = around
        self.attachments: list[Attachment] = []
        #: Of return probes: the function that begins here is theirs.
        self.entered: list[Attachment] = []
        #: Of return probes that have seen a call that returns to here.
        self.users: set[Attachment] = set()
        #: An internal breakpoint (the dynamic loader's notification); called at each hit.
        self.callback: Callable[[Thread], None] | None = None
        #: Its module was unmapped.
        self.gone = False
        #: A SIGTRAP behind it is its breakpoint and calls for its programs only (``classify``).
        self.simple = False
        #: Its first hit showed that it is in no restartable sequence.
        self.seen = False
        #: Both, so that a hit needs no closer look.
        self.plain = False

    @property
    def is_empty(self) -> bool:
        """Whether no probe and no callback is left."""
        return not (
            self.attachments
            or self.entered
            or self.users
            or self.native is not None
            or self.callback is not None
        )

    def lead(self, native: NativePrograms | None) -> None:
        """Have threads run these native programs from now on; None: go on in the slot."""
        self.native = native
        self.onward = self.slot if native is None else native.target

    def lose_native(self) -> list[Attachment]:
        """Have it lead to no native programs any more; the places that their probes lose."""
        lost = [] if self.native is None else self.native.lose()
        self.lead(None)
        return lost

    def twin(self) -> Site:
        """The same site in a copy of the memory."""
        other = Site(self.address, self.original, self.slot, self.displaced, self.around)
        other.gone = self.gone
        other.seen = self.seen
        if self.native is not None:
            # A copy of the memory has them, too, but for none of its own probes yet.
            other.lead(NativePrograms(self.native.target, list))
        return other

    def change(self) -> bytes:
        """What is noted of it, for its undo."""
        return SiteChange(self.address, self.original, *self.around).pack()

    def position(self, offset: int) -> Position:
        """The original place that is equivalent to ``offset`` bytes into the slot."""
        for at, position in reversed(self.displaced.positions):
            if at <= offset:
                return position
        raise AssertionError("a slot has a position at offset 0")


class Sites:
    """The breakpoint sites of one address space."""

    def __init__(self, space: AddressSpace) -> None:
        self.space: Final = space
        #: Serves them if the tracer dies.
        self.guard = Guard(space)
        #: Those that are armed, by what a thread's rip is after the breakpoint.
        self.by_trap: Final[dict[int, Site]] = {}
        #: Those that have a slot, armed or not, by where it is.
        self.slots: Final[dict[int, Site]] = {}
        #: By address, those that wait for ``arm``.
        self._unarmed: Final[dict[int, Site]] = {}

    # --- looking ---

    def text(self, address: int, length: int) -> bytes:
        """The original code, without our breakpoints; short or empty where nothing is mapped."""
        return self._original(address, self.space.memory.peek(address, length))

    def _original(self, address: int, data: bytes) -> bytes:
        """What was read there, without our breakpoints."""
        at = data.find(INT3)
        if at < 0:
            return data
        found = bytearray(data)
        while at >= 0:
            site = self.by_trap.get(address + at + 1)
            if site is not None:
                found[at] = site.original[0]
            elif (original := self.space.raw.get(address + at)) is not None:
                found[at] = original[0]
            at = data.find(INT3, at + 1)
        return bytes(found)

    def slot_at(self, rip: int) -> tuple[Site, int] | None:
        """The site in whose slot ``rip`` is, and how many bytes into it."""
        area = self.space.resident.of(rip)
        if area is None:
            return None
        offset = (rip - area.start) % SLOT
        site = self.slots.get(rip - offset)
        return None if site is None else (site, offset)

    def all(self) -> list[Site]:
        """All sites that have a slot, armed or not."""
        return list(self.slots.values())

    def lose_area_of(self, site: Site) -> list[Site]:
        """Give up the area of this site's slot; all sites that have slots in it."""
        area = self.space.resident.of(site.slot)
        if area is None:
            return []
        area.lost = True
        return [each for slot, each in self.slots.items() if area.holds(slot)]

    def is_present(self, site: Site) -> bool:
        """Whether the ``int3`` of this site is in memory, and ours."""
        before, behind = site.around
        start = site.address - len(before)
        found = self.space.memory.peek(start, len(before) + 1 + len(behind))
        if found[len(before) : len(before) + 1] != INT3:
            return False
        # Other sites may be near.
        found = self._original(start, found)
        if (found[: len(before)], found[len(before) + 1 :]) == site.around:
            return True
        # Either the target patched its code close by, or something else is mapped there.
        return not site.gone and self._is_of_a_file(site.address)

    def overwritten(self, sites: Iterable[Site]) -> list[Site]:
        """The sites whose breakpoints the target overwrote."""
        peek = self.space.memory.peek
        return [site for site in sites if not self.is_present(site) and peek(site.address, 1)]

    def _is_of_a_file(self, address: int) -> bool:
        """Whether a file is mapped there; also if that cannot be told."""
        try:
            lines = remote_calls.mappings(self.space.tgid)
        except (Gone, SpaceError):
            return True
        for line in lines:
            if line.start <= address < line.end:
                return line.inode != 0 and not line.perms.endswith(b"s")
        return not lines  # the leading thread has ended, and shows nothing

    # --- preparing: nothing of the target's own is changed ---

    def reserve(self, group: ThreadGroup, addresses: Iterable[int]) -> None:
        """Have the target map room for slots near these addresses; stops all threads.

        Raises SpaceError and Gone.
        """
        self.space.resident.reserve(group, self.space.tgid, addresses, self.slots)

    def make(self, address: int) -> Site:
        """The site at an address, made ready but not armed; raises SpaceError with the reason."""
        known = self.ready(address)
        if known is not None:
            return known
        if (owner := self.space.owner_of(address, 1)) is not None:
            raise SpaceError(
                f"no breakpoint can be at {address:#x}: a program of the inline engine has its "
                f"jump at {owner:#x}; remove that first, or insert this one with --engine inline"
            )
        before = min(_AROUND, address % PAGE)
        text = self.text(address - before, before + 1 + _AROUND)
        code = text[before:][:_LONGEST]
        if not code:
            raise SpaceError(f"no memory is mapped at {address:#x}")
        area = self.space.resident.near(address)
        if area is None:
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
        around = text[:before], text[before + 1 :][: PAGE - 1 - address % PAGE]
        site = Site(address, code[: displaced.length], slot, displaced, around)
        note(self.space.changes, Kind.SITE, slot, site.change())
        if len(displaced.code) > SLOT or not self.space.memory.poke(slot, displaced.code):
            self.space.changes.forget(Kind.SITE, slot)
            raise SpaceError(f"the slot for {address:#x} cannot be written")
        area.free.pop()
        self.slots[slot] = self._unarmed[address] = site
        return site

    def ready(self, address: int) -> Site | None:
        """The site at an address, if ``make`` has made it."""
        return self.by_trap.get(address + 1) or self._unarmed.get(address)

    def discard(self, site: Site) -> None:
        """Free the slot of one site that was made ready, unless it is armed."""
        if self._unarmed.pop(site.address, None) is site:
            self.free([site])

    def discard_unarmed(self) -> None:
        """Free the slots of sites that were made ready and not armed."""
        self.free(list(self._unarmed.values()))
        self._unarmed.clear()

    def _has_shadow_stack(self) -> bool:
        found = procfs.status(self.space.tgid)
        return found is not None and found.shadow_stack

    def adopt(self, change: Change) -> None:
        """Take over a site that another tracer left, as armed: a thread may be behind it, or in its
        slot. Its area is taken over already."""
        noted = SiteChange.unpack(change.data)
        site = _site(change.address, noted) if noted is not None else None
        area = self.space.resident.of(site.slot) if site is not None else None
        if site is None or area is None or site.slot not in area.free:
            self.space.changes.forget(Kind.SITE, change.address)
            return
        area.free.remove(site.slot)
        self.slots[site.slot] = self.by_trap[site.trap] = site

    # --- changing text: all threads are stopped ---

    def is_armed(self, site: Site) -> bool:
        """Whether its breakpoint is in the text."""
        return self.by_trap.get(site.trap) is site

    def serve_without_us(self, sites: Iterable[Site]) -> None:
        """Have the guard serve these sites if the tracer dies, before they are armed."""
        self.guard.add((site.trap, site.onward) for site in sites)

    def arm(self, site: Site) -> bool:
        """Write the breakpoint; false when the original instruction is not there any more.

        Nor for a site of the memory that was there before the target executed another program.
        """
        if self.slots.get(site.slot) is not site:
            return False
        if self.is_armed(site):
            if self.is_present(site):
                return True
            del self.by_trap[site.trap]  # the target got rid of it: what is there is its own
        if self.text(site.address, site.displaced.length) != site.original:
            return False
        self.by_trap[site.trap] = site
        if self.space.memory.poke(site.address, INT3):
            self._unarmed.pop(site.address, None)
            return True
        del self.by_trap[site.trap]
        return False

    def disarm(self, site: Site) -> None:
        """Restore the original byte, if our breakpoint is there."""
        if not self.is_armed(site):
            return
        self.restore_text(site)
        del self.by_trap[site.trap]

    def restore_text(self, site: Site) -> None:
        """Restore the original byte, if our breakpoint is there; the site stays noted."""
        if self.is_present(site):
            self.space.memory.poke(site.address, site.original[:1])

    def free(self, sites: Iterable[Site]) -> None:
        """Give disarmed sites' slots back; no thread may be in them."""
        there = [site for site in sites if self.slots.get(site.slot) is site]
        for site in there:
            del self.slots[site.slot]
            self.space.changes.forget(Kind.SITE, site.slot)
            self.space.resident.give_back(site.slot)
        self.guard.remove(site.trap for site in there)

    def clear(self) -> None:
        """Forget all sites; what is in the target stays."""
        self.by_trap.clear()
        self.slots.clear()
        self._unarmed.clear()


def _site(slot: int, noted: SiteChange) -> Site | None:
    """The site of which this was noted; None: there can be none."""
    try:
        displaced = displace(noted.original, noted.address, slot)
    except (RelocationError, IndexError):
        return None
    if displaced.length != len(noted.original):
        return None
    around = noted.before, noted.behind
    return Site(noted.address, noted.original, slot, displaced, around)


def _pushes(displaced: Displaced) -> bool:
    """Whether a ``push`` stands for a ``call``: a shadow stack would not have it."""
    return any(position.where is Where.INSIDE for _, position in displaced.positions)
