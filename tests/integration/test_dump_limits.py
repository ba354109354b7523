"""Limits of dumps over runs, processes and daemons; what is said of those that there are not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dprobed.corefile import ledger
from tests.integration.client_support import (
    DPROBE,
    PATIENCE,
    cat,
    dprobe,
    parsed,
    program,
    running_daemon,
    tracer_of,
    wait_end,
)

DUMPS = """
name = libc.so.6
major = 7
offset = write
minor = 3
    exit dump
"""
ONCE = DUMPS.replace("exit dump", "exit dump once")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "DPROBED_DUMPS": str(tmp_path / "cores"),
        "DPROBED_JOURNAL_SOCKET": str(tmp_path / "journal"),
    }


def cores(env: dict[str, str]) -> list[dict[str, Any]]:
    return parsed(dprobe("dumps", "--json", env=env).stdout)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def run_json(*arguments: object, env: dict[str, str]) -> tuple[list[str], dict[str, Any]]:
    """The exits of the records, and the probe in the summary."""
    report = Path(env["DPROBED_DUMPS"]).with_name("report")
    done = dprobe("run", "--json", "-o", report, *arguments, env=env)
    assert done.returncode == 0, done.stderr
    *records, summary = parsed(report.read_text())
    [probe] = summary["probes"]
    return [record["exit"] for record in records], probe


def test_an_hour_s_limit_holds_over_runs_and_removal(tmp_path: Path, env: dict[str, str]) -> None:
    env["DPROBED_DUMPS_HOURLY"] = "2"
    source = program(tmp_path, DUMPS, "dumping")
    for _ in range(2):
        done = dprobe("run", source, "--", "cat", "/etc/hostname", env=env)
        assert "write+0x0 #1: [dump]" in done.stdout + done.stderr
        assert "\ndumping 7.3 write+0x0: dumped 1\n" in done.stdout + done.stderr
    assert dprobe("dumps", "remove", "cat.*", env=env).returncode == 0
    assert not cores(env)
    done = dprobe("run", source, "--", "cat", "/etc/hostname", env=env)
    said = done.stdout + done.stderr
    assert "write+0x0 #1: [no dump]" in said
    assert "dprobe: no dump: this probe had 2 dumps in the last hour" in said
    assert "\ndumping 7.3 write+0x0: dumped 0, refused 1: limit of 2 an hour\n" in said
    # Another probe has its own.
    other = program(tmp_path, DUMPS.replace("exit dump", "nop\nexit dump"), "other")
    assert run_json(other, "--", "cat", "/etc/hostname", env=env)[1]["dumped"] == 1
    # And one that asks by itself has none.
    with cat() as target:
        assert dprobe("dump", target.pid, env=env).returncode == 0
    (tmp_path / "cores" / ledger.NAME).unlink()
    assert run_json(source, "--", "cat", "/etc/hostname", env=env)[0] == ["dump"]


def test_what_the_summary_says_as_json(tmp_path: Path, env: dict[str, str]) -> None:
    env["DPROBED_DUMPS_HOURLY"] = "0"
    source = program(tmp_path, DUMPS, "dumping")
    exits, probe = run_json(
        source, "--", "sh", "-c", "for i in 1 2 3 4 5; do echo $i; done", env=env
    )
    assert exits == ["no dump"] * 5
    assert (probe.get("dumped", 0), probe["no_dumps"]) == (0, {"limit of 0 an hour": 5})


@pytest.mark.parametrize(
    "script",
    [
        "for i in 1 2 3 4 5; do echo $i; done",
        "echo 1; exec sh -c 'echo 2; echo 3; echo 4; echo 5'",
        "echo 1; (echo 2; echo 3); (echo 4; echo 5)",
    ],
    ids=["hits", "exec", "forks"],
)
def test_once(tmp_path: Path, env: dict[str, str], script: str) -> None:
    """One core, whatever the process does, and its children together with it."""
    source = program(tmp_path, ONCE, "once")
    exits, probe = run_json("-f", source, "--", "sh", "-c", script, env=env)
    assert (exits[0], exits.count("no dump"), len(exits)) == ("dump", 4, 5)
    assert probe["dumped"] == 1
    assert sum(probe["no_dumps"].values()) == 4
    assert probe["no_dumps"].keys() <= {"once", "another being written"}
    assert len(cores(env)) == 1


def test_once_is_not_used_up_by_a_core_that_was_not_written(
    tmp_path: Path, env: dict[str, str]
) -> None:
    """Nor by an insertion that is over."""
    folder = tmp_path / "cores"
    folder.write_text("in the way")
    with running_daemon(tmp_path, env=env) as daemon, cat() as target:
        source = program(tmp_path, ONCE, "once")
        assert daemon.dprobe("insert", "-p", target.pid, source).returncode == 0
        target.say("one")
        folder.unlink()
        log: list[dict[str, Any]] = []
        while "dump" not in [record["exit"] for record in log]:
            target.say("more")
            log = parsed(daemon.dprobe("log", "--json").stdout)
        assert log[0]["exit"] == "no dump"
        said = daemon.dprobe("query").stderr
        assert re.search(r"once 7.3 at write\+0x0: process \d+: dumped [01], refused", said), said
        daemon.dprobe("remove", "--all")


def test_two_daemons_at_once_have_no_more_than_one(tmp_path: Path, env: dict[str, str]) -> None:
    env["DPROBED_DUMPS_HOURLY"] = "3"
    source = program(tmp_path, DUMPS, "dumping")
    script = "i=0; while [ $i -lt 40 ]; do echo $i; i=$((i+1)); done"
    reports = [tmp_path / "first", tmp_path / "second"]
    running = [
        subprocess.Popen(
            [DPROBE, "run", "--json", "-o", report, source, "--", "sh", "-c", script],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for report in reports
    ]
    dumped = 0
    for each, report in zip(running, reports, strict=True):
        assert each.wait(PATIENCE) == 0
        [probe] = parsed(report.read_text())[-1]["probes"]
        dumped += probe.get("dumped", 0)
        assert probe.get("dumped", 0) + sum(probe["no_dumps"].values()) == probe["hits"] == 40
    assert dumped == len(cores(env)) <= 3


def test_dumps_that_are_switched_off(tmp_path: Path, env: dict[str, str]) -> None:
    with running_daemon(tmp_path, env=env) as daemon, cat() as target:
        assert daemon.dprobe("handlers", "disarm", "dump").returncode == 0
        source = program(tmp_path, DUMPS, "dumping")
        assert daemon.dprobe("insert", "-p", target.pid, source).returncode == 0
        target.say("line")
        daemon.query()  # Its answer comes behind the record.
        assert "[no dump]" in daemon.dprobe("log").stdout
        said = daemon.dprobe("query").stderr
        assert "dumped 0, refused 1: switched off" in said
        daemon.dprobe("remove", "--all")


#: In place of zstd: fails once there is a file.
FAILING = "#!/bin/sh\nwhile [ ! -e {failed} ]; do sleep 0.02; done\nexit 1\n"


def test_a_core_that_fails_late(tmp_path: Path, env: dict[str, str]) -> None:
    """Its record, on its way by then, is followed by one that says why there is none: whoever
    follows, looks at the log, or reads a trace."""
    tools, failed, trace = tmp_path / "tools", tmp_path / "failed", tmp_path / "trace"
    tools.mkdir()
    (tools / "zstd").write_text(FAILING.format(failed=failed))
    (tools / "zstd").chmod(0o755)
    env |= {"PATH": f"{tools}:{env['PATH']}", "DPROBED_DUMPS_ZSTD": "1"}
    with running_daemon(tmp_path, env=env) as daemon, cat() as target:

        def exits() -> list[tuple[int, str]]:
            log = parsed(daemon.dprobe("log", "--json").stdout)
            return [(record["hit"], record["exit"]) for record in log]

        assert daemon.dprobe("trace", "start", "--all", trace).returncode == 0
        source = program(tmp_path, DUMPS, "dumping")
        assert daemon.dprobe("insert", "-p", target.pid, source).returncode == 0
        target.say("line")
        until(lambda: exits() == [(1, "dump")])
        failed.touch()
        until(lambda: len(exits()) > 1)
        assert exits() == [(1, "dump"), (1, "no dump")]
        said = daemon.dprobe("log").stdout.splitlines()[1]
        assert re.search(r'#1: "[^"]*zstd[^"]*" \[no dump\]$', said), said
        assert "dumped 0, refused 1" in daemon.dprobe("query").stderr
        assert daemon.dprobe("trace", "stop", trace.name).returncode == 0
        read = dprobe("trace", "show", "--json", trace, env=env)
        assert [record["exit"] for record in parsed(read.stdout)] == ["dump", "no dump"]
        daemon.dprobe("remove", "--all")


#: In place of zstd: says who it and its writer are, and never reads.
STUCK = "#!/bin/sh\necho $$ $PPID > {told}.new; mv {told}.new {told}\nexec sleep 1000\n"


def test_what_a_killed_writer_leaves(tmp_path: Path, env: dict[str, str]) -> None:
    """It is told apart from a core, may be removed when nobody writes it, and goes by itself."""
    tools = tmp_path / "tools"
    told = tmp_path / "told"
    tools.mkdir()
    (tools / "zstd").write_text(STUCK.format(told=told))
    (tools / "zstd").chmod(0o755)
    with cat() as target:
        stuck = {**env, "PATH": f"{tools}:{env['PATH']}"}
        for is_removed in (True, False):
            dumping = subprocess.Popen(
                [DPROBE, "dump", "--zstd", str(target.pid)], env=stuck, stderr=subprocess.PIPE
            )
            until(told.exists)
            [core] = cores(env)
            assert (core["state"], core["pid"], core["command"]) == (
                "being written",
                target.pid,
                "cat",
            )
            done = dprobe("dumps", "remove", "cat.*", env=env)
            assert (done.returncode, "being written" in done.stderr) == (2, True)
            zstd, writer = map(int, told.read_text().split())
            told.unlink()
            os.kill(tracer_of(target.pid), signal.SIGKILL)
            for pid in (writer, zstd):
                os.kill(pid, signal.SIGKILL)
                assert wait_end(pid)
            assert dumping.communicate(timeout=PATIENCE)[1]
            [core] = cores(env)
            assert core["state"] == "unfinished"
            if is_removed:
                assert dprobe("dumps", "remove", core["name"], env=env).returncode == 0
                assert not cores(env)
        target.say("goes on")
        assert dprobe("dump", target.pid, env=env).returncode == 0
        [core] = cores(env)
        assert core["state"] == ""
