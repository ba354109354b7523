"""Removes programs from targets, and detaches from targets that no client needs any longer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Iterable
from typing import Final

from dprobed.backend import LONG_PATIENCE, BackendGone, BackendRefused, BackendSilent
from dprobed.daemon.client import Client, NoAnswer, Refusal, User
from dprobed.daemon.history import History, some
from dprobed.daemon.maps import maps_of
from dprobed.daemon.target import InsertedProgram, Target
from dprobed.daemon.targets import Targets
from dprobed.daemon.tasks import Tasks
from dprobed.daemon.variables import variables_of
from dprobed.proc import procfs
from dprobed.wire import messages, protocol

#: Seconds within which a tracer reports the end of a process that is dead.
_END_REPORT_TIMEOUT: Final = 5.0
#: Seconds after which a listing goes without what some tracer has not answered.
_SOON: Final = 5.0
#: Seconds in which a tracer that has answered that it detached says so of the target, or ends.
_LAST_WORDS: Final = 20.0

_log = logging.getLogger("dprobed")


class Detaching:
    """Removes programs and detaches: at a client's request or end, or where nobody needs it."""

    def __init__(self, targets: Targets, tasks: Tasks, history: History) -> None:
        self._history: Final = history
        self._targets: Final = targets
        self._tasks: Final = tasks
        #: Clients that are gone: a fork child of their targets may still be reported.
        self._released: weakref.WeakSet[Client] = weakref.WeakSet()

    async def detach(self, client: Client, request: messages.Detach) -> messages.Removed:
        """Remove what ``client`` inserted into a process, and detach unless others need it."""
        target = self._targets.held(client, request.pid)
        own = target.owned_by(client)
        async with target.lock:
            target.dismiss(client)
            await self.empty(target, own)
        self.note(target, own, f"user {client.uid} detached", client)
        return messages.Removed(
            id=request.id,
            probes=[info for inserted in own for info in inserted.probe_infos()],
            overhead_ns=target.overhead_ns,
            variables=variables_of(own),
            maps=maps_of(own),
        )

    async def take_out_of(self, pid: int, client: Client) -> None:
        """Remove what ``client`` inserted into ``pid``; an ended process is no error."""
        target = self._targets.by_pid.get(pid)
        if target is not None:
            async with target.lock:
                await self.empty(target, target.owned_by(client))

    # -- the end of clients --------------------------------------------------------------------

    def release(self, client: Client) -> None:
        """A client is gone: remove what it inserted and did not ask to keep."""
        self._released.add(client)
        for target in list(self._targets.by_pid.values()):
            if client in target.holders or target.owned_by(client):
                tracer = target.tracer
                if not target.attached and tracer is not None and not tracer.shared:
                    tracer.backend.close()
                self._tasks.start(self._release(target, client))

    def has_gone(self, client: Client) -> bool:
        """Whether a client was released already."""
        return client in self._released

    async def _release(self, target: Target, client: Client) -> None:
        async with target.lock:
            target.dismiss(client)
            own = target.owned_by(client)
            await self.try_empty(target, own)
        self.note(target, own, "its client has ended", client)

    def release_child(self, child: Target, clients: Iterable[Client]) -> None:
        """Release a fork child that was reported after these clients of its parent were gone."""
        for client in clients:
            self._tasks.start(self._release(child, client))

    def detach_unneeded(self, target: Target) -> None:
        """Detach from a target that no client needs."""
        self._tasks.start(self._detach_unneeded(target))

    async def _detach_unneeded(self, target: Target) -> None:
        async with target.lock:
            await self.try_empty(target, ())

    def note(self, target: Target, taken_out: list[InsertedProgram], why: str, user: User) -> None:
        """Log that programs are out of a target, which goes on; ``user``: who has it done, or whose
        they are."""
        if target.finished.is_set():
            # With its last program it is let go; whatever else ends it is told of by itself.
            detached = target.ended is not None and target.ended.how == "detached"
            out = taken_out if detached else []
        else:
            out = [each for each in taken_out if each.number not in target.programs]
        if not out:
            return
        names = some(each.label for each in out)
        self._history.note(
            user.uid,
            f"{target.what}: {names} is out: {why}",
            "removed",
            pid=target.pid,
            program=names,
            why=why,
        )

    # -- steps; the caller has the target's lock --------------------------------------------------

    async def try_empty(self, target: Target, own: Iterable[InsertedProgram]) -> None:
        """As ``empty``, for background work: a refusal is logged."""
        own = list(own)
        try:
            await self.empty(target, own)
        except NoAnswer as refusal:
            _log.warning("%s", refusal)
            self._tasks.start(self._empty_later(target, own))
        except Refusal as refusal:
            _log.warning("%s: %s", target.what, refusal)

    async def _empty_later(self, target: Target, own: Iterable[InsertedProgram]) -> None:
        """When its tracer answers again; unless that is nothing to do by then."""
        assert target.tracer is not None
        await target.tracer.backend.heard()
        async with target.lock:
            await self.try_empty(target, own)

    async def empty(self, target: Target, own: Iterable[InsertedProgram]) -> None:
        """Remove the programs ``own`` from ``target``; detach if no client needs it any longer.

        A target that ended meanwhile is no error. Raises Refusal.
        """
        # One that was being inserted when it was chosen may have been refused.
        own = [inserted for inserted in own if target.programs.get(inserted.number) is inserted]
        if target.finished.is_set() or target.tracer is None:
            return
        stays = target.programs.keys() - {inserted.number for inserted in own}
        try:
            if stays or target.holders:
                for inserted in own:
                    await self.take_out(target, inserted)
                await self.refresh(target)
                return
            await target.ask(lambda seq: protocol.Detach(seq=seq, pid=target.pid), LONG_PATIENCE)
        except Refusal:
            if not await self._ends(target):
                raise
        if target.asleep:
            self._leave_behind(target, own)
            return
        try:
            await asyncio.wait_for(target.finished.wait(), _LAST_WORDS)
        except TimeoutError:
            text = "its tracer says that it has detached, and not how that ended"
            raise Refusal(f"{target.what}: {text}") from None
        await self.tracer_ended(target)

    def _leave_behind(self, target: Target, own: Iterable[InsertedProgram]) -> None:
        """The programs are out of a target from which its tracer detaches later, by itself."""
        for inserted in own:
            inserted.end(
                protocol.State.REMOVED,
                "its process sleeps in the kernel, and keeps its tracer until it wakes",
            )
            target.release(inserted.number)
            self._targets.taken_out(inserted)

    async def take_out(self, target: Target, inserted: InsertedProgram) -> None:
        """Remove a program from a target; raises Refusal."""
        number = inserted.number

        def out() -> None:
            if target.release(number):
                self._targets.taken_out(inserted)

        await target.ask(
            lambda seq: protocol.Remove(seq=seq, pid=target.pid, program=number),
            LONG_PATIENCE,
            late=out,
        )
        out()

    async def refresh_all(self, targets: Iterable[Target]) -> None:
        """Query the tracers for current states and counters. What does not come soon is what was
        known before: one tracer that does not answer is not waited for by all."""
        asking = {self._tasks.start(self.refresh(target)): target for target in targets}
        if asking:
            _, late = await asyncio.wait(asking, timeout=_SOON)
            for each in late:
                asking[each].is_stale = True

    @staticmethod
    async def refresh(target: Target) -> None:
        """Query the tracer for current states and counters."""
        try:
            answer = await target.ask(lambda seq: protocol.Query(seq=seq, pid=target.pid))
        except NoAnswer:
            target.is_stale = True
            return
        except Refusal:
            return  # It ended meanwhile; its last counters are known.
        target.take_state(answer)

    def remove_unheard(self, inserted: InsertedProgram) -> None:
        """A program is in after all, of which its user was told that it is not: take it out."""
        self._tasks.start(self._remove_unheard(inserted))

    def detach_unheard(self, target: Target) -> None:
        """A tracer has attached after all, where its user was told that it did not: it detaches."""
        self._tasks.start(self._detach_unheard(target))

    @staticmethod
    async def _detach_unheard(target: Target) -> None:
        assert target.tracer is not None
        with contextlib.suppress(BackendGone, BackendRefused, BackendSilent):
            await target.tracer.backend.request(
                lambda seq: protocol.Detach(seq=seq, pid=target.pid), None
            )

    @staticmethod
    async def _remove_unheard(inserted: InsertedProgram) -> None:
        target, number = inserted.target, inserted.number
        if target.programs.get(number) is not inserted:
            with contextlib.suppress(Refusal):  # It has ended, or takes it out as it ends.
                await target.ask(
                    lambda seq: protocol.Remove(seq=seq, pid=target.pid, program=number), None
                )

    @staticmethod
    async def _ends(target: Target) -> bool:
        """Whether a target has ended, or died just now and its tracer is about to report it."""
        if not target.finished.is_set() and procfs.run_state(target.pid) in ("", "Z", "X"):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(target.finished.wait(), _END_REPORT_TIMEOUT)
        return target.finished.is_set()

    @staticmethod
    async def tracer_ended(target: Target) -> None:
        """Wait for the end of the tracer, if this was its only target."""
        if target.tracer is not None and target.tracer.is_over:
            await asyncio.wait([target.tracer.backend.gone], timeout=_LAST_WORDS)
