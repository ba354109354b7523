"""What is inserted where.

Everything here runs in the daemon's event loop. A target is in one tracer and lives as long as a
client holds it or a program is in it. A followed child of a target begins with those of the
parent's programs that follow, under the same numbers, and with the holders who want it. What a
client inserted is taken out when its connection ends, unless it asked to keep it. What comes out
goes to ``delivery``; which facilities there are, the tracers hear from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import weakref
from collections.abc import Callable, Container, Coroutine, Iterable
from typing import Any, Final

from dprobed import process as processes
from dprobed.control import messages
from dprobed.delivery import Delivery
from dprobed.engine import protocol
from dprobed.hosts import Host, Hosts
from dprobed.instance import DEFECT, Client, Entry, Refusal, Target, describe_end
from dprobed.past import Past
from dprobed.policy.gate import Admission, Gate
from dprobed.policy.model import Decision
from dprobed.policy.rights import Right
from dprobed.program import Program, ProgramError, decode, encode
from dprobed.rescue import clear_watchpoints, rescue
from dprobed.supervisor import Supervisor
from dprobed.target import procfs

#: Programs that one user of root's daemon may have in, other than root.
OF_A_USER: Final = 1000
#: Targets out of which programs are taken at the same time.
_AT_ONCE: Final = 16
#: Seconds in which a tracer says of a process that is dead that it has ended.
_LAST_WORDS: Final = 5.0

_log = logging.getLogger("dprobed")


class Registry:
    """All targets and programs of this daemon, and the requests that change them.

    Requests raise Refusal. ``gate``: who may do what. ``keep_log``: keep records for ``log`` (a
    private daemon need not). ``hold_limit``: seconds that ``exit debugger`` holds a process without
    a debugger.
    """

    def __init__(
        self, supervisor: Supervisor, gate: Gate, *, keep_log: bool, hold_limit: float
    ) -> None:
        self.gate = gate
        gate.store.is_ours = lambda pid: pid == os.getpid() or pid in supervisor.tracers
        self._hold_limit = hold_limit
        self._supervisor = supervisor
        self._hosts = Hosts(supervisor, self._event, self._lost)
        #: Whose connection has ended: a child of a target of theirs may still be reported.
        self._gone: weakref.WeakSet[Client] = weakref.WeakSet()
        self._targets: dict[int, Target] = {}
        self._past = Past()
        self._last_number = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.delivery = Delivery(gate, keep_log=keep_log, changed=self._facilities_changed)

    # -- requests ------------------------------------------------------------------------------

    async def attach(
        self,
        client: Client,
        pid: int,
        launch: bool = False,
        *,
        follow_forks: bool = False,
        shared: bool = False,
    ) -> None:
        """Trace ``pid`` for ``client``; one that is traced already is for all who asked.

        ``follow_forks``: children get what this client puts in, and are held by it.
        ``shared``: in a tracer that has other targets of the client's user, too.
        """
        if pid in (os.getpid(), client.pid) or pid in self._supervisor.tracers:
            raise Refusal(f"process {pid} is part of dprobed itself, and cannot be probed by it")
        admission = self.gate.admit(client, pid)
        while True:
            target = self._targets.setdefault(pid, Target(pid))
            async with target.lock:
                if target.finished.is_set():
                    continue  # It was just let go: begin anew.
                if target.attached:
                    self.gate.join(client, target, admission)
                target.holders.add(client)
                if follow_forks:
                    target.followers.add(client)
                if not target.attached:
                    await self._start(target, client, launch, shared, admission)
                return

    async def _start(
        self, target: Target, client: Client, launch: bool, shared: bool, admission: Admission
    ) -> None:
        try:
            target.uid, target.decision = admission.uid, admission.decision
            await self._hosts.place(target, admission.uid, admission.gid, shared=shared)
        except OSError as error:
            target.let_go(client)
            self._finish(target, None, "")
            raise Refusal(f"no tracer could be started: {error.strerror}") from None
        try:
            await target.ask(
                lambda seq: protocol.Attach(
                    seq=seq,
                    pid=target.pid,
                    launch=launch,
                    hold_limit=self._hold_limit,
                    follow_forks=admission.decision.follow_forks,
                    hold_thread=admission.decision.hold == "thread",
                    budget=admission.decision.limits,
                )
            )
            if not self.gate.admit(client, target.pid).same_as(admission):
                raise Refusal(f"process {target.pid} became another one meanwhile; try again")
        except Refusal:
            target.let_go(client)
            if not target.finished.is_set():
                self._finish(target, None, "")
            await self._tracer_ended(target)
            raise
        target.attached = True

    async def _tracer_ended(self, target: Target) -> None:
        """Wait for the end of the tracer, if this was its only target."""
        if target.host is not None and target.host.is_over:
            await asyncio.shield(target.host.tracer.gone)

    async def insert(self, client: Client, request: messages.Insert) -> list[Entry]:
        """Put programs into a target that ``client`` holds: all of them, or none."""
        target = self._held(client, request.pid)
        programs = [(upload, self.decode(upload)) for upload in request.programs]
        for upload, program in programs:
            self.gate.allow(client, target.pid, upload.label, program)
        self._make_room(client, len(programs))
        async with target.lock:
            replaced = [
                entry
                for entry in target.entries.values()
                if self.gate.sees(client, entry.uid)
                and any(_is_in_the_way(entry, request, *each) for each in programs)
            ]
            for entry in replaced:
                await self._take_out(entry)
            owner = None if request.keep else client
            entries: list[Entry] = []
            try:
                for upload, program in programs:
                    number = self.next_number()
                    entry = Entry(
                        number,
                        upload.label,
                        program,
                        target,
                        owner,
                        client,
                        upload.budget,
                        client in target.followers,
                    )
                    await self._place(entry, upload.bytecode, request.check_opcode)
                    entries.append(entry)
            except Refusal:
                for entry in entries:
                    await self._take_out(entry)
                for entry in replaced:
                    await self._place(entry, encode(entry.program), request.check_opcode)
                raise
        names = ", ".join(entry.label for entry in entries)
        _log.info("process %d: user %d inserted %s", request.pid, client.uid, names)
        return entries

    def _make_room(self, client: Client, more: int) -> None:
        """Nobody fills root's daemon with programs; raises Refusal."""
        if not self.gate.commands(client):
            own = sum(entry.uid == client.uid for entry in self.select(client, messages.Select()))
            if own + more > OF_A_USER:
                raise Refusal(
                    f"{own} programs of user {client.uid} are in already, and {OF_A_USER} may be; "
                    "take some out, or start a dprobed of your own"
                )

    async def put(
        self,
        client: Client,
        pid: int,
        upload: messages.Upload,
        number: int,
        *,
        check_opcode: bool,
        follow_forks: bool,
    ) -> Entry:
        """One program, which has its number, into ``pid``, which is traced as long as it is in."""
        await self.attach(client, pid, shared=True)
        target = self._held(client, pid)
        async with target.lock:
            program = self.decode(upload)
            entry = Entry(
                number,
                upload.label,
                program,
                target,
                client,
                client,
                upload.budget,
                follow_forks,
            )
            try:
                self.gate.allow(client, pid, upload.label, entry.program)
                await self._place(entry, upload.bytecode, check_opcode)
            finally:
                target.let_go(client)
                if not target.entries:
                    await self._empty(target, [])
        return entry

    async def _place(self, entry: Entry, bytecode: bytes, check_opcode: bool) -> None:
        """Put a program in; the caller has the target's lock. Raises Refusal."""
        # Known before it is in: its records may come before the answer.
        entry.target.entries[entry.number] = entry
        try:
            await entry.target.ask(self._insertion(entry, bytecode, check_opcode))
        except Refusal:
            entry.target.entries.pop(entry.number)
            raise

    async def take_out(self, client: Client, pid: int) -> None:
        """Take what ``client`` put into ``pid`` out; that it has ended is no error."""
        target = self._targets.get(pid)
        if target is not None:
            async with target.lock:
                own = [entry for entry in target.entries.values() if entry.owner is client]
                await self._empty(target, own)

    def next_number(self) -> int:
        """A number for a program."""
        self._last_number += 1
        return self._last_number

    @property
    def tracers(self) -> Container[int]:
        """The processes that trace."""
        return self._supervisor.tracers

    def keep_warm(self, warm: bool) -> None:
        """Whether ``put`` is to be expected any moment."""
        self._hosts.keep_warm(warm)

    def entry(self, pid: int, number: int) -> Entry | None:
        """The program of this number in a process."""
        target = self._targets.get(pid)
        return target.entries.get(number) if target is not None else None

    def is_target(self, pid: int) -> bool:
        """Whether a process is traced, or about to be, at a client's wish."""
        return pid in self._targets

    def _insertion(
        self, entry: Entry, bytecode: bytes, check: bool
    ) -> Callable[[int], protocol.Insert]:
        return lambda seq: protocol.Insert(
            seq=seq,
            pid=entry.target.pid,
            program=entry.number,
            bytecode=bytecode,
            check_opcode=check,
            facilities=self.delivery.dispatcher.facilities,
            acting=self.delivery.dispatcher.acting,
            label=entry.label,
            budget=_limits(entry.budget),
            follow_forks=entry.follow_forks,
        )

    def decode(self, upload: messages.Upload) -> Program:
        """The program, verified here as well: a client is not trusted; raises Refusal."""
        try:
            program = decode(upload.bytecode)
        except ProgramError as error:
            raise Refusal(f"{upload.label}: {error}") from None
        facilities = self.delivery.dispatcher.facilities
        known = {*facilities, *facilities.values()}
        unknown = [str(facility) for facility in program.facilities if facility not in known]
        if unknown:
            names = ", ".join(unknown)
            have = ", ".join(f"{name} ({number})" for name, number in facilities.items())
            raise Refusal(f"{upload.label}: no facility {names} is registered; registered: {have}")
        if program.header.kernel:
            raise Refusal(
                f"{upload.label}: programs for the kernel cannot be inserted into a process"
            )
        return program

    async def detach(self, client: Client, pid: int) -> tuple[list[messages.ProbeInfo], int]:
        """Take out what ``client`` put into ``pid``; last counters and the target's overhead."""
        target = self._held(client, pid)
        own = [entry for entry in target.entries.values() if entry.owner is client]
        async with target.lock:
            target.let_go(client)
            await self._empty(target, own)
        return [info for entry in own for info in entry.probe_infos()], target.overhead_ns

    async def remove(self, client: Client, select: messages.Select) -> messages.Removed:
        """Take the selected programs out."""
        removed: dict[Entry, None] = {}
        targets: dict[Target, list[Entry]] = {}
        turns = asyncio.Semaphore(_AT_ONCE)
        # Again: a target may have forked before it lost the program.
        while chosen := [entry for entry in self.select(client, select) if entry not in removed]:
            those: dict[Target, list[Entry]] = {}
            for entry in chosen:
                those.setdefault(entry.target, []).append(entry)
            await asyncio.gather(
                *(self._remove(turns, client, target, own) for target, own in those.items())
            )
            removed.update(dict.fromkeys(chosen))
            targets |= those
        earlier = self.earlier(client, select)
        for entry in self._earlier(client, select):
            self._past.forget(entry)
        if not removed and not earlier and select != messages.Select():
            raise Refusal("no such program is in; `dprobe programs` lists them")
        if removed:
            names = ", ".join(dict.fromkeys(entry.label for entry in removed))
            pids = [target.pid for target in targets]
            where = f"process {pids[0]}" if len(pids) == 1 else f"{len(pids)} processes"
            _log.info("%s: user %d removed %s", where, client.uid, names)
        return messages.Removed(
            id=0,
            probes=[info for entry in removed for info in entry.probe_infos()],
            overhead_ns=sum(target.overhead_ns for target in targets),
            earlier=earlier,
        )

    async def _remove(
        self, turns: asyncio.Semaphore, client: Client, target: Target, own: list[Entry]
    ) -> None:
        async with turns, target.lock:
            await self._empty(target, own)
        self._tell_owners(target, own, client)
        if target in self._past:
            self._past.remove(target, own)

    def _tell_owners(self, target: Target, entries: list[Entry], remover: Client) -> None:
        for entry in entries:
            if entry.owner is not None and entry.owner is not remover:
                entry.end(protocol.State.REMOVED, "taken out by another client")
                entry.owner.tell(
                    messages.StateChange(pid=target.pid, probes=list(entry.probe_infos()))
                )

    async def query(self, client: Client, select: messages.Select) -> list[Target]:
        """The selected targets, with fresh states and counters."""
        chosen = {entry.target for entry in self.select(client, select)}
        if select == messages.Select():
            chosen |= {target for target in self._targets.values() if self._sees(client, target)}
        live = [t for t in chosen if t.attached and not t.finished.is_set()]
        await asyncio.gather(*(self.refresh(target) for target in live))
        return sorted(chosen, key=lambda target: target.pid)

    async def variables(self, client: Client, wanted: messages.Vars) -> list[int]:
        """The locals of a program, or the globals of a process."""
        number = wanted.number
        if number is not None:
            entries = self.select(client, messages.Select(number=number, pid=wanted.pid))
            live = [entry for entry in entries if not entry.target.finished.is_set()] or entries
            if not live:
                raise Refusal(f"there is no program {number}; `dprobe programs` lists them")
            if len(live) > 1:
                pids = ", ".join(str(entry.target.pid) for entry in live)
                raise Refusal(f"program {number} is in several processes; name one of {pids}")
            target = self._live(client, live[0].target.pid)
        elif wanted.pid is not None:
            target = self._live(client, wanted.pid)
            self.gate.require(client, wanted.pid, Right.OBSERVE)
            others = (e for e in target.entries.values() if not self.gate.sees(client, e.uid))
            if wanted.reset and any(entry.program.header.gvars for entry in others):
                raise Refusal(
                    f"programs of other users in process {wanted.pid} use its globals too: only "
                    "root may reset them"
                )
        else:
            raise Refusal("name either a program, for its locals, or a process, for the globals")
        answer = await target.ask(
            lambda seq: protocol.Vars(
                seq=seq,
                pid=target.pid,
                program=number,
                first=wanted.first,
                count=wanted.count,
                reset=wanted.reset,
            )
        )
        return answer.words

    async def dump(self, client: Client, pid: int, zstd: bool) -> protocol.DumpStatus:
        """Write a core of a process."""
        target = self._live(client, pid)
        self.gate.require(client, pid, Right.DUMP)
        answer = await target.ask(lambda seq: protocol.Dump(seq=seq, pid=pid, zstd=zstd))
        if answer.dump is None:
            raise Refusal(f"the tracer of process {pid} did not say where the core is")
        return answer.dump

    async def resume(self, client: Client, pid: int | None, tid: int | None) -> list[int]:
        """Let threads go on that ``suspend`` holds, and processes that wait for a debugger."""
        if pid is not None:
            targets = [self._live(client, pid)]
            self.gate.require(client, pid, Right.DEBUG)
        else:
            targets = [each for each in self._targets.values() if self._sees(client, each)]
        tids: list[int] = []
        for target in targets:
            if pid is not None or self.gate.has(client, target.pid, Right.DEBUG):
                its_pid = target.pid
                answer = await target.ask(
                    lambda seq, its_pid=its_pid: protocol.Resume(seq=seq, pid=its_pid, tid=tid)  # type: ignore[misc]
                )
                tids += answer.tids
        if tid is not None and not tids:
            raise Refusal(f"thread {tid} is not held")
        return tids

    def select(self, client: Client, select: messages.Select) -> list[Entry]:
        """The programs of ``client``'s user that are meant, those of ended targets included."""
        return [
            entry
            for target in (*self._past, *self._targets.values())
            for entry in target.entries.values()
            if entry.matches(select) and self.gate.sees(client, entry.uid)
        ]

    def _earlier(self, client: Client, select: messages.Select) -> list[Entry]:
        return [each for each in self._past.earlier(select) if self.gate.sees(client, each.uid)]

    def earlier(self, client: Client, select: messages.Select) -> list[messages.EarlierInfo]:
        """What the selected programs counted in processes that ended long ago."""
        return [self._past.info(entry) for entry in self._earlier(client, select)]

    # -- the end of clients and of the daemon -----------------------------------------------------

    def release(self, client: Client) -> None:
        """The connection of ``client`` has ended: what it did not ask to keep goes out."""
        self._gone.add(client)
        self.delivery.release(client)
        for target in list(self._targets.values()):
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
                await self._empty(target, own)
            except Refusal as refusal:
                _log.warning("process %d: %s", target.pid, refusal)

    async def check_again(self) -> None:
        """The policies are others: what they do not allow any longer goes out."""
        targets = [target for target in self._targets.values() if target.attached]
        await asyncio.gather(*(self._check_again(target) for target in targets))

    async def _check_again(self, target: Target) -> None:
        """A process executed another program, or the policies changed: what may stay in it?"""
        async with target.lock:
            process = processes.read(target.pid)
            if process is None or target.finished.is_set():
                return
            await self._adjust(target, self.gate.policies.decide(process))
            for holder in list(target.holders):
                if self.gate.denial(holder, process, frozenset()) is not None:
                    target.let_go(holder)
            denied = {
                entry: why
                for entry in target.entries.values()
                if (why := self.gate.keeps(entry, process, entry.label, entry.program))
            }
            if not denied and target.clients():
                return
            try:
                await self._empty(target, denied)
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

    async def stop(self, patience: float) -> None:
        """Take everything out of every target; waits at most ``patience`` seconds."""
        left = await self._supervisor.stop(patience)
        self.delivery.close()
        if left:
            _log.warning("%d tracers are still waiting for their target to stop; they go on", left)

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Have it done beside everything else."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- inside -------------------------------------------------------------------------------

    def _sees(self, client: Client, target: Target) -> bool:
        """Whether a traced process concerns a client's user."""
        return target.attached and (
            self.gate.sees(client, target.uid)
            or client in target.clients()
            or any(entry.uid == client.uid for entry in target.entries.values())
        )

    def _live(self, client: Client, pid: int) -> Target:
        target = self._targets.get(pid)
        if target is None or not self._sees(client, target):
            raise Refusal(f"process {pid} is not traced by this daemon")
        return target

    def _held(self, client: Client, pid: int) -> Target:
        target = self._live(client, pid)
        if client not in target.holders:
            raise Refusal(f"process {pid} is not attached by this connection; send `attach` first")
        return target

    async def refresh(self, target: Target) -> None:
        """Ask the tracer for the present states and counters."""
        try:
            answer = await target.ask(lambda seq: protocol.Query(seq=seq, pid=target.pid))
        except Refusal:
            return  # It ended meanwhile; its last counters are known.
        target.overhead_ns = answer.overhead_ns
        target.suspended = answer.suspended
        target.debugger = answer.debugger

    async def _empty(self, target: Target, own: Iterable[Entry]) -> None:
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
                    await self._take_out(entry)
                await self.refresh(target)
                return
            answer = await target.ask(lambda seq: protocol.Detach(seq=seq, pid=target.pid))
            target.overhead_ns = max(target.overhead_ns, answer.overhead_ns)
        except Refusal:
            if not await self._ends(target):
                raise
        await target.finished.wait()
        await self._tracer_ended(target)

    @staticmethod
    async def _ends(target: Target) -> bool:
        """Whether a target has ended, or has just died and its tracer is about to say so."""
        if not target.finished.is_set() and procfs.run_state(target.pid) in ("", "Z", "X"):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(target.finished.wait(), _LAST_WORDS)
        return target.finished.is_set()

    async def _take_out(self, entry: Entry) -> None:
        number = entry.number
        pid = entry.target.pid
        await entry.target.ask(lambda seq: protocol.Remove(seq=seq, pid=pid, program=number))
        entry.target.entries.pop(number, None)

    # -- what tracers say -----------------------------------------------------------------------

    def _event(self, host: Host, event: protocol.Event) -> None:
        match event:
            case protocol.Records():
                self.delivery.take(host, event.records)
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
                if event.kind in ("dump", "debugger"):
                    _log.info("process %d: %s", event.pid, event.text)
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
                asyncio.get_running_loop().call_soon(self._finish, target, event, "")

    def _forked(self, host: Host, event: protocol.Forked) -> None:
        """A child of a target is one as well, for those who want its parent's children."""
        parent = host.parent(event.parent)
        target = Target(event.pid)
        target.attached = True
        host.add(target)
        self._targets[event.pid] = target
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
        elif self.gate.policies.policies:
            # It has another parent, for one: another policy may be the one that decides.
            self.later(self._check_again(target))

    async def _let_go(self, target: Target) -> None:
        async with target.lock:
            await self._empty(target, ())

    def _facilities_changed(self) -> None:
        for target in self._targets.values():
            if target.attached:
                self.later(self._tell_facilities(target))

    async def _tell_facilities(self, target: Target) -> None:
        facilities, acting = self.delivery.dispatcher.facilities, self.delivery.dispatcher.acting
        with contextlib.suppress(Refusal):  # It is about to end.
            await target.ask(
                lambda seq: protocol.Facilities(seq=seq, facilities=facilities, acting=acting)
            )

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
                self._finish(target, None, failure)

    async def _clear_watchpoints(self, host: Host, target: Target, failure: str) -> None:
        await clear_watchpoints(self._supervisor, target.pid, *host.user)
        self._finish(target, None, failure)

    def _finish(self, target: Target, ended: protocol.Ended | None, failure: str) -> None:
        """The target has ended, is let go, or was lost with its tracer (``failure``: how)."""
        if target.finished.is_set():
            return
        if self._targets.get(target.pid) is target:
            del self._targets[target.pid]
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
            self._past.add(target, kept)
            text = target.reason or (describe_end(ended) if ended else "")
            _log.info(
                "process %d (%s) with %d programs: %s", target.pid, target.comm, len(kept), text
            )


def _limits(budget: messages.Budget | None) -> protocol.Limits | None:
    if budget is None:
        return None
    return protocol.Limits(budget.share, budget.hits, budget.remove)


def _is_in_the_way(
    entry: Entry, request: messages.Insert, upload: messages.Upload, program: Program
) -> bool:
    """Whether a program that is in has to go before ``upload`` comes; raises Refusal."""
    module = program.header.name
    if entry.owner is not None or entry.program.header.name != module:
        return False
    if request.present == "refuse" and entry.label == upload.label:
        raise Refusal(
            f"{upload.label}: a program of that name for {module} is in process {request.pid} "
            f"already (number {entry.number}); --merge puts it in besides, --replace takes those "
            "for that module out first"
        )
    return request.present == "replace"
