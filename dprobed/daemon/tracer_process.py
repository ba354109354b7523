"""Tracer processes: forked, spoken to, and watched until they are gone.

A tracer is forked from the daemon's main thread (its pages stay shared with the daemon's) and ends
when its socket does: that is how the daemon's own death ends it too. A tracer is never killed by
the daemon, because only a tracer can take its breakpoints out of a target.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import logging
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, KeysView
from typing import Final, NoReturn

from dprobed.backend import BackendGone, BackendRefused, OnEvent
from dprobed.wire import messages, protocol
from dprobed.wire.framing import ProtocolError, Unpacker

#: What a tracer process runs; it returns when the socket is at its end.
TracerMain = Callable[[socket.socket], None]
#: What a tracer imports only when it needs it, and a test compares with its sources.
LATE: Final = (
    "bisect",
    "ctypes",
    "difflib",
    "fnmatch",
    "hashlib",
    "zlib",
    "iced_x86",
    "dprobed.binary.boundary",
    "dprobed.binary.cache",
    "dprobed.binary.lines",
    "dprobed.binary.relocations",
    "dprobed.binary.suggest",
    "dprobed.binary.unwind",
)
#: Room for the records that come while the daemon is busy elsewhere.
_SOCKET_BUFFER = 4 << 20
#: RLIMIT_NICE that allows nice 0: 20 - nice (getrlimit(2)).
_NICE_0: Final = 20
#: Seconds between one collection of garbage and the next, where tracers are started.
_COLLECT = 10.0

_log = logging.getLogger("dprobed")


class TracerProcess(asyncio.Protocol):
    """One tracer process, seen from the daemon's event loop: a ``Backend``."""

    name: Final = messages.TRACER

    def __init__(self, sock: socket.socket, on_event: OnEvent) -> None:
        self._sock = sock
        self.gone: Final[asyncio.Future[str]] = asyncio.get_running_loop().create_future()
        self._on_event = on_event
        self._unpacker = Unpacker()
        self._transport: asyncio.Transport | None = None
        self._waiting: dict[int, asyncio.Future[protocol.Ok]] = {}
        self._seq = 0
        self._failure = ""
        self._ending = False
        self._closed = False
        self._exit: str | None = None

    async def request(self, make: Callable[[int], protocol.Request]) -> protocol.Ok:
        """Send ``make(seq)`` and wait for the answer; raises BackendRefused, BackendGone."""
        if self._transport is None or self._transport.is_closing() or self._ending:
            raise BackendGone(self._why())
        self._seq += 1
        # Before anybody waits for its answer: what cannot be sent has none.
        message = protocol.pack(make(self._seq))
        answer: asyncio.Future[protocol.Ok] = asyncio.get_running_loop().create_future()
        self._waiting[self._seq] = answer
        self._transport.write(message)
        return await answer

    def close(self) -> None:
        """End the tracer: it takes its probes out, detaches and exits."""
        if not self._ending:
            self._ending = True
            if self._transport is not None and not self._transport.is_closing():
                self._transport.write_eof()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ours to use (asyncio)."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._ending:
            transport.write_eof()

    def data_received(self, data: bytes) -> None:
        """Bytes from the tracer (asyncio)."""
        self._unpacker.feed(data)
        try:
            while (body := self._unpacker.next()) is not None:
                self._dispatch(protocol.decode_from_tracer(body))
        except ProtocolError as error:
            self._give_up(f"protocol error from the tracer: {error}")
        except Exception:
            # Else the rest of what it says would be read without what came of this: it is given up
            # as a whole, and takes its probes out when it sees that.
            _log.exception("internal error in the daemon")
            self._give_up("internal error in the daemon (see its log)")

    def _give_up(self, why: str) -> None:
        self._failure = why
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The tracer is ending; who waits for an answer gets none (asyncio)."""
        if exc is not None and not self._failure:
            self._read_rest()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(BackendGone(self._why()))
        self._waiting.clear()
        self._closed = True
        self._settle()

    def _read_rest(self) -> None:
        """What the tracer said before it closed its end.

        A request that we write just then fails, and asyncio gives the connection up unread.
        """
        with contextlib.suppress(OSError):
            while data := self._sock.recv(1 << 18):
                self.data_received(data)

    def _settle(self) -> None:
        if self._closed and self._exit is not None and not self.gone.done():
            self.gone.set_result(self._failure or self._exit)

    def _why(self) -> str:
        return self._failure or "its tracer ended"

    def _dispatch(self, message: protocol.Reply | protocol.Event) -> None:
        if isinstance(message, protocol.Ok | protocol.Refused):
            answer = self._waiting.pop(message.seq, None)
            if answer is None or answer.done():
                return
            if isinstance(message, protocol.Ok):
                answer.set_result(message)
            else:
                answer.set_exception(BackendRefused(message.reason))
        else:
            self._on_event(self, message)

    def watch(self, child: int) -> None:
        """Wait for the process ``child`` without blocking the loop; its end completes ``gone``."""
        loop = asyncio.get_running_loop()
        pidfd = os.pidfd_open(child)

        def ended() -> None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            self._exit = _how_it_ended(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            self._settle()

        loop.add_reader(pidfd, ended)


def preload() -> None:
    """Import what tracers may need: as another user they may not be able to read our files."""
    for name in LATE:
        importlib.import_module(name)


def _how_it_ended(status: int) -> str:
    if status == 0:
        return ""
    if status > 0:
        return f"internal error in the tracer (exit status {status}; see the log)"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"the tracer was killed by {name}"


class TracerProcesses:
    """Starts tracer processes: ``Backends``. ``main`` is what they run."""

    def __init__(self, main: TracerMain) -> None:
        self._main = main
        self._collected = time.monotonic()
        self._running: dict[int, TracerProcess] = {}

    @property
    def pids(self) -> KeysView[int]:
        """The processes that they are."""
        return self._running.keys()

    async def start(self, on_event: OnEvent, *, uid: int, gid: int) -> TracerProcess:
        """A tracer without targets yet; it runs with the rights of ``uid`` and ``gid``.

        Raises OSError when the machine has no room for one more process.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                for end in (ours, theirs):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
                # Freezing and its undoing make all objects old, and the collector looks at old
                # ones only when many young ones have got old by themselves.
                if time.monotonic() > self._collected + _COLLECT:
                    gc.collect()
                    self._collected = time.monotonic()
                # Frozen, the child's collector leaves the pages that it shares with us alone.
                gc.freeze()
                child = os.fork()
            except OSError:
                ours.close()
                raise
            if child == 0:
                _be_tracer(self._main, theirs, uid, gid)
            gc.unfreeze()
        loop = asyncio.get_running_loop()
        tracer = TracerProcess(ours, on_event)
        tracer.watch(child)
        self._running[child] = tracer
        tracer.gone.add_done_callback(lambda _: self._running.pop(child, None))
        ours.setblocking(False)
        await loop.create_connection(lambda: tracer, sock=ours)
        return tracer

    async def stop(self, patience: float) -> int:
        """End all tracers, wait at most ``patience`` seconds; how many are still at it is returned.

        Those go on by themselves: a target in uninterruptible sleep can only be let go after it.
        """
        end = time.monotonic() + patience
        # Again: one may have been on its way.
        while self._running and (left := end - time.monotonic()) > 0:
            for tracer in self._running.values():
                tracer.close()
            await asyncio.wait([tracer.gone for tracer in self._running.values()], timeout=left)
        return len(self._running)


def _be_tracer(main: TracerMain, sock: socket.socket, uid: int, gid: int) -> NoReturn:
    """The child's whole life; never returns into the daemon's event loop."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        # A signal meant for the daemon must not leave breakpoints behind; only the socket ends us.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        keep = sock.fileno()
        os.closerange(3, keep)
        os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))
        _keep_way_back()
        become(uid, gid)
        main(sock)
        status = 0
    except BaseException:
        with contextlib.suppress(Exception):
            traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(status)


def _keep_way_back() -> None:
    """Before root gives up its rights: leave open the way back from SCHED_IDLE, which a tracer
    makes itself where its hits come from one thread (engine/affinity.py)."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NICE, (_NICE_0, _NICE_0))


def become(uid: int, gid: int) -> None:
    """Take the identity of a user for good, with the groups that the system gives that user.

    The kernel then checks the tracer's ptrace calls as that user's own. Nothing changes where the
    process has this identity already.
    """
    if os.geteuid() == uid:
        return
    import pwd

    try:
        groups = os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        groups = [gid]
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
