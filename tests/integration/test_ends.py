"""Programs that end by themselves, in real processes: after a time, or after so many hits."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.client_support import (
    DPROBE,
    PATIENCE,
    Cat,
    Daemon,
    cat,
    dprobe,
    parsed,
    program,
    running_daemon,
    tracer_of,
    words,
)
from tests.integration.policy_support import (
    NOBODY,
    Place,
    asking,
    attach,
    cat_of,
    insert,
    upload,
)


def test_what_is_left_behind_ends_by_itself(target: Cat, tmp_path: Path) -> None:
    with running_daemon(tmp_path) as daemon:
        stays = program(tmp_path, name="stays")
        done = daemon.dprobe("insert", "--for", "90m", "-p", target.pid, stays)
        assert done.returncode == 0
        assert "dprobe: stays ends at " in done.stderr
        assert "(in 1h" in done.stderr
        (row,) = daemon.json("query")
        assert row["uid"] == os.geteuid()
        assert 0 < row["age_seconds"] < PATIENCE
        assert 5400 - PATIENCE < row["left_seconds"] < 5400
        text = daemon.dprobe("query").stdout.splitlines()
        (heading,) = [number for number, line in enumerate(text) if "ends" in line]
        titles = ["program", "no", "user", "age", "ends", "max", "hits", "time", "spent"]
        assert text[heading].split() == titles
        assert text[heading + 1].split()[:2] == ["stays", "1"]
        assert " in 1h" in text[heading + 1]
        target.say("kept")
        with following(daemon) as log:
            assert log.stdout is not None
            assert log.stderr is not None
            assert f"[{target.pid}]" in log.stdout.readline()
            # Hits come all the while.
            goes = program(tmp_path, name="goes")
            done = daemon.dprobe("insert", "--for", "0.2", "-p", target.pid, goes, "--json")
            assert parsed(done.stdout)[0]["left_seconds"] <= 0.2
            while any(row["program"] == "goes" for row in daemon.query()):
                target.say("a line")
            assert "(cat): goes has ended: its time is over" in log.stderr.readline()
            log.terminate()
        target.say("a line")
        daemon.dprobe("remove", "stays")
        assert tracer_of(target.pid) == 0
        daemon.stop()
        assert daemon.process.stderr is not None
        said = daemon.process.stderr.read()
    assert f"process {target.pid} (cat): goes has ended: its time is over" in said


def following(daemon: Daemon) -> subprocess.Popen[str]:
    """``dprobe log -f``; it follows when it has shown what was kept."""
    command = [str(DPROBE), "--socket", str(daemon.socket), "log", "-f", "-n", "1"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_after_so_many_hits(target: Cat, tmp_path: Path) -> None:
    with running_daemon(tmp_path) as daemon:
        path = program(tmp_path)
        assert daemon.dprobe("insert", "--max-hits", "2", "-p", target.pid, path).returncode == 0
        assert [row["max_hits"] for row in daemon.json("query")] == [2]
        for line in ("a", "bc", "def"):
            target.say(line)
        (row,) = daemon.json("query")
        assert (row["hits"], row["state"]) == (2, "disabled")
        assert [words(each) for each in daemon.json("log")] == [[2], [3]]
        daemon.stop()
        assert daemon.process.stderr is not None
        said = daemon.process.stderr.read()
    assert "writes has ended: none of its probes fires any more; it ran 2 times" in said


def test_the_stricter_of_two_limits_of_hits_holds(target: Cat, tmp_path: Path) -> None:
    own = program(tmp_path).read_text().replace("minor = 3", "minor = 3\nmax_hits = 1")
    with running_daemon(tmp_path) as daemon:
        path = program(tmp_path, own)
        daemon.dprobe("insert", "--max-hits", "2", "-p", target.pid, path)
        assert [row["max_hits"] for row in daemon.json("query")] == [1]


def test_a_policy_caps_what_runs_already(target: Cat, tmp_path: Path) -> None:
    config = tmp_path / "dprobed.toml"
    config.write_text('policies = "policies.d"\n')
    policies = tmp_path / "policies.d"
    policies.mkdir()
    policy = '[[policy]]\nname = "p"\nmatch.exe = "**"\nstay = {{ {} }}\n'
    (policies / "p.toml").write_text(policy.format('for = "1h"'))
    with running_daemon(tmp_path, "--config", config) as daemon:
        done = daemon.dprobe("insert", "--for", "2h", "-p", target.pid, program(tmp_path))
        assert f", by policy p ({policies}/p.toml:1))" in done.stderr
        explained = daemon.dprobe("policy", "explain", target.pid).stdout
        assert "what is inserted stays for: 1h at most" in explained
        target.say("a")
        target.say("b")
        (policies / "p.toml").write_text(policy.format("max_hits = 1"))
        assert daemon.dprobe("policy", "reload").returncode == 0
        (row,) = daemon.json("query")
        assert (row["state"], row["hits"], row["max_hits"]) == ("disabled", 2, 1)
        target.say("c")
        (row,) = daemon.json("query")
        assert row["hits"] == 2
        (policies / "p.toml").write_text(policy.format('for = "10ms"'))
        assert daemon.dprobe("policy", "reload").returncode == 0
        while tracer_of(target.pid):
            target.say("d")
        assert daemon.json("query") == []


@pytest.mark.parametrize("key", ['for = "1"', "for = 1", "max_hits = 0", "fro = 1", 'for = "0s"'])
def test_a_wrong_stay_is_one_line(key: str, tmp_path: Path) -> None:
    config = tmp_path / "dprobed.toml"
    config.write_text(f"[stay]\n{key}\n")
    done = subprocess.run(
        [DPROBE.with_name("dprobed"), "--check-config", "--config", config],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 2
    assert f"{config}:2:" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_lets_the_command_go_on(tmp_path: Path) -> None:
    command = [DPROBE, "run", "--for", "50ms", program(tmp_path), "--", "cat"]
    with subprocess.Popen(
        list(map(str, command)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stderr:
            if "time is over" in line:
                assert line == "dprobe: the time is over; the command goes on without probes\n"
                break
        process.stdin.write("still here\n")
        process.stdin.close()
        assert process.stdout.read() == "still here\n"
        assert process.wait(PATIENCE) == 0
        assert "writes" in process.stderr.read()  # the summary


def test_attach_ends_with_its_programs_and_says_who_said_so(tmp_path: Path) -> None:
    config = tmp_path / "dprobed.toml"
    config.write_text('policies = "policies.d"\n')
    (tmp_path / "policies.d").mkdir()
    policy = '[[policy]]\nname = "p"\nmatch.exe = "**"\nstay.for = "10ms"\n'
    (tmp_path / "policies.d" / "p.toml").write_text(policy)
    with running_daemon(tmp_path, "--config", config) as daemon, cat() as target:
        done = daemon.dprobe("attach", "-p", target.pid, program(tmp_path))
        assert done.returncode == 0
        assert "has ended: its time is over (by policy p (" in done.stderr
        assert tracer_of(target.pid) == 0


@pytest.mark.parametrize("value", ["0", "-1", "x", "nan", "1w"])
@pytest.mark.parametrize("option", ["--for", "--max-hits"])
def test_bad_values_are_one_line(option: str, value: str, tmp_path: Path) -> None:
    done = dprobe("insert", option, value, "-p", "1", program(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert option in done.stderr


def test_a_deployment_ends_in_all_its_processes(tmp_path: Path) -> None:
    own = shutil.copy("/usr/bin/cat", tmp_path / "own_cat")
    with running_daemon(tmp_path) as daemon, cat([own]) as one, cat([own]) as other:
        path = program(tmp_path)
        done = daemon.dprobe("insert", "--for", "1", "--exe", own, path)
        assert done.returncode == 0
        assert "dprobe: writes ends at " in done.stderr
        while daemon.query():
            one.say("a")
            other.say("b")
        # It was in both, and is in none.
        assert {each["pid"] for each in daemon.json("log")} <= {one.pid, other.pid}
        while tracer_of(one.pid) or tracer_of(other.pid):
            pass
        daemon.stop()
        assert daemon.process.stderr is not None
        said = daemon.process.stderr.read()
    assert "all processes: writes has ended: its time is over\n" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can serve other users")
def test_what_another_user_leaves_behind_in_roots_daemon(place: Place) -> None:
    place.config.write_text('policies = "policies.d"\n[stay]\nfor = "2h"\nmax_hits = 5\n')
    with place.daemon() as daemon, cat_of(NOBODY) as target, asking(daemon) as peer:
        assert attach(peer, target.pid)["type"] == "attached"
        (probe,) = insert(peer, target.pid, upload(), keep=True)["probes"]
        assert (probe["uid"], probe["max_hits"]) == (NOBODY, 5)
        assert 7200 - PATIENCE < probe["left_seconds"] <= 7200
        assert probe["end_rule"] == "the default of dprobed.toml"
        (row,) = daemon.json("query")
        assert (row["uid"], row["end_rule"]) == (NOBODY, probe["end_rule"])
