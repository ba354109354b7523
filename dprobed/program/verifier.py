"""Refuses programs that cannot be right, before any process is touched.

The checks work on the bytes of a program, so one that came as a ``.dpb`` file is held to the same
as one that was just assembled; the assembler only adds where in the source each byte comes from. A
verified program decodes instruction by instruction from its first byte to its last, jumps only to
instructions and only within the range of the same probe, calls only instructions, falls through
the end of no range, and has all its immediate operands in range. See ``flow`` for the depths.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence

import msgspec

from dprobed.program.cell_operand import cell_words
from dprobed.program.decoded import Decoded, decoded_code
from dprobed.program.disassembler import format_instruction
from dprobed.program.exits import DUMP
from dprobed.program.flow import Analysis
from dprobed.program.isa import (
    MAX_CODE,
    MAX_VARIABLES,
    STACK_WORDS,
    DecodeError,
    Flow,
    Operand,
)
from dprobed.program.keywords import (
    HEADER,
    MAX_OPCODE,
    PROBE,
    Keyword,
    Value,
    definition_errors,
    number_error,
    text_error,
    variable_names_error,
)
from dprobed.program.map_use import MapUse
from dprobed.program.maps import definitions_error
from dprobed.program.model import (
    MAX_DIAGNOSTICS,
    Diagnostic,
    Header,
    ProbeDefinition,
    Program,
    ProgramError,
)
from dprobed.program.parts import part_findings
from dprobed.program.registers import REGISTERS
from dprobed.program.values import MAX_SYMBOL, name_error

#: Probes, facilities and source files of one program.
MAX_PROBES = 10_000
MAX_FACILITIES = 256
MAX_NAMES = 256
MAX_SOURCES = 1000
_FACILITY = re.compile(r"[A-Za-z_][\w.-]{0,63}", re.ASCII)
#: Lines of the listing that goes with a wrong stack depth, before and after the place.
_LISTING = 12


class Finding(msgspec.Struct, frozen=True):
    """Something wrong, and where: at a code offset (``operand``: in that operand), or at a keyword
    of the header or of the probe at this place in ``Program.probes``."""

    message: str
    hint: str = ""
    offset: int | None = None
    operand: int | None = None
    probe: int | None = None
    keyword: str | None = None
    note: str = ""


def is_facility(value: int | str) -> bool:
    """Whether this can be what ``exit`` hands over to."""
    if isinstance(value, int):
        return 1 <= value <= 0xFFFF
    return _FACILITY.fullmatch(value) is not None


def check(program: Program, broken: frozenset[int] = frozenset()) -> list[Finding]:
    """Everything that is wrong with a program.

    ``broken``: code offsets of instructions that the assembler has refused already.
    """
    maps = _check_maps(program)
    findings = _check_keywords(program) + maps + _check_tables(program)
    if len(program.code) > MAX_CODE:
        findings.append(
            Finding(
                f"the program is too large: {len(program.code)} bytes of code, "
                f"{MAX_CODE} are possible",
                "split it into several programs",
            )
        )
        return findings
    try:
        code = decoded_code(program.code, broken)
    except DecodeError as error:
        return [*findings, Finding(error.message, offset=error.offset)]
    for decoded in code:
        if not decoded.broken:
            findings += _check_instruction(decoded, program)
    ranges = _check_ranges(program, code)
    jumps = _check_jumps(program, code)
    findings += ranges + jumps
    if not ranges:
        # What an instruction does that is refused already is not looked at any more.
        wrong = frozenset(finding.offset for finding in findings if finding.offset is not None)
        findings += _check_flow(program, code, wrong, maps_known=not maps)
    return findings


# -- header, definitions, tables ---------------------------------------------------------------


def _check_value(keyword: Keyword, value: object) -> str | None:
    if keyword.value in (Value.NUMBER, Value.NUMBER_OR_NAMES) and isinstance(value, int):
        return number_error(keyword, value)
    if value is None or keyword.value in (Value.YES_NO, Value.MAP):
        return None
    if isinstance(value, bytes):
        if 1 <= len(value) <= MAX_OPCODE:
            return None
        return f"`opcode` is 1 to {MAX_OPCODE} bytes, not {len(value)}"
    if keyword.value is Value.WORD:
        return None if value in keyword.choices else f"`{keyword.name}` is {keyword.range}"
    return text_error(keyword, str(value))


def _check_maps(program: Program) -> list[Finding]:
    wrong = definitions_error(program.header.map)
    return [] if wrong is None else [Finding(*wrong, keyword="map")]


def _check_keywords(program: Program) -> list[Finding]:
    found = []
    models: list[tuple[int | None, Header | ProbeDefinition, dict[str, Keyword]]] = [
        (None, program.header, HEADER)
    ]
    models += [(place, probe, PROBE) for place, probe in enumerate(program.probes)]
    for place, model, known in models:
        for name, keyword in known.items():
            message = _check_value(keyword, getattr(model, name))
            if message is not None:
                found.append(Finding(message, probe=place, keyword=name))
    names = program.header.names
    wrong = variable_names_error(names)
    if wrong is None and names and len(names) != program.header.vars:
        wrong = f"{len(names)} names for {program.header.vars} variables"
    if wrong is not None:
        found.append(Finding(wrong, keyword="vars"))
    for place, probe in enumerate(program.probes):
        for name, message, hint in definition_errors(program.header, probe):
            found.append(Finding(message, hint, probe=place, keyword=name))
    return found


def _check_tables(program: Program) -> list[Finding]:
    found = []
    if not program.probes:
        found.append(
            Finding("the program has no probe", "begin a definition with `offset = PLACE`")
        )
    if len(program.probes) > MAX_PROBES:
        found.append(
            Finding(f"{len(program.probes)} probes; {MAX_PROBES} are possible in a program")
        )
    if len(program.facilities) > MAX_FACILITIES:
        found.append(Finding(f"more than {MAX_FACILITIES} different facilities"))
    if len(set(program.facilities)) != len(program.facilities):
        found.append(Finding("a facility is listed twice"))
    found += [
        Finding(f"`{facility}` is not a facility", "a number from 1 to 65535, or a name")
        for facility in program.facilities
        if not is_facility(facility)
    ]
    if len(program.names) > MAX_NAMES:
        found.append(Finding(f"more than {MAX_NAMES} different names"))
    if len(set(program.names)) != len(program.names):
        found.append(Finding("a name is listed twice"))
    found += [
        Finding("a name is empty, too long, or has a control character in it")
        for name in program.names
        if not 0 < len(name) <= MAX_SYMBOL or not name.isprintable()
    ]
    if len(program.sources) > MAX_SOURCES:
        found.append(Finding(f"more than {MAX_SOURCES} source files"))
    if any(source == "" or not source.isprintable() for source in program.sources):
        found.append(Finding("a source file's name is empty or has a control character in it"))
    offsets = [offset for offset, _, _ in program.lines]
    if offsets != sorted(set(offsets)):
        found.append(Finding("the lines' code offsets do not ascend"))
    if any(s >= len(program.sources) or not 0 < n < 1 << 31 for _, s, n in program.lines):
        found.append(Finding("a line's number or source file does not exist"))
    found += _check_places(program)
    return found


def _check_places(program: Program) -> list[Finding]:
    """Where in the source things are written."""
    found = []
    if program.columns and len(program.columns) != len(program.lines):
        found.append(Finding("there is not one column for each line"))
    if program.probes_at and len(program.probes_at) != len(program.probes):
        found.append(Finding("there is not one place in the source for each probe"))
    places = [place for place in (program.name_at, *program.probes_at) if place is not None]
    if any(p.source >= len(program.sources) or not 0 < p.line < 1 << 31 for p in places):
        found.append(Finding("a place's line or source file does not exist"))
    return found


# -- instructions ------------------------------------------------------------------------------


def _check_instruction(decoded: Decoded, program: Program) -> list[Finding]:
    instruction = decoded.instruction
    found = []
    if instruction.kernel_only and not program.header.kernel:
        found.append(
            Finding(
                f"`{instruction.spelling}` is for kernel programs only",
                "the program's modtype is user",
                offset=decoded.offset,
            )
        )
    for position, kind in enumerate(instruction.operands):
        wrong = _operand_error(decoded, kind, decoded.operands[position], program)
        if wrong is not None:
            found.append(Finding(*wrong, offset=decoded.offset, operand=position))
    return found


def range_error(kind: Operand, value: int) -> tuple[str, str] | None:
    """Message and hint when an operand of this kind cannot have this value."""
    low = -(1 << 63) if kind is Operand.WORD else kind.low
    if low <= value <= kind.high:
        return None
    if kind is Operand.WORD:
        return "the number does not fit into a 64-bit word", ""
    return f"{value} is out of range: {kind.low} to {kind.high} is possible", ""


def _operand_error(
    decoded: Decoded, kind: Operand, value: int, program: Program
) -> tuple[str, str] | None:
    wrong = range_error(kind, value)
    if wrong is not None:
        return wrong
    if kind is Operand.REGISTER:
        return _register_error(decoded, value, program.header)
    if kind is Operand.FACILITY:
        return _facility_error(decoded, value, program)
    if kind in (Operand.NAME, Operand.SYMBOL):
        return _name_error(kind, value, program)
    number = decoded.instruction.map_index((value,))
    if number is not None:
        if number >= len(program.header.map):
            return f"map number {number} of the program's header does not exist", ""
        if kind is Operand.CELL and not cell_words(value):
            return "a value has one word at least", ""
        return None
    if kind is Operand.U16:
        return _variable_error(decoded.instruction.group, value, program.header)
    return None


def _facility_error(decoded: Decoded, value: int, program: Program) -> tuple[str, str] | None:
    if value >= len(program.facilities):
        return f"facility number {value} of the program's list does not exist", ""
    facility = program.facilities[value]
    if decoded.instruction.suffix and facility not in ("dump", DUMP):
        written = f"{decoded.instruction.spelling} {facility}"
        return f"only `exit dump` can be `{decoded.instruction.suffix}`", f"write `{written}`"
    return None


def _name_error(kind: Operand, value: int, program: Program) -> tuple[str, str] | None:
    if value >= len(program.names):
        return f"name number {value} of the program's list does not exist", ""
    if kind is Operand.NAME:
        wrong = name_error(program.names[value])
        return None if wrong is None else (wrong, "choose another name")
    return None


def _variable_error(group: str, value: int, header: Header) -> tuple[str, str] | None:
    keyword = {"locals": "vars", "globals": "gvars"}.get(group)
    if keyword is None:
        return None
    count: int = getattr(header, keyword)
    if value < count:
        return None
    if value >= MAX_VARIABLES:
        return f"the index is 0 to {MAX_VARIABLES - 1}, not {value}", ""
    have = "none" if count == 0 else f"0 to {count - 1}"
    return (
        f"there is no {group[:-1]} variable {value}; the program has {have}",
        ""
        if header.names and keyword == "vars"
        else f"write {keyword} = {value + 1} in the header",
    )


def _register_error(decoded: Decoded, value: int, header: Header) -> tuple[str, str] | None:
    if value >= len(REGISTERS):
        return f"unknown register number {value}", ""
    register = REGISTERS[value]
    whose = "kernel" if header.kernel else "user"
    if register.kernel_only and not header.kernel:
        return f"register {register.name} is for kernel programs only", ""
    if register.kernel_only and decoded.instruction.spelling.endswith("u"):
        return f"a task has no register {register.name} in user mode", "use `push r`"
    if decoded.instruction.writes and not register.may_pop(header.kernel):
        return (
            f"register {register.name} is not to be altered by a {whose} program",
            "it can be pushed only",
        )
    return None


def _check_ranges(program: Program, code: Sequence[Decoded]) -> list[Finding]:
    """Probes' ranges: in order, on instructions, and none is left through its end."""
    found = []
    starts = {decoded.offset for decoded in code}
    last = {decoded.next: decoded for decoded in code}
    before, index = 0, -1
    for place, probe in enumerate(program.probes):
        if probe.index <= index:
            found.append(Finding("the probes' indices do not ascend", probe=place))
        index = probe.index
        if not (before <= probe.entry < probe.end) or probe.entry not in starts:
            found.append(Finding("the probe's code range is not valid", probe=place))
            return found
        before = probe.end
        if probe.split and not (probe.entry < probe.split < probe.end and probe.split in starts):
            found.append(Finding("the code range of the probe's return part is not valid",
                                 probe=place))  # fmt: skip
            return found
        if probe.split and not probe.returns:
            found.append(Finding("only a probe at the return has an entry part", probe=place))
        if probe.end not in last:
            found.append(Finding("the probe's code range ends in an instruction", probe=place))
            return found
    for end in sorted({*_edges(program), len(program.code)} - {0}):
        decoded = last[end]
        if decoded.broken or decoded.instruction.flow.falls_through:
            found.append(
                Finding("runs past the end of its probe's code", "add `exit`", decoded.offset)
            )
    return found


def _edges(program: Program) -> list[int]:
    """The code offsets at which a probe, or a part of one, begins or ends; ascending."""
    edges = {edge for probe in program.probes for edge in (probe.entry, probe.start, probe.end)}
    return sorted(edges)


def _check_jumps(program: Program, code: Sequence[Decoded]) -> list[Finding]:
    found = []
    starts = {decoded.offset for decoded in code}
    edges = _edges(program)
    for decoded in code:
        target = decoded.target
        if target is None:
            continue
        verb = "call" if decoded.instruction.flow is Flow.CALL else "jump"
        message, hint = "", ""
        if target >= len(program.code):
            message = f"{verb} to code offset {target:#x}, outside of the program"
        elif target not in starts:
            message = f"{verb} to code offset {target:#x}, into the middle of an instruction"
        elif verb == "jump" and (
            bisect.bisect_right(edges, target) != bisect.bisect_right(edges, decoded.offset)
        ):
            message = "jump to another probe's instructions"
            hint = "a probe may only `call` what is outside of it"
            if any(
                probe.entry
                <= min(target, decoded.offset)
                < probe.split
                <= max(target, decoded.offset)
                < probe.end
                for probe in program.probes
            ):
                message = "jump from one part of the probe into the other"
                hint = "the entry part runs at the entry, the other one at the return"
        if message:
            found.append(Finding(message, hint, decoded.offset, 0))
    return found


# -- depths ------------------------------------------------------------------------------------


def _check_flow(
    program: Program, code: Sequence[Decoded], wrong: frozenset[int], *, maps_known: bool
) -> list[Finding]:
    usable = [
        Decoded(d.offset, d.instruction, d.operands, d.next, True) if d.offset in wrong else d
        for d in code
    ]
    starts = sorted({at for probe in program.probes for at in (probe.entry, probe.start)})
    analysis = Analysis(usable, starts)
    analysis.run()
    use = MapUse(usable, starts).findings(program.header.map) if maps_known else []
    found = [
        Finding(finding.message, finding.hint, finding.offset)
        for finding in part_findings(program, usable)
    ]
    return found + [
        Finding(
            finding.message,
            finding.hint,
            finding.offset,
            note=_listing(program, code, analysis, finding.offset) if finding.depth else "",
        )
        for finding in [*analysis.findings, *use][:MAX_DIAGNOSTICS]
    ]


def _listing(program: Program, code: Sequence[Decoded], analysis: Analysis, offset: int) -> str:
    """The instructions around an offset, within the same range, with the depth before each."""
    edges = _edges(program)
    home = bisect.bisect_right(edges, offset)
    near = [d for d in code if bisect.bisect_right(edges, d.offset) == home]
    here = next(i for i, d in enumerate(near) if d.offset == offset)
    lines = {code_offset: line for code_offset, _, line in program.lines}
    shown = near[max(0, here - _LISTING) : here + _LISTING // 3]
    rows = ["stack depth before each instruction:", "  line  offset  depth"]
    for decoded in shown:
        low, high = analysis.depths.get(decoded.offset, (-1, -1))
        depth = "-" if low < 0 else str(low) if low == high else f"{low}..{high}"
        if (low, high) == (0, STACK_WORDS):
            depth = "?"
        text = format_instruction(decoded.instruction, decoded.operands, program, {})
        mark = ">" if decoded.offset == offset else " "
        line = lines.get(decoded.offset, "")
        rows.append(f"{mark} {line:>4}  {decoded.offset:#06x}  {depth:>5}  {text}")
    return "\n".join(rows)


# -- programs that have no source ----------------------------------------------------------------


def _diagnostic(program: Program, finding: Finding, file: str) -> Diagnostic:
    name = file or program.source_name or "program"
    place = name
    if finding.offset is not None:
        place = f"{name}: code offset {finding.offset:#x}"
        known = [entry for entry in program.lines if entry[0] <= finding.offset]
        if known and known[-1][1] < len(program.sources):
            _, source, line = known[-1]
            place += f" ({program.sources[source]} line {line})"
    elif finding.probe is not None:
        place = f"{name}: probe {program.probes[finding.probe].index}"
    elif finding.keyword is not None:
        place = f"{name}: header"
    return Diagnostic(place, 0, 0, finding.message, finding.hint, note=finding.note)


def verify(program: Program, file: str = "") -> None:
    """Raise ProgramError with everything that is wrong; positions are code offsets.

    ``file``: the name to report it by, else that of its source.
    """
    findings = check(program)[:MAX_DIAGNOSTICS]
    if findings:
        raise ProgramError(tuple(_diagnostic(program, finding, file) for finding in findings))
