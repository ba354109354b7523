"""An address space: gaps, slots, and text as it is without us, in a real child's memory."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from dprobed.arch.x86_64.relocation import Where
from dprobed.engine import address_space as space_module
from dprobed.engine.address_space import INT3, MARK, SLOT, AddressSpace, Area, SpaceError
from dprobed.proc import procfs
from dprobed.proc.maps import lines as parsed
from dprobed.tracee.lifecycle import State
from dprobed.tracee.memory import PAGE, Memory
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
        """Let it go."""
        os.close(self.hold)
        os.waitpid(self.pid, 0)
        self._map.close()


@pytest.fixture
def child() -> Iterator[Child]:
    made = Child()
    yield made
    made.end()


@pytest.fixture
def space(child: Child) -> Iterator[AddressSpace]:
    made = AddressSpace(child.pid, Memory(child.pid))
    made.areas.append(Area(child.slots, PAGE))
    yield made
    made.close()


def maps(monkeypatch: pytest.MonkeyPatch, *ranges: tuple[int, int, str]) -> None:
    """Give every process these mappings."""
    lines = [f"{low:x}-{high:x} r-xp 00000000 00:00 0 {name}\n" for low, high, name in ranges]
    found = parsed("".join(lines).encode())
    monkeypatch.setattr(space_module, "_maps", lambda tid: found)


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
    found = AddressSpace._gaps(1, low, low + PAGE, 2 * PAGE)
    check_gaps(found, low, 2 * PAGE, taken)
    # at the upper end of a gap, away from what grows up
    assert any(taken[1][0] - GIB // 2 < start < taken[1][0] for start in found)


def test_no_gap_where_everything_near_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    low = 0x7F00_0000_0000
    maps(monkeypatch, (low - 3 * GIB, low + 3 * GIB, "/huge"))
    assert AddressSpace._gaps(1, low, low, PAGE) == []


def test_a_gap_too_small_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    low = 0x7F00_0000_0000
    hole = (low + GIB, low + GIB + 8 * PAGE)
    maps(monkeypatch, (low - 3 * GIB, hole[0], "/a"), (hole[1], low + 3 * GIB, "/b"))
    assert AddressSpace._gaps(1, low, low, PAGE) == []


def test_the_stack_has_room_to_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    low = 0x7FFF_0000_0000
    stack = (low + GIB, low + GIB + 32 * PAGE)
    taken = [(low - 3 * GIB, low + 16 * PAGE), stack]
    maps(monkeypatch, (*taken[0], "/lib/x.so"), (*stack, "[stack]"), (stack[1], 1 << 47, "/top"))
    found = AddressSpace._gaps(1, low, low, PAGE)
    check_gaps(found, low, PAGE, taken)
    assert all(stack[0] - start > 32 << 20 for start in found)


def test_nothing_below_the_first_megabyte(monkeypatch: pytest.MonkeyPatch) -> None:
    low = 0x40_0000
    maps(monkeypatch, (low, low + 16 * PAGE, "/bin/static"))
    found = AddressSpace._gaps(1, low, low, PAGE)
    check_gaps(found, low, PAGE, [(low, low + 16 * PAGE)])
    assert all(start >= 1 << 20 for start in found)


def test_a_process_that_is_gone() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    with pytest.raises(Gone):
        AddressSpace._gaps(pid, 0x40_0000, 0x40_0000, PAGE)
    with pytest.raises(OSError, match="No such"):
        Memory(pid)


def test_text_is_shown_as_it_is_without_us(child: Child, space: AddressSpace) -> None:
    for offset in (0, 1, 4):
        assert space.arm(space.make_site(child.code + offset))
    raw = space.memory.peek(child.code, len(CODE))
    assert [raw[offset] for offset in (0, 1, 4)] == [0xCC] * 3
    assert space.text(child.code, len(CODE)) == CODE
    assert space.text(child.code + 1, 3) == CODE[1:4]


def test_disarmed_text_is_what_it_was(child: Child, space: AddressSpace) -> None:
    sites = [space.make_site(child.code + offset) for offset in (0, 1)]
    for site in sites:
        assert space.arm(site)
    for site in sites:
        space.disarm(site)
        space.free(site)
    assert space.memory.peek(child.code, len(CODE)) == CODE
    assert space.by_trap == {}
    assert space.sites() == []


def test_one_site_an_address_armed_or_not(child: Child, space: AddressSpace) -> None:
    site = space.make_site(child.code)
    assert space.make_site(child.code) is site
    space.arm(site)
    assert space.make_site(child.code) is site
    assert len(space.sites()) == 1


def test_what_was_not_armed_gives_its_slot_back(child: Child, space: AddressSpace) -> None:
    room = len(space.areas[0].free)
    kept = space.make_site(child.code)
    space.make_site(child.code + 1)
    space.arm(kept)
    space.discard_unarmed()
    assert space.sites() == [kept]
    assert len(space.areas[0].free) == room - 1


def test_code_that_changed_is_not_patched(child: Child, space: AddressSpace) -> None:
    site = space.make_site(child.code)
    space.memory.poke(child.code, b"\x90")
    assert not space.arm(site)
    assert space.memory.peek(child.code, 1) == b"\x90"
    assert space.by_trap == {}


def test_code_that_somebody_else_changed_is_not_put_back(child: Child, space: AddressSpace) -> None:
    site = space.make_site(child.code)
    space.arm(site)
    space.memory.poke(child.code, b"\x90")
    space.disarm(site)
    assert space.memory.peek(child.code, 1) == b"\x90"


def test_what_an_unmapped_module_leaves_is_not_touched(child: Child, space: AddressSpace) -> None:
    site = space.make_site(child.code)
    space.arm(site)
    site.gone = True
    space.memory.poke(child.code, INT3 * len(CODE))
    space.disarm(site)
    assert space.memory.peek(child.code, len(CODE)) == INT3 * len(CODE)


def test_text_that_is_of_no_file_any_more_is_put_right(child: Child, space: AddressSpace) -> None:
    site = space.make_site(child.code)
    space.arm(site)
    site.gone = True
    space.disarm(site)
    assert space.memory.peek(child.code, len(CODE)) == CODE


def test_what_fills_the_memory_of_another_program_is_not_touched(
    child: Child, space: AddressSpace
) -> None:
    site = space.make_site(child.code)
    space.arm(site)
    space.memory.poke(child.code, INT3 * len(CODE))
    assert not space.stands(site)
    assert not space.arm(site)
    space.disarm(site)
    assert space.memory.peek(child.code, len(CODE)) == INT3 * len(CODE)


def test_code_that_was_patched_close_by_is_put_right(space: AddressSpace) -> None:
    """In memory of a file, which nothing but this code can be."""
    with Path(sys.executable).open("rb") as file:
        mapped = mmap.mmap(
            file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
        )
    mapped[: len(CODE)] = CODE
    anchor = ctypes.c_char.from_buffer(mapped)
    code = ctypes.addressof(anchor)
    copy = Child()
    other = AddressSpace(copy.pid, Memory(copy.pid))
    other.areas.append(Area(copy.slots, PAGE))
    try:
        site = other.make_site(code)
        other.arm(site)
        other.memory.poke(code + 1, b"\x90\x90\x90")
        assert other.stands(site)
        other.disarm(site)
        assert other.memory.peek(code, 4) == CODE[:1] + b"\x90\x90\x90"
    finally:
        other.close()
        copy.end()
        del anchor
        mapped.close()


def test_a_breakpoint_that_vanished_is_written_again(child: Child, space: AddressSpace) -> None:
    site = space.make_site(child.code)
    space.arm(site)
    space.memory.poke(child.code, CODE)
    assert not space.stands(site)
    assert space.arm(space.make_site(child.code))
    assert space.stands(site)


def test_nothing_is_put_into_an_area_that_is_not_ours_any_more(
    child: Child, space: AddressSpace
) -> None:
    for mark in space.areas[0].marks():
        space.memory.poke(mark, MARK)
    assert space.whole_areas() == space.areas
    space.make_site(child.code)
    space.memory.poke(child.slots, bytes(PAGE))
    assert space.whole_areas() == []
    space.unmap_areas(NOBODY_BORROWED, Thread(child.pid, child.pid, State.STOPPED, NOBODY_BORROWED))
    assert space.memory.peek(child.slots, PAGE) == bytes(PAGE)


def test_where_no_site_can_be(child: Child, space: AddressSpace) -> None:
    with pytest.raises(SpaceError, match="another debugger"):
        space.make_site(child.code + len(CODE) - 1)
    with pytest.raises(SpaceError, match="no memory is mapped"):
        space.make_site(1 << 20)
    assert space.sites() == []
    assert len(space.areas[0].free) == PAGE // SLOT - 1


def test_a_full_area(child: Child, space: AddressSpace) -> None:
    space.memory.poke(child.code, b"\x90" * PAGE)
    for offset in range(PAGE // SLOT - 1):
        space.make_site(child.code + offset)
    with pytest.raises(SpaceError, match="no slot is free"):
        space.make_site(child.code + PAGE // SLOT - 1)


def test_an_area_out_of_reach(child: Child, space: AddressSpace) -> None:
    space.areas[:] = [Area(child.code + 3 * GIB, PAGE)]
    with pytest.raises(SpaceError, match="no slot is free within 2 GiB"):
        space.make_site(child.code)


def test_which_slot_a_thread_is_in(child: Child, space: AddressSpace) -> None:
    site = space.make_site(child.code + 1)
    assert space.slot_at(site.slot) == (site, 0)
    assert space.slot_at(site.slot + 3) == (site, 3)
    assert space.slot_at(child.code) is None
    assert space.slot_at(site.slot + SLOT) is None  # an empty slot
    assert site.position(0).where is Where.BEFORE
    assert site.position(3).where is Where.AFTER
    assert site.position(3).address == child.code + 4


def test_the_copy_of_a_forked_child_is_cleaned(child: Child, space: AddressSpace) -> None:
    """Also of a site that was taken out while a thread could not be stopped."""
    armed, removed = (space.make_site(child.code + offset) for offset in (0, 1))
    for site in (armed, removed):
        space.arm(site)
    raw = space.memory.peek(child.code, len(CODE))
    space.disarm(removed)
    copy = Child()
    try:
        memory = Memory(copy.pid)
        memory.poke(child.code, raw)
        space.undone_copy(
            NOBODY_BORROWED, Thread(copy.pid, copy.pid, State.STOPPED, NOBODY_BORROWED)
        ).close()
        assert memory.peek(child.code, len(CODE)) == CODE
        memory.close()
    finally:
        copy.end()
    assert space.memory.peek(child.code, 1) == INT3


def test_a_call_under_a_shadow_stack_is_refused(
    child: Child, space: AddressSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No machine of ours has one: what /proc says is made up."""
    space.memory.poke(child.code, b"\xe8\x00\x00\x00\x00")
    found = procfs.status(child.pid)
    assert found is not None
    told = replace(found, shadow_stack=True)
    monkeypatch.setattr(procfs, "status", lambda pid: told)
    with pytest.raises(SpaceError, match="has a hardware shadow stack"):
        space.make_site(child.code)
    space.make_site(child.code + 9)
    monkeypatch.undo()
    space.make_site(child.code)


def test_no_copy_of_a_child_that_is_gone(space: AddressSpace) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(OSError):
        space.undone_copy(NOBODY_BORROWED, Thread(pid, pid, State.STOPPED, NOBODY_BORROWED))


def test_areas_of_a_process_that_executes_another_program_are_not_judged(
    child: Child, space: AddressSpace
) -> None:
    """Its memory is gone a moment before we are told."""
    for mark in space.areas[0].marks():
        space.memory.poke(mark, MARK)
    assert not space.memory.is_gone()
    os.write(child.hold, b"\n")
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert space.memory.is_gone()
    assert space.whole_areas() == space.areas


def test_a_site_of_the_memory_before_exec_is_not_armed(child: Child, space: AddressSpace) -> None:
    """The same program again may be at the same addresses."""
    site = space.make_site(child.code)
    after = AddressSpace(child.pid, Memory(child.pid))
    assert not after.arm(site)
    after.close()
    assert space.memory.peek(child.code, len(CODE)) == CODE
