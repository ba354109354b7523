"""The daemon's socket: where it is, who gets in, and what bad peers can do (nothing)."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dprobed.daemon.app import build_public
from dprobed.daemon.gate import Gate
from dprobed.daemon.tracer_process import TracerProcesses
from dprobed.policy.config import Config
from dprobed.policy.store import PolicyStore
from tests.integration.client_support import (
    DPROBE,
    DPROBED,
    PATIENCE,
    Cat,
    Daemon,
    Peer,
    cat,
    children,
    program,
    running_daemon,
)


def start_fails(*arguments: object) -> str:
    done = subprocess.run(
        [DPROBED, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_only_its_owner_can_connect_but_to_roots_everybody(daemon: Daemon) -> None:
    mode = 0o666 if os.geteuid() == 0 else 0o600
    assert stat.S_IMODE(daemon.socket.stat().st_mode) == mode


def test_a_users_daemon_serves_only_that_user_and_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    store = PolicyStore(Config(tmp_path), 1234)
    tracers = TracerProcesses(lambda sock, mailbox, changes: None)
    server = build_public(tracers, Gate(store), tracers.resolvers).server
    for uid, admitted in ((0, True), (1234, True), (1235, False)):
        connection = server.connection()
        connection.uid = uid
        assert (server.admit(connection) == "") is admitted


def test_a_second_daemon_is_refused_and_the_first_goes_on(daemon: Daemon) -> None:
    text = start_fails("--socket", daemon.socket)
    assert text.startswith(f"dprobed: another dprobed listens at {daemon.socket}; ")
    assert daemon.json("query") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces")
@pytest.mark.parametrize("program", ["dprobed", "dprobe"])
def test_a_proc_that_is_another_namespaces_is_refused(tmp_path: Path, program: str) -> None:
    """What is decided about a process by what it shows would be done to another one."""
    command: list[object] = [
        "unshare",
        "-pf",
        "--kill-child",
        DPROBED,
        "--socket",
        tmp_path / "control.sock",
    ]
    if program == "dprobe":
        code = tmp_path / "writes.rpn"
        code.write_text("name = libc.so.6\noffset = write\nexit\n")
        command = ["unshare", "-pf", "--kill-child", DPROBE, "run", code, "--", "/bin/true"]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 1
    assert "/proc is that of another process namespace" in done.stderr
    assert done.stderr.count("\n") == 1


def test_who_comes_while_it_ends_is_refused(daemon: Daemon, target: Cat, tmp_path: Path) -> None:
    """And does not wait until the last tracer has let go of its process."""
    daemon.json("insert", program(tmp_path), "--pid", target.pid)
    (tracer,) = children(daemon.process.pid)
    os.kill(tracer, signal.SIGSTOP)
    try:
        daemon.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionRefusedError):
            while daemon.process.poll() is None:
                with socket.socket(socket.AF_UNIX) as late:
                    late.connect(str(daemon.socket))
    finally:
        os.kill(tracer, signal.SIGCONT)
    assert daemon.process.wait(PATIENCE) == 0


def test_the_socket_of_a_dead_daemon_is_taken_over(tmp_path: Path) -> None:
    first = Daemon(tmp_path / "control.sock")
    first.process.kill()
    first.process.wait()
    assert first.process.stderr is not None
    first.process.stderr.close()
    assert first.socket.exists()
    with running_daemon(tmp_path) as second:
        assert second.json("query") == []


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    assert "is not a socket" in start_fails("--socket", path)
    assert path.read_text() == "data"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert "No such file" in start_fails("--socket", tmp_path / "none" / "control.sock")


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_on_a_signal(tmp_path: Path, name: signal.Signals) -> None:
    with running_daemon(tmp_path) as daemon:
        daemon.process.send_signal(name)
        assert daemon.process.wait(PATIENCE) == 0


def test_another_version_of_the_protocol_is_told_so(daemon: Daemon) -> None:
    with Peer(daemon, None) as peer:
        answer = peer.ask({"type": "hello", "id": 5, "protocol": 99})
        assert (answer["type"], answer["id"]) == ("error", 5)
        assert "speaks version 1 of the protocol, not 99" in answer["error"]
        assert peer.read() is None


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x00\x01\x02\n",
        b'{"type":"query","id":1}\n',
        b"[" * 5000 + b"\n",
        b"\n",
    ],
)
def test_who_does_not_greet_is_sent_away(daemon: Daemon, line: bytes) -> None:
    with Peer(daemon, None) as peer:
        assert peer.ask(line)["type"] == "error"
        assert peer.read() is None
    assert daemon.json("query") == []


def test_bad_requests_are_answered_and_the_connection_goes_on(daemon: Daemon) -> None:
    with Peer(daemon) as peer:
        for line, number in (
            (b"rubbish\n", None),
            (b'{"type":"attach","id":3,"pid":-1}\n', 3),
            (b'{"type":"fly","id":4}\n', 4),
            (b'{"type":"hello","id":5,"protocol":1}\n', 5),
            (b'{"type":"detach","id":6,"pid":1}\n', 6),
            (b'{"type":"vars","id":7}\n', 7),
            (
                b'{"type":"insert","id":8,"pid":1,"programs":[{"label":"a","bytecode":"AAAA"}]}\n',
                8,
            ),
        ):
            answer = peer.ask(line)
            assert (answer["type"], answer["id"]) == ("error", number)
        assert peer.ask({"type": "query", "id": 9})["type"] == "status"


def test_bytecode_is_verified_again(daemon: Daemon, target: Cat) -> None:
    with Peer(daemon) as peer:
        peer.ask({"type": "attach", "id": 1, "pid": target.pid})
        upload = {"label": "evil", "bytecode": "3q2+7w=="}
        answer = peer.ask({"type": "insert", "id": 2, "pid": target.pid, "programs": [upload]})
        assert answer["type"] == "error"
        assert answer["error"].startswith("evil: ")


def test_lines_may_come_in_any_pieces(daemon: Daemon) -> None:
    with Peer(daemon) as peer:
        for byte in b'{"type":"query","id":7}\n{"type":"programs","id":8}\n':
            peer.send(bytes([byte]))
        for number, kind in ((7, "status"), (8, "listing")):
            answer = peer.read()
            assert answer is not None
            assert (answer["id"], answer["type"]) == (number, kind)


def test_a_line_without_end_is_cut_off(daemon: Daemon) -> None:
    with Peer(daemon) as peer:
        chunk = b"x" * (1 << 20)
        try:
            for _ in range(40):
                peer.send(chunk)
        except OSError:
            pass
        answer = peer.read()
        assert answer is None or "longer than" in answer["error"]
    assert daemon.json("query") == []


def test_a_flood_of_requests_waits_for_who_does_not_read(daemon: Daemon) -> None:
    with Peer(daemon) as peer:
        peer.socket.setblocking(False)
        line = b'{"type":"query","id":7}\n' * 1000
        sent = 0
        while select.select([], [peer.socket], [], 1)[1] and sent < 100 << 20:
            sent += peer.socket.send(line)
        assert sent < 100 << 20
        rss = resident(daemon.process.pid)
        assert rss < 90 << 20
        assert daemon.json("query") == []


def resident(pid: int) -> int:
    """Resident memory in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise AssertionError


def test_who_leaves_in_the_middle_of_anything_leaves_nothing(daemon: Daemon, target: Cat) -> None:
    for goodbye in (b"", b'{"type":"query","id":1}\n', b'{"type":"que') * 4:
        with Peer(daemon) as peer:
            peer.send(b'{"type":"attach","id":1,"pid":%d}\n' % target.pid)
            peer.send(goodbye)
    # The last of them may not have been read yet.
    deadline = time.monotonic() + PATIENCE
    while children(daemon.process.pid) or daemon.json("query", "-x"):
        assert time.monotonic() < deadline


def test_records_for_a_reader_that_stopped_reading_are_counted(
    daemon: Daemon, tmp_path: Path
) -> None:
    """Its queue has an end; every record beyond it is in `dropped`, and others get theirs."""
    source = "name = libc.so.6\nlogmax = 65536\noffset = write\n    push 60000\n    push r,rsi\n"
    source += "    log mrf\n    exit\n"
    with cat() as target:
        daemon.json("insert", program(tmp_path, source), "--pid", target.pid)
        with Peer(daemon) as sleeper:
            assert sleeper.ask({"type": "log", "id": 1, "follow": True})["type"] == "logged"
            for _ in range(200):
                target.say("x" * 4000)
            (probe,) = daemon.json("query")
            assert probe["hits"] == 200
            received = 0
            sleeper.send({"type": "programs", "id": 2})  # Its answer comes behind all of them.
            while (line := sleeper.read()) is not None and line["type"] == "record":
                received += 1
            assert line is not None and line["type"] == "listing"
            (probe,) = daemon.json("query")
            assert received + probe["dropped"] == 200
            assert probe["dropped"] > 0


def test_the_documented_example_speaks_to_the_daemon(daemon: Daemon, target: Cat) -> None:
    """The example of docs/protocol.md runs as it stands there."""
    text = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    example = text.split("```python\n")[1].split("```")[0]
    done = subprocess.run(
        [sys.executable, "-I", "-c", example, str(daemon.socket)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["type"] == "status"


@pytest.mark.parametrize(
    ("options", "said"), [(("-v",), True), (("--log-level", "debug"), True), ((), False)]
)
def test_the_log_says_as_much_as_it_is_asked_to(
    tmp_path: Path, options: tuple[str, ...], said: bool
) -> None:
    with running_daemon(tmp_path, *options) as daemon:
        assert daemon.dprobe("query").returncode == 0
        daemon.stop()
        assert daemon.process.stderr is not None
        log = daemon.process.stderr.read()
    assert (": query\n" in log) == said
