"""`dprobe top`: probes and processes by hits and overhead, live.

``Sample`` is one answer of the daemon compared with the one before; ``View`` is what the keys have
chosen. Both are values without a terminal; ``run`` is the loop around them.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from dprobe.connection import Connection
from dprobe.errors import UserError
from dprobe.tables import show
from dprobed.control import messages
from dprobed.printable import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

Row = Mapping[str, Any]

_PROBE_COLUMNS: Final = (
    ("pid", "pid"),
    ("command", "comm"),
    ("program", "program"),
    ("no", "number"),
    ("place", "place"),
    ("state", "state"),
    ("hits", "hits"),
    ("hits/s", "rate"),
    ("overhead %", "overhead"),
    ("missed", "missed"),
    ("dropped", "dropped"),
)
_PROCESS_COLUMNS: Final = (
    ("pid", "pid"),
    ("command", "comm"),
    ("probes", "probes"),
    ("hits", "hits"),
    ("hits/s", "rate"),
    ("overhead %", "overhead"),
)
#: Key → (what to sort by, whether the largest comes first).
_SORTS: Final = {
    "h": ("rate", True),
    "t": ("hits", True),
    "o": ("overhead", True),
    "p": ("pid", False),
    "n": ("program", False),
}
_HELP: Final = (
    "sort: h hits/s  t hits  o overhead  p pid  n name   "
    "tab: probes/processes   space: pause   arrows, d: remove   q: quit"
)
#: What terminals send for keys of more than one byte.
_ESCAPES: Final = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down"}
#: Lines of the screen that are no rows: summary, head of the table with its lines, help.
_FRAME: Final = 6


@dataclass(frozen=True)
class Sample:
    """One answer of the daemon, at a time (in s), and what changed since the one before."""

    status: messages.Status
    at: float
    probes: Sequence[Row] = ()
    processes: Sequence[Row] = ()

    @classmethod
    def take(cls, status: messages.Status, at: float, last: Sample | None) -> Sample:
        """Compare with the last one; without one all rates are 0."""
        seconds = at - last.at if last is not None else 0.0
        before_hits = {_key(each): each.hits for each in last.status.probes} if last else {}
        before_time = {each.pid: each.overhead_ns for each in last.status.targets} if last else {}
        overhead = {
            target.pid: _per(
                (target.overhead_ns - before_time.get(target.pid, target.overhead_ns)) / 1e7,
                seconds,
            )
            for target in status.targets
        }
        names = {target.pid: target.comm for target in status.targets if not target.ended}
        probes: list[dict[str, Any]] = [
            {
                "pid": each.pid,
                "comm": names[each.pid],
                "program": each.program,
                "number": each.number,
                "place": each.place,
                "state": each.state,
                "hits": each.hits,
                "rate": _per(each.hits - before_hits.get(_key(each), each.hits), seconds),
                "overhead": overhead.get(each.pid, 0.0),
                "missed": each.missed,
                "dropped": each.dropped,
            }
            for each in status.probes
            if each.pid in names
        ]
        processes = [
            {
                "pid": target.pid,
                "comm": target.comm,
                "program": target.comm,
                "probes": len(own),
                "hits": sum(row["hits"] for row in own),
                "rate": round(sum(row["rate"] for row in own), 1),
                "overhead": overhead[target.pid],
            }
            for target in status.targets
            if target.pid in names
            for own in [[row for row in probes if row["pid"] == target.pid]]
        ]
        return cls(status, at, probes, processes)

    def summary(self) -> str:
        """One line for all of it."""
        deployments = self.status.deployments
        parts = [
            f"{len(self.processes)} processes",
            f"{len(self.probes)} probes",
            f"{sum(row['rate'] for row in self.probes):.0f} hits/s",
        ]
        if deployments:
            refused = sum(sum(each.refused.values()) for each in deployments)
            parts.append(
                f"processes missed {sum(each.missed for each in deployments)}, "
                f"unseen {max(each.unseen for each in deployments)}, refused {refused}"
            )
        return "   ".join(parts)


def _key(probe: messages.ProbeInfo) -> tuple[object, ...]:
    return probe.number, probe.pid, probe.probe, probe.module, probe.place


def _per(amount: float, seconds: float) -> float:
    return round(amount / seconds, 1) if seconds > 0 else 0.0


@dataclass
class View:
    """What the keys have chosen."""

    sort: str = "h"
    of_processes: bool = False
    paused: bool = False
    selected: int = 0
    over: bool = False
    #: What is to be removed as soon as the user says yes.
    asked: messages.Select | None = None
    note: str = ""
    _rows: Sequence[Row] = field(default=())

    @property
    def columns(self) -> Sequence[tuple[str, str]]:
        """(Title, field) of what is shown."""
        return _PROCESS_COLUMNS if self.of_processes else _PROBE_COLUMNS

    def rows(self, sample: Sample) -> Sequence[Row]:
        """What is shown, in its order; equal ones stay where they are."""
        name, largest = _SORTS[self.sort]
        rows = sorted(
            sample.processes if self.of_processes else sample.probes,
            key=lambda row: (row["pid"], row["program"]),
        )
        self._rows = sorted(rows, key=lambda row: row[name], reverse=largest)
        self.selected = max(0, min(self.selected, len(self._rows) - 1))
        return self._rows

    def press(self, key: str) -> messages.Select | None:
        """A key; what is to be removed now, if anything."""
        if self.asked is not None:
            chosen, self.asked, self.note = self.asked, None, ""
            return chosen if key == "y" else None
        self.note = ""
        if key in _SORTS:
            self.sort = key
        elif key == "\t":
            self.of_processes = not self.of_processes
        elif key == " ":
            self.paused = not self.paused
        elif key in ("up", "down"):
            self.selected = max(0, self.selected + (1 if key == "down" else -1))
        elif key == "d" and self._rows:
            self._ask(self._rows[min(self.selected, len(self._rows) - 1)])
        elif key == "q":
            self.over = True
        return None

    def _ask(self, row: Row) -> None:
        number = None if self.of_processes else row["number"]
        self.asked = messages.Select(number=number, pid=row["pid"])
        what = "all programs" if number is None else f"program {number} ({row['program']})"
        self.note = f"remove {what} from process {row['pid']}? y: yes, any other key: no"


def once(daemon: Connection, interval: float, *, json: bool) -> None:
    """Two samples, and what happened between them, as plain tables."""
    first = Sample.take(_ask(daemon), time.monotonic(), None)
    time.sleep(interval)
    sample = Sample.take(_ask(daemon), time.monotonic(), first)
    view = View()
    if json:
        show(view.rows(sample), view.columns, json=True, empty="")
        return
    print(sample.summary())
    for view.of_processes in (True, False):
        print()
        show(view.rows(sample), view.columns, json=False, empty="nothing is inserted")


def run(daemon: Connection, interval: float) -> None:
    """The live screen, until `q` or Ctrl-C."""
    from rich.live import Live

    view = View()
    sample = Sample.take(_ask(daemon), time.monotonic(), None)
    with _keys() as read, Live(screen=True, auto_refresh=False) as live:
        due = time.monotonic() + interval
        while not view.over:
            live.update(_draw(view, sample, live.console.height), refresh=True)
            for key in read(max(0.0, due - time.monotonic())):
                select_ = view.press(key)
                if select_ is not None:
                    view.note = _remove(daemon, select_)
            if time.monotonic() >= due:
                due = time.monotonic() + interval
                if not view.paused:
                    sample = Sample.take(_ask(daemon), time.monotonic(), sample)


def _ask(daemon: Connection) -> messages.Status:
    return daemon.request(lambda number: messages.Query(id=number), messages.Status)


def _remove(daemon: Connection, chosen: messages.Select) -> str:
    try:
        answer = daemon.request(
            lambda number: messages.Remove(id=number, select=chosen), messages.Removed
        )
    except UserError as error:
        return str(error)
    return f"{len(answer.probes)} probes were removed"


def _draw(view: View, sample: Sample, height: int) -> RenderableType:
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    rows = view.rows(sample)
    room = max(1, height - _FRAME)
    first = max(0, min(view.selected - room + 1, len(rows) - room))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    sorted_by = _SORTS[view.sort][0]
    for title, name in view.columns:
        numeric = bool(rows) and isinstance(rows[0][name], int | float)
        mark = "*" if name == sorted_by else ""
        table.add_column(
            title + mark, justify="right" if numeric else "left", no_wrap=True, overflow="ellipsis"
        )
    for index, row in enumerate(rows[first : first + room], start=first):
        cells = (Text(printable(str(row[name]))) for _, name in view.columns)
        table.add_row(*cells, style="reverse" if index == view.selected else "")
    paused = Text("paused   ", style="bold") if view.paused else Text("")
    help_ = Text(printable(view.note) or _HELP, no_wrap=True, overflow="ellipsis", style="dim")
    return Group(paused + Text(sample.summary()), table, help_)


@contextmanager
def _keys() -> Iterator[Callable[[float], list[str]]]:
    """The terminal gives keys as they are pressed; the function waits at most so many seconds."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def read(seconds: float) -> list[str]:
        if not select.select([descriptor], [], [], seconds)[0]:
            return []
        data = os.read(descriptor, 1024)
        return split_keys(data) if data else ["q"]  # The terminal is gone.

    try:
        tty.setcbreak(descriptor)
        yield read
    except KeyboardInterrupt:
        pass
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def split_keys(data: bytes) -> list[str]:
    """What a terminal sent, as keys."""
    keys = []
    while data:
        length = 3 if data[:3] in _ESCAPES else 1
        head, data = data[:length], data[length:]
        keys.append(_ESCAPES.get(head) or head.decode("ascii", errors="replace"))
    return keys
