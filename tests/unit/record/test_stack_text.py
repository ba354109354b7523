"""The text form of a stack: a line each frame, under the record's."""

from __future__ import annotations

from dprobed.record.text import record_text, stack_lines
from tests.unit.client.test_output import record

STACK = {
    "ustack": [
        {"module": "/lib/x.so", "offset": 16, "function": "f", "plus": 0, "file": "f.c", "line": 3,
         "inlined": [{"function": "g", "file": "g.h", "line": 9}], "exact": True},
        {"module": "/lib/x.so", "offset": 32, "signal": True},
        {"module": "/lib/y\n.so", "offset": 48},
        {"address": 64},
        {"address": 80, "function": "made", "plus": 5},
    ],
    "ended": "the memory of the stack cannot be read",
}  # fmt: skip


def test_lines() -> None:
    assert stack_lines(STACK) == [
        "g (inlined) at g.h:9",
        "f+0x0 (x.so) at f.c:3",
        "<signal handler called>",
        "y\n.so+0x30",
        "0x40",
        "made+0x5",
        "(the memory of the stack cannot be read)",
    ]


def test_under_the_record() -> None:
    """Whatever the names are: each frame is one line, and the record's other items are in its."""
    plain = record_text(record(log=[{"words": [7]}]))
    lines = record_text(record(log=[STACK, {"words": [7]}])).split("\n")
    assert lines[0] == plain
    assert len(lines) == 8
    assert all(line.startswith("        ") for line in lines[1:])
