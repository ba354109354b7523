"""Tracer processes, from the daemon's side: forked, sent requests, and watched until they exit.

A tracer is forked from the daemon's main thread (its pages stay shared with the daemon's) and ends
when its socket is closed, also by the daemon's death. The daemon never kills a tracer, because only
the tracer can remove its breakpoints from a target.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import time
from collections import ChainMap
from collections.abc import Callable, Collection, Container, Coroutine, KeysView
from functools import partial
from typing import Final

from dprobed.backend import PATIENCE, BackendGone, Late, OnEvent
from dprobed.daemon.answers import Answers
from dprobed.daemon.change_journals import ChangeJournalFile, ChangeJournalFiles
from dprobed.daemon.child_process import User, how_it_ended
from dprobed.daemon.resolver_process import Resolvers
from dprobed.daemon.tracer_child import TracerAhead, TracerMain, fork_tracer
from dprobed.proc import procfs
from dprobed.wire import messages, protocol
from dprobed.wire.framing import ProtocolError, Unpacker
from dprobed.wire.notices import NoticeKind

#: Undoes what a tracer has left.
Recover = Callable[[], Coroutine[None, None, None]]

#: Seconds from one look at the tracers that are to end to the next.
_LOOK: Final = 0.2

#: Seconds for which a tracer may be stopped (SIGSTOP), with its targets at their probes, and from
#: one look at that to the next.
_STOPPED: Final = 3.0
_LOOK_AT_STOPPED: Final = 1.0

#: Seconds in which tracers that have lost their daemon have detached, unless a target sleeps.
_DETACHED: Final = 30.0
#: Seconds for which such tracers are waited for when the daemon ends.
_ENDING: Final = 3.0

_log = logging.getLogger("dprobed")


class TracerProcess(asyncio.Protocol):
    """One tracer process, seen from the daemon's event loop: a ``Backend``."""

    name: Final = messages.TRACER

    def __init__(
        self, sock: socket.socket, on_event: OnEvent, pid: int, recover: Recover | None = None
    ) -> None:
        """``recover``: undoes what it left, where it was killed."""
        self.pid: Final = pid
        self._recover: Final = recover
        self._sock = sock
        self.gone: Final[asyncio.Future[str]] = asyncio.get_running_loop().create_future()
        self._on_event = on_event
        self._unpacker = Unpacker()
        self._transport: asyncio.Transport | None = None
        self._answers: Final = Answers(f"tracer {pid}")
        self._seq = 0
        self._failure = ""
        self._ending = False
        #: It has a target from which it cannot detach before that wakes.
        self.is_asleep = False
        self._closed = False
        self._exit: str | None = None

    @property
    def is_silent(self) -> bool:
        """See Backend."""
        return self._answers.is_silent

    @property
    def waits(self) -> float:
        """See Backend."""
        return self._answers.waits

    async def heard(self) -> None:
        """See Backend."""
        await self._answers.heard()

    async def request(
        self,
        make: Callable[[int], protocol.Request],
        patience: float | None = PATIENCE,
        late: Late | None = None,
    ) -> protocol.Ok:
        """See Backend."""
        await self._answers.admit()
        if self._transport is None or self._transport.is_closing() or self._ending:
            raise BackendGone(self._why())
        self._seq += 1
        request = make(self._seq)
        # Packed before its answer is awaited: what cannot be packed has none.
        message = protocol.pack(request)
        answer = self._answers.expect(request, patience, late)
        self._transport.write(message)
        return await answer

    def close(self) -> None:
        """End the tracer: it takes its probes out, detaches and exits."""
        if not self._ending:
            self._ending = True
            if self._transport is not None and not self._transport.is_closing():
                self._transport.write_eof()

    async def recover(self) -> None:
        """See Backend."""
        if self._recover is not None:
            await self._recover()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is set up (asyncio)."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._ending:
            transport.write_eof()

    def data_received(self, data: bytes) -> None:
        """Bytes from the tracer (asyncio)."""
        self._unpacker.feed(data)
        try:
            while (body := self._unpacker.next()) is not None:
                self._dispatch(protocol.decode_from_tracer(body))
        except ProtocolError as error:
            self._give_up(f"protocol error from the tracer: {error}")
        except Exception:
            # Its further messages would be handled without the effect of this one: the connection
            # is closed, and the tracer then removes its probes.
            _log.exception("internal error in the daemon")
            self._give_up("internal error in the daemon (see its log)")

    def _give_up(self, why: str) -> None:
        self._failure = why
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The tracer is ending: fail the requests that wait for an answer (asyncio)."""
        if exc is not None and not self._failure:
            self._read_rest()
        self._answers.end(self._why())
        self._closed = True
        self._settle()

    def _read_rest(self) -> None:
        """Read what the tracer sent before it closed its end.

        A request that is written just then fails, and asyncio drops the connection unread.
        """
        with contextlib.suppress(OSError):
            while data := self._sock.recv(1 << 18):
                self.data_received(data)

    def _settle(self) -> None:
        if self._closed and self._exit is not None and not self.gone.done():
            self.gone.set_result(self._failure or self._exit)

    @property
    def has_exited_well(self) -> bool:
        """Whether it has ended by itself, and so undone all that it changed."""
        return self._exit == ""

    def _why(self) -> str:
        return self._failure or "the tracer ended"

    def _dispatch(self, message: protocol.Reply | protocol.Event) -> None:
        if isinstance(message, protocol.Ok | protocol.Refused):
            self._answers.take(message)
        else:
            self._answers.hear()
            if isinstance(message, protocol.TargetEvent) and message.kind is NoticeKind.ASLEEP:
                self.is_asleep = True
            self._on_event(self, message)

    def watch(self) -> None:
        """Wait for its exit without blocking the loop; it completes ``gone``."""
        loop = asyncio.get_running_loop()
        pidfd = os.pidfd_open(self.pid)

        def ended() -> None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self._exit = how_it_ended("tracer", status)
            self._settle()

        loop.add_reader(pidfd, ended)


class TracerProcesses:
    """Starts tracer processes: ``Backends``. ``main`` is what they run.

    ``ahead``: one that was forked already.
    """

    def __init__(
        self,
        main: TracerMain,
        ahead: TracerAhead | None = None,
        journals: ChangeJournalFiles | None = None,
    ) -> None:
        """``journals``: makes those of what tracers change; None: in memory."""
        self.journals: Final = journals or ChangeJournalFiles()
        self._main: Final = main
        self._ahead = ahead
        self._running: Final[dict[int, TracerProcess]] = {}
        #: Those that undo what killed tracers have left, by the journals that name it.
        self._recoveries: Final[dict[ChangeJournalFile, asyncio.Task[None]]] = {}
        #: Until when tracers of the daemon before this one are waited for, too.
        self._patient_until = 0.0
        self._is_stopping = False
        #: Those that were stopped at the last look, and since when.
        self._stopped: Final[dict[int, float]] = {}
        self._looking: asyncio.TimerHandle | None = None
        self.resolvers: Final = Resolvers(ahead)
        #: Pids of the tracers and of the resolvers.
        self.pids: Final[Container[int]] = ChainMap[int, object](
            self._running,  # type: ignore[arg-type]
            self.resolvers.processes,  # type: ignore[arg-type]
        )

    @property
    def tracers(self) -> KeysView[int]:
        """Pids of the tracers."""
        return self._running.keys()

    async def start(self, on_event: OnEvent, *, uid: int, gid: int, owner: int) -> TracerProcess:
        """A tracer without targets yet; it runs with the rights of ``uid`` and ``gid``.

        ``owner``: whose processes it is to have.
        Raises OSError when the machine has no room for one more process, and at the daemon's end.
        """
        if self._is_stopping:
            raise OSError(errno.ESHUTDOWN, "the daemon is ending")
        ahead = self._taken((uid, gid), owner)
        if ahead is not None:
            return await self._start(on_event, ahead.journal, ahead)
        journal = self.journals.make((uid, gid), owner)
        try:
            return await self._start(on_event, journal)
        except OSError:
            journal.remove()
            raise

    async def _start(
        self, on_event: OnEvent, journal: ChangeJournalFile, ahead: TracerAhead | None = None
    ) -> TracerProcess:
        user, owner = journal.user, journal.owner
        with contextlib.ExitStack() as undo:
            mailbox = self.resolvers.take(user, owner)
            undo.callback(self.resolvers.give_back, user, owner)
            if ahead is not None:
                child, sock = ahead.pid, ahead.sock
            else:
                child, sock = fork_tracer(self._main, mailbox, journal)
            undo.callback(sock.close)
            recover = partial(self._recover_killed, journal)
            tracer = TracerProcess(sock, on_event, child, recover)
            try:
                tracer.watch()
            except OSError:
                # No descriptor is left: one that cannot be watched does not stay.
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise
            undo.pop_all()
        loop = asyncio.get_running_loop()
        # Started now, because the first insertion needs it.
        loop.call_soon(self.resolvers.expect, user, owner)
        self._running[child] = tracer
        if self._looking is None:
            self._looking = loop.call_later(_LOOK_AT_STOPPED, self._look_at_stopped)
        tracer.gone.add_done_callback(lambda _: self._ended(tracer, journal))
        sock.setblocking(False)
        await loop.create_connection(lambda: tracer, sock=sock)
        return tracer

    def _taken(self, user: User, owner: int) -> TracerAhead | None:
        """The tracer that was forked ahead, if it is one for them."""
        ahead = self._ahead
        if ahead is None or (ahead.journal.user, ahead.journal.owner) != (user, owner):
            return None
        self._ahead = None
        return ahead

    def _ended(self, tracer: TracerProcess, journal: ChangeJournalFile) -> None:
        self._running.pop(tracer.pid, None)
        self._stopped.pop(tracer.pid, None)
        self.resolvers.give_back(journal.user, journal.owner)
        if not journal.attempts and (tracer.has_exited_well or journal.is_empty):
            journal.remove()

    # --- tracers that are stopped ---

    def _look_at_stopped(self) -> None:
        """Kill tracers that somebody has stopped: threads of their targets stand still at probes
        until they go on. A killed one's go on at once, and what it leaves is undone."""
        now = time.monotonic()
        for pid in list(self._running):
            if procfs.run_state(pid) != "T":
                self._stopped.pop(pid, None)
            elif now - self._stopped.setdefault(pid, now) >= _STOPPED:
                _log.warning("tracer %d has been stopped for %.0f s, and is killed", pid, _STOPPED)
                os.kill(pid, signal.SIGKILL)
        loop = asyncio.get_running_loop()
        self._looking = (
            loop.call_later(_LOOK_AT_STOPPED, self._look_at_stopped) if self._running else None
        )

    # --- what killed tracers have left ---

    def _begin_recovery(
        self, journal: ChangeJournalFile, work: Coroutine[None, None, None]
    ) -> asyncio.Task[None]:
        task = self._recoveries[journal] = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._recoveries.pop(journal, None))
        return task

    def recoveries(self, owner: int) -> Collection[asyncio.Future[None]]:
        """See Backends."""
        return [task for journal, task in self._undoing() if journal.may_name(owner)]

    def _undoing(self) -> list[tuple[ChangeJournalFile, asyncio.Task[None]]]:
        """What is being undone, or is so soon."""
        is_patient = time.monotonic() < self._patient_until
        return [
            (journal, task)
            for journal, task in self._recoveries.items()
            # A tracer that lives on has something that sleeps; who attaches to that is refused.
            if is_patient or not journal.living_writer()
        ]

    async def _recover_killed(self, journal: ChangeJournalFile) -> None:
        await self._begin_recovery(journal, self._recover(journal))

    async def _recover(self, journal: ChangeJournalFile) -> None:
        if journal.is_empty:
            journal.remove()
            return
        # Here: in a private daemon few ever need it. (Another has it loaded from the beginning.)
        from dprobed.daemon.recovery import recover, tell

        async def start(journal: ChangeJournalFile) -> TracerProcess:
            return await self._start(tell, journal)

        await recover(start, journal)
        if not journal.is_empty:
            self.journals.limit(journal.user)

    async def recover_orphans(self, patience: float) -> None:
        """Undo what tracers of daemons before this one have left; waits ``patience`` seconds, and
        the rest is done later."""
        self._patient_until = time.monotonic() + _DETACHED
        tasks = [
            self._begin_recovery(journal, self._recover_orphan(journal))
            for journal in self.journals.found()
        ]
        if tasks:
            await asyncio.wait(tasks, timeout=patience)

    async def _recover_orphan(self, journal: ChangeJournalFile) -> None:
        while (pid := journal.living_writer()) and pid not in self._running:
            # It has lost its daemon, and is taking its probes out.
            await asyncio.sleep(_LOOK)
        # As it is now that its tracer is gone.
        if (note := journal.last_note()) is not None:
            self.journals.notes.append(note)
        await self._recover(journal)

    async def stop(self, patience: float) -> int:
        """End all tracers and wait at most ``patience`` seconds; how many still run.

        Those end by themselves: from a target in uninterruptible sleep they can detach only later.
        """
        self._is_stopping = True
        begin = time.monotonic()
        self._patient_until = min(self._patient_until, begin + _ENDING)
        # In a loop: one may have been starting.
        while (left := begin + patience - time.monotonic()) > 0:
            for tracer in self._running.values():
                tracer.close()
            work = [task for _, task in self._undoing()]
            if not work and all(tracer.is_asleep for tracer in self._running.values()):
                break
            if gone := [tracer.gone for tracer in self._running.values()]:
                await asyncio.wait(gone, timeout=min(left, _LOOK))
            else:
                await asyncio.wait(work, timeout=min(left, _LOOK))
        self.resolvers.stop()
        if self._looking is not None:
            self._looking.cancel()
        for task in list(self._recoveries.values()):
            task.cancel()
        self.journals.close()
        if self._ahead is not None:
            self._ahead.sock.close()
            os.waitpid(self._ahead.pid, 0)
            self._ahead.journal.remove()
            self._ahead = None
        return len(self._running)
