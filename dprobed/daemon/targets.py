"""The targets of this daemon: what becomes of them, as their tracers tell it.

A target is in one tracer and lives as long as a client holds it or a program is in it. A followed
child of a target begins with those of the parent's programs that follow, under the same numbers,
and with the holders who want it. A client hears of its own programs, and of the ends of what it
holds. Whoever changes a target has its lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

from dprobed.daemon.exited import Past
from dprobed.daemon.gate import Gate
from dprobed.daemon.recovery import clear_watchpoints, rescue
from dprobed.daemon.target import DEFECT, Client, Entry, Refusal, Target
from dprobed.daemon.tracer_pool import Host, Hosts
from dprobed.daemon.tracer_process import Supervisor
from dprobed.policy.model import Decision
from dprobed.proc import processes, procfs
from dprobed.wire import messages, protocol

#: Seconds in which a tracer says of a process that is dead that it has ended.
_LAST_WORDS: Final = 5.0

_log = logging.getLogger("dprobed")


class Targets:
    """All of them, by process; ``past``: those that have ended with programs that were to stay.

    ``deliver``: what is done with their records.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        gate: Gate,
        deliver: Callable[[Host, list[protocol.RawRecord]], None],
    ) -> None:
        self._supervisor: Final = supervisor
        self._gate: Final = gate
        self._deliver: Final = deliver
        self.hosts: Final = Hosts(supervisor, self._event, self._lost)
        self.by_pid: dict[int, Target] = {}
        self.past: Final = Past()
        #: Whose connection has ended: a child of a target of theirs may still be reported.
        self._gone: weakref.WeakSet[Client] = weakref.WeakSet()
        self._tasks: set[asyncio.Task[None]] = set()

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Have it done beside everything else."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- which ---------------------------------------------------------------------------------

    def select(self, client: Client, select: messages.Select) -> list[Entry]:
        """The programs of ``client``'s user that are meant, those of ended targets included."""
        return [
            entry
            for target in (*self.past, *self.by_pid.values())
            for entry in target.entries.values()
            if entry.matches(select) and self._gate.sees(client, entry.uid)
        ]

    def earlier(self, client: Client, select: messages.Select) -> list[Entry]:
        """For each selected program one of its entries in the processes of which ``past`` has only
        sums."""
        return [each for each in self.past.earlier(select) if self._gate.sees(client, each.uid)]

    def sees(self, client: Client, target: Target) -> bool:
        """Whether a traced process concerns a client's user."""
        return target.attached and (
            self._gate.sees(client, target.uid)
            or client in target.clients()
            or any(entry.uid == client.uid for entry in target.entries.values())
        )

    def live(self, client: Client, pid: int) -> Target:
        """A process that is traced, for a client that may know of it; raises Refusal."""
        target = self.by_pid.get(pid)
        if target is None or not self.sees(client, target):
            raise Refusal(f"process {pid} is not traced by this daemon")
        return target

    def held(self, client: Client, pid: int) -> Target:
        """A process that this client has attached to; raises Refusal."""
        target = self.live(client, pid)
        if client not in target.holders:
            raise Refusal(f"process {pid} is not attached by this connection; send `attach` first")
        return target

    # -- letting go ----------------------------------------------------------------------------

    def release(self, client: Client) -> None:
        """The connection of ``client`` has ended: what it did not ask to keep goes out."""
        self._gone.add(client)
        for target in list(self.by_pid.values()):
            own = [entry for entry in target.entries.values() if entry.owner is client]
            if client in target.holders or own:
                host = target.host
                if not target.attached and host is not None and not host.shared:
                    host.tracer.close()
                self.later(self._release(target, client))

    async def _release(self, target: Target, client: Client) -> None:
        async with target.lock:
            target.let_go(client)
            own = [entry for entry in target.entries.values() if entry.owner is client]
            try:
                await self.empty(target, own)
            except Refusal as refusal:
                _log.warning("process %d: %s", target.pid, refusal)

    async def empty(self, target: Target, own: Iterable[Entry]) -> None:
        """Take ``own`` out of ``target``, and let it go when nobody needs it any longer.

        The caller has the target's lock. A target that ended meanwhile is no error.
        """
        # One that was just being put in when it was chosen may have been refused.
        own = [entry for entry in own if target.entries.get(entry.number) is entry]
        if target.finished.is_set() or target.host is None:
            return
        stays = target.entries.keys() - {entry.number for entry in own}
        try:
            if stays or target.holders:
                for entry in own:
                    await self.take_out(entry)
                await self.refresh(target)
                return
            answer = await target.ask(lambda seq: protocol.Detach(seq=seq, pid=target.pid))
            target.overhead_ns = max(target.overhead_ns, answer.overhead_ns)
        except Refusal:
            if not await self._ends(target):
                raise
        await target.finished.wait()
        await self.tracer_ended(target)

    async def take_out(self, entry: Entry) -> None:
        """Take a program out; the caller has the target's lock. Raises Refusal."""
        number = entry.number
        pid = entry.target.pid
        await entry.target.ask(lambda seq: protocol.Remove(seq=seq, pid=pid, program=number))
        entry.target.entries.pop(number, None)

    async def refresh(self, target: Target) -> None:
        """Ask the tracer for the present states and counters."""
        try:
            answer = await target.ask(lambda seq: protocol.Query(seq=seq, pid=target.pid))
        except Refusal:
            return  # It ended meanwhile; its last counters are known.
        target.overhead_ns = answer.overhead_ns
        target.suspended = answer.suspended
        target.debugger = answer.debugger

    @staticmethod
    async def _ends(target: Target) -> bool:
        """Whether a target has ended, or has just died and its tracer is about to say so."""
        if not target.finished.is_set() and procfs.run_state(target.pid) in ("", "Z", "X"):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(target.finished.wait(), _LAST_WORDS)
        return target.finished.is_set()

    async def tracer_ended(self, target: Target) -> None:
        """Wait for the end of the tracer, if this was its only target."""
        if target.host is not None and target.host.is_over:
            await asyncio.shield(target.host.tracer.gone)

    async def _let_go(self, target: Target) -> None:
        async with target.lock:
            await self.empty(target, ())

    # -- policies ------------------------------------------------------------------------------

    def became_another(self, pid: int) -> None:
        """A process runs as another user: what may stay in it?"""
        target = self.by_pid.get(pid)
        if target is not None and target.attached:
            self.later(self._check_again(target))

    async def check_again(self) -> None:
        """The policies are others: what they do not allow any longer goes out."""
        targets = [target for target in self.by_pid.values() if target.attached]
        await asyncio.gather(*(self._check_again(target) for target in targets))

    async def _check_again(self, target: Target) -> None:
        """A process executed another program, or the policies changed: what may stay in it?"""
        async with target.lock:
            process = processes.read(target.pid)
            if process is None or target.finished.is_set():
                return
            await self._adjust(target, self._gate.policies.decide(process))
            for holder in list(target.holders):
                if self._gate.denial(holder, process, frozenset()) is not None:
                    target.let_go(holder)
            denied = {
                entry: why
                for entry in target.entries.values()
                if (why := self._gate.keeps(entry, process, entry.label, entry.program))
            }
            if not denied and target.clients():
                return
            try:
                await self.empty(target, denied)
            except Refusal as refusal:
                _log.warning("process %d: %s", target.pid, refusal)
        for entry, why in denied.items():
            entry.end(protocol.State.REMOVED, why)
            if entry.owner is not None:
                entry.owner.tell(
                    messages.StateChange(pid=target.pid, probes=list(entry.probe_infos()))
                )

    @staticmethod
    async def _adjust(target: Target, decision: Decision) -> None:
        """Have a process treated as is decided now."""
        before, target.decision = target.decision, decision
        if before is not None and before.treatment == decision.treatment:
            return
        with contextlib.suppress(Refusal):  # It is about to end.
            await target.ask(
                lambda seq: protocol.Adjust(
                    seq=seq,
                    pid=target.pid,
                    follow_forks=decision.follow_forks,
                    hold_thread=decision.hold == "thread",
                    budget=decision.limits,
                )
            )

    # -- what tracers say ----------------------------------------------------------------------

    def _event(self, host: Host, event: protocol.Event) -> None:
        match event:
            case protocol.Records():
                self._deliver(host, event.records)
            case protocol.Places():
                for number, place in event.places.items():
                    host.place(number, place)
            case protocol.Forked():
                self._forked(host, event)
            case _:
                target = host.targets.get(event.pid)
                if target is not None:
                    self._target_event(target, event)

    def _target_event(
        self, target: Target, event: protocol.Changed | protocol.TargetEvent | protocol.Ended
    ) -> None:
        match event:
            case protocol.Changed():
                self._changed(target, target.take(event.probes))
            case protocol.TargetEvent():
                if event.kind in ("dump", "debugger", "loader", "unprobed"):
                    self._gate.history.note(target.uid, f"process {event.pid}: {event.text}")
                if event.kind == "exec":
                    self.later(self._check_again(target))
                notice = messages.Notice(
                    kind=event.kind, pid=event.pid, tid=event.tid, text=event.text
                )
                for client in target.clients():
                    client.tell(notice)
            case protocol.Ended():
                target.take(event.probes)
                target.overhead_ns = event.overhead_ns
                target.ended = event
                # Who waits for an answer that came before it has it first.
                asyncio.get_running_loop().call_soon(self.finish, target, event, "")

    def _forked(self, host: Host, event: protocol.Forked) -> None:
        """A child of a target is one as well, for those who want its parent's children."""
        parent = host.parent(event.parent)
        target = Target(event.pid)
        target.attached = True
        host.add(target)
        self.by_pid[event.pid] = target
        if parent is not None:
            target.uid, target.decision = parent.uid, parent.decision
            target.followers |= parent.followers
            target.holders |= parent.followers
            if target.decision is not None and target.decision.follow_forks:
                target.holders |= parent.holders
            numbers = {status.program for status in event.probes}
            for entry in parent.entries.values():
                if entry.number in numbers:
                    target.entries[entry.number] = Entry(
                        entry.number,
                        entry.label,
                        entry.program,
                        target,
                        entry.owner,
                        entry,
                        entry.budget,
                        entry.follow_forks,
                    )
            target.take(event.probes)
        clients = target.clients()
        for client in clients - set(self._gone):
            client.tell(messages.Forked(pid=event.pid, parent=event.parent))
        for client in clients & set(self._gone):
            self.later(self._release(target, client))
        if not clients and not target.entries:
            self.later(self._let_go(target))
        elif self._gate.policies.policies:
            # It has another parent, for one: another policy may be the one that decides.
            self.later(self._check_again(target))

    def _changed(self, target: Target, infos: list[messages.ProbeInfo]) -> None:
        for client in target.clients():
            own = [info for info in infos if target.owner_of(info.number) is client]
            if own:
                client.tell(messages.StateChange(pid=target.pid, probes=own))

    def _lost(self, host: Host, failure: str) -> None:
        """A tracer is gone, and with it the targets that it still had."""
        failure = failure or "its tracer ended without a word"
        targets = list(host.targets.values())
        for target in targets:
            rescue(target.pid)  # At once, all of them: each may run into a breakpoint any moment.
        for target in targets:
            probes = (probe for entry in target.entries.values() for probe in entry.program.probes)
            if any(probe.watchpoint for probe in probes):
                self.later(self._clear_watchpoints(host, target, failure))
            else:
                self.finish(target, None, failure)

    async def _clear_watchpoints(self, host: Host, target: Target, failure: str) -> None:
        try:
            await clear_watchpoints(self._supervisor, target.pid, *host.user)
        finally:
            self.finish(target, None, failure)

    def finish(self, target: Target, ended: protocol.Ended | None, failure: str) -> None:
        """The target has ended, is let go, or was lost with its tracer (``failure``: how)."""
        if target.finished.is_set():
            return
        if self.by_pid.get(target.pid) is target:
            del self.by_pid[target.pid]
        if ended is not None and ended.how == "failed":
            failure = DEFECT
        if failure:
            target.fail(failure)
        target.finished.set()
        if target.host is not None:
            target.host.drop(target)
        how, status = ("failed", 0) if ended is None else (ended.how, ended.status)
        if not target.attached:
            return
        for client in target.clients():
            own = [entry for entry in target.entries.values() if entry.owner is client]
            client.tell(
                messages.Ended(
                    pid=target.pid,
                    how=how,
                    status=status,
                    reason=target.reason,
                    probes=[info for entry in own for info in entry.probe_infos()],
                    overhead_ns=target.overhead_ns,
                )
            )
        kept = [entry for entry in target.entries.values() if entry.owner is None]
        if kept and how != "detached":
            self.past.add(target, kept)
            text = target.reason or target.end
            what = f"process {target.pid} ({target.comm}) with {len(kept)} programs"
            self._gate.history.note(target.uid, f"{what}: {text}")
