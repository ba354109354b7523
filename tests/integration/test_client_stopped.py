"""A process that is stopped when programs are put into it: that is said, and it stays so."""

from __future__ import annotations

import os
import re
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


def test_query_and_status_say_since_when(tmp_path: Path, target: Cat, daemon: Daemon) -> None:
    """One that was stopped later, too; nothing is said any more when it goes on."""
    daemon.dprobe("insert", "-p", target.pid, program(tmp_path))
    assert "STOPPED" not in daemon.dprobe("query").stdout
    stop(target)
    first = re.match(
        rf"process {target.pid} \(cat\) is STOPPED \(by SIGSTOP, or Ctrl-Z\) for \d+ s: nothing "
        rf"fires in it until kill -CONT {target.pid}\n",
        daemon.dprobe("query").stdout,
    )
    assert first is not None
    (before, _) = daemon.json("query")
    assert f"stopped    process {target.pid} is stopped" in daemon.dprobe("status").stdout
    (after, _) = daemon.json("query")
    assert 0 < before["stopped_seconds"] < after["stopped_seconds"]
    os.kill(target.pid, signal.SIGCONT)
    target.say("on")
    assert "STOPPED" not in daemon.dprobe("query").stdout
    assert daemon.query()[0]["hits"] == 1


def test_what_is_removed_is_not_said_to_have_ended(
    tmp_path: Path, target: Cat, daemon: Daemon
) -> None:
    """Its process goes on, also where it stands."""
    for stands in (False, True):
        daemon.dprobe("insert", "-p", target.pid, program(tmp_path))
        if stands:
            stop(target)
        (row,) = (row for row in daemon.json("remove", "--all") if row["type"] == "probe")
        assert (row["state"], row["reason"]) == ("removed", "")
    os.kill(target.pid, signal.SIGCONT)
