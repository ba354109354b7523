"""The trace sessions of a daemon: starts, stops, saves and lists them.

A session takes the records of programs that end by ``exit trace``; one that takes everything, also
all others (``exit``, ``rem``, exceptions, other facilities).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dprobed.daemon.client import Refusal
from dprobed.daemon.records.dispatcher import Dispatcher, Report
from dprobed.daemon.records.trace_encoders import CtfEncoder, Encoder, LineEncoder
from dprobed.daemon.records.trace_session import FOLDER_CHUNKS, TraceSession
from dprobed.proc import files, helper
from dprobed.program.exits import DUMP, TRACE, facility_of
from dprobed.systemd_journal import socket_path
from dprobed.trace import store
from dprobed.trace.ctf import Trace
from dprobed.trace.lines import FORMATS
from dprobed.trace.writer import RotationLimits, Writer
from dprobed.wire import messages
from dprobed.wire.messages import TraceInfo, TraceStart

if TYPE_CHECKING:
    from dprobed.daemon.client import Client
    from dprobed.daemon.target import InsertedProgram
    from dprobed.wire.protocol import RawRecord

#: Bytes of encoded records that make a block, where no limit of the session is near that.
_BLOCK_BYTES: Final = 128 << 10
#: The least that a session may be limited to.
_LEAST_BYTES: Final = 16 << 10
#: Seconds that the end of the daemon waits for a session's disk.
_PATIENCE: Final = 5.0
#: Seconds in which the file system of a session's folder must answer: the daemon waits meanwhile.
_ANSWER: Final = 1.0
_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,39}", re.ASCII)

_log = logging.getLogger("dprobed")


class TraceSessionError(Refusal):
    """A session cannot be started, stopped or saved; one line."""


class TraceSessions:
    """All sessions of a daemon. ``exits``: the names of exits, by number."""

    def __init__(self, dispatcher: Dispatcher, exits: Callable[[], dict[int, str]]) -> None:
        self._dispatcher = dispatcher
        self._exits = exits
        self._sessions: dict[str, TraceSession] = {}
        #: Sessions that also look at records of other facilities than ``trace``.
        self._watching: tuple[TraceSession, ...] = ()

    def start(self, what: TraceStart) -> TraceInfo:
        """Start a session; raises TraceSessionError and DispatchError."""
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
        session = TraceSession(what, encoder, writer, loop)
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
            raise TraceSessionError(
                f"`{what.name}` is not a valid session name: use letters, digits, `_`, `.` and "
                "`-`; give one by --name"
            )
        if what.name in self._sessions:
            raise TraceSessionError(
                f"a session {what.name} exists already; `dprobe trace list` shows it"
            )
        for limit in (what.flight_bytes, what.max_bytes, what.rotate_bytes):
            if limit is not None and limit < _LEAST_BYTES:
                raise TraceSessionError(
                    f"a size of {limit} bytes is too small; at least {_LEAST_BYTES}"
                )
        if what.format == "journal":
            if what.folder is not None or what.flight_bytes is not None or _limited(what):
                raise TraceSessionError(
                    "the journal takes neither folder nor limits nor flight recorder"
                )
            return
        if what.folder is None or not what.folder.startswith("/"):
            raise TraceSessionError("a session needs the absolute path of a folder")
        for other in self._sessions.values():
            if other.what.folder is not None and _same(other.what.folder, what.folder):
                raise TraceSessionError(
                    f"session {other.what.name} writes into {what.folder} already"
                )

    def _choose_watching(self) -> None:
        self._watching = tuple(
            session
            for session in self._sessions.values()
            if session.what.everything or session.what.flight_bytes is not None
        )

    def see(self, inserted: InsertedProgram, raw: RawRecord, line: bytes) -> None:
        """A record, before it goes through its facility's handlers."""
        for session in self._watching:
            if raw.exit != TRACE and session.armed:
                # The record that asks for the writing is part of what is written.
                asks = facility_of(raw.exit) == DUMP and session.what.flight_bytes is not None
                if asks or session.what.everything:
                    session.offer(Report(0, inserted, raw, line))
                if asks:
                    session.save_soon()

    def stop(self, name: str) -> TraceSession:
        """Stop a session; its thread writes the rest."""
        session = self._get(name)
        del self._sessions[name]
        self._choose_watching()
        self._dispatcher.deregister(session)
        session.close()
        return session

    async def finish(self, session: TraceSession) -> TraceInfo:
        """Wait until a stopped session is written; its last counters."""
        await asyncio.get_running_loop().run_in_executor(None, session.writer.join, _PATIENCE)
        return session.info()

    def save(self, name: str) -> int:
        """Save a flight recorder; the number of records."""
        session = self._get(name)
        if session.what.flight_bytes is None:
            raise TraceSessionError(
                f"session {name} is not a flight recorder: what it gets is written at once"
            )
        return session.save()

    def _get(self, name: str) -> TraceSession:
        session = self._sessions.get(name)
        if session is None:
            raise TraceSessionError(f"there is no session {name}; `dprobe trace list` shows them")
        return session

    def infos(self) -> list[TraceInfo]:
        """All sessions."""
        return [session.info() for session in self._sessions.values()]

    # -- requests --------------------------------------------------------------------------------

    async def start_requested(
        self, client: Client, request: messages.TraceStart
    ) -> messages.TraceListing:
        """Start a session; it stays when the client is gone."""
        return messages.TraceListing(id=request.id, traces=[self.start(request)])

    async def stop_requested(
        self, client: Client, request: messages.TraceStop
    ) -> messages.TraceListing:
        """Stop a session, and wait until it is written."""
        last = await self.finish(self.stop(request.name))
        return messages.TraceListing(id=request.id, traces=[last])

    async def save_requested(
        self, client: Client, request: messages.TraceSave
    ) -> messages.TraceSaved:
        """Save a flight recorder."""
        return messages.TraceSaved(id=request.id, records=self.save(request.name))

    async def list_requested(
        self, client: Client, request: messages.TraceList
    ) -> messages.TraceListing:
        """All sessions."""
        return messages.TraceListing(id=request.id, traces=self.infos())

    def close(self) -> None:
        """The daemon ends: stop all sessions, but do not wait for a disk forever."""
        sessions = [self.stop(name) for name in list(self._sessions)]
        deadline = time.monotonic() + _PATIENCE
        for session in sessions:
            session.writer.join(max(0.0, deadline - time.monotonic()))


def _teller(name: str, loop: asyncio.AbstractEventLoop) -> Callable[[str], None]:
    """A function for the writer thread that has a problem (or its end) logged in the event loop."""

    def log(problem: str) -> None:
        if problem:
            _log.warning(
                "trace %s: %s; records are dropped until it can be written again", name, problem
            )
        else:
            _log.info("trace %s is being written again", name)

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
    path = socket_path(namespace) if namespace else ""
    return lambda folder, number: store.SystemdJournalChunk(path)


def _block_bytes(what: TraceStart) -> int:
    """The size of a block: many fit within the session's limits."""
    limits = [each for each in (what.flight_bytes, what.max_bytes) if each is not None]
    return min([_BLOCK_BYTES, *(each // (2 * FOLDER_CHUNKS) for each in limits)])


def _limited(what: TraceStart) -> bool:
    return any(
        limit is not None
        for limit in (what.max_bytes, what.max_seconds, what.rotate_bytes, what.rotate_seconds)
    )


def _limits(what: TraceStart) -> RotationLimits:
    """The limits; chunks without limits of their own get an eighth of the session's."""
    rotate_bytes, rotate_seconds = what.rotate_bytes, what.rotate_seconds
    if what.max_bytes is not None:
        eighth = max(1, what.max_bytes // FOLDER_CHUNKS)
        rotate_bytes = min(rotate_bytes or eighth, max(1, what.max_bytes // 2))
    if what.max_seconds is not None:
        rotate_seconds = min(rotate_seconds or what.max_seconds, what.max_seconds / FOLDER_CHUNKS)
    return RotationLimits(what.max_bytes, what.max_seconds, rotate_bytes, rotate_seconds)


def _try_folder(folder: Path) -> None:
    """Create the folder if it is missing; raises TraceSessionError where it is not writable, or
    nobody says so in time."""
    values = (os.fsencode(folder), os.getpid())
    try:
        if _is_near(folder):
            _make_folder(values, ())
        else:
            helper.HELPER.do(("trace", folder), _make_folder, values, patience=_ANSWER)
    except helper.SilentError:
        raise TraceSessionError(f"{folder}: its file system does not answer") from None
    except OSError as error:
        is_other = isinstance(error, FileExistsError)
        text = "it is no folder" if is_other else error.strerror or str(error)
        raise TraceSessionError(f"{folder}: {text[:1].lower()}{text[1:]}") from None


def _is_near(folder: Path) -> bool:
    """Whether it is, or will be, in a file system that answers by itself; raises OSError."""
    try:
        return files.is_near(str(folder))
    except FileNotFoundError:
        return not folder.is_symlink() and files.is_near(str(folder.parent))


@helper.job
def _make_folder(
    values: Sequence[helper.Value], _: Sequence[int]
) -> tuple[list[helper.Value], int]:
    name, pid = values
    assert isinstance(name, bytes) and isinstance(pid, int)
    folder = Path(os.fsdecode(name))
    folder.mkdir(mode=0o700, exist_ok=True)
    store.next_number(folder)
    probe = folder / f".dprobed-{pid}"
    store.AppendFile(probe).close()
    probe.unlink()
    return [], -1


def _same(one: str, other: str) -> bool:
    found = _identity(one)
    return one == other or (found is not None and found == _identity(other))


def _identity(folder: str) -> tuple[int, int] | None:
    """Device and inode; None: it is not there, or does not answer."""
    try:
        descriptor = files.locate(folder)
    except (OSError, ValueError):
        return None
    try:
        found = files.facts(descriptor)
        return found.device, found.inode
    finally:
        os.close(descriptor)
