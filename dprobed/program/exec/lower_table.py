"""The table of lowerings: how each instruction becomes intermediate representation, by its key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dprobed.program.blocks import Step
from dprobed.program.exceptions import OPERAND_GLOBAL, OPERAND_LOCAL
from dprobed.program.exec.ir import Space
from dprobed.program.exec.lowering import Lowering

Lower = Callable[[Lowering, Step], None]

#: How each instruction is lowered, by its key.
LOWERINGS: Final[dict[str, Lower]] = {}


def lowers(*keys: str) -> Callable[[Lower], Lower]:
    """Register a function for the instructions with these keys."""

    def register(function: Lower) -> Lower:
        for key in keys:
            assert key not in LOWERINGS, key
            LOWERINGS[key] = function
        return function

    return register


#: Which variables an instruction on ``lv`` or ``gv`` means, and the operand code of its exception.
SPACES: Final = {"lv": (Space.LOCAL, OPERAND_LOCAL), "gv": (Space.GLOBAL, OPERAND_GLOBAL)}
#: The sizes of numbers in memory and in heap blocks.
SIZES: Final = ("u8", "u16", "u32", "u64")


def variable_count(to: Lowering, space: Space) -> int:
    """The number of variables that the program declares."""
    return to.header.vars if space is Space.LOCAL else to.header.gvars
