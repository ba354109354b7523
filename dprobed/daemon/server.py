"""The control socket's server: accepts connections, a bounded number for each user.

A connection's requests are done in order, those of all connections in turns: no client waits for
another's thousand requests (connection.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Final

from dprobed.daemon import peer_socket
from dprobed.daemon.client import Client, Forbidden
from dprobed.daemon.connection import BYTES_OF_A_USER, Connection, TakeAnswer
from dprobed.daemon.gate import Gate
from dprobed.daemon.table import RequestTable
from dprobed.daemon.tasks import Tasks

MAX_CONNECTIONS: Final = 128
#: Connections of one user (not root or the daemon's own), so that no user can keep others out.
MAX_OF_A_USER: Final = 32
#: Seconds until ``accept`` is tried again after it failed.
_ACCEPT_AGAIN: Final = 0.5

_log = logging.getLogger("dprobed")


class Server:
    """Accepts connections and releases clients that are gone.

    ``clients``: the connected ones, maintained here. ``on_release``: called with each client that
    is gone; ``on_last_gone``: when the last one is.
    """

    def __init__(
        self,
        gate: Gate,
        table: RequestTable,
        tasks: Tasks,
        *,
        clients: set[Client],
        facilities: Callable[[], dict[str, int]],
        take_answer: TakeAnswer | None,
        on_release: Sequence[Callable[[Client], None]],
        on_last_gone: Callable[[], None],
    ) -> None:
        self._gate: Final = gate
        self._table: Final = table
        self._tasks: Final = tasks
        self._clients: Final = clients
        self._facilities: Final = facilities
        self._take_answer: Final = take_answer
        self._on_release: Final = on_release
        self._on_last_gone: Final = on_last_gone
        self._connections: set[Connection] = set()
        self._listener: socket.socket | None = None
        self._out_of_room = False

    # -- as connection.Connections ----------------------------------------------------------------

    def admit(self, connection: Connection) -> str:
        """Admit a client; else why it is refused, which is noted."""
        refusal = self._refusal(connection)
        if refusal is None:
            self._connections.add(connection)
            self._clients.add(connection)
            return ""
        self._gate.audit.refuse(connection.pid, connection.uid, "connect", refusal)
        return str(refusal)

    def _refusal(self, connection: Connection) -> Forbidden | None:
        own, uid = os.geteuid(), connection.uid
        if own != 0 and uid not in (0, own):
            text = f"only root and user {own} may command this dprobed; start one of your own"
            return Forbidden(text, "another user's daemon")
        same = sum(each.uid == uid for each in self._connections)
        if uid not in (0, own) and same >= MAX_OF_A_USER:
            text = f"{MAX_OF_A_USER} clients of user {uid} are connected already; try again later"
            return Forbidden(text, "quota")
        if len(self._connections) >= MAX_CONNECTIONS * (2 if uid == 0 else 1):
            text = f"{MAX_CONNECTIONS} clients are connected already; try again later"
            return Forbidden(text, "quota")
        return None

    def leave(self, connection: Connection) -> None:
        """A connection has ended."""
        self._clients.discard(connection)
        if connection in self._connections:
            self._connections.remove(connection)
            if not self._connections:
                self._on_last_gone()
        self.release(connection)

    def release(self, client: Client) -> None:
        """Remove what a client inserted and did not ask to keep."""
        for release in self._on_release:
            release(client)

    def has_room(self, connection: Connection) -> bool:
        """Whether the connection's user is within ``BYTES_OF_A_USER``."""
        if self._gate.commands(connection):
            return True
        its = (each.buffered for each in self._connections if each.uid == connection.uid)
        return sum(its) <= BYTES_OF_A_USER

    # -- accepting connections -----------------------------------------------------------------

    def connection(self) -> Connection:
        """A connection of this server, not yet on a socket."""
        return Connection(self, self._table, self._facilities, self._take_answer)

    def listen(self, sock: socket.socket) -> None:
        """Accept connections on a listening socket."""
        peer_socket.never_wait()
        sock.setblocking(False)
        self._listener = sock
        self._start_accepting()

    def _start_accepting(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            sock = peer_socket.accept(listener)
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            # The listener stays readable while a connection is pending.
            if not self._out_of_room:
                _log.error("cannot accept connections: %s", error.strerror)
            self._out_of_room = True
            loop.remove_reader(listener)
            loop.call_later(_ACCEPT_AGAIN, self._start_accepting)
            return
        self._out_of_room = False
        sock.setblocking(False)
        self._tasks.start(self._serve(sock))

    async def _serve(self, sock: socket.socket) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(self.connection, sock)

    async def serve_one(self, sock: socket.socket) -> None:
        """Serve a socket that is connected already."""
        await asyncio.get_running_loop().create_connection(self.connection, sock=sock)

    def stop(self) -> None:
        """Stop accepting connections."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()  # Clients that connect now are refused at once.
            self._listener = None
