"""The executor that defines the language: each probe's code becomes a Python function.

The source that is made of a probe does not depend on where the probe is nor on its record's
numbers, so that a thousand probes with the same instructions are compiled once, and a program that
is in many targets as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy as shallow_copy
from functools import lru_cache
from types import CodeType
from typing import Final

from dprobed.program.exec import log, machine, python_maps  # noqa: F401
from dprobed.program.exec.interface import Context, MemoryFault, Outcome, readable
from dprobed.program.exec.lower import lower
from dprobed.program.exec.lowering import UNROLL, Unit, facility_numbers
from dprobed.program.exec.maps import held_maps, key_stack, key_string, text_of, text_words
from dprobed.program.exec.python_source import source
from dprobed.program.exec.unit import UnitPart, part_of
from dprobed.program.exec.variables import ListVariables
from dprobed.program.items import ItemToken, word_packer
from dprobed.program.maps import MapRoom
from dprobed.program.model import ProbeDefinition, Program

Entry = Callable[[Context], Outcome]

#: The names that generated code uses, apart from those of one probe.
_NAMES: Final[dict[str, object]] = {
    "Frame": machine.Frame,
    "GLOBALS": ItemToken.GLOBALS,
    "Heap": machine.Heap,
    "LOCALS": ItemToken.LOCALS,
    "Machine": machine.Machine,
    "MemoryFault": MemoryFault,
    "Outcome": Outcome,
    "comm_words": machine.comm_words,
    "cut_log": machine.cut_log,
    "fill": machine.fill,
    "first_bad_index": machine.first_bad_index,
    "fp_get": machine.fp_get,
    "fp_set": machine.fp_set,
    "from_bytes": int.from_bytes,
    "key_stack": key_stack,
    "key_string": key_string,
    "load_elements": machine.load_elements,
    "memory_item": log.memory_item,
    "mxcsr_set": machine.mxcsr_set,
    "pack": word_packer,
    "put": machine.put,
    "readable": readable,
    "signed_div": machine.signed_div,
    "stack_item": machine.stack_item,
    "store_elements": machine.store_elements,
    "string_item": log.string_item,
    "take": machine.take,
    "text_of": text_of,
    "text_words": text_words,
    "user_stack_item": log.user_stack_item,
    "variables_item": log.variables_item,
    **{f"pack{count}": word_packer(count) for count in range(1, UNROLL + 1)},
}


@lru_cache(maxsize=256)
def _compiled(text: str) -> CodeType:
    return compile(text, "<probe program>", "exec")


@lru_cache(maxsize=1024)
def _code_of(unit: Unit, static: bool) -> tuple[CodeType, tuple[int, ...]]:
    """A probe's code, and the code offsets that it names."""
    function = lower(unit, static)
    return _compiled(source(function)), function.offsets


class PythonExecutor:
    """Runs a program's probes on behalf of one target; see ``Executor``.

    ``globals_`` are the target's global variables, the same for all of its programs; they grow here
    to what this program needs. ``facilities`` maps names to numbers and is asked again at each
    `exit n`. ``static`` false keeps every stack in memory: slower, with the same results. ``room``:
    for the maps of all programs of the target. Raises ProgramError if the program hands over to a
    facility whose name is not known.
    """

    def __init__(
        self,
        program: Program,
        globals_: ListVariables,
        facilities: Mapping[str, int],
        *,
        static: bool = True,
        room: MapRoom | None = None,
    ) -> None:
        self._numbers = facility_numbers(program, facilities)
        self.program = program
        self.locals = ListVariables(program.header.vars)
        self.maps = held_maps(program.header.map, room)
        globals_.grow(program.header.gvars)
        self._globals = globals_
        self._facilities = facilities
        self._static = static
        self._known = frozenset(facilities.values())
        self.symbols = [0] * len(program.names)
        self._entries, self._entry_parts = self._all_entries()

    def entry(self, index: int) -> Entry:
        """The function that runs the probe with this index for one hit."""
        return self._entries[index]

    def entry_part(self, index: int) -> Entry | None:
        """The function that runs when the function is entered that the probe with this index is
        at the return of, if something does."""
        return self._entry_parts.get(index)

    def copy(self, globals_: ListVariables, room: MapRoom | None = None) -> PythonExecutor:
        """The same program for a fork child, which begins with what the local variables are now.

        Its maps are empty; they take their ``room`` from that of the child.
        """
        # Not made anew: a facility that it names may be gone by now.
        other = shallow_copy(self)
        other.locals = ListVariables(len(self.locals))
        other.locals.write(0, self.locals.read())
        other.maps = held_maps(self.program.header.map, room)
        other._globals = globals_
        other.symbols = list(self.symbols)
        other._entries, other._entry_parts = other._all_entries()
        return other

    def _all_entries(self) -> tuple[dict[int, Entry], dict[int, Entry]]:
        """What runs at each probe's hits, and the entry parts of those that have one."""
        probes = self.program.probes
        return (
            {probe.index: self._entry(probe, probe.start) for probe in probes},
            {probe.index: self._entry(probe, probe.entry) for probe in probes if probe.split},
        )

    def source(self, probe: ProbeDefinition) -> str:
        """The Python source of a probe's function."""
        return source(lower(self.part(probe).unit, self._static))

    def part(self, probe: ProbeDefinition) -> UnitPart:
        """What runs at a probe's hits, for other executors to begin with."""
        return self._part(probe, probe.start)

    def entered_part(self, probe: ProbeDefinition) -> UnitPart | None:
        """What runs when the function is entered at whose return a probe is; None: nothing."""
        return self._part(probe, probe.entry) if probe.split else None

    def _part(self, probe: ProbeDefinition, begins: int) -> UnitPart:
        return part_of(self.program, probe, begins, self._numbers)

    def _entry(self, probe: ProbeDefinition, begins: int) -> Entry:
        unit, start = self._part(probe, begins)
        code, offsets = _code_of(unit, self._static)
        names: dict[str, object] = {
            **_NAMES,
            "L": self.locals.words,
            "G": self._globals.words,
            "SYM": self.symbols,
            "MAJ": self.program.header.major,
            "MNR": probe.minor,
            "gone": self._facility_gone,
            **{f"M{number}": held for number, held in enumerate(self.maps)},
            **{f"AT{number}": start + offset for number, offset in enumerate(offsets)},
        }
        exec(code, names)
        return names["run"]  # type: ignore[return-value]

    def _facility_gone(self, number: int) -> bool:
        """Whether a facility that had a name when the program was put in has it no more."""
        return number in self._known and number not in self._facilities.values()
