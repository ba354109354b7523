"""Recovery after a tracer was killed: what it left in its targets is undone.

Its change journal names all of that. Another tracer is given the journal, with the rights of the
same user: the journal is the word of a process that ran with no others. So it is done in a process
of its own, in time that grows with what is named there and nothing else, and that has a limit.
Until then the targets go on at breakpoints where they are guarded (``engine.trap.guard``).

A daemon that was killed, too, does this when it is started again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from dprobed.backend import Backend, BackendGone, BackendRefused
from dprobed.daemon.change_journals import ChangeJournalFile
from dprobed.wire import protocol

#: Seconds after which it is given up, until the next start.
DEADLINE: Final = 20.0
#: Tracers that are given the same journal, where each is killed in its turn.
_ATTEMPTS: Final = 3

_log = logging.getLogger("dprobed")


class Tracer(Backend, Protocol):
    """A backend that is a process."""

    @property
    def pid(self) -> int:
        """Its process."""
        ...


#: Starts a tracer with a journal that another one has left.
Start = Callable[[ChangeJournalFile], Awaitable[Tracer]]


async def recover(start: Start, journal: ChangeJournalFile) -> None:
    """Undo what a journal names."""
    while not journal.is_empty:
        # From here on it is ours to remove.
        journal.attempts += 1
        if journal.attempts > _ATTEMPTS:
            _log.warning(
                "what a killed tracer of user %d left in its targets stays until the next start: "
                "undoing it failed %d times",
                journal.user[0],
                _ATTEMPTS,
            )
            return
        try:
            tracer = await start(journal)
        except OSError as error:
            _log.warning("what a killed tracer left cannot be undone: %s", error.strerror)
            return
        done = await _is_done(tracer)
        if done is not None:
            if done:
                break
            return  # It stays for the next start: another tracer has one of the processes.
    journal.remove()


async def _is_done(tracer: Tracer) -> bool | None:
    """Have a tracer undo it, and wait for its end; whether all could be. None: it ended before."""
    try:
        async with asyncio.timeout(DEADLINE):
            answer = await tracer.request(lambda seq: protocol.Recover(seq), patience=None)
            tracer.close()
            return None if await asyncio.shield(tracer.gone) else not answer.tids
    except (BackendRefused, BackendGone) as error:
        _log.warning("what a killed tracer left: %s", error)
        tracer.close()
    except TimeoutError:
        # All that it may leave is in the journal.
        _log.warning("what a killed tracer left was not undone within %.0f s", DEADLINE)
        os.kill(tracer.pid, signal.SIGKILL)
    await asyncio.shield(tracer.gone)
    return None


def tell(_: Backend, event: protocol.Event) -> None:
    """What became of a process that had lost its tracer."""
    if isinstance(event, protocol.TargetEvent):
        _log.warning("process %d: %s", event.pid, event.text)
