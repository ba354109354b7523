"""From an address to its source: file and line, and the functions that were inlined there.

By pyelftools, one compilation unit at a time: that which .debug_aranges names for the address, and
in it the one function that holds the address. In libc's debug file (1,700 units) the first address
of a unit takes some 60 ms, each further one 0.2 ms. For whom shows stacks; nothing waits for it.
"""

from __future__ import annotations

import os
import posixpath
from bisect import bisect_right
from typing import Any, Final, NamedTuple

from elftools.dwarf.descriptions import describe_form_class
from elftools.dwarf.die import DIE
from elftools.dwarf.ranges import BaseAddressEntry
from elftools.elf.elffile import ELFFile

from dprobed.binary import debug_files
from dprobed.binary.demangle import demangled
from dprobed.binary.elf import ElfFile, text_of

#: Bytes of .debug_info through which a unit is searched where there is no .debug_aranges.
_MOST_SEARCHED: Final = 32 << 20
#: Units that are remembered, and the depth to which inlined functions are followed.
_MOST_UNITS: Final = 64
_DEEPEST: Final = 64


class CodeSource(NamedTuple):
    """Where code is from. ``function`` is empty for the function that is there by its symbol;
    ``line`` 0: not known."""

    function: str
    file: str
    line: int


class _Unit:
    """One compilation unit, as far as it was asked for."""

    def __init__(self, dwarf: Any, unit: Any) -> None:
        self.top: DIE = unit.get_top_DIE()
        self._dwarf = dwarf
        self._unit = unit
        self._functions: list[tuple[int, int, DIE]] | None = None
        self._lines: list[tuple[int, int, int]] | None = None
        self._files: list[str] = []

    def functions(self) -> list[tuple[int, int, DIE]]:
        """Start, end and entry of each function that has code."""
        if self._functions is None:
            found: list[tuple[int, int, DIE]] = []
            self._collect(self.top, found, 0)
            self._functions = found
        return self._functions

    def _collect(self, entry: DIE, found: list[tuple[int, int, DIE]], depth: int) -> None:
        for child in entry.iter_children():
            if child.tag == "DW_TAG_subprogram":
                found += [(start, end, child) for start, end in self.ranges(child)]
            elif depth < _DEEPEST and child.tag in ("DW_TAG_namespace", "DW_TAG_class_type",
                                                    "DW_TAG_structure_type"):  # fmt: skip
                self._collect(child, found, depth + 1)

    def ranges(self, entry: DIE) -> list[tuple[int, int]]:
        """The ranges of code of an entry."""
        low, high = entry.attributes.get("DW_AT_low_pc"), entry.attributes.get("DW_AT_high_pc")
        if low is not None and high is not None:
            address = describe_form_class(high.form) == "address"
            return [(low.value, high.value if address else low.value + high.value)]
        listed = entry.attributes.get("DW_AT_ranges")
        if listed is None:
            return []
        lists = self._dwarf.range_lists()
        if lists is None:
            return []
        start = self.top.attributes.get("DW_AT_low_pc")
        base = start.value if start is not None else 0
        if self._unit["version"] >= 5:
            entries = lists.get_range_list_at_offset(listed.value, self._unit)
        else:
            entries = lists.get_range_list_at_offset(listed.value)
        found = []
        for each in entries:
            if isinstance(each, BaseAddressEntry):
                base = each.base_address
            elif each.is_absolute:
                found.append((each.begin_offset, each.end_offset))
            else:
                found.append((base + each.begin_offset, base + each.end_offset))
        return found

    def line(self, address: int) -> tuple[str, int]:
        """File and line of an address."""
        if self._lines is None:
            self._read_lines()
        assert self._lines is not None
        index = bisect_right(self._lines, address, key=lambda row: row[0]) - 1
        if index < 0 or not self._lines[index][2]:
            return "", 0
        _, file, line = self._lines[index]
        return self.file(file), line

    def _read_lines(self) -> None:
        program = self._dwarf.line_program_for_CU(self._unit)
        rows: list[tuple[int, int, int]] = []
        if program is not None:
            self._files = _file_names(program, self.top)
            for entry in program.get_entries():
                state = entry.state
                if state is not None:
                    line = 0 if state.end_sequence else state.line
                    rows.append((state.address, state.file, line))
        # The end of a sequence stands before what begins at the same address.
        rows.sort(key=lambda row: (row[0], bool(row[2])))
        self._lines = rows

    def file(self, number: int) -> str:
        """A file of the unit by its number."""
        if self._lines is None:
            self._read_lines()
        return self._files[number] if 0 <= number < len(self._files) else ""


class SourcePlaces:
    """The places of one file's code; from its separate debug file if it has none itself."""

    def __init__(self, elf: ElfFile) -> None:
        self._dwarf: Any = None
        self._shift = 0
        self._stream: Any = None
        self._starts: list[int] = []
        self._ranges: list[tuple[int, int, int]] = []
        self._units: dict[int, _Unit] = {}
        source: ElfFile | None = elf
        if elf.section(".debug_info") is None:
            source = debug_files.find(elf)
        if source is None or source.section(".debug_info") is None:
            return
        self._shift = 0 if source is elf else debug_files.shift(elf, source)
        try:
            self._stream = os.fdopen(source.descriptor(), "rb")
            self._dwarf = ELFFile(self._stream).get_dwarf_info(follow_links=False)
            self._index(source)
        except Exception:  # pyelftools says what is damaged in many ways
            self._dwarf = None

    def __del__(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def _index(self, source: ElfFile) -> None:
        found: list[tuple[int, int, int]] = []
        table = self._dwarf.get_aranges()
        if table is not None:
            found = [
                (each.begin_addr, each.begin_addr + each.length, each.info_offset)
                for each in table.entries
            ]
        section = source.section(".debug_info")
        if not found and section is not None and section.size <= _MOST_SEARCHED:
            for unit in self._dwarf.iter_CUs():
                known = _Unit(self._dwarf, unit)
                self._units[unit.cu_offset] = known
                ranges = known.ranges(known.top)
                found += [(start, end, unit.cu_offset) for start, end in ranges]
        self._ranges = sorted(found)
        self._starts = [start for start, _, _ in self._ranges]

    def at(self, vaddr: int) -> list[CodeSource]:
        """What is at an address, the innermost inlined function first; empty: not known."""
        if self._dwarf is None:
            return []
        try:
            return self._at(vaddr - self._shift)
        except Exception:  # as above: what is damaged is as good as not there
            return []

    def _at(self, address: int) -> list[CodeSource]:
        index = bisect_right(self._starts, address) - 1
        if index < 0 or address >= self._ranges[index][1]:
            return []
        unit = self._unit(self._ranges[index][2])
        file, line = unit.line(address)
        places = []
        for entry in reversed(self._inlined(unit, address)):
            places.append(CodeSource(_name(entry), file, line))
            file = unit.file(_number(entry, "DW_AT_call_file"))
            line = _number(entry, "DW_AT_call_line")
        places.append(CodeSource("", file, line))
        return places

    def _unit(self, offset: int) -> _Unit:
        unit = self._units.get(offset)
        if unit is None:
            if len(self._units) >= _MOST_UNITS:
                self._units.clear()
            unit = self._units[offset] = _Unit(self._dwarf, self._dwarf.get_CU_at(offset))
        return unit

    @staticmethod
    def _inlined(unit: _Unit, address: int) -> list[DIE]:
        """The inlined functions at an address, the outermost first."""
        entry = next(
            (each for start, end, each in unit.functions() if start <= address < end), None
        )
        found: list[DIE] = []
        for _ in range(_DEEPEST):
            inner = None
            for child in entry.iter_children() if entry is not None else ():
                if child.tag in ("DW_TAG_inlined_subroutine", "DW_TAG_lexical_block") and any(
                    start <= address < end for start, end in unit.ranges(child)
                ):
                    inner = child
                    break
            if inner is None:
                return found
            entry = inner
            if entry.tag == "DW_TAG_inlined_subroutine":
                found.append(entry)
        return found


def _number(entry: DIE, name: str) -> int:
    attribute = entry.attributes.get(name)
    return int(attribute.value) if attribute is not None else 0


def _name(entry: DIE) -> str:
    """The name of a function, which may be said elsewhere."""
    for _ in range(8):
        for key in ("DW_AT_linkage_name", "DW_AT_MIPS_linkage_name", "DW_AT_name"):
            attribute = entry.attributes.get(key)
            if attribute is not None:
                return demangled(text_of(attribute.value))
        for key in ("DW_AT_abstract_origin", "DW_AT_specification"):
            if key in entry.attributes:
                entry = entry.get_DIE_from_attribute(key)
                break
        else:
            return ""
    return ""


def _file_names(program: Any, top: DIE) -> list[str]:
    """The paths of a unit's files by their numbers."""
    header = program.header
    attribute = top.attributes.get("DW_AT_comp_dir")
    home = text_of(attribute.value) if attribute is not None else ""
    folders = [text_of(each) for each in header["include_directory"]]
    if header["version"] < 5:
        folders.insert(0, home)
    names = [] if header["version"] >= 5 else [""]
    for each in header["file_entry"]:
        folder = folders[each.dir_index] if each.dir_index < len(folders) else ""
        path = posixpath.join(home, folder, text_of(each.name))
        names.append(posixpath.normpath(path))
    return names
