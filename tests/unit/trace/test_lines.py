"""Records as text, JSON lines and the JSON of Chrome's and Perfetto's viewers."""

from __future__ import annotations

import json
import math
from typing import Any

from dprobed.program.items import value_item
from dprobed.record.record import published
from dprobed.trace.lines import FORMATS
from tests.trace_support import LOGS, NONE, PID, all_kinds, decoded, line, raw


def chrome(*records: Any, names: bool = False) -> list[dict[str, Any]]:
    form = FORMATS["chrome"]
    data = form.begin + form.lines([line(record) for record in records])[1:] + form.end
    found: list[dict[str, Any]] = json.loads(data)
    return [event for event in found if names or event["ph"] != "M"]


def test_chrome() -> None:
    """Microseconds, the thread that it happened in, and what was logged as arguments."""
    log, bare = LOGS["mixed"]
    (event,) = chrome(raw(log, bare, time=1_234_567_891))
    assert event == {
        "name": "program1:function1+0x4",
        "cat": "program1",
        "ph": "i",
        "s": "t",
        "ts": 1_234_567.891,
        "pid": 4242,
        "tid": 4243,
        "args": {
            "module": "/lib/lib1.so",
            "major": 7,
            "minor": 3,
            "comm": "sort",
            "uid": 1000,
            "cpu": 1,
            "hit": 1,
            "exit": "trace",
            "time_ns": 1_234_567_891,
            "word_0": 1,
            "word_1": 2,
            "string_0": "hi",
            "word_2": 7,
            "string_1": "!",
        },
    }


def test_chrome_knows_processes_and_threads_by_name() -> None:
    main, worker = raw(tid=PID, comm=b"sort"), raw(tid=PID + 1, comm=b"worker")
    named = [
        (event["name"], event["pid"], event.get("tid"), event["args"]["name"])
        for event in chrome(worker, main, worker, names=True)
        if event["ph"] == "M"
    ]
    assert named == [
        ("process_name", PID, None, "sort"),
        ("thread_name", PID, PID + 1, "worker"),
        ("thread_name", PID, PID, "sort"),
    ]


def test_chrome_draws_how_long_something_took() -> None:
    """A value of the name `duration_ns`: the record is made at its end."""
    took = value_item(7, 250_000, "duration_ns")
    (event,) = chrome(raw(took, time=1_000_000))
    assert (event["ph"], event["ts"], event["dur"]) == ("X", 750.0, 250.0)
    (event,) = chrome(raw(value_item(3, NONE, "duration_ns"), time=1_000_000))
    assert event["ph"] == "i"


def test_chrome_takes_every_kind_and_keeps_large_numbers() -> None:
    events = chrome(*all_kinds())
    assert [event["args"]["hit"] for event in events] == [each.hit for each in all_kinds()]
    words = events[list(LOGS).index("words")]["args"]
    assert [words[f"word_{n}"] for n in range(3)] == [1, hex((1 << 64) - 1), hex(1 << 63)]
    assert events[-1]["args"]["exception"] == "USER" or events[-1]["args"]["exception_code"] == 3
    assert all(math.isfinite(event["ts"]) for event in events)


def test_a_cut_off_chrome_file_lacks_only_its_end() -> None:
    """A block never ends by a comma: what viewers accept is an array whose bracket is missing."""
    form = FORMATS["chrome"]
    data = form.begin + form.lines([line(raw()), line(raw())])[1:]
    assert [event["ph"] for event in json.loads(data + b"]")] == ["M", "M", "i", "i"]


def test_json_lines_are_the_records_of_clients() -> None:
    lines = [line(record) for record in all_kinds()]
    assert FORMATS["json"].lines(lines) == b"".join(map(published, lines))


def test_text() -> None:
    log, bare = LOGS["mixed"]
    made = FORMATS["text"].lines([line(raw(log, bare, time=2_000_003_000)), line(raw(exit=0))])
    assert made.decode().splitlines() == [
        '2.000003 cpu1 sort[4242/4243] program1 7.3 function1+0x4 #1: 1 2 "hi" 7 "!" [trace]',
        "0.001000 cpu1 sort[4242/4243] program1 7.3 function1+0x4 #1:",
    ]
    assert decoded(raw()).exit == "trace"
