"""Chunks on a full disk: nothing stays open, whatever fails."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dprobed.trace import store
from dprobed.trace.ctf import RecordBlock, Trace
from dprobed.trace.lines import FORMATS
from dprobed.trace.writer import MakeChunk, RotationLimits, Writer
from tests.trace_support import EXITS, Names, line, raw

TRIES = 50


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@contextmanager
def no_room() -> Iterator[None]:
    """A file system that has no room: nothing can be written to a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def maker(form: str, trace: Trace, folder: Path) -> MakeChunk:
    if form == "ctf":
        return lambda inside, number: store.CtfChunk(inside / f"{number:06d}", trace)
    if form == "journal":
        return lambda inside, number: store.SystemdJournalChunk(str(folder / "no socket"))
    return lambda inside, number: store.FileChunk(inside / f"{number:06d}", FORMATS[form])


def block(trace: Trace) -> RecordBlock:
    stream = trace.stream(Names())
    stream.add([raw()])
    (made,) = stream.take(all_=True)
    return made


@pytest.mark.parametrize("form", ["ctf", *FORMATS, "journal"])
def test_no_descriptor_is_left_of_tries_on_a_full_disk(tmp_path: Path, form: str) -> None:
    trace = Trace(lambda: dict(EXITS))
    folder = tmp_path / "trace"
    folder.mkdir()
    blocks = [block(trace) for _ in range(TRIES)]
    if form != "ctf":
        blocks = [RecordBlock(None, line(raw()), 1) for _ in range(TRIES)]
    writer = Writer(
        "t",
        None if form == "journal" else folder,
        maker(form, trace, tmp_path),
        # A new chunk for each block, where one can be begun.
        RotationLimits(rotate_bytes=1),
        lambda problem: None,
    )
    before = descriptors()
    with no_room():
        for each in blocks:
            assert writer.give(each)
        writer.close()
        assert writer.join(20)
    assert descriptors() == before
    assert (writer.written, writer.lost) == (0, TRIES)
    assert writer.problem
    if form in ("ctf", "chrome"):  # They begin with something: no chunk can be begun.
        assert list(folder.iterdir()) == []


def test_a_ctf_chunk_closes_all_its_files_where_one_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As over NFS, where `close` says what the server had no room for."""
    trace = Trace(lambda: dict(EXITS))
    before = descriptors()
    chunk = store.CtfChunk(tmp_path / "000001", trace)
    for _ in range(3):
        chunk.write(block(trace))
    assert descriptors() == before + 4
    close = store.AppendFile.close
    failed = []

    def close_and_fail(file: store.AppendFile) -> None:
        close(file)
        failed.append(file)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.AppendFile, "close", close_and_fail)
    with pytest.raises(OSError, match="No space"):
        chunk.close()
    assert len(failed) == 4
    assert descriptors() == before
