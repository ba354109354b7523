"""CTF traces of ours, written and read back by ourselves."""

from __future__ import annotations

import json
import random
from pathlib import Path
from struct import pack

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dprobed.record.record import Record
from dprobed.trace.ctf import PACKET, Trace
from dprobed.trace.reader import CtfRecording, TraceReadError, merged, open_all
from dprobed.trace.store import CtfChunk
from dprobed.wire.protocol import RawRecord
from tests.trace_support import EXITS, Names, all_kinds, decoded, line, put, raw, write

WORD = st.integers(0, (1 << 64) - 1)


def prefixed(token: int) -> st.SearchStrategy[bytes]:
    return st.lists(WORD, max_size=5).map(
        lambda words: pack(f"<bH{len(words)}Q", token, len(words), *words)
    )


def frames(count: int) -> st.SearchStrategy[bytes]:
    frame = st.tuples(WORD, WORD, prefixed(4), prefixed(5), prefixed(6)).map(
        lambda parts: pack("<QQ", parts[0], parts[1]) + b"".join(parts[2:])
    )
    return st.lists(frame, min_size=count, max_size=count).map(b"".join)


ITEMS = st.one_of(
    st.lists(WORD, min_size=1, max_size=40).map(
        lambda words: (len(words), pack(f"<{len(words)}Q", *words))
    ),
    st.binary(max_size=50).map(lambda data: (0, pack("<bH", 1, len(data)) + data)),
    st.tuples(WORD, st.binary(max_size=50)).map(
        lambda pair: (0, pack("<bHQ", 0, len(pair[1]), pair[0]) + pair[1])
    ),
    WORD.map(lambda word: (0, pack("<bHQ", -1, 8, word))),
    st.sampled_from((4, 5, 6, 7)).flatmap(prefixed).map(lambda item: (0, item)),
    st.integers(0, 3).flatmap(
        lambda count: frames(count).map(
            lambda body: (0, pack("<bH4Q", 2, 1, 1, 2, 3, 4) + pack("<bH", 3, count) + body)
        )
    ),
    st.binary(min_size=1, max_size=9).map(lambda junk: (0, junk)),
)


@st.composite
def logs(draw: st.DrawFn) -> tuple[bytes, tuple[int, ...]]:
    log, bare = b"", []
    for words, item in draw(st.lists(ITEMS, max_size=6)):
        if words:
            bare += [len(log), words]
        log += item
    return log, tuple(bare)


def read(folder: Path) -> list[Record]:
    return list(merged(open_all(folder)))


@pytest.mark.slow
@settings(max_examples=150)
@given(st.lists(logs(), min_size=1, max_size=8))
@example([(b"\x01", ())])
@example([(b"\x01\x00", ())])
def test_any_log_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[bytes, tuple[int, ...]]]
) -> None:
    folder = tmp_path_factory.mktemp("t") / "t"
    records = [
        raw(log, bare, hit=hit, time=hit, exception=(1, hit, 2) if hit % 3 == 2 else None)
        for hit, (log, bare) in enumerate(made)
    ]
    write(folder, records)
    assert read(folder) == [decoded(record) for record in records]


def test_all_kinds_are_read_back(tmp_path: Path) -> None:
    write(tmp_path / "t", all_kinds())
    assert read(tmp_path) == [decoded(record) for record in all_kinds()]


def test_logs_of_very_many_shapes_make_few_classes(tmp_path: Path) -> None:
    """A program whose logs never look alike does not let the metadata grow without end."""
    chance = random.Random(2)
    records = []
    for hit in range(1000):
        sizes = [chance.randrange(1, 9) for _ in range(4)]
        log, bare = b"", []
        for size in sizes:
            bare += [len(log), size]
            log += pack(f"<{size}Q", *range(size)) + pack("<bH", 1, 1) + b"-"
        records.append(raw(log, tuple(bare), hit=hit, time=hit))
    trace = write(tmp_path / "t", records)
    assert len(trace.classes) < 70
    assert read(tmp_path) == [decoded(record) for record in records]


def test_time_never_goes_back_in_a_stream(tmp_path: Path) -> None:
    records = [raw(hit=1, time=500), raw(hit=2, time=400), raw(hit=3, time=600)]
    write(tmp_path / "t", records)
    assert [(each.hit, each.time) for each in read(tmp_path)] == [(1, 500), (2, 500), (3, 600)]


def many(pid: int, start: int, count: int = 3000) -> list[RawRecord]:
    return [
        raw(pack("<8Q", *range(8)), (0, 8), pid=pid, hit=hit, time=start + 2 * hit)
        for hit in range(count)
    ]


def test_streams_and_chunks_are_merged_by_time(tmp_path: Path) -> None:
    write(tmp_path / "1", many(1, 0), many(2, 1))
    write(tmp_path / "2", many(1, 9000))
    found = read(tmp_path)
    assert len(found) == 9000
    assert [each.time for each in found] == sorted(each.time for each in found)


@pytest.mark.parametrize("cut", [1, PACKET.size - 1, PACKET.size + 1, 100_000, -1])
def test_a_trace_that_is_cut_off_is_read_up_to_there(tmp_path: Path, cut: int) -> None:
    """As a daemon leaves it that was killed while it wrote a packet."""
    write(tmp_path / "t", many(1, 0))
    whole = read(tmp_path)
    file = tmp_path / "t" / "target-1-1"
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.truncate(cut if cut > 0 else size - 1)
    chunk = CtfRecording(tmp_path / "t")
    found = list(chunk.records())
    assert found == whole[: len(found)]
    assert len(found) < len(whole)
    assert chunk.cut == [file]


def test_lost_records_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "t", [raw()], [raw(pid=2)], lost=4)
    chunk = CtfRecording(tmp_path / "t")
    assert len(list(chunk.records())) == 2
    assert chunk.discarded == 8


def test_json_lines_are_read_like_a_trace(tmp_path: Path) -> None:
    file = tmp_path / "000001.jsonl"
    lines = [line(record) for record in all_kinds()]
    file.write_bytes(b"".join(lines) + b'{"type":"summary"}\n' + lines[0][:-5])
    (opened,) = open_all(tmp_path)
    assert list(opened.records()) == [decoded(record) for record in all_kinds()]
    assert opened.cut == [file]
    assert [each.hit for each in merged(open_all(file))] == [each.hit for each in all_kinds()]


def test_json_lines_that_another_wrote_anew_are_records_too(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    written = [json.dumps(json.loads(line(record))) for record in all_kinds()]
    turned = [dict(reversed(json.loads(line(record)).items())) for record in all_kinds()]
    written += map(json.dumps, turned)
    file.write_text("".join(f"{each}\n" for each in written) + '{"type": "summary"}\n')
    (opened,) = open_all(file)
    assert list(opened.records()) == 2 * [decoded(record) for record in all_kinds()]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("metadata", b"", "no trace of dprobed"),
        ("metadata", b"/* CTF 1.8 */\ntrace { major = 1; };", "no trace of dprobed"),
        ("x.jsonl", b"nonsense\n", "x.jsonl:1: no record"),
        ("x.jsonl", b'{"type":"record",}\n', "x.jsonl:1: no record"),
        ("x.jsonl", b'{"type": "record" \n', "x.jsonl:1: no record"),
        ("other", b"", "there is no trace"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TraceReadError, match=says):
        read(tmp_path)


def test_damage_is_told(tmp_path: Path) -> None:
    write(tmp_path / "t", [raw()])
    file = tmp_path / "t" / f"target-{Names().pid}-1"
    data = bytearray(file.read_bytes())
    data[PACKET.size] = 0xEE
    file.write_bytes(data)
    with pytest.raises(TraceReadError, match="damaged"):
        read(tmp_path)
    file.write_bytes(b"\0" * 200)
    with pytest.raises(TraceReadError, match="no packet begins at byte 0"):
        read(tmp_path)


def test_a_growing_trace_is_readable_at_any_time(tmp_path: Path) -> None:
    """New classes are in the metadata before their first event is in a packet."""
    trace = Trace(lambda: EXITS)
    chunk = CtfChunk(tmp_path / "t", trace)
    stream = trace.stream(Names())
    for count, record in enumerate(all_kinds(), 1):
        put(chunk, stream, [record])
        assert len(read(tmp_path)) == count
    chunk.close()


def test_folders_named_like_files_of_a_trace_are_none(tmp_path: Path) -> None:
    (tmp_path / "package" / "metadata").mkdir(parents=True)
    (tmp_path / "more.jsonl").mkdir()
    with pytest.raises(TraceReadError, match="there is no trace"):
        open_all(tmp_path)
