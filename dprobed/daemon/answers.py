"""The answers that a backend owes, and what is done where they do not come.

Whoever waits for a tracer may hold others up: a worker that inserts deployments, root's ``query``
over all targets, a change of policies. A tracer may loop, or sleep in the kernel, and it belongs to
the user who asked. So each request has a deadline. What has missed one *is silent*: nothing is sent
to it any more until it answers, whatever that is, and who asks is told so; once in a while somebody
waits for a moment. An answer that comes after its deadline is dropped, except for what its request
says is to be done then (``late``): a program that nobody waits for any more is taken out again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from dprobed.backend import PATIENCE, BackendGone, BackendRefused, BackendSilent
from dprobed.wire import protocol

#: Seconds for which one who asks a silent backend waits for it, and in how many that is done once.
_TRIAL: Final = 1.0
_TRIALS: Final = 10.0

_log = logging.getLogger("dprobed")


class _Owed:
    """One answer. ``late``: what to do if it comes too late, and the request is done."""

    def __init__(self, what: str, late: Callable[[], None] | None) -> None:
        self.what: Final = what
        self.late: Final = late
        self.since: Final = time.monotonic()
        self.future: Final[asyncio.Future[protocol.Ok]] = asyncio.get_running_loop().create_future()
        self.timer: asyncio.TimerHandle | None = None
        self.missed = False


class Answers:
    """Those of one backend; ``name``: what to call it."""

    def __init__(self, name: str) -> None:
        self._name: Final = name
        self._owed: Final[dict[int, _Owed]] = {}
        #: Since when the first request waits that has missed its deadline; None: none has since it
        #: last answered.
        self._silent_since: float | None = None
        self._tried_at = -_TRIALS
        self._heard: Final = asyncio.Event()

    @property
    def is_silent(self) -> bool:
        """Whether a request has missed its deadline, and none was answered since."""
        return self._silent_since is not None

    @property
    def waits(self) -> float:
        """Seconds since the oldest request that has no answer yet, though it has a deadline: a core
        takes its time."""
        since = [
            each.since
            for each in self._owed.values()
            if each.timer is not None and not each.future.cancelled()
        ]
        return time.monotonic() - min(since) if since else 0.0

    async def admit(self) -> None:
        """That something may be asked; raises BackendSilent."""
        if self._silent_since is None:
            return
        now = time.monotonic()
        if now - self._tried_at >= _TRIALS:
            self._tried_at = now
            await self.heard(_TRIAL)
        if self._silent_since is not None:
            raise BackendSilent(self._text())

    async def heard(self, seconds: float | None = None) -> None:
        """Wait until it is silent no longer, or so long."""
        if self._silent_since is not None:
            try:
                await asyncio.wait_for(self._heard.wait(), seconds)
            except TimeoutError:
                return

    def expect(
        self,
        request: protocol.Request,
        patience: float | None = PATIENCE,
        late: Callable[[], None] | None = None,
    ) -> asyncio.Future[protocol.Ok]:
        """The answer to a request that is being sent: raises BackendRefused, BackendGone, and
        BackendSilent after ``patience`` seconds."""
        owed = self._owed[request.seq] = _Owed(type(request).__name__.lower(), late)
        if patience is not None:
            loop = asyncio.get_running_loop()
            owed.timer = loop.call_later(patience, self._miss, owed)
        return owed.future

    def _miss(self, owed: _Owed) -> None:
        if owed.future.done():
            return
        owed.missed = True
        if self._silent_since is None:
            self._silent_since = owed.since
            self._tried_at = time.monotonic()
            self._heard.clear()
            _log.warning("%s does not answer, for %.0f s (%s)", self._name, self.waits, owed.what)
        owed.future.set_exception(BackendSilent(self._text()))

    def _text(self) -> str:
        since = self._silent_since
        return f"does not answer, for {time.monotonic() - (since or 0.0):.0f} s"

    def take(self, reply: protocol.Reply) -> None:
        """A reply has come."""
        owed = self._owed.pop(reply.seq, None)
        if owed is None:
            return
        self._end_silence()
        if owed.timer is not None:
            owed.timer.cancel()
        if owed.future.done():
            if owed.missed:
                _log.warning("%s answers too late (%s)", self._name, owed.what)
            if owed.missed and owed.late is not None and isinstance(reply, protocol.Ok):
                owed.late()
        elif isinstance(reply, protocol.Ok):
            owed.future.set_result(reply)
        else:
            owed.future.set_exception(BackendRefused(reply.reason))

    def end(self, why: str) -> None:
        """No further answer comes."""
        for owed in self._owed.values():
            if owed.timer is not None:
                owed.timer.cancel()
            if not owed.future.done():
                owed.future.set_exception(BackendGone(why))
        self._owed.clear()
        self._end_silence()

    def _end_silence(self) -> None:
        if self._silent_since is not None:
            self._silent_since = None
            self._heard.set()
