"""The journal's native protocol."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import pytest

from dprobed import systemd_journal


@pytest.mark.parametrize("value", [b"short", b"two\nlines", b"x\n" * 300_000])
def test_an_entry(tmp_path: Path, value: bytes) -> None:
    """What does not fit into a datagram comes as a file."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        assert systemd_journal.post({"MESSAGE": "x", "A": value}, path)
        data, descriptors, _, _ = socket.recv_fds(sock, 1 << 20, 1)
    if descriptors:
        data = os.pread(descriptors[0], 1 << 20, 0)
        os.close(descriptors[0])
    assert data.startswith(b"MESSAGE=x\n")
    rest = data.split(b"\n", 1)[1]
    if b"\n" in value:
        assert rest == b"A\n" + struct.pack("<Q", len(value)) + value + b"\n"
    else:
        assert rest == b"A=" + value + b"\n"


def test_no_journal(tmp_path: Path) -> None:
    assert not systemd_journal.post({"MESSAGE": "x"}, str(tmp_path / "none"))
