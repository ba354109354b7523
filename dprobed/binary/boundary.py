"""Instruction boundaries: whether an instruction begins at an address.

Only what control flow leads to is an instruction. Compilers put no data among the instructions of a
function, but assembler sources do: jump tables, constants, texts that are jumped over. Decoding
from the beginning of a function takes those for instructions, and what follows for others than it
is. So code is followed from the beginning of a symbol with a size, or of an unwind entry (FDE),
over branches and through jump tables. What is not reached (landing pads, targets of unknown tables)
is not known: the user has to say which bytes are there.
"""

from __future__ import annotations

from typing import Final, Literal

from iced_x86 import Decoder, Formatter, FormatterSyntax

from dprobed.binary.control_flow import BEGINS, INSIDE, LEAVING, reached
from dprobed.binary.elf import ElfFile
from dprobed.binary.errors import LocationError
from dprobed.binary.symbols import SymbolTable
from dprobed.binary.unwind import fde_range

#: Whether an instruction begins somewhere, where it is not sure that none does.
Boundary = Literal["ok", "unknown"]
#: A larger function is not remembered, and beyond this not decoded.
_REMEMBERED: Final = 1 << 20
_LARGEST: Final = 2 << 20
#: No x86-64 instruction is longer.
_LONGEST: Final = 15
#: How far from a label without size to look at all.
_LABEL_REACH: Final = 1 << 16
#: How many bytes of functions are remembered of one file.
_MOST_BYTES: Final = 4 << 20


class Boundaries:
    """The instruction boundaries of one file; decoded functions are remembered."""

    def __init__(self) -> None:
        #: Start of a function → one mark for each of its bytes.
        self.known: dict[int, bytearray] = {}
        self.size = 0

    def check(self, elf: ElfFile, symbols: SymbolTable, vaddr: int, name: str) -> Boundary:
        """``ok`` or ``unknown``; raises LocationError if it is inside an instruction."""
        symbol = symbols.code_at(vaddr)
        if symbol is not None and symbol.value == vaddr:
            return "ok"
        if symbol is not None and symbol.size:
            start, end = symbol.value, symbol.value + symbol.size
        else:
            found = fde_range(elf, vaddr)
            if found is None:
                return "unknown" if symbol is None else _after_label(elf, symbol.value, vaddr, name)
            start, end = found
        marks = self._marks(elf, start, end)
        position = vaddr - start
        if position >= len(marks) or not marks[position]:
            return "unknown"  # nothing leads here that can be seen
        if marks[position] == BEGINS:
            return "ok"
        before = next(at for at in range(position - 1, -1, -1) if marks[at] & BEGINS)
        after = position + 1
        while after < len(marks) and marks[after] & INSIDE:
            after += 1
        raise _refusal(elf, start + before, vaddr, start + after, name)

    def _marks(self, elf: ElfFile, start: int, end: int) -> bytearray:
        """See ``reached``; remembered."""
        known = self.known.get(start)
        if known is not None:
            return known
        size = min(end - start, _LARGEST, _bytes_left(elf, start))
        marks = reached(elf, start, elf.read_vaddr(start, size))
        if size <= _REMEMBERED:
            self.size += len(marks)
            if self.size > _MOST_BYTES:
                self.known.clear()
                self.size = len(marks)
            self.known[start] = marks
        return marks


def _after_label(elf: ElfFile, start: int, vaddr: int, name: str) -> Boundary:
    """``check`` from a symbol without size: certain as far as control flow runs straight on."""
    size = min(vaddr - start + _LONGEST, _bytes_left(elf, start))
    if vaddr - start > _LABEL_REACH or size <= vaddr - start:
        return "unknown"
    for instruction in Decoder(64, elf.read_vaddr(start, size), ip=start):
        if instruction.ip == vaddr:
            return "ok"
        if instruction.is_invalid:
            break
        if instruction.next_ip > vaddr:
            raise _refusal(elf, instruction.ip, vaddr, instruction.next_ip, name)
        if instruction.flow_control in LEAVING:
            break
    return "unknown"


def _bytes_left(elf: ElfFile, vaddr: int) -> int:
    segment = elf.segment_at(vaddr)
    return segment.vaddr + segment.file_size - vaddr if segment is not None else 0


def _refusal(elf: ElfFile, before: int, vaddr: int, after: int, name: str) -> LocationError:
    code = elf.read_vaddr(before, after - before)
    text = Formatter(FormatterSyntax.INTEL).format(next(iter(Decoder(64, code, ip=before))))
    return LocationError(
        f"{elf.path}: {name} is inside an instruction ({text}), not at its beginning",
        f"that begins {_bytes(vaddr - before)} before, the next one {_bytes(after - vaddr)} after",
    )


def _bytes(count: int) -> str:
    return f"{count} byte" if count == 1 else f"{count} bytes"
