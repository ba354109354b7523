"""Removes inserted programs at a client's request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

import msgspec

from dprobed.daemon import told
from dprobed.daemon.client import Client, NoAnswer, Refusal
from dprobed.daemon.detaching import LATER, Detaching, out_of
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
        self,
        client: Client,
        request: messages.Remove,
        *,
        asked: bool = True,
        partly: bool = False,
    ) -> messages.Removed:
        """Remove the selected programs; raises Refusal where there are none, or all stay.

        ``asked``: a client asks for it, and that is logged. ``partly``: something else is removed
        with them, so that it is no refusal if all stay.
        """
        select = request.select
        removed, stay = await self._remove_all(client, select)
        if stay and not (removed or partly):
            raise next(iter(stay.values()))
        # A restarted daemon may not have come to it yet.
        given_up = self._targets.kept.give_up(
            lambda each: self._gate.sees(client, each.inserted.uid) and each.matches(select)
        )
        earlier = self._targets.earlier_infos(client, select)
        variables = self._targets.variables(client, select, removed)
        maps = self._maps(client, list(removed), select)
        for inserted in self._targets.earlier(client, select):
            self._targets.exited.forget(inserted)
        if (
            not removed
            and not stay
            and not earlier
            and not given_up
            and select != messages.Select()
        ):
            text = "no such program is inserted; `dprobe programs` lists them"
            raise self._targets.missing(select, text)
        targets = list(dict.fromkeys(inserted.target for inserted in removed))
        if removed and asked:
            self._note(client, removed, targets)
        return messages.Removed(
            id=request.id,
            probes=[_out(info) for inserted in removed for info in inserted.probe_infos()],
            overhead_ns=sum(target.overhead_ns for target in targets),
            earlier=earlier,
            variables=variables,
            maps=maps,
            stays={inserted.target.pid: str(why) for inserted, why in stay.items()},
        )

    async def _remove_all(
        self, client: Client, select: messages.Select
    ) -> tuple[dict[InsertedProgram, None], dict[InsertedProgram, Refusal]]:
        """Remove what is selected, from all targets: what is out, and what stays, and why."""
        removed: dict[InsertedProgram, None] = {}
        stay: dict[InsertedProgram, Refusal] = {}
        turns = asyncio.Semaphore(_AT_ONCE)
        # Again: a target may have forked before it lost the program.
        while chosen := [
            inserted
            for inserted in self._targets.select(client, select)
            if inserted not in removed and inserted not in stay
        ]:
            by_target: dict[Target, list[InsertedProgram]] = {}
            for inserted in chosen:
                by_target.setdefault(inserted.target, []).append(inserted)
            found = await asyncio.gather(
                *(self._remove(turns, client, target, own) for target, own in by_target.items())
            )
            stay.update(each for some_stay in found for each in some_stay.items())
            removed.update(dict.fromkeys(each for each in chosen if each not in stay))
        return removed, stay

    def _note(
        self, client: Client, removed: Iterable[InsertedProgram], targets: list[Target]
    ) -> None:
        """Who had what removed from where."""
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
    ) -> dict[InsertedProgram, Refusal]:
        """Remove some programs from one target; those that stay, and why."""
        why: Refusal | None = None
        async with turns, target.lock:
            try:
                await self._detaching.empty(target, own)
            except NoAnswer as refusal:
                why = NoAnswer(f"{refusal}; {LATER}", asked=refusal.asked)
            except Refusal as refusal:
                why = refusal
            stay = [each for each in own if each.is_in] if why is not None else []
            if isinstance(why, NoAnswer):
                self._detaching.empty_later(target, stay, lambda _: self._late(client, stay))
        for inserted in own:
            if inserted not in stay and inserted.owner is not client:
                _tell_owner(inserted, "removed by another client")
        if target in self._targets.exited:
            self._targets.exited.remove(target, own)
        return {} if why is None else dict.fromkeys(stay, why)

    def _late(self, client: Client, programs: list[InsertedProgram]) -> None:
        """Programs of which the client was told that they stay for now have gone."""
        for inserted in out_of(programs):
            hits = sum(each.hits for found in inserted.statuses.values() for each in found)
            why = f"user {client.uid} removed it while nobody answered; it had {hits} hits"
            self._detaching.note(inserted.target, [inserted], why, inserted)
            _tell_owner(inserted, "removed, after its tracer had not answered")


def _out(info: messages.ProbeInfo) -> messages.ProbeInfo:
    """A probe whose program is out of its process, as it was there at last."""
    if info.state not in told.MAY_FIRE:
        return info
    return msgspec.structs.replace(info, state=str(protocol.State.REMOVED))


def _tell_owner(inserted: InsertedProgram, why: str) -> None:
    if inserted.owner is not None:
        inserted.end(protocol.State.REMOVED, why)
        probes = list(inserted.probe_infos())
        inserted.owner.tell(messages.StateChange(pid=inserted.target.pid, probes=probes))
