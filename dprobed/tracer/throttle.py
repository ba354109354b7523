"""Keeps the budgets of one target: probes that cost too much are throttled, or removed.

A throttled probe is removed from the text, and inserted again when its accounts allow it: so it
costs nothing meanwhile. Hits that it would have had then are not seen, and nobody knows how many
there were: so for how long it slept is counted. A probe that is *always* in sleeps only by an
account of its own.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from dprobed.engine.budget import Account
from dprobed.engine.probe import Probe
from dprobed.tracer.programs import Programs
from dprobed.wire.protocol import State

#: For so long after its end a throttling is still shown.
_SHOWN_NS: Final = 1_000_000_000


class Throttle:
    """The throttle of one target. ``request_attention`` has the main loop call ``attend``."""

    def __init__(self, programs: Programs, request_attention: Callable[[], None]) -> None:
        self._programs: Final = programs
        self._request_attention: Final = request_attention
        self._over: list[Account] = []
        self._throttled: dict[Probe, None] = {}

    @property
    def is_throttling(self) -> bool:
        """Whether a probe is throttled: ``attend`` is to be called now and then."""
        return bool(self._throttled)

    def note(self, account: Account) -> None:
        """An account is overdrawn; called in the middle of a hit."""
        self._over.append(account)
        self._request_attention()

    def attend(self) -> None:
        """Throttle what is over its budget, and insert again what is not any more; raises Gone."""
        over, self._over = self._over, []
        for account in over:
            self._throttle(account)
        if self._throttled:
            self._reinsert()

    def _throttle(self, account: Account) -> None:
        now = time.monotonic_ns()
        probes = [
            probe
            for probe in self._programs.probes()
            if account in probe.governors and probe.attachments and not probe.over
        ]
        if not probes and any(account in probe.governors for probe in self._throttled):
            return  # by a thread that had met one before it was out
        if account.limits.remove or not probes:
            self._remove(account, probes, now)
            return
        fresh = [probe for probe in probes if now > probe.throttled_until]
        for probe in probes:
            self._throttled[probe] = None
            probe.sleep(now)
            probe.throttled = account.reason()
            probe.throttled_until = account.over_until + _SHOWN_NS
            probe.set(State.THROTTLED, probe.throttled)
        self._programs.places.remove(probes)
        # All threads were stopped for that.
        done = time.monotonic_ns()
        account.charge(done - now, done, hits=0)
        self._programs.places.tell_changed(fresh)

    def _remove(self, account: Account, probes: list[Probe], now: int) -> None:
        """Remove the program that was hit most; if that is not enough, the next one follows."""
        hits: Counter[int] = Counter()
        for probe in probes:
            hits[probe.program] += probe.hits - probe.mark
        for program, _ in hits.most_common(1):
            out = [probe for probe in probes if probe.program == program]
            for probe in out:
                probe.set(State.DISABLED, account.reason())
            self._programs.places.remove(out)
            self._programs.places.tell_changed(out)
        for probe in probes:
            probe.mark = probe.hits
        account.refill(now)

    def _reinsert(self) -> None:
        now = time.monotonic_ns()
        for account in {account for probe in self._throttled for account in probe.governors}:
            account.reopen(now)
            if account.over_until and any(
                account in probe.governors and probe.attachments and not probe.over
                for probe in self._programs.probes()
            ):
                # Came in meanwhile: by an ``exec``, a module that was loaded, another program. Its
                # hits would keep the account from ever being reopened.
                self._throttle(account)
        awake = [
            probe
            for probe in self._throttled
            if not any(account.over_until for account in probe.governors)
        ]
        for probe in awake:
            del self._throttled[probe]
            if probe.state is not State.THROTTLED:
                continue  # ``exec`` put it in, or it was removed
            probe.set(State.PENDING, probe.throttled)
        self._programs.place_again(awake)
        for probe in awake:
            probe.mark = probe.hits
