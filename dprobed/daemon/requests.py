"""What is inserted where: the requests of clients that change it, and those that look at it.

Everything here runs in the daemon's event loop. What a client inserted is taken out when its
connection ends, unless it asked to keep it. What comes out goes to ``delivery``; what becomes of
the processes is in ``targets``; which facilities there are, the tracers hear from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Container
from typing import Final

from dprobed.daemon.gate import Admission, Gate
from dprobed.daemon.history import some
from dprobed.daemon.quota import Quota
from dprobed.daemon.records.routing import Delivery
from dprobed.daemon.resolver_process import Resolvers
from dprobed.daemon.target import Client, Entry, Refusal, Target
from dprobed.daemon.targets import Targets
from dprobed.daemon.tracer_pool import Host
from dprobed.daemon.tracer_process import Supervisor, TracerGone
from dprobed.policy.rights import Right
from dprobed.program.bytecode import decode, encode
from dprobed.program.model import Program, ProgramError
from dprobed.wire import messages, protocol

#: Bytes of a program that are verified in a millisecond or two; what has more is not verified
#: in the loop.
_SMALL: Final = 4096
#: Targets out of which programs are taken at the same time.
_AT_ONCE: Final = 16

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
        gate.store.is_ours = lambda pid: pid == os.getpid() or supervisor.is_ours(pid)
        self._hold_limit = hold_limit
        self._supervisor = supervisor
        self._last_number = 0
        self.targets = Targets(
            supervisor, gate, lambda host, records: self.delivery.take(host, records)
        )
        self.quota = Quota(gate, self.targets)
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
        if pid in (os.getpid(), client.pid) or self._supervisor.is_ours(pid):
            raise Refusal(f"process {pid} is part of dprobed itself, and cannot be probed by it")
        while True:
            # Each time: while we waited for a target to end, its number may have got another owner.
            admission = self.gate.admit(client, pid)
            target = self.targets.by_pid.setdefault(pid, Target(pid))
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
            if not shared:
                self.quota.check_tracers(client)
            target.uid, target.decision = admission.uid, admission.decision
            await self.targets.hosts.place(target, admission.uid, admission.gid, shared=shared)
        except (OSError, Refusal) as error:
            target.let_go(client)
            self.targets.finish(target, None, "")
            if isinstance(error, Refusal):
                raise
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
        except Refusal:
            target.let_go(client)
            if not target.finished.is_set():
                self.targets.finish(target, None, "")
            await self.targets.tracer_ended(target)
            raise
        try:
            if not self.gate.admit(client, target.pid).same_as(admission):
                raise Refusal(f"process {target.pid} became another one meanwhile; try again")
        except Refusal:
            # A tracer that has other targets would keep it for ever.
            target.let_go(client)
            with contextlib.suppress(Refusal):
                await self.targets.empty(target, ())
            raise
        target.attached = True

    async def insert(self, client: Client, request: messages.Insert) -> list[Entry]:
        """Put programs into a target that ``client`` holds: all of them, or none."""
        self.targets.held(client, request.pid)
        programs = [(upload, await self.decode(upload)) for upload in request.programs]
        # It may have been let go, and attached to anew, meanwhile.
        target = self.targets.held(client, request.pid)
        with self.quota.room_for(client, [program for _, program in programs]):
            async with target.lock:
                entries = await self._insert(client, target, request, programs)
        names = some(entry.label for entry in entries)
        self.gate.history.note(
            client.uid, f"process {request.pid}: user {client.uid} inserted {names}"
        )
        return entries

    async def _insert(
        self,
        client: Client,
        target: Target,
        request: messages.Insert,
        programs: list[tuple[messages.Upload, Program]],
    ) -> list[Entry]:
        """``insert`` while the target is locked: what is allowed now stays so until all are in."""
        self._check_held(client, target)
        for upload, program in programs:
            self.gate.allow(client, target.pid, upload.label, program)
            await asyncio.sleep(0)
        replaced = [
            entry
            for entry in target.entries.values()
            if self.gate.sees(client, entry.uid)
            and any(_is_in_the_way(entry, request, *each) for each in programs)
        ]
        for entry in replaced:
            await self.targets.take_out(entry)
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
                await self.targets.take_out(entry)
            for entry in replaced:
                await self._place(entry, encode(entry.program), request.check_opcode)
            raise
        return entries

    @staticmethod
    def _check_held(client: Client, target: Target) -> None:
        """That the target is still what ``client`` attached to: the policies may be others, or the
        process another target by now; raises Refusal. The caller has the target's lock."""
        if client not in target.holders or target.finished.is_set():
            raise Refusal(target.reason or f"process {target.pid} was let go meanwhile")

    async def put(
        self,
        client: Client,
        pid: int,
        upload: messages.Upload,
        program: Program,
        number: int,
        *,
        check_opcode: bool,
        follow_forks: bool,
    ) -> Entry:
        """One program, which has its number, into ``pid``, which is traced as long as it is in."""
        await self.attach(client, pid, shared=True)
        target = self.targets.held(client, pid)
        async with target.lock:
            self._check_held(client, target)
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
                self._check_facilities(upload.label, program)
                self.gate.allow(client, pid, upload.label, program)
                with self.quota.room_for_probes(client, [program]):
                    await self._place(entry, upload.bytecode, check_opcode)
            finally:
                target.let_go(client)
                if not target.entries:
                    await self.targets.empty(target, [])
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
        target = self.targets.by_pid.get(pid)
        if target is not None:
            async with target.lock:
                own = [entry for entry in target.entries.values() if entry.owner is client]
                await self.targets.empty(target, own)

    def next_number(self) -> int:
        """A number for a program."""
        self._last_number += 1
        return self._last_number

    @property
    def resolvers(self) -> Resolvers:
        """The processes that read what targets map."""
        return self._supervisor.resolvers

    @property
    def tracers(self) -> Container[int]:
        """The processes that trace."""
        return self._supervisor.tracers

    def keep_warm(self, warm: bool) -> None:
        """Whether ``put`` is to be expected any moment."""
        self.targets.hosts.keep_warm(warm)

    def entry(self, pid: int, number: int) -> Entry | None:
        """The program of this number in a process."""
        target = self.targets.by_pid.get(pid)
        return target.entries.get(number) if target is not None else None

    def is_target(self, pid: int) -> bool:
        """Whether a process is traced, or about to be, at a client's wish."""
        return pid in self.targets.by_pid

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
            budget=entry.budget,
            follow_forks=entry.follow_forks,
        )

    async def decode(self, upload: messages.Upload) -> Program:
        """The program, verified here as well: a client is not trusted; raises Refusal."""
        try:
            if len(upload.bytecode) <= _SMALL:
                program = decode(upload.bytecode)
                await asyncio.sleep(0)  # There may be a thousand of them.
            else:
                program = await asyncio.to_thread(decode, upload.bytecode)
        except ProgramError as error:
            raise Refusal(f"{upload.label}: {error}") from None
        self._check_facilities(upload.label, program)
        if program.header.kernel:
            raise Refusal(
                f"{upload.label}: programs for the kernel cannot be inserted into a process"
            )
        return program

    def _check_facilities(self, label: str, program: Program) -> None:
        facilities = self.delivery.dispatcher.facilities
        known = {*facilities, *facilities.values()}
        unknown = [str(facility) for facility in program.facilities if facility not in known]
        if unknown:
            names = ", ".join(unknown)
            have = ", ".join(f"{name} ({number})" for name, number in facilities.items())
            raise Refusal(f"{label}: no facility {names} is registered; registered: {have}")

    async def detach(self, client: Client, pid: int) -> tuple[list[messages.ProbeInfo], int]:
        """Take out what ``client`` put into ``pid``; last counters and the target's overhead."""
        target = self.targets.held(client, pid)
        own = [entry for entry in target.entries.values() if entry.owner is client]
        async with target.lock:
            target.let_go(client)
            await self.targets.empty(target, own)
        return [info for entry in own for info in entry.probe_infos()], target.overhead_ns

    async def remove(self, client: Client, select: messages.Select) -> messages.Removed:
        """Take the selected programs out."""
        removed: dict[Entry, None] = {}
        targets: dict[Target, list[Entry]] = {}
        turns = asyncio.Semaphore(_AT_ONCE)
        # Again: a target may have forked before it lost the program.
        while chosen := [
            entry for entry in self.targets.select(client, select) if entry not in removed
        ]:
            those: dict[Target, list[Entry]] = {}
            for entry in chosen:
                those.setdefault(entry.target, []).append(entry)
            await asyncio.gather(
                *(self._remove(turns, client, target, own) for target, own in those.items())
            )
            removed.update(dict.fromkeys(chosen))
            targets |= those
        earlier = self.earlier(client, select)
        for entry in self.targets.earlier(client, select):
            self.targets.past.forget(entry)
        if not removed and not earlier and select != messages.Select():
            raise Refusal("no such program is in; `dprobe programs` lists them")
        if removed:
            names = some(entry.label for entry in removed)
            pids = [target.pid for target in targets]
            where = f"process {pids[0]}" if len(pids) == 1 else f"{len(pids)} processes"
            self.gate.history.note(client.uid, f"{where}: user {client.uid} removed {names}")
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
            await self.targets.empty(target, own)
        self._tell_owners(target, own, client)
        if target in self.targets.past:
            self.targets.past.remove(target, own)

    def _tell_owners(self, target: Target, entries: list[Entry], remover: Client) -> None:
        for entry in entries:
            if entry.owner is not None and entry.owner is not remover:
                entry.end(protocol.State.REMOVED, "taken out by another client")
                entry.owner.tell(
                    messages.StateChange(pid=target.pid, probes=list(entry.probe_infos()))
                )

    async def query(self, client: Client, select: messages.Select) -> list[Target]:
        """The selected targets, with fresh states and counters."""
        chosen = {entry.target for entry in self.targets.select(client, select)}
        if select == messages.Select():
            chosen |= {
                target
                for target in self.targets.by_pid.values()
                if self.targets.sees(client, target)
            }
        live = [t for t in chosen if t.attached and not t.finished.is_set()]
        await asyncio.gather(*(self.targets.refresh(target) for target in live))
        return sorted(chosen, key=lambda target: target.pid)

    async def variables(self, client: Client, wanted: messages.Vars) -> list[int]:
        """The locals of a program, or the globals of a process."""
        number = wanted.number
        if number is not None:
            entries = self.targets.select(client, messages.Select(number=number, pid=wanted.pid))
            live = [entry for entry in entries if not entry.target.finished.is_set()] or entries
            if not live:
                raise Refusal(f"there is no program {number}; `dprobe programs` lists them")
            if len(live) > 1:
                pids = ", ".join(str(entry.target.pid) for entry in live)
                raise Refusal(f"program {number} is in several processes; name one of {pids}")
            target = self.targets.live(client, live[0].target.pid)
        elif wanted.pid is not None:
            target = self.targets.live(client, wanted.pid)
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
        target = self.targets.live(client, pid)
        self.gate.require(client, pid, Right.DUMP)
        answer = await target.ask(lambda seq: protocol.Dump(seq=seq, pid=pid, zstd=zstd))
        if answer.dump is None:
            raise Refusal(f"the tracer of process {pid} did not say where the core is")
        return answer.dump

    async def resume(self, client: Client, pid: int | None, tid: int | None) -> list[int]:
        """Let threads go on that ``suspend`` holds, and processes that wait for a debugger."""
        if pid is not None:
            targets = [self.targets.live(client, pid)]
            self.gate.require(client, pid, Right.DEBUG)
        else:
            targets = [
                each for each in self.targets.by_pid.values() if self.targets.sees(client, each)
            ]
        tids: list[int] = []
        for target in targets:
            if pid is not None or self.gate.has(client, target.pid, Right.DEBUG):
                its_pid = target.pid
                try:
                    answer = await target.ask(
                        lambda seq, its_pid=its_pid: protocol.Resume(seq=seq, pid=its_pid, tid=tid)  # type: ignore[misc]
                    )
                except Refusal:
                    if pid is not None:
                        raise
                    continue  # It was let go, or ended, meanwhile, and the others are still held.
                tids += answer.tids
        if tid is not None and not tids:
            raise Refusal(f"thread {tid} is not held")
        return tids

    def earlier(self, client: Client, select: messages.Select) -> list[messages.EarlierInfo]:
        """What the selected programs counted in processes that ended long ago."""
        return [self.targets.past.info(entry) for entry in self.targets.earlier(client, select)]

    # -- the end of clients and of the daemon -----------------------------------------------------

    def release(self, client: Client) -> None:
        """The connection of ``client`` has ended: what it did not ask to keep goes out."""
        self.delivery.release(client)
        self.targets.release(client)

    async def stop(self, patience: float) -> None:
        """Take everything out of every target; waits at most ``patience`` seconds."""
        left = await self._supervisor.stop(patience)
        self.delivery.close()
        if left:
            _log.warning("%d tracers are still waiting for their target to stop; they go on", left)

    # -- facilities ---------------------------------------------------------------------------

    def _facilities_changed(self) -> None:
        targets = self.targets.by_pid.values()
        for host in {target.host for target in targets if target.attached}:
            if host is not None:
                self.targets.later(self._tell_facilities(host))

    async def _tell_facilities(self, host: Host) -> None:
        facilities, acting = self.delivery.dispatcher.facilities, self.delivery.dispatcher.acting
        with contextlib.suppress(TracerGone):
            await host.tracer.request(
                lambda seq: protocol.Facilities(seq=seq, facilities=facilities, acting=acting)
            )


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
