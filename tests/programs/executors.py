"""The executors that tests of the language take as a parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from dprobed.program.exec.interface import Executor
from dprobed.program.exec.python import PythonExecutor
from dprobed.program.exec.variables import ListVariables
from dprobed.program.model import Program
from tests.programs import walking_maps  # noqa: F401
from tests.programs.walking import WalkingExecutor


class Maker(Protocol):
    """Makes an executor; ``static`` false keeps every stack in memory."""

    def __call__(
        self,
        program: Program,
        globals_: ListVariables,
        facilities: Mapping[str, int],
        *,
        static: bool = True,
    ) -> Executor[ListVariables]: ...


EXECUTORS: Final[tuple[Maker, ...]] = (PythonExecutor, WalkingExecutor)
