"""Where punned jumps lead to: pages with nothing but jumps on to trampolines.

Such a page has to be where the bytes of the text say. So it is mapped there if nothing is, and away
from what grows: the heap and the stack.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final, NamedTuple

from dprobed.arch.x86_64.jump import FAR_JUMP, Window, windows
from dprobed.arch.x86_64.paging import PAGE, USER_END
from dprobed.proc.maps import Line

#: Lower addresses are no process's (vm.mmap_min_addr), or are kept for what is wrong with pointers.
_LOWEST: Final = 1 << 20
#: What the heap and the stack may grow.
_HEAP_ROOM: Final = 1 << 28
_STACK_ROOM: Final = 64 << 20
_MOST_PAGES: Final = 1 << 14
#: Pages of a window that are looked at.
_LOOKED_AT: Final = 64


class Pun(NamedTuple):
    """A punned jump: where it leads to, what is written, and the bytes behind it, which stay."""

    target: int
    text: bytes
    behind: bytes

    @property
    def tail(self) -> int:
        """How many stay."""
        return len(self.behind)


def pages_of(target: int) -> set[int]:
    """The pages of a jump on, which may be over the end of one."""
    return {target // PAGE * PAGE, (target + FAR_JUMP - 1) // PAGE * PAGE}


class Stubs:
    """The pages of one address space to which punned jumps lead."""

    def __init__(self) -> None:
        #: By page, what is taken in it: start and end, ascending.
        self.pages: Final[dict[int, list[tuple[int, int]]]] = {}

    def holds(self, address: int) -> bool:
        """Whether an address is in one of them."""
        return address // PAGE * PAGE in self.pages

    def copy(self) -> Stubs:
        """The same in a copy of the address space."""
        other = Stubs()
        other.pages.update((page, list(taken)) for page, taken in self.pages.items())
        return other

    @property
    def is_full(self) -> bool:
        """Whether there are so many that no more are to be mapped: a process may have 65,530
        mappings (vm.max_map_count), most of which are for itself."""
        return len(self.pages) >= _MOST_PAGES

    def find(self, code: bytes, address: int, length: int, free: FreePages) -> Pun | None:
        """A punned jump for an instruction, to pages that are there or may be mapped; None: none
        fits. What it takes is taken."""
        for window in windows(code, address, length):
            target = self._known(window) or (0 if self.is_full else self._new(window, free))
            if target:
                self._take(target)
                return Pun(target, window.bytes_for(target, address), window.behind)
        return None

    def _known(self, window: Window) -> int:
        """A place in pages that are there already; 0: none."""
        if window.end - window.start < PAGE:
            pages: Iterable[int] = (window.start // PAGE * PAGE, (window.end - 1) // PAGE * PAGE)
        else:
            pages = self.pages
        for page in pages:
            if page in self.pages and (found := self._place_in(window, page)):
                return found
        return 0

    def _place_in(self, window: Window, page: int) -> int:
        at = max(window.start, page)
        for start, end in self.pages[page]:
            if at + FAR_JUMP <= start:
                break
            at = max(at, end)
        return at if at < window.end and at + FAR_JUMP <= page + PAGE else 0

    def _new(self, window: Window, free: FreePages) -> int:
        """A place in pages that may be mapped; 0: none."""
        first, last = window.start // PAGE, (window.end - 1) // PAGE
        step = max(1, (last - first) // _LOOKED_AT)
        for number in range(first, last + 1, step):
            target = max(window.start, number * PAGE)
            is_there = all(page in self.pages or free.has(page) for page in pages_of(target))
            if is_there and not self._is_taken(target):
                return target
        return 0

    def _is_taken(self, target: int) -> bool:
        return any(
            start < target + FAR_JUMP and target < end
            for page in pages_of(target)
            for start, end in self.pages.get(page, ())
        )

    def _take(self, target: int) -> None:
        for page in pages_of(target):
            taken = self.pages.setdefault(page, [])
            taken.append((target, target + FAR_JUMP))
            taken.sort()

    def give_up(self, pages: Iterable[int]) -> None:
        """These could not be mapped."""
        for page in pages:
            self.pages.pop(page, None)


class FreePages:
    """Where a process has nothing mapped, nor may grow."""

    def __init__(self, lines: Iterable[Line]) -> None:
        taken = []
        for line in lines:
            start, end = line.start, line.end
            if line.name == b"[heap]":
                end += _HEAP_ROOM
            elif line.name == b"[stack]":
                start -= _STACK_ROOM
            taken.append((start, end))
        taken.sort()
        self._starts: Final = [start for start, _ in taken]
        ends = []
        highest = 0
        for _, end in taken:
            highest = max(highest, end)
            ends.append(highest)
        self._ends: Final = ends

    def has(self, page: int) -> bool:
        """Whether a page may be mapped, with one free before and behind it."""
        if not _LOWEST <= page < USER_END - 2 * PAGE:
            return False
        before = bisect_right(self._starts, page + 2 * PAGE - 1) - 1
        return before < 0 or self._ends[before] <= page - PAGE
