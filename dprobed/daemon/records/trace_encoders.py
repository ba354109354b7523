"""From reports to what a trace session writes: CTF packets, or lines."""

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
    """Makes blocks of reports."""

    def add(self, report: Report) -> None:
        """One report."""
        ...

    def refuse(self, report: Report) -> None:
        """A report that there is no room for."""
        ...

    def take(self, *, all_: bool) -> list[RecordBlock]:
        """The blocks that are full, or whatever there is."""
        ...

    def ended(self) -> list[Stream]:
        """Streams from which nothing more comes, each told once."""
        ...


class _TargetSource:
    """A target, as the encoder sees it: names of programs are kept for records of removed ones."""

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
    """Reports to packets, a stream for each target."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._streams: dict[Target, tuple[_TargetSource, Stream]] = {}

    def _stream(self, report: Report) -> tuple[_TargetSource, Stream]:
        entry = report.entry
        found = self._streams.get(entry.target)
        if found is None:
            source = _TargetSource(entry.target)
            found = self._streams[entry.target] = source, self._trace.stream(source)
        found[0].labels[entry.number] = entry.label
        return found

    def add(self, report: Report) -> None:
        """One report."""
        source, stream = self._stream(report)
        waiting = source.waiting
        waiting.append(report.raw)
        if len(waiting) >= BATCH:
            stream.add(waiting)
            waiting.clear()

    def refuse(self, report: Report) -> None:
        """A report that there is no room for."""
        self._stream(report)[1].dropped += 1

    def take(self, *, all_: bool) -> list[RecordBlock]:
        """The packets that are full, or whatever there is."""
        blocks = []
        for source, stream in self._streams.values():
            if all_ and source.waiting:
                stream.add(source.waiting)
                source.waiting.clear()
            blocks += stream.take(all_=all_)
        return blocks

    def ended(self) -> list[Stream]:
        """The streams of targets that are gone; all that they said was taken."""
        gone = [target for target in self._streams if target.finished.is_set()]
        return [self._streams.pop(target)[1] for target in gone]


class LineEncoder:
    """Reports to lines."""

    def __init__(self, make: Callable[[list[bytes]], bytes], block_bytes: int) -> None:
        self._make = make
        self._block_bytes = block_bytes
        self._lines: list[bytes] = []
        self._size = 0
        self._full: list[RecordBlock] = []

    def add(self, report: Report) -> None:
        """One report."""
        self._lines.append(report.line)
        self._size += len(report.line)
        if self._size >= self._block_bytes:
            self._end_block()

    def refuse(self, report: Report) -> None:
        """Lines have no place for what is lost."""

    def _end_block(self) -> None:
        self._full.append(RecordBlock(None, self._make(self._lines), len(self._lines)))
        self._lines = []
        self._size = 0

    def take(self, *, all_: bool) -> list[RecordBlock]:
        """The blocks that are full, or whatever there is."""
        if all_ and self._lines:
            self._end_block()
        blocks, self._full = self._full, []
        return blocks

    def ended(self) -> list[Stream]:
        """There are no streams."""
        return []
