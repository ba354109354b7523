"""Unwind entries (FDE): the ranges of code in .eh_frame, by the sorted table of .eh_frame_hdr.

Format: Linux Standard Base Core, "Exception Frames"; pointer encodings as DW_EH_PE_*. pyelftools
decodes all entries to find one: 690 ms in libc, this 0.1 ms.
"""

from __future__ import annotations

import struct
from bisect import bisect_right

from dprobed.binary.elf import ElfFile

# The one form of table that linkers write: version 1, pointer to .eh_frame relative to itself,
# 4-byte count, pairs of 4-byte numbers relative to the header.
_HEADER = b"\x01\x1b\x03\x3b"


def fde_range(elf: ElfFile, vaddr: int) -> tuple[int, int] | None:
    """Start and end of the unwind entry that covers ``vaddr``; ``None`` if there is none."""
    found = _find(elf, vaddr)
    if found is None:
        return None
    start, fde = found
    length = _length(elf, fde)
    return (start, start + length) if start <= vaddr < start + length else None


def has_landing_pads(elf: ElfFile, vaddr: int) -> bool:
    """Whether the unwind entry before ``vaddr`` names a table of landing pads (LSDA): a compiler
    made that code, of a language with exceptions."""
    found = _find(elf, vaddr)
    offset = elf.vaddr_to_offset(found[1]) if found is not None else None
    if offset is None or offset + 8 > elf.size:
        return False
    entry = elf.read(offset, min(40, elf.size - offset))
    cie = offset + 4 - int.from_bytes(entry[4:8], "little")
    size = _pointer_size(elf, cie)
    if not size:
        return False
    raw = elf.read(cie, min(64, elf.size - cie))
    augmentation = raw[9 : max(9, raw.find(b"\0", 9))]
    # Behind the length of what follows, of one byte: the table's address, 0 for none.
    table = entry[9 + 2 * size : 13 + 2 * size]
    return b"L" in augmentation and any(table)


def _find(elf: ElfFile, vaddr: int) -> tuple[int, int] | None:
    """The last unwind entry that begins at or before ``vaddr``: where, and its own address."""
    if elf.unwind_header is None:
        return None
    base = elf.unwind_header[0]
    raw = elf.unwind_table
    if raw[:4] != _HEADER or len(raw) < 12:
        return None
    count = min(int.from_bytes(raw[8:12], "little"), (len(raw) - 12) // 8)
    table = memoryview(raw)[12 : 12 + count * 8].cast("i")
    index = bisect_right(table[::2], vaddr - base) - 1
    if index < 0:
        return None
    return base + table[2 * index], base + table[2 * index + 1]


def _length(elf: ElfFile, fde: int) -> int:
    """How many bytes of code an entry covers; 0 if it cannot be told."""
    offset = elf.vaddr_to_offset(fde)
    if offset is None or offset + 8 > elf.size:
        return 0
    entry = elf.read(offset, min(24, elf.size - offset))
    (back,) = struct.unpack_from("<I", entry, 4)
    size = _pointer_size(elf, offset + 4 - back)
    field = entry[8 + size : 8 + 2 * size]
    return int.from_bytes(field, "little") if size and len(field) == size else 0


def _pointer_size(elf: ElfFile, cie: int) -> int:
    """The size of code pointers in entries of this CIE, from its augmentation."""
    if cie < 0 or cie + 9 > elf.size:
        return 0
    raw = elf.read(cie, min(64, elf.size - cie))
    end = raw.find(b"\0", 9)
    augmentation = raw[9:end] if end > 0 else b""
    if not augmentation.startswith(b"z"):
        return 8 if end == 9 else 0
    position = end + 1
    for _ in range(4):  # code and data alignment, return register, length of what follows
        while position < len(raw) and raw[position] & 0x80:
            position += 1
        position += 1
    for letter in augmentation[1:]:
        if position >= len(raw):
            return 0
        if letter == ord("R"):
            return {0x0: 8, 0x2: 2, 0x3: 4, 0x4: 8}.get(raw[position] & 7, 0)
        if letter == ord("P"):
            position += 1 + {0x0: 8, 0x2: 2, 0x3: 4, 0x4: 8}.get(raw[position] & 7, 0)
        elif letter == ord("L"):
            position += 1
    return 0
