"""What the trap engine notes about threads in an unusual state; most threads have no note."""

from __future__ import annotations

from typing import Final, NamedTuple

from dprobed.engine.trap.sites import Site
from dprobed.tracee.thread import Thread


class ThreadNote(NamedTuple):
    """``skip``: (address of the breakpoint, rsp, more registers), the next hit with these is a
    restart; ``entering``: the site in whose slot the thread is while a handler is set up, at which
    it stops; ``trap_mask``: its signal mask, if it blocks SIGTRAP as far as we know; ``handles``: a
    SIGTRAP of the target's own was delivered to it, whose handler may not have returned."""

    skip: tuple[int, ...] | None = None
    entering: Site | None = None
    trap_mask: int | None = None
    handles: bool = False


_NOTHING: Final = ThreadNote()


class ThreadNotes:
    """The notes about a target's threads.

    ``by_tid`` has only those of which there is something to note, so that a hit asks one thing: is
    the thread among them?
    """

    def __init__(self) -> None:
        self.by_tid: Final[dict[int, ThreadNote]] = {}

    def of(self, thread: Thread) -> ThreadNote:
        """The note about a thread."""
        return self.by_tid.get(thread.tid, _NOTHING)

    def forget(self, thread: Thread) -> None:
        """Drop the note about a thread that has ended, or begins."""
        self.by_tid.pop(thread.tid, None)
        thread.enters_handler = False

    def set_skip(self, thread: Thread, skip: tuple[int, ...] | None) -> None:
        """See ThreadNote."""
        self._store(thread, self.of(thread)._replace(skip=skip))

    def set_entering(self, thread: Thread, site: Site | None) -> None:
        """See ThreadNote; such a thread goes on by a step."""
        thread.enters_handler = site is not None
        self._store(thread, self.of(thread)._replace(entering=site))

    def set_trap_mask(self, thread: Thread, mask: int | None) -> None:
        """See ThreadNote."""
        self._store(thread, self.of(thread)._replace(trap_mask=mask))

    def set_handles(self, thread: Thread) -> None:
        """See ThreadNote."""
        self._store(thread, self.of(thread)._replace(handles=True))

    def _store(self, thread: Thread, note: ThreadNote) -> None:
        if note == _NOTHING:
            self.by_tid.pop(thread.tid, None)
        else:
            self.by_tid[thread.tid] = note
