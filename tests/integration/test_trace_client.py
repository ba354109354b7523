"""`dprobe trace show`, `stat` and `convert` on traces, without any daemon."""

from __future__ import annotations

import json
from pathlib import Path
from struct import pack

import pytest

from dprobed.record.record import published
from dprobed.wire.protocol import RawRecord
from tests.integration.client_support import dprobe, parsed
from tests.trace_support import all_kinds, babeltrace, decoded, line, raw, write


def reads(count: int) -> list[RawRecord]:
    """Of two processes, of two files: the sizes of reads."""
    records = []
    for hit in range(count):
        path = b"/etc/a" if hit % 4 else b"/etc/b"
        log = pack("<Q", hit) + pack("<bH", 1, len(path)) + path
        pid = 10 + hit % 2
        records.append(
            raw(log, (0, 1), hit=hit, time=1_000_000_000 + hit * 1_000_000, pid=pid, tid=pid)
        )
    return records


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "t"
    write(made, [r for r in reads(16) if r.pid == 10], [r for r in reads(16) if r.pid == 11])
    return made


def test_show(folder: Path) -> None:
    done = dprobe("trace", "show", folder)
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr, len(lines)) == (0, "", 16)
    assert lines[5] == '1.005000 cpu1 sort[11] program1 7.3 function1+0x4 #5: 5 "/etc/a" [trace]'
    found = parsed(dprobe("trace", "show", folder, "--format", "json").stdout)
    assert [record["hit"] for record in found] == list(range(16))


def test_show_with_conditions(folder: Path) -> None:
    def hits(*arguments: str) -> list[int]:
        done = dprobe("trace", "show", folder, "--format", "json", *arguments)
        assert done.returncode == 0
        return [record["hit"] for record in parsed(done.stdout)]

    assert hits("-w", "word_0>=12") == [12, 13, 14, 15]
    assert hits("-w", "string_0=*/b", "-w", "pid=10") == [0, 4, 8, 12]
    assert hits("-w", "pid=11", "-n", "2") == [1, 3]
    assert hits("-w", "comm=other") == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "-w", "wrod_0>=1"], "no record has a field `wrod_0`; did you mean `word_0`?"),
        (["show", "-w", "pid=10", "-w", "size=1"], "no record has a field `size`; did you mean"),
        (["stat", "--of", "word_1"], "no record has a field `word_1`; did you mean `word_0`?"),
        (["stat", "--by", "sting_0"], "no record has a field `sting_0`; did you mean `string_0`?"),
        (["stat", "--of", "comm"], "`comm` is no number in any of these records"),
        (
            ["convert", "-w", "wrod_0=1", "--format", "json", "-o", "{tmp}/new"],
            "no record has a field `wrod_0`; did you mean `word_0`?",
        ),
        (
            ["convert", "-w", "wrod_0=1", "--format", "ctf", "-o", "{tmp}/new"],
            "no record has a field `wrod_0`; did you mean `word_0`?",
        ),
        (
            ["convert", "--format", "json", "-o", "{tmp}/there"],
            "{tmp}/there is there already; give a new name, or remove it first",
        ),
        (
            ["convert", "--format", "ctf", "-o", "{tmp}/there"],
            "{tmp}/there is there already; give a new name, or remove it first",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(
    folder: Path, tmp_path: Path, arguments: list[str], says: str
) -> None:
    (tmp_path / "there").write_text("mine")
    command, *rest = (each.format(tmp=tmp_path) for each in arguments)
    done = dprobe("trace", command, folder, *rest)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"dprobe: {says.format(tmp=tmp_path)}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "there").read_text() == "mine"


def test_stat(folder: Path) -> None:
    done = dprobe("trace", "stat", folder, "--of", "word_0", "--by", "string_0")
    assert done.returncode == 0, done.stderr
    table, first, second = done.stdout.split("\n\n")
    assert [row.split() for row in table.splitlines()] == [
        [
            *("string_0", "records", "records/s", "word_0"),
            *("least", "average", "median", "p90", "p99", "most"),
        ],
        ["/etc/a", "12", "785.7", "12", "1", "8.0", "7", "14", "15", "15"],
        ["/etc/b", "4", "250.0", "4", "0", "6.0", "4", "12", "12", "12"],
    ]
    assert first.splitlines()[0] == "word_0 of /etc/a:"
    assert [row.split("|")[0].split() for row in first.splitlines()[1:]] == [
        ["1", "1"],
        ["[2,", "4)", "2"],
        ["[4,", "8)", "3"],
        ["[8,", "16)", "6"],
    ]
    assert first.splitlines()[-1].count("█") == 40
    assert second.startswith("word_0 of /etc/b:")


def test_stat_as_json(folder: Path) -> None:
    by_process = parsed(dprobe("trace", "stat", folder, "--by", "process", "--json").stdout)
    assert [(row["key"], row["records"]) for row in by_process] == [
        ("sort[10]", 8),
        ("sort[11]", 8),
    ]
    (row,) = parsed(dprobe("trace", "stat", folder, "--of", "word_0", "--json").stdout)
    assert row["key"] == "program1 7.3 function1+0x4"
    assert row["buckets"] == {"0": 1, "1": 1, "[2, 4)": 2, "[4, 8)": 4, "[8, 16)": 8}
    nothing = dprobe("trace", "stat", folder, "-w", "pid=1")
    assert (nothing.stdout, nothing.stderr) == ("", "there are no such records\n")


def test_convert(tmp_path: Path) -> None:
    """To every format, and from CTF and JSON lines alike."""
    write(tmp_path / "t", all_kinds())
    records = [decoded(record) for record in all_kinds()]
    source = tmp_path / "t"
    for form in ("json", "text", "chrome", "ctf"):
        target = tmp_path / f"to.{form}"
        done = dprobe("trace", "convert", source, "--format", form, "-o", target)
        assert (done.returncode, done.stderr, done.stdout) == (0, "", "")
        if form == "json":
            assert target.read_bytes() == b"".join(
                published(line(record)) for record in all_kinds()
            )
            target = target.rename(tmp_path / "records.jsonl")
            source = target
        elif form == "text":
            assert len(target.read_text().splitlines()) == len(records)
        elif form == "chrome":
            drawn = [each for each in json.loads(target.read_text()) if each["ph"] != "M"]
            assert [event["args"]["hit"] for event in drawn] == [r.hit for r in records]
    events = babeltrace(tmp_path / "to.ctf")
    assert [event["context"]["hit"] for event in events] == [r.hit for r in records]
    shown = dprobe("trace", "show", tmp_path / "to.ctf", "--format", "json")
    again, before = parsed(shown.stdout), parsed(source.read_text())
    assert [dict(each, log=None) for each in again] == [dict(each, log=None) for each in before]
    for one, other in zip(again, before, strict=True):
        assert one["log"] == other["log"]


def test_convert_keeps_what_is_chosen_and_the_time_of_day(folder: Path, tmp_path: Path) -> None:
    arguments = ("--format", "ctf", "-o", tmp_path / "some", "-w", "string_0=/etc/b")
    assert dprobe("trace", "convert", folder, *arguments).returncode == 0
    before = {each["time"]: each["epoch_ns"] for each in babeltrace(folder)}
    events = babeltrace(tmp_path / "some")
    assert [event["fields"]["word_0"] for event in events] == [0, 4, 8, 12]
    assert [event["epoch_ns"] for event in events] == [before[event["time"]] for event in events]


def test_a_trace_that_is_cut_off(folder: Path, tmp_path: Path) -> None:
    """It is read up to there, which is said; converted, other tools read it too."""
    file = folder / "target-11-2"
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 3)
    done = dprobe("trace", "show", folder)
    assert len(done.stdout.splitlines()) == 8
    assert done.stderr == f"dprobe: {file}: its end is cut off; what is before that was read\n"
    dprobe("trace", "convert", folder, "--format", "ctf", "-o", tmp_path / "whole")
    assert len(babeltrace(tmp_path / "whole")) == 8


def test_nothing_is_overwritten(folder: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    for form in ("text", "ctf"):
        done = dprobe("trace", "convert", folder, "--format", form, "-o", there)
        assert done.returncode == 2
        assert "is there already; give a new name" in done.stderr
    assert list(there.iterdir()) == []


def test_a_damaged_trace(folder: Path) -> None:
    (folder / "target-11-2").write_bytes(b"\0" * 4096)
    done = dprobe("trace", "show", folder)
    assert done.returncode == 2
    assert done.stderr.endswith("no packet begins at byte 0\n")
