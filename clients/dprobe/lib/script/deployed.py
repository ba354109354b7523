"""A script in every process that maps its modules, those to come too: a deployment.

It lasts as long as the connection. Its daemon is told of new processes by the kernel where that may
be asked for (root), and looks for them itself where not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from dprobe.lib.connection import Connection
from dprobe.lib.errors import UserError
from dprobed.wire import messages


class Deployed:
    """The deployments of one script's programs. ``say`` is told of what is wrong with a process."""

    def __init__(
        self,
        connection: Connection,
        on_record: Callable[[bytes], None],
        say: Callable[[str], None],
    ) -> None:
        self._connection: Final = connection
        self._say: Final = say
        self._numbers: list[int] = []
        self._told: set[str] = set()
        self._last: list[messages.MapInfo] = []
        #: Values that a process gets when the programs come into it.
        self._values: dict[str, list[messages.MapEntry]] = {}
        self._new: set[int] = set()
        self._over = False
        connection.listen(on_record, self._report)

    def deploy(
        self,
        uploads: Sequence[messages.Upload],
        selection: messages.Selection,
        *,
        check_opcode: bool,
    ) -> None:
        """Put the programs into all processes that are selected; raises UserError."""
        answer = self._connection.request(
            lambda number: messages.Deploy(
                id=number,
                programs=list(uploads),
                selection=selection,
                check_opcode=check_opcode,
            ),
            messages.Deployed,
        )
        self._numbers = [each.number for each in answer.deployments]

    def take_out(self) -> tuple[int, list[str]]:
        """Take them out everywhere; how many records were lost, and what else was missed."""
        found: list[messages.DeploymentInfo] = []
        for number in self._numbers:
            with contextlib.suppress(UserError):
                answer = self._connection.request(
                    lambda request, n=number: messages.Remove(  # type: ignore[misc]
                        id=request, select=messages.Select(number=n)
                    ),
                    messages.Removed,
                )
                found += answer.deployments
                self._last += answer.maps
                for why in answer.stays.values():
                    self._tell(f"{why}; what it counted at last is left out")
        self._over = True
        return sum(each.dropped for each in found), list(dict.fromkeys(_gaps(found)))

    def maps(self, names: Sequence[str], reset: str = "") -> list[messages.MapInfo]:
        """Maps of the programs, those of ended processes too; then reset as asked."""
        if self._over:
            found = [each for each in self._last if each.map in names]
            if reset:
                self._last = [each for each in self._last if each.map not in names]
            return found
        found = []
        for number in self._numbers:
            for name in names:
                with contextlib.suppress(UserError):  # no process has it yet
                    answer = self._connection.request(
                        lambda request, n=number, m=name: messages.Maps(  # type: ignore[misc]
                            id=request,
                            select=messages.Select(number=n),
                            name=m,
                            reset=reset,  # type: ignore[arg-type]
                        ),
                        messages.MapListing,
                    )
                    found += answer.maps
                    for pid in answer.silent:
                        self._tell(f"{_silent(pid)}; what it has in maps is left out")
        return found

    def put(self, values: dict[str, list[messages.MapEntry]]) -> None:
        """Set all that maps of values have in each process, and in those to come."""
        self._values |= values
        for number in self._numbers:
            for name, entries in values.items():
                self._set(number, name, entries, None)

    def settle(self) -> None:
        """Hand values over to processes that the programs came into since."""
        new, self._new = self._new, set()
        for pid in new if self._values else ():
            for number in self._numbers:
                for name, entries in self._values.items():
                    self._set(number, name, entries, pid)

    def _set(
        self, number: int, name: str, entries: list[messages.MapEntry], pid: int | None
    ) -> None:
        with contextlib.suppress(UserError):  # it has ended, or has another of the programs
            answer = self._connection.request(
                lambda request: messages.SetMap(
                    id=request, number=number, name=name, entries=entries, pid=pid
                ),
                messages.MapListing,
            )
            for silent in answer.silent:
                self._tell(f"{_silent(silent)}; {name} may not be set there")

    def _report(self, report: messages.Report) -> None:
        if isinstance(report, messages.StateChange):
            self._new |= {probe.pid for probe in report.probes if probe.state == "active"}
            for probe in report.probes:
                if probe.state not in ("active", "pending", "disabled", "removed"):
                    self._tell(f"{probe.program} {probe.place}: {probe.state}: {probe.reason}")
        elif isinstance(report, messages.Notice) and report.kind not in ("exec",):
            self._tell(report.text)

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._say(text)


def _silent(pid: int) -> str:
    return f"process {pid}: its tracer does not answer"


def _gaps(infos: Sequence[messages.DeploymentInfo]) -> Iterator[str]:
    """What deployments did not see."""
    for each in infos:
        for why, count in each.refused.items():
            yield f"{each.module}: {_processes(count)} without probes: {why}"
        if each.missed:
            yield f"{each.module}: {_processes(each.missed)} ended before the probes were in"
        if each.missed_hits:
            yield f"{each.module}: {each.missed_hits} hits were missed"


def _processes(count: int) -> str:
    return f"{count} process{'es' * (count != 1)}"
