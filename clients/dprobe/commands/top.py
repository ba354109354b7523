"""``dprobe top``: probes and processes by hits and overhead, and maps, live or once."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

import click

from dprobe.commands import options
from dprobe.lib.connection import Connection
from dprobe.lib.errors import UserError
from dprobe.lib.summary import SummaryMap, of_programs
from dprobe.view.probes import show_standing
from dprobe.view.tables import Listing, show
from dprobe.view.top import OWN_COLUMNS, Sample, View, count_text, draw
from dprobed.wire import messages

#: What terminals send for keys of more than one byte.
_ESCAPES: Final = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down"}
#: Terminals on which nothing can be drawn.
_DUMB = ("", "dumb", "unknown")


@click.command(
    "top",
    epilog="""\b
keys:
  h hits/s   t hits   o overhead   p pid   n name     sort by it
  tab        probes, processes or maps
  space      pause, go on
  up down    choose a line; d removes it (y: yes)
  q          quit
\b
examples:
  dprobe top
  dprobe top --once --interval 5
  dprobe top --json | jq 'select(.hits).rate'
""",
)
@click.option(
    "--interval",
    type=options.Duration(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks.",
)
@click.option(
    "--once",
    is_flag=True,
    help="Print once, as plain text (as always in a pipe, or on a dumb terminal).",
)
@options.json
@click.pass_obj
def top_command(socket: Path | None, interval: float, once: bool, json: bool) -> None:
    """Watch probes and processes by hits and overhead, and what is in maps.

    Overhead is the share of the time for which threads of the process were stopped for probes. CPU
    and memory of the daemon and its tracers are shown, too.
    """
    live = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "") not in _DUMB
    with options.running(socket) as daemon:
        if once or json or not live:
            _once(daemon, interval, json=json)
        else:
            _run(daemon, interval)


def _once(daemon: Connection, interval: float, *, json: bool) -> None:
    """Two samples, and what happened between them, as plain tables."""
    first = _sample(daemon, None)
    time.sleep(interval)
    sample = _sample(daemon, first, with_maps=True)
    view = View()
    show_standing(sample.status.targets, json=json)
    if json:
        more = [{"type": "usage", **row} for row in sample.own]
        more += [{"type": "map", **row} for row in sample.maps or ()]
        show([*view.rows(sample), *more], Listing("top", tuple(view.columns)), json=True, empty="")
        return
    print(sample.summary())
    for view.shows in ("processes", "probes", "maps"):
        if view.shows == "maps" and not sample.maps:
            continue
        print()
        listing = Listing("top", tuple(view.columns))
        show(view.rows(sample), listing, json=False, empty=view.nothing)
    if sample.own:
        print()
        show(sample.own, Listing("usage", OWN_COLUMNS), json=False, empty="")


def _run(daemon: Connection, interval: float) -> None:
    """The live screen, until `q` or Ctrl-C."""
    from rich.live import Live

    view = View()
    sample = _sample(daemon, None)
    with _keys() as keys, Live(screen=True, auto_refresh=False) as live:
        due = time.monotonic() + interval
        while not view.over:
            live.update(draw(view, sample, *live.console.size), refresh=True)
            for key in keys.read(max(0.0, due - time.monotonic())):
                select_ = view.press(key)
                if select_ is not None:
                    view.note = _remove(daemon, select_)
            if view.suspended:
                view.suspended = False
                live.stop()
                keys.suspend()
                live.start()
            with_maps = view.shows == "maps"
            is_missing = with_maps and sample.maps is None
            if time.monotonic() >= due or is_missing:
                due = time.monotonic() + interval
                if not view.paused or is_missing:
                    sample = _sample(daemon, sample, with_maps=with_maps)


def _sample(daemon: Connection, last: Sample | None, *, with_maps: bool = False) -> Sample:
    status = daemon.request(lambda number: messages.Query(id=number), messages.Status)
    maps = _maps(daemon) if with_maps else None
    return Sample.take(status, time.monotonic(), last, _usage(daemon), maps)


def _maps(daemon: Connection) -> list[SummaryMap] | str:
    """What is in maps, or why that cannot be told: there is too much of it."""
    try:
        answer = daemon.request(lambda number: messages.Maps(id=number), messages.MapListing)
    except UserError as error:
        return str(error)
    return of_programs(answer.maps)


def _usage(daemon: Connection) -> list[messages.ProcessUsage]:
    """What dprobed's own processes use; nothing where the daemon is too old to say."""
    try:
        answer = daemon.request(lambda number: messages.Usage(id=number), messages.UsageInfo)
    except UserError:
        return []
    return answer.processes


def _remove(daemon: Connection, chosen: messages.Select) -> str:
    try:
        answer = daemon.request(
            lambda number: messages.Remove(id=number, select=chosen), messages.Removed
        )
    except UserError as error:
        return str(error)
    removed = f"{count_text(len(answer.probes), 'probe')} removed"
    return "; ".join([removed, *answer.stays.values()])


class _Keys:
    """The terminal gives keys as they are pressed."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._before = termios.tcgetattr(descriptor)

    def take(self) -> None:
        """Have each key as it is pressed, Ctrl-Z included."""
        tty.setcbreak(self._descriptor)
        now = termios.tcgetattr(self._descriptor)
        now[6][termios.VSUSP] = b"\0"
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, now)

    def give_back(self) -> None:
        """The terminal is as it was."""
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)

    def read(self, seconds: float) -> list[str]:
        """What is pressed in so many seconds at most."""
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return []
        data = os.read(self._descriptor, 1024)
        return split_keys(data) if data else ["q"]  # The terminal is gone.

    def suspend(self) -> None:
        """Stop, as at Ctrl-Z elsewhere, until the shell lets us go on."""
        self.give_back()
        os.kill(0, signal.SIGTSTP)
        self.take()


@contextmanager
def _keys() -> Iterator[_Keys]:
    """Keys, until Ctrl-C; whatever ends us, the terminal is given back."""

    def end(*_: object) -> NoReturn:
        raise SystemExit(128 + signal.SIGTERM)

    keys = _Keys(sys.stdin.fileno())
    before = signal.signal(signal.SIGTERM, end)
    try:
        keys.take()
        yield keys
    except KeyboardInterrupt:
        pass
    finally:
        keys.give_back()
        signal.signal(signal.SIGTERM, before)


def split_keys(data: bytes) -> list[str]:
    """What a terminal sent, as keys."""
    keys = []
    while data:
        length = 3 if data[:3] in _ESCAPES else 1
        head, data = data[:length], data[length:]
        keys.append(_ESCAPES.get(head) or head.decode("ascii", errors="replace"))
    return keys
