"""Receives what the engines of one target report at stops; the main loop acts on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from dprobed.engine.budget import Account
from dprobed.engine.context import HitContext
from dprobed.engine.probe import Attachment
from dprobed.proc import procfs
from dprobed.program.exec.interface import Outcome
from dprobed.program.exits import DEBUGGER, DUMP, NO_DEBUGGER, NO_DUMP
from dprobed.program.user_stack import UserStack
from dprobed.tracee.thread import Thread
from dprobed.tracer.context import TracerContext
from dprobed.tracer.debug.invitation import Debugger
from dprobed.tracer.probed_target import ProbedTarget
from dprobed.tracer.stacks.target_stacks import TargetStacks
from dprobed.tracer.throttle import Throttle
from dprobed.wire.notices import NoticeKind

if TYPE_CHECKING:
    from dprobed.tracer.dump.snapshot import Dumps


class DeferredWork(msgspec.Struct):
    """Work that stops have asked for, and the main loop does."""

    #: Remove the probes that are finished.
    retired: bool = False
    #: Resume the threads that ``suspend`` holds.
    resume: bool = False
    #: Threads that are pinned until the probes that cannot stay where they are have been removed.
    lost: list[Thread] = msgspec.field(default_factory=list)


class ListeningTarget(ProbedTarget, Protocol):
    """The parts of a target that act on what its engines report."""

    @property
    def debugger(self) -> Debugger:
        """Holds it for a debugger."""
        ...

    @property
    def dumps(self) -> Dumps:
        """Writes its core dumps."""
        ...

    @property
    def stacks(self) -> TargetStacks:
        """Walks the stacks of its threads."""
        ...

    @property
    def throttle(self) -> Throttle:
        """Keeps its budgets."""
        ...


class EngineListener:
    """The ``engine.interface.Listener`` of one target."""

    def __init__(
        self, target: ListeningTarget, deferred: DeferredWork, context: TracerContext
    ) -> None:
        self.records: Final = context.reporter
        self._target: Final = target
        self._deferred: Final = deferred
        self._context: Final = context

    def user_stack(self, context: HitContext, depth: int) -> UserStack:
        """See Listener."""
        return self._target.stacks.walk(context, depth)

    def at_hit(self, thread: Thread, attachment: Attachment, outcome: Outcome) -> int:
        """See Listener."""
        acting = self._context.acting
        if outcome.exit == DEBUGGER:
            is_armed = acting is None or DEBUGGER in acting
            held = self._target.debugger.hit(thread, is_armed=is_armed)
            return DEBUGGER if held else NO_DEBUGGER
        is_armed = acting is None or DUMP in acting
        facts = self._target.engines.runner.facts_of(thread)
        begun = self._target.dumps.hit(thread, facts, attachment, outcome, is_armed=is_armed)
        return DUMP if begun else NO_DUMP

    def retired(self) -> None:
        """See Listener."""
        self._deferred.retired = True
        self._target.group.request_attention()

    def resume(self) -> None:
        """See Listener."""
        self._deferred.resume = True
        self._target.group.request_attention()

    def lost(self, thread: Thread) -> None:
        """See Listener."""
        self._deferred.lost.append(thread)
        self._target.group.request_attention()

    def suspended(self, thread: Thread) -> None:
        """See Listener."""
        text = f"thread {thread.tid} is held; 'dprobe resume' resumes it"
        self._target.tell(NoticeKind.SUSPEND, text, thread.tid)

    def overdrawn(self, account: Account) -> None:
        """See Listener."""
        self._target.throttle.note(account)

    def unremoved(self, what: str) -> None:
        """See Listener."""
        self._target.tell(NoticeKind.STAYS, what)

    def untaken(self, reason: str) -> None:
        """See Listener."""
        self._target.tell(NoticeKind.UNPROBED, f"it has none of its parent's jumps: {reason}")

    def unwatched(self, reason: str) -> None:
        """See Listener."""
        self._target.programs.places.note_unwatched(reason)

    def identified(self, thread: Thread, found: procfs.Status) -> None:
        """See Listener."""
        self._target.engines.sigtrap.identified(thread, found)
