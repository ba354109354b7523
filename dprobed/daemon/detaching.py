"""Removes programs from targets, and detaches from targets that no client needs any longer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from dprobed.backend import LONG_PATIENCE, BackendGone, BackendRefused, BackendSilent
from dprobed.daemon.client import Client, NoAnswer, Refusal, User
from dprobed.daemon.history import History, some
from dprobed.daemon.maps import maps_of
from dprobed.daemon.target import InsertedProgram, Target, TargetsTracer
from dprobed.daemon.targets import Targets
from dprobed.daemon.tasks import Tasks
from dprobed.daemon.variables import variables_of
from dprobed.proc import procfs
from dprobed.wire import messages, protocol

#: What is told of a request that could not be done because nobody answers.
LATER: Final = "it is done when that answers"
#: Called when programs are out at last, or it was refused: for that reason.
Then = Callable[[Refusal | None], None]

#: Seconds within which a tracer reports the end of a process that is dead.
_END_REPORT_TIMEOUT: Final = 5.0
#: Seconds after which a listing goes without what some tracer has not answered.
_SOON: Final = 5.0
#: Seconds in which a tracer that has answered that it detached says so of the target, or ends.
_LAST_WORDS: Final = 20.0

_log = logging.getLogger("dprobed")


def _nothing(_: Refusal | None) -> None:
    """Nobody is to be told."""


def out_of(programs: Iterable[InsertedProgram]) -> list[InsertedProgram]:
    """Those that are out of their process by our doing: with the last one it is detached from, and
    whatever else ends it is told of by itself."""
    return [
        each
        for each in programs
        if not each.is_in and not (each.target.finished.is_set() and not each.target.is_detached)
    ]


class Detaching:
    """Removes programs and detaches: at a client's request or end, or where nobody needs it."""

    def __init__(self, targets: Targets, tasks: Tasks, history: History) -> None:
        self._history: Final = history
        self._targets: Final = targets
        self._tasks: Final = tasks
        #: Clients that are gone: a fork child of their targets may still be reported.
        self._released: weakref.WeakSet[Client] = weakref.WeakSet()
        #: Targets that are to be detached from when their tracer answers.
        self._unneeded: Final[set[Target]] = set()

    async def detach(self, client: Client, request: messages.Detach) -> messages.Removed:
        """Remove what ``client`` inserted into a process, and detach unless others need it."""
        target = self._targets.held(client, request.pid)
        own = target.owned_by(client)
        why = f"user {client.uid} detached"
        async with target.lock:
            target.dismiss(client)
            try:
                await self.empty(target, own)
            except NoAnswer as refusal:
                self.empty_later(target, own, lambda _: self.note(target, own, why, client))
                raise NoAnswer(f"{refusal}; {LATER}", asked=refusal.asked) from None
        self.note(target, own, why, client)
        return messages.Removed(
            id=request.id,
            probes=[info for inserted in own for info in inserted.probe_infos()],
            overhead_ns=target.overhead_ns,
            variables=variables_of(own),
            maps=maps_of(own),
        )

    async def take_out_in_time(self, inserted: InsertedProgram, then: Then) -> None:
        """Take a program out, now or when its tracer answers; an ended process is no error."""
        async with inserted.target.lock:
            await self.try_empty(inserted.target, [inserted], then)

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
            why = "its client has ended"
            await self.try_empty(target, own, lambda _: self.note(target, own, why, client))

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
        out = out_of(taken_out)
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

    async def try_empty(
        self, target: Target, own: Iterable[InsertedProgram], then: Then = _nothing
    ) -> None:
        """As ``empty``, for background work: a refusal is logged, and where nobody answers it is
        done when somebody does. ``then`` is called at last."""
        own = list(own)
        why: Refusal | None = None
        try:
            await self.empty(target, own)
        except NoAnswer as refusal:
            _log.warning("%s; %s", refusal, LATER)
            self.when_answers(target, lambda: self.try_empty(target, own, then))
            return
        except Refusal as refusal:
            _log.warning("%s: %s", target.what, refusal)
            why = refusal
        then(why)

    def empty_later(
        self, target: Target, own: Iterable[InsertedProgram], then: Then = _nothing
    ) -> None:
        """As ``try_empty``, when the tracer answers, after it did not for who asked for this; not
        again for what is to go already."""
        own = list(own)
        fresh = [each for each in own if not each.leaves]
        if not fresh and (own or target in self._unneeded):
            return
        if not fresh:
            self._unneeded.add(target)
        for inserted in fresh:
            inserted.leaves = True

        def done(why: Refusal | None) -> None:
            self._unneeded.discard(target)
            for inserted in fresh:
                inserted.leaves = why is None
            then(why)

        self.when_answers(target, lambda: self.try_empty(target, fresh, done))

    def when_answers(self, target: Target, work: Callable[[], Awaitable[object]]) -> None:
        """Have something done, with the target's lock, when its tracer has answered what it was
        asked so far, but for what it answers later by design; or when that has ended."""
        self._tasks.start(self._when_answers(target, work))

    async def _when_answers(self, target: Target, work: Callable[[], Awaitable[object]]) -> None:
        with contextlib.suppress(Refusal):
            await self._insist(target, lambda seq: protocol.Query(seq=seq, pid=target.pid))
        async with target.lock:
            await work()

    @staticmethod
    async def _insist(target: Target, make: Callable[[int], protocol.Request]) -> protocol.Ok:
        """Ask, however long the answer takes; raises Refusal."""
        while True:
            try:
                return await target.ask(make, None)
            except NoAnswer:
                assert target.tracer is not None
                await target.tracer.backend.heard()

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

        def out(answer: protocol.Ok | None) -> None:
            if answer is not None and target.programs.get(number) is inserted:
                target.release(number)
                self._targets.taken_out(inserted)

        try:
            answer = await target.ask(
                lambda seq: protocol.Remove(seq=seq, pid=target.pid, program=number),
                LONG_PATIENCE,
                late=out,
            )
        except Refusal:
            if target.programs.get(number) is inserted:
                raise
            return  # Who asked before and had no answer has done it.
        out(answer)

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

    def inserted_late(self, inserted: InsertedProgram, answer: protocol.Ok | None) -> None:
        """Whether a program is in, of which its user was told that nobody answers: if so, take it
        out."""
        if answer is None:
            inserted.target.settle(inserted)
        else:
            self._tasks.start(self._remove_unheard(inserted))

    async def _remove_unheard(self, inserted: InsertedProgram) -> None:
        target = inserted.target
        with contextlib.suppress(Refusal):  # It has ended.
            await self._insist(
                target,
                lambda seq: protocol.Remove(seq=seq, pid=target.pid, program=inserted.number),
            )
        target.settle(inserted)

    def attached_late(self, target: Target, answer: protocol.Ok | None) -> None:
        """Whether a tracer has attached, where its user was told that nobody answers: if so, it
        detaches."""
        assert target.tracer is not None
        if answer is None:
            target.tracer.in_doubt.discard(target.pid)
        else:
            self._tasks.start(self.detach_from(target.tracer, target.pid))

    @staticmethod
    async def detach_from(tracer: TargetsTracer, pid: int) -> None:
        """Have a tracer detach from a process that is no target here, whenever it answers."""
        while True:
            try:
                await tracer.backend.request(lambda seq: protocol.Detach(seq=seq, pid=pid), None)
            except BackendSilent:
                await tracer.backend.heard()
            except BackendRefused as error:
                tracer.in_doubt.discard(pid)  # It is no target any more.
                _log.warning("process %d: its tracer: %s", pid, error)
                return
            except BackendGone:
                return
            else:
                return  # That it has ended is told of then.

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
