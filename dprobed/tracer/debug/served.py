"""Hits that were served before a debugger resumes the thread: they must not be served again.

A thread that was held at a hit is in the out-of-line slot, and its programs have run. The debugger
sees it at the probed instruction. What it does when it is resumed there must not be a second hit:
the places where hits have been served are noted with the stack pointer, because the debugger may
set other registers in between and put these back (it does to call a function).
"""

from __future__ import annotations

from typing import Final

from dprobed.arch.x86_64.registers import RIP, RSP
from dprobed.tracee.ptrace import Gone, Registers
from dprobed.tracee.thread import Thread
from dprobed.tracer.engines import Engines

#: Places noted of one thread; more would be inferior calls nested as deep.
_MOST: Final = 16


class ServedHits:
    """Address and stack pointer of the hits that were served, by thread."""

    def __init__(self, engines: Engines) -> None:
        self._engines: Final = engines
        self._places: Final[dict[int, list[tuple[int, int]]]] = {}
        self._registers: Final = Registers()

    def _hit_of(self, thread: Thread) -> tuple[int, int] | None:
        """The hit whose instruction a thread in a slot has yet to execute: address and rsp.

        Raises Gone.
        """
        self._registers.load(thread.tid)
        return self._engines.view.hit_in_slot(self._registers)

    def note(self, thread: Thread) -> None:
        """Note the hit of a stopped thread, if it is in a slot."""
        try:
            place = self._hit_of(thread)
        except Gone:
            return
        if place is not None:
            places = self._places.setdefault(thread.tid, [])
            if place not in places:
                places.append(place)
                del places[:-_MOST]

    def enter_slot(self, thread: Thread) -> None:
        """Have a thread that stands where its hit was served go on in the slot."""
        places = self._places.get(thread.tid)
        if not places:
            return
        try:
            place = self._hit_of(thread)
            words = self._registers.words
            stands = (words[RIP], words[RSP])
            if (place or stands) not in places:
                return
            places.remove(place or stands)
            if place is None and self._engines.view.enter_slot(self._registers):
                self._registers.store(thread.tid)
        except Gone:
            return

    def forget(self, tid: int) -> None:
        """A thread ended."""
        self._places.pop(tid, None)

    def clear(self) -> None:
        """Forget all hits: no debugger is there any more, or the address space is gone."""
        self._places.clear()
