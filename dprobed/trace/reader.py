"""Reads our traces back: records in the order of their time, from one or more chunks.

What a daemon that was killed (or is still writing) left is read up to its last whole packet.
"""

from __future__ import annotations

import contextlib
import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from stat import S_IFCHR, S_IFIFO, S_IFREG
from struct import error as StructError
from typing import BinaryIO, Final, Protocol

import msgspec

from dprobed.proc import far
from dprobed.record.record import Record, raised
from dprobed.trace import metadata
from dprobed.trace.ctf import EVENT, MAGIC, PACKET
from dprobed.trace.shape import Cursor, reader

METADATA: Final = "metadata"


class TraceReadError(Exception):
    """Not a trace of ours, or a damaged one."""


class Recording(Protocol):
    """One chunk that can be read. ``cut``: files whose end is missing."""

    cut: list[Path]
    discarded: int
    #: What to add to a record's time for the time of day, where that is known.
    offset_ns: int | None

    def begin(self) -> int:
        """The time of the first record; 0 where that is not known without reading."""
        ...

    def records(self) -> Iterator[Record]:
        """All records, in the order of their time; raises TraceReadError."""
        ...


def open_all(path: Path) -> list[Recording]:
    """The chunks at and below ``path``, in the order of their names; raises TraceReadError.

    CTF traces of ours, and files of JSON lines.
    """
    try:
        kind = far.kind(str(path))
        if kind in (S_IFREG, S_IFIFO, S_IFCHR) and path.name != METADATA:
            return [JsonLines(path)]
        if not kind:
            raise TraceReadError(f"{path}: there is no such file or folder")
        folder = path.parent if kind == S_IFREG else path
        below = [Path(each) for each in far.regular_files(str(folder))]
    except OSError as error:
        raise _unread(path, error) from None
    # A folder may have such a name, too (packages of Python do).
    found: list[Recording] = [CtfRecording(each.parent) for each in below if each.name == METADATA]
    found += [JsonLines(each) for each in below if each.suffix == ".jsonl"]
    if not found:
        raise TraceReadError(f"{path}: there is no trace (CTF, or JSON lines) in it")
    return found


def _unread(path: Path, error: OSError) -> TraceReadError:
    """What is said of a file that cannot be read."""
    reason = error.strerror or str(error)
    return TraceReadError(f"{path}: {reason[:1].lower()}{reason[1:]}")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A file to be read; raises TraceReadError, also where it is read."""
    try:
        with far.open_reading(str(path)) as file:
            yield file
    except OSError as error:
        raise _unread(path, error) from None


class _Typed(msgspec.Struct):
    """What an object says that it is."""

    type: str = ""


def _is_record(line: bytes) -> bool:
    """Whether an object of JSON is a record; one that is no JSON is taken for one, and refused."""
    try:
        return msgspec.json.decode(line, type=_Typed).type == "record"
    except msgspec.DecodeError:
        return True


class JsonLines:
    """A file of records, each a line of JSON; other lines (a summary) are passed over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.cut: list[Path] = []
        self.discarded = 0
        self.offset_ns: int | None = None

    def begin(self) -> int:
        """Not known."""
        return 0

    def records(self) -> Iterator[Record]:
        """All records, in the order that they have in the file."""
        decode = msgspec.json.Decoder(Record).decode
        with _opened(self._path) as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    self.cut.append(self._path)
                    return
                if not line.startswith(b'{"type":"record",'):
                    if not line.startswith(b"{"):
                        raise TraceReadError(f"{self._path}:{number}: no record")
                    # Others write JSON otherwise: with spaces, and in any order.
                    if not _is_record(line):
                        continue
                try:
                    yield decode(line)
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    raise TraceReadError(f"{self._path}:{number}: no record") from None


class CtfRecording:
    """One CTF trace: its metadata is read at once, its streams as they are needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            with _opened(folder / METADATA) as file:
                text = file.read().decode(errors="replace")
            self.metadata = metadata.parse(text)
        except (metadata.MetadataError, ValueError, KeyError) as error:
            raise TraceReadError(f"{folder / METADATA}: {error}") from None
        self.discarded = 0
        self.offset_ns: int | None = self.metadata.offset_ns
        #: Files whose last packet is cut off.
        self.cut: list[Path] = []
        self._readers = {
            number: (each, reader(each.shape)) for number, each in self.metadata.classes.items()
        }

    def _streams(self) -> list[Path]:
        try:
            below = [Path(each) for each in far.regular_files(str(self.folder))]
        except OSError as error:
            raise _unread(self.folder, error) from None
        return [each for each in below if each.parent == self.folder and each.name != METADATA]

    def begin(self) -> int:
        """The time of the first record; 0 where there is none."""
        return min(map(_begin, self._streams()), default=0)

    def records(self) -> Iterator[Record]:
        """All records, in the order of their time."""
        return _merge([(_begin(path), partial(self._packets, path)) for path in self._streams()])

    def _packets(self, path: Path) -> Iterator[Record]:
        discarded = 0
        with _opened(path) as file:
            while header := file.read(PACKET.size):
                fields = PACKET.unpack(header) if len(header) == PACKET.size else None
                if fields is None:
                    self.cut.append(path)
                    break
                size = fields[7] // 8 - PACKET.size
                if fields[0] != MAGIC or size < 0:
                    at = file.tell() - PACKET.size
                    raise TraceReadError(f"{path}: no packet begins at byte {at}")
                content = file.read(size)
                if len(content) != size:
                    self.cut.append(path)
                    break
                discarded = fields[8]
                yield from self._events(path, content)
        self.discarded += discarded

    def _events(self, path: Path, content: bytes) -> Iterator[Record]:
        cursor = Cursor(content, 0)
        exits = self.metadata.exits
        try:
            while cursor.at < len(content):
                (number, time, pid, tid, uid, cpu, hit, exit_, major, minor, comm) = (
                    EVENT.unpack_from(content, cursor.at)
                )
                cursor.at += EVENT.size
                described, read = self._readers[number]
                log, exception = read(cursor)
                yield Record(
                    program=described.program,
                    major=major,
                    minor=minor,
                    module=described.module,
                    place=described.place,
                    pid=pid,
                    tid=tid,
                    comm=comm.rstrip(b"\0").decode(errors="replace"),
                    uid=uid,
                    cpu=cpu,
                    time=time,
                    hit=hit,
                    exit=exits.get(exit_) or str(exit_),
                    log=log,
                    exception=raised(exception) if exception else None,
                )
        except (StructError, KeyError):
            raise TraceReadError(f"{path}: a packet is damaged") from None


def _begin(path: Path) -> int:
    """The time at which a stream begins."""
    with _opened(path) as file:
        header = file.read(PACKET.size)
    return int(PACKET.unpack(header)[4]) if len(header) == PACKET.size else 0


def merged(chunks: Iterable[Recording]) -> Iterator[Record]:
    """The records of several chunks, in the order of their time."""
    return _merge([(chunk.begin(), chunk.records) for chunk in chunks])


def _merge(sources: list[tuple[int, Callable[[], Iterator[Record]]]]) -> Iterator[Record]:
    """Merge what is in order of time each; a source is opened when its first time has come.

    A trace may have more files than can be open at once.
    """
    waiting = deque(sorted(sources, key=lambda source: source[0]))
    heap: list[tuple[int, int, Record, Iterator[Record]]] = []
    order = 0
    while waiting or heap:
        while waiting and (not heap or waiting[0][0] <= heap[0][0]):
            records = waiting.popleft()[1]()
            order += 1
            if (first := next(records, None)) is not None:
                heapq.heappush(heap, (first.time, order, first, records))
        if not heap:
            continue
        _, number, record, records = heap[0]
        yield record
        following = next(records, None)
        if following is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (following.time, number, following, records))
