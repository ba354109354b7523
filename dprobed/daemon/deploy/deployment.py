"""A program that belongs to a selection of processes, and no process in particular.

A deployment is the client for each process that its program is in (an *instance*): so it hears of
their ends and adds up what they counted. It knows the processes that its program
waits to get into, and why it could not get into others. It decides nothing: decisions.py does.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import PurePath
from typing import Final

from dprobed.daemon.client import Client
from dprobed.daemon.deploy.selection import Selector
from dprobed.daemon.target import InsertedProgram, Insertion
from dprobed.policy.rights import needs
from dprobed.proc import procfs
from dprobed.wire import messages

#: Reasons that are counted each by itself; the rest is counted as one.
_REASONS: Final = 32
#: Refused processes that ``query`` names.
_NAMED: Final = 200


class Deployment:
    """One program and its selection; a ``Client`` for each process that its program is in.

    ``owner`` is the connection that it ends with; None: it is kept. ``seconds``: for how long it is
    in each process; None: without an end. ``entry_in``: the program of a
    number in a process, for a child that began with its parent's programs. ``left``: it has left a
    process by that one's end, and may have been taken to be in another one that has its number.
    """

    def __init__(
        self,
        insertion: Insertion,
        selector: Selector,
        client: Client,
        request: messages.Deploy,
        seconds: float | None,
        entry_in: Callable[[int, int], InsertedProgram | None],
        left: Callable[[int], None],
    ) -> None:
        self._entry_in = entry_in
        self._left = left
        self.insertion = insertion
        self.number = insertion.number
        self.upload = insertion.upload
        self.program = insertion.program
        self.needs = needs(self.program)
        self.selector = selector
        self.owner = None if request.keep else client
        self.kept = request.keep
        self.limit = request.limit
        self.pid, self.uid, self.gid = client.pid, client.uid, client.gid
        self.seconds = seconds
        #: It was taken out: whoever is about to put it into a process must not.
        self.over = False
        self.instances: dict[int, InsertedProgram] = {}
        self.waiting: set[int] = set()
        #: Processes that it is being put into → whether they have ended meanwhile.
        self.arriving: dict[int, bool] = {}
        self._arrived = asyncio.Event()
        #: Processes that a client took it out of.
        self.excluded: set[int] = set()
        #: Process → why it could not be probed, while it is there.
        self.refusals: dict[int, str] = {}
        self._refused: Counter[str] = Counter()
        self._entered = 0
        self.missed = 0
        self.unseen = 0
        self._sums: Counter[str] = Counter()

    @property
    def module(self) -> str:
        """The module that its program is for, as the program names it."""
        return self.program.header.name

    def matches(self, select: messages.Select) -> bool:
        """Whether it is meant, whatever the process."""
        header = self.program.header
        return (
            select.number in (None, self.number)
            and select.label in (None, self.upload.label)
            and select.program_id in (None, header.id)
            and select.module in (None, header.name, PurePath(header.name).name)
        )

    def wants(self, pid: int) -> bool:
        """Whether it may go into a process that fits."""
        return not (self.over or pid in self.instances or pid in self.excluded)

    def follows(self, pid: int) -> bool:
        """Whether a process has it, and children of that process get it from the tracer."""
        entry = self.instances.get(pid)
        return entry is not None and entry.follows

    @property
    def is_full(self) -> bool:
        """Whether it is in as many processes as it may be."""
        return self.limit is not None and len(self.instances) + len(self.waiting) >= self.limit

    @property
    def has_too_many(self) -> bool:
        """Whether it is in more processes than it may be: some have forked."""
        return self.limit is not None and len(self.instances) > self.limit

    # -- processes ---------------------------------------------------------------------------------

    def enter(self, entry: InsertedProgram) -> None:
        """Its program is in a process."""
        pid = entry.target.pid
        self.waiting.discard(pid)
        self.refusals.pop(pid, None)
        self.instances[pid] = entry
        self._entered += 1

    def leave(self, pid: int) -> None:
        """It is in that process no longer; what it counted there stays counted."""
        entry = self.instances.pop(pid, None)
        if entry is not None:
            self._add(self._sums, entry)
            self._sums["overhead_ns"] += entry.target.overhead_ns

    def refuse(self, pid: int, reason: str) -> None:
        """It could not get into a process."""
        self.waiting.discard(pid)
        self.refusals[pid] = reason

    def arrive(self, pid: int) -> bool:
        """It has been put into a process, or not; whether that has ended meanwhile."""
        self._arrived.set()
        return self.arriving.pop(pid)

    async def settled(self) -> None:
        """Wait until it is on its way into no process any longer."""
        while self.arriving:
            self._arrived.clear()
            await self._arrived.wait()

    def forget(self, pid: int) -> None:
        """The process has ended. One that waited for the program has missed it."""
        if pid in self.arriving:
            # It may have got as far as a hit: who puts the program in will hear of that.
            self.arriving[pid] = True
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

    @staticmethod
    def _add(sums: Counter[str], entry: InsertedProgram) -> None:
        for probe in entry.probe_infos():
            sums["hits"] += probe.hits
            sums["ran"] += probe.ran
            sums["missed_hits"] += probe.missed
            sums["dropped"] += probe.dropped

    # --- as a Client ---

    def offer(self, lines: bytes) -> bool:
        """Records go to the owner; those of a kept one are in the log."""
        return self.owner is None or self.owner.offer(lines)

    def tell(self, message: messages.Report) -> None:
        """Something about one of its processes."""
        if isinstance(message, messages.Forked):
            entry = self._entry_in(message.pid, self.number)
            if entry is not None:
                self.enter(entry)
        elif isinstance(message, messages.Ended):
            self.leave(message.pid)
            self._left(message.pid)
            if message.how == "failed":
                # Its tracer died in it: whatever is left there is not to be built on.
                self.refuse(message.pid, message.reason)
                self.excluded.add(message.pid)
        elif isinstance(message, messages.StateChange):
            self._changed(message)
        if self.owner is not None:
            self.owner.tell(message)

    def _changed(self, message: messages.StateChange) -> None:
        pid = message.pid
        entry = self.instances.get(pid)
        if pid in self.arriving or (entry and entry.number in entry.target.entries):
            return
        self.leave(pid)
        if not (self.over or pid in self.excluded or procfs.has_ended(pid)):
            # A policy does not allow it there any longer.
            reasons = [probe.reason for probe in message.probes]
            self.refuse(pid, reasons[0] if reasons else "removed")

    # -- as the client sees it -----------------------------------------------------------------

    def info(self) -> messages.DeploymentInfo:
        """The deployment as ``dprobe query`` lists it."""
        header = self.program.header
        sums = Counter(self._sums)
        for entry in self.instances.values():
            self._add(sums, entry)
        overhead = sums["overhead_ns"]
        overhead += sum(entry.target.overhead_ns for entry in self.instances.values())
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
            state="active" if self.instances else "pending",
            processes=len(self.instances),
            waiting=len(self.waiting),
            entered=self._entered,
            missed=self.missed,
            unseen=self.unseen,
            refused=dict(refused),
            refusals=dict(_first(self.refusals.items(), _NAMED)),
            hits=sums["hits"],
            ran=sums["ran"],
            missed_hits=sums["missed_hits"],
            dropped=sums["dropped"],
            overhead_ns=overhead,
        )


def _first(items: Iterable[tuple[int, str]], count: int) -> list[tuple[int, str]]:
    return [item for item, _ in zip(items, range(count), strict=False)]


_SUBJECT: Final = re.compile(r"^process \d+ (?:\(.*?\) )?(?:is |has )?")
_PROCESS: Final = re.compile(r"(?:process )?\b\d+ \((.*?)\)")


def kind_of(reason: str) -> str:
    """What refusals of the same kind have in common: the process itself is not in it.

    "process 7 (cat) is already traced by process 9 (gdb): a …" → "already traced by gdb".
    """
    head = _SUBJECT.sub("", reason).partition(": ")[0]
    return _PROCESS.sub(r"\1", head)
