"""A client's connection: lines in, requests done in order, replies and reports out.

The send queue is bounded: records that do not fit are dropped and counted with their probe, and a
client that reads neither replies nor reports is disconnected. While replies are unread, further
requests of the client wait.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select as selecting
import time
from collections.abc import Callable
from typing import Final, Protocol

from dprobed import __version__
from dprobed.daemon.client import Client, Forbidden, Refusal
from dprobed.daemon.table import RequestTable
from dprobed.proc import peer
from dprobed.wire import messages
from dprobed.wire.framing import LineBuffer

#: Bytes in a client's send queue beyond which records are dropped.
RECORD_QUEUE: Final = 8 << 20
#: Bytes in a client's send queue beyond which it is disconnected.
HARD_LIMIT: Final = 64 << 20
#: Bytes buffered for all connections of one user (not root or the daemon's own): received and not
#: yet done, or sent and not yet read. Four times the longest message.
BYTES_OF_A_USER: Final = 64 << 20
#: A connection that buffers fewer bytes is not checked against that.
_UNCHECKED_BYTES: Final = 1 << 20
#: Seconds that a new connection has for its ``hello``.
HELLO_SECONDS: Final = 10.0
#: Bytes of whole requests that are read ahead of the one being done. (Only reading on shows that a
#: connection has ended.)
_READ_AHEAD: Final = 1 << 20
#: Seconds for which one connection's requests are done before others get their turn.
_TURN: Final = 0.001
_HELLO_FIRST: Final = "the first message must be hello"

_log = logging.getLogger("dprobed")


class Connections(Protocol):
    """All connections of a daemon (server.py)."""

    def admit(self, connection: Connection) -> str:
        """Admit a client; else why it is refused."""
        ...

    def leave(self, connection: Connection) -> None:
        """A connection has ended: its client is released."""
        ...

    def release(self, client: Client) -> None:
        """Remove what a client inserted and did not ask to keep (also what a request inserted after
        the end of its connection)."""
        ...

    def has_room(self, connection: Connection) -> bool:
        """Whether the connection's user is within ``BYTES_OF_A_USER``."""
        ...


#: Called with a handler's answer to a report; raises Refusal.
TakeAnswer = Callable[[Client, messages.Answer], None]


class Connection(asyncio.Protocol):
    """One client (``dprobed.daemon.client.Client``).

    ``facilities``: the registered ones, for ``welcome``. ``take_answer``: None in a private
    daemon, where no handlers can be registered.
    """

    def __init__(
        self,
        connections: Connections,
        table: RequestTable,
        facilities: Callable[[], dict[str, int]],
        take_answer: TakeAnswer | None,
    ) -> None:
        self.pid = self.uid = self.gid = -1
        self.kept = False
        self._connections: Final = connections
        self._table: Final = table
        self._facilities: Final = facilities
        self._take_answer: Final = take_answer
        self._transport: asyncio.Transport | None = None
        self._lines = LineBuffer()
        #: The client has shut down its side; requests already received are still done.
        self._ended = False
        self._worker: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._greeted = False
        self._lost = False
        self._deadline: asyncio.TimerHandle | None = None

    # -- asyncio.Protocol -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Get the peer's credentials (SO_PEERCRED), and refuse users who may not connect."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=1 << 20)
        self.pid, self.uid, self.gid = peer.credentials(transport.get_extra_info("socket"))
        refusal = self._connections.admit(self)
        if refusal:
            self._hang_up(messages.Error(error=refusal))
            return
        self._deadline = asyncio.get_running_loop().call_later(
            HELLO_SECONDS,
            lambda: self._hang_up(
                messages.Error(error=f"no hello came within {HELLO_SECONDS:g} s; closing")
            ),
        )

    def data_received(self, data: bytes) -> None:
        """Split received bytes into lines, and have the requests done."""
        if self._transport is None or self._transport.is_closing():
            return
        lines = self._lines
        lines.feed(data)
        if lines.unfinished > messages.MAX_LINE:
            text = f"a message is longer than {messages.MAX_LINE} bytes; closing"
            self._hang_up(messages.Error(error=text))
            return
        if len(lines) > _UNCHECKED_BYTES and not self._connections.has_room(self):
            text = f"the connections of user {self.uid} hold more than {BYTES_OF_A_USER} bytes"
            self._hang_up(messages.Error(error=f"{text}; closing"))
            return
        if lines.whole > _READ_AHEAD:
            self._transport.pause_reading()
        if lines.whole and self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._work())

    def eof_received(self) -> bool:
        """The client shut down its side: close when its requests are answered, or at once where it
        closed the whole socket."""
        self._ended = self._worker is not None and not self._peer_closed()
        return self._ended

    def _peer_closed(self) -> bool:
        """Whether the peer closed its socket, and did not just shut it down for writing."""
        assert self._transport is not None
        poll = selecting.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), 0)
        return bool(poll.poll(0))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended: release the client."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._writable.set()
        self._lost = True
        self._connections.leave(self)

    def pause_writing(self) -> None:
        """The send buffer is full: the client reads too slowly."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._writable.set()

    # --- as a Client ---

    def offer(self, lines: bytes) -> bool:
        """Send record lines if the send queue has room for all of them."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        waiting = transport.get_write_buffer_size()
        if waiting + len(lines) > RECORD_QUEUE:
            return False
        if waiting > _UNCHECKED_BYTES and not self._connections.has_room(self):
            return False
        transport.write(lines)
        return True

    def tell(self, message: messages.Report | messages.Reply) -> None:
        """Send a message; a client that leaves too much unread is disconnected."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        waiting = transport.get_write_buffer_size()
        if waiting > HARD_LIMIT or (
            waiting > _UNCHECKED_BYTES and not self._connections.has_room(self)
        ):
            _log.warning("client %d does not read what it is sent: connection closed", self.pid)
            transport.abort()
            return
        transport.write(messages.encode(message))

    @property
    def buffered(self) -> int:
        """Bytes received or to be sent that are in buffers."""
        unread = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return len(self._lines) + unread

    # -- requests ------------------------------------------------------------------------------

    def _hang_up(self, message: messages.Error) -> None:
        self.tell(message)
        self._lines.clear()
        if self._transport is not None:
            self._transport.close()

    async def _work(self) -> None:
        """Do the received requests, in order."""
        transport = self._transport
        assert transport is not None
        turn = time.monotonic() + _TURN
        while not self._lost and not transport.is_closing():
            line = self._lines.next()
            if line is None:
                break
            if self._lines.whole <= _READ_AHEAD:
                transport.resume_reading()
            await self._answer(line)
            if time.monotonic() > turn:
                await asyncio.sleep(0)
                turn = time.monotonic() + _TURN
        self._worker = None
        if self._lost:
            self._connections.release(self)
        elif self._ended:
            transport.close()

    async def _answer(self, line: bytes) -> None:
        request_id: int | None = None
        try:
            request = messages.decode_request(line)
            if isinstance(request, messages.Answer):
                self._take(request)
                return
            request_id = request.id
            _log.debug("client %d: %s", self.pid, type(request).__name__.lower())
            await self._writable.wait()
            if not self._greeted:
                self._greet(request)
            elif isinstance(request, messages.Hello):
                raise Refusal("hello was said already")
            else:
                self.tell(await self._table.answer(self, request))
        except messages.MessageError as error:
            await self._refuse(messages.Error(error=str(error), id=error.id))
        except Refusal as refusal:
            await self._refuse(messages.Error(error=str(refusal), id=request_id))
        except Exception:
            _log.exception("a request of client %d failed", self.pid)
            text = "internal error in the daemon (see its log)"
            self.tell(messages.Error(error=text, id=request_id))

    async def _refuse(self, error: messages.Error) -> None:
        await self._writable.wait()
        if self._greeted:
            self.tell(error)
        else:
            self._hang_up(error)

    def _greet(self, request: messages.Request) -> None:
        if not isinstance(request, messages.Hello):
            self._hang_up(messages.Error(id=request.id, error=_HELLO_FIRST))
            return
        if request.protocol != messages.PROTOCOL:
            text = (
                f"this is dprobed {__version__}, which speaks version {messages.PROTOCOL} of the "
                f"protocol, not {request.protocol}; use a client of the same version"
            )
            self._hang_up(messages.Error(id=request.id, error=text))
            return
        self._greeted = True
        if self._deadline is not None:
            self._deadline.cancel()
        self.tell(
            messages.Welcome(
                id=request.id,
                protocol=messages.PROTOCOL,
                version=__version__,
                pid=os.getpid(),
                uid=os.geteuid(),
                facilities=self._facilities(),
            )
        )

    def _take(self, answer: messages.Answer) -> None:
        """A handler's answer; taken even while the client has replies unread."""
        if not self._greeted:
            self._hang_up(messages.Error(error=_HELLO_FIRST))
        elif self._take_answer is None:
            raise Refusal(f"this connection has no handler {answer.handler}")
        else:
            try:
                self._take_answer(self, answer)
            except Forbidden as refusal:
                self._table.refused(self, answer, refusal)
                raise
