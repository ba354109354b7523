"""What programs keep in maps comes out: while they go on and at the end, merged or by process."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

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

#: What each write(2) was to write: as a histogram, and how often by length; and who wrote last.
SIZES = """
name = libc.so.6
map = sizes, hist
map = lengths, count, keys=1
map = seen, value, keys=1
offset = write
    push r,rdx
    madd sizes
    push r,rdx
    key 1
    madd lengths
    push r,rdx
    push pid
    key 1
    mset seen
    abort
"""


def maps(rows: list[Json]) -> dict[str, Json]:
    """Those of a listing, by name; merged ones."""
    return {row["map"]: row for row in rows if row.get("type", "map") == "map" and not row["pid"]}


def counts(row: Json) -> dict[tuple[int | str, ...], int]:
    """What a map of counts has."""
    return {tuple(entry["key"]): entry["value"] for entry in row["entries"]}


def buckets(row: Json) -> dict[int, int]:
    """What a histogram without a key has: by where its buckets begin."""
    (entry,) = row["entries"]
    return {bucket["from"]: bucket["count"] for bucket in entry["buckets"]}


def test_run_shows_them_at_the_end(tmp_path: Path) -> None:
    path = program(tmp_path, SIZES, "sizes")
    command = ["sh", "-c", "echo a; (echo two); echo three"]
    done = dprobe("run", "-f", "--json", path, "--", *command)
    assert (done.returncode, done.stdout) == (0, "a\ntwo\nthree\n")
    summary = parsed(done.stderr)[-1]
    found = maps(summary["maps"])
    assert buckets(found["sizes"]) == {2: 1, 4: 2}
    assert counts(found["lengths"]) == {(2,): 1, (4,): 1, (6,): 1}
    assert found["lengths"]["lost"] == found["lengths"]["left_out"] == 0
    assert found["lengths"]["processes"] == 2
    # A value belongs to its process; the child's began with what its parent's was.
    seen = [row for row in summary["maps"] if row["map"] == "seen"]
    assert sorted(entry["value"] for row in seen for entry in row["entries"]) == [2, 4, 6]


def test_run_shows_them_as_text(tmp_path: Path) -> None:
    path = program(
        tmp_path, SIZES.replace("map = seen, value, keys=1", "map = seen, value, keys=1")
    )
    done = dprobe("run", path, "--", "sh", "-c", "echo a; echo bc; echo def; echo longer")
    lines = done.stderr.splitlines()
    at = lines.index("@sizes:")
    assert lines[at + 1 : at + 3] == [
        "[2, 4)                  2 |" + "@" * 52 + "|",
        "[4, 8)                  2 |" + "@" * 52 + "|",
    ]
    assert "@lengths[7]: 1" in lines
    assert [line for line in lines if re.fullmatch(r"@seen\[\d+\]: 7", line)]


def test_attach_adds_up_its_processes_and_tells_of_them_when_its_time_is_over(
    tmp_path: Path,
) -> None:
    path = program(tmp_path, SIZES, "sizes")
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
        found = maps(parsed(stdout)[-1]["maps"])
        assert counts(found["lengths"]) == {(2,): 1, (3,): 1}
        # Programs whose time is over tell of it, too; also of their variables.
        counted = program(
            tmp_path,
            SIZES.replace(
                "map = seen, value, keys=1", "vars = calls\nmap = seen, value, keys=1"
            ).replace("    abort", "    inc lv,calls\n    abort"),
            "timed",
        )
        with subprocess.Popen(
            [DPROBE, "attach", "--json", "--for", "3s", "-p", str(one.pid), str(counted)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            assert "in process" in process.stderr.readline()
            one.say("abc")
            stdout, _ = process.communicate(timeout=PATIENCE)
        summary = parsed(stdout)[-1]
        assert counts(maps(summary["maps"])["lengths"]) == {(4,): 1}
        assert [(each["name"], each["value"]) for each in summary["variables"]] == [("calls", 1)]


def test_maps_reads_while_it_goes_on(daemon: Daemon, target: Cat, tmp_path: Path) -> None:
    path = program(tmp_path, SIZES, "sizes")
    with cat() as other:
        daemon.json("insert", path, "-p", target.pid, "-p", other.pid)
        assert counts(maps(daemon.json("maps", "lengths"))["lengths"]) == {}
        target.say("a")
        other.say("bc")
        other.say("bc")
        found = maps(daemon.json("maps"))
        assert counts(found["lengths"]) == {(2,): 1, (3,): 2}
        assert buckets(found["sizes"]) == {2: 3}
        (row,) = daemon.json("maps", "lengths", "-p", other.pid)
        assert (row["pid"], counts(row)) == (other.pid, {(3,): 2})
        rows = daemon.json("maps", "lengths", "--by-process")
        assert {row["pid"]: counts(row) for row in rows} == {
            target.pid: {(2,): 1},
            other.pid: {(3,): 2},
        }
        # Of values each process has its own.
        rows = daemon.json("maps", "seen")
        assert {row["pid"]: counts(row) for row in rows} == {
            target.pid: {(target.pid,): 2},
            other.pid: {(other.pid,): 3},
        }
        text = daemon.dprobe("maps", "lengths", "--top", "1").stdout
        assert text == "@lengths[3]: 2\n(1 key with less not shown)\n"
        offered = subprocess.run(
            [DPROBE],
            env={
                **os.environ,
                "DPROBE_SOCKET": str(daemon.socket),
                "_DPROBE_COMPLETE": "bash_complete",
                "COMP_WORDS": "dprobe maps le",
                "COMP_CWORD": "2",
            },
            capture_output=True,
            text=True,
            check=True,
        )
        assert offered.stdout == "plain,lengths\n"
    # Those of a process that has ended stay in the sum.
    whole = {(2,): 1, (3,): 2, (11,): 1}
    deadline = time.monotonic() + PATIENCE
    while counts(maps(daemon.json("maps"))["lengths"]) != whole:
        assert time.monotonic() < deadline
    removed = maps(daemon.json("remove", "--all"))
    assert counts(removed["lengths"]) == whole
    done = daemon.dprobe("maps")
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "",
        "no program with maps is in a process\n",
    )


def test_clear_forgets_and_zero_begins_anew(daemon: Daemon, target: Cat, tmp_path: Path) -> None:
    path = program(tmp_path, SIZES, "sizes")
    daemon.json("insert", path, "-p", target.pid)
    target.say("a")
    assert counts(maps(daemon.json("maps", "--zero"))["lengths"]) == {(2,): 1}
    found = maps(daemon.json("maps"))
    assert counts(found["lengths"]) == {(2,): 0}
    assert buckets(found["sizes"]) == {}
    target.say("bc")
    assert counts(maps(daemon.json("maps", "--clear"))["lengths"]) == {(2,): 0, (3,): 1}
    target.say("bc")
    assert counts(maps(daemon.json("maps", "--clear"))["lengths"]) == {(3,): 1}
    assert counts(maps(daemon.json("maps"))["lengths"]) == {}


def test_what_finds_no_room_is_told_of(daemon: Daemon, target: Cat, tmp_path: Path) -> None:
    text = SIZES.replace("lengths, count, keys=1", "lengths, count, keys=1, size=2")
    daemon.json("insert", program(tmp_path, text, "sizes"), "-p", target.pid)
    for line in ("a", "bc", "def", "bc", "defg"):
        target.say(line)
    found = maps(daemon.json("maps"))["lengths"]
    assert (counts(found), found["lost"]) == ({(2,): 1, (3,): 2}, 2)
    lost = "@lengths: 2 updates lost: no room for more keys or buckets (size=2)"
    assert lost in daemon.dprobe("maps", "lengths").stdout.splitlines()
    (use,) = [row for row in daemon.json("query") if row.get("map") == "lengths"]
    assert (use["type"], use["entries"], use["size"], use["lost"]) == ("mapuse", 2, 2, 2)
    # In the text, too.
    rows = [line.split() for line in daemon.dprobe("query").stdout.splitlines()]
    assert ["sizes", "1", "lengths", "count", "2", "2", "2", "1"] in rows


def test_a_deployment_merges_its_processes(daemon: Daemon, tmp_path: Path) -> None:
    binary = tmp_path / "passes"
    shutil.copy("/bin/cat", binary)
    path = program(tmp_path, SIZES, "sizes")
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
        daemon.json("maps", "--clear")
        one.say("a")
        other.say("bc")
        found = maps(daemon.json("maps"))
        assert counts(found["lengths"]) == {(2,): 1, (3,): 1}
        assert found["lengths"]["processes"] == 2
    until(0)
    # Each has said `still here` at its end.
    whole = {(2,): 1, (3,): 1, (11,): 2}
    assert counts(maps(daemon.json("maps"))["lengths"]) == whole
    (ended,) = daemon.json("maps", "lengths", "--by-process")
    assert (ended["pid"], ended["processes"], counts(ended)) == (None, 2, whole)
    assert counts(maps(daemon.json("remove", "sizes"))["lengths"]) == whole


def test_every_shows_them_again(daemon: Daemon, target: Cat, tmp_path: Path) -> None:
    daemon.json("insert", program(tmp_path, SIZES, "sizes"), "-p", target.pid)
    target.say("a")
    command = [DPROBE, "--socket", daemon.socket, "maps", "lengths", "--every", "100ms", "--clear"]
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines: list[str] = []
        while "@lengths: nothing yet\n" not in lines:
            lines.append(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert re.fullmatch(r"\d\d:\d\d:\d\d\n", lines[0])
    assert lines[1:3] == ["@lengths[2]: 1\n", "\n"]


def test_what_is_taken_while_we_are_interrupted_is_shown(
    daemon: Daemon, target: Cat, tmp_path: Path
) -> None:
    """It is nowhere else."""
    daemon.json("insert", program(tmp_path, SIZES, "sizes"), "-p", target.pid)
    command = [DPROBE, "--socket", daemon.socket, "maps", "lengths", "--every", "1s", "--clear"]
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(3)][1] == "@lengths: nothing yet\n"
        target.say("abc")
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            sleeping = {"35", "230"}  # nanosleep and clock_nanosleep
            call = "running"
            while call in {"running", *sleeping}:
                (call, *_) = Path(f"/proc/{process.pid}/syscall").read_text().split()
            process.send_signal(signal.SIGINT)
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        rest, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert rest.splitlines()[1:] == ["@lengths[4]: 1", ""]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["nope"], "there is no map nope; there are: sizes, lengths, seen"),
        (["--clear", "--zero"], "--clear and --zero exclude each other"),
        (["--top", "0"], "0 is not in the range x>=1"),
        (["--every", "0"], "0: it is at least 0.1 s"),
        (["-p", "1"], "no such program with maps is in"),
    ],
)
def test_what_is_wrong_is_one_line(
    daemon: Daemon, target: Cat, tmp_path: Path, words: list[str], text: str
) -> None:
    daemon.json("insert", program(tmp_path, SIZES, "sizes"), "-p", target.pid)
    done = daemon.dprobe("maps", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert text in done.stderr
    assert done.stderr.count("\n") == 1


def test_at_exec_all_maps_begin_anew(tmp_path: Path) -> None:
    text = SIZES.replace("push pid\n    key 1\n    mset seen", "key 1\n    minc seen")
    path = program(tmp_path, text.replace("    push r,rdx\n    push r,rdx\n", "    push r,rdx\n"))
    done = dprobe("run", "--json", path, "--", "bash", "-c", "echo a; exec /bin/echo bcd")
    assert done.stdout == "a\nbcd\n"
    found = parsed(done.stderr)[-1]["maps"]
    assert counts(maps(found)["lengths"]) == {(4,): 1}
    (seen,) = [row for row in found if row["map"] == "seen"]
    assert counts(seen) == {(4,): 1}


@pytest.mark.parametrize(
    ("kind", "cell"),
    [
        ("count", {"value": 1}),
        ("sum", {"value": 4}),
        ("min", {"value": 4}),
        ("max", {"value": 4}),
        ("avg", {"count": 1, "sum": 4}),
        ("stats", {"count": 1, "sum": 4, "min": 4, "max": 4}),
        ("hist", {"count": 1, "buckets": [{"from": 4, "to": 8, "count": 1}]}),
        ("lhist,0,10,5", {"count": 1, "buckets": [{"from": 0, "to": 5, "count": 1}]}),
        ("tseries,1000,5", {"buckets": [{"sum": 4}]}),
    ],
)
def test_at_exec_a_map_of_any_kind_begins_anew(
    tmp_path: Path, kind: str, cell: dict[str, object]
) -> None:
    update = "minc m" if kind == "count" else "push r,rdx\nmadd m"
    source = f"name = libc.so.6\nmap = m, {kind}\noffset = write\n{update}\nabort\n"
    path = program(tmp_path, source)
    done = dprobe("run", "--json", path, "--", "bash", "-c", "echo a; exec /bin/echo bcd")
    (found,) = parsed(done.stderr)[-1]["maps"]
    (entry,) = found["entries"]
    if kind.startswith("tseries"):
        entry["buckets"] = [{"sum": each["sum"]} for each in entry["buckets"]]
    assert {name: entry.get(name) for name in cell} == cell, entry
    assert found["lost"] == 0


def test_stacks_as_keys_are_shown_and_folded(daemon: Daemon, target: Cat, tmp_path: Path) -> None:
    source = (
        "name = libc.so.6\nmap = stacks, count, keys=2\nmap = sizes, hist\n"
        "offset = write\n push r,rdx\n madd sizes\n key comm\n key ustack\n minc stacks\n abort\n"
    )
    daemon.json("insert", program(tmp_path, source, "who"), "-p", target.pid)
    for _ in range(3):
        target.say("a")
    (row,) = daemon.json("maps", "stacks")
    (entry,) = row["entries"]
    name, stack = entry["key"]
    assert (name, entry["value"], stack["ustack"][0]["function"]) == ("cat", 3, "write")
    text = daemon.dprobe("maps", "stacks").stdout.splitlines()
    assert text[0] == "@stacks[cat, "
    assert text[1].startswith("    write+0x0 (libc.so.6)")
    assert text[-1] == "]: 3"
    folded = daemon.dprobe("maps", "stacks", "--format", "folded").stdout
    assert folded.startswith("cat;")
    assert folded.endswith(";write 3\n")
    graph = daemon.dprobe("maps", "stacks", "--format", "svg").stdout
    frames = [each for each in ElementTree.fromstring(graph).iter() if "data-name" in each.attrib]
    assert [frames[each].attrib["data-name"] for each in (0, 1, -1)] == ["all", "cat", "write"]
    page = daemon.dprobe("maps", "stacks", "--format", "html").stdout
    assert page.startswith("<!DOCTYPE html>")
    assert "write: 3 stacks, 100.00%" in page
    for words, refusal in (
        ((), "a flame graph shows one map; name one of these: stacks, sizes"),
        (("stacks", "--every", "1s"), "--format svg is one graph: it has no --every"),
    ):
        done = daemon.dprobe("maps", *words, "--format", "svg")
        assert (done.returncode, done.stdout) == (2, "")
        assert refusal in done.stderr
    done = daemon.dprobe("maps", "--format", "folded")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "dprobe: sizes is a hist: count and sum and value can be folded; name one of these\n"
    )
