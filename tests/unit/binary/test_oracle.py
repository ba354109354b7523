"""The fast readers, compared with pyelftools on the machine's own programs and libraries.

Of all ELF files under /usr/bin and /usr/lib, in the order of a hash of their paths, as many as a
quarter of a minute allows: always the same ones first.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from elftools.elf.dynamic import DynamicSegment, DynamicTag
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from elftools.elf.segments import NoteSegment

from dprobed.binary.elf import ElfFile
from dprobed.binary.errors import LocationError
from dprobed.binary.symbols import SYMBOL, raw_tables

pytestmark = pytest.mark.slow

SECONDS = 15.0
#: pyelftools takes 10 µs for each symbol; of larger tables the first ones are compared.
SYMBOLS = 2000
FOLDERS = ("/usr/bin", "/usr/lib")


def elf_files() -> Iterator[Path]:
    """Executables and shared libraries for x86-64, each once."""
    found = [
        Path(folder, name) for top in FOLDERS for folder, _, names in os.walk(top) for name in names
    ]
    seen: set[tuple[int, int]] = set()
    for path in sorted(found, key=lambda each: zlib.crc32(os.fsencode(each))):
        try:
            status = path.stat()
            with path.open("rb") as file:
                head = file.read(20)
        except OSError:
            continue
        fits = head[:5] == b"\x7fELF\2" and head[16] in (2, 3) and head[18:20] == b"\x3e\0"
        if fits and (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            yield path


def named(tag: DynamicTag, what: str) -> str:
    """The text of an entry of a dynamic section."""
    return str(getattr(tag, what))


def compare(path: Path) -> None:
    """Headers, segments, sections, dynamic section, build-id and symbols of one file."""
    ours = ElfFile(os.open(path, os.O_RDONLY), str(path))
    with path.open("rb") as file:
        theirs = ELFFile(file)
        assert ours.entry == theirs["e_entry"]
        assert [tuple(each)[:4] for each in ours.segments] == [
            (s["p_offset"], s["p_vaddr"], s["p_filesz"], s["p_memsz"])
            for s in theirs.iter_segments("PT_LOAD")
        ]
        sections = [
            (s.name, s["sh_flags"], s["sh_addr"], s["sh_offset"], s["sh_size"], s["sh_link"])
            for s in theirs.iter_sections()
        ]
        assert [
            (s.name, s.flags, s.address, s.offset, s.size, s.link) for s in ours.sections
        ] == sections
        dynamic = next(theirs.iter_segments("PT_DYNAMIC"), None)
        tags = list(dynamic.iter_tags()) if isinstance(dynamic, DynamicSegment) else []
        needed = [named(t, "needed") for t in tags if t.entry.d_tag == "DT_NEEDED"]
        assert list(ours.needed) == needed
        sonames = [named(t, "soname") for t in tags if t.entry.d_tag == "DT_SONAME"]
        assert ours.soname == (sonames[-1] if sonames else None)
        build_ids = [
            note["n_desc"]
            for s in theirs.iter_segments("PT_NOTE")
            if isinstance(s, NoteSegment)
            for note in s.iter_notes()
            if note["n_type"] == "NT_GNU_BUILD_ID" and note["n_name"] == "GNU"
        ]
        assert ours.build_id == (build_ids[0] if build_ids else None)
        tables = [s for s in theirs.iter_sections() if isinstance(s, SymbolTableSection)]
        raw = {len(table.symbols) // SYMBOL.size: table for table in raw_tables(ours)}
        for table in tables:
            assert table.num_symbols() in raw
            mine = raw[table.num_symbols()]
            numbers = range(min(table.num_symbols(), SYMBOLS))
            for number, entry in zip(numbers, SYMBOL.iter_unpack(mine.symbols), strict=False):
                symbol = table.get_symbol(number)
                end = mine.strings.index(b"\0", entry[0])
                assert mine.strings[entry[0] : end].decode(errors="replace") == symbol.name
                assert entry[4:] == (symbol["st_value"], symbol["st_size"])


def test_every_file_is_read_as_pyelftools_reads_it() -> None:
    end = time.monotonic() + SECONDS
    compared = 0
    for path in elf_files():
        if time.monotonic() > end:
            break
        try:
            compare(path)
        except LocationError as error:
            raise AssertionError(f"{path} is refused: {error}") from error
        except AssertionError as error:
            raise AssertionError(f"{path} is read otherwise") from error
        compared += 1
    assert compared >= 10
