"""A process that stands at a probe is seen first, and told of where its programs are followed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.client_support import DPROBE, PATIENCE, Cat, Daemon, parsed, program

#: Stands at the first write(2) of a line of three letters.
STANDS = """
name = libc.so.6
major = 7
offset = write
minor = 3
    push r,rdx
    push 4
    sub
    jz stand
    exit
stand:
    {end}
"""


@pytest.mark.parametrize(
    ("end", "stands"),
    [
        ("exit debugger", "is HELD at a probe (thread {pid})"),
        ("suspend\n    exit", "thread {pid} is SUSPENDED"),
    ],
)
def test_who_stands_is_the_first_line(
    daemon: Daemon, target: Cat, tmp_path: Path, end: str, stands: str
) -> None:
    path = program(tmp_path, STANDS.format(end=end), "stands")
    done = daemon.dprobe("insert", path, "--pid", target.pid)
    assert done.returncode == 0, done.stderr
    command: list[str | Path] = [DPROBE, "--socket", daemon.socket, "log", "-f"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as log:
        assert log.stdout is not None
        assert log.stderr is not None
        target.say("a first line")
        # What is kept is shown when it follows.
        assert "write" in log.stdout.readline()
        assert target.process.stdin is not None
        assert target.process.stdout is not None
        target.process.stdin.write(b"abc\n")
        target.process.stdin.flush()
        # Followed as a log, it is told there: its number as people write it.
        assert str(target.pid) in log.stderr.readline()
        log.terminate()
        log.communicate(timeout=PATIENCE)
    said = stands.format(pid=target.pid)
    try:
        for command_ in (("query",), ("query", "-x"), ("top", "--once", "--interval", "0.1")):
            first = daemon.dprobe(*command_).stdout.splitlines()[0]
            assert first.startswith(f"process {target.pid} (cat)"), first
            assert said in first
            assert f"dprobe resume {target.pid}" in first
        extended = daemon.dprobe("query", "-x").stdout
        assert hex(target.pid) not in extended
        if "HELD" in said:
            until = first.split(", until ")[1].split(":")
            assert abs(int(until[0]) - time.localtime(time.time() + 600).tm_hour) in (0, 1, 23)
        for command_ in (("query", "--json"), ("top", "--json", "--interval", "0.1")):
            done = daemon.dprobe(*command_)
            assert said in done.stderr
            found = parsed(done.stdout)[0]
            assert (found["type"], found["pid"]) == ("target", target.pid)
            held = found["suspended"] or found["debugger"]["held"]
            assert held == [target.pid]
        assert said in daemon.dprobe("query", "-o", "pid,hits").stderr
        assert (
            f"held       process {target.pid} stands at a probe" in daemon.dprobe("status").stdout
        )
        assert parsed(daemon.dprobe("status", "--json").stdout)[0]["standing"] == [target.pid]
    finally:
        done = daemon.dprobe("resume", target.pid)
        assert done.returncode == 0, done.stderr
    assert target.process.stdout.readline() == b"abc\n"
    assert said not in daemon.dprobe("query").stdout
    assert parsed(daemon.dprobe("status", "--json").stdout)[0]["standing"] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("end", ["exit debugger", "suspend\n    exit"])
def test_what_ends_it_reaches_a_command_that_stands(
    tmp_path: Path, end: str, number: signal.Signals
) -> None:
    """Of Ctrl-C both have the signal, the others are passed on: it is seen by what goes on."""
    path = program(tmp_path, STANDS.format(end=end), "stands")
    with subprocess.Popen(
        [
            DPROBE,
            "run",
            "--private",
            path,
            "--",
            "sh",
            "-c",
            "echo abc; while :; do sleep 60; done",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        assert running.stderr is not None
        while "thread" not in (said := running.stderr.readline()):
            pass
        # No other command finds a private daemon.
        assert said.endswith("; Ctrl-C here lets it go on\n")
        assert "dprobe resume" not in said
        assert "dprobe debug" not in said
        if number == signal.SIGINT:
            os.killpg(running.pid, number)
        else:
            running.send_signal(number)
        assert running.wait(PATIENCE) == 128 + number
        name = "Ctrl-C" if number == signal.SIGINT else number.name
        assert f"{name}: what stood at a probe goes on" in running.stderr.read()


@pytest.mark.parametrize("end", ["exit debugger", "suspend\n    exit"])
def test_what_stands_is_not_let_go_by_attach(
    tmp_path: Path, target: Cat, daemon: Daemon, end: str
) -> None:
    """Though its only probe is used up; and who stops it is told that the process goes on."""
    text = STANDS.format(end=end).replace("minor = 3", "minor = 3\nmax_hits = 1")
    path = program(tmp_path, text, "stands")
    assert target.process.stdin is not None
    assert target.process.stdout is not None
    with subprocess.Popen(
        [DPROBE, "--socket", daemon.socket, "attach", "-p", str(target.pid), path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stderr is not None
        running.stderr.readline()
        target.process.stdin.write(b"abc\n")
        target.process.stdin.flush()
        while "thread" not in running.stderr.readline():
            pass
        with pytest.raises(subprocess.TimeoutExpired):  # What it would do at once.
            running.wait(1.0)
        assert str(target.pid) in daemon.dprobe("query").stdout
        running.send_signal(signal.SIGINT)
        said = running.stderr.read()
        assert running.wait(PATIENCE) == 0
    assert f"process {target.pid} stood at a probe: it goes on" in said
    assert target.process.stdout.readline() == b"abc\n"


def test_what_was_resumed_is_left(tmp_path: Path, target: Cat, daemon: Daemon) -> None:
    text = STANDS.format(end="exit debugger").replace("minor = 3", "minor = 3\nmax_hits = 1")
    path = program(tmp_path, text, "stands")
    assert target.process.stdin is not None
    assert target.process.stdout is not None
    with subprocess.Popen(
        [DPROBE, "--socket", daemon.socket, "attach", "-p", str(target.pid), path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stderr is not None
        running.stderr.readline()
        target.process.stdin.write(b"abc\n")
        target.process.stdin.flush()
        while "thread" not in running.stderr.readline():
            pass
        assert daemon.dprobe("resume", target.pid).returncode == 0
        assert target.process.stdout.readline() == b"abc\n"
        said = running.stderr.read()
        assert running.wait(PATIENCE) == 0
    assert "no probe is left" in said
    assert "goes on" not in said
