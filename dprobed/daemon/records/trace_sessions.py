"""Trace sessions: handlers on the facility ``trace`` that write what they get.

A session takes the records of programs that end by ``exit trace``; one that takes everything, also
all others (``exit``, ``rem``, exceptions, other facilities). Its records are encoded in the
daemon's loop, in batches, and written by a thread of its own (writer.py) at the latest ``FLUSH``
seconds later. A flight recorder keeps them in memory instead, as many as its room holds, and has
them written as one chunk when a client asks, or when a program ends by ``exit dump``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from dprobed.daemon.records.dispatcher import Dispatcher, Handler, Report, Verdict
from dprobed.journal import socket_path
from dprobed.program.exits import DUMP, TRACE
from dprobed.trace import store
from dprobed.trace.ctf import Block, Stream, Trace
from dprobed.trace.lines import FORMATS
from dprobed.trace.writer import RotationLimits, Writer
from dprobed.wire.messages import TraceInfo, TraceStart

if TYPE_CHECKING:
    from dprobed.daemon.target import Entry, Target
    from dprobed.wire.protocol import RawRecord

#: Seconds until a record is on its way to the disk.
FLUSH: Final = 0.25
#: Records of a target that are encoded at once.
_BATCH: Final = 512
#: Bytes of encoded records that make a block, where no limit of the session is near that.
_BLOCK_BYTES: Final = 128 << 10
#: The least that a session may be limited to.
_LEAST_BYTES: Final = 16 << 10
#: Seconds until records that other tracers sent before the one that asks for a writing are here.
_SETTLE: Final = 0.2
#: Seconds between two writings of a flight recorder that records ask for.
_SAVE_PAUSE: Final = 1.0
#: Seconds that the end of the daemon waits for a session's disk.
_PATIENCE: Final = 5.0
_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,39}", re.ASCII)
FOLDER_CHUNKS: Final = 8


_log = logging.getLogger("dprobed")


class TraceError(Exception):
    """The request cannot be done; one line."""


class Encoder(Protocol):
    """Makes blocks of reports."""

    def add(self, report: Report) -> None:
        """One report."""
        ...

    def refuse(self, report: Report) -> None:
        """A report that there is no room for."""
        ...

    def take(self, *, all_: bool) -> list[Block]:
        """The blocks that are full, or whatever there is."""
        ...

    def ended(self) -> list[Stream]:
        """Streams from which nothing more comes, each told once."""
        ...


class _Source:
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
        self._streams: dict[Target, tuple[_Source, Stream]] = {}

    def _stream(self, report: Report) -> tuple[_Source, Stream]:
        entry = report.entry
        found = self._streams.get(entry.target)
        if found is None:
            source = _Source(entry.target)
            found = self._streams[entry.target] = source, self._trace.stream(source)
        found[0].labels[entry.number] = entry.label
        return found

    def add(self, report: Report) -> None:
        """One report."""
        source, stream = self._stream(report)
        waiting = source.waiting
        waiting.append(report.raw)
        if len(waiting) >= _BATCH:
            stream.add(waiting)
            waiting.clear()

    def refuse(self, report: Report) -> None:
        """A report that there is no room for."""
        self._stream(report)[1].dropped += 1

    def take(self, *, all_: bool) -> list[Block]:
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
        self._full: list[Block] = []

    def add(self, report: Report) -> None:
        """One report."""
        self._lines.append(report.line)
        self._size += len(report.line)
        if self._size >= self._block_bytes:
            self._end_block()

    def refuse(self, report: Report) -> None:
        """Lines have no place for what is lost."""

    def _end_block(self) -> None:
        self._full.append(Block(None, self._make(self._lines), len(self._lines)))
        self._lines = []
        self._size = 0

    def take(self, *, all_: bool) -> list[Block]:
        """The blocks that are full, or whatever there is."""
        if all_ and self._lines:
            self._end_block()
        blocks, self._full = self._full, []
        return blocks

    def ended(self) -> list[Stream]:
        """There are no streams."""
        return []


class Session(Handler):
    """One session. ``what`` is what the client asked for."""

    def __init__(
        self, what: TraceStart, encoder: Encoder, writer: Writer, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(f"trace.{what.name}", facility="trace", owner="dprobed")
        self.what = what
        self.writer = writer
        self._encoder = encoder
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._ring: deque[Block] = deque()
        self._ring_bytes = 0
        self._saved = 0.0
        self._save_timer: asyncio.TimerHandle | None = None
        self._taken = 0
        self._refused = 0
        self._overwritten = 0
        self._age: asyncio.TimerHandle | None = None
        if what.max_seconds is not None:
            self._watch_age(what.max_seconds)

    # -- records --------------------------------------------------------------------------------

    def offer(self, report: Report) -> Verdict:
        """Take a report (dispatcher)."""
        self._taken += 1
        if self.what.flight_bytes is None and self.writer.full:
            self._refused += 1
            self._encoder.refuse(report)
            return Verdict.DROPPED
        self._encoder.add(report)
        if self._timer is None:
            self._timer = self._loop.call_later(FLUSH, self._flush)
        if self._taken % _BATCH == 0:
            self._pass_on(self._encoder.take(all_=False))
        return Verdict.CONTINUE

    def _flush(self) -> None:
        self._timer = None
        self._pass_on(self._encoder.take(all_=True))
        for stream in self._encoder.ended():
            if self.what.flight_bytes is None:
                self.writer.end_stream(stream)

    def _pass_on(self, blocks: list[Block]) -> None:
        if self.what.flight_bytes is not None:
            self._keep(blocks, self.what.flight_bytes)
            return
        for block in blocks:
            if not self.writer.give(block):
                self._refused += block.count
                if block.stream is not None:
                    block.stream.dropped += block.count

    def _keep(self, blocks: list[Block], room: int) -> None:
        self._ring.extend(blocks)
        self._ring_bytes += sum(len(block.data) for block in blocks)
        while self._ring_bytes > room:
            oldest = self._ring.popleft()
            self._ring_bytes -= len(oldest.data)
            self._overwritten += oldest.count

    # -- requests -------------------------------------------------------------------------------

    def save(self) -> int:
        """Have what the flight recorder has written; how many records those are."""
        self._flush()
        blocks = list(self._ring)
        self._ring.clear()
        self._ring_bytes = 0
        self._saved = time.monotonic()
        if blocks:
            self.writer.give_all(blocks)
        return sum(block.count for block in blocks)

    def save_soon(self) -> None:
        """As ``save``, but not again and again when one record after the other asks for it."""
        if self._save_timer is None:
            wait = max(_SETTLE, self._saved + _SAVE_PAUSE - time.monotonic())
            self._save_timer = self._loop.call_later(wait, self._save_now)

    def _save_now(self) -> None:
        self._save_timer = None
        self.save()

    def _watch_age(self, seconds: float) -> None:
        """Chunks become too old also when nothing comes."""
        self.writer.poke()
        wait = min(max(seconds / FOLDER_CHUNKS, 0.2), 60.0)
        self._age = self._loop.call_later(wait, self._watch_age, seconds)

    def close(self) -> None:
        """Nothing more comes: have the rest written."""
        for timer in (self._timer, self._age, self._save_timer):
            if timer is not None:
                timer.cancel()
        pending_save = self._save_timer is not None
        self._timer = self._age = self._save_timer = None
        if pending_save:
            self.save()
        else:
            self._flush()
        self.writer.close()

    def info(self) -> TraceInfo:
        """The session as ``dprobe trace list`` shows it."""
        what, writer = self.what, self.writer
        ring = sum(block.count for block in self._ring)
        return TraceInfo(
            name=what.name,
            folder=what.folder or "",
            format=what.format,
            everything=what.everything,
            flight_bytes=what.flight_bytes,
            armed=self.armed,
            records=self._taken,
            written=writer.written,
            held=ring,
            dropped=self._refused + writer.lost,
            overwritten=self._overwritten,
            bytes=writer.bytes,
            chunks=writer.chunks,
            problem=writer.problem,
        )


class Traces:
    """All sessions of a daemon. ``exits`` names what a record's ``exit`` can be."""

    def __init__(self, dispatcher: Dispatcher, exits: Callable[[], dict[int, str]]) -> None:
        self._dispatcher = dispatcher
        self._exits = exits
        self._sessions: dict[str, Session] = {}
        #: Sessions to which records of other facilities than ``trace`` matter.
        self._watching: tuple[Session, ...] = ()

    def start(self, what: TraceStart) -> TraceInfo:
        """Begin a session; raises TraceError and DispatchError."""
        self._check(what)
        if what.format == "ctf":
            trace = Trace(self._exits, _block_bytes(what))
            encoder: Encoder = CtfEncoder(trace)
            make = _ctf_maker(trace)
        elif what.format == "journal":
            encoder = LineEncoder(b"".join, _block_bytes(what))
            make = _journal_maker(what.namespace)
        else:
            form = FORMATS[what.format]
            encoder = LineEncoder(form.lines, _block_bytes(what))
            make = _file_maker(what.format)
        folder = Path(what.folder) if what.folder is not None else None
        if folder is not None:
            _try_folder(folder)
        loop = asyncio.get_running_loop()
        writer = Writer(what.name, folder, make, _limits(what), _teller(what.name, loop))
        session = Session(what, encoder, writer, loop)
        try:
            self._dispatcher.register(session)
        except BaseException:
            session.close()
            raise
        self._dispatcher.arm([session.name])
        self._sessions[what.name] = session
        self._choose_watching()
        return session.info()

    def _check(self, what: TraceStart) -> None:
        if not _NAME.fullmatch(what.name):
            raise TraceError(
                f"`{what.name}` is no name of a session: letters, digits, `_`, `.` and `-`; "
                "give one by --name"
            )
        if what.name in self._sessions:
            raise TraceError(f"a session {what.name} is there already; `dprobe trace list`")
        for limit in (what.flight_bytes, what.max_bytes, what.rotate_bytes):
            if limit is not None and limit < _LEAST_BYTES:
                raise TraceError(f"a size of {limit} bytes is too small; at least {_LEAST_BYTES}")
        if what.format == "journal":
            if what.folder is not None or what.flight_bytes is not None or _limited(what):
                raise TraceError("the journal takes neither folder nor limits nor flight recorder")
            return
        if what.folder is None or not what.folder.startswith("/"):
            raise TraceError("a session needs the whole path of a folder")
        for other in self._sessions.values():
            if other.what.folder is not None and _same(other.what.folder, what.folder):
                raise TraceError(f"session {other.what.name} writes into {what.folder} already")

    def _choose_watching(self) -> None:
        self._watching = tuple(
            session
            for session in self._sessions.values()
            if session.what.everything or session.what.flight_bytes is not None
        )

    def see(self, entry: Entry, raw: RawRecord, line: bytes) -> None:
        """A record, before it goes through its facility's handlers."""
        for session in self._watching:
            if raw.exit != TRACE and session.armed:
                # The record that asks for the writing is part of what is written.
                asks = raw.exit == DUMP and session.what.flight_bytes is not None
                if asks or session.what.everything:
                    session.offer(Report(0, entry, raw, line))
                if asks:
                    session.save_soon()

    def stop(self, name: str) -> Session:
        """End a session; what it has is written by its thread."""
        session = self._get(name)
        del self._sessions[name]
        self._choose_watching()
        self._dispatcher.deregister(session)
        session.close()
        return session

    async def finish(self, session: Session) -> TraceInfo:
        """Wait until a session that was ended is written; its last numbers."""
        await asyncio.get_running_loop().run_in_executor(None, session.writer.join, _PATIENCE)
        return session.info()

    def save(self, name: str) -> int:
        """Have a flight recorder written; the number of records."""
        session = self._get(name)
        if session.what.flight_bytes is None:
            raise TraceError(f"session {name} is no flight recorder: all it gets is written")
        return session.save()

    def _get(self, name: str) -> Session:
        session = self._sessions.get(name)
        if session is None:
            raise TraceError(f"there is no session {name}; `dprobe trace list` shows them")
        return session

    def infos(self) -> list[TraceInfo]:
        """All sessions."""
        return [session.info() for session in self._sessions.values()]

    def close(self) -> None:
        """The daemon ends: write everything, but wait for no disk for ever."""
        sessions = [self.stop(name) for name in list(self._sessions)]
        deadline = time.monotonic() + _PATIENCE
        for session in sessions:
            session.writer.join(max(0.0, deadline - time.monotonic()))


def _teller(name: str, loop: asyncio.AbstractEventLoop) -> Callable[[str], None]:
    """What hears from the writing thread that a problem came or went, and logs it in the loop."""

    def log(problem: str) -> None:
        if problem:
            _log.warning("trace %s: %s; what comes is dropped until it can go on", name, problem)
        else:
            _log.info("trace %s goes on", name)

    def tell(problem: str) -> None:
        with contextlib.suppress(RuntimeError):  # The daemon has ended its loop.
            loop.call_soon_threadsafe(log, problem)

    return tell


def _ctf_maker(trace: Trace) -> Callable[[Path, int], store.Chunk]:
    return lambda folder, number: store.CtfChunk(folder / f"{number:06d}", trace)


def _file_maker(name: str) -> Callable[[Path, int], store.Chunk]:
    form = FORMATS[name]
    return lambda folder, number: store.FileChunk(folder / f"{number:06d}.{form.suffix}", form)


def _journal_maker(namespace: str) -> Callable[[Path, int], store.Chunk]:
    return lambda folder, number: store.JournalChunk(socket_path(namespace))


def _block_bytes(what: TraceStart) -> int:
    """How large a block may become: many have room within the limits."""
    limits = [each for each in (what.flight_bytes, what.max_bytes) if each is not None]
    return min([_BLOCK_BYTES, *(each // (2 * FOLDER_CHUNKS) for each in limits)])


def _limited(what: TraceStart) -> bool:
    return any(
        limit is not None
        for limit in (what.max_bytes, what.max_seconds, what.rotate_bytes, what.rotate_seconds)
    )


def _limits(what: TraceStart) -> RotationLimits:
    """The limits; where a whole is limited and its parts are not, they are an eighth of it."""
    rotate_bytes, rotate_seconds = what.rotate_bytes, what.rotate_seconds
    if what.max_bytes is not None:
        eighth = max(1, what.max_bytes // FOLDER_CHUNKS)
        rotate_bytes = min(rotate_bytes or eighth, max(1, what.max_bytes // 2))
    if what.max_seconds is not None:
        rotate_seconds = min(rotate_seconds or what.max_seconds, what.max_seconds / FOLDER_CHUNKS)
    return RotationLimits(what.max_bytes, what.max_seconds, rotate_bytes, rotate_seconds)


def _try_folder(folder: Path) -> None:
    """Make the folder if need be; raises TraceError where nothing can be written there."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        store.next_number(folder)
        probe = folder / f".dprobed-{os.getpid()}"
        store.AppendFile(probe).close()
        probe.unlink()
    except OSError as error:
        text = error.strerror or str(error)
        raise TraceError(f"{folder}: {text[:1].lower()}{text[1:]}") from None


def _same(one: str, other: str) -> bool:
    try:
        return Path(one).samefile(other)
    except OSError:
        return Path(one) == Path(other)
