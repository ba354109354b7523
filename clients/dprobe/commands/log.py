"""``dprobe log``: the records that a daemon keeps, and new ones."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import click
import msgspec

from dprobe.commands import options
from dprobe.commands import pids as processes
from dprobe.lib.errors import UserError
from dprobe.lib.still import holds
from dprobe.lib.systemd_journal import EntriesWanted
from dprobe.view.entries import show_entries
from dprobe.view.output import Output, complain, note
from dprobed.durations import seconds
from dprobed.trace import choose
from dprobed.wire import messages

_CLOCKS: Final = ("wall", "mono", "delta")


class _Since(click.ParamType):  # type: ignore[type-arg]
    """A moment: so long ago, or a time of the day or date of this machine."""

    name = "moment"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds since 1970 (click)."""
        text = str(value).strip()
        ago = seconds(text)
        if ago is not None:
            return time.time() - ago
        try:
            if ":" in text and "-" not in text:
                text = f"{datetime.now().astimezone().date().isoformat()} {text}"
            return datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError):
            self.fail(f"{value}: write 10m, 14:30 or 2026-01-31T14:30:00", param, ctx)


@click.command(
    "log",
    cls=processes.PidsCommand,
    epilog="""\b
examples:
  dprobe log --program alloc -n 20
  dprobe log -f --since 10m -w 'word_0>=4096'
  dprobe log --format json --pid 1234
""",
)
@click.option("-f", "follow", is_flag=True, help="Go on with new records, until Ctrl-C.")
@click.option(
    "--program", "programs", multiple=True, metavar="NAME", help="Only records of this program."
)
@processes.option("Only records of these processes: numbers, or a name that they have.")
@click.option(
    "-n", "count", type=click.IntRange(min=0), metavar="N", help="Only the last N of those kept."
)
@click.option(
    "--since", type=_Since(), metavar="TIME", help="Only those since then: 10m, 14:30, a date."
)
@click.option(
    "-w",
    "--where",
    "conditions",
    multiple=True,
    metavar="CONDITION",
    help="Only records for which this holds, as `word_0>=4096` or `comm=sort` (all of several).",
)
@click.option(
    "--time",
    "clock",
    type=click.Choice(_CLOCKS),
    help="How to write the time: of the day (wall; default on a terminal), since the machine's "
    "start (mono; else), or since the line before (delta).",
)
@click.option(
    "--journal",
    is_flag=True,
    help="From the systemd journal: what happened, and the records of `trace start --format "
    "journal`. No daemon is needed.",
)
@click.option("--namespace", default="", help="The journal's namespace.")
@options.format_
@options.output("standard output")
@click.pass_obj
def log_command(
    socket: Path | None,
    follow: bool,
    programs: tuple[str, ...],
    pids: tuple[int, ...],
    count: int | None,
    since: float | None,
    conditions: tuple[str, ...],
    clock: str | None,
    journal: bool,
    namespace: str,
    form: str,
    path: str | None,
) -> int:
    """Show the records that the daemon keeps, all or those that are asked for.

    It keeps the last 2 MiB of them; where that is not enough, each program has its share.
    """
    if journal:
        if conditions or clock not in (None, "wall"):
            raise click.UsageError(
                "--where and --time are for what the daemon keeps", click.get_current_context()
            )
        wanted = EntriesWanted(namespace, programs, pids, since, count, follow)
        return show_entries(wanted, Output(form, path, 1), json=form == "json")
    if namespace:
        raise click.UsageError("--namespace goes with --journal", click.get_current_context())
    chosen = _Chosen(programs, pids, since, conditions)
    with options.running(socket) as daemon:
        to_terminal = path is None and sys.stdout.isatty()
        stamp = _stamp(clock or ("wall" if to_terminal else "mono"))
        output = Output(form, path, 1, live=True, holds=holds, stamp=stamp)
        kept: deque[bytes] = deque(maxlen=count)
        later: list[bytes] = []

        def take(line: bytes) -> None:
            if chosen.takes(line):
                (later if daemon.answered else kept).append(line)

        daemon.listen(take, _tell)
        answer = daemon.request(
            lambda number: messages.Log(id=number, follow=follow), messages.Logged
        )
        processes.refuse_missing(pids, chosen.pids)
        if not follow:
            chosen.check()
        for line in (*kept, *later):
            output.record(line)
        daemon.listen(lambda line: output.record(line) if chosen.takes(line) else None, _tell)
        if not (kept or later or follow or count == 0):
            note(chosen.none())
        if answer.forgotten:
            complain(f"{answer.forgotten} older records are no longer kept")
        output.flush()
        try:
            while follow and not output.broken:
                daemon.receive()
                output.flush()
        except KeyboardInterrupt:
            pass
        output.close()
        return output.status


def _tell(report: messages.Report) -> None:
    """Say that a process stands at a probe of what is followed."""
    if isinstance(report, messages.Notice):
        complain(report.text)


class _Chosen:
    """Which records are asked for; raises UserError for a condition that is none."""

    def __init__(
        self,
        programs: tuple[str, ...],
        pids: tuple[int, ...],
        since: float | None,
        conditions: tuple[str, ...],
    ) -> None:
        self._programs = programs
        self._pids = pids
        self._all = not (programs or pids or since is not None or conditions)
        self._first = 0 if since is None else int(since * 1e9) - _offset_ns()
        self._decode = msgspec.json.Decoder(messages.Record).decode
        #: Records that were looked at.
        self._seen = 0
        #: Processes of which there was a record.
        self.pids: set[int] = set()
        self._fields = choose.Fields(conditions)
        try:
            self._test = choose.all_of(conditions)
        except choose.ConditionError as error:
            raise UserError(str(error)) from None

    def takes(self, line: bytes) -> bool:
        """Whether a record's line is asked for."""
        self._seen += 1
        if self._all:
            return True
        record = self._decode(line)
        self.pids.add(record.pid)
        if not (
            (not self._programs or record.program in self._programs)
            and (not self._pids or record.pid in self._pids)
            and record.time >= self._first
        ):
            return False
        self._fields.see(record)
        return self._test(record)

    def none(self) -> str:
        """What is said where none was there."""
        if not self._seen:
            return "no record has come yet, or none is kept"
        return f"none of the {self._seen} records that are kept is asked for"

    def check(self) -> None:
        """All have come: raise UserError where none had a field that a condition looks at."""
        try:
            self._fields.check()
        except choose.FieldError as error:
            raise UserError(str(error)) from None


def _offset_ns() -> int:
    """What to add to a record's time for that of the day."""
    return time.time_ns() - time.monotonic_ns()


def _stamp(clock: str) -> Callable[[messages.Record], str] | None:
    """How a record's time is written; None: as it is."""
    if clock == "mono":
        return None
    if clock == "wall":
        offset = _offset_ns()

        def wall(record: messages.Record) -> str:
            moment = datetime.fromtimestamp((record.time + offset) / 1e9).astimezone()
            return moment.isoformat(timespec="microseconds")

        return wall
    last: list[int] = []

    def delta(record: messages.Record) -> str:
        before = last[0] if last else record.time
        last[:] = [record.time]
        return f"{(record.time - before) / 1e9:+.6f}"

    return delta
