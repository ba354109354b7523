"""Handlers of third parties: registered over the control socket, they get reports as messages.

A connection may have several. When it ends, those that it did not take off itself have died: see
the dispatcher's rules. Its queue is bounded twice: by the number of reports that it has not
answered, and by the bytes that its connection holds for it.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from dprobed.daemon.records.dispatcher import (
    Dispatcher,
    DispatchError,
    Handler,
    Order,
    Report,
    Verdict,
)
from dprobed.daemon.target import Client, process_name
from dprobed.wire import messages

_VERDICTS: Final = {"continue": Verdict.CONTINUE, "terminate": Verdict.TERMINATE}


class ExternalHandler(Handler):
    """A handler at the other end of a connection; it answers later, or never."""

    def __init__(self, client: Client, request: messages.Register) -> None:
        super().__init__(
            request.name,
            facility=request.facility,
            owner=f"{process_name(client.pid)}[{client.pid}], user {client.uid}",
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


class External:
    """The handlers of all connections, and the clock that ends the dispatcher's waiting."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._handlers: dict[Client, dict[str, ExternalHandler]] = {}
        self._timer: asyncio.TimerHandle | None = None
        dispatcher.waits = self._wait_until

    def register(self, client: Client, request: messages.Register) -> int:
        """A new handler of ``client``; the number of its facility. Raises DispatchError."""
        handler = ExternalHandler(client, request)
        number = self._dispatcher.register(handler)
        self._handlers.setdefault(client, {})[handler.name] = handler
        if request.armed:
            self._dispatcher.arm([handler.name])
        return number

    def deregister(self, client: Client, name: str) -> None:
        """Take a handler of this ``client`` off; raises DispatchError."""
        handler = self._handlers.get(client, {}).pop(name, None)
        if handler is None:
            raise DispatchError(f"this connection has no handler {name}")
        self._dispatcher.deregister(handler)

    def answer(self, client: Client, answer: messages.Answer) -> None:
        """What a handler says to a report; too late is no error."""
        handler = self._handlers.get(client, {}).get(answer.handler)
        if handler is None:
            raise DispatchError(f"this connection has no handler {answer.handler}")
        self._dispatcher.answer(handler, answer.report, _VERDICTS[answer.verdict])

    def release(self, client: Client) -> None:
        """The connection has ended, and its handlers have died."""
        for handler in self._handlers.pop(client, {}).values():
            self._dispatcher.lose(handler)

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

    def _wait_until(self, when: float) -> None:
        # The loop's clock is the dispatcher's: both are time.monotonic.
        if self._timer is None or when < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_at(when, self._late)

    def _late(self) -> None:
        # Where the loop itself was held up, answers that have come are heard first.
        self._timer = None
        asyncio.get_running_loop().call_soon(self._expire)

    def _expire(self) -> None:
        self._dispatcher.expire()
        when = self._dispatcher.next_expiry()
        if when is not None:
            self._wait_until(when)
