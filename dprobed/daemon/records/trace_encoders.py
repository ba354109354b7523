"""Encodes reports for a trace session: as CTF packets, or as lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from dprobed.daemon.records.dispatcher import Report
from dprobed.trace.ctf import RecordBlock, Stream, Trace

if TYPE_CHECKING:
    from dprobed.daemon.target import Target
    from dprobed.wire.protocol import RawRecord

#: Records of a target that are encoded at once.
BATCH: Final = 512


class Encoder(Protocol):
    """Encodes reports into blocks."""

    def add(self, report: Report) -> None:
        """Encode a report."""
        ...

    def refuse(self, report: Report) -> None:
        """Count a report that there is no room for."""
        ...

    def take(self, *, all_: bool) -> list[RecordBlock]:
        """The full blocks; with ``all_`` also the one begun."""
        ...

    def ended(self) -> list[Stream]:
        """The streams that have ended since the last call."""
        ...


class _TargetSource:
    """Names of a target's programs and places; labels are kept for records of removed programs."""

    def __init__(self, target: Target) -> None:
        self.pid = target.pid
        self.target = target
        self.labels: dict[int, str] = {}
        self.waiting: list[RawRecord] = []

    def label(self, program: int) -> str:
        return self.labels.get(program, "")

    def place(self, place: int) -> tuple[str, str]:
        return self.target.places.get(place, ("", ""))


class CtfEncoder:
    """Encodes reports as CTF packets, with a stream for each target."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._streams: dict[Target, tuple[_TargetSource, Stream]] = {}

    def _stream(self, report: Report) -> tuple[_TargetSource, Stream]:
        inserted = report.inserted
        found = self._streams.get(inserted.target)
        if found is None:
            source = _TargetSource(inserted.target)
            found = self._streams[inserted.target] = source, self._trace.stream(source)
        found[0].labels[inserted.number] = inserted.label
        return found

    def add(self, report: Report) -> None:
        """Encode a report."""
        source, stream = self._stream(report)
        waiting = source.waiting
        waiting.append(report.raw)
        if len(waiting) >= BATCH:
            stream.add(waiting)
            waiting.clear()

    def refuse(self, report: Report) -> None:
        """Count a report that there is no room for."""
        self._stream(report)[1].dropped += 1

    def take(self, *, all_: bool) -> list[RecordBlock]:
        """The full packets; with ``all_`` also those begun."""
        blocks = []
        for source, stream in self._streams.values():
            if all_ and source.waiting:
                stream.add(source.waiting)
                source.waiting.clear()
            blocks += stream.take(all_=all_)
        return blocks

    def ended(self) -> list[Stream]:
        """The streams of targets that are gone, whose records were all taken."""
        gone = [target for target in self._streams if target.finished.is_set()]
        return [self._streams.pop(target)[1] for target in gone]


class LineEncoder:
    """Encodes reports as lines."""

    def __init__(self, make: Callable[[list[bytes]], bytes], block_bytes: int) -> None:
        self._make = make
        self._block_bytes = block_bytes
        self._lines: list[bytes] = []
        self._size = 0
        self._full: list[RecordBlock] = []

    def add(self, report: Report) -> None:
        """Encode a report."""
        self._lines.append(report.line)
        self._size += len(report.line)
        if self._size >= self._block_bytes:
            self._end_block()

    def refuse(self, report: Report) -> None:
        """Lines carry no count of lost reports."""

    def _end_block(self) -> None:
        self._full.append(RecordBlock(None, self._make(self._lines), len(self._lines)))
        self._lines = []
        self._size = 0

    def take(self, *, all_: bool) -> list[RecordBlock]:
        """The full blocks; with ``all_`` also the one begun."""
        if all_ and self._lines:
            self._end_block()
        blocks, self._full = self._full, []
        return blocks

    def ended(self) -> list[Stream]:
        """There are no streams."""
        return []
