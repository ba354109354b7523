"""The request table: message type → handler function."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, TypeVar

from dprobed.daemon.client import Client, Forbidden, Refusal, User
from dprobed.wire import messages

Q = TypeVar("Q", bound=messages.Request)
#: Does a request for a client; what cannot be done raises Refusal.
Doer = Callable[[Client, Any], Awaitable[messages.Reply]]
#: Notes a refusal: which process of which user asked, for what.
Audit = Callable[[int, int, str, Forbidden], None]


class _Row(NamedTuple):
    do: Doer
    for_root: str


class RequestTable:
    """Dispatches requests by their type.

    ``commands``: whether a user may do everything in this daemon (gate.py). ``missing``: the
    refusal of a request that is not in the table. ``audit``: None in a private daemon, whose
    client is the one who asks and is told.
    """

    def __init__(
        self, commands: Callable[[User], bool], missing: str, audit: Audit | None = None
    ) -> None:
        self._commands: Final = commands
        self._missing: Final = missing
        self._audit: Final = audit
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
        try:
            if row.for_root and not self._commands(client):
                raise Forbidden(row.for_root, "root only")
            return await row.do(client, request)
        except Forbidden as refusal:
            self.refused(client, request, refusal)
            raise

    def refused(
        self, client: Client, request: messages.Request | messages.Answer, refusal: Forbidden
    ) -> None:
        """Note a refusal because of who asks."""
        if self._audit is not None:
            self._audit(client.pid, client.uid, type(request).__name__.lower(), refusal)
