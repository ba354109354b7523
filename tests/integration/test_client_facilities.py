"""`exit NAME` of which nobody takes anything is told where the program is put in."""

from __future__ import annotations

from pathlib import Path

from tests.integration.client_support import WRITES, Cat, Daemon, dprobe, program

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
