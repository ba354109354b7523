"""How records and the summary read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from dprobe.lib.summary import summarize
from dprobe.view.output import Output, summary_text

from dprobed.record.record import Raised, Record, published
from dprobed.record.text import record_text, word_text
from dprobed.wire.messages import ProbeInfo, VariablesInfo, encode


def record(**changes: Any) -> Record:
    fields: dict[str, Any] = {
        "program": "alloc",
        "major": 1,
        "minor": 2,
        "module": "/lib/libc.so.6",
        "place": "malloc+0x4",
        "pid": 10,
        "tid": 10,
        "comm": "sort",
        "uid": 0,
        "cpu": 1,
        "time": 12_000_345_678,
        "hit": 3,
        "exit": "exit",
        "log": [],
    }
    return Record(**fields | changes)


def probe(**changes: Any) -> ProbeInfo:
    fields: dict[str, Any] = {
        "program": "alloc",
        "number": 1,
        "probe": 0,
        "major": 1,
        "minor": 2,
        "group": 0,
        "pid": 10,
        "module": "libc.so.6",
        "place": "malloc+0x4",
        "state": "active",
        "reason": "",
        "hits": 5,
        "ran": 4,
        "missed": 1,
        "dropped": 0,
        "faulted": 0,
        "addresses": [],
        "engine": "trap",
    }
    return ProbeInfo(**fields | changes)


@pytest.mark.parametrize(
    ("word", "text"),
    [(0, "0"), (1 << 19, "524288"), (1 << 20, "0x100000"), (2**64 - 1, "-1"), (2**63, hex(2**63))],
)
def test_words_are_decimal_where_they_are_small(word: int, text: str) -> None:
    assert word_text(word) == text


def test_a_record_reads_as_one_line() -> None:
    log = [
        {"words": [1, 2**64 - 2]},
        {"string": 'a "b"\n'},
        {"memory": "00ff", "address": 4096},
        {"fault": 16},
        {"locals": [1 << 60], "text": [str(1 << 60)]},
        {"value": -1, "kind": "i32", "name": "result"},
        {"value": 255, "kind": "hex", "name": "flags"},
        {"value": 1 << 63, "kind": "u64", "text": str(1 << 63)},
        {"value": None, "kind": "f64", "name": "load", "text": "inf"},
        {"value": 0.5, "kind": "f64"},
        {"value": 4096, "kind": "ptr", "name": "at"},
        {"value": 4096, "kind": "ptr", "name": "by", "place": "main+0x4"},
    ]
    text = record_text(record(log=log, tid=11, exit="trace"))
    assert text == (
        "12.000345 cpu1 sort[10/11] alloc 1.2 malloc+0x4 #3: "
        '1 -2 "a \\"b\\"\\n" 0x1000:<00ff> <fault at 0x10> locals=[1152921504606846976] '
        "result=-1 flags=0xff 9223372036854775808 load=inf 0.5 at=0x1000 by=main+0x4 [trace]"
    )


def test_a_record_in_json_says_its_type_and_the_version_of_its_form() -> None:
    about = json.loads(published(encode(record())))
    assert list(about)[:3] == ["type", "schema", "program"]
    assert (about["type"], about["schema"]) == ("record", 1)


def test_an_exception_is_named() -> None:
    raised = Raised(code=1, name="INVALID_ADDR", parm1=16, parm2=0)
    assert record_text(record(exit="exception", exception=raised)).endswith("[INVALID_ADDR 16 0]")


def test_the_summary_gives_reasons_below_the_table() -> None:
    probes = [probe(), probe(minor=3, probe=1, engine="", state="mismatch", reason="found 0x90")]
    text = summary_text(summarize(probes, 1_500_000, "a private dprobed"))
    assert text.splitlines() == [
        "program  probe  place       state     hits  ran  missed  dropped  engine",
        "alloc    1.2    malloc+0x4  active       5    4       1        0  trap",
        "alloc    1.3    malloc+0x4  mismatch     5    4       1        0",
        "alloc 1.3 malloc+0x4: mismatch: found 0x90",
        "time spent in probes: 0.001500 s, through a private dprobed",
    ]


@pytest.mark.parametrize(
    ("asleep", "present", "says"),
    [
        (930, 1000, "not counted for 93 % of the time"),
        (1, 1000, "not counted for less than 1 % of the time"),
        (999, 1000, "not counted for more than 99 % of the time"),
        (0, 1000, ""),
    ],
)
def test_for_how_long_a_probe_slept(asleep: int, present: int, says: str) -> None:
    """Of all processes together; nobody knows how many hits there were meanwhile."""
    probes = [
        probe(asleep_ns=asleep, present_ns=present),
        probe(pid=11, asleep_ns=asleep, present_ns=present),
    ]
    text = summary_text(summarize(probes, 0))
    assert (f"alloc 1.2 malloc+0x4: {says}\n" in text) is bool(says)
    assert ("not counted" in text) is bool(says)


def test_variables_are_below_the_table() -> None:
    variables = [
        VariablesInfo(number=1, program="alloc", processes=1, names=["a"], words=[word])
        for word in (2**64 - 1, 3)
    ]
    text = summary_text(summarize([probe()], 0, variables=variables))
    assert "\nalloc: a = 2\n" in text


def test_the_summary_is_of_all_processes_together() -> None:
    probes = [
        probe(state="pending", place="malloc", reason="no mapped module", hits=0, ran=0, missed=0),
        probe(pid=11),
        probe(pid=12, dropped=2),
    ]
    [total] = summarize(probes, 1).probes
    assert (total.place, total.state, total.reason) == ("malloc+0x4", "active", "")
    assert (total.hits, total.ran, total.missed, total.dropped) == (10, 8, 2, 2)


def test_output_survives_a_descriptor_that_does_not_block(tmp_path: Path) -> None:
    """A terminal that the command made non-blocking is the same for us."""
    read, write = os.pipe2(os.O_NONBLOCK)
    os.set_blocking(read, True)
    line = encode(record(log=[{"string": "x" * 1000}])).rstrip(b"\n")
    child = os.fork()
    if child == 0:
        os.close(read)
        output = Output("json", None, write)
        for _ in range(1000):
            output.record(line)
        output.flush()
        os._exit(output.broken)
    os.close(write)
    with open(read, "rb") as pipe:
        assert pipe.read() == (published(line) + b"\n") * 1000
    assert os.waitpid(child, 0)[1] == 0


def test_standard_output_is_called_so(capfd: pytest.CaptureFixture[str]) -> None:
    full, there = os.open("/dev/full", os.O_WRONLY), os.dup(1)
    os.dup2(full, 1)
    try:
        output = Output("text", "-", 2)
        output.line("a line")
        output.flush()
    finally:
        os.dup2(there, 1)
        os.close(full)
        os.close(there)
    assert output.status == 1
    says = "standard output: no space left on device; no further records are written"
    assert capfd.readouterr().err == f"dprobe: {says}\n"


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_was_counted_is_said_where_the_disk_is_full(
    form: str, capfd: pytest.CaptureFixture[str]
) -> None:
    output = Output(form, "/dev/full", 1)
    output.summary(summarize([probe()], 0, ""))
    output.close()
    said = capfd.readouterr().err
    assert said.startswith("dprobe: /dev/full: no space left on device")
    assert said.count("time spent in probes: ") == 1


def test_the_summary_is_apart_from_records_in_a_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for form, apart in (("text", True), ("json", False)):
        path = tmp_path / form
        output = Output(form, str(path), 1, summary=2)
        output.record(encode(record(log=[{"string": "x"}])).rstrip(b"\n"))
        output.flush()
        output.summary(summarize([probe()], 0, ""))
        output.close()
        assert len(path.read_bytes().splitlines()) == 1 + (not apart)
        assert ("time spent in probes: " in capfd.readouterr().err) is apart


def test_a_trace_can_be_read() -> None:
    inner = {"called": 33, "return": 32, "stack": [], "locals": [], "globals": []}
    outer = {"called": 0, "return": None, "stack": [7], "locals": [1, 2**64 - 1], "globals": []}
    trace = {"code": 0x8001, "handler": 78, "parm1": 2**40, "parm2": 0, "frames": [inner, outer]}
    text = record_text(record(log=[{"string": "a"}, {"trace": trace}]))
    shown = "trace=0x8001(0x10000000000, 0) in 0x0021 in 0x0000 stack [7] locals [1, -1]"
    assert text.endswith(f'"a" {shown}')
    text = record_text(record(log=[{"trace": {**trace, "code": 1, "frames": []}}]))
    assert text.endswith("trace=INVALID_ADDR(0x10000000000, 0)")
