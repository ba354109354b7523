"""A unit as a blob: only the compiler process imports this, since it brings LLVM."""

from __future__ import annotations

from dprobed.program.exec import ir
from dprobed.program.exec.lower import lower
from dprobed.program.exec.lowering import Unit
from dprobed.program.exec.native import effects, keyed, words  # noqa: F401
from dprobed.program.exec.native.abi import Blob
from dprobed.program.exec.native.emitter import Emitter
from dprobed.program.exec.native.machine_code import machine_code


def compile_unit(unit: Unit, static: bool = True) -> Blob:
    """Its blob; ``static`` false keeps its stack in memory in any case.

    ``why_not`` has found nothing in it. Raises MachineCodeError where LLVM made of it what may not
    run in a target.
    """
    function = lower(unit, static)
    emitter = Emitter(function)
    emitter.emit()
    code = machine_code(emitter.module)
    return Blob(
        code.code,
        emitter.reads,
        emitter.writes,
        code.clobbers,
        int(emitter.needs),
        code.stack_bytes,
        emitter.layout.size,
        emitter.log_bytes,
        emitter.raw_pairs,
        tuple(emitter.facilities),
        adds=not any(_looks_at_locals(op) for block in function.blocks for op in block.ops),
    )


def _looks_at_locals(op: ir.Op) -> bool:
    """Whether an operation does more to local variables than to add to them."""
    match op:
        case ir.ReadVariable() | ir.WriteVariable() | ir.LogVariables():
            return op.space is ir.Space.LOCAL
        case ir.ShowInTraces():
            return op.shown is ir.Shown.LOCALS
    return False
