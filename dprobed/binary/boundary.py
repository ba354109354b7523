"""Instruction boundaries: whether an instruction begins at an address, by linear decoding.

x86-64 compilers put no data among the instructions of a function, so decoding from the start of a
symbol with a size, or of an unwind entry (FDE), passes through every instruction up to its end.
"""

from __future__ import annotations

from typing import Final, Literal

from iced_x86 import Decoder, FlowControl, Formatter, FormatterSyntax

from dprobed.binary.elf import ElfFile
from dprobed.binary.errors import LocationError
from dprobed.binary.symbols import SymbolTable
from dprobed.binary.unwind import fde_range

#: Whether an instruction begins somewhere, where it is not sure that none does.
Boundary = Literal["ok", "unknown"]
#: A larger function is decoded only up to the address that is asked for, and not remembered.
_REMEMBERED: Final = 1 << 20
#: No x86-64 instruction is longer.
_LONGEST: Final = 15
#: How far from a label without size to look at all.
_LABEL_REACH: Final = 1 << 16
#: How many bytes of functions are remembered of one file.
_MOST_BYTES: Final = 4 << 20


_LEAVING: Final = (
    FlowControl.UNCONDITIONAL_BRANCH,
    FlowControl.INDIRECT_BRANCH,
    FlowControl.RETURN,
    FlowControl.INTERRUPT,
    FlowControl.EXCEPTION,
)


class Boundaries:
    """The instruction boundaries of one file; decoded functions are remembered."""

    def __init__(self) -> None:
        #: Start of a function → one byte for each of its bytes.
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
        starts = self._starts(elf, start, end, vaddr)
        position = vaddr - start
        if starts[position]:
            return "ok"
        after = starts.find(1, position)
        if after < 0:
            return "unknown"  # decoding ended before: something here is not code
        before = starts.rfind(1, 0, position)
        raise _refusal(elf, start + before, vaddr, start + after, name)

    def _starts(self, elf: ElfFile, start: int, end: int, vaddr: int) -> bytearray:
        """One byte for each byte of the function, 1 where an instruction begins, and one for its
        end. Decoding ends at the first bytes that are no instruction: nothing is marked after."""
        known = self.known.get(start)
        if known is not None:
            return known
        remember = end - start <= _REMEMBERED
        size = min(end if remember else vaddr + _LONGEST + 1, end) - start
        code = elf.read_vaddr(start, min(size, _bytes_left(elf, start)))
        starts = bytearray(size + 1)
        position = 0
        for instruction in Decoder(64, code):
            if instruction.is_invalid:
                break
            starts[position] = 1
            position += instruction.len
        else:
            starts[position] = 1
        if remember:
            self.size += len(starts)
            if self.size > _MOST_BYTES:
                self.known.clear()
                self.size = len(starts)
            self.known[start] = starts
        return starts


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
        if instruction.flow_control in _LEAVING:
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
