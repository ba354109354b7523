"""One traced process: a target of a tracer, with its threads, programs, dumps and debugger.

Whether a ``fork`` child is followed, each program says for itself. If none does, our changes are
undone in the child, and it is let go. Else it becomes a target of its own before it has run an
instruction: the breakpoints in its copy of the memory are taken over as they are, the variables of
programs that follow begin with what they are in the parent, counters with 0; other programs are
taken out of it. A child that shares the memory (``vfork``) belongs to
its parent's target until it has memory of its own, at ``exec``.

A child into whose memory no way leads is *kept*: a target without programs, which nobody is told
of, whose breakpoints do nothing, until it ends or executes another program.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from dprobed.engine.address_space import AddressSpace, Site, SpaceError
from dprobed.engine.affinity import Affinity
from dprobed.engine.probe import Attachment
from dprobed.engine.trap.engine import TrapEngine
from dprobed.engine.trap.sigtrap import Sigtrap
from dprobed.proc import procfs
from dprobed.program.exec.interface import Outcome
from dprobed.tracee.lifecycle import State
from dprobed.tracee.memory import Memory
from dprobed.tracee.ptrace import Gone, PtraceError, Registers
from dprobed.tracee.status import Kind, Stop
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup
from dprobed.tracee.tracees import Tracees
from dprobed.tracer.debug.invitation import FACILITY as DEBUGGER
from dprobed.tracer.debug.invitation import Debugger, Host
from dprobed.tracer.dump.snapshot import FACILITY as DUMP
from dprobed.tracer.dump.snapshot import Dumps, Result
from dprobed.tracer.programs import Programs, RequestError, Variables
from dprobed.tracer.reporter import Reporter
from dprobed.tracer.throttle import Throttle
from dprobed.wire import protocol
from dprobed.wire.limits import Limits

#: Seconds between two attempts to let threads go that sleep in the kernel.
LATE_PAUSE: Final = 0.05

_log = logging.getLogger(__name__)


@dataclass
class Common:
    """What all targets of a tracer share."""

    tracees: Tracees
    registers: Registers
    affinity: Affinity
    reporter: Reporter
    #: A followed child is a target from now on; false: there are too many, and it was not taken.
    adopt: Callable[[TracedProcess], bool]
    #: A child that cannot be let go is a target from now on.
    keep: Callable[[TracedProcess], None]
    #: One dictionary for all executors, which ask it again at each hit.
    facilities: dict[str, int] = field(default_factory=dict)
    #: For which of them something is done at the hit; None: for all.
    acting: list[int] | None = None


class TracedProcess:
    """A target from when it is attached to until it has ended or is let go."""

    def __init__(self, common: Common, pid: int, options: protocol.Attach) -> None:
        """``options`` say how it is treated; those of the parent for a followed child."""
        self.pid = pid
        self.group = ThreadGroup(self, common.tracees)
        self.engine = TrapEngine(self.group, common.reporter, common.registers, common.affinity)
        self.programs = Programs(pid, self.group, self.engine, common.reporter, self._tell)
        self.debugger = Debugger(self.group, self.engine, pid, self._debugger_host())
        self.debugger.limit = options.hold_limit
        self._throttle = Throttle(self.programs, self.group.want)
        self._options = options
        self.adjust(
            follow_forks=options.follow_forks,
            hold_thread=options.hold_thread,
            budget=options.budget,
        )
        #: How it ended, and with which status; None while it is a target.
        self.end: tuple[str, int] | None = None
        self._common = common
        self._dumps = Dumps(self.engine, self._describe, self._tell)
        self._end_status = ("gone", 0)
        self._retired = False
        self._lost: list[tuple[Thread, list[Site], str]] = []
        self._resume = False
        self._incomplete = False
        self._given_up = False
        #: The variables of the programs when a child was made that has not begun yet.
        self._at_fork: dict[int, Variables] = {}
        #: Called when it has been let go, once that was asked for.
        self._leaving: Callable[[], None] | None = None
        self.engine.overdrawn = self._throttle.note
        self.engine.retire = self._note_retired
        self.engine.resume = self._note_resume
        self.engine.suspended = self._tell_suspended
        self.engine.unwatched = self.programs.unwatched
        self.engine.lost = self._note_lost
        self.engine.facility = self._act

    # --- attaching ---

    def attach(self, launch: bool) -> None:
        """Trace the process; raises RequestError, and nothing is traced then."""
        reason = procfs.refusal(self.pid)
        if reason is not None:
            raise RequestError(reason)
        # Looked at again when no more children can come; here because it refuses at once, and a
        # parent in vfork could not be let go before it wakes.
        self._check_alone()
        self.programs.launching = launch
        try:
            self.group.seize(self.pid)
            # Not before: an ``exec`` in between would leave us with the memory that it gave up.
            self.programs.use_space(AddressSpace(self.pid, Memory(procfs.live_thread(self.pid))))
        except (Gone, OSError) as error:
            # It may have ended, or got another tracer, since the look.
            if not procfs.has_ended(self.pid):
                _log.info("process %d: %s", self.pid, error)
            reason = procfs.refusal(self.pid) or procfs.denial(self.pid)
            self._leave_now()
            raise RequestError(reason) from error
        try:
            self._check_alone()
        except RequestError:
            self._leave_now()
            raise

    def _leave_now(self) -> None:
        while not self.leave():
            self._common.tracees.pause(LATE_PAUSE)

    def _check_alone(self) -> None:
        """A process that shares the memory but is not traced would die of our breakpoints."""
        own = self._common.tracees.threads
        live_thread = procfs.live_thread(self.pid)
        parent = procfs.parent(self.pid)
        for other in [parent, *procfs.children(self.pid)]:
            found = procfs.status(other)
            if found is None or other in own:
                continue
            if procfs.shares_memory(live_thread, procfs.live_thread(other)):
                raise RequestError(
                    f"its {'parent' if other == parent else 'child'} {other} "
                    f"({found.name.decode(errors='replace')}) shares its memory "
                    "(vfork or CLONE_VM) and would run into the probes; try again when that ended"
                )

    def adjust(self, *, follow_forks: bool, hold_thread: bool, budget: Limits | None) -> None:
        """Treat it, and children that are followed, so from now on."""
        self._options = msgspec.structs.replace(
            self._options, follow_forks=follow_forks, hold_thread=hold_thread, budget=budget
        )
        self.programs.follows_forks = follow_forks
        self.debugger.holds_thread = hold_thread
        self.programs.set_budget(budget)

    # --- the main loop ---

    def attend(self) -> None:
        """Do what has become due; the main loop calls it when the world wants it."""
        self.group.wants = False
        if self._incomplete:
            self._incomplete = False
            self.programs.complete()
        self._dumps.attend()
        if self._resume:
            self._resume = False
            self._release(None)
        if self._retired:
            self._retired = False
            self.programs.take_out_retired()
        self._give_up_lost()
        if self.end is None:
            self._keep_budgets()
        if self.end is None and self.debugger.is_invited:
            self.debugger.attend()
        if self._leaving is not None and not self._dumps.busy:
            if (self.end is not None and not self.is_kept) or self.leave():
                self._leaving()
            elif not self.is_kept:
                self._common.reporter.arm()

    def _give_up_lost(self) -> None:
        lost, self._lost = self._lost, []
        for thread, sites, reason in lost:
            if self.end is None:
                self.programs.give_up(sites, reason)
            self.group.unpin(thread)

    def _keep_budgets(self) -> None:
        try:
            self._throttle.attend()
        except Gone:
            return  # its end comes next
        if self._throttle.is_asleep:
            self._common.reporter.arm()

    def tick(self) -> None:
        """What is looked at now and then."""
        if self._throttle.is_asleep:
            self.group.want()
        self.programs.retry_pending()
        self.programs.watch_late()
        if self._leaving is not None or self._dumps.busy:
            self.group.want()

    # --- what is asked besides programs ---

    def _suspended(self) -> list[Thread]:
        """Threads that a program's ``suspend`` holds."""
        return [
            thread
            for thread in self.group.threads.values()
            if thread.held and not self.debugger.control.owns(thread.tid)
        ]

    def query(self, seq: int) -> protocol.Ok:
        """States and counters."""
        if self.end is None:
            self.programs.give_up_overwritten()
        return protocol.Ok(
            seq,
            probes=self.programs.statuses(),
            suspended=[thread.tid for thread in self._suspended()],
            overhead_ns=self.engine.overhead_ns,
            debugger=self.debugger.status(),
        )

    def _release(self, tid: int | None) -> list[int]:
        held = [thread for thread in self._suspended() if tid in (None, thread.tid)]
        for thread in held:
            self.group.release(thread)
        return [thread.tid for thread in held]

    def let_on(self, tid: int | None) -> list[int]:
        """What ``resume`` of a client lets go: suspended threads, and who waits for a debugger.

        Raises RequestError.
        """
        tids = self._release(tid)
        if tid is None or tid in self.debugger.held:
            tids += self.debugger.release()
        if tid is not None and not tids:
            raise RequestError(f"thread {tid} is not held")
        return tids

    def dump(self, zstd: bool, answer: Callable[[Result], None]) -> None:
        """Write a core; raises DumpError, StoreError and Gone."""
        self._dumps.ask(self.pid, zstd, answer)

    # --- at hits ---

    def _act(self, thread: Thread, attachment: Attachment, outcome: Outcome) -> None:
        """A facility that acts while the thread stands at its hit."""
        acting = self._common.acting
        if acting is not None and outcome.exit not in acting:
            return
        if outcome.exit == DEBUGGER:
            self.debugger.hit(thread)
        elif outcome.exit == DUMP:
            self._dumps.hit(thread, attachment, outcome)

    def _describe(self, number: int) -> dict[str, object]:
        """A program, for the file beside a core."""
        inserted = self.programs.inserted.get(number)
        if inserted is None:
            return {}
        return {"program": inserted.label, "id": inserted.program.header.id}

    def _debugger_host(self) -> Host:
        return Host(self._tell, self.programs.detach, self.programs.apply_watches)

    def _note_retired(self) -> None:
        self._retired = True
        self.group.want()

    def _note_resume(self) -> None:
        self._resume = True
        self.group.want()

    def _note_lost(self, thread: Thread, sites: list[Site], reason: str) -> None:
        self._lost.append((thread, sites, reason))
        self.group.want()

    def _tell_suspended(self, thread: Thread) -> None:
        self._tell(
            "suspend", f"thread {thread.tid} is held; 'dprobe resume' lets it go", thread.tid
        )

    def _tell(self, kind: str, text: str, tid: int = 0) -> None:
        self._common.reporter.send(protocol.TargetEvent(kind, self.pid, tid or self.pid, text))

    # --- the target's life (thread.Engine) ---

    def serve_trap(self, thread: Thread) -> None:
        """See TrapEngine; a debugger may be stepping the thread."""
        if self._given_up and self.engine.abandon(thread):
            return
        if not self.debugger.serve_trap(thread):
            self.engine.serve_trap(thread)
        if thread.signal:
            self.debugger.signalled(thread)

    def abandon(self, thread: Thread) -> None:
        """See TrapEngine."""
        self.engine.abandon(thread)

    def deliver(self, thread: Thread) -> None:
        """See TrapEngine; a debugger is asked first."""
        self.engine.deliver(thread)
        if thread.signal:
            self.debugger.signalled(thread)

    def forked(self, child: int) -> None:
        """What the child begins with is what there is now, whenever its first stop comes."""
        if self.programs.that_follow():
            self._at_fork[child] = self.programs.variables_now()

    def begin(self, thread: Thread, shares_memory: bool) -> None:
        """A new thread joins; a forked process is followed, or let go without our changes."""
        if self.end is not None:
            self.group.want()  # there was nothing to wait for but this
        if shares_memory:
            self.engine.begin(thread)
            return
        try:
            if self.programs.that_follow() and self._follow(thread, copied=True) is not None:
                return
            self.engine.release_child(thread)
        except SpaceError as error:
            self._keep(thread)
            self._tell(
                "unprobed",
                "a child stays traced, without probes, until it ends or executes a program, "
                f"because our breakpoints cannot be taken out of it: {error}",
                thread.tid,
            )
            return
        except Gone:
            return
        self._tell("fork", "a child was let go without probes", thread.tid)

    def _keep(self, thread: Thread) -> None:
        """A child keeps its copy of our changes, and would die of them alone."""
        options = msgspec.structs.replace(self._options, follow_forks=False)
        child = TracedProcess(self._common, thread.tgid, options)
        self._common.keep(child)
        self.group.hand_over(thread, child.group)
        child.engine.space = self.engine.space.sealed_copy(thread.tgid)
        child.engine.classify()
        child.engine.begin(thread)

    @property
    def is_kept(self) -> bool:
        """Whether it is a child that could not be let go."""
        return self.engine.has_space and self.engine.space.sealed

    def _follow(self, thread: Thread, copied: bool) -> TracedProcess | None:
        """Make a child a target of its own; None: it could not be, and nothing was done.

        ``copied``: its memory is a copy of ours; else it has just got new one. Raises Gone.
        """
        child = TracedProcess(self._common, thread.tgid, self._options)
        try:
            space = self.engine.space.copy(self.group, thread) if copied else None
        except OSError:
            raise Gone(thread.tid) from None
        except SpaceError as error:
            self._tell("unprobed", f"a child is not followed: {error}", thread.tid)
            return None
        if not self._common.adopt(child):
            if space is not None:
                space.close()
            self._tell("unprobed", "too many processes: a child is not followed", thread.tid)
            return None
        self.group.hand_over(thread, child.group)
        try:
            if space is not None:
                child.engine.space = space
            variables = self._at_fork.pop(thread.tid, None) or self.programs.variables_now()
            child.programs.take_over(self.programs, variables)
            self._common.reporter.send(
                protocol.Forked(child.pid, self.pid, child.programs.statuses())
            )
            if space is not None:
                child.programs.take_over_space(self.programs, space)
                child.begin_copied(thread, self.engine.sigtrap)
                if self.group.is_stopped or self._throttle.is_asleep:
                    child.complete_later()
        except Gone:
            pass  # killed; its exit status comes next
        except Exception as error:
            # It stays where it is until our changes are out of it.
            thread.pinned = True
            child.group.fail(error)
        return child

    def begin_copied(self, thread: Thread, sigtrap: Sigtrap) -> None:
        """The first stop of a child that has a copy of its parent's memory; raises Gone.

        ``sigtrap``: the parent's.
        """
        engine, space = self.engine, self.engine.space
        engine.sigtrap.take_over(sigtrap)
        # Those of the parent's debugger, and those that are there no more.
        empty = [site for site in space.sites() if not site.attachments and site.callback is None]
        engine.remove(empty, [])
        engine.classify()
        engine.begin(thread)

    def complete_later(self) -> None:
        """The parent was being changed when it forked: look for what is not in this copy."""
        self._incomplete = True
        self.group.want()

    def new_image(self, thread: Thread) -> None:
        """``exec`` took the old address space away: put the probes into the new one."""
        if thread.tgid != self.pid:
            self._part(thread)
            return
        if self.is_kept:
            self.group.detach(thread)
            self.group.want()
            return
        self.group.await_children(thread)
        self.debugger.new_image(thread)
        self._leave_space()
        self.programs.forget_places()
        try:
            self.programs.enter_image(thread)
        except Gone:
            return
        self._tell("exec", f"process {self.pid} runs a new program")
        self._common.reporter.send(protocol.Changed(self.pid, self.programs.statuses()))

    def _part(self, thread: Thread) -> None:
        """A vfork child has memory of its own now."""
        if self.end is not None:
            self.group.want()  # there was nothing to wait for but this
        child = None
        try:
            if self.programs.that_follow():
                child = self._follow(thread, copied=False)
        except Gone:
            return
        if child is None:
            self.group.detach(thread)
        elif child.group.failure is None:
            child.new_image(thread)

    def _leave_space(self) -> None:
        """The old address space is gone, unless a CLONE_VM child still uses it."""
        engine = self.engine
        if not engine.has_space:
            return
        engine.watch.clear()
        heirs = [t for t in self.group.threads.values() if t.tgid != self.pid]
        if heirs:
            with self.group.stopped() as late:
                engine.remove(engine.space.sites(), late)
                for thread in heirs:
                    # Not one that has left us meanwhile, to be a target of its own.
                    here = thread.group is self.group and not thread.busy
                    if here and thread.state in (State.STOPPED, State.HELD):
                        self.group.detach(thread)
        engine.space.close()

    def left_copy(self, pid: int) -> bool:
        """See thread.Engine."""
        if not self.engine.has_space:
            return False
        # One of ours for as long as it may have to open its memory to us.
        thread = self.group.add(Thread(pid, pid, State.STOPPED))
        try:
            return self.engine.space.is_copied_in(self.group, thread)
        except (Gone, SpaceError):
            return False
        finally:
            self.group.drop(pid)

    def forgotten(self, thread: Thread, stop: Stop) -> None:
        """A thread ended; with the last one, the target."""
        self._at_fork.pop(thread.tid, None)
        self.debugger.forgotten(thread)
        if thread.tid == self.pid:
            self._end_status = ("exited" if stop.kind is Kind.EXITED else "killed", stop.value)
        if not any(t.tgid == self.pid for t in self.group.threads.values()):
            self.end = self._end_status
            self.group.want()
            if self._dumps.busy:
                self._tell("dumping", "the process has ended; its core is being written")

    # --- leaving ---

    @property
    def is_over(self) -> bool:
        """Whether it has ended, a core of it is not being written any more, and all children that
        it told of have begun."""
        threads = self.group.threads.values()
        if self.end is None and not threads:
            self.end = self._end_status
        return (
            self.end is not None
            and self._leaving is None
            and not self._dumps.busy
            and not any(thread.state is State.STARTING for thread in threads)
        )

    def leave_when_idle(self, then: Callable[[], None]) -> None:
        """Let the target go as soon as no core is being written and all threads can be."""
        self._leaving = then
        self.group.want()

    def depart(self, end: tuple[str, int]) -> None:
        """The target has ended, or was let go: nothing but its last words is left."""
        self.end = end
        self.debugger.ended(*end)
        self.debugger.leave()
        if self.engine.has_space:
            self.engine.space.memory.close()
        self._common.reporter.send(
            protocol.Ended(self.pid, *end, self.programs.statuses(), self.engine.overhead_ns)
        )

    def give_up(self) -> None:
        """There was a defect of ours: find again whom it lost, and answer who waits."""
        self._given_up = True
        self.engine.give_up()
        self.group.find_lost(self.pid)
        self._dumps.abandon("its tracer failed; the log says more")

    def leave(self) -> bool:
        """Take every change back and let every thread go; false: one sleeps in the kernel and
        keeps its slots, ask again."""
        if self.is_kept:
            self.group.tracees.serve_noted(self.group)
            return not self.group.threads
        self.debugger.leave()
        self.programs.give_up_overwritten()
        for probe in self.programs.probes():
            probe.attachments.clear()
        self.engine.watch.clear()
        with self.group.stopped() as late:
            self._withdraw(late)
        return not self.group.threads

    def _withdraw(self, late: list[Thread]) -> None:
        engine, group = self.engine, self.group
        if engine.has_space:
            space = engine.space
            try:
                engine.remove(space.sites(), late)
                if not late and space.areas:
                    lender = group.lender(space.tgid)
                    engine.sigtrap.restore(lender)
                    space.unmap_areas(group, lender)
                    space.areas.clear()
            except (Gone, SpaceError) as error:
                _log.warning("process %d keeps pages of ours: %s", self.pid, error)
        for thread in list(group.threads.values()):
            if thread.state in (State.STOPPED, State.HELD):
                try:
                    engine.watch.apply(thread.tid)
                except (Gone, PtraceError):
                    continue
        group.detach_all()
