"""Programs in one process for the time of a connection, and what is reported until the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from dprobe.lib.connection import Connection
from dprobe.lib.errors import UserError
from dprobe.lib.session_doubts import SessionDoubts
from dprobe.lib.summary import Summary, SummaryEnd, summarize
from dprobed.printable import located
from dprobed.wire import messages
from dprobed.wire.notices import NoticeKind

#: States of a probe that works, or may yet; every other one is told to the user when it comes.
_QUIET = frozenset({"active", "pending", "disabled", "removed"})
#: States of a probe that fires, or may yet.
_ALIVE = frozenset({"active", "pending"})
#: States of a probe that did what it was there for.
_DONE = frozenset({"disabled", "removed"})
#: How a process can end, in words.
_ENDS = {
    "exited": "exited with status {status}",
    "killed": "was killed by signal {status}",
    "gone": "is gone",
}
#: Notices of cores and of handlers, of what has no probes though it should, and of threads that
#: stand.
_CORES: Final = frozenset({NoticeKind.DUMP, NoticeKind.DUMPING})
_NOT_PROBED: Final = frozenset({NoticeKind.LOADER, NoticeKind.UNPROBED})
_STANDS: Final = frozenset({NoticeKind.SUSPEND, NoticeKind.DEBUGGER})


class Session:
    """Processes, those of their children that are followed, and the programs in them.

    ``on_record`` is called with each record (the daemon's line), ``say`` with each line for the
    user: a probe that does not work, a thread that is held. ``ended``: how the last process ended.
    """

    def __init__(
        self,
        connection: Connection,
        *pids: int,
        follow_forks: bool,
        on_record: Callable[[bytes], None],
        say: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._private = connection.private
        self._say = say
        self._pids = pids
        #: The number of a program → that of the same one in the first process.
        self._same: dict[int, int] = {}
        self._follow_forks = follow_forks
        self.ended: messages.Ended | None = None
        self._alive: dict[int, None] = dict.fromkeys(pids)
        #: The programs were taken out, by ``detach``.
        self.detached = False
        self._last: list[messages.ProbeInfo] = []
        #: What probes of others cost a process before, and what they have cost in the end.
        self._before_ns: dict[int, int] = {}
        self._overhead_ns = 0
        self._variables: list[messages.VariablesInfo] = []
        self._maps: list[messages.MapInfo] = []
        self._removed: list[messages.ProbeInfo] = []
        #: Programs, by process and number, whose time is over.
        self._over: set[tuple[int, int]] = set()
        #: Processes that stood at a probe, and may still do so.
        self._stood: set[int] = set()
        self.on_core: Callable[[messages.Notice], None] = lambda notice: say(notice.text)
        #: The process has ended, and the daemon will say so when its core has been written.
        self.dumping = False
        self._states: dict[tuple[int, int, int], str] = {}
        self._told: set[tuple[int, int, str, str]] = set()
        self._complained: set[tuple[int, str]] = set()
        #: Says why probes may never fire; ``look`` is to be called at its time.
        self.doubts: Final = SessionDoubts(connection, say)
        #: A process was left, though nobody here asked for that: the daemon has ended.
        self.cut_short = False
        #: What became of the process.
        self._ends: list[SummaryEnd] = []
        #: The command of ``run``, until it has executed its own program.
        self._starting: int | None = None
        self._launched = False
        connection.listen(on_record, self._report)

    def insert(self, uploads: list[messages.Upload], *, launch: bool, check_opcode: bool) -> int:
        """Attach and put the programs in; how many probes there are in each process.

        Raises UserError when any of it is refused.
        """
        self._launched = launch
        self._starting = self._pids[0] if launch else None
        first: list[int] = []
        count = 0
        for pid in self._pids:
            self._connection.request(
                lambda number, pid=pid: messages.Attach(  # type: ignore[misc]
                    id=number, pid=pid, launch=launch, follow_forks=self._follow_forks
                ),
                messages.Attached,
            )
            if not (self._private or launch):
                self._note_before(pid)
            probes = self._put(pid, uploads, check_opcode=check_opcode)
            numbers = list(dict.fromkeys(probe.number for probe in probes))
            first = first or numbers
            self._same.update(zip(numbers, first, strict=True))
            count = len(probes)
        return count

    def add(self, pid: int, upload: messages.Upload) -> int:
        """Put one more program into a process of the session; its number. Raises UserError."""
        (number,) = {probe.number for probe in self._put(pid, [upload], check_opcode=True)}
        self._same[number] = number
        return number

    def _put(
        self, pid: int, uploads: list[messages.Upload], *, check_opcode: bool
    ) -> list[messages.ProbeInfo]:
        answer = self._connection.request(
            lambda number: messages.Insert(
                id=number, pid=pid, programs=uploads, check_opcode=check_opcode
            ),
            messages.Inserted,
        )
        self._note(answer.probes)
        self.doubts.tell(answer.probes)
        return answer.probes

    def look(self) -> None:
        """Say what is to be said by now: call it at ``doubts.next_look``."""
        self.doubts.look(self._alive, self._same)

    @property
    def spent(self) -> bool:
        """Whether there is no probe that could still fire in a process that goes on."""
        return not any(
            pid in self._alive and (pid, number) not in self._over and state in _ALIVE
            for (pid, number, _), state in self._states.items()
        )

    @property
    def timed(self) -> bool:
        """Whether the time of programs is over."""
        return bool(self._over)

    @property
    def vain(self) -> bool:
        """Whether no probe ever had a place where it could fire."""
        return (_ALIVE | _DONE).isdisjoint(self._states.values())

    def receive(self) -> None:
        """Take in what the daemon sent, waiting for it if need be; raises DaemonGoneError."""
        self._connection.receive()

    def resume(self) -> bool:
        """Resume threads that are held at a probe; whether any were."""
        tids = []
        while self._stood:
            pid = self._stood.pop()
            # It may have ended, or a debugger have it.
            with contextlib.suppress(UserError):
                tids += self._connection.request(
                    lambda number, pid=pid: messages.Resume(id=number, pid=pid),  # type: ignore[misc]
                    messages.Resumed,
                ).tids
        return bool(tids)

    @property
    def over(self) -> bool:
        """Whether the process and all its followed children have ended."""
        return not self._alive

    @property
    def alive(self) -> tuple[int, ...]:
        """The processes that have not ended, nor were left."""
        return tuple(self._alive)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The programs, by the daemon's numbers: those of each process that they were put into."""
        return tuple(self._same)

    @property
    def maps(self) -> list[messages.MapInfo]:
        """What maps had in processes that have ended or were left."""
        return [
            msgspec.structs.replace(each, number=self._same.get(each.number, each.number))
            for each in self._maps
        ]

    def retell_maps(
        self, change: Callable[[list[messages.MapInfo]], list[messages.MapInfo]]
    ) -> None:
        """What maps had becomes what this makes of it."""
        self._maps = change(self._maps)

    def detach(self) -> Summary:
        """Take the programs out of all processes and detach from them; the summary."""
        self.detached = True
        while self._alive:
            # A child that is forked meanwhile is reported before the answer.
            pid = next(iter(self._alive))
            try:
                answer = self._connection.request(
                    lambda number, pid=pid: messages.Detach(id=number, pid=pid),  # type: ignore[misc]
                    messages.Removed,
                )
            except UserError:
                if pid in self._alive:
                    raise
            else:
                self._note_end(pid, answer)
        there = {(probe.number, probe.pid) for probe in self._last}
        # With what others took out before the end, or what was to end before.
        removed = [probe for probe in self._removed if (probe.number, probe.pid) not in there]
        probes = [
            msgspec.structs.replace(probe, number=self._same.get(probe.number, probe.number))
            for probe in removed + self._last
        ]
        variables = [
            msgspec.structs.replace(each, number=self._same.get(each.number, each.number))
            for each in self._variables
        ]
        return summarize(
            probes, self._overhead_ns, self._connection.through, self._ends, variables, self.maps
        )

    def _note_before(self, pid: int) -> None:
        """Note what others' probes have cost a process so far."""
        there = self._connection.request(
            lambda number: messages.Query(id=number, select=messages.Select(pid=pid)),
            messages.Status,
        )
        for target in there.targets:
            if target.pid == pid and not target.ended:
                self._before_ns[pid] = target.overhead_ns

    def _note_end(self, pid: int, last: messages.Removed | messages.Ended) -> None:
        if pid in self._alive:
            del self._alive[pid]
            self._last += last.probes
            self._overhead_ns += max(0, last.overhead_ns - self._before_ns.get(pid, 0))
            self._variables += last.variables
            self._maps += last.maps

    def _report(self, report: messages.Report) -> None:
        if isinstance(report, messages.StateChange):
            self._removed += (probe for probe in report.probes if probe.state == "removed")
            self._note(report.probes)
        elif isinstance(report, messages.Forked):
            self._alive[report.pid] = None
        elif isinstance(report, messages.Ended):
            if report.pid in self._pids:
                self.ended = report
            self._tell_end(report)
            self._note_end(report.pid, report)
        elif isinstance(report, messages.Notice) and report.kind is NoticeKind.EXEC:
            self._tell_exec(report)
        elif isinstance(report, messages.Notice) and report.kind in _CORES:
            self.dumping = report.kind is NoticeKind.DUMPING
            self.on_core(report)
        elif isinstance(report, messages.Notice) and report.kind is NoticeKind.HANDLER:
            self._say(report.text)
        elif isinstance(report, messages.Over):
            self._over.add((report.pid, report.number))
            self._removed += report.probes
            self._variables += report.variables
            self._maps += report.maps
            if report.rule:  # Else it is as the user asked.
                self._say(report.text)
        elif isinstance(report, messages.Notice) and report.kind in _NOT_PROBED:
            if (report.pid, report.text) not in self._complained:
                self._complained.add((report.pid, report.text))
                self._say(f"process {report.pid}: {report.text}")
        elif isinstance(report, messages.Notice) and report.kind in _STANDS:
            self._stood.add(report.pid)
            self._say(_without_daemon(report) if self._private else report.text)

    def _tell_end(self, report: messages.Ended) -> None:
        """Say that, when and how a process ended; whoever started a command sees that itself."""
        if report.pid not in self._pids or report.pid not in self._alive:
            return
        if report.how == "detached":
            # Not by us: who asks for that has the answer.
            if not (self._launched or self.detached):
                self.cut_short = True
                why = report.reason or f"dprobed has detached from process {report.pid}"
                self._say(f"{why}; it goes on without probes")
            return
        self._ends.append(
            SummaryEnd(
                pid=report.pid,
                how=report.how,
                time=time.monotonic_ns(),
                status=report.status,
                reason=report.reason,
            )
        )
        if not self._launched and report.how in _ENDS:
            what = _ENDS[report.how].format(status=report.status)
            self._say(f"process {report.pid} {what} at {_now()}")

    def _tell_exec(self, report: messages.Notice) -> None:
        if report.pid not in self._pids or report.pid == self._starting:
            self._starting = None if report.pid == self._starting else self._starting
            return
        now, program = time.monotonic_ns(), report.program
        self._ends.append(SummaryEnd(pid=report.pid, how="executed", time=now, program=program))
        self.doubts.executed(report.pid)
        if not self._launched:
            self._say(f"{report.text} at {_now()}")

    def _note(self, probes: Sequence[messages.ProbeInfo]) -> None:
        self._states.update(
            {(probe.pid, probe.number, probe.probe): probe.state for probe in probes}
        )
        self._tell(probes)

    def _tell(self, probes: Sequence[messages.ProbeInfo]) -> None:
        """Say once of each probe why it does not work."""
        for probe in probes:
            key = (probe.number, probe.probe, probe.state, probe.reason)
            by_others = probe.state == "removed" and probe.reason
            if (probe.state in _QUIET and not by_others) or key in self._told:
                continue
            self._told.add(key)
            name = f"{probe.program} {probe.major}.{probe.minor} at {probe.place}"
            text = f"{name}: {probe.state}" + (f": {probe.reason}" if probe.reason else "")
            self._say(located(probe.source, text))


def standing(connection: Connection, session: Session) -> tuple[int, ...]:
    """The processes of a session that stand at a probe, or are debugged there, as the daemon says
    now: that a probe was disabled may be reported before what it did."""
    found = []
    for pid in session.alive:
        there = connection.request(
            lambda number, pid=pid: messages.Query(  # type: ignore[misc]
                id=number, select=messages.Select(pid=pid)
            ),
            messages.Status,
        )
        if any(each.pid == pid and _is_held(each) for each in there.targets):
            found.append(pid)
    return tuple(found)


def _is_held(target: messages.TargetInfo) -> bool:
    found = target.debugger
    return bool(target.suspended or (found is not None and (found.held or found.attached)))


def _now() -> str:
    return time.strftime("%H:%M:%S")


def _without_daemon(notice: messages.Notice) -> str:
    """How what stands goes on, where no other command finds the daemon: it is a private one."""
    text = notice.text.replace(f"dprobe debug {notice.pid}, or ", "")
    for command in ("`dprobe resume` resumes it", "'dprobe resume' resumes it"):
        text = text.replace(command, "Ctrl-C here lets it go on")
    return text
