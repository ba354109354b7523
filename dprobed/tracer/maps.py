"""The maps of the programs in one target: read without stopping it, between two hits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final

from dprobed.program.exec.interface import KeyedMap
from dprobed.program.maps import NOTED_BYTES, TARGET_BYTES, VALUE, Entry, Item, MapRoom
from dprobed.tracer.inserted import Inserted, RequestError
from dprobed.wire import protocol

#: A thread that is in the middle of setting a key goes on and is stopped again, so often at most.
_TRIES: Final = 100


class TargetMaps:
    """Those of all its programs; ``room``: what they may take. ``quiet``: see Engines."""

    def __init__(
        self,
        inserted: Mapping[int, Inserted],
        quiet: Callable[[], AbstractContextManager[bool]],
    ) -> None:
        self._quiet: Final = quiet
        self.room: Final = MapRoom(TARGET_BYTES)
        self._inserted: Final = inserted

    def read(self, request: protocol.Maps) -> list[protocol.MapState]:
        """Those of a program, which are then reset as asked; raises RequestError.

        Where its threads run it without us, nothing comes in between: they are stopped.
        """
        inserted = self._of(request.program)
        executor = inserted.executor
        if not request.reset or not any(each.is_shared for each in executor.maps):
            return inserted.maps(request.reset, request.name)
        # Only a tracer that has programs inline has it.
        from dprobed.engine.inline.executor import InlineExecutor

        assert isinstance(executor, InlineExecutor)
        with self._quiet() as is_quiet:
            taken = executor.take_maps(request.reset, request.name, is_quiet=is_quiet)
        return [inserted.map_state(number, each) for number, each in taken]

    def write(self, request: protocol.SetMap) -> None:
        """Set keys of a map of values, or forget keys, between hits: all of that, or it stays as it
        is; raises RequestError."""
        for each in self._of(request.program).executor.maps:
            settable = each.definition.kind == VALUE or not request.entries
            if each.definition.name == request.name and settable:
                without = self._change(each, request)
                if without is None:
                    raise RequestError(
                        f"map {request.name}: a thread is stopped in the middle of setting it"
                    )
                if without:
                    keys = f"{without} of {len(request.entries)} keys"
                    raise RequestError(
                        f"map {request.name}: no room for {keys}; it stays as it was"
                    )
                return
        raise RequestError(f"program {request.program} has no map {request.name} of values")

    def _change(self, held: KeyedMap, request: protocol.SetMap) -> int | None:
        """For how many keys there was no room: then nothing is changed; None: as KeyedMap's."""
        if not held.is_shared:
            return _all_or_none(held, request.entries, request.gone)
        for _ in range(_TRIES):
            with self._quiet():
                without = _all_or_none(held, request.entries, request.gone)
            if without is not None:
                return without
        return None

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


def _all_or_none(
    held: KeyedMap, entries: Sequence[Entry], gone: Sequence[Sequence[Item]]
) -> int | None:
    """See KeyedMap.change; where there is no room for a key, all is as it was."""
    if not entries:
        return held.change(entries, gone)
    named = {tuple(key) for key, _ in entries} | {tuple(key) for key in gone}
    before = [each for each in held.contents().entries if tuple(each[0]) in named]
    without = held.change(entries, gone)
    if without:
        had = {tuple(key) for key, _ in before}
        held.change(before, [key for key in named if key not in had])
    return without
