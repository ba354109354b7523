"""Two programs at one place that are to be served by different engines: the second is not in, and
it is said why and what to do; the first one counts on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.client_support import Cat, Daemon, program

pytest.importorskip("llvmlite")

WRITES = "name = libc.so.6\noffset = write\nabort\n"


@pytest.mark.parametrize("first", ["trap", "inline"])
def test_the_second_one_says_what_to_do(
    daemon: Daemon, target: Cat, tmp_path: Path, first: str
) -> None:
    second = {"trap": "inline", "inline": "trap"}[first]
    for name in (first, second):
        path = program(tmp_path, WRITES, name)
        done = daemon.dprobe("insert", "-p", target.pid, path, "--engine", name)
    said = " ".join(done.stderr.split())
    assert f"{second} 1.1 at write: failed: " in said
    assert f"--engine {first}" in said
    assert "remove that first" in said
    target.say("on")
    target.say("and on")
    daemon.json("query")  # what inlined code counts is read now and then
    hits = {each["program"]: each["hits"] for each in daemon.query() if each["type"] == "probe"}
    assert hits[second] == 0
    while not hits[first]:
        hits = {each["program"]: each["hits"] for each in daemon.query() if "hits" in each}
    assert daemon.dprobe("remove", "--all").returncode == 0
    target.say("as before")
