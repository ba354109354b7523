"""Signals as something to wait for together with a connection (poll and the wakeup descriptor)."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import FrameType

    from dprobe.lib.connection import Connection


#: Signals at which what goes on without an end of its own ends.
ENDS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Seconds that can be waited for at most: `poll` takes milliseconds in 32 bits, which is 24 days.
LONGEST: Final = 2_000_000


class StopRequest:
    """The first signal asks for the end in good order, a second one ends at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def handlers(self) -> dict[signal.Signals, Callable[[], None]]:
        """What each of ``ENDS`` does, as a ``Waker`` takes it."""
        return {number: partial(self._come, number) for number in ENDS}

    def _come(self, number: signal.Signals) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number


class Waker:
    """Signals as something to wait for together with the connection.

    Within the context each signal of ``handlers`` runs its function, and ends a ``wait``.
    """

    def __init__(self, handlers: Mapping[signal.Signals, Callable[[], None]]) -> None:
        self._handlers = handlers
        self._before: dict[signal.Signals, object] = {}
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def __enter__(self) -> Waker:
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number, function in self._handlers.items():
            self._before[number] = signal.signal(number, self._handler(function))
        return self

    @staticmethod
    def _handler(function: Callable[[], None]) -> Callable[[int, FrameType | None], None]:
        return lambda number, frame: function()

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]
        signal.set_wakeup_fd(-1)
        os.close(self._read)
        os.close(self._write)

    def wait(self, connection: Connection | None, seconds: float | None) -> bool:
        """Until the connection has something (True), a signal came or the time is over (False)."""
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        if connection is not None:
            poll.register(connection, select.POLLIN)
        milliseconds = None if seconds is None else max(0, int(seconds * 1000) + 1)
        ready = {descriptor for descriptor, _ in poll.poll(milliseconds)}
        if self._read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._read, 4096)
        return connection is not None and connection.fileno() in ready
