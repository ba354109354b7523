"""Which tracer has which target.

A target that somebody attaches to gets a tracer of its own, so that a busy one is not held up by
others; its followed children come into the same one. Targets that are many and mostly idle share
tracers: those of one user, ``SHARED`` of them in one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from dprobed.daemon.target import Target
from dprobed.daemon.tracer_process import Supervisor, Tracer
from dprobed.wire import protocol

#: Targets that share a tracer at most. Each costs a hit in any of them some 20 ns, because the
#: kernel goes through a tracer's tracees one by one (docs/architecture.md).
SHARED: Final = 64
#: Ended targets of a tracer of which a followed child may still be reported.
_ENDED: Final = 64


class Host:
    """A tracer and its targets. ``user``: uid and gid as whom it runs.

    ``shared``: further targets may come into it. ``warm``: it stays when its last target has gone,
    for the next one.
    """

    def __init__(self, user: tuple[int, int], *, shared: bool, warm: bool) -> None:
        self.tracer: Tracer
        self.user: Final = user
        self.shared: Final = shared
        self.warm = warm and shared
        self.targets: dict[int, Target] = {}
        #: By the number of a place, whose it is.
        self.by_place: dict[int, Target] = {}
        #: Places in followed children of which the tracer has not told yet, by their process.
        self._early: dict[int, dict[int, protocol.Place]] = {}
        self._ended: dict[int, Target] = {}

    def add(self, target: Target) -> None:
        """A target of this tracer from now on."""
        self.targets[target.pid] = target
        target.host = self
        for number, place in self._early.pop(target.pid, {}).items():
            self.place(number, place)

    def place(self, number: int, place: protocol.Place) -> None:
        """Records will speak of a place by this number."""
        target = self.targets.get(place.pid)
        if target is None:
            self._early.setdefault(place.pid, {})[number] = place
        else:
            target.places[number] = (place.module, place.place)
            self.by_place[number] = target

    def drop(self, target: Target) -> None:
        """It has ended; with the last one the tracer does."""
        if self.targets.get(target.pid) is target:
            del self.targets[target.pid]
        self._ended[target.pid] = target
        while len(self._ended) > _ENDED:
            del self._ended[next(iter(self._ended))]
        for number in target.places:
            self.by_place.pop(number, None)
        if self.is_over:
            self.tracer.close()

    @property
    def is_over(self) -> bool:
        """Whether it has no target, and waits for none."""
        return not self.targets and not self.warm

    def parent(self, pid: int) -> Target | None:
        """A target of this tracer, also one that has ended a short time ago."""
        return self.targets.get(pid) or self._ended.get(pid)


class Hosts:
    """All tracers. ``on_event`` and ``on_gone`` are called from the event loop."""

    def __init__(
        self,
        supervisor: Supervisor,
        on_event: Callable[[Host, protocol.Event], None],
        on_gone: Callable[[Host, str], None],
    ) -> None:
        self._supervisor: Final = supervisor
        self._on_event: Final = on_event
        self._on_gone: Final = on_gone
        self._shared: list[Host] = []
        self._warm = False
        self._choosing = asyncio.Lock()

    def keep_warm(self, warm: bool) -> None:
        """Whether targets are to be expected any moment: a shared tracer then outlives its last
        one, because to start one takes longer than all the rest."""
        self._warm = warm
        for host in self._shared:
            host.warm = warm
            if host.is_over:
                host.tracer.close()

    async def place(self, target: Target, uid: int, gid: int, *, shared: bool) -> None:
        """Give a target its host; raises OSError when no tracer can be started."""
        if not shared:
            await self._start(target, (uid, gid), shared=False)
            return
        async with self._choosing:
            for host in self._shared:
                if host.user != (uid, gid) or host.is_over:
                    continue
                if len(host.targets) < SHARED:
                    host.add(target)
                    return
            self._shared.append(await self._start(target, (uid, gid), shared=True))

    async def _start(self, target: Target, user: tuple[int, int], *, shared: bool) -> Host:
        host = Host(user, shared=shared, warm=self._warm)
        uid, gid = user
        host.tracer = await self._supervisor.start(
            lambda event: self._on_event(host, event), uid=uid, gid=gid
        )
        host.add(target)
        host.tracer.gone.add_done_callback(lambda gone: self._gone(host, gone.result()))
        return host

    def _gone(self, host: Host, failure: str) -> None:
        if host in self._shared:
            self._shared.remove(host)
        self._on_gone(host, failure)
