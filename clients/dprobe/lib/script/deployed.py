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
from dprobe.lib.script.processes import Once, asked, not_set
from dprobe.lib.told_maps import MapChange, changed, forgotten
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
        self._say: Final = Once(say)
        self._numbers: list[int] = []
        self._last: list[messages.MapInfo] = []
        #: What blocks have set: a process gets it when the programs come into it.
        self._values: dict[str, dict[tuple[int | str, ...], messages.MapEntry]] = {}
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
            answer = self._removed(number)
            if answer is not None:
                found += answer.deployments
                self._last += answer.maps
        self._over = True
        return sum(each.dropped for each in found), list(dict.fromkeys(_gaps(found)))

    def watch(self, pid: int, program: int, address: int) -> None:
        """Not here: such scripts are refused before."""

    def unwatch(self, pid: int, address: int) -> None:
        """Nothing is watched here."""

    def _removed(self, number: int) -> messages.Removed | None:
        """Take one of the programs out; None: it is not there any more."""
        with contextlib.suppress(UserError):
            answer = self._connection.request(
                lambda request: messages.Remove(id=request, select=messages.Select(number=number)),
                messages.Removed,
            )
            for why in answer.stays.values():
                self._say(f"{why}; what it counted at last is left out")
            return answer
        return None

    def maps(self, names: Sequence[str], reset: str = "") -> list[messages.MapInfo]:
        """Maps of the programs, those of ended processes too; then reset as asked."""
        if reset:
            self._begin_anew(names, keep_keys=reset == "zero")
        if self._over:
            found = [each for each in self._last if each.map in names]
            if reset:
                self._last = forgotten(self._last, names, keep_keys=reset == "zero")
            return found
        found = []
        for number in self._numbers:
            found += asked(self._connection, number, names, reset, self._say)
        return found

    def _begin_anew(self, names: Sequence[str], *, keep_keys: bool) -> None:
        """What processes to come would get of maps that are reset."""
        for name in names:
            values = self._values.pop(name, {})
            if values and keep_keys:
                self._values[name] = {
                    key: messages.MapEntry(entry.key, [0] * len(entry.cell))
                    for key, entry in values.items()
                }

    def put(self, changes: Sequence[MapChange]) -> None:
        """Change maps of values in each process, in those to come, and in what ended ones had."""
        for each in changes:
            values = self._values.get(each.name, {})
            for key in each.gone:
                values.pop(tuple(key), None)
            if each.entries:
                values.update((tuple(entry.key), entry) for entry in each.entries)
                self._values[each.name] = values
            for number in () if self._over else self._numbers:
                self._set(number, each, None)
            self._last = changed(self._last, each)

    def settle(self) -> Sequence[int]:
        """Hand values over to processes that the programs came into since; none is to be learnt."""
        new, self._new = self._new, set()
        for pid in new if self._values else ():
            for number in self._numbers:
                for name, values in self._values.items():
                    self._set(number, MapChange(name, list(values.values()), []), pid)
        return ()

    def _set(self, number: int, change: MapChange, pid: int | None) -> None:
        for line in not_set(self._connection, number, change, pid):
            self._say(line)

    def _report(self, report: messages.Report) -> None:
        if isinstance(report, messages.StateChange):
            self._new |= {probe.pid for probe in report.probes if probe.state == "active"}
            self._tell_of(report.probes)
        elif isinstance(report, messages.Notice) and report.kind not in ("exec",):
            self._say(report.text)

    def _tell_of(self, probes: Sequence[messages.ProbeInfo]) -> None:
        """Say which of these are not in."""
        for probe in probes:
            if probe.state not in ("active", "pending", "disabled", "removed"):
                self._say(f"{probe.program} {probe.place}: {probe.state}: {probe.reason}")


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
