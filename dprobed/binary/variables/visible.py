"""Every variable that is visible at an address, and variables by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from dprobed.binary.dwarf import constants as dw
from dprobed.binary.dwarf import names
from dprobed.binary.dwarf.code import scopes_at
from dprobed.binary.dwarf.expressions import FramePlace, absent
from dprobed.binary.dwarf.scopes import Scoped, globals_of, location_of, variables
from dprobed.binary.dwarf.types import qualified_name
from dprobed.binary.dwarf.units import DebugEntry
from dprobed.binary.errors import LocationError
from dprobed.binary.suggest import similar
from dprobed.binary.variables.module import ModuleDebug, function_name
from dprobed.program.types import size_of
from dprobed.program.variables import (
    LocationPiece,
    LocationStep,
    SourceFrame,
    SourceVariable,
    VariableLocation,
    Visible,
)


class VisibleFinder:
    """The variables of a module."""

    def __init__(self, module: ModuleDebug) -> None:
        self._module = module

    def visible(self, vaddr: int, *, outside: bool = True) -> Visible:
        """Every variable that is visible at an address; ``outside``: those outside of functions,
        too. Raises LocationError where nothing is known of that address."""
        self._module.debug.shrink()
        function = self._module.function_at(vaddr)
        address = vaddr - self._module.shift
        scopes = scopes_at(function, address)
        place = self._module.resolved(function, address)
        found = list(variables(scopes))
        if outside:
            found += [Scoped(each, -1, 0) for each in globals_of(function.unit.top)]
        table = self._module.table()
        indices = [table.of(each.entry) for each in found]
        types = table.table()
        shown: list[SourceVariable] = []
        seen: set[tuple[int, int, int]] = set()
        for scoped, index in zip(found, indices, strict=True):
            variable = self._seen_at(scoped, index, size_of(types, index), place, seen)
            if variable is not None:
                shown.append(variable)
        return Visible(vaddr, tuple(self._frames(scopes)), tuple(shown), types)

    def _seen_at(
        self,
        scoped: Scoped,
        index: int,
        size: int,
        place: FramePlace,
        seen: set[tuple[int, int, int]],
    ) -> SourceVariable | None:
        """A variable as it is told; None for one that is told already, or has no name."""
        entry, frame, depth = scoped
        if entry.key in seen or not entry.text(dw.NAME):
            return None
        origin = entry.reference(dw.SPECIFICATION)
        if origin is not None:
            seen.add(origin.key)  # what it is the definition of is not another variable
        if dw.LOCATION not in entry.attributes and dw.DECLARATION in entry.attributes:
            return variable_of(self._module, entry, index, self._elsewhere(entry), frame, depth)
        return variable_of(
            self._module, entry, index, location_of(entry, place, size), frame, depth
        )

    def _elsewhere(self, declared: DebugEntry) -> VariableLocation:
        """Where a variable is that a unit only declares: by the symbol of that name."""
        name = declared.text(dw.LINKAGE_NAME, dw.MIPS_LINKAGE_NAME, dw.NAME)
        values = {
            symbol.value
            for symbol in self._module.elf.symbols.find(name)
            if symbol.value and self._module.elf.segment_at(symbol.value) is not None
        }
        if len(values) == 1:
            return VariableLocation("memory", (LocationStep("address", values.pop()),))
        return absent("it is defined in another file")

    def variable(self, name: str, vaddr: int) -> tuple[SourceVariable, Visible]:
        """A variable by name as it is meant at an address, with what it refers to; raises
        LocationError where there is none."""
        visible = self.visible(vaddr)
        for each in visible.variables:
            if each.name == name:
                return each, visible
        found = self.global_named(name)
        if found is not None:
            return found.variables[0], found
        close = similar(name, sorted({each.name for each in visible.variables}))
        raise LocationError(
            f"{self._module.elf.path}: no variable {name} at {vaddr:#x}",
            "the candidates have similar names" if close else "",
            tuple(close),
        )

    def global_named(self, name: str) -> Visible | None:
        """A variable of any unit that is outside of functions; None where there is none."""
        _, last = names.parts_of(name)
        for entry in names.named(self._module.debug, last, names.VARIABLES):
            parent = entry.parent
            if parent is None or parent.tag in (dw.LEXICAL_BLOCK, dw.SUBPROGRAM,
                                                dw.INLINED_SUBROUTINE):  # fmt: skip
                continue
            if name not in (qualified_name(entry), entry.text(dw.NAME)):
                continue
            if dw.DECLARATION in entry.attributes and dw.LOCATION not in entry.attributes:
                continue
            table = self._module.table()
            index = table.of(entry)
            types = table.table()
            place = FramePlace(0, lambda: None, lambda: None)
            where = location_of(entry, place, size_of(types, index))
            return Visible(0, (), (variable_of(self._module, entry, index, where, -1, 0),), types)
        return None

    def _frames(self, scopes: list[DebugEntry]) -> Iterator[SourceFrame]:
        """The functions around a place, the innermost first."""
        file, line = "", 0
        for scope in reversed(scopes):
            if scope.tag == dw.INLINED_SUBROUTINE:
                yield SourceFrame(function_name(scope), file, line, inlined=True)
                file, line = self._module.called(scope)
            elif scope.tag == dw.SUBPROGRAM:
                yield SourceFrame(function_name(scope), file, line)


def variable_of(
    module: ModuleDebug,
    entry: DebugEntry,
    index: int,
    where: VariableLocation,
    frame: int,
    depth: int,
) -> SourceVariable:
    """What is told of a variable. ``index``: of its type; ``frame`` -1: outside of functions."""
    kind: Literal["parameter", "local", "static", "global"]
    kind = "parameter" if entry.tag == dw.FORMAL_PARAMETER else "local"
    if frame < 0:
        kind = "global" if entry.flag(dw.EXTERNAL) else "static"
    elif kind == "local" and [step.op for step in where.steps[:1]] in (["address"], ["thread"]):
        kind = "static"
    name = qualified_name(entry) if frame < 0 else entry.text(dw.NAME)
    _, value = entry.where(dw.DECL_LINE)
    line = value[1] if value is not None and isinstance(value[1], int) else 0
    return SourceVariable(
        name,
        index,
        _moved(where, module.shift),
        kind,
        frame,
        depth,
        line,
        entry.flag(dw.ARTIFICIAL),
    )


def _moved(where: VariableLocation, shift: int) -> VariableLocation:
    """A location with addresses as the module has them, which are the debug file's yet."""
    if not shift:
        return where
    steps = tuple(
        LocationStep(step.op, step.value + shift) if step.op == "address" else step
        for step in where.steps
    )
    pieces = tuple(
        LocationPiece(each.bits, each.bit, _moved(each.location, shift)) for each in where.pieces
    )
    there = tuple((start + shift, end + shift) for start, end in where.there)
    return msgspec.structs.replace(where, steps=steps, pieces=pieces, there=there)
