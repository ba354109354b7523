"""One traced thread, and what it asks of those above."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from dprobed.tracee.lifecycle import State
from dprobed.tracee.status import Stop

if TYPE_CHECKING:
    from dprobed.tracee.thread_group import ThreadGroup


class Thread:
    """One traced thread and the plan for its next resumption."""

    __slots__ = (
        "busy",
        "clean",
        "enters_handler",
        "executed",
        "group",
        "held",
        "listen",
        "pinned",
        "relisten",
        "siginfo",
        "signal",
        "state",
        "stepping",
        "tgid",
        "tid",
        "waits",
    )

    def __init__(self, tid: int, tgid: int, state: State) -> None:
        self.tid = tid
        self.tgid = tgid
        self.state = state
        #: Whose it is.
        self.group: ThreadGroup
        #: The signal of a signal-delivery-stop, to be delivered when the thread goes on.
        self.signal = 0
        #: That signal's siginfo, when a stop of another kind has come in between.
        self.siginfo: bytes | None = None
        #: Its stop is being reacted to; it goes on after that, not before.
        self.busy = False
        self.listen = False
        #: In a group-stop that we left in order to borrow the thread: it has to go back.
        self.relisten = False
        #: Held by a program's ``suspend``, or for a debugger.
        self.held = False
        #: A debugger steps it.
        self.stepping = False
        #: Held by the tracer itself until what it does at this hit is done (``unpin``).
        self.pinned = False
        #: Whether the stop is between user instructions. At a clone or exec event the thread is
        #: inside its system call, and the return value is still to be stored.
        self.clean = True
        #: The wait status of an ``exec`` that came while we borrowed the thread.
        self.executed = 0
        #: In ``vfork``, about to sleep until the child has done ``exec`` or ended.
        self.waits = False
        #: It goes on by a step into a signal's handler, and stops at its first instruction.
        self.enters_handler = False


class StopHandler(Protocol):
    """What is done about stops that concern probes. Called with the thread STOPPED, but for
    ``serve_hit``."""

    def serve_hit(self, thread: Thread, now: int) -> bool:
        """Serve a SIGTRAP stop of a RUNNING thread that is a hit and nothing else, and let the
        thread go on; false: it is not, nothing was done."""
        ...

    def serve_trap(self, thread: Thread) -> None:
        """A SIGTRAP stop: decide what it is, and leave a plan."""
        ...

    def abandon(self, thread: Thread) -> object:
        """A stop was not reacted to: a breakpoint that it may be is to be hit again."""
        ...

    def deliver(self, thread: Thread) -> None:
        """``thread.signal`` is about to be delivered."""
        ...

    def forked(self, child: int) -> None:
        """A thread is in ``fork``; its child's first stop is yet to come, or to be told."""
        ...

    def begin(self, thread: Thread, shares_memory: bool) -> None:
        """A new thread or process made its first stop."""
        ...

    def new_image(self, thread: Thread) -> None:
        """``exec``: the process has a new address space."""
        ...

    def left_copy(self, pid: int) -> bool:
        """Whether a process has a copy of the target's memory with our changes in it."""
        ...

    def forgotten(self, thread: Thread, stop: Stop) -> None:
        """The thread ended."""
        ...
