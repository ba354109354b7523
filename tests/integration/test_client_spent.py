"""What each program costs: the time for which threads stood for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.integration.client_support import Cat, Daemon, Json, cat, program

READS = "name = libc.so.6\noffset = read\nabort\n"
NEVER = "name = libc.so.6\noffset = getppid\nabort\n"


def spent(daemon: Daemon) -> dict[str, int]:
    """By program."""
    return {each["program"]: each["spent_ns"] for each in rows(daemon, "probe")}


def rows(daemon: Daemon, kind: str) -> list[Json]:
    return [each for each in daemon.json("query", "-x") if each["type"] == kind]


def test_each_program_has_its_own(daemon: Daemon, target: Cat, tmp_path: Path) -> None:
    """Of two at the same place as well: together no more than the process stood still."""
    for name, text in (("reads", READS), ("too", READS), ("never", NEVER)):
        daemon.json("insert", program(tmp_path, text, name), "-p", target.pid)
    for _ in range(20):
        target.say("on")
    found = spent(daemon)
    assert found["reads"] > 0
    assert found["too"] > 0
    assert found["never"] == 0
    (process,) = rows(daemon, "target")
    assert found["reads"] + found["too"] <= process["overhead_ns"]
    _, table = daemon.dprobe("query").stdout.split("\n\n", 1)
    shown = {line.split()[0]: line.split()[-1] == "%" for line in table.splitlines()}
    assert shown == {"program": False, "reads": True, "too": True, "never": False}


@pytest.mark.parametrize("body", ["abort", "entry:\npush time\npop e,0\nreturn:\nabort"])
def test_of_returns(daemon: Daemon, target: Cat, tmp_path: Path, body: str) -> None:
    """Where a call begins, and where it returns."""
    text = f"name = libc.so.6\noffset = read\nat = return\n{body}\n"
    daemon.json("insert", program(tmp_path, text, "returns"), "-p", target.pid)
    for _ in range(20):
        target.say("on")
    (probe,), (process,) = rows(daemon, "probe"), rows(daemon, "target")
    assert probe["hits"] >= 19
    assert 0 < probe["spent_ns"] <= process["overhead_ns"]


def test_in_all_processes_of_a_deployment(daemon: Daemon, tmp_path: Path) -> None:
    """Those that have ended, too."""
    own = Path(shutil.copy("/bin/cat", tmp_path / "cat"))
    daemon.json("insert", program(tmp_path, READS, "reads"), "--exe", own)
    with cat([own]) as one:
        while rows(daemon, "deployment")[0]["processes"] != 1:
            pass
        one.say("on")
    while rows(daemon, "deployment")[0]["processes"]:
        pass
    assert rows(daemon, "deployment")[0]["spent_ns"] > 0
