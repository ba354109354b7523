"""One traced process: a target of a tracer, with its threads, programs, dumps and debugger."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import msgspec

from dprobed.engine.address_space import AddressSpace
from dprobed.engine.affinity import Affinity
from dprobed.engine.budget import Account
from dprobed.engine.errors import SpaceError
from dprobed.engine.probe import Attachment
from dprobed.proc import procfs, refusals
from dprobed.proc.shared_memory import shares_memory
from dprobed.program.exec.interface import Outcome
from dprobed.program.exits import DEBUGGER, DUMP
from dprobed.resolver.client import Resolver
from dprobed.tracee.attach import attach, find_lost
from dprobed.tracee.lifecycle import State
from dprobed.tracee.memory import Memory
from dprobed.tracee.ptrace import Gone, Registers
from dprobed.tracee.status import Kind, Stop
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup
from dprobed.tracee.tracees import Tracees
from dprobed.tracer.debug.invitation import Debugger, Host
from dprobed.tracer.dump.snapshot import Dumps, Result
from dprobed.tracer.engines import Engines
from dprobed.tracer.inheritance import Births, Inheritance
from dprobed.tracer.inserted import RequestError
from dprobed.tracer.programs import Programs
from dprobed.tracer.reporter import Reporter
from dprobed.tracer.throttle import Throttle
from dprobed.wire import protocol
from dprobed.wire.limits import Limits

#: Seconds between two attempts to detach from threads that sleep in the kernel.
LATE_PAUSE: Final = 0.05

_log = logging.getLogger(__name__)


class Common(msgspec.Struct):
    """What all targets of a tracer share."""

    tracees: Tracees
    registers: Registers
    affinity: Affinity
    reporter: Reporter
    resolver: Resolver
    births: Births
    #: One dictionary for all executors, which ask it again at each hit.
    facilities: dict[str, int] = msgspec.field(default_factory=dict)
    #: For which of them something is done at the hit; None: for all.
    acting: list[int] | None = None


def check_alone(pid: int, tracees: Tracees) -> None:
    """A process that shares the memory but is not traced would die of our breakpoints.

    Raises RequestError.
    """
    live_thread = procfs.live_thread(pid)
    parent = procfs.parent(pid)
    for other in [parent, *procfs.children(pid)]:
        found = procfs.status(other)
        if found is None or other in tracees.threads:
            continue
        if shares_memory(live_thread, procfs.live_thread(other)):
            raise RequestError(
                f"its {'parent' if other == parent else 'child'} {other} "
                f"({found.name.decode(errors='replace')}) shares its memory "
                "(vfork or CLONE_VM) and would run into the probes; try again when that ended"
            )


class Due(msgspec.Struct):
    """What threads have asked for at their stops, and the main loop does."""

    retired: bool = False
    resume: bool = False
    #: Pinned until their probes, which cannot be where they are, are out.
    lost: list[Thread] = msgspec.field(default_factory=list)


class TracedProcess:
    """A target from when it is attached to until it has ended or is detached from.

    What its engines tell (``engine.interface.Listener``) and what its threads' stops ask for
    (``tracee.thread.StopHandler``) comes here.
    """

    def __init__(self, common: Common, pid: int, options: protocol.Attach) -> None:
        """``options`` say how it is treated; those of the parent for a followed child."""
        self._common: Final = common
        self.pid: Final = pid
        self.records: Final = common.reporter
        self.group: Final = ThreadGroup(self, common.tracees)
        self.engines: Final = Engines(self.group, self, common.registers, common.affinity)
        self.serve_hit: Final = self.engines.trap.stops.serve_hit
        self.programs: Final = Programs(
            pid, self.group, self.engines, common.reporter, common.resolver, self.tell
        )
        host = Host(self.tell, self.programs.places.take_out)
        self.debugger: Final = Debugger(self.engines, pid, host)
        self.debugger.limit = options.hold_limit
        self.inheritance: Final = Inheritance(
            self, common.births, common.reporter, self.debugger.new_image
        )
        self.options = options
        #: How it ended, and with which status; None while it is a target.
        self.end: tuple[str, int] | None = None
        self._throttle: Final = Throttle(self.programs, self.group.want)
        self._dumps: Final = Dumps(self.engines, self._describe, self.tell)
        self._due = Due()
        self._end_status = ("gone", 0)
        self._given_up = False
        #: Called when we have detached from it, once that was asked for.
        self._leaving: Callable[[], None] | None = None
        self.adjust(
            follow_forks=options.follow_forks,
            hold_thread=options.hold_thread,
            budget=options.budget,
        )

    # --- attaching ---

    def attach(self, launch: bool) -> None:
        """Trace the process; raises RequestError, and nothing is traced then."""
        reason = refusals.refusal(self.pid)
        if reason is not None:
            raise RequestError(reason)
        # Looked at again when no more children can come; here because it refuses at once, and a
        # parent in vfork could not be detached from before it wakes.
        check_alone(self.pid, self._common.tracees)
        self.programs.launching = launch
        try:
            attach(self.group, self.pid)
            # Not before: an ``exec`` in between would leave us with the memory that it gave up.
            self.programs.use_space(AddressSpace(self.pid, Memory(procfs.live_thread(self.pid))))
        except (Gone, OSError) as error:
            # It may have ended, or got another tracer, since the look.
            if not procfs.has_ended(self.pid):
                _log.info("process %d: %s", self.pid, error)
            reason = refusals.refusal(self.pid) or refusals.denial(self.pid)
            self._leave_now()
            raise RequestError(reason) from error
        try:
            check_alone(self.pid, self._common.tracees)
        except RequestError:
            self._leave_now()
            raise

    def _leave_now(self) -> None:
        while not self.leave():
            self._common.tracees.pause(LATE_PAUSE)

    def adjust(self, *, follow_forks: bool, hold_thread: bool, budget: Limits | None) -> None:
        """Treat it, and children that are followed, so from now on."""
        self.options = msgspec.structs.replace(
            self.options, follow_forks=follow_forks, hold_thread=hold_thread, budget=budget
        )
        self.programs.follows_forks = follow_forks
        self.debugger.holds_thread = hold_thread
        self.programs.set_budget(budget)

    # --- the main loop ---

    def attend(self) -> None:
        """Do what has become due; the main loop calls it when its group wants it."""
        self.group.wants = False
        if self.inheritance.is_incomplete:
            self.inheritance.is_incomplete = False
            self.programs.complete()
        self._dumps.attend()
        if self._due.resume:
            self._due.resume = False
            self._release(None)
        if self._due.retired:
            self._due.retired = False
            self.programs.take_out_retired()
        self._give_up_lost()
        if self.end is None:
            self._keep_budgets()
        if self.end is None and self.debugger.is_invited:
            self.debugger.attend()
        if self._leaving is not None and not self._dumps.busy:
            if (self.end is not None and not self.inheritance.is_kept) or self.leave():
                self._leaving()
            elif not self.inheritance.is_kept:
                self._common.reporter.arm()

    def _give_up_lost(self) -> None:
        lost, self._due.lost = self._due.lost, []
        if lost and self.end is None:
            self.programs.places.give_up_lost()
        for thread in lost:
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
        self.engines.watch.apply_late()
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
            self.programs.places.give_up_overwritten()
        return protocol.Ok(
            seq,
            probes=self.programs.statuses(),
            suspended=[thread.tid for thread in self._suspended()],
            overhead_ns=self.group.overhead_ns,
            debugger=self.debugger.status(),
        )

    def _release(self, tid: int | None) -> list[int]:
        held = [thread for thread in self._suspended() if tid in (None, thread.tid)]
        for thread in held:
            self.group.release(thread)
        return [thread.tid for thread in held]

    def let_on(self, tid: int | None) -> list[int]:
        """What ``resume`` of a client resumes: suspended threads, and who waits for a debugger.

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

    def _describe(self, number: int) -> dict[str, object]:
        """A program, for the file beside a core."""
        inserted = self.programs.inserted.get(number)
        if inserted is None:
            return {}
        return {"program": inserted.label, "id": inserted.program.header.id}

    def tell(self, kind: str, text: str, tid: int = 0) -> None:
        """Tell the daemon something of note; ``tid``: of which thread."""
        self._common.reporter.send(protocol.TargetEvent(kind, self.pid, tid or self.pid, text))

    # --- what engines tell (engine.interface.Listener) ---

    def facility(self, thread: Thread, attachment: Attachment, outcome: Outcome) -> None:
        """See Listener: a facility that acts while the thread stands at its hit."""
        acting = self._common.acting
        if acting is not None and outcome.exit not in acting:
            return
        if outcome.exit == DEBUGGER:
            self.debugger.hit(thread)
        elif outcome.exit == DUMP:
            facts = self.engines.runner.facts_of(thread)
            self._dumps.hit(thread, facts, attachment, outcome)

    def retired(self) -> None:
        """See Listener."""
        self._due.retired = True
        self.group.want()

    def resume(self) -> None:
        """See Listener."""
        self._due.resume = True
        self.group.want()

    def lost(self, thread: Thread) -> None:
        """See Listener."""
        self._due.lost.append(thread)
        self.group.want()

    def suspended(self, thread: Thread) -> None:
        """See Listener."""
        self.tell("suspend", f"thread {thread.tid} is held; 'dprobe resume' lets it go", thread.tid)

    def overdrawn(self, account: Account) -> None:
        """See Listener."""
        self._throttle.note(account)

    def unwatched(self, trouble: str) -> None:
        """See Listener."""
        self.programs.places.note_unwatched(trouble)

    def identified(self, thread: Thread, found: procfs.Status) -> None:
        """See Listener."""
        self.engines.trap.sigtrap.identified(thread, found)

    # --- stops (tracee.thread.StopHandler) ---

    def serve_trap(self, thread: Thread) -> None:
        """See StopHandler; a debugger may be stepping the thread."""
        if self._given_up and self.engines.trap.stops.abandon(thread):
            return
        if not self.debugger.serve_trap(thread):
            self.engines.serve(thread)
        if thread.signal:
            self.debugger.signalled(thread)

    def abandon(self, thread: Thread) -> None:
        """See StopHandler."""
        self.engines.trap.stops.abandon(thread)

    def deliver(self, thread: Thread) -> None:
        """See StopHandler; a debugger is asked first."""
        self.engines.trap.stops.deliver(thread)
        if thread.signal:
            self.debugger.signalled(thread)

    def forked(self, child: int) -> None:
        """See StopHandler."""
        self.inheritance.forked(child)

    def begin(self, thread: Thread, shares_memory: bool) -> None:
        """See StopHandler; a forked process is followed, or detached from without our changes."""
        if self.end is not None:
            self.group.want()  # there was nothing to wait for but this
        if shares_memory:
            self.engines.begin(thread)
        else:
            self.inheritance.begin(thread)

    def new_image(self, thread: Thread) -> None:
        """See StopHandler."""
        if self.end is not None:
            self.group.want()  # there was nothing to wait for but this
        self.inheritance.new_image(thread)

    def left_copy(self, pid: int) -> bool:
        """See StopHandler."""
        return self.inheritance.left_copy(pid)

    def forgotten(self, thread: Thread, stop: Stop) -> None:
        """See StopHandler: with its last thread the target ended."""
        self.inheritance.forget(thread.tid)
        self.engines.forget(thread)
        self.debugger.forgotten(thread)
        if thread.tid == self.pid:
            self._end_status = ("exited" if stop.kind is Kind.EXITED else "killed", stop.value)
        if not any(t.tgid == self.pid for t in self.group.threads.values()):
            self.end = self._end_status
            self.group.want()
            if self._dumps.busy:
                self.tell("dumping", "the process has ended; its core is being written")

    # --- leaving ---

    @property
    def is_changing(self) -> bool:
        """Whether throttled probes are to be put in again."""
        return self._throttle.is_asleep

    @property
    def is_kept(self) -> bool:
        """Whether it is a child that we could not detach from."""
        return self.inheritance.is_kept

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
        """Detach from the target as soon as no core is being written and all threads can be."""
        self._leaving = then
        self.group.want()

    def depart(self, end: tuple[str, int]) -> None:
        """The target has ended, or was detached from: nothing but its last words is left."""
        self.end = end
        self.debugger.ended(*end)
        self.debugger.leave()
        self.engines.space.memory.close()
        self._common.reporter.send(
            protocol.Ended(self.pid, *end, self.programs.statuses(), self.group.overhead_ns)
        )

    def give_up(self) -> None:
        """There was a defect of ours: find again whom it lost, and answer who waits."""
        self._given_up = True
        self.engines.trap.stops.give_up()
        find_lost(self.group, self.pid)
        self._dumps.abandon("its tracer failed; the log says more")

    def leave(self) -> bool:
        """Take every change back and detach from every thread; false: one sleeps in the kernel and
        keeps its slots, ask again."""
        if self.is_kept:
            self.group.tracees.dispatch_deferred(self.group)
            return not self.group.threads
        self.debugger.leave()
        self.programs.places.give_up_overwritten()
        for probe in self.programs.probes():
            probe.attachments.clear()
        with self.group.stopped() as late:
            self._withdraw(late)
        return not self.group.threads

    def _withdraw(self, late: list[Thread]) -> None:
        engines, group, space = self.engines, self.group, self.engines.space
        try:
            engines.withdraw(late)
            if not late and space.resident.areas:
                lender = group.borrower.lender(space.tgid)
                engines.trap.sigtrap.restore(lender)
                space.resident.unmap(group, lender)
                space.resident.areas.clear()
        except (Gone, SpaceError) as error:
            _log.warning("process %d keeps pages of ours: %s", self.pid, error)
        group.detach_all()
