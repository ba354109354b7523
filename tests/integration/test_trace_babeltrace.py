"""What the real babeltrace2 reads in our traces: every field of every kind of record."""

from __future__ import annotations

import random
import time
from pathlib import Path
from struct import pack
from typing import Any

from dprobed.trace.ctf import Trace
from dprobed.trace.lines import items_by_name
from dprobed.trace.reader import CtfRecording
from dprobed.trace.store import CtfChunk
from dprobed.wire.protocol import RawRecord
from tests.trace_support import EXITS, LOGS, all_kinds, babeltrace, decoded, put, raw, write


def text(data: bytes) -> str:
    """How Python's bindings give text that may be no UTF-8."""
    return data.decode(errors="surrogateescape")


def expected(record: RawRecord) -> dict[str, Any]:
    """The fields of a record's event, made from what a client would get of it."""
    fields: dict[str, Any] = {}
    shown = decoded(record)
    for name, value in items_by_name(shown).items():
        kind = name.partition("_")[0]
        if kind == "memory" and not name.endswith("_address"):
            fields |= {name: list(bytes.fromhex(value)), f"{name}_length": len(value) // 2}
        elif kind in ("stack", "locals", "globals"):
            fields |= {name: value, f"{name}_length": len(value)}
        elif kind == "trace":
            fields[name] = stack_trace(value)
        elif name != "exception":
            fields[name] = value
    return fields


def stack_trace(trace: dict[str, Any]) -> dict[str, Any]:
    none = (1 << 64) - 1
    frames = []
    for frame in trace["frames"]:
        made = {
            "called": none if frame["called"] is None else frame["called"],
            "return_to": none if frame["return"] is None else frame["return"],
        }
        for name in ("stack", "locals", "globals"):
            made |= {name: frame[name], f"{name}_length": len(frame[name])}
        frames.append(made)
    handler = none if trace["handler"] is None else trace["handler"]
    return trace | {"handler": handler, "frames": frames, "frames_length": len(frames)}


def compare(event: dict[str, Any], record: RawRecord) -> None:
    shown = decoded(record)
    assert event["name"] == f"{shown.program}:{shown.place}"
    assert event["time"] == record.time
    assert event["target"] == record.pid
    assert event["context"] == {
        "pid": record.pid,
        "tid": record.tid,
        "uid": record.uid,
        "cpu": record.cpu,
        "hit": record.hit,
        "exit": [record.exit, [EXITS[record.exit]]],
        "major": record.major,
        "minor": record.minor,
        "comm": shown.comm,
    }


def test_every_kind_of_record(tmp_path: Path) -> None:
    records = all_kinds()
    trace = write(tmp_path / "t", records)
    events = babeltrace(tmp_path)
    assert len(events) == len(records)
    special = {"string, no UTF-8", "prefixed words", "no item", "cut off", "many words"}
    for event, record, name in zip(events, records, [*LOGS, "raised"], strict=True):
        compare(event, record)
        assert event["epoch_ns"] == record.time + trace.offset_ns
        if name in special:
            continue
        wanted = expected(record)
        strings = {key for key in wanted if key.startswith("string_")}
        wanted |= {f"{key}_length": len(wanted[key]) for key in strings}
        if name == "values":
            # Floating-point numbers come as text.
            wanted = {key: str(value) for key, value in wanted.items()}
            event["fields"] = {key: str(value) for key, value in event["fields"].items()}
        assert event["fields"] == wanted, name
    fields = dict(zip(LOGS, (event["fields"] for event in events), strict=False))
    assert fields["string, no UTF-8"] == {
        "string_0_length": 4,
        "string_0": text(b"a\xff\xfeb"),
    }
    assert fields["prefixed words"] == {"words_0_length": 2, "words_0": [8, 9]}
    assert fields["many words"] == {"word_0": list(range(40))}
    for name in ("no item", "cut off"):
        log = list(LOGS[name][0])
        assert fields[name] == {"raw_length": 0, "raw": [], "log_length": len(log), "log": log}
    assert events[0]["environment"]["tracer_name"] == "dprobed"


def test_time_of_day(tmp_path: Path) -> None:
    now = time.time_ns()
    write(tmp_path / "t", [raw(time=time.monotonic_ns())])
    written = time.time_ns()
    (event,) = babeltrace(tmp_path)
    assert now - 1_000_000_000 < event["epoch_ns"] < written + 1_000_000_000


def test_streams_and_packets(tmp_path: Path) -> None:
    """Two targets and far more records than a packet holds; in the order of their time."""
    chance = random.Random(1)
    times = sorted(chance.sample(range(1, 1_000_000), 6000))
    streams: dict[int, list[RawRecord]] = {11: [], 12: []}
    for hit, when in enumerate(times):
        log = pack("<Q", hit) + b"\x01\x28\x00" + b"x" * 40
        pid = chance.choice((11, 12))
        streams[pid].append(raw(log, (0, 1), time=when, hit=hit, pid=pid, exit=0))
    write(tmp_path / "t", *streams.values())
    packets = [
        (tmp_path / "t" / f"target-{pid}-{n}").stat().st_size for n, pid in ((1, 11), (2, 12))
    ]
    assert min(packets) > 256 << 10
    events = babeltrace(tmp_path)
    assert [event["fields"]["word_0"] for event in events] == list(range(6000))
    for event in events:
        assert event["target"] == event["context"]["pid"]


def test_lost_records_are_told(tmp_path: Path) -> None:
    write(tmp_path / "t", [raw(hit=1), raw(hit=2)], lost=17)
    found = babeltrace(tmp_path)
    assert [each["context"]["hit"] for each in found if "name" in each] == [1, 2]
    assert [each["discarded"] for each in found if "discarded" in each] == [17]


def test_names_with_anything_in_them(tmp_path: Path) -> None:
    """Quotes, line feeds, backslashes and what is no UTF-8 in names cannot break the metadata."""

    class Odd:
        pid = 1

        def label(self, program: int) -> str:
            return 'a"b\\c\nd*/ }; é'

        def place(self, place: int) -> tuple[str, str]:
            return ('/tmp/\udcff\n"', 'f<int, char">+0x0')

    trace = Trace(lambda: {0: "exit", 4: 'tr"ace'})
    chunk = CtfChunk(tmp_path / "t", trace)
    put(chunk, trace.stream(Odd()), [raw(pid=1)])
    chunk.close()
    (event,) = babeltrace(tmp_path)
    assert event["name"] == 'a"b\\c?d*/ }; é:f<int, char">+0x0'
    assert event["context"]["exit"] == [4, ['tr"ace']]
    (record,) = CtfRecording(tmp_path / "t").records()
    assert (record.program, record.module) == (Odd().label(1), Odd().place(1)[0])
    assert record.exit == 'tr"ace'
