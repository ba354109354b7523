"""Functions by name or address: overloads, definitions, inlined copies; with their parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from dprobed.binary.demangle import demangled
from dprobed.binary.dwarf import constants as dw
from dprobed.binary.dwarf import names
from dprobed.binary.dwarf.code import entry_of, function_around
from dprobed.binary.dwarf.expressions import absent
from dprobed.binary.dwarf.passing import arguments, is_by_reference
from dprobed.binary.dwarf.scopes import location_of, of_scope
from dprobed.binary.dwarf.types import TypeBuilder, qualified_name
from dprobed.binary.dwarf.units import DebugEntry
from dprobed.binary.variables.module import ModuleDebug, function_name
from dprobed.binary.variables.visible import variable_of
from dprobed.program.types import VOID, Types, size_of
from dprobed.program.variables import (
    FunctionPlace,
    Functions,
    LocationStep,
    SourceFunction,
    SourceVariable,
    VariableLocation,
)

#: Functions of one name, and places of one function, that are told.
_MOST_FUNCTIONS: Final = 256
_MOST_PLACES: Final = 4096


class FunctionFinder:
    """The functions of a module."""

    def __init__(self, module: ModuleDebug) -> None:
        self._module = module

    def functions_named(self, name: str) -> Functions:
        """The functions of a name (``handle``, ``ns::Class::method``, with the types of its
        parameters, or as the linker calls it): overloads, out of line and inlined; raises
        LocationError where there is none."""
        self._module.debug.shrink()
        found: dict[tuple[str, str, str, int], list[DebugEntry]] = {}
        for entry in self._functions(name):
            linkage = entry.text(dw.LINKAGE_NAME, dw.MIPS_LINKAGE_NAME)
            # Static functions of one name are one where they are from the same lines of a header.
            source = ("", 0) if linkage else self._module.declared(entry)
            key = qualified_name(entry), linkage, *source
            found.setdefault(key, []).append(entry)
            if len(found) > _MOST_FUNCTIONS:
                break
        table = self._module.table()
        made = [self._function(entries, table) for entries in found.values()]
        made = [each for each in made if each is not None]
        if not made:
            raise self._module.unknown("function", name, names.FUNCTIONS)
        types = table.table()
        return Functions(tuple(self._finish(each, types) for each in made if each), types)

    def function_at(self, vaddr: int) -> Functions:
        """The function whose code is at an address; raises LocationError."""
        self._module.debug.shrink()
        entry = self._module.function_at(vaddr)
        table = self._module.table()
        made = self._function([_abstract(entry)], table)
        assert made is not None  # it has code
        types = table.table()
        return Functions((self._finish(made, types),), types)

    def _functions(self, name: str) -> Iterator[DebugEntry]:
        """The entries that stand for functions of a name: not those that complete others."""
        name = name.strip()
        scope, last = names.parts_of(name)
        signature = _normal(name) if "(" in name else ""
        seen: set[tuple[int, int, int]] = set()
        for entry in names.named(self._module.debug, name if name.startswith("_Z") else last,
                                 names.FUNCTIONS):  # fmt: skip
            function = _abstract(entry)
            if function.key in seen:
                continue
            seen.add(function.key)
            linkage = function.text(dw.LINKAGE_NAME, dw.MIPS_LINKAGE_NAME)
            if name != linkage:
                qualified = qualified_name(function)
                if scope and not f"::{qualified}".endswith(f"::{scope}{last}"):
                    continue
                if signature and _normal(demangled(linkage)) != signature:
                    continue
            yield function

    def _function(self, entries: list[DebugEntry], table: TypeBuilder) -> _Made | None:
        """What is known of a function that these entries stand for; None: it has no code."""
        places: list[tuple[DebugEntry, int, int]] = []
        seen: set[int] = set()
        for entry in entries:
            for copy in self._copies(entry):
                entered = entry_of(copy)
                if entered is None or entered[0] in seen or not self._is_code(entered[0]):
                    continue
                seen.add(entered[0])
                places.append((copy, *entered))
        if not places:
            return None
        places.sort(key=lambda each: each[1])
        entry = entries[0]
        # The same function of other units has the same types, which need not be told again.
        typed: dict[str, int] = {}
        for copy, *_ in places[:_MOST_PLACES]:
            for each in self._parameters(copy):
                name = each.text(dw.NAME)
                if name not in typed:
                    typed[name] = table.of(each)
        return _Made(entry, places[:_MOST_PLACES], table.of(entry), typed)

    def _copies(self, entry: DebugEntry, depth: int = 0) -> Iterator[DebugEntry]:
        """The code of a function: its own, that of its definitions, its inlined copies'."""
        yield entry
        if depth >= 4:
            return
        if entry.tag == dw.SUBPROGRAM:
            for copy in names.copies(entry):
                yield from self._copies(copy, depth + 1)

    @staticmethod
    def _parameters(function: DebugEntry) -> list[DebugEntry]:
        return [each for each in of_scope(function) if each.tag == dw.FORMAL_PARAMETER]

    def _is_code(self, address: int) -> bool:
        """Whether the linker kept it: what it threw away keeps its debug information."""
        segment = self._module.elf.segment_at(address + self._module.shift)
        return segment is not None and segment.executable

    def _finish(self, made: _Made, types: Types) -> SourceFunction:
        entry = made.entry
        linkage = entry.text(dw.LINKAGE_NAME, dw.MIPS_LINKAGE_NAME)
        name = qualified_name(entry)
        if linkage and entry.unit.language in ("c++", "rust"):
            name = demangled(linkage)
        file, line = self._module.declared(entry)
        variadic = any(child.tag == dw.UNSPECIFIED_PARAMETERS for child in entry.children())
        places = tuple(self._place(made, *each, types) for each in made.places)
        return SourceFunction(name, linkage or entry.text(dw.NAME), made.result, places, file, line,
                        entry.unit.language, variadic)  # fmt: skip

    def _place(
        self, made: _Made, copy: DebugEntry, start: int, end: int, types: Types
    ) -> FunctionPlace:
        inlined = copy.tag == dw.INLINED_SUBROUTINE
        function = _outer(copy)
        around = function_around(copy) if inlined else None
        place = self._module.resolved(function, start)
        found: list[SourceVariable] = []
        for entry in self._parameters(copy):
            index = made.types.get(entry.text(dw.NAME), VOID)
            where = location_of(entry, place, size_of(types, index))
            found.append(variable_of(self._module, entry, index, where, 0, 1))
        if not inlined:
            found = self._at_entry(made, copy, found, types)
        order = {each.text(dw.NAME): at for at, each in enumerate(self._parameters(made.entry))}
        found.sort(key=lambda each: order.get(each.name, len(order)))
        file, line = self._module.called(copy) if inlined else ("", 0)
        within = function_name(around) if around is not None else ""
        shift = self._module.shift
        return FunctionPlace(start + shift, end + shift, tuple(found), inlined, within, file, line)

    def _at_entry(
        self, made: _Made, copy: DebugEntry, found: list[SourceVariable], types: Types
    ) -> list[SourceVariable]:
        """The parameters of a function at its entry: where it has not yet put them where it says
        that they are, they are where they were passed."""
        parameters = self._parameters(copy)
        early = [
            each.location.kind == "memory"
            and isinstance((entry.find(dw.LOCATION) or (0, 0))[1], bytes)
            for entry, each in zip(parameters, found, strict=True)
        ]
        if not any(early):
            return found
        if made.entry.unit.language not in ("c", "c++"):
            reason = "the function has not put it into its frame yet: probe its next line"
            located = [absent(reason)] * len(found)
        else:
            referred = [is_by_reference(made.entry)]
            referred += [
                _is_followed(each.location) or is_by_reference(entry)
                for entry, each in zip(parameters, found, strict=True)
            ]
            located = arguments(types, [each.type for each in found], made.result, referred)
        return [
            msgspec.structs.replace(each, location=where) if is_early else each
            for each, where, is_early in zip(found, located, early, strict=True)
        ]


class _Made(msgspec.Struct):
    """A function whose types are being put into a table; ``types``: of its parameters by name."""

    entry: DebugEntry
    places: list[tuple[DebugEntry, int, int]]
    result: int
    types: dict[str, int]


def _is_followed(location: VariableLocation) -> bool:
    """Whether a parameter is where a word in the frame points to."""
    steps = location.steps
    return len(steps) > 1 and steps[-1] == LocationStep("load", 8)


def _abstract(entry: DebugEntry) -> DebugEntry:
    """What stands for a function: what its definitions and copies refer to."""
    for _ in range(8):
        origin = entry.origin
        if origin is None or origin.tag != dw.SUBPROGRAM:
            break
        entry = origin
    return entry


def _outer(entry: DebugEntry) -> DebugEntry:
    """The function that has the code of a copy."""
    for _ in range(256):
        if entry.tag == dw.SUBPROGRAM:
            return entry
        around = function_around(entry)
        if around is None:
            break
        entry = around
    return entry


def _normal(signature: str) -> str:
    """A signature without the spaces that people write or do not."""
    return signature.replace(" ", "")
