"""The processes of a session, as a script's maps see them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from dprobe.lib.connection import Connection
from dprobe.lib.errors import UserError
from dprobe.lib.session import Session
from dprobe.lib.told_maps import MapChange, changed, forgotten
from dprobed.proc import procfs
from dprobed.wire import messages


class Once:
    """Says each text once, however often it comes up."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say: Final = say
        self._said: Final[set[str]] = set()

    def __call__(self, text: str) -> None:
        """Say it, unless it was said."""
        if text not in self._said:
            self._said.add(text)
            self._say(text)


def not_set(
    connection: Connection, number: int, change: MapChange, pid: int | None = None
) -> Iterator[str]:
    """Set keys of a map of values of a program in each process, or in this one; in which that was
    not done, and why. It is no matter if the program is in none any more, or a process ends."""
    name = change.name
    try:
        answer = connection.request(
            lambda request: messages.SetMap(
                id=request,
                number=number,
                name=name,
                entries=change.entries,
                gone=change.gone,
                pid=pid,
            ),
            messages.MapListing,
        )
    except UserError as error:
        yield f"the values of {name} are not set: {error}"
        return
    for silent in answer.silent:
        yield f"process {silent}: its tracer does not answer; whether {name} is set is not known"
    for refusing, reason in answer.refused.items():
        # Its end is told of in a moment.
        if not procfs.has_ended(refusing):
            yield f"process {refusing}: the values of {name} are not set: {reason}"


def asked(
    connection: Connection,
    number: int,
    names: Sequence[str],
    reset: str,
    say: Callable[[str], None],
) -> Iterator[messages.MapInfo]:
    """Maps of a program in each process, then reset as asked; those that no process has (yet, or
    any more) are passed over, and ``say`` is told of processes that did not answer."""
    for name in names:
        with contextlib.suppress(UserError):
            answer = connection.request(
                lambda request, name=name: messages.Maps(  # type: ignore[misc]
                    id=request,
                    select=messages.Select(number=number),
                    name=name,
                    reset=reset,  # type: ignore[arg-type]
                ),
                messages.MapListing,
            )
            yield from answer.maps
            for pid in answer.silent:
                say(f"process {pid}: its tracer does not answer; what it has in maps is left out")


class SessionProcesses:
    """The maps of programs in the processes of a session: those that go on, which are asked, and
    those that have ended, of which the session was told. ``say`` is told of what the user should
    know. ``watching``: one of the script's watchpoints (``Bundle.watches``) at an address."""

    def __init__(
        self,
        connection: Connection,
        session: Session,
        say: Callable[[str], None],
        watching: Callable[[int, int], messages.Upload],
    ) -> None:
        self._watching: Final = watching
        #: The programs that watch an address of a process.
        self._watched: dict[tuple[int, int], list[int]] = {}
        self._connection: Final = connection
        self._session: Final = session
        self._say: Final = Once(say)

    def watch(self, pid: int, program: int, address: int) -> None:
        """Put one of the bundle's watchpoints into a process, at an address."""
        if pid not in self._session.alive:
            return
        try:
            number = self._session.add(pid, self._watching(program, address))
            self._watched.setdefault((pid, address), []).append(number)
        except UserError as error:
            self._say(f"process {pid}: {address:#x} is not watched: {error}")

    def unwatch(self, pid: int, address: int) -> None:
        """Take out what watches an address of a process."""
        for number in self._watched.pop((pid, address), ()):
            with contextlib.suppress(UserError):  # it has ended, or somebody else took it out
                answer = self._connection.request(
                    lambda request, n=number: messages.Remove(  # type: ignore[misc]
                        id=request, select=messages.Select(number=n, pid=pid)
                    ),
                    messages.Removed,
                )
                self._session.retell_maps(lambda told, last=answer.maps: [*told, *last])  # type: ignore[misc]

    def settle(self) -> Sequence[int]:
        """Those that go on."""
        return self._session.alive

    def maps(self, names: Sequence[str], reset: str = "") -> list[messages.MapInfo]:
        """Maps of the programs, those of ended processes too; then reset as asked."""
        while True:
            alive = self._session.alive
            found = self._asked(names, reset) if alive else []
            if alive == self._session.alive or reset:
                break
            # One ended meanwhile: it may be in the answer, and was told of besides.
        told = [each for each in self._session.maps if each.map in names]
        if reset:
            self._session.retell_maps(
                lambda told: forgotten(told, names, keep_keys=reset == "zero")
            )
        return [*told, *found]

    def put(self, changes: Sequence[MapChange]) -> None:
        """Change maps in each process, and in what ended ones had."""
        for each in changes:
            for number in self._session.numbers if self._session.alive else ():
                for line in not_set(self._connection, number, each):
                    self._say(line)
            # In this order: a process that ends meanwhile is told of with what it had.
            self._session.retell_maps(lambda told, each=each: changed(told, each))  # type: ignore[misc]

    def _asked(self, names: Sequence[str], reset: str) -> list[messages.MapInfo]:
        return [
            each
            for number in self._session.numbers
            for each in asked(self._connection, number, names, reset, self._say)
        ]
