"""Separate debug files: by build-id, and by the name and checksum in .gnu_debuglink; and that which
a file has in itself, in .gnu_debugdata.

As in GDB's manual, "Debugging Information in Separate Files" and "MiniDebugInfo". Read with
``ElfFile``: the debug file of a library without .symtab is looked for while the thread that maps it
waits, also when the symbols are cached. pyelftools takes 4.7 ms for build-id and debug link of libc
and 2.4 for the build-id of its debug file, this 0.15 and 0.14 ms; to import it takes 50 ms besides.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Final

from dprobed.binary.elf import ElfFile
from dprobed.binary.errors import LocationError
from dprobed.binary.headers import SHT_NOBITS
from dprobed.binary.opening import descriptor_of
from dprobed.binary.symbols import has_symbol_table

_DEBUG_FOLDER: Final = "/usr/lib/debug"
#: Bytes that .gnu_debugdata may decompress to, and that the decompressor may take.
_MOST_MINI: Final = 64 << 20
_MOST_MEMORY: Final = 128 << 20


def find(elf: ElfFile) -> ElfFile | None:
    """The separate debug file of ``elf``; None: none with its build-id or checksum is there."""
    if elf.debug_file:
        return None
    if elf.build_id is not None and len(elf.build_id) > 2:
        path = f"{_DEBUG_FOLDER}/.build-id/{elf.build_id[:2]}/{elf.build_id[2:]}.debug"
        # What is installed in the process's own file system first, then here: a build-id is
        # the same everywhere.
        for root in dict.fromkeys((elf.root, "")):
            found = _open(path, root)
            if found is not None and found.build_id == elf.build_id:
                return found
    return _by_link(elf)


def with_section(elf: ElfFile, name: str) -> ElfFile | None:
    """The file itself or its separate debug file, whichever has this section; None: neither."""
    if elf.section(name) is not None:
        return elf
    found = find(elf)
    return found if found is not None and found.section(name) is not None else None


def of_symbols(elf: ElfFile) -> ElfFile | None:
    """Where the symbols of a stripped file are: its separate debug file, or what is in itself."""
    found = find(elf)
    if found is not None and has_symbol_table(found):
        return found
    return _mini(elf) or found


def _mini(elf: ElfFile) -> ElfFile | None:
    """What is in .gnu_debugdata: an ELF file with .symtab alone, compressed with xz."""
    section = elf.section(".gnu_debugdata")
    if section is None or elf.debug_file or section.type == SHT_NOBITS:
        return None
    # Few files have it, and few who import this read one.
    import lzma

    try:
        unpack = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_MEMORY)
        data = unpack.decompress(elf.content(section), _MOST_MINI)
    except (lzma.LZMAError, LocationError):
        return None  # damaged, or too large: as good as none
    if not unpack.eof:
        return None
    descriptor = os.memfd_create("dprobed-debugdata", os.MFD_CLOEXEC)
    try:
        os.truncate(descriptor, len(data))
        view = memoryview(data)
        while view:
            view = view[os.pwrite(descriptor, view, len(data) - len(view)) :]
        return ElfFile(os.dup(descriptor), elf.path, elf.root, debug_file=True)
    except (OSError, LocationError):
        return None
    finally:
        os.close(descriptor)


def _open(path: str, root: str) -> ElfFile | None:
    try:
        return ElfFile(descriptor_of(root + path), path, root, debug_file=True)
    except LocationError:
        return None  # a debug file that cannot be used is as good as none


def _by_link(elf: ElfFile) -> ElfFile | None:
    section = elf.section(".gnu_debuglink")
    if section is None:
        return None
    raw = elf.content(section)
    end = raw.find(b"\0")
    if end <= 0 or len(raw) < (end + 4 & ~3) + 4:
        return None
    name = os.fsdecode(raw[:end])
    if "/" in name:
        return None
    checksum = int.from_bytes(raw[(end + 4 & ~3) : (end + 4 & ~3) + 4], "little")
    folder = Path(elf.path if elf.root else os.path.realpath(elf.path)).parent
    for path in (
        f"{folder}/{name}",
        f"{folder}/.debug/{name}",
        f"{_DEBUG_FOLDER}{folder}/{name}",
    ):
        found = _open(path, elf.root)
        if found is None or found.identity[:2] == elf.identity[:2]:
            continue
        if elf.build_id is not None and found.build_id is not None:
            if found.build_id == elf.build_id:
                return found
        elif _checksum(found) == checksum:
            return found
    return None


def _checksum(file: ElfFile) -> int:
    value = 0
    for offset in range(0, file.size, 1 << 20):
        value = zlib.crc32(file.read(offset, min(1 << 20, file.size - offset)), value)
    return value


def shift(elf: ElfFile, debug: ElfFile) -> int:
    """What to add to addresses in the debug file: not 0 if ``elf`` was prelinked later."""
    return elf.segments[0].vaddr - debug.segments[0].vaddr
