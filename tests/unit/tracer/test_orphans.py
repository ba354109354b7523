"""Breakpoints of a killed tracer are taken out where they are, and nothing else is written to."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dprobed.change_journal import Change, Kind, SiteChange
from dprobed.tracer.orphans import restore

BEFORE, ORIGINAL, BEHIND = b"before", b"\x55", b"behind"
AT = 64


@pytest.fixture
def page(tmp_path: Path) -> Iterator[mmap.mmap]:
    """A page of a file that has, by chance, what is there with a breakpoint."""
    path = tmp_path / "text"
    path.write_bytes((b"\0" * AT + BEFORE + b"\xcc" + BEHIND).ljust(mmap.PAGESIZE, b"\0"))
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), mmap.PAGESIZE, access=mmap.ACCESS_COPY)
        yield mapped
        mapped.close()


def change(page: mmap.mmap) -> Change:
    """As a tracer has noted it."""
    anchor = ctypes.c_char.from_buffer(page, AT + len(BEFORE))
    site = SiteChange(ctypes.addressof(anchor), ORIGINAL, BEFORE, BEHIND)
    del anchor
    return Change(Kind.SITE, os.getpid(), 1, 0, site.pack())


def undo(page: mmap.mmap) -> int:
    """In this process; how many breakpoints there were."""
    return restore(os.getpid(), [change(page)], set())


def test_what_was_written_there_is_undone(page: mmap.mmap) -> None:
    """The page is a copy since then."""
    page[0] = 1
    assert undo(page) == 1
    assert page[AT : AT + 13] == BEFORE + ORIGINAL + BEHIND


def test_a_page_of_a_file_has_no_breakpoint(page: mmap.mmap) -> None:
    """It is not even read: whose file that is may let us wait without end."""
    assert page[AT + 6] == 0xCC  # It is there.
    assert undo(page) == 0
    assert page[AT + 6] == 0xCC


def test_a_page_that_is_not_there_is_not_asked_for(page: mmap.mmap) -> None:
    assert undo(page) == 0
    assert page[AT + 6] == 0xCC


def test_another_text_is_left_alone(page: mmap.mmap) -> None:
    page[AT] ^= 1
    assert undo(page) == 0


@pytest.mark.parametrize("has_breakpoint", [True, False])
def test_a_child_that_was_forked_before_has_its_semaphores_down(
    page: mmap.mmap, has_breakpoint: bool
) -> None:
    """Only where breakpoints are there, too: else the tracer has cleaned the child."""
    page[0] = 1
    with mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE) as data:
        data[8:10] = (3).to_bytes(2, "little")
        anchor = ctypes.c_char.from_buffer(data, 8)
        raised = (2).to_bytes(2, "little")
        semaphore = Change(
            Kind.SEMAPHORE, os.getpid(), 1, ctypes.addressof(anchor), raised.ljust(8, b"\0")
        )
        del anchor
        if not has_breakpoint:
            page[AT + 6] = ORIGINAL[0]
        (go, gone), (said, says) = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            os.close(gone)
            os.read(go, 1)
            os.write(says, bytes(page[AT : AT + 13]) + data[8:10])
            os._exit(0)
        try:
            found = restore(os.getpid(), [change(page), semaphore], set())
        finally:
            for end in (go, gone, says):
                os.close(end)
            there = os.read(said, 100)
            os.close(said)
            os.waitpid(child, 0)
        assert found == 2 * has_breakpoint
        assert there[:13] == BEFORE + ORIGINAL + BEHIND
        assert int.from_bytes(there[13:], "little") == (2 if has_breakpoint else 3)
        assert data[8:10] == (3).to_bytes(2, "little")
