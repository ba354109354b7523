"""The tracer's protocol: every message, and every way in which bytes can arrive or be wrong."""

from __future__ import annotations

import msgspec
import pytest

from dprobed.wire import protocol
from dprobed.wire.framing import HEADER_SIZE, MAX_MESSAGE, ProtocolError, Unpacker
from dprobed.wire.notices import NoticeKind
from dprobed.wire.protocol import (
    State,
    decode_from_tracer,
    decode_request,
    pack,
)

STATUS = protocol.ProbeStatus(
    1, 0, State.ACTIVE, "/bin/x", "f+0x0", "", 9, 8, 1, 0, 0, [0x1000, 0x2000]
)
RECORD = protocol.RawRecord(
    1, 0, 3, 100, 101, b"comm", 0, 1, 123456789, 7, -3, 1, 2, b"\x00\xff", (0, 1), (32, 0, 0)
)
REQUESTS: list[protocol.Request] = [
    protocol.Attach(1, 1234),
    protocol.Attach(1, 1234, launch=True),
    protocol.Attach(1, 1234, follow_forks=True),
    protocol.Insert(2, 1234, 5, b"bytecode", check_opcode=False, facilities={"mine": 9}),
    protocol.Remove(3, 1234, 5),
    protocol.Remove(3, 1234),
    protocol.Query(4, 1234),
    protocol.Maps(5, 1234, 5, "clear", "calls"),
    protocol.SetMap(5, 1234, 5, "seen", [([1, b"cat"], [7])]),
    protocol.Vars(5, 1234, 5, 2, 7, reset=True),
    protocol.Vars(5, 1234),
    protocol.Resume(6, 1234, 1235),
    protocol.Resume(6, 1234),
    protocol.Detach(7, 1234),
]
ANSWERS: list[protocol.Reply | protocol.Event] = [
    protocol.Ok(1, [STATUS], [1, (1 << 64) - 1], [1234], [1235], 99),
    protocol.Refused(2, "process 1 is gone"),
    protocol.Records([RECORD, RECORD]),
    protocol.Places({3: protocol.Place(1234, "/bin/x", "f+0x0")}),
    protocol.Changed(1234, [STATUS]),
    protocol.TargetEvent(NoticeKind.EXEC, 1, 2, "process 1 runs a new program"),
    protocol.Forked(1235, 1234, [STATUS]),
    protocol.Ended(1234, "killed", 9, [STATUS], 1),
]


def bodies(unpacker: Unpacker) -> list[bytes]:
    found = []
    while (body := unpacker.next()) is not None:
        found.append(body)
    return found


@pytest.mark.parametrize("message", REQUESTS)
def test_requests_arrive_as_they_were_sent(message: protocol.Request) -> None:
    assert decode_request(pack(message)[HEADER_SIZE:]) == message


@pytest.mark.parametrize("message", ANSWERS)
def test_answers_and_events_arrive_as_they_were_sent(
    message: protocol.Reply | protocol.Event,
) -> None:
    assert decode_from_tracer(pack(message)[HEADER_SIZE:]) == message


def test_many_messages_at_once() -> None:
    unpacker = Unpacker()
    unpacker.feed(b"".join(map(pack, REQUESTS)))
    assert [decode_request(body) for body in bodies(unpacker)] == REQUESTS


def test_byte_by_byte() -> None:
    unpacker = Unpacker()
    found = []
    for byte in b"".join(map(pack, ANSWERS)):
        unpacker.feed(bytes((byte,)))
        found += bodies(unpacker)
    assert [decode_from_tracer(body) for body in found] == ANSWERS


@pytest.mark.parametrize("message", [REQUESTS[2], ANSWERS[2]])
def test_a_message_cut_short_says_more(message: protocol.Insert | protocol.Records) -> None:
    whole = pack(message)
    for length in range(len(whole)):
        unpacker = Unpacker()
        unpacker.feed(whole[:length])
        assert unpacker.next() is None
        unpacker.feed(whole[length:])
        assert unpacker.next() == whole[HEADER_SIZE:]
        assert unpacker.next() is None


def test_an_empty_body_is_a_body() -> None:
    unpacker = Unpacker()
    unpacker.feed(bytes(HEADER_SIZE))
    assert unpacker.next() == b""
    with pytest.raises(ProtocolError):
        decode_request(b"")


def test_the_longest_message_and_one_byte_more() -> None:
    unpacker = Unpacker()
    unpacker.feed(MAX_MESSAGE.to_bytes(HEADER_SIZE, "little"))
    assert unpacker.next() is None
    unpacker = Unpacker()
    unpacker.feed((MAX_MESSAGE + 1).to_bytes(HEADER_SIZE, "little"))
    with pytest.raises(ProtocolError, match=f"{MAX_MESSAGE + 1} bytes"):
        unpacker.next()


def test_rubbish_after_a_message() -> None:
    unpacker = Unpacker()
    unpacker.feed(pack(REQUESTS[0]) + b"\xff" * 16)
    body = unpacker.next()
    assert body is not None
    assert decode_request(body) == REQUESTS[0]
    with pytest.raises(ProtocolError):
        unpacker.next()


@pytest.mark.parametrize(
    "body",
    [
        b"\xc1",  # a byte that msgpack never uses
        b"\x80",  # no fields
        b"rubbish",
        msgspec.msgpack.encode({"type": "Nonsense", "seq": 1}),
        msgspec.msgpack.encode({"type": "Attach", "seq": 1}),
        msgspec.msgpack.encode({"type": "Attach", "seq": 1, "pid": "one"}),
        msgspec.msgpack.encode({"type": "Query", "seq": 1}) + b"\x00",
        msgspec.msgpack.encode({"type": "Ok", "seq": 1}),  # an answer is no request
    ],
)
def test_what_is_no_request(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_request(body)


@pytest.mark.parametrize(
    "body",
    [
        b"\xc1",
        msgspec.msgpack.encode({"type": "Attach", "seq": 1, "pid": 1}),
        msgspec.msgpack.encode({"type": "Records", "records": [[1, 2, 3]]}),
        msgspec.msgpack.encode({"type": "Changed", "probes": [[1, 0, "perhaps"]]}),
    ],
)
def test_what_is_no_answer(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_from_tracer(body)


WIDE = 1 << 32
LONG_RUNS = (0, 1) * (1 << 15)


@pytest.mark.parametrize(
    "changed",
    [
        {"program": -1},
        *({name: wrong} for name in ("pid", "tid", "uid", "cpu") for wrong in (-1, WIDE)),
        *({name: -1} for name in ("place", "time", "hit", "major", "minor")),
        {"exit": 1 << 31},
        {"exit": -(1 << 31) - 1},
        {"raw": (-1, 1)},
        {"raw": LONG_RUNS},
        {"exception": (0, -1, 0)},
    ],
    ids=str,
)
def test_a_record_with_numbers_out_of_range_is_no_message(changed: dict[str, object]) -> None:
    """Its tracer runs as its user: whoever writes records down trusts their width."""
    lying = protocol.Records([RECORD, msgspec.structs.replace(RECORD, **changed)])
    with pytest.raises(ProtocolError, match="records"):
        decode_from_tracer(pack(lying)[HEADER_SIZE:])


@pytest.mark.parametrize("changed", [{"hits": -1}, {"probe": WIDE}, {"addresses": [-1]}], ids=str)
def test_counters_out_of_range_are_no_message(changed: dict[str, object]) -> None:
    lying = msgspec.structs.replace(STATUS, **changed)
    for message in (protocol.Ok(1, [lying]), protocol.Changed(1234, [lying])):
        with pytest.raises(ProtocolError, match="probes"):
            decode_from_tracer(pack(message)[HEADER_SIZE:])
