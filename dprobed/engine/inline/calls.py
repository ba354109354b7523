"""The running calls of functions at whose returns probes are, in one address space.

Trampolines write them down where the target and we share memory (``arch.x86_64.call_table``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

from dprobed.arch.x86_64.call_table import (
    BODY_BYTES,
    BODY_THREAD,
    FRAME_BITS,
    MOST_PLACES,
    TAG_BYTES,
)
from dprobed.engine.errors import SpaceError
from dprobed.engine.inline.shared import SharedMemory
from dprobed.engine.probe import Probe

#: Bytes of tags that are looked at at once: most of the table is empty.
_PIECE: Final = 1 << 12
_EMPTY: Final = memoryview(bytes(_PIECE))

#: A place whose calls are followed: a probe, and the entry of the function.
FollowedPlace = tuple[Probe, int]


class _Running(NamedTuple):
    """A call: where its tag and its body are, and the number of its place."""

    tag: int
    body: int
    number: int


class CallTable:
    """Those of one address space."""

    def __init__(self, shared: SharedMemory) -> None:
        self.shared: Final = shared
        self._numbers: Final[dict[FollowedPlace, int]] = {}

    def number(self, place: FollowedPlace) -> int:
        """The number by which the calls of a place are known; raises SpaceError."""
        found = self._numbers.get(place)
        if found is None:
            found = len(self._numbers) + 1
            if found >= MOST_PLACES:
                raise SpaceError(f"the returns of {MOST_PLACES} functions were probed already")
            self._numbers[place] = found
        return found

    def drop_of(self, places: Collection[FollowedPlace]) -> None:
        """Follow the calls of these no more; all threads are stopped."""
        numbers = {self._numbers[place] for place in places if place in self._numbers}
        if numbers:
            for call in list(self._running()):
                if call.number in numbers:
                    self._clear(call)

    def unwind_all(self) -> None:
        """No thread runs any more: all calls were left without returning."""
        by_number = {number: probe for (probe, _), number in self._numbers.items()}
        for call in list(self._running()):
            probe = by_number.get(call.number)
            if probe is not None and not probe.over:
                probe.unwound += 1
            self._clear(call)

    def start_anew(self) -> None:
        """No place is left, and no thread in our code."""
        for call in list(self._running()):
            self._clear(call)
        self._numbers.clear()

    def copy_to(self, other: CallTable, twins: dict[Probe, Probe], pointer: int) -> None:
        """Begin a ``fork`` child's with the calls of the thread that made it; ``pointer``: where
        that has its variables."""
        for (probe, address), number in self._numbers.items():
            other._numbers[twins.get(probe, probe), address] = number
        view, there = self.shared.view, other.shared.view
        for call in self._running():
            at = call.body + BODY_THREAD
            if int.from_bytes(view[at : at + 8], "little") == pointer:
                for begin, size in ((call.tag, 8), (call.body, BODY_BYTES)):
                    there[begin : begin + size] = view[begin : begin + size]

    def _running(self) -> Iterator[_Running]:
        view = self.shared.view
        for piece in range(0, TAG_BYTES, _PIECE):
            if view[piece : piece + _PIECE] == _EMPTY:
                continue
            for index, tag in enumerate(view[piece : piece + _PIECE].cast("Q").tolist()):
                if tag:
                    at = piece + 8 * index
                    body = TAG_BYTES + at // 8 * BODY_BYTES
                    yield _Running(at, body, tag >> FRAME_BITS)

    def _clear(self, call: _Running) -> None:
        self.shared.view[call.tag : call.tag + 8] = bytes(8)
