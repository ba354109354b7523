"""Takes over what was counted in a target, and its records."""

from __future__ import annotations

import time
from typing import Final

from dprobed.engine.inline.offers import COST_NS, FILTERED, STOP_COST_NS, is_filtered, makes_calls
from dprobed.engine.inline.placing import Placer
from dprobed.engine.inline.records import RecordReader
from dprobed.engine.inline.rings import DAMAGE
from dprobed.engine.interface import Listener
from dprobed.engine.probe import Probe
from dprobed.wire.engines import SIGNAL
from dprobed.wire.protocol import State

#: How many times as long as records took to be read others' work goes first.
_REST: Final = 2
_TOO_MANY: Final = "more calls are running at a time than are followed"


class InlineCounts:
    """Of one target."""

    def __init__(self, listener: Listener) -> None:
        self._listener: Final = listener
        #: Until when records are left alone, but for those who ask (monotonic ns).
        self._rests_until = 0

    @property
    def is_rested(self) -> bool:
        """Whether to read records again: it is to take a third of our time at most."""
        return time.monotonic_ns() >= self._rests_until

    def sync(self, placer: Placer, reader: RecordReader, *, final: bool) -> None:
        """Take over what was counted since the last time, and records. ``final``: no thread runs
        any more."""
        if placer.clock is not None:
            placer.clock.look()
            if placer.told_clock is not None:
                placer.told_clock.tune(placer.clock)
        if placer.rings is not None and placer.clock is not None:
            began = time.monotonic_ns()
            found = placer.rings.read(final=final)
            if not reader.take(found, placer.places, placer.clock):
                placer.rings.damage = DAMAGE
            now = time.monotonic_ns()
            self._rests_until = now + _REST * (now - began)
        retired = self._fail_filtered(placer) | self._fail_damaged(placer)
        for probe, counter in placer.counters.items():
            # The target can write there, and could have them fall.
            hits = max(probe.hits, min(counter.hits, probe.last))
            new, probe.hits = hits - probe.hits, hits
            probe.spent_ns += new * COST_NS
            if probe.over or probe.state is State.FAILED:
                continue
            probe.ran += max(0, hits - max(probe.pass_count, hits - new))
            probe.dropped += counter.take_lost()
            probe.missed += counter.take_missed()
            probe.unwound += counter.take_unwound()
            if unfollowed := counter.take_unfollowed():
                probe.note_missed(_TOO_MANY, unfollowed)
            if counter.is_over and probe.attachments:
                probe.set(State.REMOVED)
                retired = True
            elif hits >= probe.last:
                probe.set(State.DISABLED)
                retired = True
            else:
                counter.limit(probe.last)
                self._charge(probe, new)
        if retired:
            self._listener.retired()

    @staticmethod
    def _fail_filtered(placer: Placer) -> bool:
        """Fail the probes whose programs make system calls, where the target has given itself a
        filter of them since; whether there are any. Their programs run no more from here on."""
        calling = [probe for probe in placer.counters if makes_calls(probe) and probe.attachments]
        if not calling or not is_filtered(placer):
            return False
        for probe in calling:
            placer.end(probe)
            probe.set(State.FAILED, FILTERED)
        return True

    @staticmethod
    def _fail_damaged(placer: Placer) -> bool:
        """Fail the probes whose records' memory the target has written over; whether it has."""
        reason = placer.rings.damage if placer.rings is not None else ""
        # At a detach they have no places any more, but a summary that is to come.
        failing = [
            each
            for each in placer.counters
            if reason and (each.attachments or each.state is State.ACTIVE)
        ]
        for probe in failing:
            placer.end(probe)
            probe.set(State.FAILED, reason)
        return bool(failing)

    def _charge(self, probe: Probe, hits: int) -> None:
        now = time.monotonic_ns()
        by_breakpoint = any(each.engine == SIGNAL for each in probe.attachments)
        cost = hits * (STOP_COST_NS if by_breakpoint else COST_NS)
        for account in probe.accounts:
            if account.charge(cost, now, hits) and not account.noted:
                account.noted = True
                self._listener.overdrawn(account)
