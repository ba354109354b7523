"""Reads traces of ours back: records in the order of their time, from one or more chunks.

What a daemon that was killed (or is still writing) left is read up to its last whole packet.
"""

from __future__ import annotations

import heapq
import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path
from struct import error as StructError
from typing import Final, Protocol

import msgspec

from dprobed.control.messages import Raised, Record
from dprobed.handler.trace import metadata
from dprobed.handler.trace.ctf import EVENT, MAGIC, PACKET
from dprobed.handler.trace.shape import Cursor, reader
from dprobed.program.table import ExCode

METADATA: Final = "metadata"


class TraceError(Exception):
    """What is there is no trace of ours, or is damaged."""


class Recording(Protocol):
    """One chunk that can be read. ``cut``: files whose end is missing."""

    cut: list[Path]
    discarded: int
    #: What to add to a record's time for the time of day, where that is known.
    offset_ns: int | None

    def records(self) -> Iterator[Record]:
        """All records, in the order of their time; raises TraceError."""
        ...


def open_all(path: Path) -> list[Recording]:
    """The chunks at and below ``path``, in the order of their names; raises TraceError.

    CTF traces of ours, and files of JSON lines.
    """
    if path.is_file() and path.name != METADATA:
        return [JsonLines(path)]
    if not path.exists():
        raise TraceError(f"{path}: there is no such file or folder")
    folder = path.parent if path.is_file() else path
    found: list[Recording] = [Chunk(each.parent) for each in sorted(folder.rglob(METADATA))]
    found += map(JsonLines, sorted(folder.rglob("*.jsonl")))
    if not found:
        raise TraceError(f"{path}: there is no trace (CTF, or JSON lines) in it")
    return found


class JsonLines:
    """A file of records, each a line of JSON; other lines (a summary) are passed over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.cut: list[Path] = []
        self.discarded = 0
        self.offset_ns: int | None = None

    def records(self) -> Iterator[Record]:
        """All records, in the order that they have in the file."""
        decode = msgspec.json.Decoder(Record).decode
        with self._path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    self.cut.append(self._path)
                    return
                if not line.startswith(b'{"type":"record",'):
                    if not line.startswith(b"{"):
                        raise TraceError(f"{self._path}:{number}: no record")
                    continue
                try:
                    yield decode(line)
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    raise TraceError(f"{self._path}:{number}: no record") from None


class Chunk:
    """One CTF trace: its metadata is read at once, its streams as they are needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            text = (folder / METADATA).read_text(encoding="utf-8", errors="replace")
            self.metadata = metadata.parse(text)
        except (metadata.MetadataError, ValueError, KeyError) as error:
            raise TraceError(f"{folder / METADATA}: {error}") from None
        self.discarded = 0
        self.offset_ns: int | None = self.metadata.offset_ns
        #: Files whose last packet is cut off.
        self.cut: list[Path] = []
        self._readers = {
            number: (each, reader(each.shape)) for number, each in self.metadata.classes.items()
        }

    def records(self) -> Iterator[Record]:
        """All records, in the order of their time."""
        streams = sorted(
            path for path in self.folder.iterdir() if path.is_file() and path.name != METADATA
        )
        # The streams one by one are in order already.
        return heapq.merge(*map(self._stream, streams), key=lambda record: record.time)

    def _stream(self, path: Path) -> Iterator[Record]:
        with path.open("rb") as file:
            if not path.stat().st_size:
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield from self._packets(path, data)

    def _packets(self, path: Path, data: mmap.mmap) -> Iterator[Record]:
        at = 0
        discarded = 0
        while at < len(data):
            if at + PACKET.size > len(data):
                self.cut.append(path)
                break
            fields = PACKET.unpack_from(data, at)
            if fields[0] != MAGIC or fields[7] < 8 * PACKET.size:
                raise TraceError(f"{path}: no packet begins at byte {at}")
            end = at + fields[7] // 8
            if end > len(data):
                self.cut.append(path)
                break
            discarded = fields[8]
            content = data[at + PACKET.size : at + fields[6] // 8]
            yield from self._events(path, content)
            at = end
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
                    exception=_raised(exception) if exception else None,
                )
        except (StructError, KeyError):
            raise TraceError(f"{path}: a packet is damaged") from None


def _raised(triple: tuple[int, int, int]) -> Raised:
    code, parm1, parm2 = triple
    name = ExCode(code).name if code in ExCode._value2member_map_ else "USER"
    return Raised(code=code, name=name, parm1=parm1, parm2=parm2)


def merged(chunks: Iterable[Recording]) -> Iterator[Record]:
    """The records of several chunks, in the order of their time."""
    return heapq.merge(*(chunk.records() for chunk in chunks), key=lambda record: record.time)
