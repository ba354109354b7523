"""Where records and the summary are written, and what they look like.

After a failed write (full disk, broken pipe) one line says so and nothing more is written; the
processes with probes are never affected.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, BinaryIO, Final

import msgspec

from dprobe.lib import quiet
from dprobe.lib.errors import UserError, os_error_text
from dprobe.lib.summary import (
    Summary,
    SummaryVariable,
    dumps_text,
    not_counted,
    plain,
    unwound_text,
)
from dprobe.view import tables
from dprobe.view.maps import map_lines
from dprobed.printable import LAYOUT, located, printable
from dprobed.proc import far
from dprobed.record.record import published
from dprobed.record.text import record_text
from dprobed.wire import messages

if TYPE_CHECKING:
    from dprobe.lib.stacks import StackNames
    from dprobe.lib.symbolize import Addresses

#: In each record with an address that can be named.
_POINTER = b'"kind":"ptr"'
#: The same for stacks.
_STACK = b'"ustack":['


def complain(text: str) -> None:
    """Write a line for the user to standard error; a closed standard error is no error."""
    with contextlib.suppress(OSError):
        said = tables.between_words(f"dprobe: {printable(text, LAYOUT)}", tables.width_of(2))
        write_all(2, f"{said}\n".encode(errors="replace"))


def note(text: str) -> None:
    """Write a line that tells of nothing wrong; not where the user asked for quiet."""
    if not quiet.quiet:
        complain(text)


def write_all(descriptor: int, data: bytes) -> None:
    """Write everything; raises OSError. The descriptor may be non-blocking: it is shared."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


class OutputFile:
    """Where what is shown goes: the file ``path``, or an open descriptor (``-``: standard output).

    After a failed write a line says so, and that ``no_more`` comes: nothing is written from then
    on. Raises UserError when the file cannot be made.
    """

    def __init__(self, path: str | None, descriptor: int, no_more: str) -> None:
        self.broken = False
        #: The exit status of who could not write: that of SIGPIPE where nobody reads any more.
        self.status = 0
        #: -1: the file is open in another process.
        self.descriptor = 1 if path == "-" else descriptor
        self._no_more: Final = no_more
        self._file: BinaryIO | None = None
        names = {1: "standard output", 2: "standard error"}
        self._name = names.get(self.descriptor, "output")
        if path is not None and path != "-":
            self._name = path
            try:
                self._file = far.open_writing(path)
            except OSError as error:
                raise UserError(f"{path}: {os_error_text(error)}") from None
            self.descriptor = -1
            with contextlib.suppress(io.UnsupportedOperation):  # no file of this process's
                self.descriptor = self._file.fileno()

    def write(self, data: bytes) -> None:
        """Write all of it, if nothing has failed yet."""
        if self.broken:
            return
        try:
            if self._file is not None and self.descriptor < 0:
                self._file.write(data)
            else:
                write_all(self.descriptor, data)
        except OSError as error:
            self.broken = True
            self.status = 141 if isinstance(error, BrokenPipeError) else 1
            if not isinstance(error, BrokenPipeError):
                complain(f"{self._name}: {os_error_text(error)}; {self._no_more}")

    def close(self) -> None:
        """Close a file of our own; a disk that is full only then says so."""
        file, self._file = self._file, None
        try:
            if file is not None:
                file.close()
        except OSError as error:
            self.broken = True
            self.status = 1
            complain(f"{self._name}: {os_error_text(error)}")


class Output:
    """Records and the summary, as ``text`` or ``json``, to a file or an open descriptor.

    ``live``: the processes may be there, and addresses in records can be named. ``summary``:
    the descriptor for the summary where it is text; None: it goes where records go. ``holds``:
    whether addresses in a record still mean what they meant when it was made. ``stamp``: how the
    time of a record is written as text; None: as it is.
    Raises UserError when the file cannot be made. Lines are held back until ``flush``.
    """

    def __init__(
        self,
        form: str,
        path: str | None,
        descriptor: int,
        summary: int | None = None,
        *,
        live: bool = False,
        holds: Callable[[messages.Record], bool] = lambda record: True,
        stamp: Callable[[messages.Record], str] | None = None,
    ) -> None:
        self._form = form
        self._live = live
        self._addresses: Addresses | None = None
        self._stacks: StackNames | None = None
        #: Where the summary goes as text, if not to where records go.
        self._apart = summary if form == "text" else None
        #: What was counted, until it is written.
        self._unwritten: Summary | None = None
        self._sink: Final = OutputFile(path, descriptor, "no further records are written")
        self._lines: list[bytes] = []
        self._decode = msgspec.json.Decoder(messages.Record).decode
        self._holds: Final = holds
        self._stamp: Final = stamp
        #: When more is to be written though nothing came, and whether no more is wanted: never.
        self.next_time: float | None = None
        self.ended = False

    @property
    def broken(self) -> bool:
        """Whether something could not be written."""
        return self._sink.broken

    @property
    def status(self) -> int:
        """The exit status for that; 0 where all was written."""
        return self._sink.status

    def record(self, line: bytes) -> None:
        """A record, as the daemon's line."""
        if self.broken:
            return
        record = None
        if _POINTER in line and self._live:
            record = self._decode(line)
            if self._holds(record):
                self._name_places(record)
        if _STACK in line:
            record = record or self._decode(line)
            self._name_frames(record)
        if self._form == "json":
            line = line if record is None else msgspec.json.encode(record)
            self._lines.append(published(line))
        else:
            record = record or self._decode(line)
            self._lines.append(record_text(record, self._stamp).encode(errors="replace"))

    def line(self, text: str) -> None:
        """A line of another kind."""
        self._lines.append(text.encode(errors="replace"))

    def _name_places(self, record: messages.Record) -> None:
        """Say what is at the addresses that a record logged."""
        if self._addresses is None:
            # Imported where it is needed: it reads ELF files.
            from dprobe.lib.symbolize import Addresses

            self._addresses = Addresses()
        self._addresses.name_places(record)

    def _name_frames(self, record: messages.Record) -> None:
        """Say what is at the frames of the stacks that a record logged."""
        if self._stacks is None:
            from dprobe.lib.stacks import StackNames

            self._stacks = StackNames()
        self._stacks.name_frames(record.log, record.pid)

    def flush(self) -> None:
        """Write what has come so far."""
        if not self._lines or self.broken:
            self._lines.clear()
            return
        self._lines.append(b"")
        data = b"\n".join(self._lines)
        self._lines.clear()
        self._sink.write(data)

    def summary(self, summary: Summary) -> None:
        """The last line, or the table at the end; where it cannot be written, on standard error:
        what was counted is nowhere else."""
        if self._form == "json":
            fields = msgspec.to_builtins(msgspec.structs.replace(summary, maps=[]))
            del fields["maps"]
            if summary.maps:
                fields["maps"] = [plain(each) for each in summary.maps]
            self._lines.append(tables.encoded("summary", fields).encode())
        else:
            where = self._sink.descriptor if self._apart is None else self._apart
            text = summary_text(summary, tables.width_of(where)).encode(errors="replace")
            if self._apart is not None:
                self.flush()
                with contextlib.suppress(OSError):
                    write_all(self._apart, text + b"\n")
                return
            self._lines.append(text)
        for each in summary.probes:
            if each.slower:
                name = f"{each.program} {each.major}.{each.minor} {each.place}"
                quiet.detail(f"{name}: by {each.engine or 'no engine'}: {each.slower}")
        self._unwritten = summary
        self.flush()
        if self.broken:
            self._rescue()

    def _rescue(self) -> None:
        """Write what was counted to standard error, where a file has no room for it."""
        if self._unwritten is not None and self._sink.descriptor != 2 and self.status == 1:
            text = summary_text(self._unwritten, tables.width_of(2)).encode(errors="replace")
            with contextlib.suppress(OSError):
                write_all(2, text + b"\n")
        self._unwritten = None

    def close(self) -> None:
        """Close a file of our own; a disk that is full only then says so."""
        was_broken = self.broken
        self._sink.close()
        if self.broken and not was_broken:
            self._rescue()


_COLUMNS = tuple(
    (name, name)
    for name in ("program", "probe", "place", "state", "hits", "ran", "missed", "dropped", "engine")
)


def variable_lines(variables: Sequence[SummaryVariable], width: int | None) -> list[str]:
    """``program: calls = 3, bytes = 4096``; of those without names only what is not 0."""
    texts: dict[str, list[str]] = {}
    for each in variables:
        if not each.name.isdecimal():
            texts.setdefault(each.program, []).append(f"{each.name} = {each.value}")
        elif each.value:
            texts.setdefault(each.program, []).append(f"lv,{each.name} = {each.value}")
    lines = []
    for program, values in texts.items():
        text = f"{program}: {', '.join(values)}"
        lines += [text] if width is None else textwrap.wrap(text, width, break_long_words=False)
    return lines


def summary_text(summary: Summary, width: int | None = None) -> str:
    """The summary as a table, with the reason of every state that has one, what became of dumps,
    and the overhead."""
    rows = [
        {**msgspec.structs.asdict(probe), "probe": f"{probe.major}.{probe.minor}"}
        for probe in summary.probes
    ]
    lines = tables.lines(rows, _COLUMNS, width)
    for probe in summary.probes:
        if probe.reason:
            name = f"{probe.program} {probe.major}.{probe.minor} {probe.place}"
            lines.append(located(probe.source, f"{name}: {probe.state}: {probe.reason}"))
        for text in (
            not_counted(probe.asleep_ns, probe.present_ns),
            dumps_text(probe.dumped, probe.no_dumps),
            unwound_text(probe.unwound),
        ):
            if text:
                lines.append(f"{probe.program} {probe.major}.{probe.minor} {probe.place}: {text}")
    lines += variable_lines(summary.variables, width)
    lines += map_lines(summary.maps, width)
    through = f", through {summary.daemon}" if summary.daemon else ""
    lines.append(f"time spent in probes: {summary.overhead_ns / 1e9:.6f} s{through}")
    return printable("\n".join(lines), "\n")
