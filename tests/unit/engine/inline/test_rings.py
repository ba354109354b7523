"""Rings of records, in memory that the target can write to as well."""

from __future__ import annotations

import random
import struct
from types import SimpleNamespace
from typing import cast

import pytest

from dprobed.arch.x86_64.trampoline import RECORD_DATA, RING_DATA, RING_HEAD
from dprobed.engine.inline.rings import SIZE, RingMemory
from dprobed.engine.inline.shared import SharedMemory

DAMAGE = "the process has written over the memory of its records"


def rings() -> tuple[RingMemory, memoryview]:
    view = memoryview(bytearray(RING_DATA + SIZE))
    shared = cast(SharedMemory, SimpleNamespace(address=0x10000, view=view))
    return RingMemory(shared, 1), view


def record(log: bytes, *, size: int | None = None, log_size: int | None = None) -> bytes:
    """As a trampoline leaves it."""
    whole = RECORD_DATA + -(-len(log) // 8) * 8
    words = struct.pack(
        "<IIQQQQqQQQQQQQQ",
        whole if size is None else size,
        1, 7, 1000, 0, 1, 0, 0,
        len(log) if log_size is None else log_size,
        0, 3, 4, 0, 0, 0,
    )  # fmt: skip
    return (words + log).ljust(whole, b"\0")


def write(view: memoryview, at: int, data: bytes) -> None:
    view[RING_DATA + at : RING_DATA + at + len(data)] = data
    struct.pack_into("<Q", view, RING_HEAD, at + len(data))


def test_records_are_read_once() -> None:
    found, view = rings()
    write(view, 0, record(b"first"))
    assert [(each.site, each.body[:5]) for each in found.read(final=False)] == [(7, b"first")]
    assert found.read(final=False) == []
    write(view, len(record(b"first")), record(b"next"))
    assert [each.body[:4] for each in found.read(final=True)] == [b"next"]
    assert not found.damage


@pytest.mark.parametrize(
    "written",
    [
        record(b"x", size=8),
        record(b"x", size=1 << 31),
        record(b"x", log_size=1 << 63),
        record(b"x", log_size=9),
        record(b"x", size=RECORD_DATA + 4),
        record(b"x" * 100_000),
        bytes(RECORD_DATA - 8),
    ],
)
def test_what_is_no_record_is_damage(written: bytes) -> None:
    found, view = rings()
    write(view, 0, record(b"good") + written)
    assert [each.body[:4] for each in found.read(final=False)] == [b"good"]
    assert found.damage == DAMAGE
    assert found.read(final=True) == []


@pytest.mark.parametrize("head", [SIZE + 8, (1 << 64) - 8, 3, 12])
def test_more_than_there_can_be_is_damage(head: int) -> None:
    found, view = rings()
    struct.pack_into("<Q", view, RING_HEAD, head)
    assert found.read(final=False) == []
    assert found.damage == DAMAGE


def test_what_is_not_whole_is_waited_for_and_passed_over_in_the_end() -> None:
    begun = bytearray(record(b"begun"))
    begun[4] = 0
    found, view = rings()
    write(view, 0, record(b"good") + bytes(begun) + record(b"last"))
    assert [each.body[:4] for each in found.read(final=False)] == [b"good"]
    assert [each.body[:4] for each in found.read(final=True)] == [b"last"]
    assert not found.damage


def test_whatever_is_written_there_only_the_ring_is_lost() -> None:
    drawn = random.Random(4)
    for _ in range(200):
        found, view = rings()
        length = drawn.randrange(1, 4096) & ~drawn.choice((0, 7))
        parts = [record(b"x" * drawn.randrange(40)) for _ in range(drawn.randrange(4))]
        write(view, 0, b"".join(parts) + drawn.randbytes(length))
        for final in (False, True):
            assert len(found.read(final=final)) <= len(parts) + length // RECORD_DATA
