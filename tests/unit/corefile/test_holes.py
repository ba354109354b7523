"""Which pages there are, by the page tables and by files."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dprobed.arch.x86_64.paging import PAGE
from dprobed.corefile import holes
from dprobed.corefile.areas import Area, parse_smaps
from dprobed.corefile.holes import Holes
from dprobed.corefile.writer import _PIECE, _spans

_SIZE = 1 << 30


@pytest.fixture(params=["scanned", "read"])
def tables(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Holes]:
    """Those of this process, by either way in which the kernel tells."""
    descriptor = os.open("/proc/self/pagemap", os.O_RDONLY)
    found = Holes(descriptor, os.getpid(), os.getpid())
    if request.param == "read":
        monkeypatch.setattr(found, "_may_scan", False)
    yield found
    os.close(descriptor)


def area_of(memory: mmap.mmap, address: int) -> Area:
    return next(
        each
        for each in parse_smaps(Path("/proc/self/smaps").read_bytes())
        if each.start <= address < each.end
    )


def address_of(memory: mmap.mmap) -> int:
    import ctypes

    anchor = ctypes.c_char.from_buffer(memory)
    address = ctypes.addressof(anchor)
    del anchor
    return address


def test_private_memory(tables: Holes) -> None:
    memory = mmap.mmap(-1, _SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    start = address_of(memory)
    for page in (0, 3, 4, 100_000, _SIZE // PAGE - 1):
        memory[page * PAGE] = 7
    assert memory[9 * PAGE] == 0  # the page of zeros is there, or not
    area = area_of(memory, start)
    found = [
        ((low - start) // PAGE, (high - start) // PAGE)
        for low, high in tables.used(area, start, start + _SIZE)
    ]
    end = _SIZE // PAGE
    assert [each for each in found if each != (9, 10)] == [
        (0, 1), (3, 5), (100_000, 100_001), (end - 1, end)
    ]  # fmt: skip
    memory.close()


def test_shared_memory(tables: Holes) -> None:
    """By its file, whoever filled it."""
    descriptor = os.memfd_create("test")
    os.ftruncate(descriptor, _SIZE)
    memory = mmap.mmap(descriptor, _SIZE // 2, mmap.MAP_SHARED, offset=_SIZE // 4)
    start = address_of(memory)
    for at in (0, _SIZE // 4 + 5 * PAGE, _SIZE // 2, _SIZE - PAGE):
        os.pwrite(descriptor, b"x", at)
    area = area_of(memory, start)
    before = os.fstat(descriptor).st_blocks
    found = [
        ((low - start) // PAGE, (high - start) // PAGE)
        for low, high in tables.used(area, start, start + _SIZE // 2)
    ]
    half = _SIZE // 4 // PAGE
    assert found == [(5, 6), (half, half + 1)]
    assert os.fstat(descriptor).st_blocks == before
    memory.close()
    os.close(descriptor)


def test_more_ranges_than_are_asked_for_at_once(
    tables: Holes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holes, "_REGIONS", 10)
    memory = mmap.mmap(-1, 200 * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    start = address_of(memory)
    for page in range(0, 200, 2):
        memory[page * PAGE] = 7
    area = area_of(memory, start)
    found = list(tables.used(area, start, start + 200 * PAGE))
    assert found == [(start + page * PAGE, start + (page + 1) * PAGE) for page in range(0, 200, 2)]
    memory.close()


def test_pieces_of_limited_size() -> None:
    far = 10 * _PIECE
    ranges = [
        (0, PAGE),
        (3 * PAGE, 4 * PAGE),
        (far, far + 2 * _PIECE + PAGE),
        (2 * far, 2 * far + 1),
    ]
    assert list(_spans(ranges)) == [
        (0, 4 * PAGE),
        (far, far + _PIECE),
        (far + _PIECE, far + 2 * _PIECE),
        (far + 2 * _PIECE, far + 2 * _PIECE + PAGE),
        (2 * far, 2 * far + 1),
    ]
    assert list(_spans([])) == []
