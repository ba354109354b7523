"""The targets of a tracer, from attach until no orphan of theirs can appear any more."""

from __future__ import annotations

import logging
import resource
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import msgspec

from dprobed.change_journal import ChangeJournal
from dprobed.engine.affinity import Affinity
from dprobed.proc import procfs
from dprobed.resolver.client import Resolver
from dprobed.tracee.tracees import ORPHAN_TIMEOUT, Tracees
from dprobed.tracer.context import TracerContext
from dprobed.tracer.inheritance import InheritingTarget
from dprobed.tracer.inserted import RequestError
from dprobed.tracer.reporter import Reporter
from dprobed.tracer.stacks.tables import Tables
from dprobed.tracer.target import DETACH_PAUSE, TracedProcess
from dprobed.wire import protocol

#: Targets at once; further children are not followed. Each has two descriptors open.
MOST: Final = 1000
_OF_EACH: Final = 2
#: Descriptors for everything else, where the limit is not lower.
_OTHERS: Final = 384
#: Ended targets that are remembered, since an orphan of theirs may still appear.
_MOST_ENDED: Final = 64

#: Seconds in which a process that we have detached from for its fault has ended.
_DYING: Final = 0.2
#: Seconds for which a target that sleeps in the kernel is waited for, before others come.
_LEAVING: Final = 0.5
_DETACHED: Final = ("detached", 0)

_log = logging.getLogger(__name__)


class Targets:
    """All targets of one tracer."""

    def __init__(
        self,
        tracees: Tracees,
        affinity: Affinity,
        reporter: Reporter,
        resolver: Resolver,
        journal: ChangeJournal,
        tables: Tables,
    ) -> None:
        self.context: Final = TracerContext(
            tracees, tracees.hits.registers, affinity, reporter, resolver, self, journal, tables
        )
        self.by_pid: Final[dict[int, TracedProcess]] = {}
        #: No child is followed any more: the tracer is about to end.
        self.is_closing = False
        self._most: Final = _allow_descriptors()
        #: Ended targets, and when they ended: an orphan of theirs may still appear.
        self._ended: Final[deque[tuple[float, TracedProcess]]] = deque()
        self._tracees: Final = tracees
        #: What those had counted from which we have detached since we are about to end.
        self.left: Final[list[protocol.Counted]] = []
        #: An internal error while detaching from a target.
        self._defect: Exception | None = None

    def __iter__(self) -> Iterator[TracedProcess]:
        return iter(list(self.by_pid.values()))

    # --- new targets ---

    def attach(self, request: protocol.Attach) -> None:
        """Begin to trace; raises RequestError."""
        known = self.by_pid.get(request.pid)
        if known is not None and known.detachment.is_due:
            raise RequestError(f"process {request.pid} is being detached from, as soon as it wakes")
        if known is not None:
            raise RequestError(f"process {request.pid} is a target of this tracer already")
        if len(self.by_pid) >= self._most:
            raise RequestError(f"a tracer has {self._most} targets at most")
        target = TracedProcess(self.context, request.pid, request)
        self._take(target)
        self._tracees.blamed = target.group
        try:
            target.attach(request.launch)
        except RequestError:
            if target.group.threads:
                target.detachment.ask(partial(self._leave, target), lambda: None)
            else:
                self._drop(target)
            raise

    def leave(self, pid: int) -> bool:
        """Detach from a target that nobody asked for; false: as soon as it wakes."""
        target = self.by_pid[pid]
        deadline = time.monotonic() + _LEAVING
        while time.monotonic() < deadline:
            if self._detach(target):
                self.finish(target, target.end or _DETACHED)
                return True
            self._tracees.pause(DETACH_PAUSE)
        target.detachment.ask(lambda: self.finish(target, target.end or _DETACHED), lambda: None)
        return False

    def fail(self, target: TracedProcess, error: Exception) -> None:
        """After an internal error in the handling of a target: detach from that one."""
        _log.error("process %d: internal error; detaching", target.pid, exc_info=error)
        target.stop_serving()
        failed = partial(self.finish, target, ("failed", 0))
        if self._detach(target):
            failed()
        else:
            # What sleeps in the kernel: the others are not to wait for that.
            target.detachment.ask(failed, lambda: None)

    def follow(self, parent: InheritingTarget, pid: int) -> TracedProcess | None:
        """See inheritance.ChildTargets."""
        if self.is_closing or len(self.by_pid) >= self._most or pid in self.by_pid:
            return None
        if self.context.reporter.is_behind:
            return None  # Of each there would be more to tell, and the daemon takes nothing.
        child = TracedProcess(self.context, pid, parent.options)
        self._take(child)
        return child

    def adopt_sealed(self, parent: InheritingTarget, pid: int) -> TracedProcess:
        """See inheritance.ChildTargets."""
        options = msgspec.structs.replace(parent.options, follow_forks=False)
        child = TracedProcess(self.context, pid, options)
        self._take(child)
        child.detachment.ask(lambda: self.finish(child, child.end or _DETACHED), lambda: None)
        return child

    def _take(self, target: TracedProcess) -> None:
        self.by_pid[target.pid] = target
        self._tracees.groups.append(target.group)

    def _leave(self, target: TracedProcess) -> None:
        """We have detached from a process that we refused to attach to."""
        if target.pid in self.by_pid:
            self._drop(target)

    def _drop(self, target: TracedProcess) -> None:
        del self.by_pid[target.pid]
        self._forget(target)

    def _forget(self, target: TracedProcess) -> None:
        self._tracees.groups.remove(target.group)

    def look_at_ends(self) -> None:
        """Finish targets that have ended, and fail those with an internal error."""
        for target in list(self.by_pid.values()):
            if target.group.failure is not None:
                self.fail(target, target.group.failure)
            elif target.is_to_die:
                target.detachment.ask(partial(self._finish_fatally, target), lambda: None)
            elif target.is_over and target.end is not None:
                # Children that share its memory may be left, and one that no event has reported.
                if target.group.threads and not self._detach(target):
                    self.context.reporter.arm()
                elif not self._tracees.has_unreported_children:
                    self.finish(target, target.end)

    def finish(self, target: TracedProcess, end: tuple[str, int]) -> None:
        """A target has ended, or we have detached from it; the first who says so is right."""
        if self.by_pid.get(target.pid) is not target:
            return
        if self.is_closing and end[0] == "detached":
            self.left.append(target.programs.counted())
        target.finish(end)
        self.by_pid.pop(target.pid, None)
        if end[0] == "detached":
            # All its threads were stopped, and their children reported.
            self._forget(target)
            return
        self._ended.append((time.monotonic(), target))
        if len(self._ended) > _MOST_ENDED:
            self._forget(self._ended.popleft()[1])

    def _finish_fatally(self, target: TracedProcess) -> None:
        """We have detached from a process that was about to die of a fault."""
        deadline = time.monotonic() + _DYING
        while not (has_ended := procfs.has_ended(target.pid)) and time.monotonic() < deadline:
            self._tracees.pause(_DYING / 100)
        died = ("killed", target.namespace_init.fatal)
        self.finish(target, target.end or (died if has_ended else _DETACHED))

    def forget_ended(self) -> None:
        """Forget ended targets of which no orphan can appear any more."""
        before = time.monotonic() - ORPHAN_TIMEOUT
        while self._ended and self._ended[0][0] < before:
            self._forget(self._ended.popleft()[1])

    def _detach(self, target: TracedProcess) -> bool:
        """Try to detach from a target; after an internal error, once more."""
        try:
            return target.detach()
        except Exception as error:
            _log.exception("detaching from process %d failed; trying again", target.pid)
            self._defect = error
            return target.detach()

    def detach_all(self, serve: Callable[[], None]) -> None:
        """Detach from all targets; raises an internal error at the end.

        ``serve`` stops meanwhile, where that takes long.
        """
        while self.by_pid:
            for target in list(self.by_pid.values()):
                try:
                    if self._detach(target):
                        self.finish(target, target.end or _DETACHED)
                except Exception as error:
                    self._defect = error
                    del self.by_pid[target.pid]
            if any(not target.is_sealed for target in self.by_pid.values()):
                self._tracees.pause(DETACH_PAUSE)
            elif self.by_pid:
                # Perhaps for a long time.
                self._tracees.attention = False
                self._tracees.dispatch_deferred()
                self._tracees.adopt_orphans()
                serve()
        if self._ended:
            self._tracees.await_orphans()
        if self._defect is not None:
            raise self._defect

    def await_orphans(self) -> bool:
        """All targets have ended: wait for orphans; false: there was nothing to wait for."""
        if not self._ended:
            return False
        self._tracees.await_orphans()
        for _, target in self._ended:
            self._forget(target)
        self._ended.clear()
        return True


def _allow_descriptors() -> int:
    """As many as MOST targets need, where the limit allows that; how many targets there may be."""
    needed = _OF_EACH * MOST + _OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return MOST
    allowed = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(1, (allowed - min(_OTHERS, allowed // 2)) // _OF_EACH)
