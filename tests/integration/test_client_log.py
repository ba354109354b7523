"""`dprobe log`: which records, and how their time is written."""

from __future__ import annotations

import re
import select
import subprocess
from datetime import datetime, timedelta
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
    words,
)

NONE = "dprobe: none of the 6 records that are kept is asked for\n"


@pytest.fixture
def logged(daemon: Daemon, target: Cat, tmp_path: Path) -> Daemon:
    """``a`` and ``b`` have logged the lengths 2, 3, 4 of what `cat` wrote."""
    for name in ("a", "b"):
        path = program(tmp_path, name=name)
        assert daemon.dprobe("insert", path, "--pid", target.pid).returncode == 0
    for length in (1, 2, 3):
        target.say("x" * length)
    while len(daemon.dprobe("log").stdout.splitlines()) < 6:
        pass
    return daemon


def lengths(daemon: Daemon, *options: object) -> list[tuple[str, int]]:
    done = daemon.dprobe("log", "--json", *options)
    none = "" if done.stdout or "-n" in options else NONE
    assert (done.returncode, done.stderr) == (0, none)
    return [(record["program"], *words(record)) for record in parsed(done.stdout)]


def test_which_records(logged: Daemon, target: Cat) -> None:
    assert sorted(lengths(logged)) == [(name, length) for name in "ab" for length in (2, 3, 4)]
    assert lengths(logged, "--program", "a") == [("a", 2), ("a", 3), ("a", 4)]
    assert lengths(logged, "--program", "a", "-n", 2) == [("a", 3), ("a", 4)]
    assert len(lengths(logged, "--program", "a", "--program", "b")) == 6
    assert lengths(logged, "--program", "b", "-w", "word_0>=3", "-w", "word_0<4") == [("b", 3)]
    assert len(lengths(logged, "--pid", target.pid)) == 6
    assert lengths(logged, "--pid", 1) == []
    assert lengths(logged, "-n", 0) == []
    assert len(lengths(logged, "--since", "1h")) == 6
    tomorrow = (datetime.now().astimezone() + timedelta(days=1)).isoformat(timespec="seconds")
    assert lengths(logged, "--since", tomorrow) == []
    first = parsed(logged.dprobe("log", "--json").stdout)[2]["time"] / 1e9
    up = float(Path("/proc/uptime").read_text().split()[0])
    assert len(lengths(logged, "--since", f"{up - first + 5:.3f}s")) == 6


@pytest.mark.parametrize(
    "options",
    [
        ("-w", "word_0"),
        ("-w", "wrod_0>=1"),
        ("-w", "word_0>=many"),
        ("-w", "pid=cat"),
        ("--since", "soon"),
        ("--time", "utc"),
        ("-n", "-1"),
        ("--pid", "0"),
    ],
)
def test_bad_values_are_one_line(logged: Daemon, options: tuple[str, str]) -> None:
    done = logged.dprobe("log", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


def test_how_time_is_written(logged: Daemon) -> None:
    def first_words(*options: str) -> list[str]:
        return [line.split()[0] for line in logged.dprobe("log", *options).stdout.splitlines()]

    now = datetime.now().astimezone()
    mono = [float(word) for word in first_words()]
    assert first_words("--time", "mono") == first_words()
    wall = [datetime.fromisoformat(word) for word in first_words("--time", "wall")]
    assert all(timedelta(0) <= now - each < timedelta(minutes=10) for each in wall)
    assert all(each.utcoffset() == now.utcoffset() for each in wall)
    apart = (wall[-1] - wall[0]).total_seconds()
    assert apart == pytest.approx(mono[-1] - mono[0], abs=1e-5)
    deltas = first_words("--time", "delta")
    assert deltas[0] == "+0.000000"
    assert sum(map(float, deltas)) == pytest.approx(mono[-1] - mono[0], abs=1e-4)


def test_on_a_terminal_it_is_the_time_of_the_day(logged: Daemon) -> None:
    command = f"{DPROBE} --socket {logged.socket} log -n 1"
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
    )
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}[+-]\d\d:\d\d cpu", done.stdout)


def test_what_comes_later_is_chosen_too(daemon: Daemon, tmp_path: Path) -> None:
    with cat() as one, cat() as other:
        for target in (one, other):
            done = daemon.dprobe("insert", program(tmp_path), "--pid", target.pid)
            assert done.returncode == 0
        one.say("kept")
        command = [DPROBE, "--socket", daemon.socket, "log", "-f", "-n", "1", "--pid", str(one.pid)]
        with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as log:
            assert log.stdout is not None
            assert select.select([log.stdout], [], [], PATIENCE)[0]
            assert f"[{one.pid}]" in log.stdout.readline()
            other.say("not this")
            one.say("but this one")
            line = log.stdout.readline()
            assert f"[{one.pid}]" in line
            assert line.endswith("#2: 13\n")
            log.terminate()


def test_an_address_is_named_while_its_process_is_there(daemon: Daemon, tmp_path: Path) -> None:
    source = "name = libc.so.6\noffset = write\n    push r,rip\n    log ptr here\n    exit\n"
    with cat() as target:
        path = program(tmp_path, source, "where")
        trace = tmp_path / "trace"
        assert daemon.dprobe("trace", "start", "--all", trace).returncode == 0
        assert daemon.dprobe("insert", path, "--pid", target.pid).returncode == 0
        target.say("abc")
        while not (rows := daemon.json("log")):
            pass
        assert rows[0]["log"][0]["place"] == "write+0x0"
        assert "here=write+0x0" in daemon.dprobe("log").stdout
        assert daemon.dprobe("trace", "stop", "trace").returncode == 0
        assert "here=write+0x0" in dprobe("trace", "show", trace).stdout
        (group,) = parsed(dprobe("trace", "stat", "--by", "here", "--json", trace).stdout)
        assert group["key"] == "write+0x0"
        for form, shown in (
            ("text", "here=write+0x0"),
            ("json", '"place":"write+0x0"'),
            ("chrome", '"here":"write+0x0"'),
        ):
            done = dprobe("trace", "convert", "--format", form, "-o", "-", trace)
            assert shown in done.stdout, form
    # What is there now may be another.
    assert "place" not in daemon.json("log")[0]["log"][0]
    assert "here=0x" in dprobe("trace", "show", trace).stdout
