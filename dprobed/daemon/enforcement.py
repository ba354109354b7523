"""What is inserted is held to the policies: when they, or the user of a process, have changed."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from dprobed.daemon.client import Refusal
from dprobed.daemon.detaching import Detaching
from dprobed.daemon.gate import Gate
from dprobed.daemon.target import Target
from dprobed.daemon.targets import Targets
from dprobed.daemon.tasks import Tasks
from dprobed.policy.model import Decision
from dprobed.wire import messages, protocol


class Enforcement:
    """Decides about targets anew, and takes out what may not stay."""

    def __init__(self, gate: Gate, targets: Targets, detaching: Detaching, tasks: Tasks) -> None:
        self._gate: Final = gate
        self._targets: Final = targets
        self._detaching: Final = detaching
        self._tasks: Final = tasks
        #: All targets are about to be decided about anew.
        self._soon = False

    def process_changed(self, pid: int) -> None:
        """A process runs as another user: what may stay in it?"""
        target = self._targets.by_pid.get(pid)
        if target is not None and target.attached:
            self.target_changed(target)

    def target_changed(self, target: Target) -> None:
        """A target has executed another program, or is a child that just began."""
        self._tasks.start(self._check(target))

    def any_may_have_changed(self) -> None:
        """Any process may be another user's now: checked once for all calls that come together."""
        if not self._soon:
            self._soon = True
            self._tasks.start(self._check_soon())

    async def _check_soon(self) -> None:
        self._soon = False
        await self.check_all()

    async def check_all(self) -> None:
        """The policies are others: what they do not allow any longer goes out."""
        targets = [target for target in self._targets.by_pid.values() if target.attached]
        await asyncio.gather(*(self._check(target) for target in targets))

    async def _check(self, target: Target) -> None:
        async with target.lock:
            process = self._gate.process(target.pid)
            if process is None or target.finished.is_set():
                return
            await self._adjust(target, self._gate.policies.decide(process))
            for holder in list(target.holders):
                if self._gate.denial(holder, process, frozenset()) is not None:
                    target.dismiss(holder)
            denied = {
                entry: why
                for entry in target.entries.values()
                if (why := self._gate.keeps(entry, process, entry.label, entry.program))
            }
            if not denied and target.clients():
                return
            await self._detaching.try_empty(target, denied)
        for entry, why in denied.items():
            entry.end(protocol.State.REMOVED, why)
            if entry.owner is not None:
                probes = list(entry.probe_infos())
                entry.owner.tell(messages.StateChange(pid=target.pid, probes=probes))

    @staticmethod
    async def _adjust(target: Target, decision: Decision) -> None:
        """Have a process treated as is decided now."""
        before, target.decision = target.decision, decision
        if before is not None and before.treatment == decision.treatment:
            return
        with contextlib.suppress(Refusal):  # It is about to end.
            await target.ask(
                lambda seq: protocol.Adjust(
                    seq=seq,
                    pid=target.pid,
                    follow_forks=decision.follow_forks,
                    hold_thread=decision.hold == "thread",
                    budget=decision.limits,
                )
            )
