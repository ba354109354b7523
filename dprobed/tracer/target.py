"""A traced process, or target: its threads, programs, dumps and debugger."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Final

import msgspec

from dprobed.change_journal import Changes
from dprobed.engine.address_space import AddressSpace
from dprobed.engine.errors import SpaceError
from dprobed.proc import procfs
from dprobed.proc.shared_memory import processes
from dprobed.tracee.attach import attach, find_lost
from dprobed.tracee.lifecycle import State
from dprobed.tracee.memory import Memory
from dprobed.tracee.ptrace import Gone
from dprobed.tracee.status import Kind, Stop
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup
from dprobed.tracer.attachable import check_alone, check_attachable, why_not_attached
from dprobed.tracer.context import TracerContext
from dprobed.tracer.debug.invitation import Debugger, TracerCallbacks
from dprobed.tracer.detachment import Detachment
from dprobed.tracer.engines import Engines
from dprobed.tracer.inheritance import Inheritance
from dprobed.tracer.inserted import RequestError
from dprobed.tracer.listener import DeferredWork, EngineListener
from dprobed.tracer.namespace_init import NamespaceInit
from dprobed.tracer.programs import Programs
from dprobed.tracer.stacks.target_stacks import TargetStacks
from dprobed.tracer.suspended import SuspendedThreads
from dprobed.tracer.throttle import Throttle
from dprobed.wire import protocol
from dprobed.wire.notices import NoticeKind

if TYPE_CHECKING:
    from dprobed.tracer.dump.snapshot import Dumps

#: Seconds between two attempts to detach from threads that sleep in the kernel.
DETACH_PAUSE: Final = 0.05

_log = logging.getLogger(__name__)


class TracedProcess:
    """A target, from attach to its end or detach.

    Handles the stops of its threads (``tracee.thread.StopHandler``).
    """

    def __init__(self, context: TracerContext, pid: int, options: protocol.Attach) -> None:
        """``options``: of the attach request; those of the parent for a followed child."""
        self._context: Final = context
        self.pid: Final = pid
        self.group: Final = ThreadGroup(self, context.tracees)
        self._deferred: Final = DeferredWork()
        listener = EngineListener(self, self._deferred, context)
        self.engines: Final = Engines(self.group, listener, context.registers, context.affinity)
        self.serve_hit: Final = self.engines.stops.serve_hit
        self.rewind: Final = self.engines.stops.rewind
        reporter, resolver = context.reporter, context.resolver
        self.stacks: Final = TargetStacks(pid, self.engines, context.tables)
        self.programs: Final = Programs(
            pid, self.group, self.engines, reporter, resolver, self.stacks, self.tell
        )
        callbacks = TracerCallbacks(reporter.send, self.programs.places.remove)
        self.debugger: Final = Debugger(self.engines, pid, callbacks, options.hold_limit)
        self.suspended: Final = SuspendedThreads(self.group, self.debugger.control)
        self.inheritance: Final = Inheritance(
            self, context.child_targets, context.reporter, self.debugger.new_image
        )
        self.options = options
        #: How it ended (exited, killed, detached…) and its status; None while it is a target.
        self.end: tuple[str, int] | None = None
        self.namespace_init: Final = NamespaceInit(pid)
        self.throttle: Final = Throttle(self.programs, self.group.request_attention)
        self._dumps: Dumps | None = None
        self.detachment: Final = Detachment(self.group, self.tell)
        self._end_status = ("gone", 0)
        self._failed = False
        self.adjust(options)

    # --- attaching ---

    def attach(self, launch: bool) -> None:
        """Trace the process; raises RequestError: then only what sleeps in the kernel is traced."""
        # Whether it is alone is checked again when no more children can appear; here because it
        # refuses at once, and we could not detach from a parent in vfork before it wakes.
        check_attachable(self.pid, self._context.tracees)
        self.programs.launching = launch
        try:
            attach(self.group, self.pid)
            # Not before: an ``exec`` in between would leave us with the memory that it gave up.
            memory = Memory(procfs.live_thread(self.pid))
            changes = Changes(self._context.journal, self.pid, procfs.start_time(self.pid) or 0)
            self.programs.use_space(AddressSpace(self.pid, memory, changes=changes))
            self.engines.adopt()
        except (Gone, OSError, SpaceError) as error:
            reason = why_not_attached(self.pid, error)
            self.detach()
            raise RequestError(reason) from error
        try:
            check_alone(self.pid, processes(), self._context.tracees)
        except RequestError:
            self.detach()
            raise

    def adjust(self, asked: protocol.Attach | protocol.Adjust) -> None:
        """Change options of the target, and of children that are followed from now on."""
        self.options = msgspec.structs.replace(
            self.options,
            follow_forks=asked.follow_forks,
            hold_thread=asked.hold_thread,
            budget=asked.budget,
            only_guarded=asked.only_guarded,
        )
        self.engines.allow_unguarded(asked.only_guarded)
        self.programs.follows_forks = asked.follow_forks
        self.debugger.holds_thread = asked.hold_thread
        self.programs.set_budget(asked.budget)
        if isinstance(asked, protocol.Adjust):
            for inserted in self.programs.inserted.values():
                inserted.cap(asked.max_hits)
            self.programs.remove_retired()

    @property
    def dumps(self) -> Dumps:
        """Writes its core dumps; imported when the first one is asked for."""
        if self._dumps is None:
            from dprobed.tracer.dump.snapshot import Dumps

            self._dumps = Dumps(self.engines, self.programs, self._context.reporter, self.pid)
        return self._dumps

    @property
    def _is_dumped(self) -> bool:
        return self._dumps is not None and self._dumps.busy

    # --- the main loop ---

    def attend(self) -> None:
        """Do deferred work; the main loop calls it when the group needs attention."""
        self.group.needs_attention = False
        if self.inheritance.is_incomplete:
            self.inheritance.is_incomplete = False
            self.programs.complete()
        if self._dumps is not None:
            self._dumps.attend()
        if self._deferred.resume:
            self._deferred.resume = False
            self.suspended.resume()
        if self._deferred.retired:
            self._deferred.retired = False
            self.programs.remove_retired()
        self._fail_lost()
        if self.end is None:
            self._keep_budgets()
        if self.end is None and self.debugger.is_invited:
            self.debugger.attend()
        if self.detachment.is_due and not self._is_dumped:
            if (self.end is not None and not self.is_sealed) or self.detach():
                self.detachment.done()
            elif not self.is_sealed:
                self._context.reporter.arm()

    def _fail_lost(self) -> None:
        lost, self._deferred.lost = self._deferred.lost, []
        if lost and self.end is None:
            self.programs.places.fail_lost()
        for thread in lost:
            self.group.unpin(thread)

    def _keep_budgets(self) -> None:
        with contextlib.suppress(Gone):  # its end comes next
            self.throttle.attend()
            if self.throttle.is_throttling:
                self._context.reporter.arm()

    def tick(self) -> None:
        """Periodic work: throttled and pending probes, unreached threads, children not begun."""
        self.group.release_late_parents()
        self.engines.tick()
        if self.throttle.is_throttling:
            self.group.request_attention()
        self.programs.retry_pending()
        self.engines.apply_unreached()
        if self.detachment.is_due or self._is_dumped:
            self.group.request_attention()

    def tell(self, kind: NoticeKind, text: str, tid: int = 0) -> None:
        """Send a notice to the daemon; ``tid``: the thread that it is about."""
        self._context.reporter.send(protocol.TargetEvent(kind, self.pid, tid or self.pid, text))

    # --- stops (tracee.thread.StopHandler) ---

    def serve_trap(self, thread: Thread) -> None:
        """See StopHandler; a debugger may be stepping the thread."""
        if self._failed and self.engines.stops.abandon(thread):
            return
        if not self.debugger.serve_trap(thread):
            self.engines.stops.serve(thread)
        self._signal(thread)

    def abandon(self, thread: Thread) -> None:
        """See StopHandler."""
        self.engines.stops.abandon(thread)

    def deliver(self, thread: Thread) -> None:
        """See StopHandler; a debugger is asked first."""
        self.engines.stops.deliver(thread)
        self._signal(thread)

    def _signal(self, thread: Thread) -> None:
        """A signal, if there is one, is about to be delivered to a thread at an original place."""
        if thread.signal:
            self.debugger.signalled(thread)
        if not thread.signal or thread.held:
            return
        with contextlib.suppress(Gone):
            if self.namespace_init.leaves(thread):
                self.group.request_attention()

    def forked(self, thread: Thread, child: int) -> None:
        """See StopHandler."""
        self.inheritance.forked(thread, child)

    def begin(self, thread: Thread, shares_memory: bool) -> None:
        """See StopHandler; a forked process is followed, or detached from without our changes."""
        if self.end is not None:
            self.group.request_attention()  # there was nothing to wait for but this
        if shares_memory:
            self.engines.begin(thread)
        else:
            self.inheritance.begin(thread)

    def new_image(self, thread: Thread) -> None:
        """See StopHandler."""
        if self.end is not None:
            self.group.request_attention()  # there was nothing to wait for but this
        self.inheritance.new_image(thread)

    def is_fork_copy(self, pid: int) -> bool:
        """See StopHandler."""
        return self.inheritance.is_fork_copy(pid)

    def forgotten(self, thread: Thread, stop: Stop) -> None:
        """See StopHandler: with its last thread the target ended."""
        self.inheritance.forget(thread.tid)
        self.engines.forget(thread)
        self.debugger.forgotten(thread)
        if thread.tid == self.pid:
            self._end_status = ("exited" if stop.kind is Kind.EXITED else "killed", stop.value)
        if not any(t.tgid == self.pid for t in self.group.threads.values()):
            self._conclude()
            self.group.request_attention()
            if self._is_dumped:
                self.tell(NoticeKind.DUMPING, "the process has ended; its core is being written")

    # --- the end of a target ---

    @property
    def is_changing(self) -> bool:
        """Whether throttled probes are to be inserted again."""
        return self.throttle.is_throttling

    @property
    def is_sealed(self) -> bool:
        """Whether it is a fork child that we could not detach from."""
        return self.inheritance.is_sealed

    @property
    def is_to_die(self) -> bool:
        """Whether we are to detach from it so that it dies of a fault, and were not asked yet."""
        return bool(self.namespace_init.fatal) and self.end is None and not self.detachment.is_due

    @property
    def is_over(self) -> bool:
        """Whether it has ended, no core of it is being written, and all its reported children have
        made their first stop."""
        threads = self.group.threads.values()
        if self.end is None and not threads:
            self._conclude()
        return (
            self.end is not None
            and not self.detachment.is_due
            and not self._is_dumped
            and not any(thread.state is State.STARTING for thread in threads)
        )

    def _conclude(self) -> None:
        """No thread is left: it has ended, or only we, with one that could not be detached from."""
        self.end = self._end_status
        if self.detachment.is_due and self.end[0] == "gone" and not procfs.has_ended(self.pid):
            self.end = "detached", 0

    def finish(self, end: tuple[str, int]) -> None:
        """The target has ended, or was detached from: report it with the last counters."""
        self.end = end
        self.engines.sync(final=True)
        self.debugger.ended(*end)
        self.debugger.close()
        self.engines.space.memory.close()
        self.engines.space.changes.clear()
        self._context.reporter.send(
            protocol.Ended(
                self.pid,
                *end,
                self.programs.statuses(),
                self.group.overhead_ns,
                self.programs.local_variables(),
                self.programs.maps.last(),
            )
        )

    def stop_serving(self) -> None:
        """After an internal error: serve no hit any more, and find threads that were lost."""
        self._failed = True
        self.engines.stops.give_up()
        find_lost(self.group, self.pid)
        if self._dumps is not None:
            self._dumps.abandon("internal error in the tracer (see the log)")

    def detach(self) -> bool:
        """Undo every change and detach from all threads; false: one is unstoppable; try again."""
        if self.is_sealed:
            self.group.tracees.dispatch_deferred(self.group)
            return not self.group.threads
        self.debugger.close()
        if self._is_dumped and self._dumps is not None:
            # Nobody is there any more for whom it is; its copy goes before us, and not by our end,
            # after which the target would have its zombie.
            self._dumps.abandon("dprobed has ended", "dprobed has ended")
        self.programs.places.fail_overwritten()
        for probe in self.programs.probes():
            probe.attachments.clear()
        with self.group.stopped() as unstoppable:
            try:
                self.engines.remove_all(unstoppable)
            except (Gone, SpaceError) as error:
                _log.warning("process %d: our pages stay: %s", self.pid, error)
            self.group.detach_all()
        if self.group.threads:
            self.detachment.note_asleep()
        return not self.group.threads
