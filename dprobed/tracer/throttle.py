"""The budgets of one target kept: probes that cost too much sleep for a while, or go.

A throttled probe is taken out of the text, as if it were removed, and put in again when its
accounts allow it: so it costs nothing meanwhile. Hits that it would have had then are not seen.
From how often it was hit while it was in follows how many there were at least, because it slows
down what it hits: these are counted as *passed over*.
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

#: For so long after it slept a probe is shown as throttled.
_SHOWN_NS: Final = 1_000_000_000


class Throttle:
    """For one target. ``request_attention`` has ``attend`` called from the main loop."""

    def __init__(self, programs: Programs, request_attention: Callable[[], None]) -> None:
        self._programs: Final = programs
        self._request_attention: Final = request_attention
        self._over: list[Account] = []
        #: Since when, and how many hits a nanosecond it had before.
        self._throttled: dict[Probe, tuple[int, float]] = {}

    @property
    def is_throttling(self) -> bool:
        """Whether a probe is to be put in again: ``attend`` is to be called every now and then."""
        return bool(self._throttled)

    def note(self, account: Account) -> None:
        """An account is overdrawn; called in the middle of a hit."""
        self._over.append(account)
        self._request_attention()

    def attend(self) -> None:
        """Take out what is over its budget, and put in what is not any more; raises Gone."""
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
            if account in probe.accounts and probe.attachments and not probe.over
        ]
        if account.limits.remove or not probes:
            self._remove(account, probes, now)
            return
        fresh = [probe for probe in probes if now > probe.throttled_until]
        for probe in probes:
            rate = (probe.hits - probe.mark) / max(now - account.opened, 1)
            self._throttled[probe] = (now, rate)
            probe.throttled = account.reason()
            probe.throttled_until = account.over_until + _SHOWN_NS
            probe.set(State.THROTTLED, probe.throttled)
        self._programs.places.remove(probes)
        # All threads stood still for that.
        done = time.monotonic_ns()
        account.charge(done - now, done, hits=0)
        self._programs.places.tell_changed(fresh)

    def _remove(self, account: Account, probes: list[Probe], now: int) -> None:
        """The program that was hit most goes; if that is not enough, the next one will."""
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
        account.begin(now)

    def _reinsert(self) -> None:
        now = time.monotonic_ns()
        for account in {account for probe in self._throttled for account in probe.accounts}:
            account.reopen(now)
        awake = [
            probe
            for probe in self._throttled
            if not any(account.over_until for account in probe.accounts)
        ]
        for probe in awake:
            since, rate = self._throttled.pop(probe)
            if probe.state is not State.THROTTLED:
                continue  # ``exec`` put it in, or it was removed
            probe.passed += int(rate * (now - since))
            probe.set(State.PENDING, probe.throttled)
        self._programs.place_again(awake)
        for probe in awake:
            probe.mark = probe.hits
