"""The answers that a backend owes, and what is done where they do not come.

Whoever waits for a tracer may hold others up: a worker that inserts deployments, root's ``query``
over all targets, a change of policies. A tracer may loop, or sleep in the kernel, and it belongs to
the user who asked. So each request has a deadline. What has missed one, and answered nothing else
meanwhile, *is silent*: nothing is sent to it any more until anything comes of it, and who asks is
told so; once in a while somebody waits for a moment. What a tracer answers later by design
(``_DEFERRED``) says nothing of that. An answer that comes after its deadline is for ``late`` of its
request: a program that nobody waits for any more is taken out again, and no count is lost.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from dprobed.backend import PATIENCE, BackendGone, BackendRefused, BackendSilent, Late
from dprobed.wire import protocol

#: Seconds for which one who asks a silent backend waits for it, and in how many that is done once.
_TRIAL: Final = 1.0
_TRIALS: Final = 10.0
#: What is answered when something in the target is done, which may take any time: a tracer serves
#: other requests meanwhile.
_DEFERRED: Final = (protocol.Detach, protocol.Dump)

_log = logging.getLogger("dprobed")


class _Owed:
    """One answer. ``late``: what to do if it comes too late."""

    def __init__(self, request: protocol.Request, late: Late | None) -> None:
        self.what: Final = type(request).__name__.lower()
        self.is_deferred: Final = isinstance(request, _DEFERRED)
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
        #: When it last answered.
        self._answered_at = -_TRIALS
        #: Since when the request waits that has missed its deadline; None: it is not silent.
        self._silent_since: float | None = None
        self._tried_at = -_TRIALS
        self._heard: Final = asyncio.Event()

    @property
    def is_silent(self) -> bool:
        """Whether a request has missed its deadline, and nothing has come since."""
        return self._silent_since is not None

    @property
    def waits(self) -> float:
        """Seconds for which it has owed an answer that has a deadline (a core takes its time), and
        given none."""
        since = [
            each.since
            for each in self._owed.values()
            if each.timer is not None and not each.future.cancelled()
        ]
        return self._quiet(min(since)) if since else 0.0

    def _quiet(self, since: float) -> float:
        """Seconds since a moment, or since it last answered."""
        return time.monotonic() - max(since, self._answered_at)

    async def admit(self) -> None:
        """That something may be asked; raises BackendSilent."""
        if self._silent_since is None:
            return
        now = time.monotonic()
        if now - self._tried_at >= _TRIALS:
            self._tried_at = now
            await self.heard(_TRIAL)
        if self._silent_since is not None:
            raise BackendSilent(_text(self._silent_since), asked=False)

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
        late: Late | None = None,
    ) -> asyncio.Future[protocol.Ok]:
        """The answer to a request that is being sent: raises BackendRefused, BackendGone, and
        BackendSilent after ``patience`` seconds."""
        owed = self._owed[request.seq] = _Owed(request, late)
        if patience is not None:
            loop = asyncio.get_running_loop()
            owed.timer = loop.call_later(patience, self._miss, owed, min(patience, PATIENCE))
        return owed.future

    def _miss(self, owed: _Owed, quiet: float) -> None:
        """A deadline is over; ``quiet``: seconds without an answer after which it is silent."""
        if owed.future.done():
            return
        owed.missed = True
        if self._silent_since is None:
            _log.warning("%s %s (%s)", self._name, _text(owed.since), owed.what)
            if not owed.is_deferred and self._quiet(owed.since) >= quiet:
                self._silent_since = owed.since
                self._tried_at = time.monotonic()
                self._heard.clear()
        owed.future.set_exception(BackendSilent(_text(owed.since), asked=True))

    def take(self, reply: protocol.Reply) -> None:
        """A reply has come."""
        owed = self._owed.pop(reply.seq, None)
        if owed is None:
            return
        self._answered_at = time.monotonic()
        self.hear()
        if owed.timer is not None:
            owed.timer.cancel()
        answer = reply if isinstance(reply, protocol.Ok) else None
        if owed.future.done():
            if owed.missed:
                _log.warning("%s answers too late (%s)", self._name, owed.what)
            if owed.missed and owed.late is not None:
                owed.late(answer)
        elif isinstance(reply, protocol.Ok):
            owed.future.set_result(reply)
        else:
            owed.future.set_exception(BackendRefused(reply.reason))

    def hear(self) -> None:
        """Something has come of it, an answer or an event: it is silent no longer."""
        if self._silent_since is not None:
            self._silent_since = None
            self._heard.set()

    def end(self, why: str) -> None:
        """No further answer comes."""
        for owed in self._owed.values():
            if owed.timer is not None:
                owed.timer.cancel()
            if not owed.future.done():
                owed.future.set_exception(BackendGone(why))
        self._owed.clear()
        self.hear()


def _text(since: float) -> str:
    return f"does not answer, for {time.monotonic() - since:.0f} s"
