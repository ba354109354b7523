"""Processes that have ended with programs that were to stay: what these counted.

The last ``WHOLE`` are kept as they were; of those before only sums are, by program, so that a
process which forks for years loses no count and takes no memory.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Final

from dprobed.daemon.target import InsertedProgram, Target
from dprobed.wire import messages

#: Ended processes of which ``query`` still shows each probe.
WHOLE: Final = 64
#: Programs of which sums are kept.
_PROGRAMS: Final = 1000

_log = logging.getLogger("dprobed")


class ExitedProcesses:
    """The ended processes of this daemon."""

    def __init__(self) -> None:
        self._targets: deque[Target] = deque()
        #: By a program's number: the last of its entries, and what all of them counted.
        self._sums: dict[int, tuple[InsertedProgram, Counter[str]]] = {}

    def __iter__(self) -> Iterator[Target]:
        """Those that are kept as they were, the oldest first."""
        return iter(self._targets)

    def __contains__(self, target: Target) -> bool:
        return target in self._targets

    def add(self, target: Target, entries: Iterable[InsertedProgram]) -> None:
        """A process has ended with these programs in it."""
        target.entries = {entry.number: entry for entry in entries}
        self._targets.append(target)
        while len(self._targets) > WHOLE:
            for entry in self._targets.popleft().entries.values():
                self._add(entry)

    def _add(self, entry: InsertedProgram) -> None:
        _, sums = self._sums.pop(entry.number, (entry, Counter()))
        self._sums[entry.number] = entry, sums
        sums["processes"] += 1
        for probe in entry.probe_infos():
            for name in ("hits", "ran", "missed", "dropped", "faulted", "passed"):
                sums[name] += getattr(probe, name)
        while len(self._sums) > _PROGRAMS:
            oldest = next(iter(self._sums))
            forgotten, its_sums = self._sums.pop(oldest)
            _log.warning(
                "program %d (%s): its %d hits in %d ended processes are forgotten; "
                "`dprobe remove` of programs that are not wanted makes room",
                oldest,
                forgotten.label,
                its_sums["hits"],
                its_sums["processes"],
            )

    def remove(self, target: Target, entries: Iterable[InsertedProgram]) -> None:
        """These programs of an ended process are not wanted any longer."""
        for entry in entries:
            del target.entries[entry.number]
        if not target.entries:
            self._targets.remove(target)

    def earlier(self, select: messages.Select) -> list[InsertedProgram]:
        """For each selected program one of its entries in the processes that only sums are kept of;
        of a single process none are."""
        if select.pid is not None:
            return []
        return [entry for entry, _ in self._sums.values() if entry.matches(select)]

    def info(self, entry: InsertedProgram) -> messages.EarlierInfo:
        """The sums of an entry's program."""
        _, sums = self._sums[entry.number]
        return messages.EarlierInfo(
            number=entry.number,
            program=entry.label,
            module=entry.program.header.name,
            processes=sums["processes"],
            hits=sums["hits"],
            ran=sums["ran"],
            missed=sums["missed"],
            dropped=sums["dropped"],
            faulted=sums["faulted"],
            passed=sums["passed"],
        )

    def forget(self, entry: InsertedProgram) -> None:
        """The sums of an entry's program are not wanted any longer."""
        self._sums.pop(entry.number, None)
