"""Tracer processes, from the daemon's side: forked, sent requests, and watched until they exit.

A tracer is forked from the daemon's main thread (its pages stay shared with the daemon's) and ends
when its socket is closed, also by the daemon's death. The daemon never kills a tracer, because only
the tracer can remove its breakpoints from a target.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import time
from collections import ChainMap
from collections.abc import Callable, Container, KeysView
from typing import Final

from dprobed.backend import BackendGone, BackendRefused, OnEvent
from dprobed.daemon.child_process import User, fork_as, how_it_ended
from dprobed.daemon.resolver_process import Resolvers
from dprobed.wire import messages, protocol
from dprobed.wire.framing import ProtocolError, Unpacker

#: What a tracer process runs, with its socket and the mailbox of its user's resolver; it returns
#: when the socket is at its end.
TracerMain = Callable[[socket.socket, socket.socket], None]
#: Bytes of the socket's buffer: records wait there while the daemon is busy.
_SOCKET_BUFFER = 4 << 20
#: RLIMIT_NICE that allows nice 0: 20 - nice (getrlimit(2)).
_NICE_0: Final = 20

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
        # Packed before its answer is awaited: what cannot be packed has none.
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
        """The connection is set up (asyncio)."""
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
            # Its further messages would be handled without the effect of this one: the connection
            # is closed, and the tracer then removes its probes.
            _log.exception("internal error in the daemon")
            self._give_up("internal error in the daemon (see its log)")

    def _give_up(self, why: str) -> None:
        self._failure = why
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The tracer is ending: fail the requests that wait for an answer (asyncio)."""
        if exc is not None and not self._failure:
            self._read_rest()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(BackendGone(self._why()))
        self._waiting.clear()
        self._closed = True
        self._settle()

    def _read_rest(self) -> None:
        """Read what the tracer sent before it closed its end.

        A request that is written just then fails, and asyncio drops the connection unread.
        """
        with contextlib.suppress(OSError):
            while data := self._sock.recv(1 << 18):
                self.data_received(data)

    def _settle(self) -> None:
        if self._closed and self._exit is not None and not self.gone.done():
            self.gone.set_result(self._failure or self._exit)

    def _why(self) -> str:
        return self._failure or "the tracer ended"

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
        """Wait for the exit of ``child`` without blocking the loop; it completes ``gone``."""
        loop = asyncio.get_running_loop()
        pidfd = os.pidfd_open(child)

        def ended() -> None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            self._exit = how_it_ended("tracer", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            self._settle()

        loop.add_reader(pidfd, ended)


class TracerProcesses:
    """Starts tracer processes: ``Backends``. ``main`` is what they run."""

    def __init__(self, main: TracerMain) -> None:
        self._main: Final = main
        self._running: Final[dict[int, TracerProcess]] = {}
        self.resolvers: Final = Resolvers()
        #: Pids of the tracers and of the resolvers.
        self.pids: Final[Container[int]] = ChainMap[int, object](
            self._running,  # type: ignore[arg-type]
            self.resolvers.processes,  # type: ignore[arg-type]
        )

    @property
    def tracers(self) -> KeysView[int]:
        """Pids of the tracers."""
        return self._running.keys()

    async def start(self, on_event: OnEvent, *, uid: int, gid: int, owner: int) -> TracerProcess:
        """A tracer without targets yet; it runs with the rights of ``uid`` and ``gid``.

        ``owner``: whose processes it is to have.
        Raises OSError when the machine has no room for one more process.
        """
        user = uid, gid
        with contextlib.ExitStack() as undo:
            mailbox = self.resolvers.take(user, owner)
            undo.callback(self.resolvers.give_back, user, owner)
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            with theirs:
                for end in (ours, theirs):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
                child = fork_as(user, (theirs, mailbox), self._run)
            tracer = TracerProcess(ours, on_event)
            try:
                tracer.watch(child)
            except OSError:
                # No descriptor is left: one that cannot be watched does not stay.
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise
            undo.pop_all()
        loop = asyncio.get_running_loop()
        # Started now, because the first insertion needs it.
        loop.call_soon(self.resolvers.expect, user, owner)
        self._running[child] = tracer
        tracer.gone.add_done_callback(lambda _: self._ended(child, user, owner))
        ours.setblocking(False)
        await loop.create_connection(lambda: tracer, sock=ours)
        return tracer

    def _run(self, become: Callable[[], None], sock: socket.socket, mailbox: socket.socket) -> None:
        """Run the tracer, in the forked child."""
        # A signal meant for the daemon must not leave breakpoints behind; only the socket ends it.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        _keep_way_back()
        become()
        self._main(sock, mailbox)

    def _ended(self, child: int, user: User, owner: int) -> None:
        self._running.pop(child, None)
        self.resolvers.give_back(user, owner)

    async def stop(self, patience: float) -> int:
        """End all tracers and wait at most ``patience`` seconds; how many still run.

        Those end by themselves: from a target in uninterruptible sleep they can detach only later.
        """
        end = time.monotonic() + patience
        # In a loop: one may have been starting.
        while self._running and (left := end - time.monotonic()) > 0:
            for tracer in self._running.values():
                tracer.close()
            await asyncio.wait([tracer.gone for tracer in self._running.values()], timeout=left)
        self.resolvers.stop()
        return len(self._running)


def _keep_way_back() -> None:
    """Allow the later user to leave SCHED_IDLE again (RLIMIT_NICE), which a tracer sets on itself
    where its hits come from one thread (engine/affinity.py)."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NICE, (_NICE_0, _NICE_0))
