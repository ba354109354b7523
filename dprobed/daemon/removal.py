"""Removes inserted programs at a client's request."""

from __future__ import annotations

import asyncio
from typing import Final

from dprobed.daemon.client import Client
from dprobed.daemon.detaching import Detaching
from dprobed.daemon.gate import Gate
from dprobed.daemon.history import some
from dprobed.daemon.maps import ProgramMaps, bounded
from dprobed.daemon.target import InsertedProgram, Target
from dprobed.daemon.targets import Targets
from dprobed.wire import messages, protocol

#: Targets from which programs are removed concurrently.
_AT_ONCE: Final = 16


class Removal:
    """Removes the programs that a client selects, whoever inserted them."""

    def __init__(self, gate: Gate, targets: Targets, detaching: Detaching) -> None:
        self._gate: Final = gate
        self._targets: Final = targets
        self._detaching: Final = detaching

    async def remove(
        self, client: Client, request: messages.Remove, *, asked: bool = True
    ) -> messages.Removed:
        """Remove the selected programs; raises Refusal where there are none.

        ``asked``: a client asks for it, and that is logged.
        """
        select = request.select
        removed: dict[InsertedProgram, None] = {}
        turns = asyncio.Semaphore(_AT_ONCE)
        # Again: a target may have forked before it lost the program.
        while chosen := [
            inserted for inserted in self._targets.select(client, select) if inserted not in removed
        ]:
            by_target: dict[Target, list[InsertedProgram]] = {}
            for inserted in chosen:
                by_target.setdefault(inserted.target, []).append(inserted)
            await asyncio.gather(
                *(self._remove(turns, client, target, own) for target, own in by_target.items())
            )
            removed.update(dict.fromkeys(chosen))
        # A restarted daemon may not have come to it yet.
        given_up = self._targets.kept.give_up(
            lambda each: self._gate.sees(client, each.inserted.uid) and each.matches(select)
        )
        earlier = self._targets.earlier_infos(client, select)
        variables = self._targets.variables(client, select, removed)
        maps = self._maps(client, list(removed), select)
        for inserted in self._targets.earlier(client, select):
            self._targets.exited.forget(inserted)
        if not removed and not earlier and not given_up and select != messages.Select():
            text = "no such program is inserted; `dprobe programs` lists them"
            raise self._targets.missing(select, text)
        targets = list(dict.fromkeys(inserted.target for inserted in removed))
        if removed and asked:
            names = some(inserted.label for inserted in removed)
            where = f"{len(targets)} processes"
            if len(targets) == 1:
                where = targets[0].what
            text = f"{where}: user {client.uid} removed {names}"
            about = {"pid": targets[0].pid} if len(targets) == 1 else {"processes": len(targets)}
            self._gate.history.note(
                client.uid,
                text,
                "removed",
                by_pid=client.pid,
                program=names,
                why="asked for",
                **about,
            )
        return messages.Removed(
            id=request.id,
            probes=[info for inserted in removed for info in inserted.probe_infos()],
            overhead_ns=sum(target.overhead_ns for target in targets),
            earlier=earlier,
            variables=variables,
            maps=maps,
        )

    def _maps(
        self, client: Client, removed: list[InsertedProgram], select: messages.Select
    ) -> list[messages.MapInfo]:
        """What was in their maps, with what ended processes had, if they are out everywhere."""
        ended = self._targets.ended_maps
        ended_too = self._targets.with_ended_maps(client, select)
        gone = {each.number: each for each in (*ended_too, *removed)}
        found = []
        for number, inserted in gone.items():
            maps = ProgramMaps(inserted.program.header)
            for each in removed:
                if each.number == number:
                    maps.add(each.maps, each.target.pid)
            if not inserted.insertion.deployed and not self._targets.has(number):
                there = ended.get(number)
                if there is not None:
                    maps.join(there)
                ended.forget(number)
            found += maps.infos(number, inserted.label)
        return bounded(found)

    async def _remove(
        self,
        turns: asyncio.Semaphore,
        client: Client,
        target: Target,
        own: list[InsertedProgram],
    ) -> None:
        async with turns, target.lock:
            await self._detaching.empty(target, own)
        for inserted in own:
            if inserted.owner is not None and inserted.owner is not client:
                inserted.end(protocol.State.REMOVED, "removed by another client")
                probes = list(inserted.probe_infos())
                inserted.owner.tell(messages.StateChange(pid=target.pid, probes=probes))
        if target in self._targets.exited:
            self._targets.exited.remove(target, own)
