"""What an IFUNC's resolver function chooses, at the moment when it does.

Before that there is no place for a probe, and a probe that came later would miss the first calls:
a static program calls ``memcpy`` before ``main``. So an internal breakpoint is where the resolver
function begins, and then one where it returns to, with the address of the chosen function in rax.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from dprobed.arch.x86_64.registers import RAX, RSP
from dprobed.engine.errors import SpaceError
from dprobed.engine.interface import Location
from dprobed.tracee.ptrace import Gone, Registers
from dprobed.tracee.thread import Thread
from dprobed.tracer.engines import Engines

_WORD: Final = 8


class Choices:
    """The choices of one address space that are yet to be made."""

    def __init__(self, engines: Engines, made: Callable[[Thread, int, int], None]) -> None:
        """``made`` is called with the thread, the resolver function, and what it chose."""
        self._engines: Final = engines
        self._made: Final = made
        self._registers: Final = Registers()
        self._breakpoints: Final[set[int]] = set()
        #: By thread and its stack pointer after the return: the resolver function that it is in.
        self._entered: Final[dict[tuple[int, int], int]] = {}

    def expect(self, resolver: Location) -> None:
        """A resolver function has not been called yet; raises SpaceError and Gone."""
        self._break(resolver, partial(self._enter, resolver.address))

    def forget(self, is_mapped: Callable[[int], bool]) -> None:
        """Modules were unmapped, and others may be there later."""
        for address in [each for each in self._breakpoints if not is_mapped(each)]:
            self._engines.forget_internal(address)
            self._breakpoints.discard(address)

    def _break(self, where: Location, callback: Callable[[Thread], None]) -> None:
        if where.address not in self._breakpoints:
            self._engines.insert_internal(where, callback)
            self._breakpoints.add(where.address)

    def _enter(self, resolver: int, thread: Thread) -> None:
        try:
            stack = self._registers.load(thread.tid)[RSP]
            data = self._engines.space.memory.peek(stack, _WORD)
            self._break(Location(int.from_bytes(data, "little")), self._leave)
        except (SpaceError, Gone):
            return  # looked for again, by and by
        self._entered[thread.tid, stack + _WORD] = resolver

    def _leave(self, thread: Thread) -> None:
        try:
            words = self._registers.load(thread.tid)
        except Gone:
            return
        resolver = self._entered.pop((thread.tid, words[RSP]), None)
        if resolver is not None:
            self._made(thread, resolver, words[RAX])
