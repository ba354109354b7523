"""One traced thread, and what is asked about it: of the group that it is in, and of those above."""

from __future__ import annotations

from typing import Protocol

from dprobed.tracee.lifecycle import State
from dprobed.tracee.status import Stop


class Thread:
    """One traced thread (tracee), and the plan for when it is resumed."""

    __slots__ = (
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
        "siginfo",
        "signal",
        "state",
        "stepping",
        "tgid",
        "tid",
    )

    def __init__(self, tid: int, tgid: int, state: State, group: Group) -> None:
        self.tid = tid
        self.tgid = tgid
        self.state = state
        #: Those that it is traced with: the target's threads.
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
        #: Held by a program's ``suspend``, or for a debugger.
        self.held = False
        #: A debugger steps it.
        self.stepping = False
        #: Held by the tracer itself until what it does at this hit is done (``unpin``).
        self.pinned = False
        #: Stopped inside a system call, whose return value is still to be stored (at a clone or
        #: exec event); else between user instructions.
        self.in_syscall = False
        #: The wait status of an ``exec`` that came while we borrowed the thread.
        self.exec_status = 0
        #: In ``vfork``, about to sleep until the child has done ``exec`` or ended.
        self.in_vfork = False
        #: It goes on by a step into a signal's handler, and stops at its first instruction.
        self.enters_handler = False


class Group(Protocol):
    """What is asked of the group of traced threads that a thread is in."""

    @property
    def threads(self) -> dict[int, Thread]:
        """All of them, by thread id."""
        ...

    @property
    def handler(self) -> StopHandler:
        """What is done about their stops."""
        ...

    #: Nanoseconds for which they stood still for us.
    overhead_ns: int

    def dispatch(self, thread: Thread, stop: Stop) -> None:
        """React to a stop of one of them."""
        ...

    def go(self, thread: Thread) -> None:
        """Resume one of them, as its plan says, unless something holds it."""
        ...

    def drop(self, tid: int) -> None:
        """One is not traced with them any more."""
        ...

    def forget(self, thread: Thread, stop: Stop) -> None:
        """One has ended."""
        ...

    def fail(self, error: Exception) -> None:
        """Note a defect of ours in the handling of one."""
        ...

    def adopt_orphan(self, tid: int, stop: Stop) -> None:
        """A child in its first stop, whose parent cannot tell us of it any more, is theirs."""
        ...

    def shares_memory(self, pid: int) -> bool:
        """Whether a process shares memory with them."""
        ...

    def is_fork_copy(self, pid: int) -> bool:
        """Whether a process has a copy of their memory, as far as our changes show it."""
        ...


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

    def is_fork_copy(self, pid: int) -> bool:
        """Whether a process has a copy of the target's memory with our changes in it."""
        ...

    def forgotten(self, thread: Thread, stop: Stop) -> None:
        """The thread ended."""
        ...
