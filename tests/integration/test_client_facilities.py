"""`exit NAME` of which nobody takes anything is told where the program is put in."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from tests.integration.client_support import (
    DPROBE,
    PATIENCE,
    WRITES,
    Cat,
    Daemon,
    dprobe,
    program,
)

_NO_SESSION = "no trace session runs, so that what ends by `exit trace` is in no file"


def test_of_traces_there_is_no_session(tmp_path: Path, daemon: Daemon, target: Cat) -> None:
    source = program(tmp_path, f"{WRITES.rstrip()} trace\n")
    done = daemon.dprobe("insert", "-p", target.pid, source)
    assert done.returncode == 0
    assert f"dprobe: writes: {_NO_SESSION}; `dprobe trace start FOLDER` begins one" in done.stderr
    assert daemon.dprobe("remove", "writes").returncode == 0
    assert daemon.dprobe("trace", "start", tmp_path / "kept").returncode == 0
    done = daemon.dprobe("insert", "-p", target.pid, source)
    assert (done.returncode, done.stderr) == (0, "")
    assert daemon.dprobe("handlers", "disarm", "trace.kept").returncode == 0
    done = daemon.dprobe("attach", "-p", target.pid, source, "--for", "1ms")
    assert "nothing takes `exit trace`, which is disarmed; `dprobe handlers arm trace.kept`" in (
        done.stderr
    )
    done = dprobe("run", "--private", source, "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert done.stderr.count(_NO_SESSION) == 1


def test_dumps_are_disarmed(tmp_path: Path, daemon: Daemon, target: Cat) -> None:
    source = program(tmp_path, f"{WRITES.rstrip()} dump\n")
    for state, told in (("arm", 0), ("disarm", 1)):
        assert daemon.dprobe("handlers", state, "dump").returncode == 0
        done = daemon.dprobe("attach", "-p", target.pid, source, "--for", "1ms")
        assert done.returncode == 0
        assert done.stderr.count("nothing takes `exit dump`, which is disarmed") == told


def test_a_session_that_ends_later_is_told_where_its_programs_are_followed(
    tmp_path: Path, daemon: Daemon, target: Cat
) -> None:
    """Once, by who has put one in and by who reads the log; of programs that end otherwise not."""
    source = program(tmp_path, f"{WRITES.rstrip()} trace\n")
    other = program(tmp_path, WRITES, "other")
    daemon.dprobe("trace", "start", tmp_path / "kept")
    words = (("attach", "-p", target.pid, source, other), ("log", "-f"))
    following = [following_of(daemon, *each) for each in words]
    attached = following[0].stderr
    assert attached is not None
    while "in process" not in (line := attached.readline()):
        assert line
    # Each of them has a record: so both follow.
    target.say("on")
    for each in following:
        assert each.stdout is not None
        assert each.stdout.readline()
    assert daemon.dprobe("trace", "stop", "kept").returncode == 0
    for each in following:
        assert each.stderr is not None
        while "nothing takes" not in (line := each.stderr.readline()):
            assert line
        assert line == "dprobe: writes: nothing takes `exit trace` any more\n"
        each.send_signal(signal.SIGINT)
        _, rest = each.communicate(timeout=PATIENCE)
        assert "nothing takes" not in rest


def following_of(daemon: Daemon, *words: object) -> subprocess.Popen[str]:
    """A client that follows records."""
    command = [str(DPROBE), "--socket", str(daemon.socket), *map(str, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
