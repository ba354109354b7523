"""Threads that a program's ``suspend`` holds."""

from __future__ import annotations

from typing import Final

from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup
from dprobed.tracer.debug.control import Control


class SuspendedThreads:
    """The suspended threads of one target, without those that are held for a debugger."""

    def __init__(self, group: ThreadGroup, debugger: Control) -> None:
        self._group: Final = group
        self._debugger: Final = debugger

    def threads(self) -> list[Thread]:
        """All of them."""
        return [
            thread
            for thread in self._group.threads.values()
            if thread.held and not self._debugger.owns(thread.tid)
        ]

    def resume(self, tid: int | None = None) -> list[int]:
        """Resume one thread, or all of them; returns the ids of those that were suspended."""
        held = [thread for thread in self.threads() if tid in (None, thread.tid)]
        for thread in held:
            self._group.release(thread)
        return [thread.tid for thread in held]
