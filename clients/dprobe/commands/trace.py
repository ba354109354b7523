"""``dprobe trace``: trace sessions of the daemon, and reading what they wrote."""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec

from dprobe.commands import complete, options
from dprobe.commands.group import CommandGroup
from dprobe.lib.errors import DprobeError, UserError, os_error_text
from dprobe.lib.still import holds, is_of_this_boot
from dprobe.view.output import complain, note
from dprobe.view.tables import Listing, show
from dprobed.printable import printable, readable
from dprobed.proc import far
from dprobed.record.record import published
from dprobed.record.text import record_text
from dprobed.trace import choose, lines, stat
from dprobed.trace.reader import Recording, TraceReadError, merged, open_all
from dprobed.trace.rewrite import write_ctf
from dprobed.wire import messages

_LISTING = Listing(
    "trace",
    (
        ("session", "name"),
        ("format", "format"),
        ("records", "records"),
        ("written", "written"),
        ("held", "held"),
        ("dropped", "dropped"),
        ("bytes", "bytes"),
        ("chunks", "chunks"),
        ("folder", "folder"),
        ("problem", "problem"),
    ),
    messages.TraceInfo.__struct_fields__,
)
_SAVED = Listing("saved", (("session", "session"), ("records", "records")))
#: A trace of JSON lines that comes through a pipe.
_STDIN = Path("/dev/stdin")
_NONE = "there is no trace session"
_LINES = 4096
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class _Size(click.ParamType[int]):
    """A number of bytes, with a unit (click)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([a-z]?)b?", str(value).strip().lower())
        if match is None or match[2] not in _UNITS or float(match[1]) <= 0:
            self.fail(f"{value} is no size; write it like 64M", param, ctx)
        return max(1, int(float(match[1]) * _UNITS[match[2]]))


_SIZE = _Size()
_AGE = options.Duration()

_source = click.argument("trace", metavar="TRACE", type=options.FilePath(path_type=Path))
_where = click.option(
    "-w", "--where", "conditions", multiple=True, metavar="CONDITION", help="pid=12, word_0>=100…"
)


@click.group(
    "trace",
    cls=CommandGroup,
    no_args_is_help=True,
    epilog="""\b
examples:
  dprobe trace start /var/tmp/t    # then: list, stop
  dprobe trace show /var/tmp/t
""",
)
def trace_command() -> None:
    """Write records to files or to the journal, and read them again.

    `start`, `stop`, `save` and `list` are about sessions of a running dprobed. `show`, `stat` and
    `convert` read what they wrote: a folder of CTF (also while it is written), or JSON lines (- is
    standard input).
    """


@trace_command.command(
    "start",
    epilog="""\b
examples:
  dprobe trace start /var/tmp/t            # CTF: babeltrace2 /var/tmp/t
  dprobe trace start --all --max-size 100M --max-age 2d ./t
  dprobe trace start --flight 16M ./crash  # written on `exit dump` or `save`
  dprobe trace start --format journal
""",
)
@click.argument("folder", required=False, type=options.FilePath(path_type=Path))
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
@click.option("--json", is_flag=True, help="What is shown now, as JSON.")
@click.pass_context
def start_command(
    ctx: click.Context,
    folder: Path | None,
    name: str | None,
    form: str,
    everything: bool,
    flight: int | None,
    max_size: int | None,
    max_age: float | None,
    rotate_size: int | None,
    rotate_age: float | None,
    namespace: str,
    json: bool,
) -> None:
    """Begin to write records into FOLDER, until `dprobe trace stop`."""
    if (folder is None) != (form == "journal"):
        raise click.UsageError("give a folder, or --format journal, which needs none", ctx)
    where = None
    if folder is not None:
        try:
            where = str(folder.absolute())
            where.encode()
        except (OSError, UnicodeEncodeError):
            shown = readable(folder)
            raise UserError(f"{shown}: the name of a folder must be UTF-8") from None
    with options.running(ctx.obj) as daemon:
        answer = daemon.request(
            lambda number: messages.TraceStart(
                id=number,
                name=name or (folder.absolute().name if folder is not None else form),
                folder=where,
                format=form,  # type: ignore[arg-type]  # click checked it
                everything=everything,
                flight_bytes=flight,
                max_bytes=max_size,
                max_seconds=max_age,
                rotate_bytes=rotate_size,
                rotate_seconds=rotate_age,
                namespace=namespace,
            ),
            messages.TraceListing,
        )
    show(answer.traces, _LISTING, json=json, empty=_NONE)


@trace_command.command(
    "stop", short_help="End a session.", epilog="\b\nexample:\n  dprobe trace stop t\n"
)
@click.argument("session", shell_complete=complete.sessions)
@options.json
@click.pass_obj
def stop_command(socket: Path | None, session: str, json: bool) -> None:
    """End a session; what it still holds is written.

    What a flight recorder has in memory is not: `dprobe trace save` does that.
    """
    with options.running(socket) as daemon:
        answer = daemon.request(
            lambda number: messages.TraceStop(id=number, name=session), messages.TraceListing
        )
    show(answer.traces, _LISTING, json=json, empty=_NONE)
    for trace in answer.traces:
        if trace.held:
            note(f"{trace.held} records that {trace.name} still held are not written")


@trace_command.command(
    "save",
    short_help="Write what a flight recorder holds.",
    epilog="\b\nexample:\n  dprobe trace save crash\n",
)
@click.argument("session", shell_complete=complete.sessions)
@options.json
@click.pass_obj
def save_command(socket: Path | None, session: str, json: bool) -> None:
    """Write what a flight recorder has in memory, as a chunk of its own."""
    with options.running(socket) as daemon:
        answer = daemon.request(
            lambda number: messages.TraceSave(id=number, name=session), messages.TraceSaved
        )
    rows = [{"session": session, "records": answer.records}]
    show(rows, _SAVED, json=json, empty=_NONE)


@trace_command.command(
    "list", short_help="List the sessions.", epilog="\b\nexample:\n  dprobe trace list --json\n"
)
@options.listing(_LISTING)
@click.pass_obj
def list_command(socket: Path | None, json: bool, only: tuple[str, ...]) -> None:
    """List the sessions: what came, what was written and dropped, what is wrong."""
    with options.running(socket) as daemon:
        answer = daemon.request(lambda number: messages.TraceList(id=number), messages.TraceListing)
    show(answer.traces, _LISTING, json=json, empty=_NONE, only=only)


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
    chunks, records = _chosen(trace, conditions)
    out = sys.stdout
    for record in _named(chunks, itertools.islice(records, count)):
        if form == "json":
            out.write(published(messages.encode(record)).decode())
        else:
            out.write(record_text(record) + "\n")
    _warn(chunks)
    return 0


@trace_command.command(
    "stat",
    epilog="""\b
examples:
  dprobe trace stat /var/tmp/t              # how many, how fast, by probe
  dprobe trace stat /var/tmp/t --of word_0  # and how the first word is spread
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
@click.option(
    "--unit",
    type=click.Choice(list(stat.UNITS)),
    default="none",
    show_default=True,
    help="What the number counts, for the histogram.",
)
@click.option("-n", "count", type=click.IntRange(min=1), help="Only the N largest groups.")
@options.json
def stat_command(
    trace: Path,
    conditions: tuple[str, ...],
    of: str | None,
    by: str,
    unit: str,
    count: int | None,
    json: bool,
) -> int:
    """Count records, and draw a histogram of a number that they logged."""
    fields = [each for each in (of, by) if each not in (None, "probe", "process")]
    chunks, records = _chosen(trace, conditions, fields)
    groups = stat.groups(_named(chunks, records), by, of)
    if of is not None and groups and not any(group.numbers for group in groups):
        raise UserError(f"`{of}` is no number in any of these records")
    groups = groups[:count]
    rows = [
        {
            "key": group.key,
            "records": group.count,
            "rate": round(group.rate, 1),
            "numbers": group.numbers,
            "least": group.least,
            "average": round(group.total / group.numbers, 1) if group.numbers else 0,
            "p50": group.percentile(50),
            "p90": group.percentile(90),
            "p99": group.percentile(99),
            "most": group.most,
            "buckets": {stat.bucket_name(each): n for each, n in sorted(group.buckets.items())},
        }
        for group in groups
    ]
    columns = [(by, "key"), ("records", "records"), ("records/s", "rate")]
    if of is not None:
        columns += [(of, "numbers"), ("least", "least"), ("average", "average")]
        columns += [("median", "p50"), ("p90", "p90"), ("p99", "p99"), ("most", "most")]
    show(rows, Listing("group", tuple(columns)), json=json, empty="there are no such records")
    if not json and of is not None:
        for group in groups:
            if group.numbers:
                print(f"\n{printable(of)} of {printable(group.key)}:")
                print("\n".join(stat.histogram(group, unit)))
    _warn(chunks)
    return 0


@trace_command.command(
    "convert",
    epilog="""\b
examples:
  dprobe trace convert /var/tmp/t --format chrome -o t.json  # for Perfetto
  dprobe trace convert /var/tmp/t --format ctf -o /var/tmp/one
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
    "-o",
    "path",
    type=options.FilePath(path_type=Path),
    required=True,
    help="A new file (CTF: folder); - is standard output.",
)
def convert_command(trace: Path, conditions: tuple[str, ...], form: str, path: Path) -> int:
    """Write a trace anew, in another format, or only a part of it."""
    if form == "ctf" and str(trace) == "-":
        # It is read twice.
        with tempfile.NamedTemporaryFile(suffix=".jsonl") as kept:
            shutil.copyfileobj(sys.stdin.buffer, kept)
            kept.flush()
            return _convert(Path(kept.name), conditions, form, path)
    return _convert(trace, conditions, form, path)


def _convert(trace: Path, conditions: tuple[str, ...], form: str, path: Path) -> int:
    chunks, records = _chosen(trace, conditions)
    try:
        if form == "ctf":
            far.kind(str(path.absolute().parent))  # which may not answer
            offsets = [offset for chunk in chunks if (offset := chunk.offset_ns) is not None]
            write_ctf(lambda: _chosen(trace, conditions)[1], path, offsets[0] if offsets else None)
        else:
            _write_lines(_named(chunks, records), path, lines.FORMATS[form])
    except FileExistsError:
        raise UserError(f"{path} is there already; give a new name, or remove it first") from None
    except OSError as error:
        name = "standard output" if str(path) == "-" else path
        raise DprobeError(f"{name}: {os_error_text(error)}") from None
    _warn(chunks)
    return 0


def _chosen(
    path: Path, conditions: Sequence[str], fields: Sequence[str] = ()
) -> tuple[list[Recording], Iterator[messages.Record]]:
    """The chunks of a trace, and their records that are meant; raises UserError.

    So does the end of the records where none had one of the fields of the conditions, or of the
    further ``fields``.
    """
    try:
        test = choose.all_of(conditions)
        chunks = open_all(_STDIN if str(path) == "-" else path)
    except (choose.ConditionError, TraceReadError) as error:
        raise UserError(str(error)) from None

    asked = choose.Fields(conditions, fields)

    def records() -> Iterator[messages.Record]:
        try:
            for record in merged(chunks):
                asked.see(record)
                if test(record):
                    yield record
            asked.check()
        except choose.FieldError as error:
            raise UserError(str(error)) from None
        except TraceReadError as error:
            raise UserError(str(error)) from None

    return chunks, records()


def _named(
    chunks: Sequence[Recording], records: Iterator[messages.Record]
) -> Iterator[messages.Record]:
    """The records; with what is at the frames of stacks, and at their addresses, where a process is
    there and a trace is of this boot."""
    is_ours = all(is_of_this_boot(chunk.offset_ns) for chunk in chunks)
    addresses = stacks = None
    for record in records:
        if any("ustack" in item for item in record.log):
            from dprobe.lib.stacks import StackNames

            stacks = stacks or StackNames()
            stacks.name_frames(record.log, record.pid)
        has_pointer = is_ours and any(item.get("kind") == "ptr" for item in record.log)
        if has_pointer and holds(record):
            # Imported where it is needed: it reads ELF files.
            from dprobe.lib.symbolize import Addresses

            addresses = addresses or Addresses()
            addresses.name_places(record)
        yield record


def _warn(chunks: Sequence[Recording]) -> None:
    for path in (path for chunk in chunks for path in chunk.cut):
        complain(f"{path}: its end is cut off; what is before that was read")
    lost = sum(chunk.discarded for chunk in chunks)
    if lost:
        complain(f"{lost} records were dropped when the trace was written")


def _made(path: Path) -> contextlib.AbstractContextManager[BinaryIO]:
    if str(path) == "-":
        return contextlib.nullcontext(sys.stdout.buffer)
    return far.open_writing(str(path), new=True)


def _write_lines(records: Iterator[messages.Record], path: Path, form: lines.Format) -> None:
    # Before the file is made: what is asked for may not be there.
    batch = list(itertools.islice(records, _LINES))
    made = _made(path)
    try:
        with made as file:
            file.write(form.begin)
            first = True
            while batch:
                data = form.lines([msgspec.json.encode(record) for record in batch])
                file.write(data[1:] if first and form.end else data)
                first = False
                batch = list(itertools.islice(records, _LINES))
            file.write(form.end)
    except OSError:
        if str(path) != "-":
            # A part of a trace is none, and is in the way of the next try.
            far.remove(str(path))
        raise
