"""What `dprobe top` shows: probes and processes by hits and overhead, and maps.

``Sample`` is one answer of the daemon compared with the one before; ``View`` is what the keys have
chosen. Both are values: no terminal and no daemon is needed for them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from dprobe.lib.summary import SummaryMap
from dprobe.view.maps import map_rows
from dprobe.view.probes import standing
from dprobed.printable import printable
from dprobed.wire import messages

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
_MAP_COLUMNS: Final = (
    ("program", "program"),
    ("map", "map"),
    ("pid", "pid"),
    ("value", "value"),
    ("key", "key"),
)
#: What the tab key goes through, and the columns of each.
_COLUMNS: Final[dict[str, Sequence[tuple[str, str]]]] = {
    "probes": _PROBE_COLUMNS,
    "processes": _PROCESS_COLUMNS,
    "maps": _MAP_COLUMNS,
}
#: Keys of a map that are shown.
_TOP: Final = 20
#: A space at which a line does not break.
_UNBROKEN: Final = "\N{NO-BREAK SPACE}"
#: Of dprobed's own processes.
OWN_COLUMNS: Final = (
    ("pid", "pid"),
    ("what", "what"),
    ("CPU %", "cpu"),
    ("memory, MB", "memory"),
)
#: Key → (what to sort by, whether the largest comes first).
_SORTS: Final = {
    "h": ("rate", True),
    "t": ("hits", True),
    "o": ("overhead", True),
    "p": ("pid", False),
    "n": ("program", False),
}
#: The longest that fits is shown.
_HELP: Final = (
    "q: quit   space: pause   tab: probes/processes/maps   arrows, d: remove   "
    "sort: h hits/s  t hits  o overhead  p pid  n name",
    "q quit  space pause  tab probes/processes/maps  arrows d remove  sort h t o p n",
    "q quit  space pause  tab view  d remove",
    "q quit",
)
#: Where the terminal is too narrow, columns that say nothing are left out first; then others go,
#: these first, to lines of their own below. Nothing is cut.
_BELOW: Final = (
    "key",
    "place",
    "program",
    "number",
    "comm",
    "dropped",
    "missed",
    "hits",
    "state",
    "probes",
    "overhead",
)
_SILENT: Final = ("dropped", "missed")
#: Between two columns.
_GAP: Final = 2
#: How far what is below is indented.
_INDENT: Final = 4
_SUSPEND: Final = "\x1a"


class Sample(msgspec.Struct, frozen=True):
    """One answer of the daemon, at a time (in s), and what changed since the one before."""

    status: messages.Status
    at: float
    probes: Sequence[Row] = ()
    processes: Sequence[Row] = ()
    #: What each of dprobed's own processes uses.
    own: Sequence[Row] = ()
    usage: Sequence[messages.ProcessUsage] = ()
    #: What is in maps; None: it was not asked for.
    maps: Sequence[Row] | None = None

    @classmethod
    def take(
        cls,
        status: messages.Status,
        at: float,
        last: Sample | None,
        usage: Sequence[messages.ProcessUsage] = (),
        maps: Sequence[SummaryMap] | str | None = None,
    ) -> Sample:
        """Compare with the last one; without one all rates are 0. ``maps``: or why not."""
        seconds = at - last.at if last is not None else 0.0
        before_hits = {_key(each): each.hits for each in last.status.probes} if last else {}
        before_spent = {_key(each): each.spent_ns for each in last.status.probes} if last else {}
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
                "overhead": _per(
                    (each.spent_ns - before_spent.get(_key(each), each.spent_ns)) / 1e7, seconds
                ),
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
        own = _own(usage, last.usage if last else (), seconds)
        in_maps: list[dict[str, object]] | None = None
        if isinstance(maps, str):
            in_maps = [{"program": "", "map": "", "pid": "", "key": "", "value": maps}]
        elif maps is not None:
            in_maps = map_rows(maps, _TOP)
        return cls(status, at, probes, processes, own, usage, in_maps)

    def summary(self) -> str:
        """One line for all of it."""
        deployments = self.status.deployments
        parts = [
            count_text(len(self.processes), "process", "es"),
            count_text(len(self.probes), "probe"),
            f"{sum(row['rate'] for row in self.probes):.0f} hits/s",
        ]
        if deployments:
            refused = sum(sum(each.refused.values()) for each in deployments)
            parts.append(
                f"processes missed {sum(each.missed for each in deployments)}, "
                f"unseen {max(each.unseen for each in deployments)}, refused {refused}"
            )
        return "   ".join(parts)

    def usage_text(self) -> str:
        """One line for what dprobed itself uses: daemon, tracers, resolvers."""
        parts = []
        for what in dict.fromkeys(row["what"] for row in self.own):
            rows = [row for row in self.own if row["what"] == what]
            name = f"{what} {rows[0]['pid']}" if len(rows) == 1 else f"{len(rows)} {what}s"
            cpu, memory = (sum(row[each] for row in rows) for each in ("cpu", "memory"))
            parts.append(f"{name}: {cpu:.1f} % CPU, {memory:.0f} MB")
        return "   ".join(parts)


def _own(
    usage: Sequence[messages.ProcessUsage], last: Sequence[messages.ProcessUsage], seconds: float
) -> list[Row]:
    """Rows of dprobed's own processes."""
    before = {each.pid: each.cpu_seconds for each in last}
    return [
        {
            "pid": each.pid,
            "what": each.what,
            "cpu": _per(100 * (each.cpu_seconds - before.get(each.pid, each.cpu_seconds)), seconds),
            "memory": round(each.memory / 1e6, 1),
        }
        for each in usage
    ]


def _key(probe: messages.ProbeInfo) -> tuple[object, ...]:
    return probe.number, probe.pid, probe.probe, probe.module, probe.place


def count_text(number: int, what: str, plural: str = "s") -> str:
    """``1 probe``, ``2 probes``."""
    return f"{number} {what}{plural if number != 1 else ''}"


def _per(amount: float, seconds: float) -> float:
    return round(amount / seconds, 1) if seconds > 0 else 0.0


class View(msgspec.Struct):
    """What the keys have chosen."""

    sort: str = "h"
    #: Which of ``_COLUMNS``.
    shows: str = "probes"
    paused: bool = False
    selected: int = 0
    over: bool = False
    #: Ctrl-Z was pressed.
    suspended: bool = False
    #: Which row it was that the arrows chose, if they were used: it stays chosen where it goes.
    _chosen: tuple[object, ...] | None = None
    #: What is to be removed as soon as the user says yes.
    asked: messages.Select | None = None
    note: str = ""
    _rows: Sequence[Row] = msgspec.field(default=())

    @property
    def columns(self) -> Sequence[tuple[str, str]]:
        """(Title, field) of what is shown."""
        return _COLUMNS[self.shows]

    @property
    def nothing(self) -> str:
        """What is said where there are no rows."""
        return "no program has maps" if self.shows == "maps" else "nothing is inserted"

    def rows(self, sample: Sample) -> Sequence[Row]:
        """What is shown, in its order; equal ones stay where they are."""
        if self.shows == "maps":
            self._rows = sample.maps or ()
        else:
            name, largest = _SORTS[self.sort]
            rows = sorted(
                sample.processes if self.shows == "processes" else sample.probes,
                key=lambda row: (row["pid"], row["program"]),
            )
            self._rows = sorted(rows, key=lambda row: row[name], reverse=largest)
        if self._chosen is not None:
            names = [_name(row) for row in self._rows]
            if self._chosen in names:
                self.selected = names.index(self._chosen)
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
            kinds = list(_COLUMNS)
            self.shows = kinds[(kinds.index(self.shows) + 1) % len(kinds)]
        elif key == " ":
            self.paused = not self.paused
        elif key in ("up", "down") and self._rows:
            index = self.selected + (1 if key == "down" else -1)
            self.selected = max(0, min(index, len(self._rows) - 1))
            self._chosen = _name(self._rows[self.selected])
        elif key == _SUSPEND:
            self.suspended = True
        elif key == "d" and self._rows and self.shows != "maps":
            self._ask(self._rows[min(self.selected, len(self._rows) - 1)])
        elif key == "q":
            self.over = True
        return None

    def _ask(self, row: Row) -> None:
        number = None if self.shows == "processes" else row["number"]
        self.asked = messages.Select(number=number, pid=row["pid"])
        what = "all programs" if number is None else f"program {number} ({row['program']})"
        self.note = f"y: remove {what} from process {row['pid']}; any other key: no"


def _name(row: Row) -> tuple[object, ...]:
    """What a row is about, whatever it counts."""
    return tuple(row.get(field) for field in ("pid", "number", "program", "place", "map", "key"))


class Layout(NamedTuple):
    """Columns beside each other, (title, field, width), and those, (title, field), below."""

    beside: list[tuple[str, str, int]]
    below: list[tuple[str, str]]

    def lines_below(self, row: Row, width: int) -> list[str]:
        """What a row has below its first line."""
        parts = [f"{title} {_cell(row, name)}" for title, name in self.below if row[name] != ""]
        lines: list[str] = []
        room = max(1, width - _INDENT)
        for part in parts:
            if lines and len(lines[-1]) + _GAP + len(part) <= room:
                lines[-1] += " " * _GAP + part
            else:
                lines += [part[at : at + room] for at in range(0, len(part), room)]
        return [" " * _INDENT + line for line in lines]


def layout(columns: Sequence[tuple[str, str]], rows: Sequence[Row], width: int) -> Layout:
    """Where each column goes in a terminal that is so wide."""
    shown = [
        (title, name, max([len(title), *(_cells(_cell(row, name)) for row in rows)]))
        for title, name in columns
    ]

    def over() -> bool:
        return sum(size + _GAP for _, _, size in shown) - _GAP > width

    if over():
        silent = {name for name in _SILENT if not any(row.get(name) for row in rows)}
        shown = [each for each in shown if each[1] not in silent]
    below: list[tuple[str, str]] = []
    for candidate in _BELOW:
        if not over():
            break
        below += [(title, name) for title, name, _ in shown if name == candidate]
        shown = [each for each in shown if each[1] != candidate]
    return Layout(shown, below)


def _cells(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _cell(row: Row, name: str) -> str:
    return printable(str(row[name]))


def draw(view: View, sample: Sample, width: int, height: int) -> RenderableType:
    """The whole screen."""
    from rich.console import Group
    from rich.text import Text

    def line(text: str, style: str = "") -> RenderableType:
        return Text(text, style, no_wrap=True, overflow="crop")

    rows = view.rows(sample)
    stands = [
        each
        for text in standing(sample.status.targets)
        for each in _wrapped(printable(text), width)
    ]
    summary = ("paused   " if view.paused else "") + sample.summary()
    lines = [line(each, "bold") for each in stands]
    lines += [line(each, "bold" if view.paused else "") for each in _wrapped(summary, width)]
    lines += [*map(line, _wrapped(sample.usage_text(), width, at="   ")), line("")]
    help_ = next((each for each in _HELP if len(each) <= width), _HELP[-1])
    foot = [line(each, "dim") for each in _wrapped(printable(view.note) or help_, width)]
    columns = [
        (f"{title}{'*' * (name == _SORTS[view.sort][0])}", name) for title, name in view.columns
    ]
    room = max(1, height - len(lines) - len(foot) - 1)
    lines += _rows(view, rows, columns, width, room)
    if not rows:
        lines.append(line(view.nothing))
    return Group(*lines, *foot)


def _rows(
    view: View, rows: Sequence[Row], columns: Sequence[tuple[str, str]], width: int, room: int
) -> list[RenderableType]:
    """The table in so many lines besides its head; the row that is selected is among them."""
    from rich.cells import set_cell_size
    from rich.text import Text

    first = max(0, min(view.selected - room + 1, len(rows) - room))
    visible = rows[first : first + room]
    where = layout(columns, visible, width)
    numeric = {name for _, name in columns if rows and isinstance(rows[0][name], int | float)}

    def across(texts: Sequence[str]) -> str:
        cells = [
            text.rjust(size) if name in numeric else set_cell_size(text, size)
            for text, (_, name, size) in zip(texts, where.beside, strict=True)
        ]
        return (" " * _GAP).join(cells).ljust(width)

    blocks = [
        [across([_cell(row, name) for _, name, _ in where.beside]), *where.lines_below(row, width)]
        for row in visible
    ]
    # With lines below fewer rows have room than there are.
    while first < view.selected and sum(map(len, blocks[: view.selected - first + 1])) > room:
        blocks, first = blocks[1:], first + 1
    lines = [("bold", across([title for title, _, _ in where.beside]))]
    for index, block in enumerate(blocks, start=first):
        lines += [("reverse" if index == view.selected else "", text) for text in block]
    return [Text(text, style, no_wrap=True, overflow="crop") for style, text in lines[: room + 1]]


def _wrapped(text: str, width: int, at: str = " ") -> list[str]:
    """The text in lines of whole words, or of what is between ``at``, as far as these fit."""
    lines = textwrap.wrap(
        at.join(part.replace(" ", _UNBROKEN) for part in text.split(at)), max(1, width)
    )
    return [each.replace(_UNBROKEN, " ") for each in lines] or [""]
