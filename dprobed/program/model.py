"""Programs as values: header, probe definitions, code, diagnostics; and where each is written.

A program's code is one run of bytes. Each probe owns the range ``entry..end`` of it; the last
instruction of a range never falls through (the assembler adds an ``exit`` where the source runs
past its end), so every range stands for itself, also when ``select`` takes its neighbours out.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from operator import itemgetter
from typing import Final, NamedTuple

import msgspec

from dprobed.program.exceptions import DEFAULT_EX_MASK
from dprobed.program.isa import Instruction, Operand, decode_at
from dprobed.program.maps import MapDefinition

#: A place that is a function's beginning, by its name alone.
_FUNCTION: Final = re.compile(r"[A-Za-z_][\w$]*")


#: Before the provider and the name of a static probe, which is a place.
STATIC: Final = "usdt:"


class Header(msgspec.Struct, frozen=True):
    """What holds for a whole program; the defaults are those of the language.

    ``modtype``: user, kernel or kmod. Sizes (``logmax``, ``ex_logmax``, ``heapmax``) are bytes a
    hit; ``vars`` and ``gvars`` are words; ``names``: of all the local variables, or empty; ``map``:
    all of its maps.
    """

    name: str
    modtype: str = "user"
    major: int = 1
    id: int = 0
    jmpmax: int = 65535
    logmax: int = 1024
    ex_logmax: int = 1024
    vars: int = 0
    gvars: int = 0
    heapmax: int = 16384
    autostacktrace: bool = False
    names: tuple[str, ...] = ()
    map: tuple[MapDefinition, ...] = ()

    @property
    def kernel(self) -> bool:
        """Whether the program is for the kernel or one of its modules."""
        return self.modtype != "user"


class ProbeDefinition(msgspec.Struct, frozen=True):
    """One probe of a program.

    ``offset`` and ``address`` are the place as written, one of them set; ``watchpoint``: x, w, rw,
    io, or None for a code probe; ``opcode``: the bytes expected there; ``max_hits`` 0: no limit;
    ``always``: a budget of all probes does not put it to sleep.
    ``entry`` and ``end``: byte offsets of its instructions in the program's code. ``at``: whether
    it fires when its place is come to (``entry``), or when the function that begins there is left
    (``return``); ``split``: byte offset of what runs then, where an entry part is before it, else
    0.
    """

    index: int
    offset: str | None = None
    address: str | None = None
    watchpoint: str | None = None
    opcode: bytes | None = None
    minor: int = 1
    group: int = 0
    type: int = 0
    pass_count: int = 0
    max_hits: int = 0
    logonfault: bool = False
    ex_mask: int = DEFAULT_EX_MASK
    heap: int = 0
    entry: int = 0
    end: int = 0
    always: bool = False
    at: str = "entry"
    split: int = 0

    @property
    def returns(self) -> bool:
        """Whether it fires when the function is left."""
        return self.at == "return"

    @property
    def start(self) -> int:
        """Where the code begins that runs when it fires."""
        return self.split or self.entry

    @property
    def is_static(self) -> bool:
        """Whether its place is a static probe (USDT)."""
        return (self.offset or "").startswith(STATIC)

    @property
    def function(self) -> str:
        """The function at whose beginning it is, where that is its place; else empty."""
        place = self.offset or ""
        return place if _FUNCTION.fullmatch(place) else ""


class Written(NamedTuple):
    """Where something is written: the index of its file in ``Program.sources``, line, column.

    Both count from 1; a column of 0 is not known.
    """

    source: int
    line: int
    column: int


class SourcePlace(NamedTuple):
    """A place in the source of a program, as people read it."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}"
        return f"{place}:{self.column}" if self.column else place


class Program(msgspec.Struct, frozen=True, dict=True):
    """A whole verified program.

    ``facilities``: what ``exit`` hands over to, by number or by name; ``names``: what it calls
    values that it logs, and symbols that it pushes. ``lines``: for each
    instruction its code offset, the index of its file in ``sources`` and its line there;
    ``columns``: its column, for each of the lines. ``name_at``, ``probes_at``: where the module's
    name and the place of each probe are written. Any of these may be empty: a program need not
    have source text. Ask ``name_place``, ``probe_place``, ``code_place`` and ``facility_places``.
    """

    header: Header
    probes: tuple[ProbeDefinition, ...]
    code: bytes
    facilities: tuple[int | str, ...] = ()
    lines: tuple[tuple[int, int, int], ...] = ()
    sources: tuple[str, ...] = ()
    columns: tuple[int, ...] = ()
    name_at: Written | None = None
    probes_at: tuple[Written | None, ...] = ()
    names: tuple[str, ...] = ()

    def instructions(
        self, probe: ProbeDefinition
    ) -> Iterator[tuple[int, Instruction, tuple[int, ...]]]:
        """The instructions of one of the probes, each with its code offset and its operands."""
        offset = probe.entry
        while offset < probe.end:
            instruction, operands, following = decode_at(self.code, offset)
            yield offset, instruction, operands
            offset = following

    def alters(self, probe: ProbeDefinition) -> bool:
        """Whether one of the probes can alter registers or memory of the target."""
        return any(instruction.writes for _, instruction, _ in self.instructions(probe))

    def name_place(self) -> SourcePlace | None:
        """Where the name of the module is written."""
        return self._place(self.name_at)

    def probe_place(self, probe: ProbeDefinition) -> SourcePlace | None:
        """Where the offset or address of one of the probes is written."""
        return self._place(self._probes_at.get(probe.index))

    @cached_property
    def _probes_at(self) -> dict[int, Written | None]:
        """By the probe's index."""
        indexes = (probe.index for probe in self.probes)
        return dict(zip(indexes, self.probes_at, strict=False))

    def code_place(self, offset: int) -> SourcePlace | None:
        """Where the instruction at (or around) a code offset is written."""
        number = bisect_right(self.lines, offset, key=itemgetter(0)) - 1
        if number < 0:
            return None
        _, source, line = self.lines[number]
        return self._place(Written(source, line, self.columns[number] if self.columns else 0))

    def facility_places(self, facility: int | str) -> tuple[SourcePlace, ...]:
        """Where each `exit FACILITY` of the probes is written that hands over to this one."""
        places = []
        for probe in self.probes:
            offset = probe.entry
            while offset < probe.end:
                instruction, operands, following = decode_at(self.code, offset)
                if Operand.FACILITY in instruction.operands:
                    place = self.code_place(offset)
                    if place is not None and self.facilities[operands[0]] == facility:
                        places.append(place)
                offset = following
        return tuple(places)

    @cached_property
    def symbols(self) -> frozenset[tuple[int, bool]]:
        """Which of the names are symbols that it pushes, and whether as thread-local variables."""
        found = set()
        offset = 0
        while offset < len(self.code):
            instruction, operands, offset = decode_at(self.code, offset)
            if Operand.SYMBOL in instruction.operands:
                found.add((operands[0], instruction.name == "push tls"))
        return frozenset(found)

    def symbol_place(self, index: int) -> SourcePlace | None:
        """Where a symbol is first pushed."""
        offset = 0
        while offset < len(self.code):
            instruction, operands, following = decode_at(self.code, offset)
            if Operand.SYMBOL in instruction.operands and operands[0] == index:
                return self.code_place(offset)
            offset = following
        return None

    def _place(self, at: Written | None) -> SourcePlace | None:
        return None if at is None else SourcePlace(self.sources[at.source], at.line, at.column)

    @property
    def source_name(self) -> str:
        """The file that the program was assembled from, empty if that is not known."""
        return self.sources[0] if self.sources else ""


#: Diagnostics of one program that are reported at most.
MAX_DIAGNOSTICS: Final = 100


class Diagnostic(msgspec.Struct, frozen=True):
    """One fault of a program: where it is, what it is and what to do.

    ``line`` and ``column`` count from 1; 0 where there is none (a ``.dpb`` file), and then ``file``
    says the place. ``text`` is the source line, ``note`` further lines of evidence.
    """

    file: str
    line: int
    column: int
    message: str
    hint: str = ""
    text: str = ""
    length: int = 1
    note: str = ""

    def __str__(self) -> str:
        # A name with a line's end in it would make this another message.
        file = "".join(
            each if each.isprintable() else each.encode("unicode_escape").decode()
            for each in self.file
        )
        place = f"{file}:{self.line}:{self.column}" if self.line else file
        parts = [f"{place}: error: {self.message}"]
        if self.text:
            # A tab stays a tab in the line of the caret, so that both are indented alike.
            before = self.text[: self.column - 1]
            blank = "".join("\t" if letter == "\t" else " " for letter in before)
            parts.append(f"    {self.text}")
            parts.append(f"    {blank}^{'~' * (self.length - 1)}")
        if self.hint:
            parts.append(f"    hint: {self.hint}")
        parts.extend(f"    {line}" for line in self.note.splitlines())
        return "\n".join(parts)


class ProgramError(Exception):
    """A program that is refused, with all of its faults."""

    def __init__(self, diagnostics: tuple[Diagnostic, ...]) -> None:
        super().__init__(diagnostics)
        self.diagnostics = diagnostics

    def __str__(self) -> str:
        return "\n".join(map(str, self.diagnostics))


class NothingSelectedError(Exception):
    """``select`` was given groups and types that no probe of the program has."""


def select(
    program: Program, groups: frozenset[int] = frozenset(), types: frozenset[int] = frozenset()
) -> Program:
    """The program with only the probes of these groups, of them only these types; empty: all.

    Probes keep their index and their code. Raises NothingSelectedError.
    """
    kept = tuple(
        probe
        for probe in program.probes
        if (not groups or probe.group in groups) and (not types or probe.type in types)
    )
    if not kept:
        have = ", ".join(sorted({f"group {p.group} type {p.type}" for p in program.probes}))
        raise NothingSelectedError(f"no probe has that group and type; there are: {have}")
    places = dict(zip(program.probes, program.probes_at, strict=False))
    probes_at = tuple(places[probe] for probe in kept) if places else ()
    return msgspec.structs.replace(program, probes=kept, probes_at=probes_at)


def limited(program: Program, max_hits: int) -> Program:
    """The program with no ``max_hits`` of a probe over this one; 0: as it is."""
    if not max_hits:
        return program
    probes = tuple(
        msgspec.structs.replace(probe, max_hits=least(probe.max_hits, max_hits))
        for probe in program.probes
    )
    return msgspec.structs.replace(program, probes=probes)


def least(*limits: int) -> int:
    """The strictest of several limits of hits; 0 is none."""
    return min((limit for limit in limits if limit), default=0)


def no_pattern(name: str) -> str:
    """What to add where there is no module of this name, as if it were meant to match some."""
    if not set(name) & {"*", "?"}:
        return ""
    return "; a name is no pattern: `*` and `?` stand for themselves"
