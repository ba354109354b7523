"""Entries for the systemd journal: the system's by systemd-python, that of a namespace by hand.

libsystemd's ``sd_journal_sendv`` knows the system's journal alone, and traces go to that of a
namespace, too. There an entry is one datagram: a line ``NAME=value`` for each field, or, where the
value has line feeds, ``NAME``, a line feed, its length (64 bits, little-endian), the value and a
line feed. What no datagram can hold goes as a sealed file in memory (systemd.io, "Native Journal
Protocol").

``sd_journal_sendv`` waits for a journal that is busy, and the daemon's loop must not: whether it
takes an entry at once is asked before.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
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


def submit(fields: Mapping[str, str | bytes], patience: float = 0.0) -> None:
    """Make one entry in the system's journal, which has ``patience`` seconds to have room for it.

    Raises OSError where none takes it.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(socket_path())
        # Not writable: as many wait to be read as may (unix_dgram_poll, net/unix/af_unix.c).
        ready = select.poll()
        ready.register(sock, select.POLLOUT)
        if not ready.poll(1000 * patience):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    # Here: most processes of ours never make one.
    from systemd import journal

    journal.sendv(*(_pair(name, value) for name, value in fields.items()))


def post(fields: Mapping[str, str | bytes], path: str = "") -> bool:
    """Make one entry, in the system's journal by default; false where none takes it at once."""
    path = path or os.environ.get("DPROBED_JOURNAL_SOCKET", "")
    try:
        if path:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                send(sock, entry(fields), path)
        else:
            submit(fields)
    except OSError:
        return False
    return True


def _pair(name: str, value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.encode(errors="surrogateescape")
    return name.encode() + b"=" + data


#: What is told by entries of their own kind: ``MESSAGE_ID`` by name. docs/service.md lists them,
#: etc/systemd/dprobed.catalog explains them.
EVENTS: Final = {
    "started": "77f7758420154d5089c48115995af15e",
    "denied": "b46fa630377448d6826a7a4cff6f710b",
    "refused": "e2f1f3d9c2f14bb08d1bb0a6a1a5c7d3",
    "inserted": "1c0cdafaee9c41eb92496b7bb0f767f5",
    "deployed": "02cbea7f4fe84432955433e6578b3485",
    "removed": "6f184c70b0a843b49bd9044f2f9886da",
    "spent": "d53ac0d27e064d0c8a1fb7b2c1b25a3e",
    "held": "0c3fb8b17d1b4a0f9d6c6c4f2f0b9a71",
    "resumed": "8e7d5f5a3f3c4d0f9a0e7b1f6c2d4e58",
    "debugged": "5a0c9e7b3d8e4e0f9b1d7c6a2f4e8d90",
    "dumped": "b3743ce648bc42908d00e82f5c7df46f",
    "reloaded": "f51c0f804f6b44149d0b4dd996171a5a",
    "not-reloaded": "8a7a790e84394a28abae5a6d94469072",
}


def about(event: str, **fields: object) -> dict[str, str]:
    """The fields of an entry about one of ``EVENTS``, as ``extra`` of a log message.

    ``pid``: the process that it is about, of which the journal adds what it knows.
    """
    found = {"MESSAGE_ID": EVENTS[event], "DPROBE_EVENT": event}
    if "pid" in fields:
        found["OBJECT_PID"] = str(fields["pid"])
    return found | {f"DPROBE_{name.upper()}": str(value) for name, value in fields.items()}
