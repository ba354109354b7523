"""What there is and what was counted at one moment, in plain numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sized
from typing import Final

import msgspec

from dprobed.daemon.metrics.tally import Name, Tally
from dprobed.daemon.records.dispatcher import Dispatcher
from dprobed.daemon.target import InsertedProgram, Target
from dprobed.daemon.targets import Targets
from dprobed.printable import printable
from dprobed.wire import messages
from dprobed.wire.counters import Counters
from dprobed.wire.protocol import State

#: Letters of a program's name.
_LETTERS: Final = 64


class HandlerCounts(msgspec.Struct, frozen=True):
    """A handler of a facility, armed or not; ``failures``: how often one of its name died."""

    handler: str
    facility: str
    waiting: int
    limit: int
    reports: int
    drops: int
    timeouts: int
    failures: int


class Snapshot(msgspec.Struct, frozen=True):
    """``probes``: how many are in each state; ``counts``: by program and name of the process;
    ``overhead``: nanoseconds by name of the process. ``held``: processes with a thread that stands
    for ``suspend`` or a debugger."""

    targets: int
    kernel: int
    tracers: int
    unguarded: int
    held: int
    programs: int
    deployments: int
    clients: int
    probes: dict[str, int]
    counts: dict[Name, dict[str, int]]
    overhead: dict[str, int]
    handlers: list[HandlerCounts]
    refusals: dict[str, int]


class Counts:
    """Keeps the sums of the programs and processes that come and go."""

    def __init__(
        self,
        targets: Targets,
        dispatcher: Dispatcher,
        deployments: Sized,
        clients: Sized,
        refusals: Counter[str],
    ) -> None:
        self._targets: Final = targets
        self._dispatcher: Final = dispatcher
        self._deployments: Final = deployments
        self._clients: Final = clients
        self._refusals: Final = refusals
        self._programs: Final = Tally()
        self._processes: Final = Tally()

    def taken_out(self, inserted: InsertedProgram) -> None:
        """A program has left a process; its counters are its last."""
        self._look(inserted)
        self._programs.end(inserted)

    def finished(self, target: Target) -> None:
        """A target has ended, or was detached from."""
        self._look_at(target)
        self._processes.end(target)

    def snapshot(self) -> Snapshot:
        """All of it, now."""
        there = [target for target in self._targets.by_pid.values() if target.attached]
        probes: Counter[str] = Counter({str(state): 0 for state in State})
        programs = set()
        for target in there:
            self._look_at(target)
            for inserted in target.programs.values():
                programs.add(inserted.number)
                self._look(inserted)
                for statuses in inserted.statuses.values():
                    probes.update(str(status.state) for status in statuses)
        processes = [target for target in there if target.pid != messages.KERNEL]
        return Snapshot(
            targets=len(processes),
            kernel=len(there) - len(processes),
            tracers=len({id(target.tracer) for target in processes}),
            unguarded=sum(bool(target.unguarded) for target in processes),
            held=sum(_is_held(target) for target in processes),
            programs=len(programs),
            deployments=len(self._deployments),
            clients=len(self._clients),
            probes=dict(probes),
            counts=self._programs.sums(),
            overhead={
                process: sums["overhead_ns"]
                for (_, process), sums in self._processes.sums().items()
                if "overhead_ns" in sums
            },
            handlers=self._handlers(),
            refusals=dict(self._refusals),
        )

    def _look(self, inserted: InsertedProgram) -> None:
        statuses = [status for each in inserted.statuses.values() for status in each]
        if not statuses:
            return  # Its tracer has not answered yet.
        here = Counters(dropped=sum(inserted.dropped.values()))  # behind the tracer
        counts = Counters.of(here, *statuses).as_dict()
        label = printable(inserted.label)[:_LETTERS]
        name = label, inserted.target.comm
        if inserted.goes_on:
            # What it had counted before a restart was told by the daemon before.
            self._programs.carry(inserted, name, inserted.uid, counts)
        self._programs.look(inserted, name, inserted.uid, counts)

    def _look_at(self, target: Target) -> None:
        if target.attached:
            counts = {"overhead_ns": target.overhead_ns}
            owner = target.decision.process.uids[0] if target.decision is not None else 0
            self._processes.look(target, ("", target.comm), owner, counts)

    def _handlers(self) -> list[HandlerCounts]:
        return [
            HandlerCounts(
                handler=each.name,
                facility=each.facility,
                waiting=each.waiting,
                limit=each.limit,
                reports=each.reports,
                drops=each.drops,
                timeouts=each.timeouts,
                failures=each.failures,
            )
            for each in self._dispatcher.handlers()
        ]


def _is_held(target: Target) -> bool:
    held = target.debugger is not None and bool(target.debugger.held)
    return bool(target.suspended) or held
