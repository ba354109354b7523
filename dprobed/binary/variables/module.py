"""The debug information of one module, found in itself or in its separate debug file; with what
expressions need of a place (the frame), and the types and sources that entries name."""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property, partial

from dprobed.binary import debug_files
from dprobed.binary.cfi import NO_RULE
from dprobed.binary.demangle import demangled
from dprobed.binary.dwarf import constants as dw
from dprobed.binary.dwarf import names
from dprobed.binary.dwarf.code import UnitCode, entry_of, function_at
from dprobed.binary.dwarf.debug import DebugFile
from dprobed.binary.dwarf.expressions import FramePlace, location, steps_of
from dprobed.binary.dwarf.lists import LocationList
from dprobed.binary.dwarf.types import TypeBuilder, qualified_name
from dprobed.binary.dwarf.units import DebugEntry, DebugUnit
from dprobed.binary.errors import LocationError
from dprobed.binary.file import Binary
from dprobed.binary.lines import Lines
from dprobed.binary.suggest import similar
from dprobed.program.variables import LocationStep, VariableLocation


class ModuleDebug:
    """The debug information of one module. Addresses in it are ``shift`` less than the module's."""

    def __init__(self, elf: Binary) -> None:
        """Find it; raises LocationError where there is none."""
        self.elf = elf
        source = debug_files.with_section(elf, ".debug_info")
        if source is None:
            raise LocationError(
                f"{elf.path}: it has no debug information",
                "compile with -g, or install its debug symbols; without it there are arguments by "
                "number, and types that the program itself declares",
            )
        self.source = source
        self.shift = 0 if source is elf else debug_files.shift(elf, source)
        self.debug = DebugFile(source)
        self._code = UnitCode(self.debug)
        self._complete_types: dict[str, DebugEntry | None] = {}

    def table(self) -> TypeBuilder:
        """A table of types to be filled."""
        return TypeBuilder(self._completed)

    def _completed(self, declared: DebugEntry) -> DebugEntry | None:
        """The definition of a type that a unit only declares."""
        if dw.SIGNATURE in declared.attributes:
            return declared.reference(dw.SIGNATURE)
        name = qualified_name(declared)
        if not name:
            return None
        key = f"{declared.tag:x} {name}"
        if key not in self._complete_types:
            _, last = names.parts_of(name)
            tags: tuple[int, ...] = (declared.tag,)
            if declared.tag in (dw.STRUCTURE_TYPE, dw.CLASS_TYPE):
                tags = (dw.STRUCTURE_TYPE, dw.CLASS_TYPE)
            found = (
                entry
                for entry in names.named(self.debug, last, tags, declared=False)
                if qualified_name(entry) == name
            )
            self._complete_types[key] = next(found, None)
        return self._complete_types[key]

    def function_at(self, vaddr: int) -> DebugEntry:
        """The function whose code is at an address of the module; raises LocationError."""
        address = vaddr - self.shift
        unit = self._code.unit_at(address)
        function = function_at(self.debug.whole(unit), address) if unit is not None else None
        if function is None:
            raise LocationError(
                f"{self.elf.path}: its debug information says nothing of the code at {vaddr:#x}"
            )
        return function

    def resolved(self, function: DebugEntry, address: int) -> FramePlace:
        """The place as expressions need it."""
        unit = function.unit
        entered = entry_of(function)

        def frame_base() -> VariableLocation | None:
            where, value = function.where(dw.FRAME_BASE)
            if value is None:
                return None
            outer = FramePlace(address, partial(self._cfa, unit, address), lambda: None)
            if isinstance(value[1], bytes):
                return location(value[1], where.unit, outer)
            return _location_of_list(where, value, outer)

        return FramePlace(address, partial(self._cfa, unit, address), frame_base,
                     entry=entered is not None and address == entered[0])  # fmt: skip

    def _cfa(self, unit: DebugUnit, address: int) -> tuple[LocationStep, ...] | None:
        """The steps to the frame's address (CFA); None where nothing says it."""
        vaddr = address + self.shift
        block = self.elf.unwind_rows.block(vaddr)
        row = bisect_right(block.addresses, vaddr) - 1
        if row < 0 or vaddr >= block.end or block.rules[row] == NO_RULE:
            return None
        rule = block.table[block.rules[row]]
        if rule.cfa_register >= 0:
            return LocationStep("register", rule.cfa_register), LocationStep(
                "plus", rule.cfa_offset
            )
        nowhere = FramePlace(address, lambda: None, lambda: None)
        return steps_of(rule.cfa_expression, unit, nowhere)

    @cached_property
    def _lines(self) -> Lines:
        return Lines(self.source)

    def declared(self, entry: DebugEntry) -> tuple[str, int]:
        """File and line of a declaration; those of the definition where there is one."""
        where, value = entry.where(dw.DECL_FILE)
        _, line = entry.where(dw.DECL_LINE)
        return self._file(where, value), _int(line)

    def called(self, copy: DebugEntry) -> tuple[str, int]:
        """From where an inlined function is called."""
        return (
            self._file(copy, copy.attributes.get(dw.CALL_FILE)),
            copy.number(dw.CALL_LINE, 0),
        )

    def _file(self, entry: DebugEntry, value: tuple[int, int | bytes] | None) -> str:
        number = _int(value)
        linked = entry.unit.skeleton or entry.unit
        table = linked.top.attributes.get(dw.STMT_LIST)
        if not number or table is None or entry.unit.debug is not self.debug:
            return ""
        return self._lines.file(_int(table), number)

    def unknown(self, what: str, name: str, tags: tuple[int, ...]) -> LocationError:
        """The error for a name that is not there."""
        close: list[str] = []
        if tags == names.FUNCTIONS:
            close = similar(name, self.elf.symbols.names())
        return LocationError(
            f"{self.elf.path}: no {what} {name} in its debug information",
            "the candidates have similar names" if close else "",
            tuple(close),
        )


def _location_of_list(
    entry: DebugEntry, value: tuple[int, int | bytes], place: FramePlace
) -> VariableLocation | None:
    """A frame base that a location list says."""
    expression = LocationList(entry.unit, value).at(place.address)
    return location(expression, entry.unit, place) if expression else None


def _int(value: tuple[int, int | bytes] | None) -> int:
    return value[1] if value is not None and isinstance(value[1], int) else 0


def function_name(entry: DebugEntry) -> str:
    """A function as its author calls it, in C++ with its parameters."""
    linkage = entry.text(dw.LINKAGE_NAME, dw.MIPS_LINKAGE_NAME)
    if linkage and entry.unit.language in ("c++", "rust"):
        return demangled(linkage)
    return qualified_name(entry)
