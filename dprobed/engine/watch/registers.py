"""The debug registers of every thread of a target: what each watches, and whose programs it runs.

The kernel gives each thread its own four, which ptrace sets through ``u_debugreg``.
"""

from __future__ import annotations

from typing import Final

from dprobed.arch.x86_64.debug_registers import (
    CONTROL,
    COUNT,
    STATUS,
    control_bits,
    has_fired,
)
from dprobed.engine.interface import Location, Twin
from dprobed.engine.probe import Attachment, Probe
from dprobed.tracee import ptrace
from dprobed.wire.engines import WATCH


class WatchAttachment(Attachment):
    """A place of a probe that debug register ``index`` watches."""

    __slots__ = ("index",)
    may_be_at_data = True

    def __init__(self, probe: Probe, location: Location, index: int) -> None:
        super().__init__(probe, WATCH, location)
        self.index: Final = index


class DebugRegisters:
    """The four debug registers, the same in every thread of a target."""

    def __init__(self) -> None:
        self._slots: list[tuple[WatchAttachment, ...]] = [()] * COUNT
        self._settings: list[tuple[str, int, int] | None] = [None] * COUNT

    def add(self, kind: str, address: int, length: int) -> int | None:
        """The register for this watch, shared with a same one; None when all four are taken."""
        setting = (kind, address, length)
        if setting in self._settings:
            return self._settings.index(setting)
        if None not in self._settings:
            return None
        index = self._settings.index(None)
        self._settings[index] = setting
        return index

    @property
    def are_free(self) -> bool:
        """Whether none watches anything."""
        return not any(self._settings)

    def executes(self, address: int) -> bool:
        """Whether execution of the instruction at ``address`` is watched."""
        return ("x", address, 1) in self._settings

    def attach(self, index: int, attachment: WatchAttachment) -> None:
        """Have a probe run when register ``index`` fires."""
        self._slots[index] = (*self._slots[index], attachment)

    def detach(self, attachment: WatchAttachment) -> None:
        """Undo ``attach``; a register without attachments is free."""
        index = attachment.index
        self._slots[index] = tuple(each for each in self._slots[index] if each is not attachment)
        if not self._slots[index]:
            self._settings[index] = None

    def attachments(self) -> list[WatchAttachment]:
        """All attachments."""
        return [attachment for slot in self._slots for attachment in slot]

    def take_over(self, other: DebugRegisters, twin: Twin) -> list[WatchAttachment]:
        """Set the registers of ``other`` that have attachments with a twin; returns the twins."""
        for index, attachments in enumerate(other._slots):
            twins = [(old, twin(old)) for old in attachments]
            self._slots[index] = tuple(
                WatchAttachment(
                    new[0], Location(old.address, new[1], old.place, old.module_key), index
                )
                for old, new in twins
                if new is not None
            )
            self._settings[index] = other._settings[index] if self._slots[index] else None
        return self.attachments()

    def clear(self) -> None:
        """Free all four; ``apply`` then clears them in a thread."""
        self._slots = [()] * COUNT
        self._settings = [None] * COUNT

    def apply(self, tid: int) -> None:
        """Give a stopped thread the registers as they are now.

        Raises Gone; and PtraceError where it cannot have them all (perf may use some): it has the
        others then.
        """
        if not any(self._settings) and not ptrace.peek_debug(tid, CONTROL):
            return
        failure: ptrace.PtraceError | None = None
        control = 0
        # An address may only change while its register is off.
        ptrace.poke_debug(tid, CONTROL, 0)
        for index, setting in enumerate(self._settings):
            if setting is None:
                # Not touched if it is 0: whatever was written to takes one from the kernel's four.
                if ptrace.peek_debug(tid, index):
                    ptrace.poke_debug(tid, index, 0)
                continue
            kind, address, length = setting
            try:
                ptrace.poke_debug(tid, index, address)
            except ptrace.PtraceError as error:
                failure = error
                continue
            control |= control_bits(index, kind, length)
        ptrace.poke_debug(tid, CONTROL, control)
        if failure is not None:
            raise failure

    def fired(self, tid: int) -> list[WatchAttachment]:
        """The attachments whose register caused the thread's latest debug trap; clears DR6."""
        status = ptrace.peek_debug(tid, STATUS)
        ptrace.poke_debug(tid, STATUS, 0)
        return [
            attachment
            for index in range(COUNT)
            if has_fired(status, index)
            for attachment in self._slots[index]
        ]
