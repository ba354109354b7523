"""The beginning and the end of deployments: what the log says of the one, and when the other is."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec

from dprobed.daemon.client import Client, Refusal
from dprobed.daemon.deploy.deployment import Deployment
from dprobed.daemon.ends import Ends, over
from dprobed.daemon.history import History, moment, some
from dprobed.daemon.tasks import Tasks
from dprobed.policy.rights import words
from dprobed.printable import printable
from dprobed.wire import messages
from dprobed.wire.notices import NoticeKind

_log = logging.getLogger("dprobed")


class DeploymentEnds:
    """Ends deployments whose time is over; ``take_out`` removes one, and says in how
    many processes it is still."""

    def __init__(
        self,
        deployments: Mapping[int, Deployment],
        ends: Ends,
        tasks: Tasks,
        take_out: Callable[[Deployment], Awaitable[int]],
    ) -> None:
        self._all: Final = deployments
        self._ends: Final = ends
        self._tasks: Final = tasks
        self._take_out: Final = take_out
        ends.watch(self._look)

    def due(self, deployment: Deployment) -> None:
        """A deployment is there now."""
        self._ends.due(deployment.insertion.term.until)

    def _look(self, now: float) -> float | None:
        """End those whose time is over; when the next one ends."""
        due = [each for each in self._all.values() if each.insertion.term.until is not None]
        for each in due:
            if each.insertion.is_over(now):
                self._tasks.start(self._end(each))
        return min(
            (until for each in due if (until := each.insertion.term.until or now) > now),
            default=None,
        )

    async def _end(self, deployment: Deployment) -> None:
        if not deployment.is_removed:
            why = over(deployment.insertion.term.rule)
            try:
                stays = await self._take_out(deployment)
            except Refusal as refusal:
                # ``Ends`` tries it again, process by process.
                _log.warning(
                    "%s: %s; it is tried again", deployment.insertion.upload.label, refusal
                )
            else:
                if stays:
                    why += f"; it is still in {stays} processes, whose tracers do not answer"
            self._ends.tell(deployment, None, why, NoticeKind.OVER, "removed")


def note_deployed(
    history: History, client: Client, request: messages.Deploy, made: list[Deployment]
) -> None:
    """Log that a client has deployed programs."""
    labels = some(each.upload.label for each in made)
    numbers = f"{made[0].number}" + (f" to {made[-1].number}" if len(made) > 1 else "")
    selection = msgspec.to_builtins(request.selection)
    where = ", ".join(f"{name} {each}" for name, each in selection.items() if each)
    until = moment(made[0].insertion.term.until)
    history.note(
        client.uid,
        f"user {client.uid} deployed {labels} as {numbers}" + (f", until {until}" if until else ""),
        "deployed",
        by_pid=client.pid,
        program=labels,
        number=numbers,
        selection=printable(where) or "all",
        rights=words(frozenset(right for each in made for right in each.needs)),
        until=until,
    )
