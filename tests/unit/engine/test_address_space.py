"""An address space: gaps, slots, sites and original text, in a real child's memory."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from msgspec.structs import replace

from dprobed.arch.x86_64.breakpoint import INT3
from dprobed.arch.x86_64.guard_code import ENTRY, FREE_ENTRY, TABLE, entry, image
from dprobed.arch.x86_64.paging import PAGE
from dprobed.arch.x86_64.relocation import MAX_SLOT as SLOT
from dprobed.arch.x86_64.relocation import Where
from dprobed.engine import remote_calls
from dprobed.engine.address_space import AddressSpace
from dprobed.engine.errors import SpaceError
from dprobed.engine.resident_area import MARK, SlotPages, gaps
from dprobed.engine.trap import copies
from dprobed.engine.trap.sites import Sites
from dprobed.proc import procfs
from dprobed.proc.maps import lines as parsed
from dprobed.tracee.lifecycle import State
from dprobed.tracee.memory import Memory
from dprobed.tracee.ptrace import Gone
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup

GIB = 1 << 30
#: A world is only asked where a child has to be borrowed.
NOBODY_BORROWED = cast(ThreadGroup, None)
#: push rbp; mov rbp,rsp; mov eax,1; pop rbp; ret; then int3 as padding
CODE = bytes.fromhex("55 48 89 e5 b8 01 00 00 00 5d c3") + INT3 * 16


class Child:
    """A process that shares nothing with us but what it was forked with, and waits."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, 4 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._map[: len(CODE)] = CODE
        anchor = ctypes.c_char.from_buffer(self._map)
        self.code = ctypes.addressof(anchor)
        self.slots = self.code + PAGE
        del anchor
        ours, theirs = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(theirs)
            os.read(ours, 1)
            os._exit(0)
        os.close(ours)
        self.hold = theirs

    def end(self) -> None:
        """End it."""
        os.close(self.hold)
        os.waitpid(self.pid, 0)
        self._map.close()


@pytest.fixture
def child() -> Iterator[Child]:
    made = Child()
    yield made
    made.end()


@pytest.fixture
def sites(child: Child) -> Iterator[Sites]:
    space = AddressSpace(child.pid, Memory(child.pid))
    space.resident.areas.append(SlotPages(child.slots, PAGE))
    yield Sites(space)
    space.close()


def maps(monkeypatch: pytest.MonkeyPatch, *ranges: tuple[int, int, str]) -> None:
    """Give every process these mappings."""
    lines = [f"{low:x}-{high:x} r-xp 00000000 00:00 0 {name}\n" for low, high, name in ranges]
    found = parsed("".join(lines).encode())
    monkeypatch.setattr(remote_calls, "mappings", lambda tid: found)


def check_gaps(found: list[int], low: int, size: int, taken: list[tuple[int, int]]) -> None:
    assert found
    for start in found:
        assert start % PAGE == 0
        assert abs(start - low) < 2 * GIB
        assert abs(start + size - low) < 2 * GIB
        assert all(start + size <= a or b <= start for a, b in taken)
    distances = [abs(start - low) for start in found]
    assert distances == sorted(distances) or len(found) == len(set(found))


def test_a_gap_between_two_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    low = 0x7F00_0000_0000
    taken = [(low, low + 64 * PAGE), (low + GIB, low + GIB + 64 * PAGE)]
    maps(monkeypatch, *((a, b, "/lib/x.so") for a, b in taken))
    found = gaps(1, low, low + PAGE, 2 * PAGE)
    check_gaps(found, low, 2 * PAGE, taken)
    # at the upper end of a gap, away from what grows up
    assert any(taken[1][0] - GIB // 2 < start < taken[1][0] for start in found)


def test_no_gap_where_everything_near_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    low = 0x7F00_0000_0000
    maps(monkeypatch, (low - 3 * GIB, low + 3 * GIB, "/huge"))
    assert gaps(1, low, low, PAGE) == []


def test_a_gap_too_small_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    low = 0x7F00_0000_0000
    hole = (low + GIB, low + GIB + 8 * PAGE)
    maps(monkeypatch, (low - 3 * GIB, hole[0], "/a"), (hole[1], low + 3 * GIB, "/b"))
    assert gaps(1, low, low, PAGE) == []


def test_the_stack_has_room_to_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    low = 0x7FFF_0000_0000
    stack = (low + GIB, low + GIB + 32 * PAGE)
    taken = [(low - 3 * GIB, low + 16 * PAGE), stack]
    maps(monkeypatch, (*taken[0], "/lib/x.so"), (*stack, "[stack]"), (stack[1], 1 << 47, "/top"))
    found = gaps(1, low, low, PAGE)
    check_gaps(found, low, PAGE, taken)
    assert all(stack[0] - start > 32 << 20 for start in found)


def test_nothing_below_the_first_megabyte(monkeypatch: pytest.MonkeyPatch) -> None:
    low = 0x40_0000
    maps(monkeypatch, (low, low + 16 * PAGE, "/bin/static"))
    found = gaps(1, low, low, PAGE)
    check_gaps(found, low, PAGE, [(low, low + 16 * PAGE)])
    assert all(start >= 1 << 20 for start in found)


def test_a_process_that_is_gone() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    with pytest.raises(Gone):
        gaps(pid, 0x40_0000, 0x40_0000, PAGE)
    with pytest.raises(OSError, match="No such"):
        Memory(pid)


def test_original_text_is_shown(child: Child, sites: Sites) -> None:
    for offset in (0, 1, 4):
        assert sites.arm(sites.make(child.code + offset))
    raw = sites.space.memory.peek(child.code, len(CODE))
    assert [raw[offset] for offset in (0, 1, 4)] == [0xCC] * 3
    assert sites.text(child.code, len(CODE)) == CODE
    assert sites.text(child.code + 1, 3) == CODE[1:4]


def test_disarmed_text_is_what_it_was(child: Child, sites: Sites) -> None:
    two = [sites.make(child.code + offset) for offset in (0, 1)]
    for site in two:
        assert sites.arm(site)
    for site in two:
        sites.disarm(site)
    sites.free(two)
    assert sites.space.memory.peek(child.code, len(CODE)) == CODE
    assert sites.by_trap == {}
    assert sites.all() == []


def test_the_guard_knows_the_sites_that_are_in(child: Child, sites: Sites) -> None:
    """Whatever places of its table became free in between; the others stay where they are."""
    table = child.slots + PAGE
    assert sites.space.memory.poke(table, image(table))
    sites.guard.adopt(table, PAGE)

    def known() -> dict[bytes, int]:
        found = sites.space.memory.peek(table + TABLE, 8 * ENTRY)
        places = [found[at : at + ENTRY] for at in range(0, len(found), ENTRY)]
        return {each: at for at, each in enumerate(places) if any(each) and each != FREE_ENTRY}

    sites.guard.add((trap, trap + 100) for trap in range(1, 7))
    before = known()
    assert before.keys() == {entry(trap, trap + 100) for trap in range(1, 7)}
    sites.guard.remove([2, 5, 9])
    assert known() == {each: at for each, at in before.items() if at not in (1, 4)}
    sites.guard.add([(3, 103), (8, 108), (7, 107), (9, 109)])
    after = known()
    assert after.keys() == {entry(trap, trap + 100) for trap in (1, 3, 4, 6, 7, 8, 9)}
    assert all(after[each] == at for each, at in before.items() if each in after)


def test_one_site_an_address_armed_or_not(child: Child, sites: Sites) -> None:
    site = sites.make(child.code)
    assert sites.make(child.code) is site
    sites.arm(site)
    assert sites.make(child.code) is site
    assert len(sites.all()) == 1


def test_an_unarmed_site_frees_its_slot(child: Child, sites: Sites) -> None:
    room = len(sites.space.resident.areas[0].free)
    kept = sites.make(child.code)
    sites.make(child.code + 1)
    sites.arm(kept)
    sites.discard_unarmed()
    assert sites.all() == [kept]
    assert len(sites.space.resident.areas[0].free) == room - 1


def test_code_that_changed_is_not_patched(child: Child, sites: Sites) -> None:
    site = sites.make(child.code)
    sites.space.memory.poke(child.code, b"\x90")
    assert not sites.arm(site)
    assert sites.space.memory.peek(child.code, 1) == b"\x90"
    assert sites.by_trap == {}


def test_code_that_the_target_changed_is_not_restored(child: Child, sites: Sites) -> None:
    site = sites.make(child.code)
    sites.arm(site)
    sites.space.memory.poke(child.code, b"\x90")
    sites.disarm(site)
    assert sites.space.memory.peek(child.code, 1) == b"\x90"


def test_an_unmapped_module_is_not_written_to(child: Child, sites: Sites) -> None:
    site = sites.make(child.code)
    sites.arm(site)
    site.gone = True
    sites.space.memory.poke(child.code, INT3 * len(CODE))
    sites.disarm(site)
    assert sites.space.memory.peek(child.code, len(CODE)) == INT3 * len(CODE)


def test_text_without_a_file_is_restored(child: Child, sites: Sites) -> None:
    site = sites.make(child.code)
    sites.arm(site)
    site.gone = True
    sites.disarm(site)
    assert sites.space.memory.peek(child.code, len(CODE)) == CODE


def test_what_fills_the_memory_of_another_program_is_not_touched(
    child: Child, sites: Sites
) -> None:
    site = sites.make(child.code)
    sites.arm(site)
    sites.space.memory.poke(child.code, INT3 * len(CODE))
    assert not sites.is_present(site)
    assert not sites.arm(site)
    sites.disarm(site)
    assert sites.space.memory.peek(child.code, len(CODE)) == INT3 * len(CODE)


def test_code_that_was_patched_close_by_is_restored(sites: Sites) -> None:
    """In memory of a file, which nothing but this code can be."""
    with Path(sys.executable).open("rb") as file:
        mapped = mmap.mmap(
            file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
        )
    mapped[: len(CODE)] = CODE
    anchor = ctypes.c_char.from_buffer(mapped)
    code = ctypes.addressof(anchor)
    copy = Child()
    other = Sites(AddressSpace(copy.pid, Memory(copy.pid)))
    other.space.resident.areas.append(SlotPages(copy.slots, PAGE))
    try:
        site = other.make(code)
        other.arm(site)
        other.space.memory.poke(code + 1, b"\x90\x90\x90")
        assert other.is_present(site)
        other.disarm(site)
        assert other.space.memory.peek(code, 4) == CODE[:1] + b"\x90\x90\x90"
    finally:
        other.space.close()
        copy.end()
        del anchor
        mapped.close()


def test_a_breakpoint_that_vanished_is_written_again(child: Child, sites: Sites) -> None:
    site = sites.make(child.code)
    sites.arm(site)
    sites.space.memory.poke(child.code, CODE)
    assert not sites.is_present(site)
    assert sites.arm(sites.make(child.code))
    assert sites.is_present(site)


def test_nothing_is_put_into_an_area_that_is_not_ours_any_more(child: Child, sites: Sites) -> None:
    for mark in sites.space.resident.areas[0].marks():
        sites.space.memory.poke(mark, MARK)
    assert sites.space.resident.whole() == sites.space.resident.areas
    sites.make(child.code)
    sites.space.memory.poke(child.slots, bytes(PAGE))
    assert sites.space.resident.whole() == []
    sites.space.resident.unmap(
        NOBODY_BORROWED, Thread(child.pid, child.pid, State.STOPPED, NOBODY_BORROWED)
    )
    assert sites.space.memory.peek(child.slots, PAGE) == bytes(PAGE)


def test_where_no_site_can_be(child: Child, sites: Sites) -> None:
    with pytest.raises(SpaceError, match="another debugger"):
        sites.make(child.code + len(CODE) - 1)
    with pytest.raises(SpaceError, match="no memory is mapped"):
        sites.make(1 << 20)
    assert sites.all() == []
    assert len(sites.space.resident.areas[0].free) == PAGE // SLOT - 1


def test_a_full_area(child: Child, sites: Sites) -> None:
    sites.space.memory.poke(child.code, b"\x90" * PAGE)
    for offset in range(PAGE // SLOT - 1):
        sites.make(child.code + offset)
    with pytest.raises(SpaceError, match="no slot is free"):
        sites.make(child.code + PAGE // SLOT - 1)


def test_an_area_out_of_reach(child: Child, sites: Sites) -> None:
    sites.space.resident.areas[:] = [SlotPages(child.code + 3 * GIB, PAGE)]
    with pytest.raises(SpaceError, match="no slot is free within 2 GiB"):
        sites.make(child.code)


def test_which_slot_a_thread_is_in(child: Child, sites: Sites) -> None:
    site = sites.make(child.code + 1)
    assert sites.slot_at(site.slot) == (site, 0)
    assert sites.slot_at(site.slot + 3) == (site, 3)
    assert sites.slot_at(child.code) is None
    assert sites.slot_at(site.slot + SLOT) is None  # an empty slot
    assert site.position(0).where is Where.BEFORE
    assert site.position(3).where is Where.AFTER
    assert site.position(3).address == child.code + 4


def test_changes_in_a_fork_child_are_undone(child: Child, sites: Sites) -> None:
    """Also a site that was removed while a thread could not be stopped."""
    armed, removed = (sites.make(child.code + offset) for offset in (0, 1))
    for site in (armed, removed):
        sites.arm(site)
    raw = sites.space.memory.peek(child.code, len(CODE))
    sites.disarm(removed)
    copy = Child()
    try:
        memory = Memory(copy.pid)
        memory.poke(child.code, raw)
        thread = Thread(copy.pid, copy.pid, State.STOPPED, NOBODY_BORROWED)
        copies.undone(sites, NOBODY_BORROWED, thread).space.close()
        assert memory.peek(child.code, len(CODE)) == CODE
        memory.close()
    finally:
        copy.end()
    assert sites.space.memory.peek(child.code, 1) == INT3


def test_a_call_under_a_shadow_stack_is_refused(
    child: Child, sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No machine of ours has one: what /proc says is made up."""
    sites.space.memory.poke(child.code, b"\xe8\x00\x00\x00\x00")
    found = procfs.status(child.pid)
    assert found is not None
    told = replace(found, shadow_stack=True)
    monkeypatch.setattr(procfs, "status", lambda pid: told)
    with pytest.raises(SpaceError, match="has a hardware shadow stack"):
        sites.make(child.code)
    sites.make(child.code + 9)
    monkeypatch.undo()
    sites.make(child.code)


def test_no_copy_of_a_child_that_is_gone(sites: Sites) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(OSError):
        copies.undone(sites, NOBODY_BORROWED, Thread(pid, pid, State.STOPPED, NOBODY_BORROWED))


def test_areas_of_a_process_that_executes_another_program_are_not_judged(
    child: Child, sites: Sites
) -> None:
    """Its memory is gone a moment before we are told."""
    for mark in sites.space.resident.areas[0].marks():
        sites.space.memory.poke(mark, MARK)
    assert not sites.space.memory.is_gone()
    os.write(child.hold, b"\n")
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert sites.space.memory.is_gone()
    assert sites.space.resident.whole() == sites.space.resident.areas


def test_a_site_of_the_memory_before_exec_is_not_armed(child: Child, sites: Sites) -> None:
    """The same program again may be at the same addresses."""
    site = sites.make(child.code)
    after = Sites(AddressSpace(child.pid, Memory(child.pid)))
    assert not after.arm(site)
    after.space.close()
    assert sites.space.memory.peek(child.code, len(CODE)) == CODE
