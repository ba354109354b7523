"""What is shown of a variable of a stopped thread."""

from __future__ import annotations

from dprobed.program.showing.nodes import Shown, ShownNothing
from dprobed.program.showing.values import Viewer
from dprobed.program.types import size_of
from dprobed.program.variables import (
    StoppedThread,
    Unreadable,
    VariableLocation,
    bytes_of,
    run,
)


def shown_variable(
    viewer: Viewer, index: int, location: VariableLocation, thread: StoppedThread
) -> Shown:
    """A variable of a type at a location; where it has no value, why."""
    try:
        if location.kind == "memory":
            return viewer.at(index, run(location.steps, thread))
        return viewer.of(index, bytes_of(location, size_of(viewer.types, index), thread))
    except Unreadable as error:
        return ShownNothing(str(error))
