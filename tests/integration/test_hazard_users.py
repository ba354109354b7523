"""Root's daemon and users who mean it harm, or have bad luck: all others are served meanwhile."""

from __future__ import annotations

import os
import resource
import shutil
import socket as sockets
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.client_support import PATIENCE, Daemon, Peer, cat, lowest_free
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
    upload,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can serve other users")

#: Seconds for which the daemon's loop may be busy until everybody has an answer.
PROMPTLY = 1.0
#: Seconds for which a socket lingers.
LINGER = 10


def busy(daemon: Daemon) -> float:
    """Seconds of CPU that the daemon's loop has had: a machine that stands still does not count."""
    text = Path(f"/proc/{daemon.process.pid}/schedstat").read_text()
    return int(text.split()[0]) / 1e9


def greets_and_asks(daemon: Daemon) -> float:
    """For how long the loop is busy until another user has a connection and an answer."""
    began = busy(daemon)
    with asking(daemon, DAEMON) as peer:
        assert answer(peer, {"type": "programs", "id": 1})["type"] == "listing"
    return busy(daemon) - began


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
            sender.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, LINGER))
            peer = stack.enter_context(asking(daemon)) if greets else Peer(daemon, None)
            peers.append(peer)
            sockets.send_fds(peer.socket, [b'{"type":"programs","id":1}\n'], [sender.fileno()])
            sender.close()
        began = time.monotonic()
        greets_and_asks(daemon)
        assert time.monotonic() - began < LINGER  # One of them would take as long.
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


def large(probes: int = 10_000) -> str:
    """A program of the largest size."""
    probe = "offset = fsync\n    push r,rdi\n    log 1\n    exit\n"
    return "name = libc.so.6\n" + probe * probes


def test_large_programs_hold_nobody_up(place: Place) -> None:
    """Verifying one takes half a second."""
    with place.daemon() as daemon, cat_of(NOBODY) as own, asking(daemon) as peer:
        attach(peer, own.pid)
        programs = [upload(large(), "large")] * 4 + [{"label": "bad", "bytecode": "AAAA"}]
        peer.send({"type": "insert", "id": 2, "pid": own.pid, "programs": programs})
        waits = []
        with asking(daemon, DAEMON) as other, ThreadPoolExecutor() as threads:
            answered = threads.submit(peer.read)
            while not answered.done():
                began = busy(daemon)
                other.ask({"type": "programs", "id": 1})
                waits.append(busy(daemon) - began)
            assert refused(answered.result() or {}).startswith("bad: ")
        assert max(waits) < PROMPTLY


def test_one_user_cannot_fill_the_daemon_with_probes(place: Place) -> None:
    path = shutil.copy("/usr/bin/cat", place.folder / "own_cat")
    who: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    with place.daemon() as daemon, cat([path], **who) as own, asking(daemon) as peer:
        half = upload(large(), "half")
        attach(peer, own.pid)
        assert insert(peer, own.pid, half)["type"] == "inserted"
        text = refused(insert(peer, own.pid, half, upload()))
        assert text.startswith("user 65534 has 10000 probes inserted (limit 20000)")
        assert insert(peer, own.pid, half)["type"] == "inserted"
        # Whichever way they come.
        deploy = {"type": "deploy", "id": 3, "selection": {"exe": str(path)}}
        assert answer(peer, {**deploy, "programs": [upload()]})["type"] == "deployed"
        reason = ""
        deadline = time.monotonic() + PATIENCE
        while "user 65534 has 20000 probes inserted" not in reason:
            assert time.monotonic() < deadline, reason
            (row,) = (row for row in daemon.json("query") if row["type"] == "deployment")
            reason = row["refusals"].get(str(own.pid), "")
        assert answer(peer, {"type": "remove", "id": 4})["type"] == "removed"
        assert insert(peer, own.pid, half)["type"] == "inserted"


def test_one_user_cannot_have_a_tracer_for_each_of_a_thousand_processes(place: Place) -> None:
    with place.daemon() as daemon, ExitStack() as stack:
        command = ["sleep", "600"]
        own = [
            stack.enter_context(subprocess.Popen(command, user=NOBODY, group=NOBODY))
            for _ in range(101)
        ]
        for process in own:
            stack.callback(process.kill)
        peers = [stack.enter_context(asking(daemon)) for _ in range(2)]
        for number, process in enumerate(own[:-1]):
            assert attach(peers[number % 2], process.pid)["type"] == "attached"
        text = refused(attach(peers[0], own[-1].pid))
        assert text.startswith("user 65534 has 100 processes traced (limit 100); detach from some")
        assert attach(peers[0], own[1].pid)["type"] == "attached"  # It has its tracer.
        with cat_of(DAEMON) as others, asking(daemon, DAEMON) as other:
            assert attach(other, others.pid)["type"] == "attached"
        answer(peers[0], {"type": "detach", "id": 1, "pid": own[0].pid})
        assert attach(peers[0], own[-1].pid)["type"] == "attached"
        assert all(process.poll() is None for process in own)


def test_what_one_user_does_over_and_over_does_not_fill_the_log(place: Place) -> None:
    with place.daemon() as daemon, cat_of(NOBODY) as own, asking(daemon) as peer:
        attach(peer, own.pid)
        evil = {**upload(), "label": "\x1b[31m\n" + "x" * 240}
        began = time.monotonic()
        for _ in range(100):
            assert insert(peer, own.pid, *[evil] * 3)["type"] == "inserted"
            answer(peer, {"type": "remove", "id": 1})
            deploy = {"type": "deploy", "id": 3, "selection": {"exe": "/none"}}
            assert answer(peer, {**deploy, "programs": [evil] * 3})["type"] == "deployed"
            answer(peer, {"type": "remove", "id": 1})
        seconds = time.monotonic() - began
        daemon.stop()
        assert daemon.process.stderr is not None
        lines = daemon.process.stderr.readlines()
        # What it inserted, deployed and removed: each has a share of its own.
        assert len(lines) <= 3 * (50 + 5 * (seconds + 1))
        assert max(map(len, lines)) < 200
        assert all(line.startswith("dprobed: ") and line[:-1].isprintable() for line in lines)


def test_a_daemon_without_descriptors_says_so_once_and_goes_on(place: Place) -> None:
    with place.daemon() as daemon:
        with asking(daemon) as peer:
            limit = daemon.process.pid, resource.RLIMIT_NOFILE
            before = resource.prlimit(*limit)
            resource.prlimit(*limit, (lowest_free(daemon.process.pid), before[1]))
            with Peer(daemon, None) as waits:
                waits.send({"type": "hello", "id": 0, "protocol": 1})
                assert answer(peer, {"type": "programs", "id": 1})["type"] == "listing"
                assert daemon.process.stderr is not None
                line = daemon.process.stderr.readline()
                assert line == "dprobed: cannot accept connections: Too many open files\n"
                resource.prlimit(*limit, before)
                found = waits.read()
                assert found is not None
                assert found["type"] == "welcome"
        daemon.stop()
        assert daemon.process.stderr.read() == ""


def test_a_selection_anew_while_the_last_is_on_its_way_in(place: Place) -> None:
    """Nobody is at work for two at a time: what is put in twice is refused, and nobody has it."""
    path = shutil.copy("/usr/bin/cat", place.folder / "own_cat")
    who: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    deploy = {"type": "deploy", "id": 1, "selection": {"exe": str(path)}, "programs": [upload()]}
    with place.daemon() as daemon, ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(cat([path], **who))
        for turn in range(100):
            with asking(daemon) as once:
                assert answer(once, deploy)["type"] == "deployed"
                for _ in range(turn % 5):  # It is as far as it is by then.
                    answer(once, {"type": "query", "id": 2})
        peer = stack.enter_context(asking(daemon))
        assert answer(peer, deploy)["type"] == "deployed"
        deadline = time.monotonic() + PATIENCE
        while (row := answer(peer, {"type": "query", "id": 4})["deployments"][0])["processes"] < 4:
            assert time.monotonic() < deadline, row
        assert not row["refused"]
        daemon.stop()
        assert daemon.process.stderr is not None
        assert "Traceback" not in daemon.process.stderr.read()


def test_all_are_resumed_while_others_are_let_go(place: Place) -> None:
    with place.daemon() as daemon, cat_of(NOBODY) as own, ExitStack() as stack:
        comes_and_goes, peer = (stack.enter_context(asking(daemon)) for _ in range(2))
        turns = 100
        for _ in range(turns):
            comes_and_goes.send({"type": "attach", "id": 1, "pid": own.pid})
            comes_and_goes.send({"type": "detach", "id": 2, "pid": own.pid})
        with ThreadPoolExecutor() as threads:
            gone = threads.submit(
                lambda: [comes_and_goes.lines.readline() for _ in range(turns * 2)]
            )
            while not gone.done():
                assert answer(peer, {"type": "resume", "id": 4}) == {
                    "type": "resumed",
                    "id": 4,
                    "tids": [],
                    "silent": [],
                }


#: Maps one page of a file with a path of 3,500 letters as often as it can, and waits.
MAPS_MUCH = """
import ctypes, os, sys
os.chdir(sys.argv[1])
for _ in range(14):
    os.mkdir("d" * 250)
    os.chdir("d" * 250)
file = os.open("f", os.O_RDWR | os.O_CREAT)
os.ftruncate(file, 8192)
mmap = ctypes.CDLL(None).mmap
mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
for number in range(50_000):
    mmap(None, 4096, 5 if number % 2 else 1, 2, file, 0)
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_process_that_maps_very_much_holds_nobody_up(place: Place) -> None:
    folder = place.folder / "deep"
    folder.mkdir()
    command = [sys.executable, "-c", MAPS_MUCH, str(folder)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    name = place.folder.name
    word = {**os.environ, "DPROBE_WORD": name}
    policy = f'[[policy]]\nname = "{name}"\nmatch.environment.DPROBE_WORD = "{name}"\n'
    place.write(policy)
    with place.daemon() as daemon, subprocess.Popen(command, env=word, **pipes) as target:
        assert target.stdout is not None
        assert target.stdout.readline() == b"ready\n"
        nowhere = upload("name = libnowhere.so\noffset = f\nexit\n", "nowhere")
        with Peer(daemon) as peer:
            request = {"type": "deploy", "id": 1, "selection": {"policy": name}}
            assert answer(peer, {**request, "programs": [nowhere]})["type"] == "deployed"
            reason = ""
            deadline = time.monotonic() + PATIENCE
            while not reason:
                assert time.monotonic() < deadline
                assert greets_and_asks(daemon) < PROMPTLY
                (row,) = answer(peer, {"type": "query", "id": 2})["deployments"]
                reason = row["refusals"].get(str(target.pid), "")
        target.communicate(timeout=PATIENCE)
        assert target.returncode == 0
