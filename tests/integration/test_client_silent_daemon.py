"""Daemons that do not answer, or whose process ids are not ours: said in one line, and soon."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from tests.integration.client_support import (
    DPROBE,
    Cat,
    Daemon,
    Peer,
    dprobe,
    lowest_free,
    program,
    running_daemon,
)

#: A client's patience is 5 s; this is for a busy machine.
SOON = 30.0


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process stands for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.001)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def says_so(done: subprocess.CompletedProcess[str], *texts: str) -> None:
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    for text in ("does not answer", *texts):
        assert text in line


def test_a_stopped_daemon(daemon: Daemon, target: Cat, tmp_path: Path) -> None:
    path = program(tmp_path)
    asked = [("query",), ("log", "-f"), ("insert", path, "--pid", target.pid), ("doctor",)]
    asked += [("run", path, "--", "true"), ("attach", target.pid, path), ("dump", target.pid)]
    with stopped(daemon.process.pid), ThreadPoolExecutor(len(asked)) as pool:
        began = time.monotonic()
        all_done = list(pool.map(lambda arguments: daemon.dprobe(*arguments), asked))
        assert time.monotonic() - began < SOON
        for arguments, done in zip(asked, all_done, strict=True):
            if arguments == ("doctor",):
                assert "does not answer: it is stopped" in done.stdout
            else:
                says_so(done, "it is stopped", f"kill -CONT {daemon.process.pid}")
    assert daemon.dprobe("query").returncode == 0


def test_stopped_with_as_many_clients_as_may_wait(daemon: Daemon) -> None:
    with stopped(daemon.process.pid), ExitStack() as clients:
        while True:
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            try:
                client.connect(str(daemon.socket))
            except BlockingIOError:
                break
        says_so(daemon.dprobe("query"))


@pytest.mark.parametrize("end", ["Ctrl-C", "time"])
def test_a_daemon_that_is_stopped_while_it_is_used(
    daemon: Daemon, target: Cat, tmp_path: Path, end: str
) -> None:
    command: list[str | Path] = [
        DPROBE,
        "--socket",
        daemon.socket,
        "attach",
        *(["--for", "2s"] if end == "time" else []),
        str(target.pid),
        program(tmp_path),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as attached:
        assert attached.stderr is not None
        assert "1 probe in process" in attached.stderr.readline()
        with stopped(daemon.process.pid):
            if end == "Ctrl-C":
                attached.send_signal(signal.SIGINT)
            assert "it is stopped" in attached.stderr.readline()
            assert attached.wait(SOON) == 1


def test_a_private_daemon_that_is_stopped(target: Cat, tmp_path: Path) -> None:
    command: list[str | Path] = [DPROBE, "attach", str(target.pid), program(tmp_path)]
    box = {"XDG_RUNTIME_DIR": str(tmp_path)}
    if os.geteuid() == 0 and Path("/run/dprobed/control.sock").exists():
        pytest.skip("root's daemon would be used")
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | box
    ) as attached:
        assert attached.stderr is not None
        assert "1 probe in process" in attached.stderr.readline()
        (private,) = psutil.Process(attached.pid).children()
        with stopped(private.pid):
            attached.send_signal(signal.SIGINT)
            assert "private dprobed" in attached.stderr.readline()
            assert attached.wait(SOON) == 1
        # Let go on, it sees that its client is gone.
        psutil.wait_procs([private], SOON)
        assert not private.is_running() or private.status() == psutil.STATUS_ZOMBIE


def test_a_daemon_without_descriptors(tmp_path: Path) -> None:
    """It takes nobody in; who is connected already is served."""
    with running_daemon(tmp_path) as daemon, Peer(daemon) as connected:
        there = daemon.process.pid
        before = resource.prlimit(there, resource.RLIMIT_NOFILE)
        resource.prlimit(there, resource.RLIMIT_NOFILE, (lowest_free(there), before[1]))
        says_so(daemon.dprobe("query"), f"process {there}")
        assert connected.ask({"type": "programs", "id": 1})["type"] == "listing"
        resource.prlimit(there, resource.RLIMIT_NOFILE, before)
        assert daemon.dprobe("query").returncode == 0


UNSHARE = ("unshare", "-pf", "--kill-child", "--mount-proc")


@pytest.mark.skipif(os.geteuid() != 0, reason="a namespace needs root")
def test_a_daemon_in_the_namespace_above(daemon: Daemon, tmp_path: Path) -> None:
    """Its socket is in reach of a box with its own process ids."""
    for arguments in (("query",), ("run", str(program(tmp_path)), "--", "true")):
        done = subprocess.run(
            [*UNSHARE, DPROBE, "--socket", daemon.socket, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        assert re.fullmatch(
            r"dprobe: the dprobed at .* is in another pid namespace, .*\n", done.stderr
        )


@pytest.mark.skipif(os.geteuid() != 0, reason="a namespace needs root")
def test_a_daemon_in_a_namespace_below(tmp_path: Path) -> None:
    """We see it, under another number than it has itself."""
    with running_daemon(tmp_path, before=UNSHARE) as daemon:
        done = daemon.dprobe("query")
        assert done.returncode == 1
        assert "is in another pid namespace" in done.stderr
        for child in psutil.Process(daemon.process.pid).children():
            child.terminate()
        assert daemon.process.wait(60) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")
def test_at_its_usual_place_such_a_daemon_is_not_used(tmp_path: Path) -> None:
    """A socket that is bind-mounted into a container: `run` and `attach` use one of their own."""
    path = program(tmp_path)
    with running_daemon(tmp_path) as daemon:
        inside = (
            "mount -t tmpfs none /run && mkdir /run/dprobed && cd /run/dprobed && "
            "touch control.sock && "
            f"mount --bind {daemon.socket} control.sock && mount -t proc none /proc && "
            f"{DPROBE} run {path} -- sh -c 'echo one; exec 3<&-' && echo done"
        )
        done = subprocess.run(
            ["unshare", "-mpf", "--kill-child", "sh", "-c", inside],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout == "one\ndone\n", done.stderr
        assert done.stderr.count("is in another pid namespace") == 1
        assert "A private one is used" in done.stderr
        assert "writes" in done.stderr  # its record, or its summary
        assert dprobe("--socket", daemon.socket, "query", "--json").stdout == ""
