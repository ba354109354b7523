"""The framing and grammar of the GDB remote protocol."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dprobed.tracer.debug import rsp
from dprobed.tracer.debug.rsp import Action, Item, Reader, Signal, ThreadId


def items(reader: Reader, data: bytes) -> list[Item]:
    """All that the reader makes of the data."""
    reader.feed(data)
    found = []
    while (item := reader.next()) is not None:
        found.append(item)
    return found


STREAM = b"+$qSupported:a+#90\x03-+noise$m10,4#8e"
SAID: list[Item] = [
    Signal.ACK,
    b"qSupported:a+",
    Signal.INTERRUPT,
    Signal.NACK,
    Signal.ACK,
    b"m10,4",
]


def with_right_sums(data: bytes) -> bytes:
    return data.replace(b"#90", b"#%02x" % (sum(b"qSupported:a+") & 255)).replace(
        b"#8e", b"#%02x" % (sum(b"m10,4") & 255)
    )


def test_whole_stream() -> None:
    assert items(Reader(), with_right_sums(STREAM)) == SAID


def test_byte_by_byte() -> None:
    reader = Reader()
    found = [item for byte in with_right_sums(STREAM) for item in items(reader, bytes([byte]))]
    assert found == SAID


def test_every_cut() -> None:
    stream = with_right_sums(STREAM)
    for cut in range(len(stream)):
        reader = Reader()
        assert items(reader, stream[:cut]) + items(reader, stream[cut:]) == SAID


def test_wrong_checksum() -> None:
    assert items(Reader(), b"$g#00$g#zz$g#67") == [Signal.CORRUPT, Signal.CORRUPT, b"g"]


def test_too_long() -> None:
    reader = Reader()
    assert items(reader, b"$" + b"a" * (3 * rsp.MAX_PACKET)) == [Signal.CORRUPT]
    assert items(reader, rsp.frame(b"g")) == [b"g"]


@given(st.binary(max_size=300))
def test_what_is_framed_is_read(payload: bytes) -> None:
    framed = rsp.frame(payload)
    assert items(Reader(), framed) == [payload]
    assert framed[1:-3].count(b"#") == framed[1:-3].count(b"$") == 0


@given(st.binary(max_size=200))
def test_rubbish_does_no_harm(data: bytes) -> None:
    items(Reader(), data)


def test_actions() -> None:
    assert rsp.actions(b"s:p1f.20;c") == [
        Action("s", 0, ThreadId(0x1F, 0x20)),
        Action("c", 0, rsp.ALL),
    ]
    assert rsp.actions(b"C1e:5;r10,2f:p1.-1;t:0") == [
        Action("c", 0x1E, ThreadId(0, 5)),
        Action("s", 0, ThreadId(1, -1), 0x10, 0x2F),
        Action("t", 0, ThreadId(0, 0)),
    ]


@pytest.mark.parametrize("text", [b"", b"x", b"C", b"Czz", b"r10", b"s:", b"s:p", b"cc", b"c:p1.z"])
def test_wrong_actions(text: bytes) -> None:
    with pytest.raises(rsp.PacketError):
        rsp.actions(text)


def test_thread_ids() -> None:
    assert rsp.thread_id(b"p10.-1") == (16, -1)
    assert rsp.thread_id(b"p10") == (16, -1)
    assert rsp.thread_id(b"-1").covers(5)
    assert not rsp.thread_id(b"5").covers(6)


def test_windows() -> None:
    data = bytes(range(100))
    assert rsp.window(data, b"0,10") == b"m" + data[:16]
    assert rsp.window(data, b"60,10") == b"l" + data[96:]
    assert rsp.window(data, b"64,10") == b"l"
    with pytest.raises(rsp.PacketError):
        rsp.window(data, b"0")


def test_signals_are_gdbs() -> None:
    # gdb's numbers, as `info signals` and its remote.c have them.
    assert [rsp.to_gdb(number) for number in (5, 7, 10, 12, 17, 18, 19, 34, 63, 64)] == [
        5, 10, 30, 31, 20, 19, 17, 46, 75, 78,
    ]  # fmt: skip
    for number in range(1, 65):
        if number != 16:
            assert rsp.from_gdb(rsp.to_gdb(number)) == number
    assert rsp.from_gdb(0) == rsp.from_gdb(143) == 0
