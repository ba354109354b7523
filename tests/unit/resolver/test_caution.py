"""When a resolver, and a file, is asked about again after there was no answer."""

from __future__ import annotations

import pytest

from dprobed.resolver.caution import PATIENCE, Caution
from dprobed.resolver.errors import LostError, SilenceError

FILE, OTHER = (1, 2, 3, 4, 5), (1, 3, 3, 4, 5)
DIED = LostError("a: the resolver ended", "the log says how")
UNREAD = LostError("a: the resolver ended", innocent=True)
SILENT = SilenceError("a: the resolver did not answer")


def test_a_file_of_which_a_resolver_has_died() -> None:
    caution = Caution()
    assert caution.patience(FILE, "a", 100.0) == PATIENCE
    assert not caution.failed(FILE, DIED, 101.0, 112.0)
    with pytest.raises(LostError, match="a: the resolver ended") as refused:
        caution.patience(FILE, "a", 160.9)
    assert refused.value.hint == "the log says how"
    assert caution.remembers(160.9)
    # Others are asked about, and this one after a while.
    assert caution.patience(OTHER, "b", 102.0) == PATIENCE
    assert caution.patience(FILE, "a", 161.1) == PATIENCE
    assert not caution.remembers(161.1)


def test_what_was_not_read_is_asked_again() -> None:
    caution = Caution()
    end = 100.0 + caution.patience(FILE, "a", 100.0)
    assert caution.failed(FILE, UNREAD, 101.0, end)
    assert caution.patience(FILE, "a", 101.0) == PATIENCE
    # Not for ever.
    assert not caution.failed(FILE, UNREAD, end, end)
    with pytest.raises(LostError):
        caution.patience(FILE, "a", end)


def test_silence_is_waited_for_once_then_tried_for_a_moment() -> None:
    caution = Caution()
    end = 100.0 + caution.patience(FILE, "a", 100.0)
    assert not caution.failed(FILE, SILENT, end, end)
    with pytest.raises(SilenceError, match="b: the resolver does not answer"):
        caution.patience(OTHER, "b", end + 9.9)
    assert caution.patience(OTHER, "b", end + 10.1) == 1.0
    assert not caution.failed(OTHER, SILENT, end + 11.1, end + 11.1)
    # That one may not have been what it is at.
    later = end + 22.0
    assert caution.patience(OTHER, "b", later) == 1.0
    with pytest.raises(LostError, match="did not answer"):
        caution.patience(FILE, "a", later)
    caution.answered()
    assert caution.patience(OTHER, "b", later) == PATIENCE


def test_who_wants_the_answer_no_longer_learns_nothing() -> None:
    caution = Caution()
    end = 100.0 + caution.patience(FILE, "a", 100.0)
    assert not caution.failed(FILE, SILENT, 101.0, end)
    assert caution.patience(FILE, "a", 101.0) == PATIENCE


def test_few_files_are_remembered() -> None:
    caution = Caution()
    for inode in range(2000):
        caution.failed((1, inode, 3, 4, 5), DIED, 100.0, 112.0)
    assert caution.patience((1, 0, 3, 4, 5), "a", 100.0) == PATIENCE
    with pytest.raises(LostError):
        caution.patience((1, 1999, 3, 4, 5), "a", 100.0)
