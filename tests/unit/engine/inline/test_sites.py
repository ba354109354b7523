"""Jump sites in memory, here our own, which is like that of a target."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from dprobed.arch.x86_64.jump import JUMP_SIZE, far_jump, jump, target_of, windows
from dprobed.arch.x86_64.paging import PAGE
from dprobed.arch.x86_64.placeable import ABORTS
from dprobed.arch.x86_64.relocation import displace
from dprobed.change_journal import Change, ChangeJournal, Changes, Kind, read
from dprobed.engine.address_space import AddressSpace
from dprobed.engine.errors import SpaceError
from dprobed.engine.inline.breakpoints import NativeSites
from dprobed.engine.inline.copies import undo_in_copy
from dprobed.engine.inline.engine import InlineEngine
from dprobed.engine.inline.puns import Pun
from dprobed.engine.inline.room import InlineRoom
from dprobed.engine.inline.sites import JumpSite, JumpSites, JumpTrampoline, Trampolines
from dprobed.engine.interface import Listener
from dprobed.tracee.memory import Memory
from dprobed.tracee.ptrace import Registers
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup

TEXT = bytes.fromhex("0f1f440000 90 0f1f00 cccccccccccccccc")
NOWHERE = cast(JumpTrampoline, None)
NO_BREAKPOINTS = cast(
    NativeSites,
    SimpleNamespace(
        displaces=lambda *_: False, original=lambda *_: None, overwritten=lambda _: set()
    ),
)


class Place:
    """Pages of ours with code, and a journal of what is changed there."""

    def __init__(self, path: Path) -> None:
        self.pages = mmap.mmap(-1, 2 * PAGE)  # shared: what cannot be written by itself, cannot be
        self._view = ctypes.c_char.from_buffer(self.pages)
        self.start = ctypes.addressof(self._view)
        self.address = self.start + 64
        self.pages[64 : 64 + len(TEXT)] = TEXT
        self.journal = os.open(path / "changes", os.O_RDWR | os.O_CREAT)
        changes = Changes(ChangeJournal(self.journal, 1, 1), 2, 2)
        self.space = AddressSpace(os.getpid(), Memory(os.getpid()), changes=changes)
        self.sites = JumpSites(self.space)
        self.sites.pages.adopt(self.area, PAGE.to_bytes(8, "little"))

    @property
    def area(self) -> int:
        """Where our code would be."""
        return self.start + (1 << 20)

    def text(self, length: int = len(TEXT)) -> bytes:
        """What is there now."""
        return self.pages[64 : 64 + length]

    def noted(self) -> list[Change]:
        """What a tracer that comes after us would find."""
        return [change for _, change in read(self.journal) if change.kind is Kind.JUMP]

    def site(self, length: int = JUMP_SIZE, offset: int = 0) -> JumpSite:
        """A site of an instruction."""
        return JumpSite(self.address + offset, TEXT[offset : offset + length])

    def protect(self, rights: int) -> None:
        """Say what may be done with the pages."""
        libc = ctypes.CDLL(None)
        assert libc.mprotect(ctypes.c_void_p(self.start), 2 * PAGE, rights) == 0

    def close(self) -> None:
        self.protect(mmap.PROT_READ | mmap.PROT_WRITE)
        self.space.memory.close()
        os.close(self.journal)
        del self._view
        self.pages.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


def test_where_a_jump_leads_to() -> None:
    for target in (0x1000, 0x7FFF_0000, 0x4000_1234):
        assert target_of(jump(0x4000_0000, target), 0x4000_0000) == target
        assert target_of(far_jump(0x4000_0000, target), 0x4000_0000) == target
    code = b"\x90\x90\x90" + bytes(8)
    for window in windows(code, 0x4000_0000, 3):
        whole = window.bytes_for(window.end - 1, 0x4000_0000) + code[3:]
        assert target_of(whole, 0x4000_0000) == window.end - 1
    for no_jump in (b"", b"\xe9\0\0\0", b"\x26\x26", TEXT):
        assert target_of(no_jump, 0x4000_0000) is None


def test_a_later_jump_needs_no_other_note(place: Place) -> None:
    """So that there is no moment without, and a full disk keeps nobody from it."""
    site = place.site()
    assert place.sites.arm(site, jump(site.address, place.area), NOWHERE)
    (noted,) = place.noted()
    full = os.open("/dev/full", os.O_RDWR)
    kept = os.dup(place.journal)
    os.dup2(full, place.journal)
    later = jump(site.address, place.area + 64)
    assert place.sites.arm(site, later, NOWHERE)
    os.dup2(kept, place.journal)
    os.close(full)
    os.close(kept)
    assert place.noted() == [noted]
    assert place.text(JUMP_SIZE) == later
    assert place.sites.disarm(site)
    assert (place.text(), place.noted()) == (TEXT, [])


@pytest.mark.parametrize("offset", [0, 64, 1000])
def test_what_a_killed_tracer_wrote_last_is_taken_out(place: Place, offset: int) -> None:
    """Also where it is not the jump that it noted first."""
    site = place.site()
    place.sites.arm(site, jump(site.address, place.area), NOWHERE)
    place.sites.arm(site, jump(site.address, place.area + offset), NOWHERE)
    (noted,) = place.noted()
    place.sites.adopt(noted)
    assert place.sites.disarm(place.sites.by_address[site.address])
    assert place.text() == TEXT


def test_a_jump_that_is_not_to_our_code_is_not_taken_out(place: Place) -> None:
    site = place.site()
    place.sites.arm(site, jump(site.address, place.area), NOWHERE)
    (noted,) = place.noted()
    others = jump(site.address, place.area + 16 * PAGE)
    place.pages[64 : 64 + JUMP_SIZE] = others
    place.sites.adopt(noted)
    assert place.sites.disarm(place.sites.by_address[site.address])
    assert place.text(JUMP_SIZE) == others


def punned(place: Place) -> JumpSite:
    site = place.site(1, offset=5)
    site.pun = Pun(target_of(b"\xe9" + TEXT[6:10], site.address) or 0, b"\xe9", TEXT[6:10])
    return site


def test_of_a_punned_jump_the_bytes_behind_are_looked_at(place: Place) -> None:
    site = punned(place)
    assert place.sites.arm(site, b"\xe9", NOWHERE)
    assert place.sites.is_present(site)
    other = bytearray(TEXT)
    other[5], other[8] = 0xE9, 0x77  # other code, which happens to begin in the same way
    place.pages[64 : 64 + len(TEXT)] = bytes(other)
    assert not place.sites.is_present(site)
    assert place.sites.disarm(site)
    assert place.text() == other


def test_a_punned_jump_is_not_written_before_other_bytes(place: Place) -> None:
    site = punned(place)
    place.pages[64 + 8] = 0x77
    assert not place.sites.arm(site, b"\xe9", NOWHERE)
    assert (place.text()[5], place.noted()) == (TEXT[5], [])


def test_what_cannot_be_written_changes_nothing(place: Place) -> None:
    site = place.site()
    place.protect(mmap.PROT_READ)
    assert not place.sites.arm(site, jump(site.address, place.area), NOWHERE)
    assert (site.jump, place.text(), place.noted()) == (b"", TEXT, [])


def test_what_cannot_be_taken_out_stays_noted_and_is_tried_again(place: Place) -> None:
    site = place.site()
    written = jump(site.address, place.area)
    place.sites.by_address[site.address] = site
    place.sites.arm(site, written, NOWHERE)
    place.protect(mmap.PROT_READ)
    assert not place.sites.disarm(site)
    assert (place.text(JUMP_SIZE), len(place.noted())) == (written, 1)
    place.protect(mmap.PROT_READ | mmap.PROT_WRITE)
    assert place.sites.disarm(site)
    assert (place.text(), place.noted()) == (TEXT, [])


class Told:
    """A listener."""

    def __init__(self) -> None:
        self.unremoved_: list[str] = []

    def __getattr__(self, name: str) -> object:
        return None

    def unremoved(self, what: str) -> None:
        self.unremoved_.append(what)


def test_it_is_told_once_and_what_the_jump_leads_to_stays(place: Place) -> None:
    engine = inline(place)
    told = cast(Told, engine._listener)
    sites = engine.placer.sites
    sites.pages.adopt(place.area, PAGE.to_bytes(8, "little"))
    site = place.site()
    sites.by_address[site.address] = site
    sites.arm(site, jump(site.address, place.area), NOWHERE)
    place.protect(mmap.PROT_READ)
    engine.disarm_all([])
    engine.disarm_all([])
    (text,) = told.unremoved_
    assert f"{site.address:#x} cannot be written" in text
    engine.unmap(cast(Thread, None))  # which nobody is asked to do
    assert engine.pages() == [(place.area, place.area + PAGE)]
    place.protect(mmap.PROT_READ | mmap.PROT_WRITE)
    engine.disarm_all([])
    assert place.text() == TEXT


def inline(place: Place) -> InlineEngine:
    group = cast(ThreadGroup, SimpleNamespace(threads={}))
    engine = InlineEngine(group, cast(Listener, Told()), Registers(), NO_BREAKPOINTS)
    engine.use(place.space)
    return engine


def test_other_code_at_the_same_place_is_looked_through_again(place: Place) -> None:
    """A library may be loaded where another one was; each insertion looks anew."""
    engine = inline(place)
    assert engine.placer.why_unfit(place.address) == ""
    place.pages[256 : 256 + len(ABORTS)] = ABORTS
    engine.abandon_reserved()
    assert "rseq" in engine.placer.why_unfit(place.address)
    place.pages[256 : 256 + len(ABORTS)] = bytes(len(ABORTS))
    engine.abandon_reserved()
    assert engine.placer.why_unfit(place.address) == ""


def test_an_instruction_without_a_jump_is_told_with_its_bytes(place: Place) -> None:
    told = inline(place).placer.why_no_pun(place.site(3, offset=6))
    assert told.startswith(f"the instruction at {place.address + 6:#x} (0f 1f 00) has 3 bytes, ")


def test_a_child_in_which_it_stays_is_not_let_go(place: Place) -> None:
    room = InlineRoom(place.space, cast(ThreadGroup, None), NO_BREAKPOINTS)
    site = place.site()
    room.sites.by_address[site.address] = site
    room.sites.arm(site, jump(site.address, place.area), NOWHERE)
    thread = cast(Thread, SimpleNamespace(tid=os.getpid()))
    place.protect(mmap.PROT_READ)
    with pytest.raises(SpaceError, match="cannot be written"):
        undo_in_copy(room, thread, unmap=False)
    place.protect(mmap.PROT_READ | mmap.PROT_WRITE)
    undo_in_copy(room, thread, unmap=False)
    assert place.text() == TEXT


def test_each_trampoline_is_found_by_any_address_in_it() -> None:
    """In whatever order they were made; between them there is nothing."""
    displaced = displace(b"\x90", 0, 0)
    known = Trampolines()
    for start in (0x5000, 0x1000, 0x3000, 0x2000):
        known.add(JumpSite(start, b"\x90"), JumpTrampoline(start, start, start + 0x80, displaced))
    for start in (0x1000, 0x2000, 0x3000, 0x5000):
        for inside in (start, start + 0x7F):
            found = known.at(inside)
            assert found is not None and found[0].address == found[1].start == start
        assert known.at(start - 1) is known.at(start + 0x80) is None
    assert [site.address for site, _ in known] == [0x5000, 0x1000, 0x3000, 0x2000]
    known.clear()
    assert known.at(0x1000) is None
