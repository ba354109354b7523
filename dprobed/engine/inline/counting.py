"""Takes over what was counted in a target, and its records."""

from __future__ import annotations

import time
from typing import Final

from dprobed.engine.inline.placing import Placer
from dprobed.engine.inline.records import RecordReader
from dprobed.engine.interface import Listener
from dprobed.engine.probe import Probe
from dprobed.wire.protocol import State

#: What a hit is charged to budgets.
_COST_NS: Final = 15


class InlineCounts:
    """Of one target."""

    def __init__(self, listener: Listener) -> None:
        self._listener: Final = listener

    def sync(self, placer: Placer, reader: RecordReader, *, final: bool) -> None:
        """Take over what was counted since the last time, and records. ``final``: no thread runs
        any more."""
        retired = False
        if placer.rings is not None and placer.clock is not None:
            placer.clock.look()
            found = placer.rings.read(final=final)
            reader.take(found, placer.places, placer.clock)
        for probe, counter in placer.counters.items():
            hits = min(counter.hits, probe.last)
            new, probe.hits = hits - probe.hits, hits
            if probe.over:
                continue
            probe.ran += max(0, hits - max(probe.pass_count, hits - new))
            probe.dropped += counter.take_lost()
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

    def _charge(self, probe: Probe, hits: int) -> None:
        now = time.monotonic_ns()
        for account in probe.accounts:
            if account.charge(hits * _COST_NS, now) and not account.noted:
                account.noted = True
                self._listener.overdrawn(account)
