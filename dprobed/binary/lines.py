"""From ``file.c:line`` to addresses, by .debug_line of DWARF 2 to 5.

Only line tables are read (DWARF 5, section 6.2): a line table names its files itself, so neither
the compilation units nor anything else of .debug_info is needed. Units whose header does not
mention the file are passed over unread, which is what makes libc (1,700 units) quick. pyelftools
reaches line tables by way of .debug_info only: to find the lines of malloc.c in libc's debug file
it takes 4.9 s and 170 MB, this 27 ms.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Final

import msgspec

from dprobed.binary import debug_files
from dprobed.binary.elf import ElfFile, name_bytes, string_at, text_of
from dprobed.binary.errors import LocationError
from dprobed.binary.leb128 import sleb, uleb
from dprobed.binary.suggest import similar

_LNCT_PATH, _LNCT_DIRECTORY_INDEX = 1, 2
_FORM_BLOCK, _FORM_STRING, _FORM_STRP, _FORM_UDATA = 0x09, 0x08, 0x0E, 0x0F
_FORM_LINE_STRP: Final = 0x1F
_FIXED_FORMS: Final = {0x0B: 1, 0x05: 2, 0x06: 4, 0x07: 8, 0x1E: 16}

# Standard and extended opcodes with an effect on the rows that we want.
_COPY, _ADVANCE_PC, _ADVANCE_LINE, _SET_FILE, _NEGATE_STMT = 1, 2, 3, 4, 6
_CONST_ADD_PC, _FIXED_ADVANCE_PC = 8, 9
_END_SEQUENCE, _SET_ADDRESS = 1, 2

_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
#: Line tables up to this size are kept for the next look-up; larger ones are read again.
_KEPT_SIZE: Final = 8 << 20
_KEPT_FILES: Final = 16
#: Bytes of the program of one unit of which all rows are wanted; each may be a row.
_LONGEST_PROGRAM: Final = 4 << 20


class _Unit(msgspec.Struct, frozen=True):
    """The header of one line table: where its parts lie."""

    version: int
    wide: bool  # the 64-bit DWARF format
    header_start: int  # of the directories
    start: int  # of the program
    end: int
    minimum: int
    statement: bool
    line_base: int
    line_range: int
    opcode_base: int
    lengths: bytes  # operands of the standard opcodes


class Lines:
    """The line tables of one file."""

    def __init__(self, elf: ElfFile) -> None:
        section = elf.section(".debug_line")
        self._elf = elf
        self._data = elf.content(section) if section is not None else b""
        self._line_strings = self._content(".debug_line_str")
        self._strings = b""
        self._numbered: dict[int, dict[int, str]] = {}
        self.size = len(self._data) + len(self._line_strings)

    def _content(self, name: str) -> bytes:
        section = self._elf.section(name)
        return self._elf.content(section) if section is not None else b""

    def find(self, file: str) -> dict[str, dict[int, list[int]]]:
        """For each file whose path ends with ``file``: line → addresses where it begins."""
        found: dict[str, dict[int, list[int]]] = {}
        wanted = posixpath.normpath(file)
        try:
            marks = self._marks(posixpath.basename(file))
            for unit in self._units():
                header = self._data[unit.header_start : unit.start]
                if not any(mark in header for mark in marks):
                    continue
                names = {
                    number: path for number, path in self._files(unit) if _ends_with(path, wanted)
                }
                if names:
                    self._run(unit, names, found)
        except (IndexError, ZeroDivisionError) as error:
            raise self._elf.damaged("its line tables (.debug_line)") from error
        return found

    def files(self) -> set[str]:
        """The paths of all files that the line tables name."""
        try:
            return {path for unit in self._units() for _, path in self._files(unit)}
        except IndexError as error:
            raise self._elf.damaged("its line tables (.debug_line)") from error

    def file(self, table: int, number: int) -> str:
        """The path of a file by its number in the line table at an offset; empty: not known."""
        files = self._numbered.get(table)
        if files is None:
            try:
                unit = self._unit_at(table)
                self._strings = self._strings or self._content(".debug_str")
                files = dict(self._files(unit)) if unit is not None else {}
            except IndexError as error:
                raise self._elf.damaged("its line tables (.debug_line)") from error
            self._numbered[table] = files
        return files.get(number, "")

    def rows(self, table: int) -> list[tuple[int, int, int]]:
        """Address, file's number and line of each row of the line table at an offset, by address;
        line 0: from there on nothing is known. There are none where the table is too long."""
        found: list[tuple[int, int, int]] = []
        try:
            unit = self._unit_at(table)
            if unit is not None and unit.end - unit.start <= _LONGEST_PROGRAM:
                found = [(address, file, line) for address, file, line, _ in self._rows(unit)]
        except (IndexError, ZeroDivisionError) as error:
            raise self._elf.damaged("its line tables (.debug_line)") from error
        # The end of a sequence stands before what begins at the same address.
        found.sort(key=lambda row: (row[0], bool(row[2])))
        return found

    def _marks(self, base: str) -> list[bytes]:
        """Byte strings of which a header has at least one if it names a file ``base``."""
        raw = name_bytes(base) + b"\0"
        marks = {raw}
        strings = self._line_strings
        position = strings.find(raw)
        while position >= 0:
            first = position
            if position and strings[position - 1] == 0x2F:
                first = strings.rfind(b"\0", 0, position) + 1
            # Strings may share their ends, so that any byte of a path may be where one begins.
            marks.update(start.to_bytes(4, "little") for start in range(first, position + 1))
            position = strings.find(raw, position + 1)
        if self._uses_debug_str():
            self._strings = self._content(".debug_str")
            return [b""]  # large, and rarely used for file names: look into every header
        return list(marks)

    def _uses_debug_str(self) -> bool:
        first = next(self._units(), None)
        if first is None or first.version < 5:
            return False
        formats, _ = self._formats(first.header_start)
        return any(form == _FORM_STRP for _, form in formats)

    def _unit_at(self, position: int) -> _Unit | None:
        return next(self._units(position), None)

    def _units(self, position: int = 0) -> Iterator[_Unit]:
        data = self._data
        while position + 4 < len(data):
            length = int.from_bytes(data[position : position + 4], "little")
            position += 4
            wide = length == 0xFFFF_FFFF
            if wide:
                length = int.from_bytes(data[position : position + 8], "little")
                position += 8
            end = position + length
            if end > len(data):
                raise self._elf.damaged("its line tables (.debug_line) are cut off")
            version = int.from_bytes(data[position : position + 2], "little")
            if 2 <= version <= 5:
                yield self._unit(position + 2, end, version, wide)
            position = end

    def _unit(self, position: int, end: int, version: int, wide: bool) -> _Unit:
        data = self._data
        if version >= 5:
            position += 2  # sizes of addresses and of segment selectors
        width = 8 if wide else 4
        start = position + width + int.from_bytes(data[position : position + width], "little")
        position += width
        minimum = data[position]
        position += 2 if version >= 4 else 1  # operations in an instruction: 1 on this machine
        base = data[position + 1]
        opcode_base = data[position + 3]
        lengths = data[position + 3 : position + 3 + max(opcode_base, 1)]
        if start > end:
            raise self._elf.damaged("a line table's header is longer than the table")
        return _Unit(
            version,
            wide,
            position + 3 + max(opcode_base, 1),
            start,
            end,
            minimum,
            bool(data[position]),
            base - 256 if base > 127 else base,
            data[position + 2],
            opcode_base,
            lengths,
        )

    def _files(self, unit: _Unit) -> Iterator[tuple[int, str]]:
        """Number and path of each file of a unit, as far as the header says the path."""
        data = self._data
        position = unit.header_start
        if unit.version >= 5:
            directories, position = self._entries(unit, position)
            files, _ = self._entries(unit, position)
            folders = [text_of(path) for path, _ in directories]
            for number, (path, index) in enumerate(files):
                yield number, _joined(folders, index, text_of(path))
            return
        folders = [""]
        while data[position]:
            raw = string_at(data, position)
            folders.append(text_of(raw))
            position += len(raw) + 1
        position += 1
        number = 1
        while data[position]:
            raw = string_at(data, position)
            index, position = uleb(data, position + len(raw) + 1)
            _, position = uleb(data, position)
            _, position = uleb(data, position)
            yield number, _joined(folders, index, text_of(raw))
            number += 1

    def _formats(self, position: int) -> tuple[list[tuple[int, int]], int]:
        count = self._data[position]
        position += 1
        formats = []
        for _ in range(count):
            content, position = uleb(self._data, position)
            form, position = uleb(self._data, position)
            formats.append((content, form))
        return formats, position

    def _entries(self, unit: _Unit, position: int) -> tuple[list[tuple[bytes, int]], int]:
        """The directories or files of a version 5 header: (path, directory index)."""
        formats, position = self._formats(position)
        count, position = uleb(self._data, position)
        entries = []
        if not formats:
            return [], position
        for _ in range(count):
            path, index = b"", 0
            for content, form in formats:
                value, position = self._value(unit, form, position)
                if content == _LNCT_PATH and isinstance(value, bytes):
                    path = value
                elif content == _LNCT_DIRECTORY_INDEX and isinstance(value, int):
                    index = value
            if position > unit.start:
                raise IndexError
            entries.append((path, index))
        return entries, position

    def _value(self, unit: _Unit, form: int, position: int) -> tuple[bytes | int, int]:
        data = self._data
        if form == _FORM_UDATA:
            return uleb(data, position)
        if form == _FORM_STRING:
            raw = string_at(data, position)
            return raw, position + len(raw) + 1
        if form in (_FORM_LINE_STRP, _FORM_STRP):
            width = 8 if unit.wide else 4
            offset = int.from_bytes(data[position : position + width], "little")
            strings = self._line_strings if form == _FORM_LINE_STRP else self._strings
            return string_at(strings, offset), position + width
        if form == _FORM_BLOCK:
            size, position = uleb(data, position)
            return b"", position + size
        if form in _FIXED_FORMS:
            end = position + _FIXED_FORMS[form]
            return int.from_bytes(data[position:end], "little"), end
        raise LocationError(
            f"{self._elf.path}: its line tables use a form that is not supported ({form:#x})"
        )

    def _run(
        self, unit: _Unit, names: dict[int, str], found: dict[str, dict[int, list[int]]]
    ) -> None:
        """Run a unit's line program; ``found`` gets the first address of each run of a line."""
        tables = {number: found.setdefault(path, {}) for number, path in names.items()}
        last = (-1, -1)
        for address, file, line, statement in self._rows(unit):
            if not statement:
                continue
            if (file, line) != last and file in tables:
                tables[file].setdefault(line, []).append(address)
            last = (file, line)

    def _rows(self, unit: _Unit) -> Iterator[tuple[int, int, int, bool]]:
        """Address, file, line, is_stmt of each row; file -1 at the end of a sequence."""
        data, position, end = self._data, unit.start, unit.end
        base, span, lowest = unit.opcode_base, unit.line_range, unit.line_base
        minimum = unit.minimum
        address, file, line, statement = 0, 1, 1, unit.statement
        while position < end:
            opcode = data[position]
            position += 1
            if opcode >= base:
                advance, step = divmod(opcode - base, span)
                address = address + advance * minimum & _MASK
                line += lowest + step
                yield address, file, line, statement
            elif opcode == _COPY:
                yield address, file, line, statement
            elif opcode == _ADVANCE_PC:
                advance, position = uleb(data, position)
                address = address + advance * minimum & _MASK
            elif opcode == _ADVANCE_LINE:
                step, position = sleb(data, position)
                line += step
            elif opcode == _SET_FILE:
                file, position = uleb(data, position)
            elif opcode == _NEGATE_STMT:
                statement = not statement
            elif opcode == _CONST_ADD_PC:
                address = address + (255 - base) // span * minimum & _MASK
            elif opcode == _FIXED_ADVANCE_PC:
                address = address + int.from_bytes(data[position : position + 2], "little")
                position += 2
            elif opcode:
                for _ in range(unit.lengths[opcode]):
                    _, position = uleb(data, position)
            else:
                length, position = uleb(data, position)
                if not length:
                    raise IndexError
                kind = data[position]
                if kind == _SET_ADDRESS:
                    address = int.from_bytes(data[position + 1 : position + length], "little")
                    address &= _MASK
                elif kind == _END_SEQUENCE:
                    yield address, -1, 0, True
                    address, file, line, statement = 0, 1, 1, unit.statement
                position += length


def _joined(folders: list[str], index: int, name: str) -> str:
    # Directories are relative to the first, which is the one where the compiler ran, and may itself
    # be relative.
    folder = folders[index] if 0 < index < len(folders) else ""
    return posixpath.normpath(posixpath.join(folders[0] if folders else "", folder, name))


def _ends_with(path: str, wanted: str) -> bool:
    if path == wanted or path.endswith("/" + wanted.lstrip("/")):
        return True
    # A line table that does not say where the compiler ran has only the end of an absolute path.
    return not path.startswith("/") and wanted.startswith("/") and wanted.endswith("/" + path)


class LineCache:
    """The lines of one file; the latest line tables and results are remembered."""

    def __init__(self) -> None:
        #: The line tables, and what to add to their addresses.
        self._tables: tuple[Lines, int] | None = None
        #: For a source file: path → line → addresses.
        self._found: dict[str, dict[str, dict[int, list[int]]]] = {}

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        lines = sum(len(table) for files in self._found.values() for table in files.values())
        return (self._tables[0].size if self._tables is not None else 0) + 200 * lines

    def addresses(self, elf: ElfFile, file: str, line: int) -> list[int]:
        """Where the code of a line begins, each place of it; raises LocationError.

        ``file`` is a path or the end of one.
        """
        tables = self._found.get(file)
        if tables is None:
            tables = self._find(elf, file)
        having = {path: table for path, table in tables.items() if line in table}
        if not having:
            raise _no_code(elf, tables, file, line)
        longest = max(having, key=len)
        if not all(_ends_with(longest, path) for path in having):
            raise LocationError(
                f"{elf.path}: {file}:{line} is ambiguous: {len(having)} files end so",
                "give more of the path",
                tuple(f"{path}:{line}" for path in sorted(having)),
            )
        return sorted({address for table in having.values() for address in table[line]})

    def _find(self, elf: ElfFile, file: str) -> dict[str, dict[int, list[int]]]:
        lines, shift = self._lines_of(elf)
        tables = {
            path: {
                number: [address + shift & _MASK for address in addresses]
                for number, addresses in table.items()
            }
            for path, table in lines.find(file).items()
        }
        if not tables:
            raise _unknown_file(elf, lines, file)
        if len(self._found) >= _KEPT_FILES:
            self._found.clear()
        self._found[file] = tables
        return tables

    def _lines_of(self, elf: ElfFile) -> tuple[Lines, int]:
        """The line tables of a file, or of its separate debug file; what to add to addresses."""
        if self._tables is not None:
            return self._tables
        source = debug_files.with_section(elf, ".debug_line")
        if source is None:
            raise LocationError(
                f"{elf.path}: it has no line numbers",
                "compile with -g, or install its debug symbols; or use a symbol",
            )
        lines = Lines(source), 0 if source is elf else debug_files.shift(elf, source)
        if lines[0].size <= _KEPT_SIZE:
            self._tables = lines
        return lines


def _no_code(
    elf: ElfFile, tables: dict[str, dict[int, list[int]]], file: str, line: int
) -> LocationError:
    numbers = sorted({number for table in tables.values() for number in table})
    before = [number for number in numbers if number < line][-1:]
    after = [number for number in numbers if number > line][:1]
    return LocationError(
        f"{elf.path}: no code begins at {file}:{line}",
        "the nearest lines that have code are these" if numbers else "it has no code here",
        tuple(f"{file}:{number}" for number in before + after),
    )


def _unknown_file(elf: ElfFile, lines: Lines, file: str) -> LocationError:
    names = sorted({posixpath.basename(path) for path in lines.files()})
    close = tuple(similar(posixpath.basename(file), names))
    return LocationError(
        f"{elf.path}: no source file {file}",
        "did you mean one of these?" if close else "",
        close,
    )
