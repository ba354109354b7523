"""Watchpoints: the debug registers of every thread (Intel SDM vol. 3B, chapter 18.2).

The kernel gives each thread its own four, which ptrace sets through ``u_debugreg``; a new thread
begins with none (``flush_ptrace_hw_breakpoint``), so each is given them at its first stop. A data
breakpoint stops the thread after the access, an execute breakpoint before the instruction. The
kernel's own accesses for the target (``read`` into a watched buffer) are not seen.
"""

from __future__ import annotations

from typing import Final

from dprobed.engine.probe import Attachment
from dprobed.tracee import ptrace

COUNT: Final = 4
_STATUS: Final = 6
_CONTROL: Final = 7
_KINDS: Final = {"x": 0, "w": 1, "rw": 3}
_LENGTHS: Final = {1: 0, 2: 1, 8: 2, 4: 3}


def is_length_valid(kind: str, address: int, length: int) -> bool:
    """1, 2, 4 or 8 bytes, aligned to their length; an execute breakpoint has length 1."""
    if kind == "x":
        return length == 1
    return length in _LENGTHS and address % length == 0


class DebugRegisters:
    """The same four in every thread of the target."""

    def __init__(self) -> None:
        self._slots: list[tuple[Attachment, ...]] = [()] * COUNT
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

    def executes(self, address: int) -> bool:
        """Whether execution of the instruction at ``address`` is watched."""
        return ("x", address, 1) in self._settings

    def attach(self, index: int, attachment: Attachment) -> None:
        """Have a probe run when register ``index`` fires."""
        self._slots[index] = (*self._slots[index], attachment)

    def detach(self, attachment: Attachment) -> None:
        """Undo ``attach``; the register is free when nothing hangs on it any more."""
        index = attachment.index
        self._slots[index] = tuple(each for each in self._slots[index] if each is not attachment)
        if not self._slots[index]:
            self._settings[index] = None

    def attachments(self) -> list[Attachment]:
        """Everything that hangs on a register."""
        return [attachment for slot in self._slots for attachment in slot]

    def take_over(self, other: DebugRegisters, twins: dict[Attachment, Attachment]) -> None:
        """Set what ``other`` has set, with the twins of its attachments; what has none is not."""
        for index, attachments in enumerate(other._slots):
            self._slots[index] = tuple(twins[each] for each in attachments if each in twins)
            self._settings[index] = other._settings[index] if self._slots[index] else None

    def clear(self) -> None:
        """All four free; ``apply`` then tells a thread."""
        self._slots = [()] * COUNT
        self._settings = [None] * COUNT

    def apply(self, tid: int) -> None:
        """Give a stopped thread the registers as they are now.

        Raises Gone; and PtraceError where it cannot have them all (perf may use some): it has the
        others then.
        """
        if not any(self._settings) and not ptrace.peek_debug(tid, _CONTROL):
            return
        trouble: ptrace.PtraceError | None = None
        control = 0
        # An address may only change while its register is off.
        ptrace.poke_debug(tid, _CONTROL, 0)
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
                trouble = error
                continue
            control |= 1 << 2 * index
            control |= (_KINDS[kind] | _LENGTHS[length] << 2) << (16 + 4 * index)
        ptrace.poke_debug(tid, _CONTROL, control)
        if trouble is not None:
            raise trouble

    def fired(self, tid: int) -> list[Attachment]:
        """Whose registers the thread's latest debug trap was; its note of it is cleared."""
        status = ptrace.peek_debug(tid, _STATUS)
        ptrace.poke_debug(tid, _STATUS, 0)
        return [
            attachment
            for index in range(COUNT)
            if status >> index & 1
            for attachment in self._slots[index]
        ]
