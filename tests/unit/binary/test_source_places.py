"""From an address to its source: file and line, and the functions that were inlined there."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from dprobed.binary.elf import ElfFile
from dprobed.binary.opening import descriptor_of
from dprobed.binary.source_places import CodeSource, SourcePlaces

SOURCE = """\
extern "C" int rand();
extern "C" int puts(const char *);
#define INLINE static inline __attribute__((always_inline))
namespace deep { struct S {
INLINE int twice(int n) { return puts("x") + n * 2; }
}; }
INLINE int outer(int n) {
    return deep::S::twice(n) + rand(); }
extern "C" __attribute__((noinline)) int work(int n) {
    return outer(n) + 1; }
int main(int argc, char **) { return work(argc); }
"""


def built(folder: Path, *options: str) -> Path:
    (folder / "work.cc").write_text(SOURCE)
    command = ["g++", "-O2", "-g", *options, "work.cc", "-o", "work"]
    subprocess.run(command, check=True, cwd=folder)
    return folder / "work"


def section_of(file: ELFFile, name: str) -> Any:
    section = file.get_section_by_name(name)
    assert section is not None
    return section


def opened(path: Path) -> ElfFile:
    return ElfFile(descriptor_of(str(path)), str(path))


def of_call(path: Path) -> list[CodeSource]:
    """What is said of the call of ``puts`` in ``work``."""
    with path.open("rb") as stream:
        table = section_of(ELFFile(stream), ".symtab")
        (symbol,) = table.get_symbol_by_name("work")
        start, size = symbol["st_value"], symbol["st_size"]
    places = SourcePlaces(opened(path))
    found = [places.at(address) for address in range(start, start + size)]
    return next(each for each in found if len(each) > 2)


@pytest.mark.parametrize(
    "options", [("-gdwarf-4",), ("-gdwarf-5",), ("-gdwarf-5", "-gsplit-dwarf")]
)
def test_inlined_functions(tmp_path: Path, options: tuple[str, ...]) -> None:
    file = str(tmp_path / "work.cc")
    assert of_call(built(tmp_path, *options)) == [
        CodeSource("deep::S::twice(int)", file, 5),
        CodeSource("outer", file, 8),
        CodeSource("", file, 10),
    ]


@pytest.mark.parametrize("version", [4, 5])
def test_a_folder_that_the_compiler_was_told_to_leave_out(tmp_path: Path, version: int) -> None:
    """As distributions build: where the compiler ran is said relative to the package."""
    path = built(tmp_path, f"-gdwarf-{version}", f"-ffile-prefix-map={tmp_path}=string")
    assert [each.file for each in of_call(path)] == ["string/work.cc"] * 3


def test_an_entry_that_says_it_is_its_own_neighbour(tmp_path: Path) -> None:
    """Whoever shows stacks of a stranger's process reads what that one wrote."""
    path = built(tmp_path)
    whole = of_call(path)
    with path.open("rb") as stream:
        file = ELFFile(stream)
        section = section_of(file, ".debug_info")
        damage = [
            (section["sh_offset"] + entry.attributes["DW_AT_sibling"].offset,
             entry.offset - unit.cu_offset)
            for unit in file.get_dwarf_info().iter_CUs()
            for entry in unit.iter_DIEs()
            if "DW_AT_sibling" in entry.attributes
        ]  # fmt: skip
    assert damage
    data = bytearray(path.read_bytes())
    for at, value in damage:
        data[at : at + 4] = value.to_bytes(4, "little")
    path.write_bytes(data)
    assert of_call(path) == whole


def test_a_file_that_is_damaged_everywhere(tmp_path: Path) -> None:
    """It is as good as one without debug information."""
    path = built(tmp_path)
    with path.open("rb") as stream:
        section = section_of(ELFFile(stream), ".debug_abbrev")
        start, size = section["sh_offset"], section["sh_size"]
        (symbol,) = section_of(ELFFile(stream), ".symtab").get_symbol_by_name("work")
    data = bytearray(path.read_bytes())
    data[start : start + size] = b"\xff" * size
    path.write_bytes(data)
    places = SourcePlaces(opened(path))
    assert not any(places.at(symbol["st_value"] + offset) for offset in range(32))
