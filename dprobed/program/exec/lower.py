"""Bytecode into the intermediate representation: one function of IR for each probe.

What each instruction is made of is in ``lower_words``, ``lower_functions``, ``lower_effects`` and
``lower_maps``.
"""

from __future__ import annotations

from dprobed.program.blocks import Step
from dprobed.program.exec import (  # noqa: F401
    ir,
    lower_effects,
    lower_functions,
    lower_maps,
    lower_words,
)
from dprobed.program.exec.lower_table import LOWERINGS
from dprobed.program.exec.lowering import Lowering, Unit


def lower(unit: Unit, static: bool = True) -> ir.Function:
    """The function of one probe; ``static`` false keeps its stack in memory in any case."""
    lowering = Lowering(unit, static)
    blocks = []
    for block in lowering.blocks:
        lowering.begin(block)
        for step in block.steps:
            lowering.check_wrap(step)
            lower_step(lowering, step)
        blocks.append(lowering.finish(block))
    return lowering.function(tuple(blocks))


def lower_step(to: Lowering, step: Step) -> None:
    """Lower one instruction."""
    LOWERINGS[step.instruction.key](to, step)
