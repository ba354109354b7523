"""Semaphores of static probes (USDT): words by which a program knows that somebody is told.

A program may skip what is only for a static probe while its semaphore is 0. Everybody who probes it
counts it up, and down at the end (SystemTap's "UserSpaceProbeImplementation"); so does the kernel
for uprobes with a reference count (kernel/events/uprobes.c, ``__update_ref_ctr``): 16 bits.
"""

from __future__ import annotations

import contextlib
from typing import Final

from dprobed.change_journal import Change, Changes, Kind
from dprobed.engine.errors import SpaceError
from dprobed.engine.remote_calls import note
from dprobed.tracee.memory import Memory

#: Bytes of one.
SEMAPHORE_BYTES: Final = 2
_MOST: Final = 0xFFFF


class Semaphores:
    """Those of one address space that we have counted up, each once."""

    def __init__(self, memory: Memory, changes: Changes) -> None:
        self._memory: Final = memory
        self._changes: Final = changes
        #: By address, how many places of probes need it.
        self._needed: Final[dict[int, int]] = {}

    def need(self, address: int) -> None:
        """A place of a probe is in; the threads are stopped. Raises SpaceError."""
        if address not in self._needed:
            self._raise(address)
        self._needed[address] = self._needed.get(address, 0) + 1

    def release(self, address: int) -> None:
        """That place is taken out."""
        left = self._needed.pop(address, 0) - 1
        if left > 0:
            self._needed[address] = left
        elif left == 0:
            self._lower(address)

    def forget(self, address: int) -> None:
        """It is not mapped any more."""
        if self._needed.pop(address, None) is not None:
            self._changes.forget(Kind.SEMAPHORE, address)

    def adopt(self, change: Change) -> None:
        """One that a tracer that was killed has counted up, or was about to: nothing needs it."""
        before = int.from_bytes(change.data[:SEMAPHORE_BYTES], "little")
        raw = self._memory.peek(change.address, SEMAPHORE_BYTES)
        if len(raw) != SEMAPHORE_BYTES or int.from_bytes(raw, "little") == before:
            self._changes.forget(Kind.SEMAPHORE, change.address)
        else:
            self._lower(change.address)

    def take_over(self, parent: Semaphores) -> None:
        """Those in a ``fork`` child's copy of the memory: none is needed there yet."""
        for address in parent._needed:
            with contextlib.suppress(SpaceError):
                self._note(address, self._value_at(address) - 1)
                self._needed[address] = 0

    def release_unneeded(self) -> None:
        """Count down those of a copy that no place has turned out to need."""
        for address in [each for each, count in self._needed.items() if not count]:
            del self._needed[address]
            self._lower(address)

    def undo(self, memory: Memory) -> None:
        """Count down all of them in a copy of the memory that we leave."""
        for address in self._needed:
            _add(memory, address, -1)

    def original(self, address: int, data: bytearray) -> None:
        """Undo our changes in bytes that were read from memory."""
        for where in self._needed:
            at = where - address
            if 0 <= at <= len(data) - SEMAPHORE_BYTES:
                value = int.from_bytes(data[at : at + SEMAPHORE_BYTES], "little")
                data[at : at + SEMAPHORE_BYTES] = max(0, value - 1).to_bytes(
                    SEMAPHORE_BYTES, "little"
                )

    def release_all(self) -> None:
        """Count down all of them."""
        for address in list(self._needed):
            del self._needed[address]
            self._lower(address)

    def clear(self) -> None:
        """The address space is gone."""
        self._needed.clear()

    def _value_at(self, address: int) -> int:
        raw = self._memory.peek(address, SEMAPHORE_BYTES)
        if len(raw) != SEMAPHORE_BYTES:
            raise SpaceError(f"the semaphore at {address:#x} is not mapped")
        return int.from_bytes(raw, "little")

    def _note(self, address: int, before: int) -> None:
        if not 0 <= before < _MOST:
            raise SpaceError(f"the semaphore at {address:#x} is {before}, which cannot be ours")
        note(self._changes, Kind.SEMAPHORE, address, before.to_bytes(SEMAPHORE_BYTES, "little"))

    def _raise(self, address: int) -> None:
        self._note(address, self._value_at(address))
        if not _add(self._memory, address, 1):
            self._changes.forget(Kind.SEMAPHORE, address)
            raise SpaceError(f"the semaphore at {address:#x} cannot be written")

    def _lower(self, address: int) -> None:
        _add(self._memory, address, -1)
        self._changes.forget(Kind.SEMAPHORE, address)


def _add(memory: Memory, address: int, number: int) -> bool:
    """Count one up or down; never beyond its ends."""
    raw = memory.peek(address, SEMAPHORE_BYTES)
    value = int.from_bytes(raw, "little") + number
    if len(raw) != SEMAPHORE_BYTES or not 0 <= value <= _MOST:
        return False
    return memory.poke(address, value.to_bytes(SEMAPHORE_BYTES, "little"))
