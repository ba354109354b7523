"""Where records and the summary are written, and what they look like.

After a failed write (full disk, broken pipe) one line says so and nothing more is written; the
processes with probes are never affected.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Callable

import msgspec

from dprobe.lib.errors import UserError, os_error_text
from dprobe.lib.summary import Summary
from dprobed.printable import LAYOUT, located, printable
from dprobed.record.text import record_text
from dprobed.wire import messages


def complain(text: str) -> None:
    """Write a line for the user to standard error; a closed standard error is no error."""
    with contextlib.suppress(OSError):
        _write_all(2, f"dprobe: {printable(text, LAYOUT)}\n".encode(errors="replace"))


def _write_all(descriptor: int, data: bytes) -> None:
    """Write everything; raises OSError. The descriptor may be non-blocking: it is shared."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


class Output:
    """Records and the summary, as ``text`` or ``json``, to a file or an open descriptor.

    Raises UserError when the file cannot be made. Lines are held back until ``flush``.
    """

    def __init__(self, form: str, path: str | None, descriptor: int) -> None:
        self._form = form
        self._name = path or {1: "standard output", 2: "standard error"}.get(descriptor, "output")
        self._own = path is not None and path != "-"
        self._descriptor = 1 if path == "-" else descriptor
        self._lines: list[bytes] = []
        self._decode = msgspec.json.Decoder(messages.Record).decode
        self.broken = False
        #: How the time of a record is written as text; None: as it is.
        self.stamp: Callable[[messages.Record], str] | None = None
        if path is not None and self._own:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            try:
                self._descriptor = os.open(path, flags, 0o666)
            except OSError as error:
                raise UserError(f"{path}: {os_error_text(error)}") from None

    def record(self, line: bytes) -> None:
        """A record, as the daemon's line."""
        if self.broken:
            return
        if self._form == "json":
            self._lines.append(line)
        else:
            self._lines.append(record_text(self._decode(line), self.stamp).encode(errors="replace"))

    def flush(self) -> None:
        """Write what has come so far."""
        if not self._lines or self.broken:
            self._lines.clear()
            return
        self._lines.append(b"")
        data = b"\n".join(self._lines)
        self._lines.clear()
        try:
            _write_all(self._descriptor, data)
        except OSError as error:
            self.broken = True
            if not isinstance(error, BrokenPipeError):
                complain(f"{self._name}: {os_error_text(error)}; no further records are written")

    def summary(self, summary: Summary) -> None:
        """The last line, or the table at the end."""
        if self._form == "json":
            self._lines.append(msgspec.json.encode(summary))
        else:
            self._lines.append(summary_text(summary).encode(errors="replace"))
        self.flush()

    def close(self) -> None:
        """Close a file of our own; a disk that is full only then says so."""
        if self._own:
            self._own = False
            try:
                os.close(self._descriptor)
            except OSError as error:
                self.broken = True
                complain(f"{self._name}: {os_error_text(error)}")


#: The first column that is a number.
_NUMBERS = 5
_COLUMNS = ("program", "probe", "place", "state", "engine", "hits", "ran", "missed", "dropped")


def summary_text(summary: Summary) -> str:
    """The summary as a table, with the reason of every state that has one, and the overhead."""
    rows = [_COLUMNS]
    for probe in summary.probes:
        counts = (probe.hits, probe.ran, probe.missed, probe.dropped)
        names = (
            probe.program,
            f"{probe.major}.{probe.minor}",
            probe.place,
            probe.state,
            probe.engine,
        )
        rows.append((*names, *map(str, counts)))  # type: ignore[arg-type]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if index >= _NUMBERS else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    for probe in summary.probes:
        if probe.reason:
            name = f"{probe.program} {probe.major}.{probe.minor} {probe.place}"
            passed = f"; at least {probe.passed} hits passed over" if probe.passed else ""
            text = f"{name}: {probe.state}: {probe.reason}{passed}"
            lines.append(located(probe.source, text))
    lines.append(f"time spent in probes: {summary.overhead_ns / 1e9:.6f} s")
    return printable("\n".join(lines), "\n")
