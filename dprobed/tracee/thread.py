"""One traced thread, and the protocols of its thread group and of the handler of its stops."""

from __future__ import annotations

from typing import Protocol

import msgspec

from dprobed.tracee.lifecycle import State
from dprobed.tracee.status import Stop


class RemoteCall(msgspec.Struct, frozen=True):
    """A remote system call, and the registers from before."""

    registers: bytes
    gate: int
    number: int
    arguments: tuple[int, ...]


class Unfinished(msgspec.Struct):
    """What a borrowed thread is in the middle of, and what is to be put back when it stops.

    ``mask``: its signal mask; None: it is in place. ``stops``: of the call, seen so far.
    """

    mask: int | None = None
    call: RemoteCall | None = None
    stops: int = 0


class Thread:
    """One traced thread (tracee), and the plan for when it is resumed."""

    __slots__ = (
        "awaits",
        "busy",
        "enters_handler",
        "exec_status",
        "group",
        "held",
        "in_syscall",
        "in_vfork",
        "listen",
        "pinned",
        "relisten",
        "rewound",
        "siginfo",
        "signal",
        "state",
        "stepping",
        "tgid",
        "tid",
        "unfinished",
    )

    def __init__(self, tid: int, tgid: int, state: State, group: Group) -> None:
        self.tid = tid
        self.tgid = tgid
        self.state = state
        #: The thread group that it is traced with.
        self.group = group
        #: The signal of a signal-delivery-stop, to be delivered when the thread goes on.
        self.signal = 0
        #: That signal's siginfo, when a stop of another kind has come in between.
        self.siginfo: bytes | None = None
        #: Its stop is being reacted to; it goes on after that, not before.
        self.busy = False
        #: In a group-stop (job control stopped the process), and stays there.
        self.listen = False
        #: In a group-stop that we left in order to borrow the thread: it has to go back.
        self.relisten = False
        #: At a breakpoint whose stop was taken, and moved back to it for as long as the hit is not
        #: served: without a tracer it would meet it again.
        self.rewound = False
        #: Held by a program's ``suspend``, or for a debugger.
        self.held = False
        #: A debugger steps it.
        self.stepping = False
        #: Held by the tracer itself until what it does at this hit is done (``unpin``).
        self.pinned = False
        #: In ``fork``, until the child, of this id, is clean: who returns from ``fork`` may look at
        #: its child, and trace it. 0: it does not wait.
        self.awaits = 0
        #: Stopped inside a system call, whose return value is still to be stored (at a clone or
        #: exec event); else between user instructions.
        self.in_syscall = False
        #: The wait status of an ``exec`` that came while we borrowed the thread.
        self.exec_status = 0
        #: In ``vfork``, about to sleep until the child has done ``exec`` or ended.
        self.in_vfork = False
        #: It sleeps in the kernel in the middle of what it is to do for us, and we have ceased to
        #: wait for that.
        self.unfinished: Unfinished | None = None
        #: It goes on by a step into a signal's handler, and stops at its first instruction.
        self.enters_handler = False


class Group(Protocol):
    """The group of traced threads that a thread belongs to: the threads of one target."""

    @property
    def threads(self) -> dict[int, Thread]:
        """All of them, by thread id."""
        ...

    @property
    def handler(self) -> StopHandler:
        """Handles their stops."""
        ...

    #: Nanoseconds for which hits and other stops have held the threads up.
    overhead_ns: int

    def dispatch(self, thread: Thread, stop: Stop) -> None:
        """React to a stop of a thread."""
        ...

    def go(self, thread: Thread) -> None:
        """Resume a thread as its plan says, unless it is held."""
        ...

    def drop(self, tid: int) -> None:
        """Remove a thread that is not traced with the group any more."""
        ...

    def forget(self, thread: Thread, stop: Stop) -> None:
        """Remove a thread that has ended."""
        ...

    def fail(self, error: Exception) -> None:
        """Note an internal error in the handling of a thread."""
        ...

    def adopt_orphan(self, tid: int, stop: Stop) -> None:
        """Add a child in its first stop, of which no event of its parent will come any more."""
        ...

    def shares_memory(self, pid: int) -> bool:
        """Whether a process shares the group's memory."""
        ...

    def is_fork_copy(self, pid: int) -> bool:
        """Whether a process's memory is a fork copy of the group's, as our changes in it show."""
        ...


class StopHandler(Protocol):
    """Handles the stops of a group's threads. Called with the thread STOPPED, but for
    ``serve_hit``."""

    def serve_hit(self, thread: Thread, now: int) -> bool:
        """Serve a SIGTRAP stop of a RUNNING thread that is a hit and nothing else, whose registers
        are in ``hits`` (HitWait), and have the thread resumed by that; false: it is not, nothing
        was done."""
        ...

    def rewind(self, thread: Thread) -> None:
        """The SIGTRAP stop of this thread, whose registers are in ``hits``, is about to be taken
        from the kernel: if it is a breakpoint, have the thread stand at it."""
        ...

    def serve_trap(self, thread: Thread) -> None:
        """A SIGTRAP stop: find out what it is, and leave a plan."""
        ...

    def abandon(self, thread: Thread) -> object:
        """A stop was not reacted to: if it is a breakpoint, have the thread hit that again."""
        ...

    def deliver(self, thread: Thread) -> None:
        """``thread.signal`` is about to be delivered."""
        ...

    def forked(self, thread: Thread, child: int) -> None:
        """A thread is in ``fork``; its child's first stop is yet to be reported."""
        ...

    def begin(self, thread: Thread, shares_memory: bool) -> None:
        """A new thread or process made its first stop."""
        ...

    def new_image(self, thread: Thread) -> None:
        """``exec``: the process has a new address space."""
        ...

    def is_fork_copy(self, pid: int) -> bool:
        """Whether a process's memory is a fork copy of the target's, with our changes in it."""
        ...

    def forgotten(self, thread: Thread, stop: Stop) -> None:
        """The thread ended."""
        ...
