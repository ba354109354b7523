"""What ``run`` and ``attach`` have in common: programs, a daemon, and reports until the end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dprobe.lib.connection import Connection
from dprobe.lib.errors import DaemonGoneError, NoDaemonError, UserError, os_error_text
from dprobe.lib.private import PrivateDaemon
from dprobe.view.output import Output, Summary, complain, summarize
from dprobed.printable import readable
from dprobed.wire import messages
from dprobed.wire.limits import Limits

if TYPE_CHECKING:
    from types import FrameType

#: States of a probe that works, or may yet; every other one is told to the user when it comes.
_QUIET = frozenset({"active", "pending", "compiled", "disabled", "removed"})
#: States of a probe that fires, or may yet.
_ALIVE = frozenset({"active", "pending", "compiled"})
#: States of a probe that did what it was there for.
_DONE = frozenset({"disabled", "removed"})


def parse_defines(pairs: Sequence[str]) -> dict[str, str]:
    """``-D NAME=VALUE`` (``-D NAME``: 1) as a mapping."""
    defines = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name.isidentifier():
            raise UserError(f"-D {pair}: write -D NAME=VALUE, with a name as in C")
        defines[name] = value if equals else "1"
    return defines


def load_programs(
    paths: Sequence[str],
    defines: Mapping[str, str],
    groups: Sequence[int] = (),
    types: Sequence[int] = (),
    budget: Limits | None = None,
) -> list[messages.Upload]:
    """The programs, assembled and verified here; raises UserError with all that is wrong."""
    from dprobed.program.bytecode import encode
    from dprobed.program.model import NothingSelectedError, ProgramError, select
    from dprobed.program.rpn.parser import load_file

    uploads = []
    errors = []
    for path in paths:
        try:
            program = load_file(path, defines)
            if groups or types:
                program = select(program, frozenset(groups), frozenset(types))
            label = readable(Path(path).stem)[:255]
            bytecode = encode(program)
            uploads.append(messages.Upload(label=label, bytecode=bytecode, budget=budget))
        except ProgramError as error:
            errors.append(str(error))
        except NothingSelectedError as error:
            errors.append(f"{path}: {error}")
        except OSError as error:
            errors.append(f"{path}: {os_error_text(error)}")
    if errors:
        raise UserError("\n".join(errors))
    return uploads


@contextlib.contextmanager
def daemon(path: Path | None) -> Iterator[Callable[[], Connection]]:
    """The running daemon, or a private one that starts now; call for the connection when needed.

    ``path``: the socket that the user named; there must be a daemon then.
    """
    try:
        connection = Connection.open(path or messages.default_socket(os.getuid()))
    except NoDaemonError:
        if path is not None:
            raise
    else:
        with connection:
            yield lambda: connection
        return
    with PrivateDaemon() as private:
        try:
            yield private.connect
        except DaemonGoneError as error:
            said = private.complaint()
            more = f": {said}" if said and said not in str(error) else ""
            raise DaemonGoneError(f"{error}{more}") from None


class Session:
    """One target and the children of it that are followed, their programs, and what they report.

    ``ended``: how the target did.
    """

    def __init__(
        self, connection: Connection, output: Output, pid: int, *, follow_forks: bool
    ) -> None:
        self._connection = connection
        self._private = connection.private
        self._output = output
        self._pid = pid
        self._follow_forks = follow_forks
        self.ended: messages.Ended | None = None
        self._alive = {pid: None}
        self._last: list[messages.ProbeInfo] = []
        self._overhead_ns = 0
        self._removed: list[messages.ProbeInfo] = []
        #: The target has ended, and the daemon says so when its core has been written.
        self.dumping = False
        self._states: dict[tuple[int, int, int], str] = {}
        self._told: set[tuple[int, int, str, str]] = set()
        self._complained: set[str] = set()
        connection.on_record = output.record
        connection.on_report = self._report

    def insert(self, uploads: list[messages.Upload], *, launch: bool, check_opcode: bool) -> int:
        """Attach and put the programs in; how many probes there are.

        Raises UserError when any of it is refused.
        """
        pid = self._pid
        self._connection.request(
            lambda number: messages.Attach(
                id=number, pid=pid, launch=launch, follow_forks=self._follow_forks
            ),
            messages.Attached,
        )
        answer = self._connection.request(
            lambda number: messages.Insert(
                id=number, pid=pid, programs=uploads, check_opcode=check_opcode
            ),
            messages.Inserted,
        )
        self._note(answer.probes)
        return len(answer.probes)

    @property
    def spent(self) -> bool:
        """Whether there is no probe that could still fire in a process that goes on."""
        return not any(
            pid in self._alive and state in _ALIVE for (pid, *_), state in self._states.items()
        )

    @property
    def vain(self) -> bool:
        """Whether there never was one."""
        return (_ALIVE | _DONE).isdisjoint(self._states.values())

    def receive(self) -> None:
        """Take in what came, and write the records of it."""
        self._connection.receive()
        self._output.flush()

    @property
    def over(self) -> bool:
        """Whether the target and all followed children have ended."""
        return not self._alive

    def detach(self) -> Summary:
        """Take the programs out and let all processes go; the summary."""
        while self._alive:
            # A child that comes meanwhile is told before the answer.
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
                self._note_end(pid, answer.probes, answer.overhead_ns)
        there = {(probe.number, probe.pid) for probe in self._last}
        # With what others took out before the end.
        removed = [probe for probe in self._removed if (probe.number, probe.pid) not in there]
        return summarize(removed + self._last, self._overhead_ns)

    def _note_end(self, pid: int, probes: list[messages.ProbeInfo], overhead_ns: int) -> None:
        if pid in self._alive:
            del self._alive[pid]
            self._last += probes
            self._overhead_ns += overhead_ns

    def _report(self, report: messages.Report) -> None:
        if isinstance(report, messages.StateChange):
            self._removed += (probe for probe in report.probes if probe.state == "removed")
            self._note(report.probes)
        elif isinstance(report, messages.Forked):
            self._alive[report.pid] = None
        elif isinstance(report, messages.Ended):
            if report.pid == self._pid:
                self.ended = report
            self._note_end(report.pid, report.probes, report.overhead_ns)
        elif isinstance(report, messages.Notice) and report.kind in ("dump", "dumping"):
            self.dumping = report.kind == "dumping"
            complain(report.text)
        elif isinstance(report, messages.Notice) and report.kind in ("loader", "unprobed"):
            if report.text not in self._complained:
                self._complained.add(report.text)
                complain(f"process {report.pid}: {report.text}")
        elif isinstance(report, messages.Notice) and report.kind in ("suspend", "debugger"):
            private = " (of a running dprobed; this private one lets it go at its end)"
            complain(report.text + (private if self._private else ""))

    def _note(self, probes: Sequence[messages.ProbeInfo]) -> None:
        self._states.update(
            {(probe.pid, probe.number, probe.probe): probe.state for probe in probes}
        )
        self._tell(probes)

    def _tell(self, probes: Sequence[messages.ProbeInfo]) -> None:
        """Say once of each probe that it does not work."""
        for probe in probes:
            key = (probe.number, probe.probe, probe.state, probe.reason)
            by_others = probe.state == "removed" and probe.reason
            if (probe.state in _QUIET and not by_others) or key in self._told:
                continue
            self._told.add(key)
            name = f"{probe.program} {probe.major}.{probe.minor} at {probe.place}"
            complain(f"{name}: {probe.state}" + (f": {probe.reason}" if probe.reason else ""))


class Waker:
    """Signals as something to wait for together with the connection.

    Within the context each signal of ``handlers`` runs its function, and ends a ``wait``.
    """

    def __init__(self, handlers: Mapping[signal.Signals, Callable[[], None]]) -> None:
        self._handlers = handlers
        self._before: dict[signal.Signals, object] = {}
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def __enter__(self) -> Waker:
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number, function in self._handlers.items():
            self._before[number] = signal.signal(number, self._handler(function))
        return self

    @staticmethod
    def _handler(function: Callable[[], None]) -> Callable[[int, FrameType | None], None]:
        return lambda number, frame: function()

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]
        signal.set_wakeup_fd(-1)
        os.close(self._read)
        os.close(self._write)

    def wait(self, connection: Connection | None, seconds: float | None) -> bool:
        """Until the connection has something (True), a signal came or the time is over (False)."""
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        if connection is not None:
            poll.register(connection, select.POLLIN)
        milliseconds = None if seconds is None else max(0, int(seconds * 1000) + 1)
        ready = {descriptor for descriptor, _ in poll.poll(milliseconds)}
        if self._read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._read, 4096)
        return connection is not None and connection.fileno() in ready
