"""Pages of code in a target: trampolines, and the functions that they call.

A thread may be anywhere in them, also in a signal handler that goes back there. So what was written
is never written over as long as the target runs, unless it is known that no thread can be there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dprobed.arch.x86_64.paging import NEAR, PAGE
from dprobed.change_journal import Kind
from dprobed.engine.address_space import AddressSpace
from dprobed.engine.errors import SpaceError
from dprobed.engine.inline.puns import Stubs
from dprobed.engine.remote_calls import note
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup

_REACH: Final = NEAR - (1 << 20)
#: What is mapped at once.
_SIZE: Final = 16 * PAGE
#: Where a piece of code may begin.
ALIGN: Final = 16
#: What each area begins with: our name, also as that of memory.
NAME: Final = b"dprobed\0"


class CodeArea:
    """One mapping."""

    __slots__ = ("_used", "end", "start")

    def __init__(self, start: int, size: int, used: int) -> None:
        self.start: Final = start
        self.end: Final = start + size
        self._used = used

    def holds(self, address: int) -> bool:
        """Whether an address is in it."""
        return self.start <= address < self.end

    def reaches(self, address: int) -> bool:
        """Whether code at an address and that in here reach each other."""
        return abs(address - self.start) < _REACH and abs(self.end - address) < _REACH

    @property
    def room(self) -> int:
        """Bytes that are free."""
        return self.end - self.start - self._used

    def take(self, size: int) -> int | None:
        """Where so many bytes are free; None: nowhere."""
        at = -(-self._used // ALIGN) * ALIGN
        if self.start + at + size > self.end:
            return None
        self._used = at + size
        return self.start + at

    def give_back(self, address: int) -> None:
        """What was taken last, from there on, was not used."""
        self._used = address - self.start

    def start_anew(self) -> None:
        """No thread is in it, nor comes back: what was written is not needed any more."""
        self._used = len(NAME)

    def copy(self) -> CodeArea:
        """The same pages in a copy of the address space."""
        return CodeArea(self.start, self.end - self.start, self._used)


class CodePages:
    """All such mappings of one address space."""

    def __init__(self, space: AddressSpace) -> None:
        self._space: Final = space
        self.areas: Final[list[CodeArea]] = []
        self.stubs = Stubs()

    def of(self, address: int) -> CodeArea | None:
        """The area that an address is in."""
        return next((area for area in self.areas if area.holds(address)), None)

    def hold(self, address: int) -> bool:
        """Whether an address is in our code."""
        return self.of(address) is not None or self.stubs.holds(address)

    def near(self, address: int) -> CodeArea | None:
        """The area for code that reaches an address."""
        return next((area for area in reversed(self.areas) if area.reaches(address)), None)

    def map(self, group: ThreadGroup, thread: Thread, address: int, size: int = 0) -> CodeArea:
        """Have a borrowed thread map some near an address; raises SpaceError and Gone."""
        size = max(_SIZE, -(-size // PAGE) * PAGE)
        resident = self._space.resident
        start = resident.map(group, thread, address, address, size, Kind.CODE)
        area = CodeArea(start, size, len(NAME))
        if not self._space.memory.fill(start, NAME):
            raise SpaceError(f"the memory at {start:#x} cannot be written")
        self.areas.append(area)
        return area

    def map_stubs(self, group: ThreadGroup, thread: Thread, pages: Iterable[int]) -> set[int]:
        """Have a borrowed thread map these pages; those that it could not. Raises Gone."""
        failed = set()
        for page in pages:
            try:
                is_there = self._space.resident.map_at(group, thread, page, PAGE, Kind.CODE)
            except SpaceError:
                is_there = False
            if not is_there:
                failed.add(page)
        self.stubs.give_up(failed)
        return failed

    def adopt(self, start: int, data: bytes) -> None:
        """Another tracer has left these: what is in them stays."""
        size = int.from_bytes(data, "little")
        self.areas.append(CodeArea(start, size, size))

    def copy_to(self, other: CodePages) -> None:
        """The same in a copy of the address space."""
        for area in self.areas:
            size = (area.end - area.start).to_bytes(8, "little")
            note(other._space.changes, Kind.CODE, area.start, size)
            other.areas.append(area.copy())
        other.stubs = self.stubs.copy()
        for page in other.stubs.pages:
            note(other._space.changes, Kind.CODE, page, PAGE.to_bytes(8, "little"))

    def put(self, address: int, code: bytes) -> None:
        """Write code where it was taken; raises SpaceError."""
        if not self._space.memory.fill(address, code):
            raise SpaceError(f"the memory at {address:#x} cannot be written")
