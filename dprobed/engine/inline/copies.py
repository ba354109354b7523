"""Jumps in a ``fork`` child's copy of the memory: taken over, or undone."""

from __future__ import annotations

from dprobed.arch.x86_64.call_table import TABLE_BYTES
from dprobed.arch.x86_64.syscalls import SYS_MUNMAP
from dprobed.arch.x86_64.trampoline import (
    CONTROL_SIZE,
)
from dprobed.change_journal import Kind
from dprobed.engine.errors import SpaceError
from dprobed.engine.inline.breakpoints import BreakpointSite, NativeSites
from dprobed.engine.inline.calls import CallTable
from dprobed.engine.inline.clock import SIZE as CLOCK_SIZE
from dprobed.engine.inline.counters import ProbeCounter
from dprobed.engine.inline.executor import InlineExecutor
from dprobed.engine.inline.rings import RingMemory
from dprobed.engine.inline.room import InlineRoom
from dprobed.engine.inline.shared import SharedMemory
from dprobed.engine.inline.sites import JumpAttachment, JumpSite
from dprobed.engine.interface import Location, Twin
from dprobed.engine.probe import Attachment, Probe
from dprobed.engine.remote_calls import note
from dprobed.program.exec.native.abi import Data
from dprobed.tracee.ptrace import Gone
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup
from dprobed.wire.protocol import State


def undo_in_copy(room: InlineRoom, thread: Thread, *, unmap: bool) -> None:
    """Take the jumps out of a ``fork`` child in its first stop, and its copies of our pages.

    Raises SpaceError and Gone.
    """
    try:
        memory = room.space.open_copy(room.group, thread)
    except OSError:
        raise Gone(thread.tid) from None
    try:
        for site in room.sites.by_address.values():
            if site.gone or not room.sites.is_present(site, memory):
                continue
            if not memory.poke(site.address, site.original):
                raise SpaceError(f"its code at {site.address:#x} cannot be written")
        if unmap:
            calls = room.space.calls.of_copy(memory, room.space.changes.of_child(0, 0))
            for start, end in room.pages():
                calls.call(room.group, thread, SYS_MUNMAP, start, end - start)
    finally:
        memory.close()


def do_without(
    room: InlineRoom,
    parent: InlineRoom,
    twin: Twin,
    group: ThreadGroup,
    breakpoints: NativeSites,
    why: str,
) -> None:
    """The parent's jumps could not be taken over: take them out of the copy, and fail the probes.
    ``breakpoints``: of the copy.

    Raises SpaceError and Gone.
    """
    for thread in list(group.threads.values()):
        undo_in_copy(parent, thread, unmap=False)
    sites = parent.sites.by_address.values()
    led = [site.address for site in sites if isinstance(site, BreakpointSite)]
    breakpoints.take_out(led, [])
    for site in parent.sites.by_address.values():
        room.space.owned.pop(site.address, None)
        room.space.changes.forget(Kind.JUMP, site.address)
        for old in site.attachments:
            if old.entry is None and (found := twin(old)) is not None:
                found[0].set(State.FAILED, f"it has none of its parent's jumps: {why}")


def take_over(
    room: InlineRoom, parent: InlineRoom, twin: Twin, breakpoints: NativeSites, pointer: int
) -> list[tuple[JumpSite, int]]:
    """Take over the parent's jumps in a ``fork`` child's copy of its memory, all of whose
    threads are stopped: what is shared is the child's own from now on. ``breakpoints``: of the
    copy.

    ``pointer``: where the thread that made the child has its variables. The sites, each with how
    many probes the parent has there. Raises SpaceError and Gone.
    """
    parent.sites.pages.copy_to(room.sites.pages)
    name = parent.sites.pages.areas[0].start
    # Not ``borrowed``, which would have it go on.
    thread = room.group.borrower.lender(room.space.tgid)
    for shared in parent.shared:
        made = SharedMemory.make(
            room.space, room.group, thread, name, len(shared.view), shared.address
        )
        room.shared.append(shared.twin(made.address, made.view))
    maps: dict[InlineExecutor, SharedMemory] = {}
    for executor, theirs in parent.maps.items():
        maps[executor] = SharedMemory.make(
            room.space, room.group, thread, name, theirs.length, theirs.address
        )
    if parent.rings is not None:
        at = parent.rings.shared.address
        room.rings = RingMemory.make(room.space, room.group, thread, name, at)
    room.clock = parent.clock
    if (told := parent.told_clock) is not None:
        room.told_clock = told.copy(_words(room, told.address, CLOCK_SIZE // 8))
    twins: dict[Attachment, Attachment] = {}
    found = []
    for site in parent.sites.by_address.values():
        other = _twin(room, site, breakpoints)
        if other is None:
            continue
        for old in site.attachments:
            new = twin(old) if old.entry is None else None
            if new is not None:
                _take_over_probe(room, parent, old.probe, new[0], maps)
                location = Location(
                    old.address,
                    new[1],
                    old.place,
                    old.module_key,
                    semaphore=old.semaphore,
                    arguments=old.arguments,
                )
                twins[old] = mine = JumpAttachment(new[0], location, other, old.role)
                other.attachments.append(mine)
        found.append((other, len(site.attachments)))
    _take_over_exits(room, parent, twins)
    if parent.calls is not None:
        at = parent.calls.shared.address
        made = SharedMemory.make(room.space, room.group, thread, name, TABLE_BYTES, at)
        room.calls = CallTable(made)
        parent.calls.copy_to(room.calls, {old.probe: twins[old].probe for old in twins}, pointer)
    room.puns.update(parent.puns)
    room.shared[:0] = maps.values()  # of programs that do not follow
    room.places = parent.places.copy(twins)
    for site, made_there in parent.sites.trampolines:
        there = room.sites.by_address.get(site.address, site)
        room.sites.trampolines.add(there, made_there)
    return found


def _twin(room: InlineRoom, site: JumpSite, breakpoints: NativeSites) -> JumpSite | None:
    """The same site in the copy; None: it is not there."""
    if isinstance(site, BreakpointSite):
        led = BreakpointSite(site.address, site.original, breakpoints)
        led.gone = site.gone
        if site.trampoline is None or led.lead(site.trampoline):
            return None
        room.sites.by_address[led.address] = led
        return led
    other = JumpSite(site.address, site.original)
    other.jump, other.trampoline, other.gone = site.jump, site.trampoline, site.gone
    other.pun = site.pun
    room.space.owned[other.address] = other.owned
    note(room.space.changes, Kind.JUMP, other.address, other.change(other.jump))
    room.sites.by_address[other.address] = other
    return other


def _take_over_exits(
    room: InlineRoom, parent: InlineRoom, twins: dict[Attachment, Attachment]
) -> None:
    """The returns of functions, whose entries have twins already."""
    for site in parent.sites.by_address.values():
        other = room.sites.by_address.get(site.address)
        if other is None:
            continue
        for old in site.attachments:
            entry = twins.get(old.entry) if old.entry is not None else None
            if isinstance(entry, JumpAttachment):
                twins[old] = mine = entry.leaves_by(other)
                other.attachments.append(mine)


def _take_over_probe(
    room: InlineRoom,
    parent: InlineRoom,
    old: Probe,
    new: Probe,
    maps: dict[InlineExecutor, SharedMemory],
) -> None:
    theirs, ours = old.native, new.native
    assert isinstance(theirs, InlineExecutor) and isinstance(ours, InlineExecutor)
    if new not in room.counters:
        address = parent.counters[old].address
        room.counters[new] = ProbeCounter(address, _words(room, address, CONTROL_SIZE // 8))
        room.counters[new].begin(0, new.pass_count, new.last)
    if ours not in room.data:
        address = parent.data[theirs]
        room.data[ours] = address
        count = len(ours.locals)
        ours.locals.bind(_words(room, address + Data.LOCALS, count))
        if theirs in maps:
            room.maps[ours] = maps.pop(theirs)
            ours.bind_maps(room.maps[ours].view)


def _words(room: InlineRoom, address: int, count: int) -> memoryview:
    """Words of shared memory, by where the target has them."""
    for shared in room.shared:
        if shared.address <= address < shared.address + len(shared.view):
            return shared.words(address - shared.address, count)
    raise AssertionError("no shared memory is there")
