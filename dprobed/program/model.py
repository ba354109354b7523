"""The values that the parts of the probe language hand to each other.

A program's code is one run of bytes. Each probe owns the range ``entry..end`` of it; the last
instruction of a range never falls through (the assembler adds an ``exit`` where the source runs
past its end), so every range stands for itself, also when ``select`` takes its neighbours out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from dprobed.program.isa import DEFAULT_EX_MASK


@dataclass(frozen=True)
class Header:
    """What holds for a whole program; the defaults are those of the language.

    ``modtype``: user, kernel or kmod. Sizes (``logmax``, ``ex_logmax``, ``heapmax``) are bytes a
    hit; ``vars`` and ``gvars`` are words.
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

    @property
    def kernel(self) -> bool:
        """Whether the program is for the kernel or one of its modules."""
        return self.modtype != "user"


@dataclass(frozen=True)
class ProbeDefinition:
    """One probe of a program.

    ``offset`` and ``address`` are the place as written, one of them set; ``watchpoint``: x, w, rw,
    io, or None for a code probe; ``opcode``: the bytes expected there; ``max_hits`` 0: no limit.
    ``entry`` and ``end``: byte offsets of its instructions in the program's code.
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


@dataclass(frozen=True)
class Program:
    """A whole verified program.

    ``facilities``: what ``exit`` hands over to, by number or by name. ``lines``: for each
    instruction its code offset, the index of its file in ``sources`` and its line there.
    """

    header: Header
    probes: tuple[ProbeDefinition, ...]
    code: bytes
    facilities: tuple[int | str, ...] = ()
    lines: tuple[tuple[int, int, int], ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def source_name(self) -> str:
        """The file that the program was assembled from, empty if that is not known."""
        return self.sources[0] if self.sources else ""


#: Faults of one program that are reported at most.
MAX_DIAGNOSTICS: Final = 100


@dataclass(frozen=True)
class Diagnostic:
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
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
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
    return replace(program, probes=kept)
