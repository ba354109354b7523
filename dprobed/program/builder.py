"""Makes programs: header, probes, instructions and labels in order, without any source text.

    builder = Builder(name="libc.so.6", vars=1)
    builder.probe(offset="malloc")
    again = builder.label()
    builder.place(again)
    builder.add("inc lv,index", 0)
    builder.add("push r,register", "rdi")
    builder.add("jz label", again)
    builder.add("exit facility", "dump")
    program = builder.build()

Every front end of the language ends here: it says what is written where (``SourcePlace``), and
needs to know neither how instructions are encoded nor how a program keeps its lines.
"""

from __future__ import annotations

from typing import Any, Final

from dprobed.program.cell_operand import cell_operand
from dprobed.program.isa import BY_KEY, Operand, encode_one
from dprobed.program.model import Header, ProbeDefinition, Program, SourcePlace, Written
from dprobed.program.registers import REGISTER_INDEX
from dprobed.program.verifier import verify

_LABEL_SIZE: Final = Operand.LABEL.size
#: Columns are kept in 16 bits; what is further right is at an unknown one.
_MAX_COLUMN: Final = 0xFFFF


class Label:
    """A place in the code; ``Builder.place`` says where."""

    __slots__ = ("offset",)

    def __init__(self) -> None:
        self.offset: int | None = None


class Builder:
    """One program in the making. Keywords are fields of ``Header`` and ``ProbeDefinition``;
    ``vars`` may be a tuple of names.

    What is wrong with the program itself is for the verifier; a caller's own mistakes (an unknown
    key, a label that was never placed) raise KeyError or ValueError.
    """

    def __init__(self, *, name_at: SourcePlace | None = None, **header: Any) -> None:
        names = header.get("vars")
        if isinstance(names, tuple):
            header |= {"vars": len(names), "names": names}
        self._header = Header(**header)
        self._code = bytearray()
        self._probes: list[dict[str, Any]] = []
        self._facilities: list[int | str] = []
        self._names: list[str] = []
        self._sources: dict[str, int] = {}
        self._lines: list[tuple[int, int, int]] = []
        self._columns: list[int] = []
        self._jumps: list[tuple[int, Label]] = []
        self._last: tuple[str, SourcePlace | None] | None = None
        self._labelled = False
        self._name_at = name_at
        self._places: list[SourcePlace | None] = []

    def probe(self, *, placed_at: SourcePlace | None = None, **keywords: Any) -> None:
        """Begin a probe definition; ``placed_at``: where its offset or address is written."""
        self.end_probe()
        self._probes.append({**keywords, "entry": len(self._code)})
        self._places.append(placed_at)

    def split_probe(self) -> int | None:
        """What was added so far is the probe's entry part; what follows runs at the return.

        Where an `exit` was added, as ``end_probe`` does.
        """
        added = self._end_part()
        self._probes[-1]["split"] = len(self._code)
        return added

    def end_probe(self) -> int | None:
        """Let the probe end by `exit` if its instructions do not end it; where that `exit` is."""
        if not self._probes or "end" in self._probes[-1]:
            return None
        added = self._end_part()
        self._probes[-1]["end"] = len(self._code)
        return added

    def _end_part(self) -> int | None:
        ended = self._last is not None and not BY_KEY[self._last[0]].flow.falls_through
        added = None
        if not ended or self._labelled:
            added = self.add("exit", at=self._last[1] if self._last else self._places[-1])
        self._last = None
        return added

    def label(self) -> Label:
        """A new label; labels hold for the whole program."""
        return Label()

    def place(self, label: Label) -> None:
        """The label is at the next instruction of this probe."""
        if label.offset is not None:
            raise ValueError("the label is placed already")
        label.offset = len(self._code)
        self._labelled = True

    def add(
        self, key: str, operand: int | str | Label | None = None, at: SourcePlace | None = None
    ) -> int:
        """Add the instruction with this key of the table; its code offset.

        ``operand``: a number, a label, the name of a register, the number or name of a facility, a
        value's name, a symbol, a map's name.
        """
        instruction = BY_KEY[key]
        offset = len(self._code)
        operands: tuple[int, ...] = ()
        if instruction.operands:
            operands = (self._operand(instruction.operands[0], operand),)
        if isinstance(operand, Label):
            self._jumps.append((offset + 1, operand))
        self._code += encode_one(instruction, operands)
        if at is not None:
            self._lines.append((offset, self._source(at), at.line))
            self._columns.append(_column(at))
        self._last, self._labelled = (key, at), False
        return offset

    def _operand(self, kind: Operand, operand: int | str | Label | None) -> int:
        if isinstance(operand, Label):
            if kind is not Operand.LABEL:
                raise ValueError(f"a label is no {kind.text}")
            return 0
        if operand is None:
            raise ValueError(f"there is no {kind.text}")
        if kind is Operand.FACILITY:
            if operand not in self._facilities:
                self._facilities.append(operand)
            return self._facilities.index(operand)
        if kind in (Operand.NAME, Operand.SYMBOL) and isinstance(operand, str):
            if operand not in self._names:
                self._names.append(operand)
            return self._names.index(operand)
        if kind in (Operand.MAP, Operand.CELL) and isinstance(operand, str):
            index = [one.name for one in self._header.map].index(operand)
            words = self._header.map[index].words
            return index if kind is Operand.MAP else cell_operand(index, words)
        return REGISTER_INDEX[operand] if isinstance(operand, str) else operand

    def _source(self, at: SourcePlace) -> int:
        return self._sources.setdefault(at.file, len(self._sources))

    def _written(self, at: SourcePlace | None) -> Written | None:
        return None if at is None else Written(self._source(at), at.line, _column(at))

    def program(self) -> Program:
        """What there is so far, which nobody has verified."""
        self.end_probe()
        for at, label in self._jumps:
            if label.offset is None:
                raise ValueError("a label was never placed")
            self._code[at : at + _LABEL_SIZE] = label.offset.to_bytes(_LABEL_SIZE, "little")
        known = any(place is not None for place in self._places)
        probes_at = tuple(map(self._written, self._places)) if known else ()
        return Program(
            self._header,
            tuple(ProbeDefinition(index=n, **each) for n, each in enumerate(self._probes)),
            bytes(self._code),
            tuple(self._facilities),
            tuple(self._lines),
            name_at=self._written(self._name_at),
            probes_at=probes_at,
            columns=tuple(self._columns) if any(self._columns) else (),
            sources=tuple(self._sources),
            names=tuple(self._names),
        )

    def build(self) -> Program:
        """The verified program; raises ProgramError."""
        program = self.program()
        verify(program)
        return program


def _column(at: SourcePlace) -> int:
    return at.column if at.column <= _MAX_COLUMN else 0
