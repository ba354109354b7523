"""Who is at the other end of a Unix socket."""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

#: struct ucred (include/linux/socket.h): pid, uid, gid.
_UCRED: Final = struct.Struct("iII")


class Peer(NamedTuple):
    """The process that connected or listened, as the kernel noted it then.

    ``pid`` is 0 where that process is not in our pid namespace.
    """

    pid: int
    uid: int
    gid: int


def credentials(sock: socket.socket) -> Peer:
    """The peer of a connected Unix socket (SO_PEERCRED, unix(7)); raises OSError."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return Peer(*_UCRED.unpack(data))
