"""The stacks of one target's threads."""

from __future__ import annotations

from typing import Final

from dprobed.engine.context import HitContext
from dprobed.program.user_stack import UserStack
from dprobed.tracee.memory import Memory
from dprobed.tracer.engines import Engines
from dprobed.tracer.stacks.layout import Layout
from dprobed.tracer.stacks.tables import Tables
from dprobed.tracer.stacks.walk import Walker


class TargetStacks:
    """Walks stacks at hits in a target, in whatever address space it has then."""

    def __init__(self, pid: int, engines: Engines, tables: Tables) -> None:
        self._pid: Final = pid
        self._engines: Final = engines
        self._tables: Final = tables
        self._walker: Walker | None = None
        #: Of the address space that the walker is for.
        self._memory: Memory | None = None

    def forget(self) -> None:
        """Something was mapped or unmapped: what was where is not known any more."""
        self._walker = None

    def walk(self, context: HitContext, depth: int) -> UserStack:
        """The stack of the thread that hit."""
        walker = self._walker
        if walker is None or context.memory is not self._memory:
            memory = self._memory = context.memory
            layout = Layout(self._pid, self._tables, memory.peek)
            walker = self._walker = Walker(layout, self._original)
        return walker.walk(context, depth)

    def _original(self, address: int) -> int:
        return self._engines.view.original_place(address)
