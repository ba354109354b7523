"""Assigns targets to tracers.

A target that a client attaches to gets a tracer of its own, so that others do not delay it; its
fork children go into the same tracer. Targets of deployments, many and mostly idle, share tracers:
``SHARED`` targets in each, that one user asked for, of one user's processes. So one user's
processes cannot delay another's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from dprobed.backend import Backend, Backends
from dprobed.daemon import told
from dprobed.daemon.client import NoAnswer
from dprobed.daemon.target import Target, TargetsTracer
from dprobed.wire import protocol

#: The most targets that share a tracer. Each costs a hit in any of them some 20 ns, because the
#: kernel goes through a tracer's tracees one by one (docs/architecture.md).
SHARED: Final = 64
#: Users whose processes get shared tracers of their own. Those of all others share: one user may
#: have processes of thousands of user ids (subuid(5)).
OWNERS: Final = 32
#: Shared tracers, of one user and for one, that do not answer, before there is none in their place.
SILENT: Final = 4
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
        #: By the user as whom they run: for what is kept of their messages.
        self._rooms: Final[dict[int, told.Room]] = {}
        self._warm = False
        self._choosing = asyncio.Lock()

    def keep_warm(self, warm: bool) -> None:
        """Whether shared tracers are kept when their last target is gone, because starting one
        takes longer than all else."""
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
        """Assign a target to a tracer, which runs as ``user``; ``owner``: whose process it is.

        Raises OSError when none can be started, and NoAnswer where too many do not answer.
        """
        if not shared:
            await self._start(target, user, owner, shared=False)
            return
        async with self._choosing:
            owners = {tracer.owner for tracer in self._shared() if tracer.user == user}
            if owner not in owners and len(owners) >= OWNERS:
                owner = _OTHERS
            own = [each for each in self._shared() if (each.user, each.owner) == (user, owner)]
            silent = [each for each in own if each.backend.is_silent]
            for tracer in own:
                # One that may have attached already is not asked again: see ``in_doubt``.
                if tracer.is_over or tracer in silent or target.pid in tracer.in_doubt:
                    continue
                if len(tracer.targets) < SHARED:
                    tracer.add(target)
                    return
            if len(silent) >= SILENT:
                raise NoAnswer(
                    f"{target.what}: {len(silent)} tracers of user {user[0]} do not answer; "
                    "try again when they do",
                    asked=False,
                )
            await self._start(target, user, owner, shared=True)

    async def _start(
        self, target: Target, user: tuple[int, int], owner: int, *, shared: bool
    ) -> None:
        uid, gid = user
        backend = await self._backends.start(self._event, uid=uid, gid=gid, owner=owner)
        # It sends no event before its first request.
        room = self._rooms.get(uid)
        if room is None:
            # Root's is trusted with more than memory.
            room = self._rooms[uid] = told.Room(uid, told.MOST if uid else None)
        tracer = TargetsTracer(backend, user, owner, room, shared=shared, warm=self._warm)
        self._tracers[backend] = tracer
        tracer.add(target)
        backend.gone.add_done_callback(lambda gone: self._gone(backend, gone.result()))

    def _event(self, backend: Backend, event: protocol.Event) -> None:
        self._on_event(self._tracers[backend], event)

    def _gone(self, backend: Backend, failure: str) -> None:
        self._on_gone(self._tracers.pop(backend), failure)
