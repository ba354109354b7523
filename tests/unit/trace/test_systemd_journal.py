"""Entries of the journal, as a journal's socket gets them."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from struct import pack

import pytest

from dprobed.trace.systemd_journal import BURST, RATE, SystemdJournalWriter
from tests.trace_support import line, raw


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "socket"))
        sock.setblocking(False)
        yield sock


def parse(data: bytes) -> dict[str, bytes]:
    """An entry, read as the journal reads it."""
    fields = {}
    while data:
        head, _, data = data.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            size = int.from_bytes(data[:8], "little")
            value = data[8 : 8 + size]
            assert data[8 + size : 9 + size] == b"\n"
            data = data[9 + size :]
        fields[name.decode()] = value
    return fields


def receive(sock: socket.socket) -> dict[str, bytes] | None:
    try:
        data, control, _, _ = sock.recvmsg(1 << 20, 1000)
    except BlockingIOError:
        return None
    if control:
        (descriptor,) = array.array("i", control[0][2])
        assert data == b""
        data = os.pread(descriptor, 64 << 20, 0)
        os.close(descriptor)
    return parse(data)


def test_fields(receiver: socket.socket, tmp_path: Path) -> None:
    journal = SystemdJournalWriter(str(tmp_path / "socket"))
    log = pack("<Q", 5) + b"\x01\x03\x00a\nb" + pack("<bHQ", 0, 2, 16) + b"\1\2"
    assert journal.write([line(raw(log, (0, 1), exception=(3, 1, 2), exit=-3))]) == 0
    journal.close()
    found = receive(receiver)
    assert found is not None
    assert found["MESSAGE"].startswith(b"0.001000 cpu1 sort[4242/4243] program1 7.3")
    del found["MESSAGE"]
    raised = found.pop("DPROBE_EXCEPTION")
    assert raised
    assert found == {
        "PRIORITY": b"6",
        "SYSLOG_IDENTIFIER": b"dprobed",
        "OBJECT_PID": b"4242",
        "DPROBE_PROGRAM": b"program1",
        "DPROBE_MODULE": b"/lib/lib1.so",
        "DPROBE_PLACE": b"function1+0x4",
        "DPROBE_MAJOR": b"7",
        "DPROBE_MINOR": b"3",
        "DPROBE_PID": b"4242",
        "DPROBE_TID": b"4243",
        "DPROBE_COMM": b"sort",
        "DPROBE_UID": b"1000",
        "DPROBE_CPU": b"1",
        "DPROBE_TIME": b"1000000",
        "DPROBE_HIT": b"1",
        "DPROBE_EXIT": b"exception",
        "DPROBE_WORD_0": b"5",
        "DPROBE_STRING_0": b"a\nb",
        "DPROBE_MEMORY_0": b"0102",
        "DPROBE_MEMORY_0_ADDRESS": b"16",
        "DPROBE_EXCEPTION_CODE": b"3",
        "DPROBE_EXCEPTION_PARM1": b"1",
        "DPROBE_EXCEPTION_PARM2": b"2",
    }


def test_an_entry_that_no_datagram_holds(receiver: socket.socket, tmp_path: Path) -> None:
    journal = SystemdJournalWriter(str(tmp_path / "socket"))
    data = b"x" * 60_000
    log = b"".join(pack("<bH", 1, len(data)) + data for _ in range(8))
    assert journal.write([line(raw(log))]) == 0
    journal.close()
    found = receive(receiver)
    assert found is not None
    assert {found[f"DPROBE_STRING_{number}"] for number in range(8)} == {data}


def test_rate(tmp_path: Path) -> None:
    """A burst passes, then so many a second; what does not is counted, and said in the journal."""
    path = tmp_path / "socket"
    now = 100.0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.setblocking(False)
        journal = SystemdJournalWriter(str(path), now=lambda: now)
        lost = got = 0

        def drain() -> list[dict[str, bytes]]:
            found = []
            while (each := receive(sock)) is not None:
                found.append(each)
            return found

        for _ in range(BURST + 50):
            # One at a time: the queue of a datagram socket is short.
            lost += journal.write([line(raw())])
            got += len(drain())
        assert (got, lost) == (BURST, 50)
        now += 0.5
        assert journal.write([line(raw())]) == 0
        said, record = drain()
        assert said["DPROBE_DROPPED"] == b"50"
        assert said["PRIORITY"] == b"4"
        assert record["DPROBE_HIT"] == b"1"
        sent = 0
        while journal.write([line(raw())]) == 0:
            sent += 1
            drain()
        assert sent == RATE // 2 - 2
        journal.close()
        assert drain()[-1]["DPROBE_DROPPED"] == b"1"


def test_no_journal(tmp_path: Path) -> None:
    journal = SystemdJournalWriter(str(tmp_path / "socket"))
    with pytest.raises(FileNotFoundError):
        journal.write([line(raw())])
    journal.close()
