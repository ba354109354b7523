"""Whether an instruction begins at an address, by linear decoding from where code surely begins.

x86-64 compilers put no data among the instructions of a function, so decoding from the start of a
symbol with a size, or of an unwind entry (FDE), passes through every instruction up to its end.
"""

from __future__ import annotations

from typing import Final

from dprobed.location.elf import ElfFile
from dprobed.location.errors import LocationError

#: A larger function is decoded only up to the address that is asked for, and not remembered.
_REMEMBERED: Final = 1 << 16
_MOST_FUNCTIONS: Final = 256


def check(elf: ElfFile, vaddr: int, name: str) -> str:
    """``ok`` or ``unknown``; raises LocationError where surely no instruction begins."""
    from dprobed.location.unwind import fde_range

    symbol = elf.symbols.code_at(vaddr)
    if symbol is not None and symbol.value == vaddr:
        return "ok"
    sure = True
    if symbol is not None and symbol.size:
        start, end = symbol.value, symbol.value + symbol.size
    else:
        found = fde_range(elf, vaddr)
        if found is not None:
            start, end = found
        elif symbol is not None:
            # A label without size: code follows it, but nothing says how far.
            start, end, sure = symbol.value, vaddr + 1, False
        else:
            return "unknown"
    starts = _starts(elf, start, end, vaddr)
    if starts[vaddr - start]:
        return "ok"
    if not sure or not _decoded_past(starts, vaddr - start):
        return "unknown"
    raise _refusal(elf, starts, start, vaddr, name)


def _decoded_past(starts: bytearray, position: int) -> bool:
    return any(starts[position + 1 :])


def _starts(elf: ElfFile, start: int, end: int, vaddr: int) -> bytearray:
    """One byte for each byte of the function, 1 where an instruction begins, and one for its end.

    Decoding ends at the first bytes that are no instruction: nothing is marked after them.
    """
    known = elf.boundaries.get(start)
    if known is not None:
        return known
    remember = end - start <= _REMEMBERED
    if not remember:
        end = vaddr + 32
    offset = elf.vaddr_to_offset(start)
    segment = elf.segment_at(start)
    if offset is None or segment is None:
        return bytearray(end - start + 1)
    end = max(min(end, segment.vaddr + segment.file_size), vaddr + 1)
    from iced_x86 import Decoder

    code = elf.read(offset, min(end - start, segment.offset + segment.file_size - offset))
    starts = bytearray(end - start + 1)
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
        if len(elf.boundaries) >= _MOST_FUNCTIONS:
            elf.boundaries.clear()
        elf.boundaries[start] = starts
    return starts


def _refusal(elf: ElfFile, starts: bytearray, start: int, vaddr: int, name: str) -> LocationError:
    from iced_x86 import Decoder, Formatter, FormatterSyntax

    position = vaddr - start
    before = starts.rfind(1, 0, position)
    after = starts.find(1, position)
    code = elf.read_vaddr(start + before, after - before)
    text = Formatter(FormatterSyntax.INTEL).format(next(iter(Decoder(64, code, ip=start + before))))
    return LocationError(
        f"{elf.path}: {name} is inside an instruction ({text}), not at its beginning",
        f"it begins {position - before} bytes before; the next one begins {after - position} after",
    )
