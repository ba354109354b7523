"""`dprobe attach`: probes in a process that was running before, which goes on afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

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


def attached(target: Cat, source: Path) -> subprocess.Popen[str]:
    """An attach that says that its probes are in."""
    process = subprocess.Popen(
        [DPROBE, "attach", "--format", "json", str(target.pid), source],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    start = f"dprobe: 1 probe in process {target.pid}, until Ctrl-C, through a private dprobed"
    assert line == f"{start}\n"
    return process


def test_until_ctrl_c(tmp_path: Path) -> None:
    with cat() as target:
        process = attached(target, program(tmp_path))
        target.say("a line")
        target.say("x" * 20)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
        assert (process.returncode, stderr) == (0, "")
        *records, summary = parsed(stdout)
        assert [words(record) for record in records] == [[7], [21]]
        assert summary["type"] == "summary"
        assert summary["probes"][0]["hits"] == 2
        assert tracer_of(target.pid) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_until_a_signal_asks_it_to_end(tmp_path: Path, number: signal.Signals) -> None:
    with cat() as target:
        process = attached(target, program(tmp_path))
        target.say("a line")
        process.send_signal(number)
        stdout, _ = process.communicate(timeout=30)
        assert process.returncode == 128 + number
        assert parsed(stdout)[-1]["type"] == "summary"


def test_the_daemon_ends_before_it(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as daemon, cat() as target:
        with subprocess.Popen(
            [DPROBE, "--socket", daemon.socket, "attach", str(target.pid), program(tmp_path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            process.stderr.readline()
            daemon.stop()
            _, stderr = process.communicate(timeout=PATIENCE)
            assert process.returncode == 1
        assert f"dprobed has detached from process {target.pid}; it goes on" in stderr
        assert tracer_of(target.pid) == 0


def test_for_a_time(tmp_path: Path) -> None:
    with cat() as target:
        done = dprobe("attach", "--for", "0.1", target.pid, program(tmp_path))
        first, *summary = done.stderr.splitlines()
        assert first == (
            f"dprobe: 1 probe in process {target.pid}, until 100ms are over, "
            "through a private dprobed"
        )
        assert (done.returncode, done.stdout) == (0, "")
        assert summary[0].startswith("program ")


def test_several_processes_together(tmp_path: Path) -> None:
    """By number and by what pidof prints; the summary is of all of them."""
    with cat() as one, cat() as other:
        command = [DPROBE, "attach", "--json", "-p", str(one.pid), str(other.pid)]
        with subprocess.Popen(
            [*map(str, command), str(program(tmp_path))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            assert f"in processes {one.pid}, {other.pid}, " in process.stderr.readline()
            one.say("a")
            other.say("bc")
            process.send_signal(signal.SIGINT)
            stdout, _ = process.communicate(timeout=30)
        *records, summary = parsed(stdout)
        assert {(record["pid"], *words(record)) for record in records} == {
            (one.pid, 2),
            (other.pid, 3),
        }
        [probe] = summary["probes"]
        assert (probe["hits"], summary["daemon"]) == (2, "a private dprobed")
        assert (tracer_of(one.pid), tracer_of(other.pid)) == (0, 0)


def test_until_the_end_of_the_target(tmp_path: Path) -> None:
    with cat() as target:
        process = attached(target, program(tmp_path))
        target.say("a line")
        assert target.end() == 0
        stdout, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        assert parsed(stdout)[-1]["type"] == "summary"


def test_killed_it_leaves_nothing_behind(tmp_path: Path) -> None:
    with cat() as target:
        process = attached(target, program(tmp_path))
        target.say("a line")
        tracer = tracer_of(target.pid)
        (daemon,) = children(process.pid)
        process.kill()
        process.communicate()
        assert wait_end(tracer)
        assert wait_end(daemon)
        assert tracer_of(target.pid) == 0


def test_a_reader_that_leaves_ends_it(tmp_path: Path) -> None:
    with cat() as target:
        process = attached(target, program(tmp_path))
        target.say("a line")
        assert process.stdout is not None
        process.stdout.close()
        while process.poll() is None:
            target.say("more")
        assert process.returncode == 141
        assert process.stderr is not None
        assert process.stderr.read() == ""
        process.stderr.close()


def test_two_at_once_each_have_their_own(tmp_path: Path) -> None:
    with cat() as target:
        one = attached(target, program(tmp_path))
        target.say("a line")
        refused = dprobe("attach", target.pid, program(tmp_path))
        assert refused.returncode == 2
        assert f"process {target.pid}" in refused.stderr
        assert "traced" in refused.stderr
        one.send_signal(signal.SIGINT)
        one.communicate(timeout=30)


def test_what_others_cost_is_not_its_own(daemon: Daemon, tmp_path: Path) -> None:
    """In a process that is probed already; its whole cost is in `query -x`."""

    def spent() -> int:
        (target,) = (row for row in daemon.json("query", "-x") if row["type"] == "target")
        return int(target["overhead_ns"])

    with cat() as target:
        assert daemon.dprobe("insert", "-p", target.pid, program(tmp_path)).returncode == 0
        for _ in range(20):
            target.say("before")
        before = spent()
        assert before > 0
        other = program(tmp_path, name="other")
        done = daemon.dprobe("attach", "--json", "--duration", "10ms", "-p", target.pid, other)
        assert done.returncode == 0, done.stderr
        summary = parsed(done.stdout)[-1]
        assert 0 <= summary["overhead_ns"] <= spent() - before


@pytest.mark.parametrize(
    ("pid", "text"),
    [
        (str(2**22 - 3), "is gone"),
        ("0", "is not in the range"),
        ("x", "say which processes, by -p"),
    ],
)
def test_a_process_that_cannot_be_is_refused(tmp_path: Path, pid: str, text: str) -> None:
    done = dprobe("attach", pid, program(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert text in done.stderr.lower()


def test_part_of_dprobe_itself_is_refused(tmp_path: Path) -> None:
    path = program(tmp_path)
    # The shell's own process becomes dprobe.
    command = f"exec {DPROBE} attach $$ {path}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is part of dprobed itself" in done.stderr


def test_one_bad_program_of_two_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    good = program(tmp_path)
    bad = program(tmp_path, "name = libc.so.6\noffset = write\n    exit nosuch\n", "bad")
    with cat() as target:
        done = dprobe("attach", target.pid, good, bad)
        assert done.returncode == 2
        assert f"{bad}:3:5: bad: no facility nosuch is registered" in done.stderr
        assert tracer_of(target.pid) == 0


def _with_broken(module: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """An attach where a module cannot be imported."""
    (folder / f"{module}.py").write_text("raise ImportError('broken here')\n")
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return dprobe("attach", "--private", os.getpid(), program(folder), env=environment)


def test_a_private_daemon_that_cannot_start_is_told_in_one_line(tmp_path: Path) -> None:
    done = _with_broken("asyncio", tmp_path)  # Only the daemon imports it.
    assert done.returncode == 1
    assert done.stderr == "dprobe: the private daemon did not start: ImportError: broken here\n"


def test_a_tracer_that_cannot_start_is_told(tmp_path: Path) -> None:
    """In one line, or with the log where its daemon has greeted the client by then."""
    done = _with_broken("ptrace", tmp_path)  # Only the tracer imports it.
    assert done.returncode in (1, 2)
    assert done.stderr.count("ImportError: broken here\n") == 1
    assert done.stderr.splitlines()[-1].startswith("dprobe: ")


def test_a_defect_in_a_private_daemon_is_told_with_its_log(tmp_path: Path) -> None:
    """It is nowhere else, and "see the log" would lead nowhere."""
    (tmp_path / "sitecustomize.py").write_text(
        "from dprobed.tracer.programs import Programs\nPrograms.insert = lambda *_: 1 / 0\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with cat() as target:
        done = dprobe("attach", "--private", target.pid, program(tmp_path), env=environment)
    assert done.returncode != 0
    assert "dprobe: the log of the private dprobed:\n" in done.stderr
    assert "Traceback (most recent call last):\n" in done.stderr
    assert " ZeroDivisionError: division by zero\n" in done.stderr


def test_until_no_probe_is_left(tmp_path: Path) -> None:
    """One removes itself, the other is disabled."""
    ends = "name = libc.so.6\noffset = write\n    rem\noffset = write\nmax_hits = 2\n    exit\n"
    with cat() as target:
        process = subprocess.Popen(
            [DPROBE, "attach", "--format", "json", str(target.pid), program(tmp_path, ends)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        process.stderr.readline()
        target.say("one")
        target.say("two")
        stdout, stderr = process.communicate(timeout=30)
        assert (process.returncode, stderr) == (0, "dprobe: no probe is left\n")
        *records, summary = parsed(stdout)
        assert [record["exit"] for record in records] == ["rem", "exit", "exit"]
        assert [probe["state"] for probe in summary["probes"]] == ["removed", "disabled"]
        assert tracer_of(target.pid) == 0


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (
            "offset = nosuch",
            "invalid offset: /usr/lib/x86_64-linux-gnu/libc.so.6: no symbol nosuch",
        ),
        ("address = 0x1001:8\nwatchpoint = w", "watchpoint length invalid: 8 bytes at 0x1001"),
        (
            "address = 0xffffffff81000000:8\nwatchpoint = w",
            "invalid offset: 0xffffffff81000000 is not an address of a process",
        ),
    ],
)
def test_where_no_probe_can_fire_nothing_is_waited_for(
    tmp_path: Path, place: str, reason: str
) -> None:
    with cat() as target:
        source = program(tmp_path, f"name = libc.so.6\n{place}\n    exit\n", "vain")
        done = dprobe("attach", "--missing", "warn", target.pid, source)
        assert done.returncode == 2
        assert f"dprobe: {source}:2:11: vain 1.1 at " in done.stderr.replace(":2:10:", ":2:11:")
        assert f": {reason}" in done.stderr
        assert "\ndprobe: no probe is there that could fire\n" in done.stderr
        assert tracer_of(target.pid) == 0


POINTER = """
name = libc.so.6
offset = write
    push r,rip
    log ptr here
    push r,rdx
    log u64 size
    push -28
    log i32 error
    exit
"""


def test_values_have_names_and_types_and_addresses_places(tmp_path: Path) -> None:
    with cat() as target:
        command = [DPROBE, "attach", "-p", str(target.pid), program(tmp_path, POINTER)]
        with subprocess.Popen(
            [*map(str, command), "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stderr.readline().startswith("dprobe: 1 probe in process ")
            target.say("abc")
            (record,) = parsed(process.stdout.readline())
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)
        here, size, error = record["log"]
        assert (here["name"], here["kind"], here["place"]) == ("here", "ptr", "write+0x0")
        assert (size, error) == (
            {"value": 4, "kind": "u64", "name": "size"},
            {"value": -28, "kind": "i32", "name": "error"},
        )
