"""The commands that talk to a running `dprobed`, each against a real process."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from tests.integration.client_support import (
    DPROBE,
    PATIENCE,
    Cat,
    Daemon,
    cat,
    children,
    dprobe,
    parsed,
    program,
    running_daemon,
    tracer_of,
    wait_end,
    words,
)


def test_insert_stays_until_remove(daemon: Daemon, target: Cat, tmp_path: Path) -> None:
    (probe,) = daemon.json("insert", program(tmp_path), "--pid", target.pid)
    assert probe["state"] == "active"
    assert probe["place"] == "write+0x0"
    target.say("one")
    target.say("twoo")
    (probe,) = daemon.json("query")
    assert (probe["hits"], probe["ran"], probe["missed"], probe["dropped"]) == (2, 2, 0, 0)
    assert [words(record) for record in daemon.json("log")] == [[4], [5]]
    (probe,) = daemon.json("remove", "writes")
    assert probe["hits"] == 2
    assert daemon.json("query") == []
    assert tracer_of(target.pid) == 0


def test_query_extended_shows_processes_and_columns(
    daemon: Daemon, target: Cat, tmp_path: Path
) -> None:
    daemon.json("insert", program(tmp_path), "--pid", target.pid)
    target.say("x")
    process, probe = daemon.json("query", "-x", "writes", "--pid", target.pid)
    assert (process["pid"], process["comm"], process["ended"]) == (target.pid, "cat", "")
    assert process["overhead_ns"] > 0
    assert len(probe["addresses"]) == 1
    table = daemon.dprobe("query", "-x").stdout
    assert table.splitlines()[0].split()[:2] == ["pid", "command"]
    assert hex(probe["addresses"][0]) in table


def test_programs_are_numbered_and_chosen(daemon: Daemon, target: Cat, tmp_path: Path) -> None:
    other = "name = libc.so.6\nid = 9\noffset = read\n    exit\n"
    daemon.json("insert", program(tmp_path), "--pid", target.pid)
    daemon.json("insert", program(tmp_path, other, "reads"), "--pid", target.pid)
    daemon.json("insert", program(tmp_path), "--pid", target.pid, "--merge")
    rows = daemon.json("programs")
    assert [(row["number"], row["program"], row["program_id"]) for row in rows] == [
        (1, "writes", 0),
        (2, "reads", 9),
        (3, "writes", 0),
    ]
    assert all(row["kept"] for row in rows)
    assert [probe["number"] for probe in daemon.json("remove", "--id", "9")] == [2]
    assert [probe["number"] for probe in daemon.json("remove", "3")] == [3]
    target.say("still probed")
    assert daemon.json("query")[0]["hits"] == 1
    assert daemon.json("remove", "--module", "libc.so.6", "--pid", target.pid)[0]["number"] == 1
    assert daemon.json("programs") == []


def test_query_says_when_there_is_no_such_program(daemon: Daemon) -> None:
    for arguments, status, text in (
        ((), 0, "nothing is inserted"),
        (("other",), 2, "dprobe: there is no program other; `dprobe programs` lists them"),
        (("--pid", os.getpid()), 0, "no such program is inserted"),
    ):
        done = daemon.dprobe("query", *arguments)
        assert (done.returncode, done.stdout, done.stderr) == (status, "", f"{text}\n")


def test_remove_says_when_there_is_nothing_to_remove(daemon: Daemon) -> None:
    assert daemon.dprobe("remove", "--all").returncode == 0
    done = daemon.dprobe("remove", "nothing")
    assert done.returncode == 2
    assert done.stderr == "dprobe: no such program is inserted; `dprobe programs` lists them\n"
    assert daemon.dprobe("remove").returncode == 2
    assert daemon.dprobe("remove", "--all", "writes").returncode == 2


def test_variables_are_read_and_reset(daemon: Daemon, target: Cat, tmp_path: Path) -> None:
    source = """
name = libc.so.6
vars = 3
gvars = 2
offset = write
    inc lv,1
    push 0xffffffffffffffff
    pop gv,1
    exit
"""
    daemon.json("insert", program(tmp_path, source), "--pid", target.pid)
    target.say("x")
    target.say("y")
    assert [row["value"] for row in daemon.json("vars", "writes")] == [0, 2, 0]
    rows = daemon.json("vars", "--global", target.pid, "1-1")
    assert [(row["index"], row["value"]) for row in rows] == [(1, 2**64 - 1)]
    assert [row["value"] for row in daemon.json("vars", "1", "2-9", "--reset")] == [0]
    assert [row["value"] for row in daemon.json("vars", "1")] == [0, 2, 0]
    assert [row["value"] for row in daemon.json("vars", "1", "1-2", "--reset")] == [2, 0]
    assert [row["value"] for row in daemon.json("vars", "1")] == [0, 0, 0]
    for arguments in (["nothing"], ["1", "2-1"], ["1", "x"], []):
        done = daemon.dprobe("vars", *arguments)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1


def test_verbose_says_through_whom_and_what(daemon: Daemon) -> None:
    done = daemon.dprobe("-v", "query")
    assert done.returncode == 0
    assert f"at {daemon.socket}, process {daemon.process.pid}, version " in done.stderr
    assert "\ndprobe: query: answered in " in done.stderr
    assert "dprobe: query" not in daemon.dprobe("query").stderr
    assert "\ndprobe: query: answered in " in daemon.dprobe("query", "-v").stderr
    assert "\ndprobe: tracelist: answered in " in daemon.dprobe("trace", "list", "-v").stderr
    for both in (("-v", "-q", "query"), ("query", "-v", "-q"), ("-v", "trace", "list", "-q")):
        done = daemon.dprobe(*both)
        assert done.returncode == 2
        assert done.stderr.startswith("dprobe: --quiet and --verbose exclude each other")


def test_log_follows(daemon: Daemon, target: Cat, tmp_path: Path) -> None:
    daemon.json("insert", program(tmp_path), "--pid", target.pid)
    target.say("before")
    affinity = subprocess.Popen(
        [DPROBE, "--socket", daemon.socket, "log", "-f", "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert affinity.stdout is not None
    assert words(parsed(affinity.stdout.readline())[0]) == [7]
    # The follower is there when one more of our lines reaches it.
    # (Each in its turn: more would fill the pipe that nobody reads.)
    while not select.select([affinity.stdout], [], [], 0.1)[0]:
        target.say("then")
    assert words(parsed(affinity.stdout.readline())[0]) == [5]
    affinity.send_signal(signal.SIGINT)
    assert affinity.wait(PATIENCE) == 0
    affinity.stdout.close()


def test_suspended_threads_wait_for_resume(daemon: Daemon, tmp_path: Path) -> None:
    source = "name = libc.so.6\noffset = write\n    suspend\n    push tid\n    log 1\n    exit\n"
    with cat() as target:
        daemon.json("insert", program(tmp_path, source), "--pid", target.pid)
        assert target.process.stdin is not None
        assert target.process.stdout is not None
        target.process.stdin.write(b"held\n")
        target.process.stdin.flush()
        while not (held := daemon.json("query", "-x")[0]["suspended"]):
            pass
        assert held == [target.pid]
        assert not select.select([target.process.stdout], [], [], 0)[0]
        done = daemon.dprobe("resume", target.pid, "1")
        assert done.returncode == 2
        assert "thread 1 is not held" in done.stderr
        [resumed] = daemon.json("resume", target.pid, target.pid)
        assert (resumed["type"], resumed["tid"]) == ("resumed", target.pid)
        assert target.process.stdout.readline() == b"held\n"
        assert daemon.json("resume") == []
        daemon.dprobe("remove", "--all")


def test_run_and_attach_use_the_daemon(daemon: Daemon, target: Cat, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            *(DPROBE, "--socket", daemon.socket, "attach", "--format", "json"),
            *(str(target.pid), program(tmp_path)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while not select.select([process.stdout], [], [], 0)[0]:
        target.say("x")
    assert children(process.pid) == []
    (row,) = daemon.json("programs")
    assert not row["kept"]
    daemon.json("insert", program(tmp_path, name="kept"), "--pid", target.pid)
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert parsed(stdout)[-1]["probes"][0]["hits"] >= 1
    assert [row["program"] for row in daemon.json("programs")] == ["kept"]
    done = daemon.dprobe("run", "--format", "json", "-o", "-", program(tmp_path), "--", "true")
    assert done.returncode == 0
    assert parsed(done.stdout)[-1]["type"] == "summary"
    assert [row["program"] for row in daemon.json("programs")] == ["kept"]


def test_what_a_killed_client_put_in_goes_out(daemon: Daemon, target: Cat, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [DPROBE, "--socket", daemon.socket, "attach", str(target.pid), program(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith(b"dprobe: 1 probe in process")
    tracer = tracer_of(target.pid)
    process.kill()
    process.communicate()
    assert wait_end(tracer)
    assert daemon.json("query") == []


def test_a_client_is_told_when_another_takes_its_program_out(
    daemon: Daemon, target: Cat, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [
            *(DPROBE, "--socket", daemon.socket, "attach", "--format", "json"),
            *(str(target.pid), program(tmp_path)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "1 probe in process" in process.stderr.readline()
    target.say("x")
    assert daemon.json("remove", "writes")[0]["hits"] == 1
    line = "dprobe: writes 7.3 at write+0x0: removed: removed by another client\n"
    assert process.stderr.readline() == line
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=30)
    (probe,) = parsed(stdout)[-1]["probes"]
    assert (probe["state"], probe["hits"]) == ("removed", 1)


def test_a_command_outlives_the_end_of_the_daemon(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as daemon:
        process = subprocess.Popen(
            [
                *(DPROBE, "--socket", daemon.socket, "run", "--format", "json"),
                *("-o", tmp_path / "report", program(tmp_path), "--", "cat"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        owner = "root" if os.getuid() == 0 else f"user {os.getuid()}"
        through = f"the dprobed of {owner} at {daemon.socket}"
        assert process.stderr.readline() == f"dprobe: through {through}\n".encode()
        process.stdin.write(b"one\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"one\n"
        daemon.stop()
        line = (
            b"dprobe: dprobed has detached from the command; the command goes on without probes\n"
        )
        assert process.stderr.readline() == line
        stdout, _ = process.communicate(b"two\n", timeout=30)
        assert (process.returncode, stdout) == (0, b"two\n")
        summary = parsed((tmp_path / "report").read_text())[-1]
        assert summary["probes"][0]["hits"] == 1


def test_counters_of_a_target_that_ended_are_still_shown(daemon: Daemon, tmp_path: Path) -> None:
    with cat() as target:
        daemon.json("insert", program(tmp_path), "--pid", target.pid)
        target.say("x")
        tracer = tracer_of(target.pid)
        assert target.end() == 0
        assert wait_end(tracer)
    while not (rows := daemon.json("query", "-x"))[0]["ended"]:
        pass
    assert rows[0]["ended"] == "exited with status 0"
    assert rows[1]["hits"] == 1
    daemon.json("remove", "--all")
    assert daemon.json("query", "-x") == []


def test_a_tracer_that_dies_is_told_and_the_daemon_goes_on(
    daemon: Daemon, target: Cat, tmp_path: Path
) -> None:
    source = "name = libc.so.6\noffset = getpwnam\n    exit\n"
    daemon.json("insert", program(tmp_path, source), "--pid", target.pid)
    tracer = tracer_of(target.pid)
    os.kill(tracer, signal.SIGKILL)
    assert wait_end(tracer)
    while (rows := daemon.json("query"))[0]["state"] != "failed":
        pass
    assert rows[0]["reason"] == "the tracer was killed by SIGKILL"
    daemon.json("remove", "--all")


def test_watchpoints_of_a_tracer_that_dies_are_taken_out(daemon: Daemon, tmp_path: Path) -> None:
    """Left in the debug registers they would be the target's end at the next access."""
    script = (
        "import ctypes, sys\n"
        "watched = ctypes.c_int.in_dll(ctypes.CDLL(None), 'optind')\n"
        "for line in sys.stdin:\n"
        "    watched.value += 1\n"
        "    sys.stdout.write(line)\n"
        "    sys.stdout.flush()\n"
    )
    source = "name = libc.so.6\naddress = optind:4\nwatchpoint = w\n    exit\n"
    with cat([sys.executable, "-c", script]) as target:
        daemon.json("insert", program(tmp_path, source), "--pid", target.pid)
        target.say("watched")
        assert daemon.json("query")[0]["hits"] == 1
        tracer = tracer_of(target.pid)
        os.kill(tracer, signal.SIGKILL)
        assert wait_end(tracer)
        while daemon.json("query")[0]["state"] != "failed":
            pass
        assert tracer_of(target.pid) == 0
        target.say("not any longer")


def test_without_a_daemon_it_says_how_to_start_one(tmp_path: Path) -> None:
    done = dprobe("--socket", tmp_path / "none", "query")
    assert done.returncode == 1
    assert done.stderr == f"dprobe: no dprobed listens at {tmp_path}/none; start one: dprobed &\n"


def test_the_end_of_the_daemon_takes_everything_out(tmp_path: Path) -> None:
    with cat() as target, running_daemon(tmp_path) as daemon:
        daemon.json("insert", program(tmp_path), "--pid", target.pid)
        assert tracer_of(target.pid)
        daemon.stop()
        assert tracer_of(target.pid) == 0


def test_a_killed_daemon_takes_everything_out(tmp_path: Path) -> None:
    with cat() as target, running_daemon(tmp_path) as daemon:
        daemon.json("insert", program(tmp_path), "--pid", target.pid)
        tracer = tracer_of(target.pid)
        daemon.process.kill()
        daemon.process.wait()
        assert wait_end(tracer)
        assert tracer_of(target.pid) == 0
