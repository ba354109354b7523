"""Dumps of the last hour: by which clock, whatever is done to the file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dprobed.corefile import ledger
from dprobed.corefile.ledger import HOUR, NAME, Moment


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def at(since: float, *, boot: str = "b", wall: float | None = None) -> Moment:
    return Moment(boot, since, 1e9 + since if wall is None else wall)


def note(folder: int, moment: Moment, probe: str = "p") -> None:
    with ledger.locked(folder) as book:
        ledger.note(book, probe, moment)


def test_an_hour_of_each_probe(folder: int) -> None:
    assert ledger.ages(folder, "p") == []
    note(folder, at(100))
    note(folder, at(200), "other")
    note(folder, at(300))
    assert ledger.ages(folder, "p", at(400)) == [300, 100]
    assert ledger.ages(folder, "p", at(100 + HOUR)) == [HOUR - 200]
    assert ledger.ages(folder, "other", at(400)) == [200]


@pytest.mark.parametrize("wall", [0.0, 1e6, 1e9 + 1e7])
def test_a_clock_that_is_set_makes_no_difference(folder: int, wall: float) -> None:
    note(folder, at(100))
    assert ledger.ages(folder, "p", at(400, wall=wall)) == [300]


def test_a_dump_is_never_later_than_now(folder: int) -> None:
    """Or it would not count for the one right behind it."""
    note(folder, at(100.0006, wall=50.0006))
    assert len(ledger.ages(folder, "p", at(100.0006, wall=50.0006))) == 1


def test_after_a_restart_of_the_machine_the_wall_clock_tells(folder: int) -> None:
    note(folder, at(5000))
    later = at(10, boot="c", wall=1e9 + 5600)
    assert ledger.ages(folder, "p", later) == [600]
    # One that was set back tells nothing, and does not block for ever.
    assert ledger.ages(folder, "p", at(10, boot="c", wall=1e9)) == []


def test_a_dump_that_failed_is_taken_out(folder: int) -> None:
    note(folder, at(100))
    with ledger.locked(folder) as book:
        entry = ledger.note(book, "p", at(200))
        assert ledger.note(book, "p", at(200)) == entry
        note_of_other = ledger.note(book, "other", at(200))
        ledger.withdraw(book, entry)
    assert ledger.ages(folder, "p", at(300)) == [200, 100]
    with ledger.locked(folder) as book:
        ledger.withdraw(book, note_of_other)
        ledger.withdraw(book, note_of_other)
    assert ledger.ages(folder, "other", at(300)) == []


def test_the_file_does_not_grow(folder: int, tmp_path: Path) -> None:
    for second in range(3000):
        note(folder, at(3.0 * second))
    assert len(ledger.ages(folder, "p", at(8997.0))) == 1200
    assert (tmp_path / NAME).stat().st_size < 96 << 10


@pytest.mark.parametrize("rubbish", [b"\0" * 100, b"b 1e400 nan p\nb 7\n\xff\xfe", b"b 99.0 "])
def test_rubbish_is_passed_over(folder: int, tmp_path: Path, rubbish: bytes) -> None:
    """A line that was cut short does not take the next one with it, either."""
    (tmp_path / NAME).write_bytes(rubbish)
    note(folder, at(100))
    assert ledger.ages(folder, "p", at(101)) == [1]


def test_what_is_no_file(folder: int, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / NAME)
    with pytest.raises(OSError, match="not a regular file"):
        ledger.ages(folder, "p")
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic link"):
        ledger.ages(folder, "p")
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).mkdir()
    with pytest.raises(OSError, match="directory"), ledger.locked(folder):
        pass


def test_a_lock_is_not_waited_for_without_limit(
    folder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_PATIENCE", 0.0)
    with (
        ledger.locked(folder),
        pytest.raises(OSError, match="locked by another"),
        ledger.locked(folder),
    ):
        pass


def test_now_is_told_by_a_clock_that_nobody_sets() -> None:
    first, second = Moment.now(), Moment.now()
    assert first.boot == second.boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert 0 <= first.age(second) < HOUR
