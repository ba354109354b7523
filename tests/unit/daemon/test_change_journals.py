"""Files of change journals: whose they are, what is found at a start, and how many stay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dprobed.change_journal import ChangeJournal, Changes, Kind
from dprobed.daemon.change_journals import MOST, ChangeJournalFile, ChangeJournalFiles
from dprobed.proc import procfs

USER = (os.geteuid(), os.getegid())


@pytest.fixture
def journals(tmp_path: Path) -> ChangeJournalFiles:
    found = ChangeJournalFiles(tmp_path / "changes")
    found.open()
    return found


def write(journal: ChangeJournalFile, pid: int, start: int) -> None:
    """As a tracer does."""
    with journal.opened() as descriptor:
        Changes(ChangeJournal(descriptor, pid, start), 1, 2).note(Kind.RAW, 3)


def test_what_is_left_is_found_with_whose_it_is(journals: ChangeJournalFiles) -> None:
    made = journals.make(USER, 7)
    assert made.is_empty
    assert made.living_writer() == 0
    write(made, 1 << 22, 5)
    (found,) = journals.found()
    assert (found.user, found.owner, found.is_empty) == (USER, 7, False)
    assert found.living_writer() == 0
    found.remove()
    assert journals.found() == []


def test_a_tracer_that_lives_is_seen(journals: ChangeJournalFiles) -> None:
    journal = journals.make(USER, 7)
    start = procfs.start_time(os.getpid())
    assert start is not None
    write(journal, os.getpid(), start)
    assert journal.living_writer() == os.getpid()


def test_other_files_are_left_alone(journals: ChangeJournalFiles, tmp_path: Path) -> None:
    (tmp_path / "changes" / "README").write_text("")
    assert journals.found() == []
    journals.close()
    assert (tmp_path / "changes" / "README").exists()


def test_only_the_latest_of_a_user_stay(journals: ChangeJournalFiles) -> None:
    for number in range(MOST + 5):
        write(journals.make(USER, number), 1 << 22, 5)
    journals.limit(USER)
    assert len(journals.found()) == MOST


@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_a_folder_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "changes"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(PermissionError, match="only this user"):
        ChangeJournalFiles(folder).open()


def test_in_memory_it_ends_with_us() -> None:
    journal = ChangeJournalFiles().make(USER, 7)
    write(journal, 1 << 22, 5)
    assert not journal.is_empty
    journal.remove()
    assert ChangeJournalFiles().found() == []
