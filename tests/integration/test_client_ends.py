"""What became of a process is told: at attach, in the JSON summary, and in the daemon's log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from tests.integration.client_support import DPROBE, PATIENCE, Cat, Daemon, cat, dprobe, program

#: Becomes `cat` at a line `exec`, and ends at a line with a number.
SHELL = (
    "sh",
    "-c",
    'while read -r line; do case "$line" in exec) exec cat;; [0-9]*) exit "$line";; '
    '*) echo "$line";; esac; done',
)


def line_with(stream: IO[str], text: str) -> str:
    while True:
        line = stream.readline()
        assert line, text
        if text in line:
            return line


@contextmanager
def attached(*command: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line_with(process.stderr, "in process")
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def ends(stdout: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(stdout.splitlines()[-1])["ends"]
    return found


@pytest.mark.parametrize(
    ("how", "said", "last"),
    [
        ("7", "exited with status 7 at ", {"how": "exited", "status": 7}),
        ("kill", "was killed by signal 9 at ", {"how": "killed", "status": 9}),
    ],
)
def test_attach_says_how_a_process_ended(
    tmp_path: Path, how: str, said: str, last: dict[str, object]
) -> None:
    target = Cat(SHELL)
    assert target.process.stdin is not None
    assert target.process.stdout is not None
    began = time.monotonic_ns()
    try:
        path = program(tmp_path)
        with attached(DPROBE, "attach", "--format", "json", target.pid, path) as client:
            assert client.stdout is not None
            assert client.stderr is not None
            if how == "kill":
                os.kill(target.pid, signal.SIGKILL)
            else:
                target.process.stdin.write(how.encode() + b"\n")
                target.process.stdin.flush()
            line_with(client.stderr, f"process {target.pid} {said}")
            (end,) = ends(client.stdout.read())
            assert client.wait(PATIENCE) == 0
    finally:
        target.process.kill()
        target.process.wait()
        target.process.stdin.close()
        target.process.stdout.close()
    assert end.items() >= (last | {"pid": target.pid}).items()
    assert began < int(str(end["time"])) < time.monotonic_ns()


def test_attach_and_the_log_say_what_a_process_executed(tmp_path: Path, daemon: Daemon) -> None:
    path = program(tmp_path)
    client = (DPROBE, "--socket", daemon.socket, "attach", "--format", "json")
    with cat(SHELL) as target:
        with attached(*client, target.pid, path) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert target.process.stdin is not None
            target.process.stdin.write(b"exec\n")
            target.process.stdin.flush()
            cat_path = str(Path("/usr/bin/cat").resolve())
            line_with(process.stderr, f"process {target.pid} executed {cat_path} at ")
            (row,) = (row for row in daemon.json("query", "-x") if row["type"] == "target")
            assert row["comm"] == "cat"
            process.send_signal(signal.SIGINT)
            (end,) = ends(process.stdout.read())
            assert process.wait(PATIENCE) == 0
        assert end.items() >= {"how": "executed", "program": cat_path}.items()
    with cat(SHELL) as other, attached(*client, other.pid, path) as process:
        assert other.process.stdin is not None
        other.process.stdin.write(b"3\n")
        other.process.stdin.flush()
        assert process.wait(PATIENCE) == 0
    daemon.stop()
    assert daemon.process.stderr is not None
    log = daemon.process.stderr.read()
    assert f"process {target.pid} executed {cat_path}\n" in log
    assert f"process {other.pid} (sh): exited with status 3\n" in log


def test_run_does_not_say_what_its_status_says(tmp_path: Path) -> None:
    done = dprobe(
        "run", "--format", "json", program(tmp_path), "--", "sh", "-c", "exec sh -c 'exit 4'"
    )
    assert done.returncode == 4
    assert "dprobe: " not in done.stderr
    executed, exited = ends(done.stderr)
    assert executed["how"] == "executed"
    assert (exited["how"], exited["status"]) == ("exited", 4)
