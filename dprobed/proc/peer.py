"""Credentials of the process at the other end of a socket (SO_PEERCRED)."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
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


def has_our_pids(pid: int) -> bool:
    """Whether process ids mean the same to process ``pid``, as we see it, as to us.

    0: we do not see it (pid_namespaces(7)). One that we see is in our namespace or in one below,
    where it has one more number (NSpid, proc(5)) for each level.
    """
    return pid != 0 and _numbers(str(pid)) == _numbers("self")


def _numbers(process: str) -> int:
    """How many process ids it has; 1 where that cannot be read."""
    try:
        lines = Path(f"/proc/{process}/status").read_bytes().splitlines()
    except OSError:
        return 1
    return next((len(line.split()) - 1 for line in lines if line.startswith(b"NSpid:")), 1)
