"""One process with probes: its tracer, the programs in it, their states and counters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from dprobed.daemon.tracer_process import TracerGone, TracerRefused
from dprobed.policy.model import Decision
from dprobed.program.model import Program
from dprobed.wire import messages, protocol
from dprobed.wire.limits import Limits

if TYPE_CHECKING:
    from dprobed.daemon.tracer_pool import Host


class Refusal(Exception):
    """The request cannot be done; the text says why and what to do."""


class Client(Protocol):
    """A connection, as the registry sees it."""

    pid: int
    uid: int
    gid: int
    #: What it inserts stays when it is gone.
    kept: bool

    def offer(self, lines: bytes) -> bool:
        """Send record lines if there is room; False: there was not, and nothing was sent."""
        ...

    def tell(self, message: messages.Report) -> None:
        """Send what must not be lost."""
        ...


class Asker(Protocol):
    """A user, as the kernel told us: a connection, or what it left in the daemon."""

    uid: int
    gid: int


class Entry:
    """One program in one target. ``owner`` is None for a program that is kept.

    ``by``: whose it is, ``uid`` and ``gid``, also when it is kept. ``follow_forks``: children of
    the target get it, too.
    """

    def __init__(
        self,
        number: int,
        label: str,
        program: Program,
        target: Target,
        owner: Client | None,
        by: Asker,
        budget: Limits | None = None,
        follow_forks: bool = False,
    ) -> None:
        self.number = number
        self.label = label
        self.program = program
        self.target = target
        self.owner = owner
        self.uid, self.gid = by.uid, by.gid
        self.budget = budget
        self.follow_forks = follow_forks
        self.probes = {probe.index: probe for probe in program.probes}
        self.dropped = dict.fromkeys(self.probes, 0)
        #: Probe → handler → reports that the handler had no room for.
        self.handler_drops: dict[int, dict[str, int]] = {}
        self.statuses: dict[int, list[protocol.ProbeStatus]] = {}

    @property
    def follows(self) -> bool:
        """Whether children of the process get it from the tracer."""
        decision = self.target.decision
        return self.follow_forks or (decision is not None and decision.follow_forks)

    def info(self) -> messages.ProgramInfo:
        """The program as ``dprobe programs`` lists it."""
        header = self.program.header
        return messages.ProgramInfo(
            number=self.number,
            program=self.label,
            program_id=header.id,
            pid=self.target.pid,
            module=header.name,
            major=header.major,
            probes=len(self.probes),
            vars=header.vars,
            gvars=header.gvars,
            kept=self.owner is None or self.owner.kept,
        )

    def probe_infos(self) -> Iterator[messages.ProbeInfo]:
        """Its probes, in the order of the source."""
        for index in sorted(self.statuses):
            for status in self.statuses[index]:
                yield self.probe_info(status)

    def probe_info(self, status: protocol.ProbeStatus) -> messages.ProbeInfo:
        """One probe: its definition, what the tracer said of it, and what was dropped here."""
        probe = self.probes[status.probe]
        return messages.ProbeInfo(
            program=self.label,
            number=self.number,
            probe=status.probe,
            major=self.program.header.major,
            minor=probe.minor,
            group=probe.group,
            pid=self.target.pid,
            module=status.module or self.program.header.name,
            place=status.place or probe.offset or probe.address or "",
            state=str(status.state),
            reason=status.reason,
            hits=status.hits,
            ran=status.ran,
            missed=status.missed,
            dropped=status.dropped + self.dropped[status.probe],
            faulted=status.faulted,
            passed=status.passed,
            addresses=status.addresses,
            handler_drops=self.handler_drops.get(status.probe, {}),
            engine=status.engine,
        )

    def lose(self, probe: int, handler: str) -> None:
        """A handler had no room for a report of this probe."""
        drops = self.handler_drops.setdefault(probe, {})
        drops[handler] = drops.get(handler, 0) + 1

    def end(self, state: protocol.State, reason: str) -> None:
        """All of its probes have come to this state, with their last counters."""
        for probe, statuses in self.statuses.items():
            self.statuses[probe] = [
                msgspec.structs.replace(status, state=state, reason=reason) for status in statuses
            ]

    def matches(self, select: messages.Select) -> bool:
        """Whether the program is among those that are meant."""
        header = self.program.header
        modules = {header.name} | {s.module for each in self.statuses.values() for s in each}
        return (
            select.number in (None, self.number)
            and select.label in (None, self.label)
            and select.program_id in (None, header.id)
            and select.pid in (None, self.target.pid)
            and (
                select.module is None
                or select.module in modules
                or select.module in {Path(module).name for module in modules}
            )
        )


class Target:
    """One traced process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.comm = process_name(pid)
        self.lock = asyncio.Lock()
        #: The tracer that it is in, and the user as whom that runs.
        self.host: Host | None = None
        self.uid = -1
        self.decision: Decision | None = None
        self.attached = False
        self.holders: set[Client] = set()
        #: Those of the holders who want its children, too.
        self.followers: set[Client] = set()
        self.entries: dict[int, Entry] = {}
        self.places: dict[int, tuple[str, str]] = {}
        self.suspended: list[int] = []
        self.debugger: protocol.DebuggerStatus | None = None
        self.overhead_ns = 0
        self.ended: protocol.Ended | None = None
        self.reason = ""
        self.finished = asyncio.Event()

    def take(self, statuses: Iterable[protocol.ProbeStatus]) -> list[messages.ProbeInfo]:
        """Note what the tracer said of probes; a probe may be at several places."""
        fresh: dict[tuple[int, int], list[protocol.ProbeStatus]] = {}
        for status in statuses:
            fresh.setdefault((status.program, status.probe), []).append(status)
        infos = []
        for (number, probe), its_statuses in fresh.items():
            entry = self.entries.get(number)
            if entry is not None and probe in entry.probes:
                entry.statuses[probe] = its_statuses
                infos += [entry.probe_info(status) for status in its_statuses]
        return infos

    async def ask(self, make: Callable[[int], protocol.Request]) -> protocol.Ok:
        """One request to the tracer, its answer noted; raises Refusal."""
        if self.host is None or self.finished.is_set():
            # Its tracer may have another process of that number by now.
            raise Refusal(self.reason or f"process {self.pid}: {self.end or 'not traced'}")
        try:
            answer = await self.host.tracer.request(make)
        except TracerRefused as error:
            if self.ended is not None:
                raise Refusal(f"process {self.pid}: {self.end}") from None
            raise Refusal(str(error)) from None
        except TracerGone as error:
            await self.finished.wait()
            raise Refusal(self.reason or str(error)) from None
        # What it said at its end, which may have come with the answer, is newer.
        last = {status.program for status in self.ended.probes} if self.ended is not None else ()
        self.take(status for status in answer.probes if status.program not in last)
        return answer

    @property
    def end(self) -> str:
        """How it ended, in a few words; empty where no tracer has said so."""
        return describe_end(self.ended) if self.ended is not None else ""

    def let_go(self, client: Client) -> None:
        """A client holds it no longer."""
        self.holders.discard(client)
        self.followers.discard(client)

    def clients(self) -> set[Client]:
        """Who holds it, or has a program in it."""
        owners = {entry.owner for entry in self.entries.values() if entry.owner is not None}
        return self.holders | owners

    def owner_of(self, number: int) -> Client | None:
        """Whose program ``number`` is; None: it is kept, or gone."""
        entry = self.entries.get(number)
        return entry.owner if entry is not None else None

    def fail(self, reason: str) -> None:
        """The tracer died: no probe works any longer; what they counted last is all there is."""
        self.reason = reason
        for entry in self.entries.values():
            entry.end(protocol.State.FAILED, reason)

    def info(self) -> messages.TargetInfo:
        """The process as ``dprobe query`` lists it."""
        ended = (self.reason or self.end) if self.finished.is_set() else ""
        return messages.TargetInfo(
            pid=self.pid,
            comm=self.comm,
            ended=ended,
            overhead_ns=self.overhead_ns,
            suspended=self.suspended,
            debugger=self._debugger_info() if not ended else None,
        )

    def _debugger_info(self) -> messages.DebuggerInfo | None:
        found = self.debugger
        if found is None:
            return None
        return messages.DebuggerInfo(
            held=found.held,
            socket=found.socket,
            attached=found.attached,
            seconds=found.seconds,
            expired=found.expired,
        )


#: What is said of a target whose tracer had a defect, and let it go.
DEFECT = "the tracer failed on it, and let it go (its log says more)"


def describe_end(ended: protocol.Ended) -> str:
    """How a target ended, in a few words."""
    if ended.how == "failed":
        return DEFECT
    if ended.how == "exited":
        return f"exited with status {ended.status}"
    if ended.how == "killed":
        return f"killed by signal {ended.status}"
    return ended.how


def process_name(pid: int) -> str:
    """What the kernel calls the process; ``?``: it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_bytes().decode(errors="replace").rstrip("\n")
    except OSError:
        return "?"
