"""Announces the registered facilities to the tracers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, Final

from dprobed.backend import BackendGone, BackendRefused, BackendSilent
from dprobed.daemon.target import TargetsTracer
from dprobed.daemon.targets import Targets
from dprobed.daemon.tasks import Tasks
from dprobed.wire import protocol

#: Seconds for which who registers a handler waits for all tracers to know it.
_PATIENCE: Final = 5.0


class Announcer:
    """Announces to the tracers of all targets; later insertions carry the facilities themselves."""

    def __init__(self, targets: Targets, tasks: Tasks) -> None:
        self._targets: Final = targets
        self._tasks: Final = tasks
        self._telling: Final[set[asyncio.Task[None]]] = set()
        #: What is announced now.
        self._announced: dict[str, int] = {}
        self._listeners: Final[list[Callable[[], Coroutine[Any, Any, None]]]] = []

    def listen(self, listener: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have something done after each change."""
        self._listeners.append(listener)

    def announce(self, facilities: dict[str, int], acting: list[int]) -> None:
        """Announce these facilities; for those in ``acting`` tracers do something at the hit."""
        self._announced = facilities
        targets = self._targets.by_pid.values()
        for tracer in {target.tracer for target in targets if target.attached}:
            if tracer is not None:
                task = self._tasks.start(self._tell(tracer, facilities, acting))
                self._telling.add(task)
                task.add_done_callback(self._telling.discard)
        for listener in self._listeners:
            self._tasks.start(listener())

    async def heard(self) -> None:
        """Wait until each tracer has what was announced: from then on its hits go by that."""
        if self._telling:
            await asyncio.wait(set(self._telling), timeout=_PATIENCE)

    async def _tell(
        self, tracer: TargetsTracer, facilities: dict[str, int], acting: list[int]
    ) -> None:
        with contextlib.suppress(BackendGone, BackendRefused):
            try:
                await tracer.backend.request(
                    lambda seq: protocol.Facilities(seq=seq, facilities=facilities, acting=acting)
                )
            except BackendSilent:
                self._tasks.start(self._tell_later(tracer, facilities, acting))

    async def _tell_later(
        self, tracer: TargetsTracer, facilities: dict[str, int], acting: list[int]
    ) -> None:
        """When it answers again; unless something else is announced by then."""
        await tracer.backend.heard()
        if facilities is self._announced:
            await self._tell(tracer, facilities, acting)
