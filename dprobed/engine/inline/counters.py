"""The words that a probe shares with its trampolines."""

from __future__ import annotations

from typing import Final

from dprobed.arch.x86_64.trampoline import (
    CONTROL_FULL,
    CONTROL_HITS,
    CONTROL_LAST,
    CONTROL_LOST,
    CONTROL_MISSED,
    CONTROL_OVER,
    CONTROL_PASSED,
    CONTROL_UNWOUND,
)

_LAST: Final = (1 << 64) - 1
#: More than can be counted in a hundred days, a hit each 30 ns: the target can write there as well
#: as its trampolines, and sums of what it writes go into messages.
_MOST: Final = 1 << 48
#: What is only counted up.
_COUNTED: Final = (CONTROL_LOST, CONTROL_MISSED, CONTROL_UNWOUND, CONTROL_FULL)


class ProbeCounter:
    """The words that a probe shares with its trampolines."""

    def __init__(self, address: int, words: memoryview) -> None:
        self.address: Final = address
        self._words: Final = words
        #: What was taken of each word that only counts.
        self._taken: Final = dict.fromkeys(_COUNTED, 0)

    @property
    def hits(self) -> int:
        """How often it was come by."""
        return min(self._words[CONTROL_HITS // 8], _MOST)

    def take_lost(self) -> int:
        """Records for which there was no room, since the last time."""
        return self._take(CONTROL_LOST)

    def take_missed(self) -> int:
        """Calls whose entry part failed, since the last time."""
        return self._take(CONTROL_MISSED)

    def take_unwound(self) -> int:
        """Calls that were left without returning, since the last time."""
        return self._take(CONTROL_UNWOUND)

    def take_unfollowed(self) -> int:
        """Calls that could not be followed, since the last time."""
        return self._take(CONTROL_FULL)

    def _take(self, offset: int) -> int:
        count = min(self._words[offset // 8], _MOST)
        new = max(0, count - self._taken[offset])
        self._taken[offset] += new
        return new

    @property
    def is_over(self) -> bool:
        """Whether its program has said that it is never to run again."""
        return self._words[CONTROL_OVER // 8] != 0

    def begin(self, hits: int, passed: int, last: int) -> None:
        """Set them, before anybody comes by."""
        self._words[CONTROL_HITS // 8] = hits
        self._words[CONTROL_PASSED // 8] = passed
        for offset in (CONTROL_OVER, *_COUNTED):
            self._words[offset // 8] = 0
        self.limit(last)

    def end(self) -> None:
        """Its program does not run any more."""
        self._words[CONTROL_OVER // 8] = 1

    def resume(self) -> None:
        """It runs again."""
        self._words[CONTROL_OVER // 8] = 0

    def limit(self, last: int) -> None:
        """The last hit that runs the program."""
        self._words[CONTROL_LAST // 8] = min(last, _LAST)
