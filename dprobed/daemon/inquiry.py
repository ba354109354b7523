"""Requests about targets other than insertion: query, programs, vars, dump, resume."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import msgspec

from dprobed.daemon.client import Client, Forbidden, NoAnswer, Refusal
from dprobed.daemon.detaching import Detaching
from dprobed.daemon.doubts import Doubts
from dprobed.daemon.gate import Gate
from dprobed.daemon.maps import map_use_of
from dprobed.daemon.target import Target
from dprobed.daemon.targets import Targets
from dprobed.policy.rights import Right
from dprobed.wire import messages, protocol

#: Variables whose values a line in the log has.
_WORDS: Final = 16
#: Why a kept program could not be put in again, where that was no refusal.
_DEFECT: Final = "internal error in the daemon (see its log)"


class DeploymentList(Protocol):
    """Lists deployments."""

    def infos(self, client: Client, select: messages.Select) -> list[messages.DeploymentInfo]:
        """The selected ones that the client may see."""
        ...

    def variables(self, client: Client, select: messages.Select) -> list[messages.VariablesInfo]:
        """The local variables of the selected ones."""
        ...

    def discovery(self) -> messages.DiscoveryInfo | None:
        """How the daemon learns of new processes."""
        ...


class Inquiry:
    """Answers these requests; ``deployments``: None in a private daemon, which has none."""

    def __init__(
        self,
        gate: Gate,
        targets: Targets,
        detaching: Detaching,
        deployments: DeploymentList | None,
        doubts: Doubts,
    ) -> None:
        self._gate: Final = gate
        self._targets: Final = targets
        self._detaching: Final = detaching
        self._deployments: Final = deployments
        self._doubts: Final = doubts

    async def query(self, client: Client, request: messages.Query) -> messages.Status:
        """The selected targets and probes, with fresh states and counters."""
        select = request.select
        targets = {inserted.target for inserted in self._targets.select(client, select)}
        if select == messages.Select():
            targets |= set(self._targets.seen(client))
        live = [each for each in targets if each.attached and not each.finished.is_set()]
        await self._detaching.refresh_all(live)
        chosen = self._targets.select(client, select)
        # Those of a deployment are summed up over its processes, unless one was asked for.
        summed: list[messages.VariablesInfo] = []
        if self._deployments is not None and select.pid is None:
            summed = self._deployments.variables(client, select)
        numbers = {each.number for each in summed}
        others = [inserted for inserted in chosen if inserted.number not in numbers]
        return messages.Status(
            id=request.id,
            targets=[target.info() for target in sorted(targets, key=lambda each: each.pid)],
            probes=await self._doubts.infos(chosen),
            deployments=self._deployed(client, select),
            discovery=self._deployments.discovery() if self._deployments is not None else None,
            kept=self._kept(client, select),
            earlier=self._targets.earlier_infos(client, select),
            variables=[*summed, *self._targets.variables(client, select, others)],
            map_use=map_use_of(chosen),
        )

    def _kept(self, client: Client, select: messages.Select) -> list[messages.KeptInfo]:
        """Programs that are to be put in again after a restart, and are not in yet."""
        kept = self._targets.kept
        return [
            messages.KeptInfo(
                number=each.inserted.number,
                program=each.inserted.upload.label,
                pid=each.pid,
                uid=each.inserted.uid,
                problem=_DEFECT if (each.inserted.number, each.pid) in kept.failed else "",
            )
            for each in kept.not_in()
            if self._gate.sees(client, each.inserted.uid) and each.matches(select)
        ]

    async def programs(self, client: Client, request: messages.Programs) -> messages.Listing:
        """The selected programs; a deployment's instances only where a process is selected."""
        select = request.select
        return messages.Listing(
            id=request.id,
            programs=[
                inserted.info()
                for inserted in self._targets.select(client, select)
                if select.pid is not None or not inserted.insertion.deployed
            ],
            deployments=self._deployed(client, select) if select.pid is None else [],
        )

    def _deployed(self, client: Client, select: messages.Select) -> list[messages.DeploymentInfo]:
        return self._deployments.infos(client, select) if self._deployments is not None else []

    async def variables(self, client: Client, request: messages.Vars) -> messages.Words:
        """Read the local variables of a program, or the global ones of a process."""
        target = self._target_of_variables(client, request)

        def late(answer: protocol.Ok | None) -> None:
            if answer is not None and request.reset and any(answer.words):
                whose = "its globals" if request.number is None else f"program {request.number}"
                words = ", ".join(map(str, answer.words[:_WORDS]))
                more = f" and {len(answer.words) - _WORDS} more" if answer.words[_WORDS:] else ""
                text = f"{target.what}: {whose}: variables were set to 0 at the request of user"
                text += f" {client.uid}, who had no answer in time; they were {words}{more}"
                self._gate.history.note(client.uid, text, "reset", pid=target.pid)

        answer = await target.ask(
            lambda seq: protocol.Vars(
                seq=seq,
                pid=target.pid,
                program=request.number,
                first=request.first,
                count=request.count,
                reset=request.reset,
            ),
            late=late,
        )
        return messages.Words(id=request.id, first=request.first, words=answer.words)

    def _target_of_variables(self, client: Client, request: messages.Vars) -> Target:
        number, pid = request.number, request.pid
        if number is not None:
            programs = self._targets.select(client, messages.Select(number=number, pid=pid))
            live = [
                inserted for inserted in programs if not inserted.target.finished.is_set()
            ] or programs
            if not live:
                text = f"there is no program {number}; `dprobe programs` lists them"
                raise self._targets.missing(messages.Select(number=number, pid=pid), text)
            if len(live) > 1:
                pids = ", ".join(str(inserted.target.pid) for inserted in live)
                raise Refusal(f"program {number} is in several processes; name one of {pids}")
            return self._targets.live(client, live[0].target.pid)
        if pid is None:
            raise Refusal("name either a program, for its locals, or a process, for the globals")
        target = self._targets.live(client, pid)
        if pid != messages.KERNEL:  # Whoever sees what is in the kernel may read it.
            self._gate.require(client, pid, Right.OBSERVE)
        others = (e for e in target.programs.values() if not self._gate.sees(client, e.uid))
        if request.reset and any(inserted.program.header.gvars for inserted in others):
            raise Forbidden(
                f"programs of other users in process {pid} use its globals too: only root may "
                "reset them",
                "another user's variables",
                pid,
            )
        return target

    async def dump(self, client: Client, request: messages.Dump) -> messages.Dumped:
        """Write a core of a process."""
        pid = request.pid
        target = self._targets.live(client, pid)
        self._gate.require(client, pid, Right.DUMP)
        # It takes as long as the core is large, and only who asked waits.
        answer = await target.ask(
            lambda seq: protocol.Dump(seq=seq, pid=pid, zstd=request.zstd), patience=None
        )
        if answer.dump is None:
            raise Refusal(f"the tracer of process {pid} did not say where the core is")
        text = f"process {pid}: user {client.uid} had it dumped to {answer.dump.path}"
        self._gate.history.note(
            client.uid, text, "dumped", by_pid=client.pid, pid=pid, core=answer.dump.path
        )
        return messages.Dumped(id=request.id, **msgspec.structs.asdict(answer.dump))

    async def resume(self, client: Client, request: messages.Resume) -> messages.Resumed:
        """Resume threads stopped by ``suspend``, and processes held for a debugger."""
        pid, tid = request.pid, request.tid
        silent: list[int] = []
        if pid is not None:
            target = self._targets.live(client, pid)
            self._gate.require(client, pid, Right.DEBUG)
            tids = await self._resume(client, target, tid)
        else:
            tids, silent = await self._resume_all(client, tid)
        if tid is not None and not tids and not silent:
            raise Refusal(f"thread {tid} is not held")
        return messages.Resumed(id=request.id, tids=tids, silent=silent)

    async def _resume_all(self, client: Client, tid: int | None) -> tuple[list[int], list[int]]:
        """Of all processes where the client may: threads, and processes that nobody answers for."""
        targets = [
            target
            for target in self._targets.seen(client)
            if self._gate.has(client, target.pid, Right.DEBUG)
        ]
        found = await asyncio.gather(
            *(self._resume(client, target, tid) for target in targets), return_exceptions=True
        )
        tids: list[int] = []
        silent: list[int] = []
        for target, each in zip(targets, found, strict=True):
            if isinstance(each, list):
                tids += each
            elif isinstance(each, NoAnswer):
                silent.append(target.pid)
            elif not isinstance(each, Refusal):  # It ended meanwhile; others are still held.
                raise each
        return tids, sorted(silent)

    async def _resume(self, client: Client, target: Target, tid: int | None) -> list[int]:
        answer = await target.ask(lambda seq: protocol.Resume(seq=seq, pid=target.pid, tid=tid))
        if answer.tids:
            threads = ", ".join(map(str, answer.tids[:5]))
            text = f"{target.what}: user {client.uid} resumed thread {threads}"
            self._gate.history.note(
                client.uid, text, "resumed", by_pid=client.pid, pid=target.pid, threads=threads
            )
        return answer.tids
