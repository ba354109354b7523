"""An entry in the journal for each core, such as systemd-coredump makes: coredumpctl lists it.

The journal's native protocol: one datagram, ``NAME=value`` lines, or for a value with a newline
the name, a newline, 8 bytes of length and the value. What does not fit into a datagram goes into a
sealed memory file, whose descriptor is sent.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Mapping
from typing import Final

#: SD_MESSAGE_COREDUMP (systemd/sd-messages.h).
MESSAGE_ID: Final = "fc2e22bc6ee647b6b90729ab34a250b1"
SOCKET: Final = "/run/systemd/journal/socket"
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def encode(fields: Mapping[str, bytes]) -> bytes:
    """The fields as the journal takes them."""
    parts = []
    for name, value in fields.items():
        if b"\n" in value:
            parts.append(name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n")
        else:
            parts.append(name.encode() + b"=" + value + b"\n")
    return b"".join(parts)


def send(fields: Mapping[str, bytes], path: str = SOCKET) -> bool:
    """Make an entry; false where no journal takes it."""
    data = encode(fields)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        try:
            sock.sendto(data, path)
            return True
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                return False
        memory = os.memfd_create("dprobed-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.write(memory, data)
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
            # Not socket.send_fds, which forgets the address (Python 3.11).
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, memory.to_bytes(4, "little"))
            sock.sendmsg([], [rights], 0, path)
            return True
        except OSError:
            return False
        finally:
            os.close(memory)
