"""The request table: message type → handler function."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, TypeVar

from dprobed.daemon.client import Client, Refusal, User
from dprobed.wire import messages

Q = TypeVar("Q", bound=messages.Request)
#: Does a request for a client; what cannot be done raises Refusal.
Doer = Callable[[Client, Any], Awaitable[messages.Reply]]


class _Row(NamedTuple):
    do: Doer
    for_root: str


class RequestTable:
    """Dispatches requests by their type.

    ``commands``: whether a user may do everything in this daemon (gate.py). ``missing``: the
    refusal of a request that is not in the table.
    """

    def __init__(self, commands: Callable[[User], bool], missing: str) -> None:
        self._commands: Final = commands
        self._missing: Final = missing
        self._rows: dict[type, _Row] = {}

    def add(
        self,
        kind: type[Q],
        do: Callable[[Client, Q], Awaitable[messages.Reply]],
        *,
        for_root: str = "",
    ) -> None:
        """Register a request's handler; ``for_root``: the refusal where only root may ask a daemon
        that serves all users."""
        self._rows[kind] = _Row(do, for_root)

    async def answer(self, client: Client, request: messages.Request) -> messages.Reply:
        """Do a request; raises Refusal."""
        row = self._rows.get(type(request))
        if row is None:
            raise Refusal(f"`{type(request).__name__.lower()}`: {self._missing}")
        if row.for_root and not self._commands(client):
            raise Refusal(row.for_root)
        return await row.do(client, request)
