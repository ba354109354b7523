"""Sums of local variables: of one program in several processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dprobed.daemon.target import InsertedProgram
from dprobed.program.isa import WORD_MASK
from dprobed.program.model import Header
from dprobed.wire import messages


class VariableSums:
    """The sums of a program's local variables over processes; they wrap as words do."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self.words = [0] * header.vars
        self.processes = 0

    def add(self, words: Sequence[int], processes: int = 1) -> None:
        """Add those of one process, or the sums of several."""
        self.words = [(a + b) & WORD_MASK for a, b in zip(self.words, words, strict=True)]
        self.processes += processes

    def info(self, number: int, label: str) -> messages.VariablesInfo:
        """As clients get them."""
        return messages.VariablesInfo(
            number=number,
            program=label,
            processes=self.processes,
            names=list(self._header.names),
            words=self.words,
        )


def variables_of(programs: Iterable[InsertedProgram]) -> list[messages.VariablesInfo]:
    """The sums for each of the programs that has variables, over its processes."""
    found: dict[int, tuple[str, VariableSums]] = {}
    for inserted in programs:
        header = inserted.program.header
        if header.vars:
            _, sums = found.setdefault(inserted.number, (inserted.label, VariableSums(header)))
            sums.add(inserted.variables)
    return [sums.info(number, label) for number, (label, sums) in found.items()]
