"""Handlers of third parties: registered over the control socket, they get reports as messages.

A connection may have several. When it ends, those that it did not deregister have died: see the
dispatcher's rules. Its queue is bounded twice: by the number of reports that it has not
answered, and by the bytes that its connection holds for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import psutil

from dprobed.daemon.client import Client, Forbidden, Refusal
from dprobed.daemon.records.dispatcher import (
    Dispatcher,
    DispatchError,
    Handler,
    Order,
    Report,
    Verdict,
)
from dprobed.wire import messages

_VERDICTS: Final = {"continue": Verdict.CONTINUE, "terminate": Verdict.TERMINATE}


class ExternalHandler(Handler):
    """A handler at the other end of a connection; it answers later, or never."""

    def __init__(self, client: Client, request: messages.Register) -> None:
        super().__init__(
            request.name,
            facility=request.facility,
            owner=f"{_name(client.pid)}[{client.pid}], user {client.uid}",
            order=Order(request.order),
            limit=request.queue,
            timeout=request.timeout,
        )
        self._client = client

    def offer(self, report: Report) -> Verdict:
        """Send it, if the connection has room."""
        message = messages.Handling(
            report=report.id,
            handler=self.name,
            facility=self.facility,
            record=msgspec.Raw(report.line[:-1]),
        )
        sent = self._client.offer(messages.encode(message))
        return Verdict.PENDING if sent else Verdict.DROPPED


class ExternalHandlers:
    """The handlers of all connections.

    ``heard``: waits until the tracers know what has changed. No answer comes before that: a hit
    that comes after the answer would be served as if nothing had been asked for.
    """

    def __init__(self, dispatcher: Dispatcher, heard: Callable[[], Awaitable[None]]) -> None:
        self._dispatcher = dispatcher
        self._heard = heard
        self._handlers: dict[Client, dict[str, ExternalHandler]] = {}

    async def register(self, client: Client, request: messages.Register) -> messages.Registered:
        """A new handler of ``client``; raises DispatchError."""
        handler = ExternalHandler(client, request)
        number = self._dispatcher.register(handler)
        self._handlers.setdefault(client, {})[handler.name] = handler
        if request.armed:
            self._dispatcher.arm([handler.name])
        await self._heard()
        return messages.Registered(id=request.id, handler=handler.name, number=number)

    async def deregister(self, client: Client, request: messages.Deregister) -> messages.Registered:
        """Deregister a handler of this ``client``; raises DispatchError."""
        handler = self._handlers.get(client, {}).pop(request.name, None)
        if handler is None:
            raise self._not_theirs(request.name)
        self._dispatcher.deregister(handler)
        await self._heard()
        return messages.Registered(id=request.id, handler=request.name)

    async def list_all(self, client: Client, request: messages.Handlers) -> messages.HandlerListing:
        """All handlers, external or not."""
        return messages.HandlerListing(id=request.id, handlers=self.infos())

    async def arm(self, client: Client, request: messages.Arm) -> messages.HandlerListing:
        """Arm handlers; raises DispatchError."""
        self._dispatcher.arm(request.names)
        await self._heard()
        return messages.HandlerListing(id=request.id, handlers=self.infos())

    async def disarm(self, client: Client, request: messages.Disarm) -> messages.HandlerListing:
        """Disarm handlers; raises DispatchError."""
        self._dispatcher.disarm(request.names)
        await self._heard()
        return messages.HandlerListing(id=request.id, handlers=self.infos())

    def answer(self, client: Client, answer: messages.Answer) -> None:
        """A handler's answer to a report; one that comes too late is no error."""
        handler = self._handlers.get(client, {}).get(answer.handler)
        if handler is None:
            raise self._not_theirs(answer.handler)
        self._dispatcher.answer(handler, answer.report, _VERDICTS[answer.verdict])

    def _not_theirs(self, name: str) -> Refusal:
        """The refusal of who has no handler of this name: it is noted where another one has."""
        text = f"this connection has no handler {name}"
        if any(name in own for own in self._handlers.values()):
            return Forbidden(text, "another's handler")
        return DispatchError(text)

    def release(self, client: Client) -> None:
        """The connection has ended, and its handlers have died."""
        for handler in self._handlers.pop(client, {}).values():
            self._dispatcher.fail(handler)

    def infos(self) -> list[messages.HandlerInfo]:
        """All handlers, external or not, as ``dprobe handlers`` lists them."""
        return [
            messages.HandlerInfo(
                handler=handler.name,
                facility=handler.facility,
                number=self._dispatcher.number_of(handler.facility),
                owner=handler.owner,
                order=str(handler.order),
                armed=handler.armed,
                alive=handler.alive,
                reports=handler.reports,
                waiting=handler.waiting,
                timeouts=handler.timeouts,
                drops=handler.drops,
                failures=handler.failures,
            )
            for handler in self._dispatcher.handlers()
        ]


def _name(pid: int) -> str:
    """A process's name; ``?``: it is gone."""
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "?"
