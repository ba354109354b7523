"""Programs that run in the target: their native code, and their variables in shared memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from dprobed.engine.inline.compiling import compiled
from dprobed.engine.inline.shared import SharedVariables
from dprobed.program.exec.interface import Context, KeyedMap, Outcome
from dprobed.program.exec.native.abi import Blob
from dprobed.program.exec.python import PythonExecutor
from dprobed.program.exec.variables import ListVariables
from dprobed.program.maps import MapRoom
from dprobed.program.model import ProbeDefinition, Program


class InlineExecutor:
    """``Executor`` of a program all of whose code probes are served in the target.

    What it has besides is that of the executor that it is made of.
    """

    def __init__(self, python: PythonExecutor) -> None:
        self._python: Final = python
        self.locals: Final = SharedVariables(len(python.locals))
        #: What is added to the code offsets of each probe.
        self.bases: Final[dict[int, int]] = {}
        self._codes: Final[dict[int, Blob | str]] = {}

    @property
    def program(self) -> Program:
        """See Executor."""
        return self._python.program

    @property
    def maps(self) -> Sequence[KeyedMap]:
        """See Executor."""
        return self._python.maps

    @property
    def symbols(self) -> list[int]:
        """See Executor."""
        return self._python.symbols

    def entry(self, index: int) -> Callable[[Context], Outcome]:
        """See Executor."""
        return self._python.entry(index)

    def entry_part(self, index: int) -> Callable[[Context], Outcome] | None:
        """See Executor."""
        return self._python.entry_part(index)

    def native(self, probe: ProbeDefinition) -> Blob | str:
        """The code of a probe, or why there is none."""
        found = self._codes.get(probe.index)
        if found is None:
            part = self._python.part(probe)
            found = self._codes[probe.index] = compiled(part.unit)
            self.bases[probe.index] = part.base
        return found

    @property
    def size(self) -> int:
        """Bytes of all code that was made."""
        return sum(len(each.code) for each in self._codes.values() if isinstance(each, Blob))

    def copy(self, globals_: ListVariables, room: MapRoom | None = None) -> InlineExecutor:
        """See Executor."""
        other = InlineExecutor(self._python.copy(globals_, room))
        other.locals.write(0, self.locals.read())
        other._codes.update(self._codes)
        other.bases.update(self.bases)
        return other
