"""What `dprobe trace` does: sessions of a daemon, and reading what they wrote."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from dprobe.lib.connection import Connection
from dprobe.lib.errors import DprobeError, UserError, os_error_text
from dprobe.view.output import complain
from dprobe.view.tables import show
from dprobed.printable import printable
from dprobed.record.text import record_text
from dprobed.trace import choose, lines, stat
from dprobed.trace.reader import Recording, TraceError, merged, open_all
from dprobed.trace.rewrite import write_ctf
from dprobed.wire import messages

_COLUMNS = (
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
)
_NONE = "no trace session is there"
_LINES = 4096


def start(
    daemon: Connection,
    folder: Path | None,
    form: str,
    *,
    name: str | None,
    everything: bool,
    flight: int | None,
    max_size: int | None,
    max_age: float | None,
    rotate_size: int | None,
    rotate_age: float | None,
    namespace: str,
    json: bool,
) -> None:
    """Begin a session."""
    where = None
    if folder is not None:
        try:
            where = str(folder.absolute())
            where.encode()
        except (OSError, UnicodeEncodeError):
            raise UserError(f"{folder}: a folder must have a name of UTF-8") from None
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
    show(answer.traces, _COLUMNS, json=json, empty=_NONE)


def stop(daemon: Connection, name: str, *, json: bool) -> None:
    """End a session, and show its last numbers."""
    answer = daemon.request(
        lambda number: messages.TraceStop(id=number, name=name), messages.TraceListing
    )
    show(answer.traces, _COLUMNS, json=json, empty=_NONE)


def save(daemon: Connection, name: str, *, json: bool) -> None:
    """Have a flight recorder written."""
    answer = daemon.request(
        lambda number: messages.TraceSave(id=number, name=name), messages.TraceSaved
    )
    rows = [{"session": name, "records": answer.records}]
    columns = (("session", "session"), ("records", "records"))
    show(rows, columns, json=json, empty=_NONE)


def list_(daemon: Connection, *, json: bool) -> None:
    """All sessions."""
    answer = daemon.request(lambda number: messages.TraceList(id=number), messages.TraceListing)
    show(answer.traces, _COLUMNS, json=json, empty=_NONE)


def _chosen(
    path: Path, conditions: Sequence[str]
) -> tuple[list[Recording], Iterator[messages.Record]]:
    """The chunks of a trace, and their records that are meant; raises UserError."""
    try:
        test = choose.all_of(conditions)
        chunks = open_all(path)
    except (choose.ConditionError, TraceError) as error:
        raise UserError(str(error)) from None

    def records() -> Iterator[messages.Record]:
        try:
            yield from filter(test, merged(chunks)) if conditions else merged(chunks)
        except TraceError as error:
            raise DprobeError(str(error)) from None

    return chunks, records()


def _warn(chunks: Sequence[Recording]) -> None:
    for path in (path for chunk in chunks for path in chunk.cut):
        complain(f"{path}: the end is cut off; read up to there")
    lost = sum(chunk.discarded for chunk in chunks)
    if lost:
        complain(f"{lost} records were dropped when the trace was written")


def show_records(path: Path, conditions: Sequence[str], form: str, count: int | None) -> int:
    """Print records."""
    chunks, records = _chosen(path, conditions)
    out = sys.stdout
    for record in itertools.islice(records, count):
        if form == "json":
            out.write(messages.encode(record).decode())
        else:
            out.write(record_text(record) + "\n")
    _warn(chunks)
    return 0


def statistics(
    path: Path,
    conditions: Sequence[str],
    *,
    of: str | None,
    by: str,
    count: int | None,
    json: bool,
) -> int:
    """Count, and draw."""
    chunks, records = _chosen(path, conditions)
    groups = stat.groups(records, by, of)[:count]
    rows = [
        {
            "key": group.key,
            "records": group.count,
            "rate": round(group.rate, 1),
            "numbers": group.numbers,
            "least": group.least,
            "average": round(group.total / group.numbers, 1) if group.numbers else 0,
            "most": group.most,
            "buckets": {stat.bucket_name(each): n for each, n in sorted(group.buckets.items())},
        }
        for group in groups
    ]
    columns = [(by, "key"), ("records", "records"), ("records/s", "rate")]
    if of is not None:
        columns += [(of, "numbers"), ("least", "least"), ("average", "average"), ("most", "most")]
    show(rows, columns, json=json, empty="there are no such records")
    if not json and of is not None:
        for group in groups:
            if group.numbers:
                print(f"\n{printable(of)} of {printable(group.key)}:")
                print("\n".join(stat.histogram(group)))
    _warn(chunks)
    return 0


def convert(path: Path, conditions: Sequence[str], form: str, target: Path) -> int:
    """Write a trace anew."""
    chunks, records = _chosen(path, conditions)
    try:
        if form == "ctf":
            offsets = [offset for chunk in chunks if (offset := chunk.offset_ns) is not None]
            write_ctf(lambda: _chosen(path, conditions)[1], target, offsets[0] if offsets else None)
        else:
            _write_lines(records, target, lines.FORMATS[form])
    except OSError as error:
        raise DprobeError(f"{target}: {os_error_text(error)}") from None
    _warn(chunks)
    return 0


def _write_lines(records: Iterator[messages.Record], path: Path, form: lines.Format) -> None:
    with path.open("xb") as file:
        file.write(form.begin)
        first = True
        while batch := list(itertools.islice(records, _LINES)):
            data = form.lines([msgspec.json.encode(record) for record in batch])
            file.write(data[1:] if first and form.end else data)
            first = False
        file.write(form.end)
