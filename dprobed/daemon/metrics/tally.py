"""Counters that never fall, whatever comes and goes below them, under a bounded number of names.

What a probe has counted goes with its program: it is removed, its process ends. What Prometheus
reads may only grow, or it takes the next value for a new beginning. So each source (a program in a
process, a process) is looked at when somebody asks, and once more when it goes; what it gained
since the last look is added to the counters under its name.

Names come from users (labels of programs, names of processes), who can make any number of them. So
many have counters of their own: ``OF_A_USER`` for each user besides root, ``IN_ALL`` together. For
a further one the name that has had no source for the longest gives its place, and its counts go on
under ``OTHER``, as do those of who comes when all names are in use. No count is lost by that, and
every series, ``OTHER`` too, only grows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Final

import msgspec

#: Names of one user (not root), and of all.
OF_A_USER: Final = 100
IN_ALL: Final = 1000
#: Stands for the names that have no counters of their own.
OTHER: Final = "(other)"

#: A program, and the name of a process.
Name = tuple[str, str]
_OTHERS: Final[Name] = (OTHER, OTHER)


class _Series(msgspec.Struct, eq=False):
    """The counters under a name; ``sources``: how many are counted under it at present."""

    uid: int
    sums: Counter[str]
    sources: int = 0


class _Source(msgspec.Struct, eq=False):
    """What a source had counted at the last look, and under which name."""

    name: Name
    last: dict[str, int]


class Tally:
    """Sums of what sources have counted, by name."""

    def __init__(self, of_a_user: int = OF_A_USER, in_all: int = IN_ALL) -> None:
        self._of_a_user: Final = of_a_user
        self._in_all: Final = in_all
        #: The one that lost its last source the longest ago first.
        self._series: dict[Name, _Series] = {}
        self._sources: dict[Hashable, _Source] = {}
        #: By user, how many of the names are that user's; without ``OTHER``.
        self._names: Counter[int] = Counter()

    def carry(self, source: Hashable, name: Name, uid: int, counts: Mapping[str, int]) -> None:
        """A source begins with counts that were somebody else's to tell."""
        if source not in self._sources:
            self._begin(source, name, uid).last = dict(counts)

    def look(self, source: Hashable, name: Name, uid: int, counts: Mapping[str, int]) -> None:
        """What a source of user ``uid`` has counted by now."""
        found = self._sources.get(source)
        if found is None:
            found = self._begin(source, name, uid)
        elif found.name not in (name, _OTHERS):
            self._leave(found)
            found.name = self._enter(name, uid)
        sums = self._series[found.name].sums
        for what, count in counts.items():
            sums[what] += max(0, count - found.last.get(what, 0))
        found.last = dict(counts)

    def end(self, source: Hashable) -> None:
        """A source is gone; it has been looked at before."""
        found = self._sources.pop(source, None)
        if found is not None:
            self._leave(found)

    def sums(self) -> dict[Name, dict[str, int]]:
        """All counters (a copy)."""
        return {name: dict(series.sums) for name, series in self._series.items()}

    def _begin(self, source: Hashable, name: Name, uid: int) -> _Source:
        found = self._sources[source] = _Source(self._enter(name, uid), {})
        return found

    def _enter(self, name: Name, uid: int) -> Name:
        """Count one more source under a name; the name that it is counted under."""
        if name not in self._series and not self._make_room(uid):
            name = _OTHERS
        series = self._series.get(name)
        if series is None:
            series = self._series[name] = _Series(-1 if name == _OTHERS else uid, Counter())
            if name != _OTHERS:
                self._names[uid] += 1
        series.sources += 1
        return name

    def _leave(self, source: _Source) -> None:
        series = self._series[source.name]
        series.sources -= 1
        if not series.sources:
            self._series[source.name] = self._series.pop(source.name)  # to the end

    def _make_room(self, uid: int) -> bool:
        """Whether there is room for one more name of a user."""
        if uid != 0 and self._names[uid] >= self._of_a_user:
            return self._fold(uid)
        return self._names.total() < self._in_all or self._fold(None)

    def _fold(self, uid: int | None) -> bool:
        """Give up a name that is not in use, of a user or of all; false where all are."""
        for name, series in self._series.items():
            if not series.sources and name != _OTHERS and uid in (None, series.uid):
                rest = self._series.setdefault(_OTHERS, _Series(-1, Counter()))
                rest.sums.update(self._series.pop(name).sums)
                self._names[series.uid] -= 1
                return True
        return False
