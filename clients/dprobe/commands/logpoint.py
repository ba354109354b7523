"""``dprobe logpoint``: a line with values whenever a place is passed, for a while."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from dprobe.commands import complete, options
from dprobe.commands import pids as processes
from dprobe.commands.budget import BudgetType, chosen
from dprobed.durations import text

if TYPE_CHECKING:
    from dprobe.lib.script.source import Script
    from dprobed.wire.limits import Limits

_HOUR: Final = 3600.0
_MOST: Final = (1 << 31) - 1


class _Rate(click.ParamType):  # type: ignore[type-arg]
    """So many a second: ``100/s``, or the number alone."""

    name = "rate"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """The number (click)."""
        found = re.fullmatch(r"([0-9]{1,9})(?:/s)?", str(value))
        if found is None or not int(found[1]):
            self.fail(f"{value} is no rate; write it like 100/s", param, ctx)
        return int(found[1])


redact = click.option(
    "--redact",
    "redacted",
    multiple=True,
    metavar="GLOB",
    help="Names of variables and members whose values are not shown, besides *passw*, *secret*, "
    "*token*, *credential*, *private*key*, *api*key* and those of the configuration.",
)
condition = click.option(
    "--if", "condition", metavar="EXPR", help="Only where this holds (of the script language)."
)
default_budget = click.option(
    "--budget",
    type=BudgetType(),
    metavar="5%,1000/s",
    default="10000/s",
    show_default=True,
    help="What it may cost a process: a share of its time, hits a second, or both. Over that it "
    "sleeps for a while.",
)


@click.command(
    "logpoint",
    epilog="""\b
examples:
  dprobe logpoint 1234 server.c:120 'n={n} path={req->path}'
  dprobe logpoint nginx ngx_http_process_request 'from {caller}' --hits 10
  dprobe logpoint 1234 server.c:120 'n={n}' --if 'n > 8' --for 1h --rate 100/s
""",
)
@condition
@click.option(
    "--for",
    "seconds",
    type=options.Duration(),
    metavar="TIME",
    default=_HOUR,
    show_default="1h",
    help="End after this time (30s, 10m, 2h).",
)
@click.option("--hits", type=click.IntRange(1, _MOST), metavar="N", help="End after N lines.")
@click.option(
    "--rate",
    type=_Rate(),
    metavar="N/s",
    default="100/s",
    show_default=True,
    help="At most so many lines a second of each process; how many more there were is said at "
    "the end.",
)
@redact
@default_budget
@options.engine
@options.format_
@options.output("standard output")
@options.private
@click.argument("pids", metavar="TARGET", type=processes.Processes())
@click.argument("place", shell_complete=complete.functions)
@click.argument("message")
@click.pass_obj
def logpoint_command(
    socket: Path | None,
    condition: str | None,
    seconds: float,
    hits: int | None,
    rate: int,
    redacted: tuple[str, ...],
    budget: Limits | None,
    engine: str,
    form: str,
    path: str | None,
    private: bool,
    pids: tuple[int, ...],
    place: str,
    message: str,
) -> int:
    """Show MESSAGE whenever TARGET (a process, or the name of some) passes PLACE.

    PLACE is a place of the script language: FILE:LINE, a function, FUNCTION:return,
    usdt:PROVIDER:NAME. What stands between braces in MESSAGE is an expression of that language: a
    variable or argument by its name where there is debug information, else arg0, reg("ax"), caller
    and their like; {{ is a brace.

    It ends after --for, after --hits lines, at Ctrl-C, or with the processes. `dprobe programs`
    lists it with its owner, the daemon's log tells who put it where.
    """
    from dprobe.commands.scripts import ScriptOptions, attach_script
    from dprobe.lib.programs import Choice
    from dprobe.lib.snapshot.limits import configured

    how = ScriptOptions(
        Choice(budget=chosen(budget, None), engine=engine, seconds=seconds),
        form=form,
        path=path,
        private=private,
        what=f"logpoint at {place}",
        until=f"{text(seconds)} are over" + (f" or {hits} lines shown" if hits else ""),
        dated=True,
        most_logs=hits or 0,
    )
    hidden = (*configured().redact, *redacted)
    script = script_of(place, message, condition, rate, hits, hidden)
    return attach_script(socket, script, pids, how)


def script_of(
    place: str,
    message: str,
    condition: str | None,
    rate: int,
    hits: int | None,
    redacted: tuple[str, ...],
) -> Script:
    """The script that a logpoint is."""
    from dprobe.lib.script.source import Script

    quoted = message.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    ends = f"@shown++; if (@shown >= {hits}) {{ rem(); }}" if hits else ""
    lines = [
        "config = { print_maps_on_exit=0 }",
        place,
        *([f"/{condition}/"] if condition else []),
        "{",
        "  if (nsecs - @since >= 1000000000) { @since = nsecs; @second = 0; }",
        f"  if (@second >= {rate}) {{ @more = count(); return; }}",
        "  @second++;",
        f'log("{quoted}");',
        f"  {ends}",
        "}",
        'end { if ((int64)@more > 0) { log("{(int64)@more} more, '
        f'over the rate of {rate}/s"); }} }}',
    ]
    return Script("\n".join(lines), "logpoint", redacted=redacted, label=f"logpoint:{place}")
