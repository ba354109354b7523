"""The engines of one target, and what they show: its registers and text as without them, and what
they have in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from dprobed.engine.address_space import AddressSpace
from dprobed.engine.affinity import Affinity
from dprobed.engine.interface import Engine, Listener, Loss
from dprobed.engine.probe import Attachment
from dprobed.engine.runner import ProgramRunner
from dprobed.engine.trap.engine import TrapEngine
from dprobed.engine.trap.native import NativeBreakpoints
from dprobed.engine.trap.sigtrap import Sigtrap
from dprobed.engine.trap.view import OriginalView
from dprobed.engine.watch.engine import WatchEngine
from dprobed.tracee.ptrace import Registers
from dprobed.tracee.thread_group import ThreadGroup
from dprobed.wire.engines import NATIVE

if TYPE_CHECKING:
    from dprobed.engine.inline.engine import InlineEngine


class EngineViews:
    """All engines of one target, side by side."""

    def __init__(
        self, group: ThreadGroup, listener: Listener, registers: Registers, affinity: Affinity
    ) -> None:
        """``registers`` and ``affinity`` are those of all targets of this tracer."""
        self.group: Final = group
        self._listener: Final = listener
        self._registers: Final = registers
        self.runner: Final = ProgramRunner(listener, registers, affinity)
        self._watch: Final = WatchEngine(group, listener, self.runner)
        self._trap: Final = TrapEngine(group, listener, self.runner, self._watch.executes)
        self._all: Final[list[Engine]] = [self._trap, self._watch]
        #: None until it is needed.
        self._inline: InlineEngine | None = None

    def _needed_inline(self) -> InlineEngine:
        """The inline engine, which few targets need: it is only used where it is asked for."""
        if self._inline is None:
            # Here: its import takes a tenth of a tracer's start.
            from dprobed.engine.inline.engine import InlineEngine

            breakpoints = NativeBreakpoints(self._trap)
            made = InlineEngine(self.group, self._listener, self._registers, breakpoints)
            made.use(self.space)
            self._inline = made
            self._all.append(made)
        return self._inline

    def _named(self, name: str) -> Engine:
        """The engine of that name, made if it is not there yet."""
        if name in NATIVE:
            return self._needed_inline()
        return next(engine for engine in self._all if name in engine.names)

    def _last_first(self) -> Iterator[Engine]:
        """All engines, the one made last first: a thread is out of its code before the others look
        where that is, and the first one closes what all have used."""
        return reversed(self._all)

    @property
    def space(self) -> AddressSpace:
        """The target's present address space; a placeholder at first."""
        return self._trap.sites.space

    def pages(self) -> list[tuple[int, int]]:
        """Start and end of each mapping of ours in the target."""
        areas = [(area.start, area.end) for area in self.space.resident.whole()]
        return areas + [each for engine in self._all for each in engine.pages()]

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
        return dict(each for engine in self._all for each in engine.changed().items())

    def displaces(self, address: int, length: int) -> bool:
        """Whether what runs there is a copy of ours."""
        return self.view.displaces(address, length) or (
            self.space.owner_of(address, length) is not None
        )

    def attachments(self) -> list[Attachment]:
        """See Engine."""
        return [each for engine in self._all for each in engine.attachments()]

    def lost(self) -> list[Loss]:
        """See Engine."""
        return [loss for engine in self._all for loss in engine.lost()]

    def overwritten(self, attachments: Iterable[Attachment]) -> list[Loss]:
        """See Engine."""
        there = list(attachments)
        return [loss for engine in self._all for loss in engine.overwritten(there)]

    @property
    def unwatched_reason(self) -> str:
        """Why not all threads have all watchpoints; empty: they have."""
        return self._watch.reason

    def watchpoints(self) -> list[Attachment]:
        """All attachments that are watchpoints."""
        return self._watch.attachments()
