"""Taking programs out of targets, and detaching from targets that nobody needs any longer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Iterable
from typing import Final

from dprobed.daemon.client import Client, Refusal
from dprobed.daemon.target import InsertedProgram, Target
from dprobed.daemon.targets import Targets
from dprobed.daemon.tasks import Tasks
from dprobed.proc import procfs
from dprobed.wire import messages, protocol

#: Seconds in which a tracer says of a process that is dead that it has ended.
_LAST_WORDS: Final = 5.0

_log = logging.getLogger("dprobed")


class Detaching:
    """What goes out of targets: at a client's request, at its end, or because nobody is left."""

    def __init__(self, targets: Targets, tasks: Tasks) -> None:
        self._targets: Final = targets
        self._tasks: Final = tasks
        #: Clients that have gone: a child of a target of theirs may still be reported.
        self._released: weakref.WeakSet[Client] = weakref.WeakSet()

    async def detach(self, client: Client, request: messages.Detach) -> messages.Removed:
        """Take out what ``client`` put into a process, and hold that no longer for it."""
        target = self._targets.held(client, request.pid)
        own = target.owned_by(client)
        async with target.lock:
            target.dismiss(client)
            await self.empty(target, own)
        return messages.Removed(
            id=request.id,
            probes=[info for entry in own for info in entry.probe_infos()],
            overhead_ns=target.overhead_ns,
        )

    async def take_out_of(self, pid: int, client: Client) -> None:
        """Take what ``client`` put into ``pid`` out; that it has ended is no error."""
        target = self._targets.by_pid.get(pid)
        if target is not None:
            async with target.lock:
                await self.empty(target, target.owned_by(client))

    # -- the end of clients --------------------------------------------------------------------

    def release(self, client: Client) -> None:
        """A client has gone: what it did not ask to keep goes out."""
        self._released.add(client)
        for target in list(self._targets.by_pid.values()):
            if client in target.holders or target.owned_by(client):
                tracer = target.tracer
                if not target.attached and tracer is not None and not tracer.shared:
                    tracer.backend.close()
                self._tasks.start(self._release(target, client))

    def has_gone(self, client: Client) -> bool:
        """Whether a client was released."""
        return client in self._released

    async def _release(self, target: Target, client: Client) -> None:
        async with target.lock:
            target.dismiss(client)
            await self.try_empty(target, target.owned_by(client))

    def release_child(self, child: Target, clients: Iterable[Client]) -> None:
        """A followed child is told of when these clients of its parent have gone already."""
        for client in clients:
            self._tasks.start(self._release(child, client))

    def detach_unneeded(self, target: Target) -> None:
        """Detach from a target that nobody asked for."""
        self._tasks.start(self._detach_unneeded(target))

    async def _detach_unneeded(self, target: Target) -> None:
        async with target.lock:
            await self.try_empty(target, ())

    # -- steps; the caller has the target's lock --------------------------------------------------

    async def try_empty(self, target: Target, own: Iterable[InsertedProgram]) -> None:
        """``empty`` where nobody waits for the outcome: a refusal is logged."""
        try:
            await self.empty(target, own)
        except Refusal as refusal:
            _log.warning("process %d: %s", target.pid, refusal)

    async def empty(self, target: Target, own: Iterable[InsertedProgram]) -> None:
        """Take ``own`` out of ``target``, and detach from it when nobody needs it any longer.

        A target that ended meanwhile is no error. Raises Refusal.
        """
        # One that was just being put in when it was chosen may have been refused.
        own = [entry for entry in own if target.entries.get(entry.number) is entry]
        if target.finished.is_set() or target.tracer is None:
            return
        stays = target.entries.keys() - {entry.number for entry in own}
        try:
            if stays or target.holders:
                for entry in own:
                    await self.take_out(target, entry)
                await self.refresh(target)
                return
            await target.ask(lambda seq: protocol.Detach(seq=seq, pid=target.pid))
        except Refusal:
            if not await self._ends(target):
                raise
        await target.finished.wait()
        await self.tracer_ended(target)

    @staticmethod
    async def take_out(target: Target, entry: InsertedProgram) -> None:
        """Take a program out; raises Refusal."""
        number = entry.number
        await target.ask(lambda seq: protocol.Remove(seq=seq, pid=target.pid, program=number))
        target.entries.pop(number, None)

    @staticmethod
    async def refresh(target: Target) -> None:
        """Ask the tracer for the present states and counters."""
        try:
            answer = await target.ask(lambda seq: protocol.Query(seq=seq, pid=target.pid))
        except Refusal:
            return  # It ended meanwhile; its last counters are known.
        target.suspended = answer.suspended
        target.debugger = answer.debugger

    @staticmethod
    async def _ends(target: Target) -> bool:
        """Whether a target has ended, or has just died and its tracer is about to say so."""
        if not target.finished.is_set() and procfs.run_state(target.pid) in ("", "Z", "X"):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(target.finished.wait(), _LAST_WORDS)
        return target.finished.is_set()

    @staticmethod
    async def tracer_ended(target: Target) -> None:
        """Wait for the end of the tracer, if this was its only target."""
        if target.tracer is not None and target.tracer.is_over:
            await asyncio.shield(target.tracer.backend.gone)
