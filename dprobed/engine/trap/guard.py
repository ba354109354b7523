"""The guard of one address space: our SIGTRAP handler there, for the case that the tracer dies.

The kernel lets the threads of a killed tracer go, and each next int3 would kill them. The handler
has them go on in their slots (``arch.x86_64.guard_code``). Whether it is *installed* as the
process's disposition is ``Sigtrap``'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dprobed.arch.x86_64.guard_code import (
    ACTION,
    DEFAULT_ACTION,
    ENTRY,
    FREE_ENTRY,
    HANDLER,
    RESTORER,
    TABLE,
    entry,
    image,
)
from dprobed.arch.x86_64.paging import PAGE
from dprobed.arch.x86_64.syscalls import SYS_MUNMAP
from dprobed.change_journal import Kind
from dprobed.engine.address_space import AddressSpace
from dprobed.engine.errors import SpaceError
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup


class Guard:
    """The handler's mapping in one address space, and the table of the sites that it serves."""

    def __init__(self, space: AddressSpace) -> None:
        self._space: Final = space
        #: Where it is mapped; 0: nowhere.
        self.base = 0
        self._size = 0
        #: Places in the table, by the rip of a thread behind the breakpoint.
        self._entries: dict[int, int] = {}
        self._free: list[int] = []
        #: Start and size of smaller ones that it had before.
        self._former: list[tuple[int, int]] = []

    @property
    def action(self) -> int:
        """Address of a ``struct kernel_sigaction`` that installs it."""
        return self.base + ACTION

    @property
    def default_action(self) -> int:
        """Address of one that says SIG_DFL."""
        return self.base + DEFAULT_ACTION

    @property
    def restorer(self) -> int:
        """Its restorer, which stays where the kernel makes it the default."""
        return self.base + RESTORER

    def is_handler(self, address: int) -> bool:
        """Whether a guard is there: ours, or that of a tracer that died."""
        return address != 0 and self._space.memory.peek(address, len(HANDLER)) == HANDLER

    def is_whole(self) -> bool:
        """Whether it is there, and the target has not unmapped or overwritten it."""
        return self.is_handler(self.base)

    def has_room(self, count: int) -> bool:
        """Whether it is mapped, with room for so many sites more."""
        return self.base != 0 and self._capacity - len(self._entries) >= count

    @property
    def _capacity(self) -> int:
        # The pair of zeros at the end.
        return (self._size - TABLE) // ENTRY - 1 if self._size else 0

    def prepare(self, group: ThreadGroup, thread: Thread, count: int) -> None:
        """Have a borrowed thread map it, or a larger one, with room for so many sites more.

        The former mapping is no handler any more when the new one is installed. Raises SpaceError
        and Gone.
        """
        needed = TABLE + (2 * (len(self._entries) + count) + 1) * ENTRY
        size = -(-needed // PAGE) * PAGE
        # Near the slots, though it need not be: so its address is known, and noted, before it is
        # there.
        near = next((area.start for area in self._space.resident.areas), self.base)
        base = self._space.resident.map(group, thread, near, near, size, Kind.GUARD)
        table = b""
        if self.base:
            table = self._space.memory.peek(self.base + TABLE, self._size - TABLE)
        if not self._space.memory.poke(base, image(base) + table):
            raise SpaceError("the guard cannot be written")
        if self.base:
            self._former.append((self.base, self._size))
        self.base, self._size = base, size

    def add(self, sites: Iterable[tuple[int, int]]) -> None:
        """Serve these sites from now on, before their breakpoints are written: of each, the rip of
        a thread behind it, and its slot."""
        new: dict[int, bytes] = {}
        for trap, slot in sites if self.base else ():
            index = self._entries.get(trap)
            if index is None:
                index = self._free.pop() if self._free else len(self._entries)
                if index >= self._capacity:
                    break  # they are not guarded; ``prepare`` makes room for all
                self._entries[trap] = index
            new[index] = entry(trap, slot)
        self._write(new)

    def remove(self, traps: Iterable[int]) -> None:
        """Sites are gone, and no thread is behind their breakpoints any more."""
        free = [self._entries.pop(trap) for trap in traps if trap in self._entries]
        self._write(dict.fromkeys(free, FREE_ENTRY))
        self._free += free

    def _write(self, entries: dict[int, bytes]) -> None:
        """Write these places of the table, those that follow each other at once."""
        if not entries or not self.is_whole():
            return
        run = b""
        for index in sorted(entries):
            run += entries[index]
            if index + 1 not in entries:
                end = self.base + TABLE + (index + 1) * ENTRY
                self._space.memory.poke(end - len(run), run)
                run = b""

    def copy(self, space: AddressSpace) -> Guard:
        """The same in a ``fork`` child's copy of the memory."""
        other = Guard(space)
        other.base, other._size = self.base, self._size
        other._entries, other._free = dict(self._entries), list(self._free)
        other._former = list(self._former)
        return other

    def adopt(self, base: int, size: int) -> None:
        """Take over one that another tracer left, if it is there; of several, the last is used.

        Raises SpaceError and Gone.
        """
        if self._space.resident.is_blank(base, size):
            self._space.memory.poke(base, HANDLER)
        if not self.is_handler(base):
            self._space.changes.forget(Kind.GUARD, base)
            return
        if self.base:
            self._former.append((self.base, self._size))
        self.base, self._size = base, size
        self._entries.clear()
        self._free.clear()
        table = self._space.memory.peek(base + TABLE, size - TABLE)
        for index in range(len(table) // ENTRY):
            each = table[index * ENTRY : (index + 1) * ENTRY]
            if each == FREE_ENTRY:
                self._free.append(index)
            elif any(each):
                self._entries[int.from_bytes(each[:8], "little")] = index
            else:
                break

    def prefer(self, base: int) -> None:
        """Of several that were taken over, use the one that is the process's handler."""
        for former in self._former:
            if former[0] == base:
                self._former.remove(former)
                self._former.append((self.base, self._size))
                self.base, self._size = former
                return

    def holds(self, address: int) -> bool:
        """Whether an address is in one of its mappings."""
        all_ = [*self._former, (self.base, self._size)]
        return any(base <= address < base + size for base, size in all_)

    def mappings(self) -> list[tuple[int, int]]:
        """Start and size of what is mapped for it, as far as it is still ours."""
        all_ = [*self._former, (self.base, self._size)]
        return [(base, size) for base, size in all_ if self.is_handler(base)]

    def unmap(self, group: ThreadGroup, thread: Thread) -> None:
        """Have a thread's process unmap it; it is not installed any more. Raises SpaceError and
        Gone."""
        for base, size in self.mappings():
            self._space.calls.call(group, thread, SYS_MUNMAP, base, size)
            self._space.changes.forget(Kind.GUARD, base)
        self._former.clear()
        self.base = self._size = 0
        self._entries.clear()
        self._free.clear()
