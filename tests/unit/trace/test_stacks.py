"""Stacks in traces: written as CTF, read back, written again from JSON; what babeltrace2 sees."""

from __future__ import annotations

import random
from pathlib import Path

from dprobed.program.items import user_stack_item
from dprobed.program.user_stack import StackEnd, UserStack, frame_word, module_bytes
from dprobed.trace.reader import merged, open_all
from dprobed.trace.rewrite import log_bytes
from tests.trace_support import babeltrace, decoded, raw, write

STACK = UserStack(
    StackEnd.NO_CFI,
    [module_bytes("/bin/x", "abcd"), module_bytes("/lib/libc.so.6", "")],
    [
        frame_word(1, 0x1000, exact=True),
        frame_word(2, 0x2000, exact=False, signal=True),
        frame_word(0, 0x7F00_0000_0000, exact=False),
    ],
)


def item(stack: UserStack) -> bytes:
    found = user_stack_item(stack, 1 << 16)
    assert found is not None
    return found


def test_read_back(tmp_path: Path) -> None:
    nothing = item(UserStack(StackEnd.NONE, [], []))
    logs = [item(STACK), item(STACK) + b"\x01\x02\0hi" + nothing, nothing]
    records = [raw(log, (), hit=n, time=n, exit=0) for n, log in enumerate(logs, 1)]
    write(tmp_path / "t", records)
    found = list(merged(open_all(tmp_path / "t")))
    assert found == [decoded(record) for record in records]
    assert found[0].log == [
        {
            "ustack": [
                {"module": "/bin/x", "build_id": "abcd", "offset": 0x1000, "exact": True},
                {"module": "/lib/libc.so.6", "offset": 0x2000, "signal": True},
                {"address": 0x7F00_0000_0000},
            ],
            "ended": "the code has neither unwinding information nor frame pointers",
        }
    ]
    for record, log in zip(found, logs, strict=True):
        assert log_bytes(record.log) == (log, ())


def test_a_damaged_stack_is_kept_as_bytes(tmp_path: Path) -> None:
    drawn = random.Random(6)
    records = []
    for number in range(1, 300):
        log = bytearray(item(STACK))
        log[drawn.randrange(1, len(log))] = drawn.randrange(256)
        records.append(raw(bytes(log), (), hit=number, time=number, exit=0))
    write(tmp_path / "t", records)
    found = list(merged(open_all(tmp_path / "t")))
    assert found == [decoded(record) for record in records]


def test_as_others_see_it(tmp_path: Path) -> None:
    write(tmp_path / "t", [raw(item(STACK), (), hit=1, time=1, exit=0)])
    (event,) = babeltrace(tmp_path)
    stack = event["fields"]["ustack_0"]
    assert [frame["address"] for frame in stack["frames"]] == [0x1000, 0x2000, 0x7F00_0000_0000]
    assert [frame["module"] for frame in stack["frames"]] == [1, 2, 0]
    assert [frame["exact"] for frame in stack["frames"]] == [1, 0, 0]
    assert [frame["signal"] for frame in stack["frames"]] == [0, 1, 0]
    assert stack["modules"][0]["build_id"] == [0xAB, 0xCD]
