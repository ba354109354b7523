"""Whether an instruction begins at an address, by linear decoding from where code surely begins.

x86-64 compilers put no data among the instructions of a function, so decoding from the start of a
symbol with a size, or of an unwind entry (FDE), passes through every instruction up to its end.
"""

from __future__ import annotations

from typing import Final

from dprobed.binary.elf import ElfFile
from dprobed.binary.errors import LocationError

#: A larger function is decoded only up to the address that is asked for, and not remembered.
_REMEMBERED: Final = 1 << 20
#: No x86-64 instruction is longer.
_LONGEST: Final = 15
#: How far from a label without size to look at all.
_LABEL_REACH: Final = 1 << 16
#: How many bytes of functions are remembered of one file.
_MOST_BYTES: Final = 4 << 20


def check(elf: ElfFile, vaddr: int, name: str) -> str:
    """``ok`` or ``unknown``; raises LocationError where surely no instruction begins."""
    symbol = elf.symbols.code_at(vaddr)
    if symbol is not None and symbol.value == vaddr:
        return "ok"
    if symbol is not None and symbol.size:
        start, end = symbol.value, symbol.value + symbol.size
    else:
        from dprobed.binary.unwind import fde_range

        found = fde_range(elf, vaddr)
        if found is None:
            return "unknown" if symbol is None else _after_label(elf, symbol.value, vaddr, name)
        start, end = found
    starts = _starts(elf, start, end, vaddr)
    position = vaddr - start
    if starts[position]:
        return "ok"
    after = starts.find(1, position)
    if after < 0:
        return "unknown"  # decoding ended before: something here is not code
    before = starts.rfind(1, 0, position)
    raise _refusal(elf, start + before, vaddr, start + after, name)


def _after_label(elf: ElfFile, start: int, vaddr: int, name: str) -> str:
    """As ``check`` from a symbol without size: sure as far as the code runs straight on."""
    from iced_x86 import Decoder, FlowControl

    leaving = (
        FlowControl.UNCONDITIONAL_BRANCH,
        FlowControl.INDIRECT_BRANCH,
        FlowControl.RETURN,
        FlowControl.INTERRUPT,
        FlowControl.EXCEPTION,
    )
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
        if instruction.flow_control in leaving:
            break
    return "unknown"


def _bytes_left(elf: ElfFile, vaddr: int) -> int:
    segment = elf.segment_at(vaddr)
    return segment.vaddr + segment.file_size - vaddr if segment is not None else 0


def _starts(elf: ElfFile, start: int, end: int, vaddr: int) -> bytearray:
    """One byte for each byte of the function, 1 where an instruction begins, and one for its end.

    Decoding ends at the first bytes that are no instruction: nothing is marked after them.
    """
    known = elf.boundaries.get(start)
    if known is not None:
        return known
    remember = end - start <= _REMEMBERED
    size = min(end if remember else vaddr + _LONGEST + 1, end) - start
    from iced_x86 import Decoder

    code = elf.read_vaddr(start, min(size, _bytes_left(elf, start)))
    starts = bytearray(size + 1)
    decoder = Decoder(64, code)
    position = 0
    for instruction in decoder:
        if instruction.is_invalid:
            break
        starts[position] = 1
        position += instruction.len
    else:
        starts[position] = 1
    if remember:
        elf.boundary_bytes += len(starts)
        if elf.boundary_bytes > _MOST_BYTES:
            elf.boundaries.clear()
            elf.boundary_bytes = len(starts)
        elf.boundaries[start] = starts
    return starts


def _refusal(elf: ElfFile, before: int, vaddr: int, after: int, name: str) -> LocationError:
    from iced_x86 import Decoder, Formatter, FormatterSyntax

    code = elf.read_vaddr(before, after - before)
    text = Formatter(FormatterSyntax.INTEL).format(next(iter(Decoder(64, code, ip=before))))
    return LocationError(
        f"{elf.path}: {name} is inside an instruction ({text}), not at its beginning",
        f"that begins {_bytes(vaddr - before)} before, the next one {_bytes(after - vaddr)} after",
    )


def _bytes(count: int) -> str:
    return f"{count} byte" if count == 1 else f"{count} bytes"
