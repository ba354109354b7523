"""Exited processes that had kept programs: the counters of those.

The last ``MAX_LISTED`` are kept with each probe; of those before only sums by program are kept, so
that a process that forks for years loses no count and takes no memory.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from dprobed.daemon.dump_sums import DumpSums
from dprobed.daemon.target import InsertedProgram, Target
from dprobed.daemon.variables import VariableSums
from dprobed.wire import messages
from dprobed.wire.counters import Counters

#: Exited processes of which ``query`` still shows each probe.
MAX_LISTED: Final = 64
#: Programs of which sums are kept.
_MAX_SUMS: Final = 1000

_log = logging.getLogger("dprobed")


class ExitedProcesses:
    """The exited processes of this daemon that had kept programs."""

    def __init__(self) -> None:
        self._targets: deque[Target] = deque()
        #: By program number: the one inserted last, in how many, and the sums of all.
        self._sums: dict[int, tuple[InsertedProgram, int, Counters]] = {}
        self._variables: dict[int, VariableSums] = {}
        self._dumps: dict[int, DumpSums] = {}

    def __iter__(self) -> Iterator[Target]:
        """Those kept with each probe, the oldest first."""
        return iter(self._targets)

    def __contains__(self, target: Target) -> bool:
        return target in self._targets

    def add(self, target: Target, programs: Iterable[InsertedProgram]) -> None:
        """A process has exited with these programs in it."""
        target.programs = {inserted.number: inserted for inserted in programs}
        self._targets.append(target)
        while len(self._targets) > MAX_LISTED:
            for inserted in self._targets.popleft().programs.values():
                self._add(inserted)

    def _add(self, inserted: InsertedProgram) -> None:
        none = inserted, 0, Counters()
        _, processes, sums = self._sums.pop(inserted.number, none)
        counted = Counters.of(sums, *inserted.probe_infos())
        self._sums[inserted.number] = inserted, processes + 1, counted
        header = inserted.program.header
        if header.vars:
            its = self._variables.setdefault(inserted.number, VariableSums(header))
            its.add(inserted.variables)
        self._dumps.setdefault(inserted.number, DumpSums()).add(inserted.probe_infos())
        while len(self._sums) > _MAX_SUMS:
            oldest = next(iter(self._sums))
            forgotten, its_processes, its_sums = self._sums.pop(oldest)
            self._variables.pop(oldest, None)
            self._dumps.pop(oldest, None)
            _log.warning(
                "program %d (%s): its %d hits in %d exited processes are forgotten; "
                "`dprobe remove` of programs that are not wanted makes room",
                oldest,
                forgotten.label,
                its_sums.hits,
                its_processes,
            )

    def remove(self, target: Target, programs: Iterable[InsertedProgram]) -> None:
        """Forget these programs of an exited process."""
        for inserted in programs:
            target.release(inserted.number)
        if not target.programs:
            self._targets.remove(target)

    def earlier(self, select: messages.Select) -> list[InsertedProgram]:
        """The selected programs of which sums are kept; none where a single process is selected."""
        if select.pid is not None:
            return []
        return [inserted for inserted, *_ in self._sums.values() if inserted.matches(select)]

    def info(self, inserted: InsertedProgram) -> messages.EarlierInfo:
        """The sums of a program."""
        _, processes, sums = self._sums[inserted.number]
        return messages.EarlierInfo(
            number=inserted.number,
            program=inserted.label,
            module=inserted.program.header.name,
            processes=processes,
            no_dumps=self._dumps[inserted.number].refused,
            **sums.as_dict(),
        )

    def forget(self, inserted: InsertedProgram) -> None:
        """Forget the sums of a program."""
        self._sums.pop(inserted.number, None)
        self._variables.pop(inserted.number, None)
        self._dumps.pop(inserted.number, None)

    def variables(self, number: int) -> VariableSums | None:
        """The sums of a program's variables."""
        return self._variables.get(number)
