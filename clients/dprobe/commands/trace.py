"""`dprobe trace`: sessions of the daemon, and what they wrote, on the command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from dprobe.commands import options

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class _Quantity(click.ParamType[float | int]):
    """A number with a unit."""

    def __init__(self, name: str, units: dict[str, int], example: str) -> None:
        self.name = name
        self._units = units
        self._example = example

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | int:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([a-z]?)b?", str(value).strip().lower())
        if match is None or match[2] not in self._units or float(match[1]) <= 0:
            self.fail(f"{value} is no {self.name}; write it like {self._example}", param, ctx)
        number = float(match[1]) * self._units[match[2]]
        return number if self._units is _SECONDS else max(1, int(number))


_SIZE = _Quantity("size", _UNITS, "64M")
_AGE = _Quantity("duration", _SECONDS, "10m")

_source = click.argument("trace", metavar="TRACE", type=click.Path(path_type=Path))
_where = click.option(
    "-w", "--where", "conditions", multiple=True, metavar="CONDITION", help="pid=12, word_0>=100…"
)


@click.group("trace", no_args_is_help=True)
def trace_command() -> None:
    """Write records to files or to the journal, and read them again.

    `start`, `stop`, `save` and `list` are about sessions of a running dprobed. `show`, `stat` and
    `convert` read what they wrote: a folder of CTF (also while it is written), or JSON lines.
    """


@trace_command.command(
    "start",
    epilog="""\b
examples:
  dprobe trace start /var/tmp/t                    # CTF: babeltrace2 /var/tmp/t
  dprobe trace start --all --max-size 100M --max-age 2d ./t
  dprobe trace start --flight 16M ./crash          # written on `exit dump`, or by `save`
  dprobe trace start --format journal
""",
)
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--name", help="The session's name; default: that of the folder.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["ctf", "json", "text", "chrome", "journal"]),
    default="ctf",
    show_default=True,
    help="Chrome's JSON is for Perfetto as well; the journal needs no folder.",
)
@click.option("--all", "everything", is_flag=True, help="All records, not only of `exit trace`.")
@click.option("--flight", type=_SIZE, help="Keep the last SIZE in memory; write when asked for.")
@click.option("--max-size", type=_SIZE, help="Remove the oldest chunks beyond this.")
@click.option("--max-age", type=_AGE, help="Remove chunks older than this.")
@click.option("--rotate-size", type=_SIZE, help="Begin a new chunk after this; default: an eighth.")
@click.option("--rotate-age", type=_AGE, help="Begin a new chunk after this; default: an eighth.")
@click.option("--namespace", default="", help="The journal's namespace.")
@options.json
@click.pass_context
def start_command(ctx: click.Context, /, folder: Path | None, form: str, **options_: Any) -> None:
    """Begin to write records into FOLDER, until `dprobe trace stop`."""
    if (folder is None) != (form == "journal"):
        raise click.UsageError("give a folder, or --format journal, which needs none", ctx)
    from dprobe.lib import manage, traces

    with manage.connect(ctx.obj) as daemon:
        traces.start(daemon, folder, form, **options_)


def _session(name: str, help_: str) -> Any:
    """`stop` and `save`, which differ in what they ask for."""

    @click.argument("session")
    @options.json
    @click.pass_obj
    def command(socket: Path | None, session: str, json: bool) -> None:
        from dprobe.lib import manage, traces

        with manage.connect(socket) as daemon:
            getattr(traces, name)(daemon, session, json=json)

    return trace_command.command(name, help=help_)(command)


_session("stop", "End a session; what it still has is written.")
_session("save", "Write what a flight recorder has in memory, as a chunk of its own.")


@trace_command.command("list")
@options.json
@click.pass_obj
def list_command(socket: Path | None, json: bool) -> None:
    """List the sessions: what came, what was written and dropped, what is wrong."""
    from dprobe.lib import manage, traces

    with manage.connect(socket) as daemon:
        traces.list_(daemon, json=json)


@trace_command.command(
    "show",
    epilog="""\b
examples:
  dprobe trace show /var/tmp/t -w comm=sort -w 'word_0>=4096'
  dprobe trace show /var/tmp/t --format json -w 'string_0=*.so'
""",
)
@_source
@_where
@options.format_
@click.option("-n", "count", type=click.IntRange(min=1), help="Only the first N.")
def show_command(trace: Path, conditions: tuple[str, ...], form: str, count: int | None) -> int:
    """Print records, all or those for which every CONDITION holds."""
    from dprobe.lib import traces

    return traces.show_records(trace, conditions, form, count)


@trace_command.command(
    "stat",
    epilog="""\b
examples:
  dprobe trace stat /var/tmp/t                     # how many, how fast, by probe
  dprobe trace stat /var/tmp/t --of word_0         # and how the first word is distributed
  dprobe trace stat /var/tmp/t --of word_1 --by string_0
""",
)
@_source
@_where
@click.option("--of", help="The number to draw: word_0, hit, fault_0…")
@click.option(
    "--by",
    default="probe",
    show_default=True,
    help="probe, process, or a field: program, comm, tid, string_0, word_0…",
)
@click.option("-n", "count", type=click.IntRange(min=1), help="Only the N largest groups.")
@options.json
def stat_command(trace: Path, conditions: tuple[str, ...], **rest: Any) -> int:
    """Count records, and draw a histogram of a number that they logged."""
    from dprobe.lib import traces

    return traces.statistics(trace, conditions, **rest)


@trace_command.command(
    "convert",
    epilog="""\b
examples:
  dprobe trace convert /var/tmp/t --format chrome -o t.json    # ui.perfetto.dev
  dprobe trace convert /var/tmp/t --format ctf -o /var/tmp/one # one trace, without what is cut
""",
)
@_source
@_where
@click.option(
    "--format",
    "form",
    type=click.Choice(["ctf", "json", "text", "chrome"]),
    required=True,
    help="What to make of it.",
)
@click.option(
    "-o", "path", type=click.Path(path_type=Path), required=True, help="A new file (CTF: folder)."
)
def convert_command(trace: Path, conditions: tuple[str, ...], form: str, path: Path) -> int:
    """Write a trace anew, in another format, or only a part of it."""
    from dprobe.lib import traces

    return traces.convert(trace, conditions, form, path)
