"""A deployment: a program and a selection of processes.

It is the client of each process that its program is in (an *instance*), so it is told of their ends
and sums up their counters. It also has the processes that wait for its program, and the reasons why
others were refused. What is to be in a process is decided elsewhere (decisions.py).
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import PurePath
from typing import Final

from dprobed.daemon.client import Client
from dprobed.daemon.deploy.selection import Selector
from dprobed.daemon.dump_sums import DumpSums
from dprobed.daemon.insertion import Insertion, left
from dprobed.daemon.kept import KeptDeployment, kept_insertion
from dprobed.daemon.maps import EndedMaps
from dprobed.daemon.target import InsertedProgram
from dprobed.daemon.variables import VariableSums
from dprobed.policy.rights import needs
from dprobed.proc import procfs
from dprobed.program.isa import WORD_MASK
from dprobed.wire import messages, protocol
from dprobed.wire.counters import Counters

#: Reasons with a count of their own; the rest are counted together.
_REASONS: Final = 32
#: Among the sums that are kept over a restart: the time that threads stood still.
_OVERHEAD: Final = "overhead_ns"
#: Refused processes that ``query`` names.
_NAMED: Final = 200


class Deployment:
    """One program and its selection; a ``Client`` for each process that its program is in.

    ``owner``: the connection with whose end it is removed; None: it is kept. ``program_in``: looks
    up the program of a number in a process, for a fork child that inherited it. ``on_left``: called
    when a process with it has ended, because another process may have that pid already.
    ``ended_maps``: has what its maps had there.
    """

    def __init__(
        self,
        insertion: Insertion,
        selector: Selector,
        client: Client,
        *,
        keep: bool,
        limit: int | None,
        program_in: Callable[[int, int], InsertedProgram | None],
        on_left: Callable[[int], None],
        ended_maps: EndedMaps,
    ) -> None:
        self._entry_in = program_in
        self._on_left = on_left
        self._ended_maps = ended_maps
        self.insertion = insertion
        self.number = insertion.number
        self.upload = insertion.upload
        self.program = insertion.program
        self.needs = needs(self.program)
        self.selector = selector
        self.owner = None if keep else client
        self.kept = keep
        self.limit = limit
        self.pid, self.uid, self.gid = client.pid, client.uid, client.gid
        #: A policy has the daemon itself make it.
        self.by_policy = client.pid == os.getpid()
        #: It was removed: an insertion under way must be undone.
        self.is_removed = False
        self._is_abandoned = False
        self.instances: dict[int, InsertedProgram] = {}
        self.waiting: set[int] = set()
        #: Processes that it is being inserted into → whether they have ended meanwhile.
        self.inserting: dict[int, bool] = {}
        self._insertion_ended = asyncio.Event()
        #: Processes from which a client removed it.
        self.excluded: set[int] = set()
        #: Live process → why it could not be probed.
        self.refusals: dict[int, str] = {}
        self._refused: Counter[str] = Counter()
        self._entered = 0
        self.missed = 0
        self.unseen = 0
        #: Of processes that have ended, or that it has left.
        self._sums = Counters()
        self._overhead_ns = 0
        self._variables = VariableSums(self.program.header)
        self._dumps = DumpSums()

    @property
    def module(self) -> str:
        """The module that its program is for, as the program names it."""
        return self.program.header.name

    def matches(self, select: messages.Select) -> bool:
        """Whether it is selected, whatever the process."""
        header = self.program.header
        return (
            select.number in (None, self.number)
            and select.label in (None, self.upload.label)
            and select.program_id in (None, header.id)
            and select.module in (None, header.name, PurePath(header.name).name)
        )

    def wants(self, pid: int) -> bool:
        """Whether it may be inserted into a process, if that is selected."""
        return not (self.is_removed or pid in self.instances or pid in self.excluded)

    def follows(self, pid: int) -> bool:
        """Whether a process has it, and fork children of that inherit it."""
        inserted = self.instances.get(pid)
        return inserted is not None and inserted.follows

    @property
    def is_full(self) -> bool:
        """Whether its limit of processes is reached."""
        return self.limit is not None and len(self.instances) + len(self.waiting) >= self.limit

    @property
    def is_over_limit(self) -> bool:
        """Whether it is in more processes than its limit: some have forked."""
        return self.limit is not None and len(self.instances) > self.limit

    # -- a restart of the daemon -------------------------------------------------------------------

    def kept_now(self) -> KeptDeployment:
        """What a restarted daemon goes on with."""
        excluded = {pid: procfs.start_time(pid) or 0 for pid in self.excluded}
        sums = {**self._sums.as_dict(), _OVERHEAD: self._overhead_ns}
        return KeptDeployment(
            kept_insertion(self.insertion, self.uid, self.gid),
            self.selector.selection,
            self.limit,
            self.by_policy,
            # It enters those again.
            self._entered - len(self.instances),
            self.missed,
            self.unseen,
            # A tracer may tell any numbers, and no file takes their sums beyond 64 bits.
            {name: min(count, WORD_MASK) for name, count in sums.items()},
            self._variables.words,
            self._variables.processes,
            excluded,
        )

    def go_on(self, kept: KeptDeployment) -> None:
        """It is one that was kept."""
        self._entered, self.missed, self.unseen = kept.entered, kept.missed, kept.unseen
        self._sums += Counters.named(kept.sums)
        self._overhead_ns += kept.sums.get(_OVERHEAD, 0)
        self._variables.add(kept.words, kept.processes)
        self.excluded |= {
            pid for pid, start in kept.excluded.items() if procfs.start_time(pid) == start
        }

    # -- processes ---------------------------------------------------------------------------------

    def enter(self, inserted: InsertedProgram) -> None:
        """Its program is in a process."""
        pid = inserted.target.pid
        self.waiting.discard(pid)
        self.refusals.pop(pid, None)
        self.instances[pid] = inserted
        self._entered += 1

    def leave(self, pid: int) -> None:
        """Its program is no longer in a process; its counters there are added to the sums."""
        inserted = self.instances.pop(pid, None)
        if inserted is not None:
            self._sums = Counters.of(self._sums, *inserted.probe_infos())
            self._variables.add(inserted.variables)
            if not self._is_abandoned:
                self._ended_maps.add(inserted)
            self._dumps.add(inserted.probe_infos())
            self._overhead_ns += inserted.target.overhead_ns
            if inserted.is_over and not procfs.has_ended(pid):
                self.excluded.add(pid)

    def abandon(self) -> None:
        """Nobody will ask for what it has counted."""
        self._is_abandoned = True
        self._ended_maps.forget(self.number)

    def refuse(self, pid: int, reason: str) -> None:
        """It could not be inserted into a process."""
        self.waiting.discard(pid)
        self.refusals[pid] = reason

    def end_insertion(self, pid: int) -> bool:
        """An insertion has succeeded or failed; whether the process has ended meanwhile."""
        self._insertion_ended.set()
        return self.inserting.pop(pid)

    async def settled(self) -> None:
        """Wait until no insertion is under way."""
        while self.inserting:
            self._insertion_ended.clear()
            await self._insertion_ended.wait()

    def forget(self, pid: int) -> None:
        """A process has ended; if it waited for the program, it is counted as missed."""
        if pid in self.inserting:
            # It may have had a hit already: whoever inserts the program handles the end.
            self.inserting[pid] = True
        elif pid in self.waiting:
            self.waiting.discard(pid)
            self.missed += 1
        reason = self.refusals.pop(pid, None)
        if reason is not None:
            self._count_refusal(self._refused, reason)
        self.excluded.discard(pid)

    @staticmethod
    def _count_refusal(counts: Counter[str], reason: str) -> None:
        kind = kind_of(reason)
        counts[kind if kind in counts or len(counts) < _REASONS else "other reasons"] += 1

    # --- as a Client ---

    def offer(self, lines: bytes) -> bool:
        """Records go to the owner; those of a kept one are in the log."""
        return self.owner is None or self.owner.offer(lines)

    def tell(self, message: messages.Report) -> None:
        """A report about one of its processes."""
        if isinstance(message, messages.Forked):
            inserted = self._entry_in(message.pid, self.number)
            if inserted is not None:
                self.enter(inserted)
        elif isinstance(message, messages.Ended):
            self.leave(message.pid)
            self._on_left(message.pid)
            if message.how == "failed":
                # Its tracer died: do not insert into what is left of it.
                self.refuse(message.pid, message.reason)
                self.excluded.add(message.pid)
        elif isinstance(message, messages.StateChange):
            self._changed(message)
        elif isinstance(message, messages.Over) and message.pid not in self.inserting:
            self.leave(message.pid)
        if self.owner is not None:
            self.owner.tell(message)

    def _changed(self, message: messages.StateChange) -> None:
        pid = message.pid
        inserted = self.instances.get(pid)
        if pid in self.inserting or (inserted and inserted.number in inserted.target.programs):
            return
        self.leave(pid)
        if not (self.is_removed or pid in self.excluded or procfs.has_ended(pid)):
            # A policy no longer allows it there.
            reasons = [probe.reason for probe in message.probes]
            self.refuse(pid, reasons[0] if reasons else "removed")

    # -- as the client sees it -----------------------------------------------------------------

    def info(self) -> messages.DeploymentInfo:
        """The deployment as ``dprobe query`` lists it."""
        header = self.program.header
        probes = [info for each in self.instances.values() for info in each.probe_infos()]
        dumps = DumpSums(self._dumps)
        dumps.add(probes)
        counters = Counters.of(self._sums, *probes).as_dict()
        missed_hits = counters.pop("missed")
        overhead = self._overhead_ns
        overhead += sum(inserted.target.overhead_ns for inserted in self.instances.values())
        refused = Counter(self._refused)
        for reason in self.refusals.values():
            self._count_refusal(refused, reason)
        return messages.DeploymentInfo(
            number=self.number,
            program=self.upload.label,
            program_id=header.id,
            module=header.name,
            major=header.major,
            probes=len(self.program.probes),
            selection=self.selector.selection,
            limit=self.limit,
            kept=self.kept,
            uid=self.uid,
            state="active" if _has_place(self.instances.values()) else "pending",
            processes=len(self.instances),
            waiting=len(self.waiting),
            entered=self._entered,
            missed=self.missed,
            unseen=self.unseen,
            refused=dict(refused),
            refusals=dict(_first(self.refusals.items(), _NAMED)),
            missed_hits=missed_hits,
            overhead_ns=overhead,
            no_dumps=dumps.refused,
            age_seconds=time.monotonic() - self.insertion.term.since,
            left_seconds=left(self.insertion.term.until),
            end_rule=self.insertion.term.rule,
            **counters,
        )

    def variables(self) -> messages.VariablesInfo | None:
        """Its local variables, summed over its processes, ended ones too; None: it has none."""
        header = self.program.header
        if not header.vars:
            return None
        sums = VariableSums(header)
        sums.add(self._variables.words, self._variables.processes)
        for inserted in self.instances.values():
            sums.add(inserted.variables)
        return sums.info(self.number, self.upload.label)


def _first(items: Iterable[tuple[int, str]], count: int) -> list[tuple[int, str]]:
    return [item for item, _ in zip(items, range(count), strict=False)]


#: States of a probe that is in its place, or was until it had all its hits.
_IN_PLACE: Final = frozenset(
    {protocol.State.ACTIVE, protocol.State.THROTTLED, protocol.State.DISABLED}
)
_SUBJECT: Final = re.compile(r"^process \d+ (?:\(.*?\) )?(?:is |has )?")
_PROCESS: Final = re.compile(r"(?:process )?\b\d+ \((.*?)\)")


def _has_place(instances: Iterable[InsertedProgram]) -> bool:
    """Whether any probe is in its place: where none is, nothing can fire."""
    return any(
        status.state in _IN_PLACE
        for inserted in instances
        for statuses in inserted.statuses.values()
        for status in statuses
    )


def kind_of(reason: str) -> str:
    """The kind of a refusal: its reason without the process.

    "process 7 (cat) is already traced by process 9 (gdb): a …" → "already traced by gdb".
    """
    head = _SUBJECT.sub("", reason).partition(": ")[0]
    return _PROCESS.sub(r"\1", head)
