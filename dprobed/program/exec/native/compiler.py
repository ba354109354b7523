"""A unit as a blob: only the compiler process imports this, since it brings LLVM."""

from __future__ import annotations

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
    emitter = Emitter(lower(unit, static))
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
    )
