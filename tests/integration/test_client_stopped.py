"""A process that is stopped when programs are put into it: that is said, and it stays so."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from dprobed.proc import procfs
from tests.integration.client_support import DPROBE, PATIENCE, Cat, Daemon, dprobe, program


def stop(target: Cat) -> None:
    os.kill(target.pid, signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(target.pid, os.WUNTRACED)[1])


def said(target: Cat) -> str:
    return (
        f"dprobe: process {target.pid} is stopped (by SIGSTOP, or Ctrl-Z): nothing fires in it "
        f"until it is continued (kill -CONT {target.pid})\n"
    )


def test_attach(tmp_path: Path, target: Cat) -> None:
    """It is stopped behind us, too; it fires when it is continued; of others nothing is said."""
    stop(target)
    done = dprobe("attach", "-p", target.pid, program(tmp_path), "--for", "1ms")
    assert done.returncode == 0
    assert done.stderr.count(said(target)) == 1
    assert procfs.run_state(target.pid) == "T"
    command = [str(DPROBE), "attach", "-p", str(target.pid), str(program(tmp_path))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as attached:
        assert attached.stderr is not None
        while b"1 probe in process" not in (line := attached.stderr.readline()):
            assert line
        os.kill(target.pid, signal.SIGCONT)
        target.say("on")
        attached.send_signal(signal.SIGINT)
        records, _ = attached.communicate(timeout=PATIENCE)
    assert b"#1: 3\n" in records
    done = dprobe("attach", "-p", target.pid, program(tmp_path), "--for", "1ms")
    assert "is stopped" not in done.stderr


def test_insert(tmp_path: Path, target: Cat, daemon: Daemon) -> None:
    stop(target)
    done = daemon.dprobe("insert", "-p", target.pid, program(tmp_path))
    assert (done.returncode, done.stderr) == (0, said(target))
    os.kill(target.pid, signal.SIGCONT)
    target.say("on")
    assert daemon.query()[0]["hits"] == 1
