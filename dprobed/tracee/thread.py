"""One traced thread, and what is asked about it: of the group that it is in, and of the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from dprobed.tracee.lifecycle import State
from dprobed.tracee.status import Stop

if TYPE_CHECKING:
    from dprobed.engine.address_space import Site
    from dprobed.engine.trap.engine import TrapEngine


class Thread:
    """One traced thread (tracee), and the plan for when it is resumed."""

    __slots__ = (
        "busy",
        "comm",
        "cpu",
        "cpu_address",
        "cpu_until",
        "entering",
        "exec_status",
        "group",
        "held",
        "identity_until",
        "in_syscall",
        "in_vfork",
        "listen",
        "owner",
        "pinned",
        "relisten",
        "revocable",
        "siginfo",
        "signal",
        "skip",
        "state",
        "stepping",
        "tgid",
        "tid",
        "trap_mask",
        "traps",
    )

    def __init__(self, tid: int, tgid: int, state: State, group: Group) -> None:
        self.tid = tid
        self.tgid = tgid
        self.state = state
        #: Those that it is traced with: the target's threads.
        self.group = group
        #: Serves its hits.
        self.traps: TrapEngine
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
        #: (address of the breakpoint, rsp, more registers): the next hit with these is a restart.
        self.skip: tuple[int, ...] | None = None
        #: The site in whose slot it is while a handler is set up; then it stops at the handler.
        self.entering: Site | None = None
        #: The latest hit's records (batch, index), which a fault of the instruction withdraws.
        self.revocable: tuple[tuple[int, int], ...] = ()
        self.comm = b""
        self.owner = (0, 0)
        self.identity_until = 0
        self.cpu = -1
        self.cpu_until = 0
        self.cpu_address = -1
        #: The signal mask, if it blocks SIGTRAP as far as we know.
        self.trap_mask: int | None = None


class Group(Protocol):
    """What is asked of the group of traced threads that a thread is in."""

    @property
    def threads(self) -> dict[int, Thread]:
        """All of them, by thread id."""
        ...

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

    def left_copy(self, pid: int) -> bool:
        """Whether a process has a copy of their memory, as far as our changes show it."""
        ...


class Engine(Protocol):
    """What is done about stops that concern probes. Called with the thread STOPPED."""

    def serve_trap(self, thread: Thread) -> None:
        """A SIGTRAP stop: decide what it is, and leave a plan."""
        ...

    def abandon(self, thread: Thread) -> None:
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
