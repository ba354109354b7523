"""Maps of programs in several processes, and of processes that have ended.

What a map had when its process ended, or its program was taken out, comes with that news. For
programs that stay it is added to sums (``EndedMaps``), which have a limit of their own for each
user, so that no user's programs fill the daemon.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from typing import Final

import msgspec

from dprobed.daemon.target import InsertedProgram
from dprobed.program.maps import PROGRAM_BYTES, STACK_MARK, Entry, Item, MapRoom
from dprobed.program.model import Header
from dprobed.record.maps import MapSums
from dprobed.record.strings import told_apart
from dprobed.wire import messages, protocol

#: Programs of which sums over ended processes are kept, and bytes for those of one user.
_MOST: Final = 1000
_USER_BYTES: Final = 64 << 20
#: Bytes of maps in a message that brings other things, too.
_MESSAGE: Final = 12 << 20

_log = logging.getLogger("dprobed")


class ProgramMaps:
    """The maps of one program over some processes. ``pids`` of maps of values, which are not added
    up, are those of the processes that they are of."""

    def __init__(self, header: Header, above: MapRoom | None = None) -> None:
        self._room: Final = MapRoom(PROGRAM_BYTES, above)
        self._header: Final = header
        #: By number of the map, and by process where they are not added up.
        self._sums: dict[tuple[int, int | None], MapSums] = {}
        self.processes = 0

    def add(self, states: Iterable[protocol.MapState], pid: int | None = None) -> None:
        """Add those of one process; without its ``pid`` no values."""
        self.processes += 1
        for state in states:
            if state.number >= len(self._header.map):
                continue
            definition = self._header.map[state.number]
            if definition.is_own and pid is None:
                continue
            key = state.number, pid if definition.is_own else None
            sums = self._sums.setdefault(key, MapSums(definition, self._room))
            sums.add(state.lost, state.entries)

    def join(self, other: ProgramMaps) -> None:
        """Add those of others, but for the values."""
        self.processes += other.processes
        for (number, pid), sums in other._sums.items():
            if pid is None:
                mine = self._sums.setdefault((number, None), MapSums(sums.definition, self._room))
                mine.add(sums.lost, sums.entries())
                mine.left_out += sums.left_out

    def clear(self, name: str | None = None) -> None:
        """Forget all of it, or what there is of the map of this name."""
        for key, sums in list(self._sums.items()):
            if name in (None, sums.definition.name):
                sums.close()
                del self._sums[key]
        if not self._sums:
            self.processes = 0

    def delete(self, name: str, keys: Iterable[Sequence[Item]]) -> None:
        """Forget keys of the map of this name."""
        for sums in self._sums.values():
            if sums.definition.name == name:
                for key in keys:
                    sums.delete(key)

    def put(self, name: str, entries: Sequence[Entry]) -> None:
        """Set keys of the map of this name, which is timed."""
        for sums in self._sums.values():
            if sums.definition.name == name and sums.definition.timed:
                sums.add(0, entries)

    def infos(
        self, number: int, label: str, *, name: str | None = None, pid: int | None = None
    ) -> list[messages.MapInfo]:
        """As clients get them; ``name``: only that one; ``pid``: of the one process that it is."""
        found = []
        for (_, of), sums in sorted(
            self._sums.items(), key=lambda each: (each[0][0], each[0][1] or 0)
        ):
            definition = sums.definition
            if name not in (None, definition.name):
                continue
            found.append(
                messages.MapInfo(
                    number=number,
                    program=label,
                    pid=pid if of is None else of,
                    processes=self.processes if of is None else 1,
                    map=definition.name,
                    kind=definition.kind,
                    arguments=list(definition.arguments),
                    keys=definition.keys,
                    size=definition.size,
                    signed=definition.signed,
                    lost=sums.lost,
                    left_out=sums.left_out,
                    entries=[
                        messages.MapEntry([_text(item) for item in key], cell)
                        for key, cell in sums.entries()
                    ],
                )
            )
        return found


def _text(item: int | bytes) -> int | str:
    if isinstance(item, bytes) and item.startswith(STACK_MARK):
        return item.decode("latin-1")
    return item if isinstance(item, int) else told_apart(item)


def bounded(infos: Iterable[messages.MapInfo]) -> list[messages.MapInfo]:
    """As many entries as fit into one message; the others are counted as left out."""
    left = _MESSAGE
    found = []
    for info in infos:
        size = len(msgspec.json.encode(info.entries))
        if size > left:
            out = info.left_out + len(info.entries)
            info = msgspec.structs.replace(info, entries=[], left_out=out)
        else:
            left -= size
        found.append(info)
    return found


def maps_of(programs: Iterable[InsertedProgram]) -> list[messages.MapInfo]:
    """What each of the programs had in its maps at its last, over its processes."""
    found: dict[int, tuple[str, ProgramMaps]] = {}
    for inserted in programs:
        if inserted.maps:
            _, maps = found.setdefault(
                inserted.number, (inserted.label, ProgramMaps(inserted.program.header))
            )
            maps.add(inserted.maps, inserted.target.pid)
    return bounded(
        info for number, (label, maps) in found.items() for info in maps.infos(number, label)
    )


def map_use_of(programs: Iterable[InsertedProgram]) -> list[messages.MapUseInfo]:
    """How full the maps of each of the programs are, over the processes that go on."""
    found: dict[tuple[int, int], messages.MapUseInfo] = {}
    for inserted in programs:
        for number, use in inserted.map_use.items() if inserted.is_settled else ():
            definition = inserted.program.header.map[number]
            before = found.get((inserted.number, number))
            found[inserted.number, number] = messages.MapUseInfo(
                number=inserted.number,
                program=inserted.label,
                processes=1 if before is None else before.processes + 1,
                map=definition.name,
                kind=definition.kind,
                size=definition.size,
                entries=max(use.keys, before.entries if before is not None else 0),
                lost=use.lost + (before.lost if before is not None else 0),
            )
    return list(found.values())


class EndedMaps:
    """By program: the sums of its maps in processes that have ended, or that it has left."""

    def __init__(self) -> None:
        #: The one inserted last, and the sums of all.
        self._maps: dict[int, tuple[InsertedProgram, ProgramMaps]] = {}
        #: By user: what sums may take.
        self._rooms: dict[int, MapRoom] = {}

    def add(self, inserted: InsertedProgram) -> None:
        """A process has ended with this program in it, or it is out of that."""
        definitions = inserted.program.header.map
        if all(definitions[each.number].is_own for each in inserted.maps):
            return
        if inserted.number not in self._maps:
            room = self._rooms.setdefault(inserted.uid, MapRoom(_USER_BYTES))
            self._maps[inserted.number] = inserted, ProgramMaps(inserted.program.header, room)
        self._maps[inserted.number][1].add(inserted.maps)
        inserted.drop_maps()
        while len(self._maps) > _MOST:
            oldest = next(iter(self._maps))
            _log.warning("program %d: its maps in ended processes are forgotten", oldest)
            self.forget(oldest)

    def get(self, number: int) -> ProgramMaps | None:
        """Those of a program."""
        found = self._maps.get(number)
        return None if found is None else found[1]

    def select(self, select: messages.Select) -> list[InsertedProgram]:
        """The selected programs of which there are some; none where a process is selected."""
        if select.pid is not None:
            return []
        return [inserted for inserted, _ in self._maps.values() if inserted.matches(select)]

    def taken_out(
        self, numbers: Collection[int], removed: Iterable[messages.MapInfo]
    ) -> list[messages.MapInfo]:
        """Forget those of programs that are out everywhere, and hand them over; with what was
        ``removed`` of others, and of single processes."""
        found = [each for each in removed if each.pid is not None or each.number not in numbers]
        for number in numbers:
            if number in self._maps:
                inserted, maps = self._maps[number]
                found += maps.infos(number, inserted.label)
                self.forget(number)
        return bounded(found)

    def forget(self, number: int) -> None:
        """The program is out everywhere."""
        found = self._maps.pop(number, None)
        if found is not None:
            found[1].clear()
