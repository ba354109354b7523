"""The engines of one target, and what they show: its registers and text as without them."""

from __future__ import annotations

from typing import Final

from dprobed.engine.address_space import AddressSpace
from dprobed.engine.affinity import Affinity
from dprobed.engine.inline.engine import InlineEngine
from dprobed.engine.interface import Engine, Listener
from dprobed.engine.runner import ProgramRunner
from dprobed.engine.trap.engine import TrapEngine
from dprobed.engine.trap.sigtrap import Sigtrap
from dprobed.engine.trap.view import OriginalView
from dprobed.engine.watch.engine import WatchEngine
from dprobed.tracee.ptrace import Registers
from dprobed.tracee.thread_group import ThreadGroup


class EngineViews:
    """All engines of one target, side by side."""

    def __init__(
        self, group: ThreadGroup, listener: Listener, registers: Registers, affinity: Affinity
    ) -> None:
        """``registers`` and ``affinity`` are those of all targets of this tracer."""
        self.group: Final = group
        self.runner: Final = ProgramRunner(listener, registers, affinity)
        self._trap: Final = TrapEngine(group, listener, self.runner)
        self._watch: Final = WatchEngine(group, listener, self.runner)
        self._inline: Final = InlineEngine(group, listener, registers)
        self._inline.is_displaced = lambda address, length: self.view.displaces(address, length)
        self._all: Final[tuple[Engine, ...]] = (self._trap, self._watch, self._inline)

    @property
    def space(self) -> AddressSpace:
        """The target's present address space; a placeholder at first."""
        return self._trap.sites.space

    def pages(self) -> list[tuple[int, int]]:
        """Start and end of each mapping of ours in the target."""
        guard = self._trap.sites.guard.mappings()
        areas = [(area.start, area.end) for area in self.space.resident.whole()]
        guards = [(start, start + size) for start, size in guard]
        return areas + guards + self._inline.pages()

    @property
    def sigtrap(self) -> Sigtrap:
        """What the target is to believe of SIGTRAP."""
        return self._trap.sigtrap

    @property
    def view(self) -> OriginalView:
        """Threads and text without our breakpoints."""
        return self._trap.view

    def leave(self, registers: Registers) -> bool:
        """See Engine."""
        return any(engine.leave(registers) for engine in self._all)

    def original(self, address: int, length: int) -> bytes:
        """Memory without our changes; short where it ends."""
        data = bytearray(self.space.memory.peek(address, length))
        for engine in self._all:
            engine.original(address, data)
        self.space.original(address, data)
        return bytes(data)

    def changed(self) -> dict[int, int]:
        """The original of each byte of text that engines have changed, by address."""
        return self.view.breakpoints() | self._inline.changed()

    def displaces(self, address: int, length: int) -> bool:
        """Whether what runs there is a copy of ours."""
        return self.view.displaces(address, length) or (
            self.space.owner_of(address, length) is not None
        )
