"""The debug information of one file: its sections, its units by offset, and what it refers to in
other files (split units, and what ``dwz`` moved into a common file)."""

from __future__ import annotations

import posixpath
from bisect import bisect_right
from typing import Final

from dprobed.binary.dwarf import constants as dw
from dprobed.binary.dwarf.abbreviations import Abbreviation, UnknownForm, abbreviations
from dprobed.binary.dwarf.units import DebugEntry, DebugUnit, UnitHeader, Value, is_string_index
from dprobed.binary.elf import ElfFile, string_at, text_of
from dprobed.binary.errors import LocationError
from dprobed.binary.headers import SHT_NOBITS
from dprobed.binary.opening import descriptor_of

#: Bytes that the entries of units may take before those of all but the latest are forgotten.
_MOST_KEPT: Final = 256 << 20
#: Entries that may be gone through to answer one question: a few seconds' worth.
_MOST_ENTRIES: Final = 6_000_000
_MOST_UNITS: Final = 1 << 20
_MOST_SPLIT: Final = 4096
#: Sections of one name in a split file.
_MOST_PARTS: Final = 1 << 16
_SUPPLEMENTS: Final = "/usr/lib/debug/.dwz"


class DebugFile:
    """The debug information of one file."""

    def __init__(self, elf: ElfFile, *, split: bool = False) -> None:
        self._elf = elf
        self._suffix = ".dwo" if split else ""
        self._contents: dict[str, bytes] = {}
        self._kinds: dict[tuple[int, int, tuple[tuple[int, int, int], ...], int], Abbreviation] = {}
        self._abbreviations: dict[tuple[int, int], dict[int, Abbreviation]] = {}
        self._headers: dict[bool, list[UnitHeader]] = {}
        self._starts: dict[bool, list[int]] = {}
        self._units: dict[tuple[bool, int], DebugUnit] = {}
        self._signatures: dict[int, tuple[bool, UnitHeader]] | None = None
        self._supplement: list[DebugFile | None] = []
        self._split: dict[str, DebugFile | None] = {}
        #: The linked file's unit of each unit here, where this is a split file.
        self._skeletons: dict[int, DebugUnit] = {}
        self.left = _MOST_ENTRIES

    @property
    def elf(self) -> ElfFile:
        """The file."""
        return self._elf

    def content(self, name: str) -> bytes:
        """The content of .debug_NAME, decompressed; empty where there is none."""
        known = self._contents.get(name)
        if known is None:
            wanted = f".debug_{name}{self._suffix}"
            found = [
                section
                for section in self.elf.sections
                if section.name == wanted and section.type != SHT_NOBITS
            ]
            # No linker has joined the sections of a split file: each type has its own.
            parts = [
                self.elf.content(section) for section in found[: _MOST_PARTS if self._suffix else 1]
            ]
            known = self._contents[name] = b"".join(parts) if len(parts) != 1 else parts[0]
        return known

    def damaged(self, what: str) -> LocationError:
        """The error that says that the debug information is not sound."""
        return LocationError(f"{self.elf.path}: damaged debug information: {what}",
                             "compile it, or install its debug symbols, again")  # fmt: skip

    def spend(self, entries: int) -> None:
        """Count entries that are gone through; raises LocationError where it becomes too many."""
        self.left -= entries
        if self.left < 0:
            raise LocationError(
                f"{self.elf.path}: its debug information is too large to look through for this",
                "name a function, or a source file and line",
            )

    def abbreviations(self, header: UnitHeader) -> dict[int, Abbreviation]:
        """The abbreviations of a unit; raises LocationError."""
        key = header.abbreviations, header.width
        known = self._abbreviations.get(key)
        if known is None:
            try:
                known = abbreviations(self.content("abbrev"), header.abbreviations, header.width,
                                      self._kinds)  # fmt: skip
            except IndexError as error:
                raise self.damaged("its abbreviations") from error
            except UnknownForm as error:
                raise LocationError(
                    f"{self.elf.path}: its debug information uses {error}, which is not known here"
                ) from error
            self._abbreviations[key] = known
        return known

    # -- units ---------------------------------------------------------------------------------

    def headers(self, *, types: bool = False) -> list[UnitHeader]:
        """The headers of all units, in their order; raises LocationError."""
        known = self._headers.get(types)
        if known is None:
            data = self.content("types" if types else "info")
            known = []
            at = 0
            try:
                while at + 4 <= len(data):
                    header = UnitHeader(data, at, types=types)
                    if 2 <= header.version <= 5:
                        known.append(header)
                    at = header.end
                    if len(known) > _MOST_UNITS:
                        raise IndexError
            except IndexError as error:
                raise self.damaged(f"the unit at {at:#x} reaches past its section") from error
            self._headers[types] = known
            self._starts[types] = [header.start for header in known]
        return known

    def unit(self, header: UnitHeader, *, types: bool = False) -> DebugUnit:
        """The unit of a header."""
        key = types, header.start
        unit = self._units.pop(key, None)
        if unit is None:
            unit = DebugUnit(self, header, types=types)
            unit.skeleton = self._skeletons.get(header.start)
        self._units[key] = unit
        return unit

    def shrink(self) -> None:
        """Forget the entries of the oldest units beyond what may be kept; begin a new question."""
        self.left = _MOST_ENTRIES
        size = sum(unit.size for unit in self._units.values())
        for key in list(self._units):
            if size <= _MOST_KEPT:
                break
            size -= self._units.pop(key).size
        for other in (*self._supplement, *self._split.values()):
            if other is not None:
                other.shrink()

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        own = sum(map(len, self._contents.values()))
        own += sum(unit.size for unit in self._units.values())
        others = [each for each in (*self._supplement, *self._split.values()) if each is not None]
        return own + sum(each.size for each in others)

    def unit_of(self, offset: int, *, types: bool = False) -> DebugUnit:
        """The unit that an offset of the section is in; raises LocationError."""
        headers = self.headers(types=types)
        index = bisect_right(self._starts[types], offset) - 1
        if index < 0 or offset >= headers[index].end:
            raise self.damaged(f"a reference to {offset:#x}, where no unit is")
        return self.unit(headers[index], types=types)

    def entry_at(self, offset: int) -> DebugEntry:
        """The entry at an offset of .debug_info; raises LocationError."""
        return self.unit_of(offset).entry_at(offset)

    def type_by_signature(self, signature: int) -> DebugEntry | None:
        """The type that a type unit describes; None where it is not there."""
        if self._signatures is None:
            self._signatures = {}
            for types in (False, True):
                for header in self.headers(types=types):
                    if header.kind in (dw.UT_TYPE, dw.UT_SPLIT_TYPE):
                        self._signatures.setdefault(header.identity, (types, header))
        found = self._signatures.get(signature)
        if found is None:
            return None
        types, header = found
        return self.unit(header, types=types).entry_at(header.type_at)

    # -- strings -------------------------------------------------------------------------------

    def text(self, unit: DebugUnit, value: Value) -> bytes:
        """The string that an attribute is."""
        form, number = value
        if isinstance(number, bytes):
            return number
        if form == dw.STRP:
            return string_at(self.content("str"), number)
        if form == dw.LINE_STRP:
            return string_at(self.content("line_str"), number)
        if is_string_index(form):
            return unit.string(number)
        if form in (dw.GNU_STRP_ALT, dw.STRP_SUP) and self.supplement is not None:
            return string_at(self.supplement.content("str"), number)
        return b""

    # -- other files ---------------------------------------------------------------------------

    @property
    def supplement(self) -> DebugFile | None:
        """The file with what ``dwz`` found in several; None where it is not there."""
        if not self._supplement:
            self._supplement.append(self._find_supplement())
        return self._supplement[0]

    def _find_supplement(self) -> DebugFile | None:
        section = self.elf.section(".gnu_debugaltlink")
        if section is None or self._suffix:
            return None
        raw = self.elf.content(section)
        end = raw.find(b"\0")
        if end <= 0:
            return None
        name, identity = text_of(raw[:end]), raw[end + 1 :].hex()
        folder = posixpath.dirname(posixpath.realpath(self.elf.path))
        paths = [posixpath.normpath(posixpath.join(folder, name))]
        if len(identity) > 2:
            paths.append(f"/usr/lib/debug/.build-id/{identity[:2]}/{identity[2:]}.debug")
        paths.append(f"{_SUPPLEMENTS}/{posixpath.basename(name)}")
        for root in dict.fromkeys((self.elf.root, "")):
            for path in paths:
                found = self._open(path, root)
                if found is not None and found.build_id == identity:
                    return DebugFile(found)
        return None

    @staticmethod
    def _open(path: str, root: str) -> ElfFile | None:
        try:
            return ElfFile(descriptor_of(root + path), path, root, debug_file=True, mapped=False)
        except LocationError:
            return None  # what cannot be used is as good as none

    @property
    def is_closed(self) -> bool:
        """Whether there is nothing in other files."""
        return not self.content("addr") and self.elf.section(".gnu_debugaltlink") is None

    def whole(self, unit: DebugUnit) -> DebugUnit:
        """The unit itself, or that of a split file (.dwo) of which it is the skeleton."""
        top = unit.top
        name = text_of(top.own_text(dw.DWO_NAME) or top.own_text(dw.GNU_DWO_NAME))
        if not name or self._suffix:
            return unit
        identity = unit.header.identity or top.number(dw.GNU_DWO_ID, 0)
        folder = text_of(top.own_text(dw.COMP_DIR))
        path = posixpath.normpath(posixpath.join(folder, name))
        if path not in self._split:
            if len(self._split) >= _MOST_SPLIT:
                raise self.damaged(f"more than {_MOST_SPLIT} split files")
            beside = posixpath.join(posixpath.dirname(self.elf.path), posixpath.basename(name))
            files = (self._open(each, self.elf.root) for each in (path, beside))
            found = next((each for each in files if each is not None), None)
            self._split[path] = DebugFile(found, split=True) if found is not None else None
        other = self._split[path]
        if other is None:
            raise LocationError(
                f"{self.elf.path}: its debug information is in {path}, which cannot be read",
                "keep the .dwo files where the compiler wrote them",
            )
        for header in other.headers():
            if header.kind in (dw.UT_TYPE, dw.UT_SPLIT_TYPE):
                continue
            candidate = other.unit(header)
            theirs = header.identity or candidate.top.number(dw.GNU_DWO_ID, 0)
            if theirs == identity:
                candidate.skeleton = other._skeletons[header.start] = unit
                return candidate
        raise LocationError(f"{path}: it is not what {self.elf.path} was made with",
                            "keep the .dwo files of the same build")  # fmt: skip
