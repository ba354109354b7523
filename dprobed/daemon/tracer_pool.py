"""Which tracer has which target.

A target that somebody attaches to gets a tracer of its own, so that a busy one is not held up by
others; its followed children come into the same one. Targets that are many and mostly idle share
tracers: those that one user asked for of one user's processes, ``SHARED`` of them in one. What one
user's processes do to a tracer nobody else's wait for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from dprobed.backend import Backend, Backends
from dprobed.daemon.target import Target, TargetsTracer
from dprobed.wire import protocol

#: Targets that share a tracer at most. Each costs a hit in any of them some 20 ns, because the
#: kernel goes through a tracer's tracees one by one (docs/architecture.md).
SHARED: Final = 64
#: Users whose processes get shared tracers of their own. Those of all others share: one user may
#: have processes of thousands of user ids (subuid(5)).
OWNERS: Final = 32
#: In place of a user id.
_OTHERS: Final = -1


class TracerPool:
    """All tracers. ``on_event`` and ``on_gone`` are called from the event loop."""

    def __init__(
        self,
        backends: Backends,
        on_event: Callable[[TargetsTracer, protocol.Event], None],
        on_gone: Callable[[TargetsTracer, str], None],
    ) -> None:
        self._backends: Final = backends
        self._on_event: Final = on_event
        self._on_gone: Final = on_gone
        self._tracers: dict[Backend, TargetsTracer] = {}
        self._warm = False
        self._choosing = asyncio.Lock()

    def keep_warm(self, warm: bool) -> None:
        """Whether targets are to be expected any moment: a shared tracer then outlives its last
        one, because to start one takes longer than all the rest."""
        self._warm = warm
        for tracer in self._shared():
            tracer.warm = warm
            if tracer.is_over:
                tracer.backend.close()

    def _shared(self) -> list[TargetsTracer]:
        return [tracer for tracer in self._tracers.values() if tracer.shared]

    async def place(
        self, target: Target, user: tuple[int, int], owner: int, *, shared: bool
    ) -> None:
        """Give a target its tracer, which runs as ``user``; ``owner``: whose process it is.

        Raises OSError when none can be started.
        """
        if not shared:
            await self._start(target, user, owner, shared=False)
            return
        async with self._choosing:
            owners = {tracer.owner for tracer in self._shared() if tracer.user == user}
            if owner not in owners and len(owners) >= OWNERS:
                owner = _OTHERS
            for tracer in self._shared():
                if (tracer.user, tracer.owner) != (user, owner) or tracer.is_over:
                    continue
                if len(tracer.targets) < SHARED:
                    tracer.add(target)
                    return
            await self._start(target, user, owner, shared=True)

    async def _start(
        self, target: Target, user: tuple[int, int], owner: int, *, shared: bool
    ) -> None:
        uid, gid = user
        backend = await self._backends.start(self._event, uid=uid, gid=gid, owner=owner)
        # Before it is asked for anything it has nothing to tell.
        tracer = TargetsTracer(backend, user, owner, shared=shared, warm=self._warm)
        self._tracers[backend] = tracer
        tracer.add(target)
        backend.gone.add_done_callback(lambda gone: self._gone(backend, gone.result()))

    def _event(self, backend: Backend, event: protocol.Event) -> None:
        self._on_event(self._tracers[backend], event)

    def _gone(self, backend: Backend, failure: str) -> None:
        self._on_gone(self._tracers.pop(backend), failure)
