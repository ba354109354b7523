"""Which bytes of a function control flow reaches, as far as the file shows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from iced_x86 import Decoder, FlowControl, Instruction, Mnemonic, OpKind, Register

from dprobed.binary.elf import ElfFile
from dprobed.binary.unwind import has_landing_pads

#: Marks of a byte: an instruction begins there; it is a later byte of one (or both).
BEGINS: Final = 1
INSIDE: Final = 2

#: Instructions behind which execution does not go on.
LEAVING: Final = (
    FlowControl.UNCONDITIONAL_BRANCH,
    FlowControl.INDIRECT_BRANCH,
    FlowControl.RETURN,
    FlowControl.INTERRUPT,
    FlowControl.EXCEPTION,
)
#: Bytes of the longest jump table.
_TABLE: Final = 1 << 12


def reached(elf: ElfFile, start: int, code: bytes) -> bytearray:
    """One mark for each byte of the function at ``start``, 0 where nothing leads.

    Of a function with landing pads, to which nothing leads, all is code that decoding from the
    beginning takes for it, as compilers put no data there.
    """
    walk = _Walk(elf, start, code)
    walk.walk()
    if has_landing_pads(elf, start):
        walk.fill()
    return walk.marks


class _Walk:
    def __init__(self, elf: ElfFile, start: int, code: bytes) -> None:
        self._elf = elf
        self._start = start
        self._code = code
        self.marks: Final = bytearray(len(code))
        self._linear: bytearray | None = None
        self._tables: set[tuple[int, int]] = set()
        self._left = [start]

    def walk(self) -> None:
        """Mark what is reached."""
        decoder = Decoder(64, self._code, ip=self._start)
        while self._left:
            at = self._left.pop()
            if not self._holds(at) or self.marks[at - self._start] & BEGINS:
                continue
            decoder.position, decoder.ip = at - self._start, at
            for instruction in decoder:
                if instruction.is_invalid or self.marks[instruction.ip - self._start] & BEGINS:
                    break
                self._mark(instruction.ip - self._start, instruction.len)
                if not self._follow(instruction):
                    break

    def fill(self) -> None:
        """Mark what is not reached, unless that contradicts what is."""
        found: list[tuple[int, int]] = []
        for instruction in Decoder(64, self._code):
            at = instruction.ip
            if instruction.is_invalid or self.marks[at] == INSIDE:
                return
            if not self.marks[at]:
                found.append((at, instruction.len))
        for at, length in found:
            self._mark(at, length)

    def _holds(self, address: int) -> bool:
        return 0 <= address - self._start < len(self._code)

    def _mark(self, position: int, length: int) -> None:
        self.marks[position] |= BEGINS
        for inside in range(position + 1, position + length):
            self.marks[inside] |= INSIDE

    def _follow(self, instruction: Instruction) -> bool:
        """Note where an instruction leads besides to the next one; whether it leads there, too."""
        flow = instruction.flow_control
        if flow == FlowControl.NEXT or instruction.mnemonic == Mnemonic.INT:
            if instruction.mnemonic == Mnemonic.LEA and instruction.memory_base == Register.RIP:
                self._left += self._targets(instruction.memory_displacement, 4)
            return True
        if flow == FlowControl.INDIRECT_BRANCH:
            if instruction.op0_kind == OpKind.MEMORY and instruction.memory_base == Register.NONE:
                self._left += self._targets(instruction.memory_displacement, 8)
            return False
        if instruction.op0_kind == OpKind.NEAR_BRANCH64:
            target = instruction.near_branch_target
            self._left.append(target)
            # A call into the function itself, but not to its beginning, jumps over data.
            jumps = flow == FlowControl.CALL and self._holds(target) and target != self._start
            return not jumps and flow not in LEAVING
        return flow not in LEAVING

    def _targets(self, table: int, size: int) -> Iterator[int]:
        """Where the entries of a jump table lead, if there is one: offsets from the table of 4
        bytes, or addresses of 8. Where it ends is not known, so an instruction has to be there by
        decoding from the beginning, too."""
        segment = self._elf.segment_at(table)
        if segment is None or (table, size) in self._tables:
            return
        self._tables.add((table, size))
        left = segment.vaddr + segment.file_size - table
        data = self._elf.read_vaddr(table, min(left, _TABLE)) if left >= size else b""
        for position in range(0, len(data) - size + 1, size):
            entry = int.from_bytes(data[position : position + size], "little", signed=size == 4)
            target = entry + table if size == 4 else entry
            if not self._holds(target):
                return
            if self._begins_linearly(target - self._start):
                yield target

    def _begins_linearly(self, position: int) -> bool:
        if self._linear is None:
            self._linear = bytearray(len(self._code))
            at = 0
            for instruction in Decoder(64, self._code):
                if instruction.is_invalid:
                    break
                self._linear[at] = 1
                at += instruction.len
        return bool(self._linear[position])
