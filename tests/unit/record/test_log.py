"""Reading logs: whole, cut short at every byte, and rubbish."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dprobed.program.exec.log import memory_item, string_item, variables_item
from dprobed.program.items import (
    NONE,
    ItemToken,
    fault_item,
    frame_body,
    trace_item,
    value_item,
    words_item,
)
from dprobed.record.log import decode_log
from dprobed.record.record import Record
from dprobed.record.text import record_text
from dprobed.trace.rewrite import log_bytes
from tests.programs.cases import Case, FakeContext, Region


def memory(text: bytes) -> FakeContext:
    return FakeContext([Region(0x1000, bytearray(text), False)], Case("", "").thread)


def sample() -> tuple[bytes, tuple[int, ...], list[dict[str, object]]]:
    """A log with an item of each kind, its raw words, and what it reads as."""
    found = memory(b"hello\0")
    string, _ = string_item(found, 0x1000, 10, 100)
    image, _ = memory_item(found, 0x1001, 3, 100)
    assert string is not None
    assert image is not None
    frame = frame_body(5, NONE, [1], [2, 3], [])
    parts: list[tuple[bytes, dict[str, object]]] = [
        (string, {"string": "hello"}),
        (bytes([9] + [0] * 15), {"words": [9, 0]}),
        (image, {"memory": "656c6c", "address": 0x1001}),
        (fault_item(0x1234), {"fault": 0x1234}),
        (
            words_item(ItemToken.WORDS, [1, 2**64 - 1]),
            {"words": [1, 2**64 - 1], "text": ["1", str(2**64 - 1)]},
        ),
        (value_item(2, 2**64 - 1, "result"), {"value": -1, "kind": "i32", "name": "result"}),
        (value_item(7, 2**64 - 1, ""), {"value": 2**64 - 1, "kind": "u64", "text": str(2**64 - 1)}),
        (value_item(9, 0x7FF << 52, ""), {"value": None, "kind": "f64", "text": "inf"}),
        (fault_item(2**63), {"fault": 2**63, "text": str(2**63)}),
        (words_item(ItemToken.LOCALS, [4]), {"locals": [4]}),
        (words_item(ItemToken.GLOBALS, []), {"globals": []}),
        (words_item(ItemToken.STACK, [6]), {"stack": [6]}),
        (
            trace_item(1, NONE, 2, 3, [frame], 1000),
            {
                "trace": {
                    "code": 1,
                    "handler": None,
                    "parm1": 2,
                    "parm2": 3,
                    "frames": [
                        {"called": 5, "return": None, "stack": [1], "locals": [2, 3], "globals": []}
                    ],
                }
            },
        ),
    ]
    log = b"".join(data for data, _ in parts)
    return log, (len(string), 2), [item for _, item in parts]


@pytest.mark.parametrize(
    ("raw", "item", "shown"),
    [
        ("café".encode(), {"string": "café"}, '"café"'),
        (b"caf\\xe9", {"string": "caf\\xe9"}, '"caf\\\\xe9"'),
        (b"caf\xe9", {"string": "caf\\xe9", "bytes": "636166e9"}, '"caf\\xe9"'),
        (b'\\xe9\xe9"\n', {"string": '\\xe9\\xe9"\n', "bytes": "5c786539e9220a"},
         '"\\\\xe9\\xe9\\"\\n"'),
    ],
)  # fmt: skip
def test_bytes_that_are_no_text_and_the_letters_that_stand_for_them(
    raw: bytes, item: dict[str, object], shown: str
) -> None:
    """Different things are shown differently, and become what they were in another format."""
    log, _ = string_item(memory(raw + b"\0"), 0x1000, 20, 100)
    assert log is not None
    assert decode_log(log, ()) == [item]
    assert log_bytes([item]) == (log, ())
    record = msgspec.json.decode(_RECORD, type=Record)
    assert record_text(msgspec.structs.replace(record, log=[item])).endswith(f"#1: {shown}")


_RECORD = b"""{"type":"record","program":"p","major":1,"minor":1,"module":"/m","place":"f+0x0",
"pid":1,"tid":1,"comm":"c","uid":0,"cpu":0,"time":0,"hit":1,"exit":"exit","log":[]}"""


def test_every_kind_of_item() -> None:
    log, raw, items = sample()
    assert decode_log(log, raw) == items
    assert json.loads(json.dumps(items)) == items


def test_a_log_cut_short_says_so() -> None:
    log, raw, items = sample()
    for size in range(len(log)):
        decoded = decode_log(log[:size], raw)
        whole = [item for item in decoded if "undecoded" not in item]
        assert whole == items[: len(whole)]
        if len(decoded) > len(whole):
            assert list(decoded[-1]) == ["undecoded"]
            assert log[:size].hex().endswith(str(decoded[-1]["undecoded"]))


@given(st.binary(max_size=200), st.lists(st.integers(-300, 300), max_size=6))
def test_rubbish_is_read_without_an_error(log: bytes, raw: list[int]) -> None:
    json.dumps(decode_log(log, raw))


@given(st.integers(0, len(sample()[0]) - 1), st.binary(min_size=1, max_size=3))
def test_damage_is_read_without_an_error(at: int, damage: bytes) -> None:
    log, raw, _ = sample()
    json.dumps(decode_log(log[:at] + damage + log[at + len(damage) :], raw))


@pytest.mark.parametrize("room", range(20))
def test_no_item_is_longer_than_the_room_for_it(room: int) -> None:
    for found in (memory(b"abcdef\0"), memory(b"abc"), memory(b"")):
        for make in (string_item, memory_item):
            item, _ = make(found, 0x1000, 6, room)
            assert item is None or len(item) <= room
    assert len(trace_item(0, 0, 0, 0, [b"frame"], room)) <= room
    item = variables_item(ItemToken.LOCALS, [1, 2], 0, 2, room)
    assert item is None or len(item) <= room


def test_a_string_as_long_as_the_room() -> None:
    found = memory(b"abcdef\0")
    assert string_item(found, 0x1000, 100, 9) == (b"\x01\x06\x00abcdef", None)
    assert string_item(found, 0x1000, 100, 8) == (None, None)
    assert string_item(found, 0x1000, 5, 8) == (b"\x01\x05\x00abcde", None)


def test_the_fault_is_told_also_when_its_item_does_not_fit() -> None:
    found = memory(b"abc")
    assert string_item(found, 0x1000, 9, 17) == (b"\x01\x03\x00abc" + fault_item(0x1003), 0x1003)
    assert string_item(found, 0x1000, 9, 16) == (None, 0x1003)
    assert memory_item(found, 0x1000, 9, 20) == (None, 0x1003)
    assert memory_item(found, 0x1003, 9, 20) == (fault_item(0x1003), 0x1003)


def test_no_more_is_read_than_can_be_logged() -> None:
    asked = []

    class Asked(FakeContext):
        def read_partial(self, address: int, length: int) -> bytes:
            asked.append(length)
            return b"x" * length

    found = Asked([], Case("", "").thread)
    assert string_item(found, 0x1000, 2**63, 100) == (None, None)
    assert memory_item(found, 0x1000, 2**63, 100) == (None, None)
    assert asked == [98]
