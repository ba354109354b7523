"""Why dumps that the probes of a program asked for were not made, summed over processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from dprobed.wire import messages
from dprobed.wire.protocol import OTHER_REASONS

#: Causes that are counted one by one; the rest are counted together.
_CAUSES: Final = 32


class DumpSums:
    """Cores that were not written, by cause. (Those that were are a counter: ``wire.counters``.)"""

    def __init__(self, others: DumpSums | None = None) -> None:
        """``others``: sums to begin with."""
        self._refused: Counter[str] = Counter(others.refused if others is not None else ())

    @property
    def refused(self) -> dict[str, int]:
        """By cause, the most first."""
        return dict(self._refused.most_common())

    def add(self, probes: Iterable[messages.ProbeInfo]) -> None:
        """Those of probes, too."""
        for probe in probes:
            for cause, count in probe.no_dumps.items():
                known = cause in self._refused or len(self._refused) < _CAUSES
                self._refused[cause if known else OTHER_REASONS] += count
