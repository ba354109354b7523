"""The metrics as a part of the daemon: asks tracers what they have counted, and serves pages."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from functools import partial
from typing import Final

from dprobed.daemon.detaching import Detaching
from dprobed.daemon.metrics import families
from dprobed.daemon.metrics.http import MetricsServer
from dprobed.daemon.metrics.snapshot import Counts, Snapshot
from dprobed.daemon.target import Target
from dprobed.daemon.targets import Targets
from dprobed.daemon.tasks import Tasks

#: Seconds for which a page is good: scrapes in between cost nothing.
_FRESH: Final = 1.0
#: Seconds that tracers have to say what they have counted; then what they said last has to do.
_ANSWERS: Final = 0.5
#: Seconds in which our own port must be reached.
_REACHED: Final = 2.0

_log = logging.getLogger("dprobed")


class Metrics:
    """Serves metrics at a listening socket, which is closed at the end."""

    def __init__(
        self,
        sock: socket.socket,
        counts: Counts,
        targets: Targets,
        detaching: Detaching,
        tasks: Tasks,
    ) -> None:
        self._sock: Final = sock
        self._counts: Final = counts
        self._targets: Final = targets
        self._detaching: Final = detaching
        self._tasks: Final = tasks
        self._server: Final = MetricsServer(self._page)
        #: Pages are made by one thread at most.
        self._making: Final = asyncio.Lock()
        self._pages: dict[bool, tuple[bytes, str]] = {}
        self._snapshot: Snapshot | None = None
        self._until = 0.0
        #: Tracers that have been asked and have not answered yet: they are not asked again.
        self._asked: Final[dict[Target, asyncio.Task[None]]] = {}

    async def begin(self) -> None:
        """Serve from now on."""
        self._counts.snapshot()  # What came over from the daemon before is not to be told again.
        await self._server.listen(self._sock)
        name = self._sock.getsockname()
        where = name if isinstance(name, str) else f"{name[0]} port {name[1]}"
        _log.info("metrics are at %s", where)
        if self._sock.family != socket.AF_UNIX:
            self._tasks.start(self._look(name[0], name[1]))

    def stop(self) -> None:
        """Serve no longer."""
        self._server.stop()

    async def _look(self, host: str, port: int) -> None:
        """Say it where the port cannot be reached: systemd's IPAddressDeny= drops what comes."""
        try:
            async with asyncio.timeout(_REACHED):
                _, writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError):
            _log.warning(
                "metrics: nothing reaches %s port %d: does the unit lack IPAddressAllow=localhost?",
                host,
                port,
            )
        else:
            writer.close()

    async def _page(self, open_metrics: bool) -> tuple[bytes, str]:
        async with self._making:
            if self._snapshot is None or time.monotonic() >= self._until:
                await self._refresh()
                self._snapshot = self._counts.snapshot()
                self._pages.clear()
                self._until = time.monotonic() + _FRESH
            if open_metrics not in self._pages:
                # In a thread: a thousand names take some ten milliseconds.
                page = await asyncio.to_thread(
                    families.as_text, self._snapshot, open_metrics=open_metrics
                )
                self._pages[open_metrics] = page
            return self._pages[open_metrics]

    async def _refresh(self) -> None:
        """Ask all tracers what they have counted."""
        for target in self._targets.by_pid.values():
            if target.attached and not target.finished.is_set() and target not in self._asked:
                task = self._tasks.start(self._detaching.refresh(target))
                self._asked[target] = task
                task.add_done_callback(partial(self._answered, target))
        if self._asked:
            await asyncio.wait(self._asked.values(), timeout=_ANSWERS)

    def _answered(self, target: Target, task: asyncio.Task[None]) -> None:
        del self._asked[target]
