"""The change journal: a table of what is changed, read by whoever comes after its tracer."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from dprobed import change_journal
from dprobed.change_journal import RECORD, Change, ChangeJournal, Changes, Kind, SiteChange

ME = (4711, 5)
TARGET = (4712, 6)


@pytest.fixture
def file() -> Iterator[int]:
    descriptor = os.memfd_create("changes")
    yield descriptor
    os.close(descriptor)


def changes(file: int) -> Changes:
    """Those of a target of a new tracer."""
    return Changes(ChangeJournal(file, *ME), *TARGET)


def noted(file: int) -> list[tuple[Kind, int, bytes]]:
    """What is there but the tracer's own record."""
    found = [change for _, change in change_journal.read(file)]
    assert found[0].kind is Kind.TRACER
    assert all((each.pid, each.start) == TARGET for each in found[1:])
    return [(each.kind, each.address, each.data) for each in found[1:]]


def test_what_is_noted_is_found_by_the_next_tracer(file: int) -> None:
    site = SiteChange(0x1234, b"\x55", b"before", b"behind")
    first = changes(file)
    first.note(Kind.AREA, 0x7000, b"size")
    first.note(Kind.SITE, 0x7040, site.pack())
    second = changes(file)
    found = second.adopt()
    assert [(each.kind, each.address) for each in found] == [
        (Kind.AREA, 0x7000),
        (Kind.SITE, 0x7040),
    ]
    assert SiteChange.unpack(found[1].data) == site
    assert change_journal.writer(file) == ME
    second.clear()
    assert noted(file) == []


def test_it_is_a_table_and_does_not_grow(file: int) -> None:
    one = changes(file)
    for _ in range(1000):
        one.note(Kind.RAW, 1, b"a")
        one.note(Kind.RAW, 2, b"b")
        one.forget(Kind.RAW, 1)
        one.forget(Kind.RAW, 2)
    assert os.fstat(file).st_size == 3 * RECORD
    one.note(Kind.RAW, 3, b"c")
    assert noted(file) == [(Kind.RAW, 3, b"c")]


def test_places_between_others_are_used_again_by_the_next(file: int) -> None:
    first = changes(file)
    for address in range(4):
        first.note(Kind.RAW, address)
    first.forget(Kind.RAW, 1)
    second = changes(file)
    second.note(Kind.RAW, 9)
    assert sorted(address for _, address, _ in noted(file)) == [0, 2, 3, 9]
    assert os.fstat(file).st_size == 5 * RECORD


@pytest.mark.parametrize("at", range(0, RECORD, 8))
def test_a_torn_entry_is_none(file: int, at: int) -> None:
    one = changes(file)
    one.note(Kind.RAW, 1, b"\xff" * (RECORD - 32))
    one.note(Kind.RAW, 2, b"b")
    os.pwrite(file, b"\x5a" * 8, RECORD + at)
    assert noted(file) == [(Kind.RAW, 2, b"b")]


def test_rubbish_is_no_change(file: int) -> None:
    os.pwrite(file, os.urandom(64 * RECORD), 0)
    assert list(change_journal.read(file)) == []
    assert ChangeJournal(file, *ME).found == {}


def test_a_change_that_cannot_be_noted_is_refused(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = changes(file)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", lambda *_: 5)  # the disk is full
        with pytest.raises(OSError, match="No space left"):
            one.note(Kind.RAW, 1)
    one.note(Kind.RAW, 2)
    assert noted(file) == [(Kind.RAW, 2, b"")]
    monkeypatch.setattr(change_journal, "MOST", 2)
    with pytest.raises(OSError, match="at most"):
        one.note(Kind.RAW, 3)


def test_what_is_of_another_boot_concerns_nobody(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes(file).note(Kind.RAW, 1)
    monkeypatch.setattr(change_journal, "boot", lambda: b"another")
    assert change_journal.writer(file) == (0, 0)
    assert ChangeJournal(file, *ME).found == {}
    assert noted(file) == []


def test_a_process_that_is_gone_is_dropped(file: int) -> None:
    changes(file).note(Kind.RAW, 1)
    journal = ChangeJournal(file, *ME)
    assert list(journal.found) == [TARGET]
    journal.drop(*TARGET)
    assert noted(file) == []


def test_the_layout() -> None:
    change = Change(Kind.RAW, 0x01020304, 0x1112131415161718, 0x2122232425262728, b"\xaa\xbb")
    record = change_journal.pack(change)
    assert len(record) == RECORD
    assert record[4:34].hex(" ") == (
        "05 00 02 00 04 03 02 01 00 00 00 00 18 17 16 15 14 13 12 11 28 27 26 25 24 23 22 21 aa bb"
    )
    assert change_journal.unpack(record) == change
