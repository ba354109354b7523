"""All traced threads of one target: to wait for them, stop and resume them, and borrow one.

Rules:

* One thread (of ours) owns ptrace. It waits for its tracees (``Tracees``) and for nothing else; a
  signal ends a wait early, and ``attention`` then says that there is something to do.
* Every stop goes through ``dispatch``: the table in ``lifecycle`` says the reaction, and the
  ``StopHandler`` above does what concerns probes. A reaction leaves the thread STOPPED with a
  *plan* (which signal it gets, whether it listens); ``go`` carries the plan out.
* While the world is stopped, plans wait. So a hit that arrives while we stop the others is served
  at once, but its thread goes on only with all others.
* A thread that sleeps uninterruptibly cannot be stopped. It runs no code of the target either; the
  stop reaches it when it wakes. ``stop_all`` returns without it and says so.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from dprobed.proc import procfs
from dprobed.tracee import memory, ptrace
from dprobed.tracee.lifecycle import Reaction, State, react
from dprobed.tracee.ptrace import CS, ORIG_RAX, RAX, RIP, WALL, Gone, Registers
from dprobed.tracee.ptrace import raw_waitpid as _waitpid
from dprobed.tracee.status import Kind, Stop, decode
from dprobed.tracee.thread import StopHandler, Thread
from dprobed.tracee.tracees import Tracees

_CLONE_VM: Final = 0x100
_CLONE_THREAD: Final = 0x10000
_SYS_CLONE: Final = 56
_SYS_VFORK: Final = 58
_SYS_CLONE3: Final = 435
_STOP_PATIENCE: Final = 0.2
_TICK: Final = 0.02
_LENDER_PATIENCE: Final = 5.0
_LENDER_PAUSE: Final = 0.01
#: Signals that an instruction raises about itself. They stay unblocked while a thread is borrowed:
#: a blocked one would make the kernel reset its handler (force_sig_info_to_task).
SYNCHRONOUS: Final = frozenset(
    (
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGTRAP,
        signal.SIGSYS,
    )
)
_MASK: Final = sum(1 << (number - 1) for number in SYNCHRONOUS)
_TRAP: Final = 1 << (signal.SIGTRAP - 1)
ALL_BUT_SYNCHRONOUS: Final = 0xFFFF_FFFF_FFFF_FFFF & ~_MASK
_USER_CODE_32: Final = 0x23


class ThreadGroup:
    """The traced threads of one target; its CLONE_VM children are here too."""

    def __init__(self, engine: StopHandler, tracees: Tracees) -> None:
        self.threads: dict[int, Thread] = {}
        self.tracees: Final = tracees
        #: What is done about their stops.
        self.handler: Final = engine
        #: Nanoseconds for which they stood still for us.
        self.overhead_ns = 0
        #: The main loop is to look after this target.
        self.wants = False
        #: A defect of ours in the handling of this target: its probes have to go.
        self.failure: Exception | None = None
        self._engine = engine
        self._stopped = 0
        self._expected: dict[int, bool] = {}
        #: The child that an injected ``clone`` has just made.
        self._born = 0
        #: Signals to send again when a thread is not borrowed any more: process, number.
        self._again: list[tuple[int, int]] = []
        self._registers = Registers()
        self._late: list[Thread] = []

    def want(self) -> None:
        """Have the main loop look after this target soon."""
        self.wants = self.tracees.attention = True

    def fail(self, error: Exception) -> None:
        """Note a defect that showed itself while another target was looked after."""
        self.failure = self.failure or error
        self.want()

    def add(self, thread: Thread) -> Thread:
        """A thread of this target, new or handed over by another group."""
        self.threads[thread.tid] = self.tracees.threads[thread.tid] = thread
        thread.group = self
        return thread

    def drop(self, tid: int) -> None:
        """Not a thread of ours any more."""
        if self.threads.pop(tid, None) is not None:
            del self.tracees.threads[tid]
        self._expected.pop(tid, None)

    def hand_over(self, thread: Thread, heir: ThreadGroup) -> None:
        """A child that is a target of its own from now on."""
        self.drop(thread.tid)
        heir.add(thread)

    # --- becoming and ceasing to be the tracer ---

    def seize(self, pid: int) -> None:
        """Trace every thread of ``pid``; raises PtraceError and Gone, then nothing is traced."""
        others: set[int] = set()
        while True:
            fresh = [tid for tid in procfs.threads(pid) if tid not in self.threads.keys() | others]
            if not fresh:
                break
            for tid in fresh:
                if procfs.is_kernels_own(tid):
                    # It would stop for us, but never come to make a system call that we ask for.
                    others.add(tid)
                    continue
                try:
                    ptrace.seize(tid)
                except Gone:
                    continue
                except ptrace.PtraceError:
                    # A thread that a traced one just made is traced already.
                    if tid in self.threads or self._is_ours(tid):
                        if tid not in self.threads:
                            self.add(Thread(tid, pid, State.RUNNING))
                        continue
                    # One that is ending cannot be traced (ptrace_attach: exit_state, EPERM).
                    if procfs.run_state(tid) in ("Z", "X", ""):
                        others.add(tid)
                        continue
                    if self.threads:
                        with self.stopped():
                            self.detach_all()
                    raise
                self.add(Thread(tid, pid, State.RUNNING))
        if not self.threads:
            raise Gone(pid)

    def find_lost(self, pid: int) -> None:
        """Threads and children that are traced but, by a defect of ours, not among the threads."""
        early = self.tracees.early
        for tid in procfs.threads(pid):
            if tid not in self.tracees.threads and self._is_ours(tid):
                known = early.pop(tid, None) is not None
                self.add(Thread(tid, pid, State.STOPPED if known else State.RUNNING))
        for child in procfs.children(pid):
            first = early.pop(child, None)
            if first is not None:
                self.adopt_orphan(child, first[0])

    def _is_ours(self, tid: int) -> bool:
        found = procfs.status(tid)
        return found is not None and found.tracer == os.getpid()

    def detach_all(self) -> None:
        """Detach from every stopped thread but those in ``vfork``; the world must be stopped."""
        for thread in list(self.threads.values()):
            if thread.state is State.ENDED:
                self.drop(thread.tid)
                self.tracees.zombies.add(thread.tid)
            elif thread.state in (State.STOPPED, State.HELD) and not thread.waits:
                self.detach(thread)

    def detach(self, thread: Thread) -> None:
        """Detach from one stopped thread, and give it the signal that was on its way."""
        self.drop(thread.tid)
        thread.state = State.RUNNING
        try:
            if thread.siginfo is not None:
                ptrace.set_siginfo(thread.tid, thread.siginfo)
            # In a group-stop the kernel itself puts a detached thread back into the stop
            # (__ptrace_unlink: JOBCTL_STOP_PENDING is set again).
            ptrace.detach(thread.tid, 0 if thread.listen or thread.relisten else thread.signal)
        except Gone:
            pass

    # --- reacting to stops ---

    def dispatch(self, thread: Thread, stop: Stop) -> None:
        """React to one stop."""
        reaction = react(thread.state, stop.kind)
        if stop.kind not in (Kind.EXITED, Kind.KILLED):
            thread.state = State.STOPPED
            thread.clean = True
            thread.waits = False
            thread.busy = True
        match reaction:
            case Reaction.FORGET:
                self._forget(thread, stop)
                return
            case Reaction.SERVE_TRAP:
                self._engine.serve_trap(thread)
            case Reaction.DELIVER_SIGNAL:
                thread.signal = stop.value
                self._engine.deliver(thread)
            case Reaction.STAY_IN_GROUP_STOP:
                thread.listen = True
            case Reaction.BEGIN:
                self._begin(thread, stop)
                return
            case Reaction.ADOPT_CHILD:
                thread.clean = False
                thread.waits = stop.kind is Kind.VFORK
                self._adopt(thread)
            case Reaction.NEW_IMAGE:
                thread.clean = False
                self._new_image(thread)
            case _:
                thread.listen = False
        thread.busy = False
        thread.group.go(thread)

    def _begin(self, thread: Thread, stop: Stop) -> None:
        thread.listen = stop.kind is Kind.GROUP_STOP
        self._engine.begin(thread, self._expected.pop(thread.tid, True))
        thread.busy = False
        if thread.tid in self.tracees.threads:
            thread.group.go(thread)

    def _adopt(self, parent: Thread) -> None:
        try:
            child = ptrace.event_message(parent.tid)
            shares, is_thread = self._clone_kind(parent)
        except Gone:
            return
        if child in self.tracees.threads:
            return  # found in /proc when we came
        if not is_thread and not self._is_ours(child):
            return  # killed, or let go as an orphan
        tgid = parent.tgid if is_thread else child
        thread = self.add(Thread(child, tgid, State.STARTING))
        self._expected[child] = shares
        if not shares:
            self._engine.forked(child)
        early = self.tracees.early.pop(child, None)
        if early is not None:
            thread.state = State.STOPPED
            self._begin(thread, early[0])

    def _forget(self, thread: Thread, stop: Stop) -> None:
        self.drop(thread.tid)
        self._engine.forgotten(thread, stop)

    def adopt_orphan(self, tid: int, stop: Stop) -> None:
        """A child in its first stop, of which nobody will tell us any more."""
        shares = self.shares_memory(tid)
        thread = self.add(Thread(tid, tid, State.STOPPED))
        self._expected[tid] = shares
        self._begin(thread, stop)

    def shares_memory(self, pid: int) -> bool:
        """Whether a process that is none of ours yet shares the target's memory."""
        return any(procfs.shares_memory(each, pid) for each in self.threads)

    def left_copy(self, pid: int) -> bool:
        """Whether a process has a copy of the target's memory, as far as our changes show it."""
        return self._engine.left_copy(pid)

    def _clone_kind(self, parent: Thread) -> tuple[bool, bool]:
        """Whether the child shares its parent's memory, and whether it is a thread of it.

        The parent is inside its system call, so the registers still tell the arguments.
        """
        words = self._registers.load(parent.tid)
        number = words[ORIG_RAX]
        if words[CS] == _USER_CODE_32:
            return False, False
        if number == _SYS_VFORK:
            return True, False
        if number == _SYS_CLONE:
            flags = words[ptrace.RDI]
        elif number == _SYS_CLONE3:
            flags = int.from_bytes(memory.read_partial(parent.tid, words[ptrace.RDI], 8), "little")
        else:
            flags = 0
        return bool(flags & _CLONE_VM), bool(flags & _CLONE_THREAD)

    def _new_image(self, thread: Thread) -> None:
        """After ``exec`` the caller is its process's only thread and has the process's id."""
        for other in [t for t in self.threads.values() if t.tgid == thread.tgid]:
            if other.tid != thread.tid:
                self.drop(other.tid)
        thread.signal = 0
        thread.siginfo = None
        thread.listen = thread.relisten = thread.held = thread.pinned = False
        thread.enters_handler = False
        self._engine.new_image(thread)

    def await_children(self, thread: Thread) -> None:
        """Before the target's ``exec`` is followed up: who has a copy of the old memory begins.

        A thread that ``exec`` took away may have gone before it could tell of its child, and its
        child may not have stopped yet. All those threads are gone (de_thread, fs/exec.c) and the
        one that is left makes none now, so every such child is known to the kernel.
        """
        self.tracees.serve_noted(self)
        self.tracees.adopt_orphans(thread)
        known = self.tracees.threads.keys() | self.tracees.others.keys()
        for child in procfs.children(thread.tgid):
            if child in known or not self._is_ours(child):
                continue
            if (early := self.tracees.early.pop(child, None)) is not None:
                self.adopt_orphan(child, early[0])
            else:
                shares = self.shares_memory(child)
                self.add(Thread(child, child, State.STARTING))
                self._expected[child] = shares
        while waiting := [
            each
            for each in self.threads.values()
            if each.state is State.STARTING and each.tid == each.tgid
        ]:
            if not self.tracees.wait(self):
                for each in waiting:
                    if not procfs.run_state(each.tid):
                        self._forget(each, Stop(Kind.EXITED, 0))

    # --- resuming ---

    def go(self, thread: Thread) -> None:
        """Carry out the thread's plan, unless the world is stopped or the thread is held."""
        if self._stopped or thread.busy or thread.state is not State.STOPPED:
            return
        if thread.executed:
            status, thread.executed = thread.executed, 0
            self.tracees.dispatch(thread.tid, status)
            return
        if thread.held or thread.pinned:
            thread.state = State.HELD
            return
        try:
            if thread.listen:
                thread.state = State.LISTENING
                ptrace.listen(thread.tid)
                return
            thread.state = State.RUNNING
            if thread.siginfo is not None:
                ptrace.set_siginfo(thread.tid, thread.siginfo)
                thread.siginfo = None
            if thread.relisten:
                thread.relisten = False
                ptrace.interrupt(thread.tid)
            number, thread.signal = thread.signal, 0
            if thread.enters_handler or thread.stepping:
                ptrace.step(thread.tid, number)
            else:
                ptrace.cont(thread.tid, number)
        except Gone:
            # Killed: its exit status is what comes next.
            thread.state = State.RUNNING

    def release(self, thread: Thread) -> None:
        """Let a thread go on that ``suspend`` holds."""
        thread.held = False
        self._let_on(thread)

    def unpin(self, thread: Thread) -> None:
        """Let a thread go on that the tracer pinned, unless ``suspend`` holds it."""
        thread.pinned = False
        self._let_on(thread)

    def _let_on(self, thread: Thread) -> None:
        if thread.state is State.HELD:
            thread.state = State.STOPPED
            self.go(thread)

    @property
    def is_stopped(self) -> bool:
        """Whether we are within ``stopped``."""
        return self._stopped > 0

    @contextmanager
    def stopped(self) -> Iterator[list[Thread]]:
        """Every thread stopped within; yields those that sleep in the kernel and could not be.

        A thread in ``vfork`` is among these: it will sleep before it does anything else.
        """
        self._stopped += 1
        try:
            if self._stopped == 1:
                self._late = self._stop_all()
                self._late += [thread for thread in self.threads.values() if thread.waits]
            yield self._late
        finally:
            self._stopped -= 1
            if not self._stopped:
                for thread in list(self.threads.values()):
                    self.go(thread)

    def _stop_all(self) -> list[Thread]:
        asked: set[int] = set()
        self.tracees.serve_noted(self)
        deadline = time.monotonic() + _STOP_PATIENCE
        left, interval = signal.getitimer(signal.ITIMER_REAL)
        signal.setitimer(signal.ITIMER_REAL, _TICK, _TICK)
        try:
            while True:
                waiting = False
                for thread in list(self.threads.values()):
                    if thread.state in (State.RUNNING, State.LISTENING):
                        waiting = True
                        if thread.tid not in asked:
                            asked.add(thread.tid)
                            self._interrupt(thread)
                    elif thread.state is State.STARTING:
                        waiting = True
                if not waiting:
                    return []
                if not self.tracees.wait(self):
                    late = self._unstoppable()
                    if late is None:
                        continue
                    # Who sleeps in ``vfork`` does so until its child, which stands still, goes on.
                    if all(each.waits for each in late) or time.monotonic() > deadline:
                        return late
        finally:
            # Nothing is left between its end and its signal: 0 would be the end of all ticks.
            signal.setitimer(signal.ITIMER_REAL, left or interval, interval)

    def _interrupt(self, thread: Thread) -> None:
        try:
            ptrace.interrupt(thread.tid)
        except (Gone, ptrace.PtraceError):
            # It is dying: its exit status comes.
            return

    def _take_status(self, tid: int) -> bool:
        """Dispatch what the kernel has to say of a thread; false when that is nothing."""
        tracees = self.tracees
        if _waitpid(tid, tracees.status_address, WALL | os.WNOHANG) != tid:
            return False
        tracees.dispatch(tid, tracees.status.value)
        return True

    def _unstoppable(self) -> list[Thread] | None:
        """Those that still run, if each of them sleeps uninterruptibly; else ``None``.

        A leading thread that has ended is no such; one that is not there at all is forgotten.
        """
        late: list[Thread] = []
        runs = False
        for thread in list(self.threads.values()):
            if thread.state not in (State.RUNNING, State.LISTENING, State.STARTING):
                continue
            state = procfs.run_state(thread.tid)
            if not state:
                self._forget(thread, Stop(Kind.EXITED, 0))
            elif state == "Z" and thread.tid == thread.tgid:
                thread.state = State.ENDED
            elif state == "D":
                late.append(thread)
            elif state == "t" and not self._take_status(thread.tid):
                # Its stop was taken from the kernel but, by a defect of ours, not reacted to.
                thread.state = State.STOPPED
                self._engine.abandon(thread)
            else:
                runs = True
        return None if runs else late

    # --- borrowing a thread ---

    def park(self, thread: Thread, stop: Stop) -> None:
        """Note what a stop that came while we borrowed the thread asks for afterwards."""
        if stop.kind in (Kind.SIGNAL, Kind.TRAP):
            if not thread.signal:
                thread.signal = stop.value
                thread.siginfo = ptrace.get_siginfo(thread.tid)
            else:
                # Two at once; only SIGSTOP can get past the mask. Sent again now, it would come
                # back before the thread executes anything.
                self._again.append((thread.tgid, stop.value))
        elif stop.kind is Kind.GROUP_STOP:
            thread.relisten = True
        elif stop.kind is Kind.CLONE:
            self._born = ptrace.event_message(thread.tid)

    @contextmanager
    def _sending_again(self) -> Iterator[None]:
        """Send again at the end what ``park`` had no room for."""
        outer, self._again = self._again, []
        try:
            yield
        finally:
            again, self._again = self._again, outer
            for pid, number in again:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def step(self, thread: Thread) -> Stop:
        """Execute one instruction of a stopped thread; asynchronous signals are held back.

        Returns the stop that ended it: TRAP, or SIGNAL when the instruction itself raised one (then
        ``thread.signal`` is what it was before). Raises Gone.
        """
        tid = thread.tid
        if thread.signal and thread.siginfo is None:
            thread.siginfo = ptrace.get_siginfo(tid)
        if thread.listen:
            thread.listen, thread.relisten = False, True
        with self._sending_again(), self._signals_held(thread):
            while True:
                ptrace.step(tid)
                stop = self._wait_for(thread)
                if stop.kind is Kind.TRAP and not _was_sent(ptrace.get_siginfo(tid)):
                    return stop
                if stop.kind is Kind.SIGNAL and stop.value in SYNCHRONOUS:
                    return stop
                self.park(thread, stop)

    @contextmanager
    def _signals_held(self, thread: Thread) -> Iterator[None]:
        """Only what an instruction raises itself reaches the thread within.

        SIGTRAP among it: a blocked one would make the kernel reset its handler.
        """
        mask = ptrace.get_sigmask(thread.tid)
        ptrace.set_sigmask(thread.tid, (mask | ALL_BUT_SYNCHRONOUS) & ~_TRAP)
        try:
            yield
        finally:
            if thread.tid in self.threads:
                ptrace.set_sigmask(thread.tid, mask)

    def _make_call(self, thread: Thread) -> None:
        """From before a ``syscall`` instruction to behind it, without a SIGTRAP.

        A single step ends with a forced SIGTRAP, which resets the handler of a thread that ignores
        it. But a signal on its way can only be delivered after a stop of the step's kind.
        """
        if thread.signal:
            stop = self.step(thread)
            if stop.kind is not Kind.TRAP:
                raise InjectionError(f"the injected system call raised signal {stop.value}")
            return
        if thread.listen:
            thread.listen, thread.relisten = False, True
        with self._sending_again(), self._signals_held(thread):
            stops = 0
            while stops < 2:
                ptrace.to_syscall(thread.tid)
                stop = self._wait_for(thread)
                if stop.kind is Kind.SYSCALL:
                    stops += 1
                elif stop.value == signal.SIGSYS and not _was_sent(ptrace.get_siginfo(thread.tid)):
                    raise InjectionError(
                        "the target has system calls dispatched to itself "
                        "(PR_SET_SYSCALL_USER_DISPATCH), and ours would be, too"
                    )
                else:
                    self.park(thread, stop)
            if thread.signal:
                # Only a signal's own stop (and a step's) can deliver one.
                os.kill(thread.tgid, thread.signal)
                thread.signal, thread.siginfo = 0, None
            # From here the kernel would not restart an interrupted system call: it does so on the
            # way out of a stop between instructions only.
            thread.clean = False

    def _wait_for(self, thread: Thread) -> Stop:
        """The next stop of this thread; raises Gone when it ends instead."""
        while True:
            tid = _waitpid(thread.tid, self.tracees.status_address, WALL)
            if tid == thread.tid:
                break
            if tid < 0 and ctypes.get_errno() != errno.EINTR:
                raise Gone(thread.tid)
        stop = decode(self.tracees.status.value)
        if stop.kind in (Kind.EXITED, Kind.KILLED):
            self.drop(thread.tid)
            self._engine.forgotten(thread, stop)
            raise Gone(thread.tid)
        if stop.kind is Kind.EXEC:
            # Another thread, which we could not stop, was in it: ``go`` follows it up.
            thread.executed = self.tracees.status.value
            raise Gone(thread.tid)
        return stop

    def inject(self, thread: Thread, gate: int, number: int, *arguments: int) -> int:
        """Make a stopped thread do a system call at ``gate`` (a ``syscall`` instruction).

        Returns the kernel's result as a signed number. Registers, orig_rax (so that an interrupted
        system call is restarted as if nothing had been) and signal mask are put back. Raises Gone.
        """
        saved = bytes(self._load(thread))
        words = self._registers.words
        words[RIP] = gate
        words[RAX] = number
        words[ORIG_RAX] = 0xFFFF_FFFF_FFFF_FFFF
        order = (ptrace.RDI, ptrace.RSI, ptrace.RDX, ptrace.R10, ptrace.R8, ptrace.R9)
        for index, value in zip(order, arguments, strict=False):
            words[index] = value
        self._registers.store(thread.tid)
        try:
            self._make_call(thread)
            result = self._registers.load(thread.tid)[RAX]
        finally:
            if thread.tid in self.threads:
                self._registers.data[:] = saved
                self._registers.store(thread.tid)
                self.make_clean(thread)
        return result - (1 << 64) if result >> 63 else result

    def take_born(self) -> Thread | None:
        """The process that an injected ``clone`` made, in its first stop: not one of the threads.

        None when it made none, or it was killed at once.
        """
        tid, self._born = self._born, 0
        if not tid:
            return None
        if self.tracees.early.pop(tid, None) is None:
            while _waitpid(tid, self.tracees.status_address, WALL) < 0:
                if ctypes.get_errno() != errno.EINTR:
                    return None
            if decode(self.tracees.status.value).kind in (Kind.EXITED, Kind.KILLED):
                return None
        return Thread(tid, tid, State.STOPPED)

    def _load(self, thread: Thread) -> bytearray:
        self._registers.load(thread.tid)
        return self._registers.data

    def make_clean(self, thread: Thread) -> None:
        """Bring a thread that stopped inside a system call to the edge of user space.

        Raises Gone.
        """
        while not thread.clean:
            ptrace.interrupt(thread.tid)
            ptrace.cont(thread.tid)
            stop = self._wait_for(thread)
            thread.clean = stop.kind in (Kind.STOP, Kind.SIGNAL, Kind.GROUP_STOP)
            if stop.kind is Kind.SIGNAL:
                thread.signal = stop.value
            if stop.kind is Kind.GROUP_STOP:
                thread.listen, thread.relisten = True, False

    def collect(self, thread: Thread) -> None:
        """Serve a signal of its own doing that is pending for a stopped thread; raises Gone.

        It is of a breakpoint that the thread executed, or of a fault that it made, just before our
        interrupt, which the kernel reports first (get_signal). When the thread goes on, the signal
        comes before it runs any instruction.
        """
        make_again = thread.listen or thread.relisten
        with self._sending_again():
            while is_pending(thread.tid, _MASK):
                ptrace.cont(thread.tid)
                stop = self._wait_for(thread)
                thread.clean = True
                thread.listen = False
                if stop.kind is Kind.TRAP:
                    self._engine.serve_trap(thread)
                    break
                if stop.kind is Kind.SIGNAL and stop.value in SYNCHRONOUS:
                    thread.signal = stop.value
                    self._engine.deliver(thread)
                    break
                self.park(thread, stop)
        thread.relisten = thread.relisten or make_again

    def lender(self, tgid: int) -> Thread:
        """A stopped thread that can be borrowed; raises Gone when there is none.

        One of the process, or of a child that shares its memory: a parent in ``vfork`` sleeps.
        """
        candidates = [
            thread
            for thread in self.threads.values()
            if thread.state in (State.STOPPED, State.HELD) and not thread.waits
        ]

        def order(each: Thread) -> tuple[object, ...]:
            return each.tgid != tgid, bool(each.signal), not each.clean, each.held, each.tid

        for thread in sorted(candidates, key=order):
            if thread.tgid != tgid and not procfs.shares_memory(tgid, thread.tgid):
                continue
            try:
                self.make_clean(thread)
                if not thread.signal:
                    self.collect(thread)
            except Gone:
                continue
            return thread
        raise Gone(tgid)

    @contextmanager
    def borrowed(self, tgid: int) -> Iterator[Thread]:
        """The world stopped, and a thread of the process to borrow; raises Gone.

        Waits a while for one where all sleep in the kernel, as a process does in ``vfork``.
        """
        deadline = time.monotonic() + _LENDER_PATIENCE
        while True:
            with self.stopped() as late:
                try:
                    thread = self.lender(tgid)
                except Gone:
                    if self._stopped > 1 or not late or time.monotonic() > deadline:
                        raise
                else:
                    yield thread
                    return
            self.tracees.pause(_LENDER_PAUSE)


def _was_sent(info: bytes) -> bool:
    """Whether a signal came from a process, not from the kernel (si_code 0 or less)."""
    return int.from_bytes(info[8:12], "little", signed=True) <= 0


def trap_is_pending(tid: int) -> bool:
    """Whether a SIGTRAP waits for this stopped thread, and not for its being unblocked."""
    return is_pending(tid, _TRAP)


def is_pending(tid: int, signals: int) -> bool:
    """Whether one of these waits for this stopped thread, and not for its being unblocked."""
    found = procfs.status(tid)
    return found is not None and bool(found.pending & ~found.blocked & signals)


class InjectionError(Exception):
    """A system call that we had the target make did not work."""
