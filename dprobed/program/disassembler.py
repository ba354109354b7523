"""A program back into source text, from which the same bytes are assembled again.

``#line`` directives carry the files and lines of the first source, and what has a column there is
indented to it, so that not even the debug information differs (but for a column that a macro's use
has, where the text does not fit in front of it). A program of which only a part was selected is
refused: its probes keep their index and their code, which no source text can say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dprobed.program.isa import WORD_MASK, Instruction, Operand, decode_at
from dprobed.program.keywords import (
    ENTRY_PART,
    HEADER,
    PROBE,
    RETURN_PART,
    Keyword,
    Value,
    defaults,
    quote,
    quoted,
)
from dprobed.program.model import (
    Diagnostic,
    Header,
    ProbeDefinition,
    Program,
    ProgramError,
    Written,
)
from dprobed.program.registers import REGISTERS

_HEX_FROM = 1024


def format_number(value: int) -> str:
    """A word as it is easiest to read: small ones decimal, also the negative, others in hex."""
    if value < _HEX_FROM:
        return str(value)
    if WORD_MASK - value < _HEX_FROM:
        return str(value - WORD_MASK - 1)
    return hex(value)


def format_instruction(
    instruction: Instruction,
    operands: tuple[int, ...],
    program: Program,
    labels: Mapping[int, str],
) -> str:
    """One instruction as source text."""
    words = []
    for kind, value in zip(instruction.operands, operands, strict=True):
        if kind is Operand.LABEL:
            words.append(labels.get(value, f"{value:#06x}"))
        elif kind is Operand.REGISTER:
            words.append(REGISTERS[value].name if value < len(REGISTERS) else str(value))
        elif kind is Operand.FACILITY:
            known = value < len(program.facilities)
            words.append(str(program.facilities[value]) if known else f"#{value}")
        elif kind in (Operand.NAME, Operand.SYMBOL):
            known = value < len(program.names)
            words.append(program.names[value] if known else f"#{value}")
        elif kind in (Operand.MAP, Operand.CELL):
            maps = program.header.map
            index = instruction.map_index(operands) or 0
            words.append(maps[index].name if index < len(maps) else f"#{index}")
        elif kind is Operand.U16 and instruction.group == "locals":
            names = program.header.names
            words.append(names[value] if value < len(names) else str(value))
        else:
            words.append(format_number(value) if kind is Operand.WORD else str(value))
    if instruction.suffix:
        words.append(instruction.suffix)
        return " ".join((instruction.spelling, *words))
    separator = "," if " " in instruction.name else " "
    return separator.join((instruction.spelling, *words))


def _value(keyword: Keyword, value: object) -> str:
    if keyword.value is Value.YES_NO:
        return "yes" if value else "no"
    if isinstance(value, bytes):
        return " ".join(f"{byte:#04x}" for byte in value)
    if keyword.name == "ex_mask" and isinstance(value, int):
        return f"{value:#06x}"
    if isinstance(value, str) and keyword.value not in (Value.WORD, Value.NUMBER_OR_NAMES):
        return quoted(keyword, value)
    return str(value)


def _keywords(known: Mapping[str, Keyword], model: Header | ProbeDefinition) -> Iterator[str]:
    unset = defaults(type(model))
    for name, keyword in known.items():
        value = getattr(model, name)
        if name == "vars" and isinstance(model, Header) and model.names:
            value = ", ".join(model.names)
        if keyword.repeats:
            yield from (f"{name} = {each}" for each in value)
        elif name not in unset or value != unset[name]:
            yield f"{name} = {_value(keyword, value)}"


def _labels(program: Program) -> dict[int, str]:
    targets: set[int] = set()
    offset = 0
    while offset < len(program.code):
        instruction, operands, offset = decode_at(program.code, offset)
        if Operand.LABEL in instruction.operands:
            targets.add(operands[0])
    return {target: f"L{number}" for number, target in enumerate(sorted(targets), 1)}


class _Writer:
    """Output lines, and which source line the assembler will take the next one for."""

    def __init__(self, program: Program) -> None:
        self._program = program
        columns = program.columns or (0,) * len(program.lines)
        self._places = {
            offset: Written(source, line, column)
            for (offset, source, line), column in zip(program.lines, columns, strict=True)
        }
        self.text: list[str] = []
        self._next: tuple[int, int] | None = None

    def plain(self, line: str = "") -> None:
        """A line that may be taken for any of the source."""
        self.text.append(line)
        if self._next is not None:
            self._next = (self._next[0], self._next[1] + 1)

    def keyword(self, line: str, value_at: Written | None) -> None:
        """A keyword's line, with its value where it was written."""
        indent = ""
        if value_at is not None:
            self._go_to(value_at)
            name, _, value = line.partition(" = ")
            indent = " " * (value_at.column - len(line) + len(value) - 1)
            if value_at.column == len(name) + 2:
                line = f"{name}={value}"
        self.plain(indent + line)

    def instruction(self, offset: int, text: str) -> None:
        """An instruction, where it was written."""
        at = self._places.get(offset)
        indent = "    "
        if at is not None:
            self._go_to(at)
            indent = " " * (at.column - 1) if at.column else indent
        self.plain(f"{indent}{text:<32}// {offset:#06x}")

    def _go_to(self, at: Written) -> None:
        """Let the next line be taken for the one of a place."""
        wanted = at.source, at.line
        if wanted != self._next:
            named = self._next is None or self._next[0] != at.source
            name = " " + quote(self._program.sources[at.source]) if named else ""
            self.text.append(f"#line {at.line}{name}")
            self._next = wanted


def _check_whole(program: Program) -> None:
    """The probes of a whole program share all of its code out among them."""
    cuts = [0, *(cut for probe in program.probes for cut in (probe.entry, probe.end))]
    cuts.append(len(program.code))
    if cuts[::2] != cuts[1::2]:
        only = ", ".join(str(probe.index) for probe in program.probes)
        raise ProgramError(
            (
                Diagnostic(
                    program.source_name or program.header.name,
                    0,
                    0,
                    f"only a part of this program was selected (probes {only}); source text "
                    "cannot say that",
                    "disassemble the whole program",
                ),
            )
        )


def disassemble(program: Program) -> str:
    """Source text of a verified program; raises ProgramError if only a part of it is left."""
    _check_whole(program)
    labels = _labels(program)
    writer = _Writer(program)
    for line in _keywords(HEADER, program.header):
        writer.keyword(line, program.name_at if line.startswith("name = ") else None)
    places = program.probes_at or (None,) * len(program.probes)
    starts = {probe.entry: (probe, at) for probe, at in zip(program.probes, places, strict=True)}
    splits = {probe.split for probe in program.probes if probe.split}
    offset = 0
    while offset < len(program.code):
        if offset in starts:
            writer.plain()
            probe, at = starts[offset]
            for line in _keywords(PROBE, probe):
                writer.keyword(line, at if line.startswith(("offset = ", "address = ")) else None)
            if probe.split:
                writer.plain(f"{ENTRY_PART}:")
        if offset in splits:
            writer.plain(f"{RETURN_PART}:")
        if offset in labels:
            writer.plain(f"{labels[offset]}:")
        instruction, operands, following = decode_at(program.code, offset)
        writer.instruction(offset, format_instruction(instruction, operands, program, labels))
        offset = following
    return "\n".join(writer.text) + "\n"
