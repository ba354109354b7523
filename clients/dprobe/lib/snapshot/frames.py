"""The frames of a thread, innermost first, each with the registers that are known in it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from dprobe.lib.snapshot.core import word
from dprobe.lib.snapshot.modules import MappedModules, MappedPart
from dprobed.binary.cfi import NO_RULE
from dprobed.binary.cfi_program import (
    OFFSET,
    REGISTER,
    RETURN,
    RSP,
    UNDEFINED,
    VALUE,
    How,
    Rule,
)
from dprobed.binary.errors import LocationError

#: Why there are no more frames.
MORE: Final = "more frames than were asked for"

_MASK: Final = (1 << 64) - 1
#: Registers that a function leaves as they were, by DWARF's numbers: rbx, rbp, r12 to r15.
_KEPT: Final = (3, 6, 12, 13, 14, 15)
_KINDS: Final = (UNDEFINED, OFFSET, VALUE, REGISTER)

Memory = Callable[[int, int], "bytes | None"]


class ThreadFrame(msgspec.Struct, frozen=True):
    """A frame. ``registers``: by DWARF's numbers, those that are known. ``part``: the file whose
    code it is; None: of none. ``exact``: it is where the thread is; else where it will return to,
    behind a call."""

    address: int
    registers: dict[int, int]
    part: MappedPart | None
    exact: bool

    @property
    def vaddr(self) -> int:
        """The address in the file of what is run there: of a call, within it."""
        bias = self.part.bias if self.part is not None else 0
        return self.address - bias - (not self.exact)


class Unwinder:
    """Goes from frame to frame by what is known of the code (CFI)."""

    def __init__(self, modules: MappedModules, memory: Memory) -> None:
        self._modules: Final = modules
        self._memory: Final = memory
        #: Why there are no more frames; empty: the last one is the thread's first.
        self.end = ""

    def frames(self, registers: dict[int, int], most: int) -> Iterator[ThreadFrame]:
        """At most so many."""
        exact = True
        for number in range(most):
            address = registers[RETURN]
            frame = ThreadFrame(address, registers, self._modules.at(address), exact)
            yield frame
            if number == most - 1:
                self.end = MORE
                return
            rule = self._rule(frame)
            if rule is None:
                self.end = "the code has no unwinding information"
                return
            caller = self._caller(rule, registers)
            if caller is None or not caller[RETURN]:
                return
            registers, exact = caller, rule.signal

    @staticmethod
    def _rule(frame: ThreadFrame) -> Rule | None:
        if frame.part is None:
            return None
        try:
            block = frame.part.elf.unwind_rows.block(frame.vaddr)
        except LocationError:
            return None
        index = bisect_right(block.addresses, frame.vaddr) - 1
        if index < 0 or block.rules[index] == NO_RULE:
            return None
        return block.table[block.rules[index]]

    def _caller(self, rule: Rule, registers: dict[int, int]) -> dict[int, int] | None:
        """The caller's registers; None: there is none, or ``end`` says why it is not found."""
        start = registers.get(rule.cfa_register)
        if start is None or any(each.kind not in _KINDS for each in rule.registers):
            self.end = "the unwinding information has an expression, or needs what is not known"
            return None
        cfa = start + rule.cfa_offset & _MASK
        if cfa <= registers[RSP]:
            self.end = "the stack is corrupt: the caller's frame is not above"
            return None
        found: dict[int, int] = {
            number: registers[number] for number in _KEPT if number in registers
        }
        for how in rule.registers:
            value = self._value(how, cfa, registers)
            found.pop(how.register, None)
            if value is not None:
                found[how.register] = value
        found[RSP] = cfa
        back = found.pop(rule.return_register, None)
        if back is None:
            undefined = any(
                each.register == rule.return_register and each.kind == UNDEFINED
                for each in rule.registers
            )
            self.end = "" if undefined else "the memory of the stack cannot be read"
            return None
        found[RETURN] = back
        return found

    def _value(self, how: How, cfa: int, registers: dict[int, int]) -> int | None:
        if how.kind == OFFSET:
            return word(self._memory(cfa + how.value & _MASK, 8))
        if how.kind == VALUE:
            return cfa + how.value & _MASK
        return registers.get(how.value) if how.kind == REGISTER else None
