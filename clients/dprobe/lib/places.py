"""Whether the places of programs are there, before any process is touched.

Looked through are the files that a process has mapped, or that a command surely will. A probe for
another module is not judged: that may come by ``dlopen`` or ``exec``; until then it is pending.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dprobe.lib.errors import UserError
from dprobe.lib.mapped import File
from dprobe.lib.programs import Loaded
from dprobe.lib.source import excerpt
from dprobed.binary.errors import SIMILAR, LocationError
from dprobed.binary.file import Binary
from dprobed.binary.places import Place, resolve, resolve_data
from dprobed.binary.thread_local import thread_local
from dprobed.program.model import Diagnostic, ProbeDefinition, Program
from dprobed.program.parts import needs_of
from dprobed.resolver.places import check_boundary, check_needs, check_watched


class Findings(msgspec.Struct, frozen=True):
    """What was found of one program: probes that have a place in a file, probes whose module is in
    no file known (or in one that cannot be read), and the faults of the others."""

    placed: int
    pending: int
    faults: tuple[Diagnostic, ...]


def refuse_missing(programs: Sequence[Loaded], files: Sequence[File]) -> None:
    """Raise UserError with every place, of all programs, that is in none of the files.

    One of which it is only not known whether an instruction begins there is no such place: the
    tracer says so of the probe, and the others work.
    """
    faults = [
        fault
        for each in programs
        for fault in find(each.program, files, each.path, certain=True).faults
    ]
    if faults:
        raise UserError("\n".join(map(str, faults)))


def find(
    program: Program, files: Sequence[File], source: str, *, certain: bool = False
) -> Findings:
    """Look for the place of every probe; ``source``: the file that the program was read from.

    ``certain``: what nothing tells of is no fault.
    """
    if program.header.kernel:
        return Findings(0, len(program.probes), ())
    meant = [file for file in files if file.named(program.header.name)]
    placed = pending = 0
    faults = _symbol_faults(program, meant, source)
    for probe in program.probes:
        fault = _fault(program, probe, meant, certain=certain)
        if fault is not None:
            faults.append(diagnostic(program, probe, fault, source))
        elif any(file.elf is not None for file in meant):
            placed += 1
        else:
            pending += 1
    return Findings(placed, pending, tuple(faults))


def _symbol_faults(program: Program, files: Sequence[File], source: str) -> list[Diagnostic]:
    """Symbols that the program pushes and that are in none of the files."""
    known = [file.elf for file in files if file.elf is not None]
    if len(known) < len(files) or not known:
        return []  # What cannot be read is left open.
    faults = []
    for index, local in sorted(program.symbols):
        symbol = program.names[index]
        found: list[LocationError] = []
        for elf in known:
            try:
                if local:
                    thread_local(elf, symbol)
                else:
                    resolve_data(elf, symbol)
            except LocationError as error:
                found.append(error)
        if len(found) == len(known):
            at = program.symbol_place(index)
            place = (source, 0, 0) if at is None else (at.file, at.line, at.column)
            hint, note = _advice(found[0])
            faults.append(Diagnostic(*place, found[0].message, hint, note=note))
    return faults


def _fault(
    program: Program, probe: ProbeDefinition, files: Sequence[File], *, certain: bool
) -> LocationError | None:
    """Why a probe has a place in none of the files."""
    fault = None
    # As for the tracer, ``opcode`` vouches for an instruction where nothing else does.
    asserted = certain or probe.opcode is not None or probe.watchpoint is not None
    for file in files:
        if file.elf is None:
            return None
        try:
            for place in _places(file.elf, probe):
                if probe.watchpoint is not None:
                    check_watched(place, probe.address or "", probe.watchpoint)
                elif place.kind == "code":
                    check_boundary(place, asserted=asserted)
                    check_needs(place, needs_of(program, probe))
        except LocationError as error:
            fault = fault or error
        else:
            return None
    return fault


def _places(elf: Binary, probe: ProbeDefinition) -> Sequence[Place]:
    """The probe's places in a file; none for an address in memory, which is not the file's matter.

    Raises LocationError.
    """
    if probe.offset is not None:
        return resolve(elf, probe.offset)
    text = probe.address or ""
    if text[:1].isdigit():
        return ()
    return resolve(elf, text) if probe.watchpoint is None else (resolve_data(elf, text),)


def _advice(fault: LocationError) -> tuple[str, str]:
    """What to do about a fault, with the names that may be meant; and further lines."""
    if SIMILAR not in fault.hint:
        return fault.hint, "\n".join(fault.candidates)
    names = ", ".join(f"`{name}`" for name in fault.candidates)
    return fault.hint.replace(SIMILAR, f"did you mean {names}?"), ""


def diagnostic(
    program: Program, probe: ProbeDefinition, fault: LocationError, source: str
) -> Diagnostic:
    """What is wrong with the place of a probe, with the line in which that is written."""
    where = excerpt(program, probe, source)
    hint, note = _advice(fault)
    return Diagnostic(
        where.file,
        where.line,
        where.column,
        fault.message,
        hint,
        where.text,
        where.length,
        note,
    )
