"""`--follow-forks` as a user sees it: real programs with children."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from tests.integration.client_support import (
    DPROBE,
    PATIENCE,
    Json,
    dprobe,
    parsed,
    program,
    running_daemon,
)

#: A child that writes as often as it is told, made by multiprocessing's fork.
FORKS = """
import multiprocessing, os, sys
def work(times):
    for _ in range(times): os.write(1, b"child")
for times in (3, 4):
    child = multiprocessing.get_context("fork").Process(target=work, args=(times,))
    child.start()
    child.join()
os.write(1, b"parent!")
"""


def run(folder: Path, *command: object, follow: bool = True) -> tuple[int, list[Json], Json]:
    """The exit status of a command, its records and the summary."""
    report = folder / "report"
    options = ("--format", "json", "-o", report, *(["-f"] if follow else []))
    done = dprobe("run", *options, program(folder), "--", *command)
    *records, summary = parsed(report.read_text())
    return done.returncode, records, summary


def test_a_pipeline_of_the_shell(tmp_path: Path) -> None:
    script = "printf 12345 | cat; /bin/echo 1234567; exit 5"
    status, records, summary = run(tmp_path, "sh", "-c", script)
    assert status == 5
    assert {record["comm"] for record in records} >= {"cat", "echo"}
    assert len({record["pid"] for record in records}) >= 3
    [probe] = summary["probes"]
    assert (probe["hits"], probe["state"]) == (len(records), "active")


def test_multiprocessing(tmp_path: Path) -> None:
    status, records, summary = run(tmp_path, sys.executable, "-c", FORKS)
    assert status == 0
    by_pid: dict[int, int] = {}
    for record in records:
        by_pid[record["pid"]] = by_pid.get(record["pid"], 0) + 1
    assert sorted(by_pid.values()) == [1, 3, 4]
    assert summary["probes"][0]["hits"] == 8
    # Counters are each process's own.
    assert sorted(record["hit"] for record in records) == [1, 1, 1, 2, 2, 3, 3, 4]


def test_children_are_let_go_unless_asked_for(tmp_path: Path) -> None:
    status, records, _ = run(tmp_path, sys.executable, "-c", FORKS, follow=False)
    assert (status, len(records)) == (0, 1)


def test_it_waits_for_the_last_child_and_has_the_status_of_the_command(tmp_path: Path) -> None:
    read, write = os.pipe()
    script = f"(head -c1 <&{read} >/dev/null; /bin/echo late) & exit 3"
    command = [str(DPROBE), "run", "-f", "--format", "json", str(program(tmp_path))]
    command += ["--", "bash", "-c", script]
    process = Popen(command, stdout=PIPE, stderr=PIPE, pass_fds=[read], text=True)
    os.close(read)
    assert process.stdout is not None
    # Nothing ends before the child may; then all of it does.
    os.write(write, b"x")
    os.close(write)
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout) == (3, "late\n")
    assert "echo" in {record["comm"] for record in parsed(stderr) if record["type"] == "record"}


def test_ctrl_c_when_only_children_are_left(tmp_path: Path) -> None:
    """They go on, without probes."""
    script = "(exec 2>&-; read x; echo done) <&0 & echo $$; exit 4"
    process = Popen(
        [DPROBE, "run", "-f", "--format", "json", program(tmp_path), "--", "bash", "-c", script],
        stdin=PIPE,
        stdout=PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None and process.stdin is not None
    command = Path("/proc") / process.stdout.readline().strip()
    deadline = time.monotonic() + 30
    while command.exists():  # until its end was taken note of
        assert time.monotonic() < deadline
    status = None
    while status is None:
        assert time.monotonic() < deadline + 4 * PATIENCE
        process.send_signal(signal.SIGINT)
        # One that comes in the very moment in which it takes that note is still the command's.
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = process.wait(20)
    assert status == 4
    process.stdin.write("x\n")
    process.stdin.flush()
    assert process.stdout.read() == "done\n"


def test_programs_that_stay(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as daemon:
        target = Popen(
            [sys.executable, "-c", f"input(){FORKS}input()"],
            stdin=PIPE,
            stdout=PIPE,
            text=True,
        )
        assert target.stdin is not None
        try:
            inserted = daemon.dprobe("insert", "-f", "--pid", target.pid, program(tmp_path))
            assert inserted.returncode == 0, inserted.stderr
        finally:
            target.stdin.write("\n\n")
            target.stdin.close()
            target.wait(30)
        shown = daemon.dprobe("query", "--json")
        assert sorted(row["hits"] for row in parsed(shown.stdout) if "hits" in row) == [1, 3, 4]


@contextmanager
def forking() -> Iterator[Popen[str]]:
    """A process that makes its children at a first line, and ends at a second."""
    script = f"input(){FORKS}print(flush=True)\ninput()"
    target = Popen([sys.executable, "-c", script], stdin=PIPE, stdout=PIPE, text=True)
    assert target.stdin is not None and target.stdout is not None
    try:
        yield target
        target.stdin.write("\n")
        target.stdin.close()
        assert target.wait(30) == 0
    finally:
        target.kill()
        target.wait()
        target.stdout.close()


def make_children(target: Popen[str]) -> None:
    assert target.stdin is not None and target.stdout is not None
    target.stdin.write("\n")
    target.stdin.flush()
    assert "parent!" in target.stdout.readline()


@pytest.mark.parametrize("order", [("-f", ""), ("", "-f")], ids=["followed-first", "last"])
def test_each_program_says_whether_children_get_it(tmp_path: Path, order: tuple[str, str]) -> None:
    with running_daemon(tmp_path) as daemon, forking() as target:
        for option in order:
            source = program(tmp_path, name=f"writes{option}")
            done = daemon.dprobe("insert", *filter(None, [option]), "--pid", target.pid, source)
            assert done.returncode == 0, done.stderr
        make_children(target)
        rows = [row for row in daemon.json("query") if "hits" in row]
        hits = {
            name: sorted(row["hits"] for row in rows if row["program"] == name)
            for name in ("writes", "writes-f")
        }
        # The last write is that of the line that says that all is done.
        assert hits == {"writes": [2], "writes-f": [2, 3, 4]}
        logged = [record["program"] for record in daemon.json("log")]
        assert (logged.count("writes"), logged.count("writes-f")) == (2, 9)


def test_attach_to_a_process_whose_children_somebody_else_follows(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as daemon, forking() as target:
        inserted = daemon.dprobe("insert", "-f", "--pid", target.pid, program(tmp_path))
        assert inserted.returncode == 0, inserted.stderr
        own = program(tmp_path, name="own")
        command = [str(DPROBE), "--socket", str(daemon.socket), "attach", "--format", "json"]
        attached = Popen([*command, str(target.pid), str(own)], stdout=PIPE, stderr=PIPE, text=True)
        assert attached.stderr is not None
        assert "until Ctrl-C" in attached.stderr.readline()
        make_children(target)
        attached.send_signal(signal.SIGINT)
        report, _ = attached.communicate(timeout=30)
        *records, summary = parsed(report)
        assert [record["pid"] for record in records] == [target.pid] * 2
        assert [probe["hits"] for probe in summary["probes"]] == [2]


def test_no_count_of_a_child_is_lost_however_many_there_were(tmp_path: Path) -> None:
    script = "read x; for i in $(seq 100); do (echo hello); done; echo last"
    with running_daemon(tmp_path) as daemon:
        target = Popen(["bash", "-c", script], stdin=PIPE, stdout=PIPE, text=True)
        inserted = daemon.dprobe("insert", "-f", "--pid", target.pid, program(tmp_path))
        assert inserted.returncode == 0, inserted.stderr
        assert target.communicate("go\n", timeout=60)[0].count("hello") == 100
        # The children before the last 64, seq among them; the parent was the last to end.
        deadline = time.monotonic() + PATIENCE
        while True:
            *probes, earlier = daemon.json("query")
            if (len(probes), earlier.get("processes")) == (64, 38):
                break
            assert time.monotonic() < deadline, earlier
        assert [probe["hits"] for probe in probes] == [1] * 64
        assert (earlier["type"], earlier["hits"]) == ("earlier", 38)
        assert earlier["program"] == "writes"
        table = daemon.dprobe("query").stdout
        assert table.splitlines()[-1].split() == ["38", "writes", "1", "38", "0", "0"]
        *_, removed = daemon.json("remove", "writes")
        assert removed == earlier
        assert daemon.json("query") == []


#: Children that are all there at the same time.
MANY = """
import os
read, write = os.pipe()
for number in range(60):
    if os.fork() == 0:
        os.close(write)
        os.read(read, 1)
        os.write(1, b"child ")
        os._exit(0)
os.close(write)
while True:
    try:
        _, status = os.wait()
    except ChildProcessError:
        break
    assert status == 0, status
"""


def test_more_children_than_we_may_have_files_open(tmp_path: Path) -> None:
    """Those beyond what the limit allows go on without probes, and nobody is harmed."""
    report, source = tmp_path / "report", program(tmp_path)
    command = ["prlimit", "--nofile=80:80", str(DPROBE), "run", "-f", "--format", "json"]
    command += ["-o", str(report), str(source), "--", sys.executable, "-c", MANY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "child " * 60), done.stderr
    (told,) = done.stderr.splitlines()
    assert told.endswith(": too many processes: a child is not followed")
    *records, summary = parsed(report.read_text())
    assert 10 < len(records) < 60
    assert summary["probes"][0]["hits"] == len(records)
