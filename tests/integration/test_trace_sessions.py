"""Trace sessions of a real daemon on real processes, read with the real babeltrace2."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from dprobe.lib.connection import Connection

from dprobed.wire import messages
from tests.integration.client_support import (
    Cat,
    Daemon,
    Json,
    cat,
    dprobe,
    parsed,
    program,
    running_daemon,
)
from tests.trace_support import babeltrace

#: Logs length and text of each write(2); how it ends, an option says.
LINES = """
name = libc.so.6
major = 7
logmax = 8192
offset = write
minor = 3
    push r,rdx
    log 1
    push r,rdx
    push r,rsi
    log str
    {end}
"""
PATIENCE = 60.0


def insert(daemon: Daemon, folder: Path, target: Cat, end: str = "exit trace") -> None:
    name = end.replace(" ", "_")
    path = program(folder, LINES.format(end=end), name)
    done = daemon.dprobe("insert", path, "--pid", target.pid)
    assert done.returncode == 0, done.stderr


def start(daemon: Daemon, *arguments: object) -> Json:
    (row,) = daemon.json("trace", "start", *arguments)
    return row


def session(daemon: Daemon, name: str) -> Json:
    with Connection.open(daemon.socket) as connection:
        answer = connection.request(
            lambda number: messages.TraceList(id=number), messages.TraceListing
        )
    (row,) = (row for row in answer.traces if row.name == name)
    found: Json = msgspec.to_builtins(row)
    return found


def stopped(daemon: Daemon, name: str) -> Json:
    """Stop a session; its last counters."""
    with Connection.open(daemon.socket) as connection:
        answer = connection.request(
            lambda number: messages.TraceStop(id=number, name=name), messages.TraceListing
        )
    (row,) = answer.traces
    found: Json = msgspec.to_builtins(row)
    return found


def until(daemon: Daemon, name: str, test: Callable[[Json], bool]) -> Json:
    """Ask for the session until it is as the test wants it: it writes in the background."""
    deadline = time.monotonic() + PATIENCE
    while not test(row := session(daemon, name)):
        assert time.monotonic() < deadline, str(row)
    return row


def strings(folder: Path) -> list[str]:
    """What the records in a CTF trace logged, as babeltrace2 reads it."""
    return [each["fields"]["string_0"] for each in babeltrace(folder) if "fields" in each]


def test_a_session_from_start_to_stop(daemon: Daemon, tmp_path: Path) -> None:
    folder = tmp_path / "t"
    with cat() as target, cat() as other:
        insert(daemon, tmp_path, target)
        insert(daemon, tmp_path, other)
        row = start(daemon, folder)
        assert (row["name"], row["folder"], row["problem"]) == ("t", str(folder), "")
        for number in range(10):
            (target if number % 2 else other).say(f"line {number}")
        until(daemon, "t", lambda row: row["records"] == 10)
        (last,) = daemon.json("trace", "stop", "t")
        assert (last["records"], last["written"], last["dropped"]) == (10, 10, 0)
        assert daemon.json("trace", "list") == []
        events = babeltrace(folder)
        assert [each["fields"] for each in events] == [
            {"word_0": 7, "string_0_length": 7, "string_0": f"line {number}\n"}
            for number in range(10)
        ]
        assert [each["context"]["pid"] for each in events] == [other.pid, target.pid] * 5
        assert {each["name"] for each in events} == {"exit_trace:write+0x0"}
        assert {each["context"]["comm"] for each in events} == {"cat"}
    assert (folder.stat().st_mode & 0o777) == 0o700


def test_what_is_read_is_what_the_log_has(daemon: Daemon, tmp_path: Path) -> None:
    """`show` of every file format and the daemon's own log give the same records."""
    formats = {"ctf": tmp_path / "ctf", "json": tmp_path / "json"}
    with cat() as target:
        insert(daemon, tmp_path, target)
        for form, folder in formats.items():
            start(daemon, folder, "--format", form)
        for word in ("one", "two", "three"):
            target.say(word)
        for form in formats:
            until(daemon, form, lambda row: row["records"] == 3)
            daemon.json("trace", "stop", form)
        logged = parsed(daemon.dprobe("log", "--json").stdout)
        lines = daemon.dprobe("log").stdout
    for folder in formats.values():
        shown = dprobe("trace", "show", folder, "--format", "json")
        assert parsed(shown.stdout) == logged
        text = dprobe("trace", "show", folder)
        assert text.stdout == lines
        assert '"three\\n" [trace]' in text.stdout
    babeltrace(formats["ctf"])


def test_plain_records_only_where_all_are_wanted(daemon: Daemon, tmp_path: Path) -> None:
    with cat() as target, cat() as plain:
        insert(daemon, tmp_path, target)
        insert(daemon, tmp_path, plain, "exit")
        start(daemon, tmp_path / "some")
        start(daemon, tmp_path / "all", "--all")
        target.say("traced")
        plain.say("plain")
        assert until(daemon, "all", lambda row: row["records"] == 2)["everything"]
        assert session(daemon, "some")["records"] == 1
        daemon.json("trace", "stop", "some")
        daemon.json("trace", "stop", "all")
    assert strings(tmp_path / "some") == ["traced\n"]
    assert strings(tmp_path / "all") == ["traced\n", "plain\n"]


def test_a_killed_daemon_leaves_what_is_a_second_old(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    with running_daemon(tmp_path) as daemon, cat() as target:
        insert(daemon, tmp_path, target)
        start(daemon, folder)
        waits = []
        for number in range(20):
            target.say(f"line {number}")
            if number % 5 == 4:
                begin = time.monotonic()
                until(daemon, "t", lambda row, said=number + 1: row["written"] == said)  # type: ignore[misc]
                waits.append(time.monotonic() - begin)
        assert min(waits) < 1.0  # Others may be at work on this machine.
        daemon.process.send_signal(signal.SIGKILL)
        daemon.process.wait(PATIENCE)
        assert strings(folder) == [f"line {number}\n" for number in range(20)]
        (tmp_path / "control.sock").unlink()


@contextmanager
def small_disk(path: Path, size: str = "256k") -> Iterator[Path]:
    """A file system of its own, which is soon full."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("form", ["ctf", "text"])
def test_a_full_disk(daemon: Daemon, tmp_path: Path, form: str) -> None:
    """It is said, what is lost is counted, and the session goes on when there is room again."""
    with small_disk(tmp_path / "disk") as disk, cat() as target:
        insert(daemon, tmp_path, target)
        start(daemon, disk / "t", "--format", form)
        target.say("before")
        until(daemon, "t", lambda row: row["written"] == 1)
        filler = disk / "filler"
        with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        target.say("x" * 5000)
        full = until(daemon, "t", lambda row: bool(row["problem"]))
        assert "no space left on device" in full["problem"]
        target.say("y" * 5000)
        assert until(daemon, "t", lambda row: row["dropped"] == 2)["written"] == 1
        filler.unlink()
        target.say("after")
        free = until(daemon, "t", lambda row: row["problem"] == "")
        assert (free["written"], free["dropped"]) == (2, 2)
        daemon.json("trace", "stop", "t")
        if form == "ctf":
            found = babeltrace(disk / "t")
            assert [e["fields"]["string_0"] for e in found if "fields" in e] == [
                "before\n",
                "after\n",
            ]
            assert sum(each.get("discarded", 0) for each in found) == 2
            shown = dprobe("trace", "show", disk / "t")
            assert "2 records were dropped" in shown.stderr
        else:
            text = (disk / "t" / "000001.txt").read_text()
            assert [line.split('"')[1] for line in text.splitlines()] == ["before\\n", "after\\n"]
    assert daemon.process.stderr is not None


def test_a_folder_that_is_removed_is_made_anew(daemon: Daemon, tmp_path: Path) -> None:
    folder = tmp_path / "t"
    with cat() as target:
        insert(daemon, tmp_path, target)
        start(daemon, folder)
        target.say("lost with the folder")
        until(daemon, "t", lambda row: row["written"] == 1)
        subprocess.run(["rm", "-r", str(folder)], check=True)
        target.say("after")
        until(daemon, "t", lambda row: row["written"] == 2)
        assert session(daemon, "t")["dropped"] == 0
        daemon.json("trace", "stop", "t")
    assert strings(folder) == ["after\n"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_no_permission_and_again(daemon: Daemon, tmp_path: Path) -> None:
    """A disk that becomes read-only, which even root cannot write to."""
    with small_disk(tmp_path / "disk", "1m") as disk, cat() as target:
        insert(daemon, tmp_path, target)
        start(daemon, disk / "t")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        target.say("lost")
        row = until(daemon, "t", lambda row: row["dropped"] == 1)
        assert "read-only" in row["problem"]
        refused = daemon.dprobe("trace", "start", disk / "new")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "read-only" in refused.stderr
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        target.say("after")
        until(daemon, "t", lambda row: row["written"] == 1 and not row["problem"])
        daemon.json("trace", "stop", "t")
        assert strings(disk / "t") == ["after\n"]


def test_size_and_rotation(daemon: Daemon, tmp_path: Path) -> None:
    """The oldest chunks go when the whole becomes too large; each chunk is a trace of its own."""
    folder = tmp_path / "t"
    with cat() as target:
        insert(daemon, tmp_path, target)
        start(daemon, folder, "--max-size", "64k", "--rotate-size", "16k")
        for number in range(1, 101):
            target.say(f"{number} " + "x" * 900)
            if number % 10 == 0:
                row = until(daemon, "t", lambda row, n=number: row["written"] == n)  # type: ignore[misc]
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                assert size == row["bytes"] <= 64 << 10
        (last,) = daemon.json("trace", "stop", "t")
    chunks = sorted(path.name for path in folder.iterdir())
    assert 3 <= len(chunks) == last["chunks"] <= 5
    assert chunks[0] > "000003"
    kept = [int(text.split()[0]) for text in strings(folder)]
    assert kept == list(range(kept[0], 101))
    assert [int(text.split()[0]) for text in strings(folder / chunks[-1])][-1] == 100


def test_age(daemon: Daemon, tmp_path: Path) -> None:
    """Chunks that are too old go, also when nothing new comes."""
    folder = tmp_path / "t"
    with cat() as target:
        insert(daemon, tmp_path, target)
        start(daemon, folder, "--max-age", "1s")
        target.say("old soon")
        until(daemon, "t", lambda row: row["written"] == 1)
        until(daemon, "t", lambda row: row["chunks"] == 0)
        assert list(folder.iterdir()) == []
        target.say("new")
        until(daemon, "t", lambda row: row["written"] == 2)
        # By the protocol, because in a second it is too old, too; and so it may be.
        if stopped(daemon, "t")["chunks"]:
            assert strings(folder) == ["new\n"]


def test_flight_recorder(daemon: Daemon, tmp_path: Path) -> None:
    """Nothing is written until a client asks for it; then the last records are."""
    folder = tmp_path / "t"
    with cat() as target:
        insert(daemon, tmp_path, target)
        row = start(daemon, folder, "--flight", "20k")
        assert row["flight_bytes"] == 20 << 10
        for number in range(60):
            target.say(f"{number} " + "x" * 900)
            if number % 5 == 4:
                held = lambda row, n=number: row["held"] + row["overwritten"] == n + 1  # noqa: E731
                row = until(daemon, "t", held)
        assert list(folder.iterdir()) == []
        assert row["overwritten"] > 30
        (saved,) = daemon.json("trace", "save", "t")
        assert saved["records"] == row["held"] > 5
        until(daemon, "t", lambda row: row["written"] == saved["records"])
        target.say("later")
        until(daemon, "t", lambda row: row["held"] == 1)
        daemon.json("trace", "save", "t")
        until(daemon, "t", lambda row: row["written"] == saved["records"] + 1)
        for number in range(3):
            target.say(f"and {number}")
        until(daemon, "t", lambda row: row["held"] == 3)
        stopped = daemon.dprobe("trace", "stop", "t")
        assert stopped.stderr == "dprobe: 3 records that t still held are not written\n"
    first, second = sorted(folder.iterdir())
    kept = [int(text.split()[0]) for text in strings(first)]
    assert kept == list(range(60 - saved["records"], 60))
    assert strings(second) == ["later\n"]


def test_flight_recorder_is_written_on_a_dump(daemon: Daemon, tmp_path: Path) -> None:
    folder = tmp_path / "t"
    with cat() as target, cat() as fatal, cat() as plain:
        insert(daemon, tmp_path, target)
        insert(daemon, tmp_path, plain, "exit")
        insert(daemon, tmp_path, fatal, "exit dump")
        start(daemon, folder, "--flight", "1M")
        target.say("one")
        plain.say("not for a trace")
        target.say("two")
        # They come by another tracer than the one that has them written.
        until(daemon, "t", lambda row: row["records"] == 2)
        fatal.say("the reason")
        until(daemon, "t", lambda row: row["written"] == 3)
        assert strings(folder) == ["one\n", "two\n", "the reason\n"]
        exits = [each["context"]["exit"][1] for each in babeltrace(folder)]
        assert exits == [["trace"], ["trace"], ["dump"]]


def test_the_end_of_the_daemon_ends_sessions_well(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as daemon, cat() as target:
        insert(daemon, tmp_path, target)
        for form in ("ctf", "chrome", "text"):
            start(daemon, tmp_path / form, "--format", form)
        target.say("just before")
        until(daemon, "ctf", lambda row: row["records"] == 1)
        daemon.stop()
    assert strings(tmp_path / "ctf") == ["just before\n"]
    events = json.loads((tmp_path / "chrome" / "000001.json").read_text())
    (event,) = (each for each in events if each["ph"] != "M")  # M: names of process and thread
    assert event["args"]["string_0"] == "just before\n"
    assert (tmp_path / "text" / "000001.txt").read_text().endswith('"just before\\n" [trace]\n')


def test_disarmed_sessions_take_nothing(daemon: Daemon, tmp_path: Path) -> None:
    with cat() as target, cat() as plain:
        insert(daemon, tmp_path, target)
        insert(daemon, tmp_path, plain, "exit")
        start(daemon, tmp_path / "t", "--all")
        (row,) = [row for row in daemon.json("handlers") if row["handler"] == "trace.t"]
        assert (row["facility"], row["owner"], row["armed"]) == ("trace", "dprobed", True)
        done = daemon.dprobe("handlers", "disarm", "trace.t")
        assert done.returncode == 0, done.stderr
        target.say("unseen")
        plain.say("unseen, too")
        daemon.json("remove", "--all")
        assert len(parsed(daemon.dprobe("log", "--json").stdout)) == 2
        assert session(daemon, "t")["records"] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["start"], "give a folder"),
        (["start", "{0}/t", "--format", "journal"], "give a folder"),
        (["start", "{0}/no/such"], "no such file or directory"),
        (["start", "{0}/again"], "a session again exists already"),
        (["start", "{0}/again", "--name", "two"], "writes into"),
        (["start", "{0}/x", "--name", "a b"], "is not a valid session name"),
        (["start", "{0}/x", "--max-size", "much"], "is no size"),
        (["start", "{0}/file"], "it is no folder"),
        (["start", "--format", "journal", "--max-size", "1M"], "the journal takes neither"),
        (["stop", "nobody"], "there is no session nobody"),
        (["save", "again"], "is not a flight recorder"),
        (["show", "{0}/nothing"], "there is no such file or folder"),
        (["show", "{0}/again", "-w", "nonsense"], "is no condition"),
    ],
)
def test_refusals(daemon: Daemon, tmp_path: Path, arguments: list[str], says: str) -> None:
    (tmp_path / "file").touch()
    start(daemon, tmp_path / "again")
    done = daemon.dprobe("trace", *(each.format(tmp_path) for each in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
