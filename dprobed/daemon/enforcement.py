"""Enforces policies on inserted programs when the policies, or a process's user, change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from dprobed.daemon.client import NoAnswer, Refusal
from dprobed.daemon.detaching import Detaching, out_of
from dprobed.daemon.ends import Ends
from dprobed.daemon.gate import Gate
from dprobed.daemon.target import InsertedProgram, Target
from dprobed.daemon.targets import Targets
from dprobed.daemon.tasks import Tasks
from dprobed.policy.model import Decision
from dprobed.printable import printable
from dprobed.wire import messages, protocol

#: Seconds for which a change of the policies waits for the tracers that are to apply it.
_PATIENCE: Final = 20.0

_log = logging.getLogger("dprobed")


class Enforcement:
    """Decides about targets again, and removes programs that are no longer allowed."""

    def __init__(
        self, gate: Gate, targets: Targets, detaching: Detaching, ends: Ends, tasks: Tasks
    ) -> None:
        self._gate: Final = gate
        self._ends: Final = ends
        self._targets: Final = targets
        self._detaching: Final = detaching
        self._tasks: Final = tasks
        #: Programs that are not allowed any more, and not out yet.
        self._denied: Final[set[InsertedProgram]] = set()
        #: Targets whose tracer has not heard how they are to be treated, and will.
        self._unheard: Final[set[Target]] = set()
        #: A check of all targets is scheduled.
        self._soon = False

    def process_changed(self, pid: int) -> None:
        """A process runs as another user now: check what may stay in it."""
        target = self._targets.by_pid.get(pid)
        if target is not None and target.attached:
            self.target_changed(target)

    def target_changed(self, target: Target) -> None:
        """Check a target that executed another program, or a new fork child."""
        self._tasks.start(self._check(target))

    def any_may_have_changed(self) -> None:
        """User changes were missed: check all targets, once for calls that come together."""
        if not self._soon:
            self._soon = True
            self._tasks.start(self._check_soon())

    async def _check_soon(self) -> None:
        self._soon = False
        await self.check_all()

    async def check_all(self) -> None:
        """Check all targets, after the policies changed."""
        targets = [target for target in self._targets.by_pid.values() if target.attached]
        checks = [self._tasks.start(self._check(target)) for target in targets]
        if checks:
            _, late = await asyncio.wait(checks, timeout=_PATIENCE)
            if late:
                _log.warning("%d targets are checked when their tracers answer", len(late))

    async def _check(self, target: Target, *, anew: bool = False) -> None:
        """Check one; ``anew``: its tracer may not have heard how it is to be treated."""
        async with target.lock:
            process = self._gate.process(target.pid)
            if process is None or target.finished.is_set():
                return
            await self._adjust(target, self._gate.policies.decide(process), anew)
            for inserted in target.programs.values():
                self._ends.due(inserted.until)
            for holder in list(target.holders):
                if self._gate.denial(holder, process, frozenset()) is not None:
                    target.dismiss(holder)
            denied = {
                inserted: why
                for inserted in target.programs.values()
                if (why := self._gate.keeps(inserted, process, inserted.label, inserted.program))
            }
            # The others are taken out when their tracer answers.
            fresh = {each: why for each, why in denied.items() if each not in self._denied}
            if not fresh and target.clients():
                return
            self._denied.update(fresh)
            await self._detaching.try_empty(target, fresh, lambda _: self._taken_out(fresh))
            for inserted in self._denied.intersection(fresh):
                text = f"{target.what}: {printable(inserted.label)} is no longer allowed"
                text += f", and stays until its tracer answers: {fresh[inserted]}"
                self._gate.history.note(inserted.uid, text, "stays", pid=target.pid)

    def _taken_out(self, denied: Mapping[InsertedProgram, str]) -> None:
        """Tell of programs that are not allowed any more, now that they are out."""
        self._denied.difference_update(denied)
        for inserted in out_of(denied):
            why = denied[inserted]
            self._detaching.note(inserted.target, [inserted], f"no longer allowed: {why}", inserted)
            inserted.end(protocol.State.REMOVED, why)
            if inserted.owner is not None:
                probes = list(inserted.probe_infos())
                inserted.owner.tell(messages.StateChange(pid=inserted.target.pid, probes=probes))

    async def _adjust(self, target: Target, decision: Decision, anew: bool) -> None:
        """Apply a new decision's treatment (forks, hold, budget, guard, hits) to a target."""
        before, target.decision = target.decision, decision
        if not anew and before is not None and before.treatment == decision.treatment:
            return
        try:
            await target.ask(
                lambda seq: protocol.Adjust(
                    seq=seq,
                    pid=target.pid,
                    follow_forks=decision.follow_forks,
                    hold_thread=decision.hold == "thread",
                    budget=decision.limits,
                    only_guarded=decision.only_guarded,
                    max_hits=decision.stay.max_hits or 0,
                )
            )
        except NoAnswer as refusal:
            if target not in self._unheard:
                self._unheard.add(target)
                _log.warning("%s; the policies are applied when it does", refusal)
                self._tasks.start(self._adjust_later(target))
        except Refusal:
            pass  # The target is about to end.

    async def _adjust_later(self, target: Target) -> None:
        """When its tracer answers again: by what is decided then."""
        assert target.tracer is not None
        try:
            await target.tracer.backend.heard()
        finally:
            self._unheard.discard(target)
        await self._check(target, anew=True)
