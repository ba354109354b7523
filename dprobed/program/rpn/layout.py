"""Lays a parsed file out as a program, has it verified, and reports at places in the source."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dprobed.program.builder import Builder, Label
from dprobed.program.isa import BY_KEY
from dprobed.program.keywords import ENTRY_PART, RETURN_PART, STARTERS
from dprobed.program.model import Diagnostic, Program, ProgramError
from dprobed.program.rpn.lexer import Diagnostics
from dprobed.program.rpn.sections import (
    ParsedFile,
    SourceInstruction,
    SourceSection,
    nearest,
    source_place,
)
from dprobed.program.verifier import Finding, check

_EXIT = BY_KEY["exit"]


class ProgramLayout:
    """One file on its way to a program; ``diagnostics``: what is wrong with it so far."""

    def __init__(self, file: ParsedFile, diagnostics: Diagnostics) -> None:
        self._file = file
        self._diagnostics = diagnostics

    def _program(self) -> tuple[Program, dict[int, SourceInstruction]]:
        """The program as far as it can be made, and the instruction at each code offset."""
        place = self._file.header.places.get("name")
        name_at = None if place is None else source_place(place[0])
        builder = Builder(name_at=name_at, **{"name": "-", **self._file.header.usable()})
        labels = {name: builder.label() for name in self._file.labels}
        placed: dict[tuple[int, int], list[Label]] = {}
        for name, found in self._file.labels.items():
            placed.setdefault((found.probe, found.position), []).append(labels[name])
        steps: dict[int, SourceInstruction] = {}
        for number, section in enumerate(self._file.probes):
            assert section.first is not None
            token = next((section.places[n][0] for n in STARTERS if n in section.places),
                         section.first)  # fmt: skip
            builder.probe(placed_at=source_place(token), **section.usable())
            for position, step in enumerate(section.instructions):
                if position == section.split:
                    steps |= self._end_part(
                        builder.split_probe, builder, section.instructions[position - 1]
                    )
                for label in placed.get((number, position), ()):
                    builder.place(label)
                operand = self._encoded(step, labels)
                steps[builder.add(step.instruction.key, operand, source_place(step.token))] = step
            for label in placed.get((number, len(section.instructions)), ()):
                builder.place(label)
            steps |= self._end(builder, section)
        return builder.program(), steps

    def _end(self, builder: Builder, section: SourceSection) -> dict[int, SourceInstruction]:
        """Let the probe end by `exit` where its instructions do not end it."""
        assert section.first is not None
        if ENTRY_PART in section.parts:
            token, _ = section.parts[ENTRY_PART]
            if section.split is None:
                self._diagnostics.at(token, "an entry part, and nothing runs at the return",
                                     "write `return:` and what runs then")  # fmt: skip
            elif section.split == len(section.instructions):
                token, _ = section.parts[RETURN_PART]
                self._diagnostics.at(token, "nothing runs at the return", "write at least `exit`")
        if section.instructions:
            return self._end_part(builder.end_probe, builder, section.instructions[-1])
        self._diagnostics.at(
            section.first, "the probe has no instructions", "write at least `exit`"
        )
        end = builder.end_probe()
        assert end is not None
        return {end: SourceInstruction(_EXIT, section.first, section.first.width, [])}

    @staticmethod
    def _end_part(
        end_part: Callable[[], int | None], builder: Builder, last: SourceInstruction
    ) -> dict[int, SourceInstruction]:
        """Let the instructions so far end by `exit` where ``last``, the last one, does not."""
        ending = SourceInstruction(_EXIT, last.token, last.width, [])
        steps = {}
        if last.broken:
            # Nobody knows where it would have gone on.
            steps[builder.add(_EXIT.key, at=source_place(last.token))] = ending
        end = end_part()
        return steps if end is None else {**steps, end: ending}

    def _encoded(
        self, step: SourceInstruction, labels: Mapping[str, Label]
    ) -> int | str | Label | None:
        """The operand as the builder takes it."""
        if not step.instruction.operands:
            return None
        if step.label is not None and step.label.text not in labels:
            step.broken = True
            self._diagnostics.at(
                step.label,
                f"there is no label `{step.label.text}`",
                nearest(step.label.text, self._file.labels),
            )
        if step.broken:
            # What was refused is encoded as a value that cannot be wrong a second time.
            return max(step.instruction.operands[0].low, 1)
        return step.value if step.label is None else labels[step.label.text]

    def verified(self) -> Program:
        """The program, if nothing is wrong with it; raises ProgramError with all that was found."""
        if "name" not in self._file.header.values and self._file.probes:
            self._diagnostics.add(
                Diagnostic(
                    self._file.name, 1, 1, "the program has no `name`", "write name = MODULE"
                )
            )
        program, steps = self._program()
        broken = frozenset(at for at, step in steps.items() if step.broken)
        # A keyword that was refused has its default here, which says nothing of the file.
        refused = tuple(f"write {name} =" for name in self._file.header.refused())
        for finding in check(program, broken):
            if not finding.hint.startswith(refused):
                self._report(finding, steps)
        if self._diagnostics.found:
            files = dict.fromkeys([self._file.name, *program.sources])
            order = {name: number for number, name in enumerate(files)}
            found = sorted(
                self._diagnostics.found, key=lambda d: (order.get(d.file, -1), d.line, d.column)
            )
            raise ProgramError(tuple(found))
        return program

    def _report(self, finding: Finding, steps: Mapping[int, SourceInstruction]) -> None:
        """A finding of the bytes, at its place in the source."""
        if finding.offset is not None:
            step = steps[finding.offset]
            token, width = step.token, step.width
            if finding.operand is not None and step.operand:
                token = step.operand[0]
                width = token.width
            self._diagnostics.at(token, finding.message, finding.hint, width, finding.note)
            return
        section = self._file.header if finding.probe is None else self._file.probes[finding.probe]
        place = section.places.get(finding.keyword or "")
        if place is not None:
            self._diagnostics.at(place[0], finding.message, finding.hint, place[1])
        elif section.first is not None:
            self._diagnostics.at(section.first, finding.message, finding.hint)
        else:
            self._diagnostics.add(Diagnostic(self._file.name, 1, 1, finding.message, finding.hint))
