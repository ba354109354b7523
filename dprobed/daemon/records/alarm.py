"""The timer of the dispatcher's time-outs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Alarm:
    """One timer, which fires at the earliest time that it was set to (time.monotonic)."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None

    def set(self, when: float, ring: Callable[[], None]) -> None:
        """Have ``ring`` called at that time, unless the timer is set to an earlier one."""
        # The loop's clock is time.monotonic.
        if self._timer is None or when < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_at(when, self._late, ring)

    def _late(self, ring: Callable[[], None]) -> None:
        # Where the loop itself was late, answers that have arrived are processed first.
        self._timer = None
        asyncio.get_running_loop().call_soon(ring)
