"""The maps of the programs in one target: read without stopping it, between two hits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dprobed.program.exec.interface import KeyedMap
from dprobed.program.maps import NOTED_BYTES, TARGET_BYTES, VALUE, MapRoom
from dprobed.tracee.thread_group import ThreadGroup
from dprobed.tracer.inserted import Inserted, RequestError
from dprobed.wire import protocol

#: A thread that is in the middle of setting a key goes on and is stopped again, so often at most.
_TRIES: Final = 100


class TargetMaps:
    """Those of all its programs; ``room``: what they may take. ``group``: the target's threads."""

    def __init__(self, inserted: Mapping[int, Inserted], group: ThreadGroup) -> None:
        self.room: Final = MapRoom(TARGET_BYTES)
        self._inserted: Final = inserted
        self._group: Final = group

    def read(self, request: protocol.Maps) -> list[protocol.MapState]:
        """Those of a program, which are then reset as asked; raises RequestError."""
        return self._of(request.program).maps(request.reset, request.name)

    def write(self, request: protocol.SetMap) -> None:
        """Set keys of a map of values, or forget keys, between hits; raises RequestError."""
        for each in self._of(request.program).executor.maps:
            settable = each.definition.kind == VALUE or not request.entries
            if each.definition.name == request.name and settable:
                if not self._change(each, request):
                    raise RequestError(
                        f"map {request.name}: a thread is stopped in the middle of setting it"
                    )
                return
        raise RequestError(f"program {request.program} has no map {request.name} of values")

    def _change(self, held: KeyedMap, request: protocol.SetMap) -> bool:
        if not held.is_shared:
            return held.change(request.entries, request.gone)
        for _ in range(_TRIES):
            with self._group.stopped():
                if held.change(request.entries, request.gone):
                    return True
        return False

    def _of(self, program: int) -> Inserted:
        if program not in self._inserted:
            raise RequestError(f"program {program} is not inserted")
        return self._inserted[program]

    def noted(self) -> tuple[list[protocol.MapState], bool]:
        """Those of all programs, or none where they are more than is noted every second; and
        whether they are."""
        if TARGET_BYTES - self.room.left > NOTED_BYTES:
            return [], True
        return [state for each in self._inserted.values() for state in each.maps()], False

    def last(self) -> list[protocol.MapState]:
        """Those of all programs, told of once: they are empty then."""
        return [
            state
            for each in self._inserted.values()
            for state in each.maps("clear")
            if state.entries or state.lost
        ]

    def use(self) -> list[protocol.MapUse]:
        """How full they are."""
        return [use for each in self._inserted.values() for use in each.map_use()]

    def new_image(self) -> None:
        """Begin with empty maps: what is in them is of another image."""
        for each in self._inserted.values():
            each.maps("clear")
