"""Tracer processes: forked, spoken to, and watched until they are gone.

A tracer is forked from the daemon's main thread (its pages stay shared with the daemon's) and ends
when its socket does: that is how the daemon's own death ends it too. A tracer is never killed by
the daemon, because only a tracer can take its breakpoints out of a target.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable

from dprobed.daemon.child_process import User, fork_as, how_it_ended
from dprobed.daemon.resolver_process import Resolvers
from dprobed.engine.affinity import keep_way_back
from dprobed.wire import protocol

#: What a tracer process runs, with its socket and the mailbox of its user's resolver; it returns
#: when the socket is at its end.
TracerMain = Callable[[socket.socket, socket.socket], None]
#: Room for the records that come while the daemon is busy elsewhere.
_SOCKET_BUFFER = 4 << 20


class TracerRefused(Exception):
    """The tracer answered that it did not do it; the text is one line for the user."""


class TracerGone(Exception):
    """The tracer's socket came to its end before the answer."""


class Tracer(asyncio.Protocol):
    """One tracer process, seen from the daemon's event loop.

    ``on_event`` is called with each event, in order, from the loop. ``gone`` is done when the
    process has ended and all that it said was read: with a line that says how it ended if that was
    not by plain exit, else with "".
    """

    def __init__(self, sock: socket.socket, on_event: Callable[[protocol.Event], None]) -> None:
        self._sock = sock
        self.gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._on_event = on_event
        self._unpacker = protocol.Unpacker()
        self._transport: asyncio.Transport | None = None
        self._waiting: dict[int, asyncio.Future[protocol.Ok]] = {}
        self._seq = 0
        self._protocol_error = ""
        self._ending = False
        self._closed = False
        self._exit: str | None = None

    async def request(self, make: Callable[[int], protocol.Request]) -> protocol.Ok:
        """Send ``make(seq)`` and wait for the answer; raises TracerRefused, TracerGone."""
        if self._transport is None or self._transport.is_closing() or self._ending:
            raise TracerGone(self._why())
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
        except protocol.ProtocolError as error:
            self._protocol_error = f"its tracer spoke nonsense: {error}"
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The tracer is ending; who waits for an answer gets none (asyncio)."""
        if exc is not None and not self._protocol_error:
            self._read_rest()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(TracerGone(self._why()))
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
            self.gone.set_result(self._protocol_error or self._exit)

    def _why(self) -> str:
        return self._protocol_error or "its tracer ended"

    def _dispatch(self, message: protocol.Reply | protocol.Event) -> None:
        if isinstance(message, protocol.Ok | protocol.Refused):
            answer = self._waiting.pop(message.seq, None)
            if answer is None or answer.done():
                return
            if isinstance(message, protocol.Ok):
                answer.set_result(message)
            else:
                answer.set_exception(TracerRefused(message.reason))
        else:
            self._on_event(message)

    def watch(self, child: int) -> None:
        """Wait for the process ``child`` without blocking the loop; its end completes ``gone``."""
        loop = asyncio.get_running_loop()
        pidfd = os.pidfd_open(child)

        def ended() -> None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            self._exit = how_it_ended("tracer", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            self._settle()

        loop.add_reader(pidfd, ended)


class Supervisor:
    """Starts tracers. ``main`` is what they run."""

    def __init__(self, main: TracerMain) -> None:
        self._main = main
        self.resolvers = Resolvers()
        self.tracers: dict[int, Tracer] = {}

    async def start(
        self, on_event: Callable[[protocol.Event], None], *, uid: int, gid: int
    ) -> Tracer:
        """A tracer without targets yet; it runs with the rights of ``uid`` and ``gid``.

        Raises OSError when the machine has no room for one more process.
        """
        user = uid, gid
        mailbox = self.resolvers.take(user)
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                for end in (ours, theirs):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
                child = fork_as(user, (theirs, mailbox), self._run)
            except BaseException:
                ours.close()
                self.resolvers.give_back(user)
                raise
        loop = asyncio.get_running_loop()
        # It is asked as soon as a program is put in: until then it has been started, too.
        loop.call_soon(self.resolvers.expect, user)
        tracer = Tracer(ours, on_event)
        tracer.watch(child)
        self.tracers[child] = tracer
        tracer.gone.add_done_callback(lambda _: self._ended(child, user))
        ours.setblocking(False)
        await loop.create_connection(lambda: tracer, sock=ours)
        return tracer

    def _run(self, become: Callable[[], None], sock: socket.socket, mailbox: socket.socket) -> None:
        """The life of a tracer process."""
        # A signal meant for the daemon must not leave breakpoints behind; only the socket ends us.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        keep_way_back()
        become()
        self._main(sock, mailbox)

    def _ended(self, child: int, user: User) -> None:
        self.tracers.pop(child, None)
        self.resolvers.give_back(user)

    def is_ours(self, pid: int) -> bool:
        """Whether it is a tracer or a resolver of this daemon."""
        return pid in self.tracers or pid in self.resolvers.processes

    async def stop(self, patience: float) -> int:
        """End all tracers, wait at most ``patience`` seconds; how many are still at it is returned.

        Those go on by themselves: a target in uninterruptible sleep can only be let go after it.
        """
        end = time.monotonic() + patience
        # Again: one may have been on its way.
        while self.tracers and (left := end - time.monotonic()) > 0:
            for tracer in self.tracers.values():
                tracer.close()
            await asyncio.wait([tracer.gone for tracer in self.tracers.values()], timeout=left)
        self.resolvers.stop()
        return len(self.tracers)
