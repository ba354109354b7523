"""Reads maps: of all processes that a program is in, and of those that have ended.

Nothing is counted twice nor left out: the sums of ended processes are taken first, then each
process that goes on is asked; one that ends meanwhile is told of with what it had.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from dprobed.daemon.client import Client, NoAnswer, Refusal
from dprobed.daemon.maps import EndedMaps, ProgramMaps
from dprobed.daemon.target import InsertedProgram
from dprobed.daemon.targets import Targets
from dprobed.program.maps import STACK_MARK, VALUE, Entry, Item, is_entry
from dprobed.record.strings import meant
from dprobed.wire import messages, protocol

#: Processes that are asked at a time.
_AT_ONCE: Final = 16
#: Bytes of an answer, which is one line.
_MOST: Final = messages.MAX_LINE - 4096


class MapReading:
    """Answers ``maps`` and ``setmap``."""

    def __init__(self, targets: Targets) -> None:
        self._targets: Final = targets
        self._ended: Final[EndedMaps] = targets.ended_maps

    async def read(self, client: Client, request: messages.Maps) -> messages.MapListing:
        """The maps of the selected programs; they are reset then, if asked to."""
        name, select = request.name, request.select
        chosen = [
            inserted
            for inserted in (
                *self._targets.with_ended_maps(client, select),
                *self._targets.select(client, select),
            )
            if any(name in (None, one.name) for one in inserted.program.header.map)
        ]
        if not chosen:
            self._refuse(client, request)
        reading = _Reading(request, chosen)
        if select.pid is None:
            # Before anybody is asked: what ends from now on is told of by itself.
            for number in reading.labels:
                ended = self._ended.get(number)
                if ended is not None:
                    reading.begin(number, ended)
                    if request.reset:
                        ended.clear(name)
        live = [each for each in chosen if each.is_settled]
        turns = asyncio.Semaphore(_AT_ONCE)
        for inserted in live:
            inserted.readers += 1
        try:
            await asyncio.gather(*(reading.ask(each, turns) for each in live))
        finally:
            for inserted in live:
                inserted.readers -= 1
                if not inserted.is_settled:
                    inserted.drop_maps()
        answer = messages.MapListing(
            id=request.id, maps=reading.infos(), silent=sorted(reading.silent)
        )
        if len(messages.encode(answer)) > _MOST:
            raise Refusal(
                "the maps are more than fits into an answer; name a map, a program or a process"
            )
        return answer

    async def write(self, client: Client, request: messages.SetMap) -> messages.MapListing:
        """Set keys of a map of values of a program, or forget keys, in each of its processes; what
        was not done is told of."""
        select = messages.Select(number=request.number, pid=request.pid)
        chosen = [each for each in self._targets.select(client, select) if each.is_settled]
        ended = self._targets.with_ended_maps(client, select) if request.pid is None else []
        there = [*chosen, *ended]
        entries, gone = _change(client, request, there) if there else ([], [])
        # Before anybody is told: what ends from now on has been told, or is told of by itself.
        for each in ended:
            kept = self._ended.get(each.number)
            if kept is not None:
                kept.delete(request.name, gone)
                kept.put(request.name, entries)
        writing = _Writing(request.name, entries, gone)
        await asyncio.gather(*(writing.do(each) for each in chosen))
        return messages.MapListing(
            id=request.id,
            maps=[],
            silent=sorted(writing.silent),
            processes=writing.done,
            refused=writing.refused,
        )

    def _refuse(self, client: Client, request: messages.Maps) -> None:
        """There is none: say which there are, if a name was given; raises Refusal."""
        if request.name is None and request.select == messages.Select():
            return
        there = self._targets.select(client, request.select)
        names = dict.fromkeys(one.name for each in there for one in each.program.header.map)
        if request.name is None:
            raise Refusal("no such program with maps is in; `dprobe maps` lists all maps")
        known = ", ".join(names) or "none"
        raise Refusal(f"there is no map {request.name}; there are: {known}")


def _change(
    client: Client, request: messages.SetMap, chosen: Sequence[InsertedProgram]
) -> tuple[list[Entry], list[list[Item]]]:
    """What is to be set in a map of these, and which keys are to go; raises Refusal."""
    name = request.name
    own = all(client.uid in (0, each.uid) for each in chosen)
    definition = {one.name: one for one in chosen[0].program.header.map}.get(name)
    if not own or definition is None or (request.entries and definition.kind != VALUE):
        what = "of values that you may set" if request.entries else "that you may change"
        raise Refusal(f"there is no map {name} {what}")
    entries: list[Entry] = [
        ([_item(item) for item in each.key], each.cell) for each in request.entries
    ]
    gone = [[_item(item) for item in key] for key in request.gone]
    named: list[Entry] = [*entries, *((key, []) for key in gone)]
    if not all(is_entry(definition, each) for each in named):
        raise Refusal(f"a key or a value is none that map {name} can have")
    if len({tuple(key) for key, _ in named}) < len(named):
        raise Refusal(f"map {name}: a key stands there twice")
    if len(entries) > definition.size:
        raise Refusal(f"map {name} has at most {definition.size} keys, not {len(entries)}")
    return entries, gone


class _Writing:
    """Values on their way into a map of a program, in each of its processes."""

    def __init__(self, name: str, entries: list[Entry], gone: list[list[Item]]) -> None:
        self._name: Final = name
        self._entries: Final = entries
        self._gone: Final = gone
        self._turns: Final = asyncio.Semaphore(_AT_ONCE)
        #: In how many processes they are; those that did not answer; why others refused.
        self.done = 0
        self.silent: Final[set[int]] = set()
        self.refused: Final[dict[int, str]] = {}

    async def do(self, inserted: InsertedProgram) -> None:
        """In one process; one that ends meanwhile needs none."""
        target = inserted.target
        async with self._turns:
            try:
                await target.ask(
                    lambda seq: protocol.SetMap(
                        seq=seq,
                        pid=target.pid,
                        program=inserted.number,
                        name=self._name,
                        entries=self._entries,
                        gone=self._gone,
                    )
                )
            except NoAnswer:
                self.silent.add(target.pid)
            except Refusal as refusal:
                if inserted.is_settled and not target.end:
                    self.refused[target.pid] = str(refusal)
            else:
                self.done += 1


def _item(item: int | str) -> Item:
    """An item of a key, as it is told of."""
    if isinstance(item, int):
        return item
    if item.startswith(STACK_MARK.decode()):
        return item.encode("latin-1", "replace")
    return meant(item)


class _Reading:
    """One answer in the making."""

    def __init__(self, request: messages.Maps, chosen: Sequence[InsertedProgram]) -> None:
        self._request: Final = request
        self._headers: Final = {each.number: each.program.header for each in chosen}
        #: Processes that could not be asked.
        self.silent: Final[set[int]] = set()
        self.labels: Final = {each.number: each.label for each in chosen}
        #: By program, and by process where they are asked for so (None: those that have ended).
        self._maps: dict[tuple[int, int | None], ProgramMaps] = {}

    def _of(self, number: int, pid: int | None) -> ProgramMaps:
        key = number, pid if self._request.by_process else None
        return self._maps.setdefault(key, ProgramMaps(self._headers[number]))

    def begin(self, number: int, ended: ProgramMaps) -> None:
        """Those of ended processes."""
        self._of(number, None).join(ended)

    async def ask(self, inserted: InsertedProgram, turns: asyncio.Semaphore) -> None:
        """Those of a process that goes on."""
        target, reset, name = inserted.target, self._request.reset, self._request.name

        def late(answer: protocol.Ok | None) -> None:
            # Nothing is in the process any more of what was reset: it is held for who asks next.
            for state in answer.maps if answer is not None and reset else ():
                inserted.take_map(state)

        async with turns:
            try:
                answer = await target.ask(
                    lambda seq: protocol.Maps(
                        seq=seq,
                        pid=target.pid,
                        program=inserted.number,
                        reset=reset,
                        name=name or "",
                    ),
                    late=late,
                )
            except NoAnswer:
                self.silent.add(target.pid)
                return
            except Refusal:
                if reset:
                    # It is in the sums of those that have ended, and stays there until it is asked
                    # for again.
                    return
                states = inserted.maps
            else:
                states = [*inserted.held_maps(name, reset=bool(reset)), *answer.maps]
        if states:
            self._of(inserted.number, target.pid).add(states, target.pid)

    def infos(self) -> list[messages.MapInfo]:
        """As the client gets them."""
        name = self._request.name
        return [
            info
            for (number, pid), maps in sorted(
                self._maps.items(), key=lambda each: (each[0][0], each[0][1] or 0)
            )
            for info in maps.infos(number, self.labels[number], name=name, pid=pid)
        ]
