"""``dprobe maps``: what programs keep in their maps."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, Literal, Self

import click

from dprobe.commands import complete, options
from dprobe.commands import pids as processes
from dprobe.view import maps as view
from dprobe.view.folded import drawn, folded_lines
from dprobe.view.tables import encoded, width_of
from dprobed.wire import messages

if TYPE_CHECKING:
    from dprobe.lib.connection import Connection
    from dprobe.lib.summary import SummaryMap

Reset = Literal["", "clear", "zero"]
#: The formats that are files of one graph.
_GRAPHS: Final = ("svg", "html")


@click.command(
    "maps",
    cls=processes.PidsCommand,
    epilog="""\b
examples:
  dprobe maps                       # all maps, over all processes
  dprobe maps sizes --every 1s --clear
  dprobe maps calls --top 10 --by-process
  dprobe maps start -p 1234 --json
  dprobe maps bytes --format html > bytes.html
""",
)
@processes.only
@click.option("--by-process", is_flag=True, help="Each process by itself; else all together.")
@click.option(
    "--every",
    type=options.Duration(0.1, 86_400),
    metavar="TIME",
    help="Again and again after this time (1s, 500ms), until Ctrl-C.",
)
@click.option(
    "--top",
    type=click.IntRange(1),
    metavar="N",
    help=f"Only the N largest keys of a map (default: {view.TOP}; in graphs all).",
)
@click.option("--clear", is_flag=True, help="Forget all keys once they are shown.")
@click.option("--zero", is_flag=True, help="Set every key to 0 once it is shown.")
@options.formats(
    "folded", "svg", "html", also=", stacks a line each (folded), or a flame graph (svg, html)"
)
@click.argument("name", required=False, shell_complete=complete.maps)
@click.pass_context
def maps_command(
    ctx: click.Context,
    name: str | None,
    pids: tuple[int, ...],
    by_process: bool,
    every: float | None,
    top: int | None,
    clear: bool,
    zero: bool,
    form: str,
) -> None:
    """Show the maps of programs, or those of one NAME, while they go on.

    A program's processes are added up, ended ones included; a map of values is always shown by
    process. The largest key comes last. No process is stopped for it; with --clear, what is counted
    between two looks is in the second one, and only there.
    """
    if clear and zero:
        raise click.UsageError("--clear and --zero exclude each other", ctx)
    if form in _GRAPHS and every is not None:
        raise click.UsageError(f"--format {form} is one graph: it has no --every", ctx)
    reset: Reset = "clear" if clear else "zero" if zero else ""
    with options.running(ctx.obj) as daemon, _Rounds(every) as rounds:
        for now in rounds:
            found = _read(daemon, name, pids, by_process=by_process, reset=reset)
            if every is not None and form == "text":
                print(time.strftime("%H:%M:%S", time.localtime(now)))
            _show(found, top, by_process=by_process or bool(pids), form=form)
            if every is not None and form == "text":
                print()
            sys.stdout.flush()


class _Rounds:
    """The times at which to look: once, or every so many seconds until Ctrl-C.

    What a look has taken with --clear is nowhere else: Ctrl-C ends us when it has been shown. A
    second one ends us at once.
    """

    def __init__(self, every: float | None) -> None:
        self._every = every
        self._before = signal.getsignal(signal.SIGINT)
        self._is_waiting = False
        self._is_over = False

    def __enter__(self) -> Self:
        if self._every is not None and self._before != signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def __iter__(self) -> Iterator[float]:
        yield (now := time.time())
        while self._every is not None:
            with contextlib.suppress(KeyboardInterrupt):  # as everything that goes on until then
                self._wait(max(0.0, self._every - math.fmod(time.time() - now, self._every)))
            if self._is_over:
                return
            yield (now := time.time())

    def _wait(self, seconds: float) -> None:
        self._is_waiting = True
        if not self._is_over:
            time.sleep(seconds)
        self._is_waiting = False

    def _interrupted(self, *_: object) -> None:
        again, self._is_over = self._is_over, True
        if again or self._is_waiting:
            raise KeyboardInterrupt


def _read(
    daemon: Connection, name: str | None, pids: Sequence[int], *, by_process: bool, reset: Reset
) -> list[SummaryMap]:
    from dprobe.lib.summary import of_programs, shown

    answers = [
        daemon.request(
            lambda number, pid=pid: messages.Maps(  # type: ignore[misc]
                id=number,
                select=messages.Select(pid=pid),
                name=name,
                by_process=by_process or pid is not None,
                reset=reset,
            ),
            messages.MapListing,
        )
        for pid in pids or (None,)
    ]
    for silent in dict.fromkeys(pid for answer in answers for pid in answer.silent):
        options.complain(
            f"process {silent}: its tracer does not answer; what it has in maps is left out"
        )
    infos = [each for answer in answers for each in answer.maps]
    return [shown(each) for each in infos] if by_process else of_programs(infos)


def _show(found: Sequence[SummaryMap], top: int | None, *, by_process: bool, form: str) -> None:
    from dprobe.lib import quiet
    from dprobe.lib.summary import plain

    most = top or view.TOP
    if form == "json":
        for each in found:
            print(encoded("map", plain(each, most)))
    elif form in _GRAPHS:
        print(drawn(found, top, page=form == "html"), end="")
    elif form == "folded":
        for line in list(folded_lines(found, top)):
            print(line)
    elif found:
        print("\n".join(view.map_lines(found, width_of(1), top=most, by_process=by_process)))
    elif not quiet.quiet:
        print("no program with maps is in a process", file=sys.stderr)
