"""Root's daemon and users who mean it harm, or have bad luck: all others are served meanwhile."""

from __future__ import annotations

import os
import socket as sockets
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.integration.client_support import Daemon, Peer
from tests.integration.policy_support import (
    DAEMON,
    NOBODY,
    Place,
    answer,
    asking,
    attach,
    cat_of,
    insert,
    refused,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can serve other users")

#: Seconds in which everybody has an answer, whatever others do.
PROMPTLY = 1.0


def greets_and_asks(daemon: Daemon) -> float:
    """Seconds that another user waits for a connection and an answer."""
    began = time.monotonic()
    with asking(daemon, DAEMON) as peer:
        assert answer(peer, {"type": "programs", "id": 1})["type"] == "listing"
    return time.monotonic() - began


@contextmanager
def reading(peer: Peer) -> Iterator[None]:
    """What comes to a client is read, and thrown away, until its connection ends."""

    def read() -> None:
        while peer.read() is not None:
            pass

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        peer.socket.shutdown(sockets.SHUT_RDWR)
        thread.join()


def flood(peer: Peer, line: bytes) -> None:
    """As many requests as the connection takes without waiting."""
    peer.socket.setblocking(False)
    lines = line * (1 + (1 << 16) // len(line))
    sent = 0
    try:
        while sent < 4 << 20:
            sent += peer.socket.send(lines)
    except BlockingIOError:
        pass
    peer.socket.settimeout(20)


@pytest.mark.parametrize("kind", ["malformed", "explained", "denied"])
def test_requests_by_the_thousand_hold_nobody_up(place: Place, kind: str) -> None:
    with place.daemon() as daemon, cat_of(DAEMON) as other, ExitStack() as stack:
        line = {
            "malformed": b"\n",
            "explained": b'{"type":"policyexplain","id":1,"pid":%d}\n' % os.getpid(),
            "denied": b'{"type":"attach","id":1,"pid":%d}\n' % other.pid,
        }[kind]
        greets_and_asks(daemon)
        for _ in range(4):
            peer = stack.enter_context(asking(daemon))
            stack.enter_context(reading(peer))
            flood(peer, line)
        assert greets_and_asks(daemon) < PROMPTLY


def test_malformed_requests_wait_for_who_does_not_read(place: Place) -> None:
    with place.daemon() as daemon, asking(daemon) as peer:
        flood(peer, b"\n")
        assert greets_and_asks(daemon) < PROMPTLY
        assert memory(daemon) < 90 << 20
        assert "not a message" in refused(peer.ask(b""))


def memory(daemon: Daemon) -> int:
    """Resident memory in bytes."""
    with open(f"/proc/{daemon.process.pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_the_bytes_that_a_user_has_the_daemon_hold_are_bounded(place: Place) -> None:
    half = b'{"type":"programs","id":1,"x":"' + b"x" * (15 << 20)
    with place.daemon() as daemon, ExitStack() as stack:
        before = memory(daemon)
        peers = [stack.enter_context(asking(daemon)) for _ in range(12)]
        ended = 0
        for peer in peers:
            try:
                peer.send(half)
            except OSError:
                ended += 1
        assert ended == 8
        assert memory(daemon) - before < 120 << 20
        assert greets_and_asks(daemon) < PROMPTLY


def test_descriptors_that_are_sent_along_hold_nobody_up(place: Place) -> None:
    """To close a socket that lingers takes as long as whoever made it likes."""
    with place.daemon() as daemon, ExitStack() as stack:
        listener = stack.enter_context(sockets.create_server(("127.0.0.1", 0)))
        peers = []
        for greets in (True, True, False):
            sender = stack.enter_context(sockets.create_connection(listener.getsockname()))
            stack.enter_context(listener.accept()[0])
            sender.setblocking(False)
            try:
                while sender.send(b"x" * (1 << 16)):
                    pass
            except BlockingIOError:
                pass
            sender.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 10))
            peer = stack.enter_context(asking(daemon)) if greets else Peer(daemon, None)
            peers.append(peer)
            sockets.send_fds(peer.socket, [b'{"type":"programs","id":1}\n'], [sender.fileno()])
            sender.close()
        opened = len(os.listdir(f"/proc/{daemon.process.pid}/fd"))  # noqa: PTH208
        assert greets_and_asks(daemon) < PROMPTLY
        assert opened < 20
        assert [peer.read() for peer in peers] == [None] * 3
        peers[2].__exit__()


def test_requests_are_answered_after_the_last_of_them_was_sent(place: Place) -> None:
    """As `socat` sends them: it shuts its side down when its input is at its end."""
    with place.daemon() as daemon, cat_of(NOBODY) as own, asking(daemon) as peer:
        attach(peer, own.pid)
        insert(peer, own.pid)
        with asking(daemon) as once:
            once.send(b'{"type":"query","id":1}\n{"type":"programs","id":2}\n')
            once.socket.shutdown(sockets.SHUT_WR)
            assert [once.read()["type"] for _ in range(2)] == ["status", "listing"]  # type: ignore[index]
            assert once.read() is None
