"""Holds programs to what policies let them spend.

Three times a second the daemon asks the tracers of those processes for which a policy has a limit,
and of no others. Where more was spent since the last time than the limit allows, the program that
was hit most goes out of the process, for good; if that was not enough, the next one at the next
look. The time of a process is that for which its threads stood still for probes, in each
second: of a process with many threads it can be more than all of one second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from dprobed.deployment import Deployment
from dprobed.instance import Entry, Target
from dprobed.policy.model import Decision, Limits
from dprobed.registry import Registry

#: Seconds between two looks: what is over is out within a second.
PERIOD: Final = 0.3

_log = logging.getLogger("dprobed")


class _Sample(NamedTuple):
    """What was counted at one time."""

    time: float
    hits: dict[Entry, int]
    overhead_ns: int


class Budgets:
    """Watches the processes with limits, as long as there are policies that have any."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._samples: dict[Target, _Sample] = {}
        self._task: asyncio.Task[None] | None = None

    def update(self) -> None:
        """The policies are others: begin to watch, or rest."""
        policies = self._registry.gate.policies.policies
        wanted = any(
            _removes(limits)
            for each in policies
            for limits in (each.budget, each.application.limits if each.application else Limits())
        )
        if wanted and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._watch())
        elif not wanted:
            self.stop()

    def stop(self) -> None:
        """Watch no longer."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._samples.clear()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(PERIOD)
            targets = self._registry.limited()
            self._samples = {each: s for each, s in self._samples.items() if each in targets}
            await asyncio.gather(*(self._look(each, what) for each, what in targets.items()))

    async def _look(self, target: Target, decision: Decision) -> None:
        try:
            await self._registry.refresh(target)
            before = self._samples.get(target)
            entries = list(target.entries.values())
            now = _Sample(time.monotonic(), dict.fromkeys(entries, 0), target.overhead_ns)
            for entry in entries:
                now.hits[entry] = sum(probe.hits for probe in entry.probe_infos())
            self._samples[target] = now
            if before is None:
                return
            for limits, own in _limits(decision, entries):
                why = _excess(limits, own, before, now)
                if why:
                    await self._take_out(target, own, before, now, f"{why}: {decision.rule_text}")
                    return
        except Exception:
            _log.exception("the budget of process %d could not be looked at", target.pid)

    async def _take_out(
        self, target: Target, own: list[Entry], before: _Sample, now: _Sample, why: str
    ) -> None:
        most = max(own, key=lambda entry: now.hits[entry] - before.hits.get(entry, 0))
        if isinstance(most.owner, Deployment):
            most.owner.excluded.add(target.pid)
            most.owner.refuse(target.pid, why)
        _log.warning("process %d: %s taken out: %s", target.pid, most.label, why)
        await self._registry.evict(target, {most: why})


def _removes(limits: Limits) -> bool:
    return limits.action == "remove" and (limits.share, limits.hits) != (None, None)


def _limits(decision: Decision, entries: list[Entry]) -> Iterator[tuple[Limits, list[Entry]]]:
    """The limits on a process, each with the programs that it is on."""
    if _removes(decision.budget):
        yield decision.budget, entries
    application = decision.application
    if application is not None and _removes(application.limits):
        own = [
            entry
            for entry in entries
            if isinstance(entry.owner, Deployment)
            and entry.owner.selector.selection.policy == application.policy
        ]
        yield application.limits, own


def _excess(limits: Limits, own: list[Entry], before: _Sample, now: _Sample) -> str:
    """What is over the limit; empty: nothing."""
    seconds = now.time - before.time
    hits = sum(now.hits[entry] - before.hits.get(entry, 0) for entry in own) / seconds
    if limits.hits is not None and hits > limits.hits:
        return f"over budget: {hits:.0f} hits a second, {limits.hits:g} allowed"
    # Only all programs together are known by time.
    share = (now.overhead_ns - before.overhead_ns) / 1e9 / seconds if hits else 0.0
    if limits.share is not None and share > limits.share:
        return f"over budget: {share:.0%} of the time, {limits.share:.0%} allowed"
    return ""
