"""The hazard targets under the real command: `dprobe run` from their first instruction on."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import termios
from pathlib import Path

import pytest

from tests.conftest import BuildTarget
from tests.integration.client_support import DPROBE
from tests.integration.harness import counting

#: Programs that hit ``probed`` exactly as often as they say at their end.
PROGRAMS = [
    "crowd.c",
    "forks.c",
    "shared.c",
    "signals.c",
    "jumps.c",
    "queued.c",
    "sigtraps.c",
    "unwinds.cc",
]


def write_program(tmp_path: Path, program: Path) -> Path:
    path = tmp_path / "hits.rpn"
    path.write_text(counting(program, "probed"))
    return path


def run(tmp_path: Path, program: Path) -> tuple[int, int]:
    """Run it to its end, all gates open: the hits, and the calls that it counted itself."""
    report = tmp_path / "report"
    source = write_program(tmp_path, program)
    done = subprocess.run(
        [DPROBE, "run", "--format", "json", "-o", report, source, "--", program],
        input="\n" * 8,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("OK\n"), done.stdout
    summary = json.loads(report.read_text().splitlines()[-1])
    assert summary["type"] == "summary"
    (probe,) = summary["probes"]
    assert (probe["missed"], probe["dropped"], probe["ran"]) == (0, 0, probe["hits"])
    return probe["hits"], int(done.stdout.rpartition("calls ")[2].split()[0])


@pytest.mark.parametrize("name", PROGRAMS)
def test_run(build_target: BuildTarget, tmp_path: Path, name: str) -> None:
    hits, calls = run(tmp_path, build_target(name, "-pthread"))
    assert hits == calls


def test_run_through_exec(build_target: BuildTarget, tmp_path: Path) -> None:
    """Seven images, ten calls each."""
    assert run(tmp_path, build_target("execs.c", "-pthread")) == (70, 10)


def test_ctrl_c_and_ctrl_z_on_a_terminal(build_target: BuildTarget, tmp_path: Path) -> None:
    """A shell with job control, the target a job of it: stopped, continued, interrupted."""
    program = build_target("stops.c", "-pthread")
    rpn = write_program(tmp_path, program)
    leader, affinity = pty.openpty()
    shell = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        stdin=affinity,
        stdout=affinity,
        stderr=affinity,
        start_new_session=True,
        env={**os.environ, "PS1": "$ ", "TERM": "dumb"},
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(affinity)
    said = b""

    def until(word: bytes) -> None:
        nonlocal said
        while word not in said:
            assert select.select([leader], [], [], 60)[0], said
            said += os.read(leader, 4096)
        said = said.partition(word)[2]

    try:
        os.write(leader, f"{DPROBE} run -o /dev/null {rpn} -- {program}\n".encode())
        until(b"ready\r\n")
        os.write(leader, b"\n")
        until(b"running\r\n")
        os.write(leader, b"\x1a")
        until(b"Stopped")
        until(b"$ ")
        os.write(leader, b"fg\n")
        until(b"continued\r\n")
        os.write(leader, b"\x03")
        until(b"$ ")
        os.write(leader, b"echo status=$?\n")
        until(f"status={128 + signal.SIGINT}\r\n".encode())
    finally:
        os.write(leader, b"exit\nexit\n")
        shell.kill()
        shell.wait()
        os.close(leader)
