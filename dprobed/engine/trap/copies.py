"""Breakpoint sites in a ``fork`` child's copy of the memory: taken over, undone, or left there."""

from __future__ import annotations

from dprobed.change_journal import Kind
from dprobed.engine.address_space import AddressSpace
from dprobed.engine.remote_calls import note
from dprobed.engine.trap.sites import Sites
from dprobed.tracee.memory import Memory
from dprobed.tracee.ptrace import Gone
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup


def copied(sites: Sites, group: ThreadGroup, thread: Thread) -> Sites:
    """Take over the sites in the memory of a ``fork`` child that is followed.

    Without those inserted after the ``fork``. A site that is not armed any more
    keeps its slot, in which the child's thread may be. Raises OSError when the child is gone,
    SpaceError and Gone.
    """
    space = sites.space
    other = Sites(space.copy(group, thread))
    memory = other.space.memory
    for area in space.resident.areas:
        if memory.peek(area.start, 1):
            other.space.resident.areas.append(area.copy())
            size = area.end - area.start
            note(other.space.changes, Kind.AREA, area.start, size.to_bytes(8, "little"))
    other.guard = sites.guard.copy(other.space)
    for base, size in other.guard.mappings():
        note(other.space.changes, Kind.GUARD, base, size.to_bytes(8, "little"))
    other.space.calls.note_copy()
    twins = {site: site.twin() for site in sites.slots.values()}
    # Any breakpoint of these may be there.
    other.by_trap.update((twin.trap, twin) for twin in twins.values())
    for site, twin in twins.items():
        has_slot = memory.peek(site.slot, len(site.displaced.code)) == site.displaced.code
        if has_slot:
            note(other.space.changes, Kind.SITE, twin.slot, twin.change())
            other.slots[twin.slot] = twin
            if sites.is_armed(site) and (site.gone or other.arm(twin)):
                continue
        # Taken out while a thread, perhaps in ``fork``, could not be stopped; or the child was not
        # given the area (MADV_DONTFORK).
        other.restore_text(twin)
        other.by_trap.pop(twin.trap, None)
    space.undo_raw(memory)
    other.space.semaphores.take_over(space.semaphores)
    return other


def undone(sites: Sites, group: ThreadGroup, thread: Thread) -> Sites:
    """Undo our changes in the text of a ``fork`` child that we detach from; its former sites.

    Raises OSError when the child is gone, SpaceError and Gone.
    """
    space = sites.space
    other = Sites(space.copy(group, thread))
    other.space.resident.areas += [area.copy() for area in space.resident.areas]
    other.guard = sites.guard.copy(other.space)
    other.slots.update(sites.slots)
    # Also those taken out while a thread, perhaps in ``fork``, could not be stopped.
    other.by_trap.update((site.trap, site) for site in sites.slots.values())
    for site in sites.slots.values():
        other.disarm(site)
    space.undo_raw(other.space.memory)
    space.semaphores.undo(other.space.memory)
    return other


def sealed(sites: Sites, tgid: int) -> Sites:
    """The sites of a ``fork`` child whose memory is closed to us: our changes stay in it."""
    other = Sites(AddressSpace(tgid, Memory.closed()))
    other.space.sealed = True
    other.space.resident.areas += [area.copy() for area in sites.space.resident.areas]
    for site in sites.slots.values():
        twin = site.twin()
        twin.lead(None)  # what the native programs count would be its parent's
        other.slots[twin.slot] = other.by_trap[twin.trap] = twin
    return other


def are_in(sites: Sites, group: ThreadGroup, thread: Thread) -> bool:
    """Whether a child that was forked from an unknown process has our slots in its memory.

    Raises Gone, and SpaceError when that cannot be seen.
    """
    if not sites.slots:
        return False
    try:
        memory = sites.space.open_copy(group, thread)
    except OSError:
        raise Gone(thread.tid) from None
    try:
        return any(
            memory.peek(site.slot, len(site.displaced.code)) == site.displaced.code
            for site in sites.slots.values()
        )
    finally:
        memory.close()
