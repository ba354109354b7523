"""From an address to its source: file and line, and the functions that were inlined there.

One compilation unit at a time: the one that has the code at the address, its line table, and in it
the one function that holds the address. For whom shows stacks; nothing waits for it.

Not pyelftools, which a damaged file keeps busy for ever (``dwarf.units``): for 250 places all over
libc's debug file it takes 5.1 s and 171 MB, this 0.9 s and 24 MB.
"""

from __future__ import annotations

import posixpath
from bisect import bisect_right
from typing import Final, NamedTuple

from dprobed.binary import debug_files
from dprobed.binary.demangle import demangled
from dprobed.binary.dwarf import constants as dw
from dprobed.binary.dwarf.code import UnitCode, function_at, scopes_at
from dprobed.binary.dwarf.debug import DebugFile
from dprobed.binary.dwarf.units import DebugEntry, DebugUnit
from dprobed.binary.elf import ElfFile, content_size, text_of
from dprobed.binary.errors import LocationError
from dprobed.binary.lines import Lines

#: Bytes of debug information of a file beyond which nothing of it is read: it is read as a whole.
_MOST: Final = 256 << 20
#: Addresses of one file that could not be looked up, before nothing of it is read any more.
_MOST_FAILED: Final = 16
#: About how many bytes a row of a line table takes.
_ROW: Final = 150
#: Line tables that are remembered.
_MOST_TABLES: Final = 64
_SECTIONS: Final = (".debug_info", ".debug_line", ".debug_line_str", ".debug_str", ".debug_abbrev")


class CodeSource(NamedTuple):
    """Where code is from. ``function`` is empty for the function that is there by its symbol;
    ``line`` 0: not known."""

    function: str
    file: str
    line: int


class SourcePlaces:
    """The places of one file's code; from its separate debug file if it has none itself."""

    def __init__(self, elf: ElfFile) -> None:
        self._shift = 0
        self._failed = 0
        self._read: _DebugPlaces | None = None
        source = debug_files.with_section(elf, ".debug_info")
        if source is None:
            return
        self._shift = 0 if source is elf else debug_files.shift(elf, source)
        try:
            self._read = _DebugPlaces(source) if _size(source) <= _MOST else None
        except LocationError:
            return

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return self._read.size if self._read is not None else 0

    def at(self, vaddr: int) -> list[CodeSource]:
        """What is at an address, the innermost inlined function first; empty: not known."""
        if self._read is None:
            return []
        self._read.debug.shrink()
        try:
            return self._read.at(vaddr - self._shift)
        except LocationError:
            # What is damaged, or too large, is as good as not there.
            self._failed += 1
            if self._failed >= _MOST_FAILED:
                self._read = None
            return []


class _DebugPlaces:
    """The places of a file that has debug information, by its own addresses."""

    def __init__(self, source: ElfFile) -> None:
        self.debug: Final = DebugFile(source)
        self._code: Final = UnitCode(self.debug)
        self._lines: Final = Lines(source)
        #: Addresses, and the file's number and the line from each on, by line table.
        self._tables: Final[dict[int, tuple[list[int], list[tuple[int, int]]]]] = {}

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        rows = sum(len(starts) for starts, _ in self._tables.values())
        return self.debug.size + self._lines.size + _ROW * rows

    def at(self, address: int) -> list[CodeSource]:
        """See SourcePlaces; raises LocationError."""
        unit = self._code.unit_at(address)
        if unit is None:
            return []
        file, line = self._line(unit, address)
        places = []
        for copy in reversed(_inlined(self.debug, unit, address)):
            places.append(CodeSource(_name(copy), file, line))
            file = self._file(unit, _number(copy, dw.CALL_FILE))
            line = _number(copy, dw.CALL_LINE)
        return [*places, CodeSource("", file, line)]

    def _line(self, unit: DebugUnit, address: int) -> tuple[str, int]:
        """File and line of an address."""
        table = _number(unit.top, dw.STMT_LIST)
        known = self._tables.get(table)
        if known is None:
            rows = self._lines.rows(table)
            known = [address for address, _, _ in rows], [(file, line) for _, file, line in rows]
            if len(self._tables) >= _MOST_TABLES:
                self._tables.clear()
            self._tables[table] = known
        starts, there = known
        index = bisect_right(starts, address) - 1
        if index < 0 or not there[index][1]:
            return "", 0
        file, line = there[index]
        return self._file(unit, file), line

    def _file(self, unit: DebugUnit, number: int) -> str:
        """The path of a file of a unit by its number; empty: not known."""
        top = unit.top
        name = self._lines.file(_number(top, dw.STMT_LIST), number)
        if not name or unit.version >= 5:
            return name
        # The line tables of earlier versions do not say where the compiler ran.
        return posixpath.normpath(posixpath.join(text_of(top.own_text(dw.COMP_DIR)), name))


def _size(source: ElfFile) -> int:
    found = map(source.section, _SECTIONS)
    return sum(content_size(source, each) for each in found if each is not None)


def _inlined(debug: DebugFile, unit: DebugUnit, address: int) -> list[DebugEntry]:
    """The inlined functions at an address, the outermost first."""
    try:
        function = function_at(debug.whole(unit), address)
    except LocationError:
        return []  # in a split file that is not there any more, or damaged
    scopes = scopes_at(function, address) if function is not None else []
    return [each for each in scopes if each.tag == dw.INLINED_SUBROUTINE]


def _number(entry: DebugEntry, name: int) -> int:
    value = entry.attributes.get(name)
    return value[1] if value is not None and isinstance(value[1], int) else 0


def _name(copy: DebugEntry) -> str:
    """The name of an inlined function."""
    linkage = copy.text(dw.LINKAGE_NAME, dw.MIPS_LINKAGE_NAME)
    return demangled(linkage) if linkage else copy.text(dw.NAME)
