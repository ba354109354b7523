"""The processes of a session, as a script's maps see them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final

from dprobe.lib.connection import Connection
from dprobe.lib.errors import UserError
from dprobe.lib.session import Session
from dprobed.wire import messages


class SessionProcesses:
    """The maps of programs in the processes of a session: those that go on, which are asked, and
    those that have ended, of which the session was told."""

    def __init__(self, connection: Connection, session: Session) -> None:
        self._connection: Final = connection
        self._session: Final = session

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
            self._session.forget_maps(names, keep_keys=reset == "zero")
        return [*told, *found]

    def put(self, values: dict[str, list[messages.MapEntry]]) -> None:
        """Set all that maps of values have in each process."""
        for number in self._session.numbers:
            for name, entries in values.items():
                with contextlib.suppress(UserError):  # it is in no process any more
                    self._connection.request(
                        lambda request, n=number, m=name, e=entries: messages.SetMap(  # type: ignore[misc]
                            id=request, number=n, name=m, entries=e
                        ),
                        messages.MapListing,
                    )

    def _asked(self, names: Sequence[str], reset: str) -> list[messages.MapInfo]:
        found: list[messages.MapInfo] = []
        for number in self._session.numbers:
            for name in names:
                with contextlib.suppress(UserError):  # it is in no process any more
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
        return found
