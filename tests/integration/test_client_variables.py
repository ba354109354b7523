"""What programs count comes out: in summaries and in `query`, by name, summed over processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

from tests.integration.client_support import (
    DPROBE,
    PATIENCE,
    Cat,
    Daemon,
    Json,
    cat,
    dprobe,
    parsed,
    program,
)

#: Counts the calls of write(2), and what they were to write.
COUNTS = """
name = libc.so.6
vars = calls, bytes
offset = write
    inc lv,calls
    push lv,bytes
    push r,rdx
    add
    pop lv,bytes
    abort
"""


def variables(rows: list[Json]) -> dict[str, int]:
    """The values by name, of all programs."""
    found: Counter[str] = Counter()
    for row in rows:
        if row.get("type") == "variable":
            found[row["name"]] += row["value"]
    return dict(found)


def test_run_sums_over_the_children_that_it_follows(tmp_path: Path) -> None:
    """What a child has from its parent at the fork is the parent's, and counted once."""
    path = program(tmp_path, COUNTS, "counts")
    command = ["sh", "-c", "echo one; (echo two); echo three"]
    done = dprobe("run", "-f", "--json", path, "--", *command)
    assert (done.returncode, done.stdout) == (0, "one\ntwo\nthree\n")
    summary = parsed(done.stderr)[-1]
    assert summary["variables"] == [
        {"program": "counts", "name": "calls", "value": 3},
        {"program": "counts", "name": "bytes", "value": 14},
    ]
    done = dprobe("run", "-f", path, "--", *command)
    assert "counts: calls = 3, bytes = 14\n" in done.stderr


def test_variables_without_names_are_told_by_their_numbers(tmp_path: Path) -> None:
    source = "name = libc.so.6\nvars = 3\noffset = write\n  push -1\n  pop lv,1\n  abort\n"
    path = program(tmp_path, source, "counts")
    done = dprobe("run", path, "--", "sh", "-c", "echo one")
    assert f"counts: lv,1 = {2**64 - 1}\n" in done.stderr
    done = dprobe("run", "--json", path, "--", "sh", "-c", "echo one")
    # What a double cannot hold is there as text, too.
    assert parsed(done.stderr)[-1]["variables"] == [
        {"program": "counts", "name": "0", "value": 0},
        {"program": "counts", "name": "1", "value": 2**64 - 1, "text": str(2**64 - 1)},
        {"program": "counts", "name": "2", "value": 0},
    ]


def test_attach_sums_over_its_processes(tmp_path: Path) -> None:
    path = program(tmp_path, COUNTS, "counts")
    with cat() as one, cat() as other:
        command = [DPROBE, "attach", "--json", "-p", str(one.pid), str(other.pid), path]
        with subprocess.Popen(
            [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            assert "in processes" in process.stderr.readline()
            one.say("a")
            other.say("bc")
            process.send_signal(signal.SIGINT)
            stdout, _ = process.communicate(timeout=PATIENCE)
    found = {each["name"]: each["value"] for each in parsed(stdout)[-1]["variables"]}
    assert found == {"calls": 2, "bytes": 5}


def test_query_sums_and_vars_knows_the_names(daemon: Daemon, target: Cat, tmp_path: Path) -> None:
    path = program(tmp_path, COUNTS, "counts")
    with cat() as other:
        daemon.json("insert", path, "-p", target.pid, "-p", other.pid)
        target.say("a")
        other.say("bc")
        rows = daemon.json("query")
        assert variables(rows) == {"calls": 2, "bytes": 5}
        assert {row["processes"] for row in rows if row["type"] == "variable"} == {1}
        assert variables(daemon.json("query", "-p", other.pid)) == {"calls": 1, "bytes": 3}
        one = daemon.json("vars", "counts", "bytes", "-p", target.pid)
        assert [(row["index"], row["name"], row["value"]) for row in one] == [(1, "bytes", 2)]
        done = daemon.dprobe("vars", "counts", "byte", "-p", target.pid)
        assert done.returncode == 2
        assert "or a name: calls, bytes" in done.stderr
        offered = subprocess.run(
            [DPROBE],
            env={
                **os.environ,
                "DPROBE_SOCKET": str(daemon.socket),
                "_DPROBE_COMPLETE": "bash_complete",
                "COMP_WORDS": "dprobe vars counts b",
                "COMP_CWORD": "3",
            },
            capture_output=True,
            text=True,
            check=True,
        )
        assert offered.stdout == "plain,bytes\n"
        text = daemon.dprobe("query", "-p", target.pid).stdout.splitlines()
        assert [line.split() for line in text[-2:]] == [
            ["counts", "1", "calls", "1", "1"],
            ["counts", "1", "bytes", "2", "1"],
        ]
        # Set to 0, it counts from there; also in the sum.
        daemon.json("vars", "counts", "calls", "-p", target.pid, "--reset")
        target.say("d")
        assert variables(daemon.json("query")) == {"calls": 2, "bytes": 7}
    # A process that has ended had counted, too; and so it is told at the end.
    deadline = time.monotonic() + PATIENCE
    while variables(daemon.json("query")) != {"calls": 3, "bytes": 18}:
        assert time.monotonic() < deadline
    rows = daemon.json("remove", "counts")
    assert variables(rows) == {"calls": 3, "bytes": 18}


def test_a_deployment_sums_over_its_processes(daemon: Daemon, tmp_path: Path) -> None:
    binary = tmp_path / "passes"
    shutil.copy("/bin/cat", binary)
    path = program(tmp_path, COUNTS, "counts")
    daemon.json("insert", path, "--exe", binary)

    def until(processes: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            (row,) = [each for each in daemon.json("query") if each["type"] == "deployment"]
            if row["processes"] == processes:
                return
            assert time.monotonic() < deadline

    with cat([binary]) as one, cat([binary]) as other:
        until(2)
        before = variables(daemon.json("query"))
        one.say("a")
        other.say("bc")
        after = variables(daemon.json("query"))
        assert (after["calls"] - before["calls"], after["bytes"] - before["bytes"]) == (2, 5)
    until(0)
    # Each has said `still here` at its end.
    ended = variables(daemon.json("query"))
    assert (ended["calls"] - after["calls"], ended["bytes"] - after["bytes"]) == (2, 22)
    assert variables(daemon.json("remove", "counts")) == ended
