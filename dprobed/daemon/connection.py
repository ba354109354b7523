"""One connection of a client: lines in, one request after the other, replies and reports out.

What a client does not read stays in a queue of bounded size: records beyond it are dropped and
counted with their probe; a client that takes neither replies nor reports is cut off. While a client
leaves replies unread, its further requests wait.
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
from dprobed.daemon.client import Client, Refusal
from dprobed.daemon.table import RequestTable
from dprobed.proc import peer
from dprobed.wire import messages
from dprobed.wire.framing import LineBuffer

#: Bytes of records that may wait for a client.
RECORD_QUEUE: Final = 8 << 20
#: Bytes of anything that may wait for a client before it is cut off.
HARD_LIMIT: Final = 64 << 20
#: Bytes that all connections of one user other than root and the daemon's own may have us hold,
#: read and not yet done or sent and not yet read: four times the longest message.
BYTES_OF_A_USER: Final = 64 << 20
#: Bytes of a connection that are counted among these only beyond it.
_LITTLE: Final = 1 << 20
#: Seconds that a new connection has for its ``hello``.
HELLO_SECONDS: Final = 10.0
#: Bytes of whole requests that are read ahead of the one that is being done. (The end of a
#: connection is only seen by reading on.)
_AHEAD: Final = 1 << 20
#: Seconds for which requests of one connection are done before others have their turn.
_TURN: Final = 0.001
_HELLO_FIRST: Final = "the first message must be hello"

_log = logging.getLogger("dprobed")


class Connections(Protocol):
    """All connections of a daemon (server.py)."""

    def admit(self, connection: Connection) -> str:
        """Why this client may not command; empty if it may."""
        ...

    def leave(self, connection: Connection) -> None:
        """The connection has ended: whatever its client did not ask to keep goes out."""
        ...

    def release(self, client: Client) -> None:
        """What a request did after the end of its connection goes out as well."""
        ...

    def has_room(self, connection: Connection) -> bool:
        """Whether the user of a connection leaves room for others."""
        ...


#: Takes a handler's answer to a report; raises Refusal.
TakeAnswer = Callable[[Client, messages.Answer], None]


class Connection(asyncio.Protocol):
    """One client (``dprobed.daemon.client.Client``).

    ``facilities``: those that there are, for ``welcome``. ``take_answer``: None in a private
    daemon, which has no handlers of others.
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
        #: Nothing more will come, and what has come is still to be done.
        self._ended = False
        self._worker: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._greeted = False
        self._lost = False
        self._deadline: asyncio.TimerHandle | None = None

    # -- asyncio.Protocol -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask the kernel who it is, and refuse who may not command."""
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
        """Cut what came into lines."""
        if self._transport is None or self._transport.is_closing():
            return
        lines = self._lines
        lines.feed(data)
        if lines.unfinished > messages.MAX_LINE:
            text = f"a message is longer than {messages.MAX_LINE} bytes; closing"
            self._hang_up(messages.Error(error=text))
            return
        if len(lines) > _LITTLE and not self._connections.has_room(self):
            text = f"the connections of user {self.uid} hold more than {BYTES_OF_A_USER} bytes"
            self._hang_up(messages.Error(error=f"{text}; closing"))
            return
        if lines.whole > _AHEAD:
            self._transport.pause_reading()
        if lines.whole and self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._work())

    def eof_received(self) -> bool:
        """The client has nothing more to ask: the connection ends when that is answered, or at
        once where nobody is there any longer to read it."""
        self._ended = self._worker is not None and not self._is_gone()
        return self._ended

    def _is_gone(self) -> bool:
        """Whether the other end is closed, and not just shut for writing."""
        assert self._transport is not None
        poll = selecting.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), 0)
        return bool(poll.poll(0))

    def connection_lost(self, exc: Exception | None) -> None:
        """Whatever this client did not ask to keep goes out."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._writable.set()
        self._lost = True
        self._connections.leave(self)

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._writable.set()

    # --- as a Client ---

    def offer(self, lines: bytes) -> bool:
        """Send record lines if there is room for all of them."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        waiting = transport.get_write_buffer_size()
        if waiting + len(lines) > RECORD_QUEUE:
            return False
        if waiting > _LITTLE and not self._connections.has_room(self):
            return False
        transport.write(lines)
        return True

    def tell(self, message: messages.Report | messages.Reply) -> None:
        """Send a message; a client that lets too much wait is cut off."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        waiting = transport.get_write_buffer_size()
        if waiting > HARD_LIMIT or (waiting > _LITTLE and not self._connections.has_room(self)):
            _log.warning("client %d does not read what it is sent: connection closed", self.pid)
            transport.abort()
            return
        transport.write(messages.encode(message))

    @property
    def held(self) -> int:
        """Bytes that we hold for it."""
        unread = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return len(self._lines) + unread

    # -- requests ------------------------------------------------------------------------------

    def _hang_up(self, message: messages.Error) -> None:
        self.tell(message)
        self._lines.clear()
        if self._transport is not None:
            self._transport.close()

    async def _work(self) -> None:
        """Do the requests that have come, in order."""
        transport = self._transport
        assert transport is not None
        turn = time.monotonic() + _TURN
        while not self._lost and not transport.is_closing():
            line = self._lines.next()
            if line is None:
                break
            if self._lines.whole <= _AHEAD:
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
                self._heard(request)
                return
            request_id = request.id
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

    def _heard(self, answer: messages.Answer) -> None:
        """A handler's answer. It does not wait for the client to read: it may have much to read."""
        if not self._greeted:
            self._hang_up(messages.Error(error=_HELLO_FIRST))
        elif self._take_answer is None:
            raise Refusal(f"this connection has no handler {answer.handler}")
        else:
            self._take_answer(self, answer)
