"""Who is at the other end of a socket, as the kernel says."""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

#: struct ucred (include/linux/socket.h): pid, uid, gid.
_UCRED: Final = struct.Struct("iII")


class Credentials(NamedTuple):
    """A process, and the user and group as whom it connected."""

    pid: int
    uid: int
    gid: int


def credentials(sock: socket.socket) -> Credentials:
    """Those of the process that connected or listens at the other end (SO_PEERCRED, unix(7))."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return Credentials(*_UCRED.unpack(data))
