"""Entries for the systemd journal, by its native protocol.

One datagram an entry: a line ``NAME=value`` for each field, or, where the value has line feeds,
``NAME``, a line feed, its length (64 bits, little-endian), the value and a line feed. What no
datagram can hold goes as a sealed file in memory (systemd.io, "Native Journal Protocol").

By hand, and not by systemd-python: libsystemd's ``sd_journal_sendv`` knows the system's journal
alone, and traces go to that of a namespace too; it blocks where the journal is busy, and the
daemon's loop must not. It would save nothing: making and sending an entry of seven fields takes
8 µs here, most of it the kernel's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Mapping
from typing import Final

_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def socket_path(namespace: str = "") -> str:
    """Where the journal of a namespace (empty: the system's) takes entries."""
    return f"/run/systemd/journal{'.' + namespace if namespace else ''}/socket"


def entry(fields: Mapping[str, str | bytes]) -> bytes:
    """The fields as the journal takes them."""
    parts = []
    for name, value in fields.items():
        data = value if isinstance(value, bytes) else value.encode(errors="surrogateescape")
        if b"\n" in data:
            parts.append(name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n")
        else:
            parts.append(name.encode() + b"=" + data + b"\n")
    return b"".join(parts)


def send(sock: socket.socket, data: bytes, path: str) -> None:
    """An entry to the journal that listens at ``path``; raises OSError."""
    try:
        sock.sendto(data, path)
    except OSError as error:
        if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
            raise
        _send_large(sock, data, path)


def _send_large(sock: socket.socket, data: bytes, path: str) -> None:
    memory = os.memfd_create("dprobed-journal", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    try:
        os.write(memory, data)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
        # Not socket.send_fds, which forgets the address (Python 3.11).
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, memory.to_bytes(4, "little"))
        sock.sendmsg([b""], [rights], 0, path)
    finally:
        os.close(memory)


def post(fields: Mapping[str, str | bytes], path: str = "") -> bool:
    """Make one entry, in the system's journal by default; false where none takes it at once."""
    path = path or os.environ.get("DPROBED_JOURNAL_SOCKET") or socket_path()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        try:
            send(sock, entry(fields), path)
        except OSError:
            return False
    return True
