"""Credentials of the process at the other end of a socket (SO_PEERCRED)."""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

#: struct ucred (include/linux/socket.h): pid, uid, gid.
_UCRED: Final = struct.Struct("iII")


class Credentials(NamedTuple):
    """Process, user and group that connected."""

    pid: int
    uid: int
    gid: int


def credentials(sock: socket.socket) -> Credentials:
    """The credentials of the process that connected or listens (SO_PEERCRED, unix(7))."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return Credentials(*_UCRED.unpack(data))
