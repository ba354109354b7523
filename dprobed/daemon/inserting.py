"""Inserts programs into targets: at a client's request, and for deployments."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

import msgspec

from dprobed.backend import LONG_PATIENCE
from dprobed.daemon.attaching import Attaching
from dprobed.daemon.client import Client, NoAnswer, Refusal
from dprobed.daemon.detaching import LATER, Detaching
from dprobed.daemon.doubts import Doubts
from dprobed.daemon.ends import Ends
from dprobed.daemon.gate import Gate
from dprobed.daemon.history import History, moment, some
from dprobed.daemon.insertion import Insertion
from dprobed.daemon.programs import Programs
from dprobed.daemon.quota import Quota
from dprobed.daemon.records.dispatcher import Dispatcher
from dprobed.daemon.target import InsertedProgram, Target
from dprobed.daemon.targets import Targets
from dprobed.daemon.terms import Terms
from dprobed.policy.rights import Right, words
from dprobed.printable import printable
from dprobed.proc import procfs
from dprobed.program.model import Program
from dprobed.wire import messages, protocol

if TYPE_CHECKING:
    from dprobed.daemon.kernel_target import KernelTarget

#: For each program its file; None: it is placed elsewhere.
Files = Sequence[protocol.FilePlaces | None]

_log = logging.getLogger("dprobed")


class _Done(msgspec.Struct, frozen=True):
    """What was put into a target, and what was taken out for it; ``rights``: that it uses."""

    target: Target
    entries: list[InsertedProgram]
    replaced: list[InsertedProgram]
    rights: str


def _check_held(client: Client, target: Target) -> None:
    """That the target is still what ``client`` attached to: the policies may be others, or the
    process another target by now; raises Refusal. The caller has the target's lock."""
    if client not in target.holders or target.finished.is_set():
        reason = target.reason or f"process {target.pid} was detached from meanwhile"
        raise Refusal(reason)


class Inserting:
    """Inserts programs where the policies and the quota allow it."""

    def __init__(
        self,
        gate: Gate,
        targets: Targets,
        quota: Quota,
        programs: Programs,
        dispatcher: Dispatcher,
        attaching: Attaching,
        detaching: Detaching,
        doubts: Doubts,
        ends: Ends,
        kernel: KernelTarget | None,
    ) -> None:
        """``kernel``: None in a private daemon, which inserts nothing into it."""
        self._terms: Final = Terms(gate)
        self._ends: Final = ends
        self._gate: Final = gate
        self._targets: Final = targets
        self._quota: Final = quota
        self._programs: Final = programs
        self._dispatcher: Final = dispatcher
        self._attaching: Final = attaching
        self._detaching: Final = detaching
        self._doubts: Final = doubts
        self._kernel: Final = kernel

    async def insert(self, client: Client, request: messages.Insert) -> messages.Inserted:
        """Insert programs into targets that ``client`` holds: all of them into each, or none."""
        pids = list(dict.fromkeys([request.pid, *request.also]))
        for pid in pids:
            self._targets.held(client, pid)
        programs = await self._programs.decode_all(request.programs)
        done: list[_Done] = []
        with self._quota.room_for(client, [program for _, program in programs] * len(pids)):
            try:
                for pid in pids:
                    done.append(await self._insert_into(client, pid, request, programs))
            except Refusal as refusal:
                if len(pids) > 1:
                    refusal.add(await self._undo_all(done))
                raise
        for each in done:
            self._note_done(client, each)
        entries = [entry for each in done for entry in each.entries]
        # What is mapped before its `exec` says nothing.
        early = [entry for entry in entries if entry.target.launched]
        doubts = await self._doubts.infos([entry for entry in entries if entry not in early])
        return messages.Inserted(
            id=request.id,
            programs=[entry.info() for entry in entries],
            probes=[*doubts, *(info for entry in early for info in entry.probe_infos())],
        )

    async def _insert_into(
        self,
        client: Client,
        pid: int,
        request: messages.Insert,
        programs: list[tuple[messages.Upload, Program]],
    ) -> _Done:
        """``insert`` into one of the targets."""
        # It may have been detached from, and attached to anew, meanwhile.
        target = self._targets.held(client, pid)
        async with target.lock:
            _check_held(client, target)
            rights: frozenset[Right] = frozenset()
            for upload, program in programs:
                rights |= self._gate.allow(client, pid, upload.label, program)
                await asyncio.sleep(0)
            return await self._insert(client, target, request, programs, words(rights))

    async def _undo_all(self, done: list[_Done]) -> str:
        """Have all targets as they were before; what is said of that."""
        stays: list[str] = []
        for each in reversed(done):
            async with each.target.lock:
                stays += await self._undo(each.target, each.entries, each.replaced)
        if not stays:
            return "nothing was put into the others"
        return f"what was put into others before stays there: {'; '.join(stays)}"

    async def insert_kernel(
        self, client: Client, request: messages.InsertKernel
    ) -> messages.Inserted:
        """Insert programs into the kernel: all of them, or none. The client may do that."""
        programs = await self._programs.decode_all(request.programs, kernel=True)
        for upload, program in programs:
            self._gate.allow_kernel(client, upload.label, program)
        assert self._kernel is not None
        files = await self._kernel.files.find(client, request, programs)
        with self._quota.room_for(client, [program for _, program in programs]):
            done = await self._insert_kernel(client, request, programs, files)
        self._note_done(client, done)
        return messages.Inserted(
            id=request.id,
            programs=[entry.info() for entry in done.entries],
            probes=[info for entry in done.entries for info in entry.probe_infos()],
        )

    def _note_done(self, client: Client, done: _Done) -> None:
        """Note who inserted what where, and what that took out."""
        why = f"user {client.uid} replaced it"
        self._detaching.note(done.target, done.replaced, why, client)
        _note(self._gate.history, client, done)

    async def _insert_kernel(
        self,
        client: Client,
        request: messages.InsertKernel,
        programs: list[tuple[messages.Upload, Program]],
        files: Files,
    ) -> _Done:
        assert self._kernel is not None
        while True:
            target = await self._kernel.hold(client)
            async with target.lock:
                if target.finished.is_set():
                    continue
                try:
                    return await self._insert(client, target, request, programs, files=files)
                finally:
                    target.dismiss(client)
                    if not target.programs:
                        await self._detaching.try_empty(target, ())

    async def _insert(
        self,
        client: Client,
        target: Target,
        request: messages.Insert | messages.InsertKernel,
        programs: list[tuple[messages.Upload, Program]],
        rights: str = "",
        files: Files = (),
    ) -> _Done:
        """``insert`` while the target is locked: what is allowed now stays so until all are in.

        ``files``: where the kernel is to place each of them; none: a tracer does.
        """
        replaced = [
            entry
            for entry in target.programs.values()
            if self._gate.sees(client, entry.uid)
            and any(_is_in_the_way(entry, request, *each) for each in programs)
        ]
        owner = None if request.keep else client
        entries: list[InsertedProgram] = []
        try:
            for entry in replaced:
                await self._detaching.take_out(target, entry)
            for (asked, decoded), file in zip_longest(programs, files):
                upload, program, term = self._terms.of(client, asked, decoded, keep=request.keep)
                insertion = Insertion(
                    self._programs.next_number(),
                    upload,
                    program,
                    check_opcode=request.check_opcode,
                    follow_forks=client in target.followers,
                    term=term,
                    file=file,
                )
                entry = InsertedProgram(insertion, target, owner, client)
                await self._place(entry)
                entries.append(entry)
        except Refusal as refusal:
            late = isinstance(refusal, NoAnswer) and refusal.asked
            await self._undo(target, entries, replaced, late=late)
            raise
        return _Done(target, entries, replaced, rights)

    async def _undo(
        self,
        target: Target,
        entries: list[InsertedProgram],
        replaced: list[InsertedProgram],
        *,
        late: bool = False,
    ) -> list[str]:
        """Remove what was inserted and insert again what it replaced, as far as possible; again
        when the tracer answers, if it does not, or has (``late``) something to do yet. Why it is
        not as it was."""
        if target.finished.is_set():
            return []
        stays: dict[str, None] = {}
        for entry in entries:
            try:
                if entry.is_in:
                    await self._detaching.take_out(target, entry)
            except Refusal as refusal:
                late |= isinstance(refusal, NoAnswer)
                stays[str(refusal)] = None
                _log.warning("%s: %s stays: %s", target.what, entry.label, refusal)
        for entry in replaced:
            try:
                if not entry.is_in:
                    await self._place(entry)
            except Refusal as refusal:
                late |= isinstance(refusal, NoAnswer)
                stays[f"{entry.label} is out: {refusal}"] = None
                _log.warning("%s: %s is out: %s", target.what, entry.label, refusal)
        if late:
            self._detaching.when_answers(target, lambda: self._undo(target, entries, replaced))
            return ["; ".join([*stays, LATER])] if stays else []
        return list(stays)

    async def put(
        self,
        client: Client,
        pid: int,
        insertion: Insertion,
        owner: Client | None,
        *,
        start: int | None = None,
    ) -> InsertedProgram:
        """Insert one program into ``pid``, traced while the program is in; raises Refusal.

        ``owner``: with whose end it is removed; None: it was kept under another daemon, and goes on
        even where a facility that it names is not registered again yet. ``start``: it was in the
        process that was started then, and in no other, which has a tracer of its own.
        """
        await self._attaching.hold(client, pid, shared=start is None)
        target = self._targets.held(client, pid)
        program, label = insertion.program, insertion.upload.label
        async with target.lock:
            _check_held(client, target)
            entry = InsertedProgram(insertion, target, owner, client)
            try:
                if start is not None and procfs.start_time(pid) != start:
                    raise Refusal("it has ended")
                if owner is not None:
                    self._programs.check_facilities(label, program)
                self._gate.allow(client, pid, label, program)
                with self._quota.room_for_probes(client, [program]):
                    await self._place(entry)
            finally:
                target.dismiss(client)
                if not target.programs:
                    await self._detaching.try_empty(target, ())
        return entry

    async def _place(self, entry: InsertedProgram) -> None:
        """Insert a program; the caller has the target's lock. Raises Refusal."""
        target, number = entry.target, entry.number
        if number in target.in_doubt or number in target.programs:
            raise Refusal(
                f"{entry.label}: program {number} is still in {target.what}, which it has to leave "
                "first; try again when its tracer has answered"
            )
        # Known before it is in: its records may come before the answer.
        target.programs[number] = target.in_doubt[number] = entry
        is_settled = True
        try:
            await target.ask(
                lambda seq: self._request(seq, entry),
                LONG_PATIENCE,
                late=lambda answer: self._detaching.inserted_late(entry, answer),
            )
        except Refusal as refusal:
            target.release(number)
            is_settled = not (isinstance(refusal, NoAnswer) and refusal.asked)
            raise
        finally:
            if is_settled:
                target.settle(entry)
        self._ends.due(entry.until)
        kept = self._targets.kept
        kept.former.forget(entry.target.uid, entry.number, entry.target.pid)
        kept.keep(entry)

    def _request(self, seq: int, entry: InsertedProgram) -> protocol.Insert:
        insertion, target = entry.insertion, entry.target
        former = self._targets.kept.former.get(target.uid, entry.number, target.pid)
        counted = former.counted if former is not None else None
        entry.goes_on = counted is not None
        entry.maps_anew = counted is not None and counted.large and bool(entry.program.header.map)
        if counted is not None and len(target.programs) > 1:
            # Programs that came before this one may have set them anew.
            counted = msgspec.structs.replace(counted, globals=[])
        return protocol.Insert(
            seq=seq,
            pid=entry.target.pid,
            program=entry.number,
            bytecode=insertion.upload.bytecode,
            check_opcode=insertion.check_opcode,
            facilities=self._dispatcher.facilities,
            acting=self._dispatcher.acting,
            label=entry.label,
            budget=entry.budget,
            follow_forks=insertion.follow_forks,
            engine=insertion.upload.engine,
            max_hits=entry.most_hits,
            former=counted,
            former_time=former.time if former is not None else 0,
            file=insertion.file,
        )


def _is_in_the_way(
    entry: InsertedProgram,
    request: messages.Insert | messages.InsertKernel,
    upload: messages.Upload,
    program: Program,
) -> bool:
    """Whether a program that is in has to go before ``upload`` comes; raises Refusal."""
    module = program.header.name
    if entry.owner is not None or entry.program.header.name != module:
        return False
    if request.present == "refuse" and entry.label == upload.label:
        raise Refusal(
            f"{upload.label}: a program of that name for {module} is in {entry.target.what} "
            f"already (number {entry.number}); --merge inserts it as well, --replace removes those "
            "for that module first"
        )
    return request.present == "replace"


def _note(history: History, client: Client, done: _Done) -> None:
    """Who inserted what where, with which rights, until when."""
    entries, target, rights = done.entries, done.target, done.rights
    names = some(entry.label for entry in entries)
    ends = [entry.until for entry in entries]
    until = moment(None if None in ends else max(each for each in ends if each is not None))
    text = f"{target.what}: user {client.uid} inserted {names}"
    if rights not in ("", Right.OBSERVE):
        text += f", with the right to {rights}"
    if until:
        text += f", until {until}"
    where = {} if target.pid == messages.KERNEL else {"pid": target.pid}
    history.note(
        client.uid,
        text,
        "inserted",
        by_pid=client.pid,
        comm=printable(target.comm),
        program=names,
        number=", ".join(str(entry.number) for entry in entries[:5]),
        probes=sum(len(entry.probes) for entry in entries),
        rights=rights,
        until=until,
        **where,
    )
