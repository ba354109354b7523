"""What the language has and the kernel does not do: refused before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator

from dprobed.backend import BackendRefused
from dprobed.kernel.places import engine_of, is_module_name, place_of
from dprobed.program.exits import DEBUGGER
from dprobed.program.isa import Operand
from dprobed.program.keywords import HOOK, TRACEPOINT
from dprobed.program.model import ProbeDefinition, Program
from dprobed.program.registers import REGISTERS
from dprobed.wire.protocol import Insert


def check(program: Program, message: Insert) -> None:
    """Raise BackendRefused for what the kernel does not do, though the language has it."""
    for reason in _undone(program, message):
        raise BackendRefused(f"{message.label}: {reason}")


def _undone(program: Program, message: Insert) -> Iterator[str]:
    if message.budget is not None:
        yield "a budget is for processes: probes in the kernel have none"
    if any(one.kind == "value" and one.arguments for one in program.header.map):
        yield "values of several words (texts, tuples) are not in the kernel yet: keep numbers"
    if program.header.kernel:
        yield from _undone_in_kernel(program, message)
    else:
        yield from _undone_in_file(program)
    for probe in program.probes:
        if probe.logonfault:
            yield "`logonfault` is for processes: leave it out"


def _undone_in_kernel(program: Program, message: Insert) -> Iterator[str]:
    if not is_module_name(program.header):
        yield "name the kernel module as lsmod(8) does: `name = nf_tables`"
    if _has_debugger(program):
        yield "a kernel program cannot `exit debugger`: only processes have a debugger"
    for probe in program.probes:
        if probe.address is not None and probe.watchpoint is None:
            yield f"{probe.address}: write the place as `offset = function+N`, not as an address"
        if probe.opcode is not None and message.check_opcode:
            yield "`opcode` is not compared in the kernel: leave it out, or use --no-opcode-check"
        if place_of(probe).startswith((TRACEPOINT, HOOK)) and _sets_registers(program, probe):
            what = engine_of(probe)
            yield f"at a {what} there are no registers to alter: only its arguments are known"


def _undone_in_file(program: Program) -> Iterator[str]:
    """Of a program for processes, which has no tracer there."""
    instead = "a tracer does that: leave out --engine kernel"
    if _has_debugger(program):
        yield f"`exit debugger` holds a process: {instead}"
    for index, _ in program.symbols:
        name = program.names[index]
        yield f"`{name}` has an address of its own in each process: {instead}"
    for probe in program.probes:
        if probe.returns:
            yield f"`at = return` in a process: {instead}"
        for _, instruction, operands in program.instructions(probe):
            of = instruction.operands[:1] == (Operand.REGISTER,) and instruction.writes
            if of and not REGISTERS[operands[0]].may_pop(kernel=True):
                name = REGISTERS[operands[0]].name
                yield f"`{instruction.spelling},{name}`: {name} is not altered there: {instead}"


def _has_debugger(program: Program) -> bool:
    return not {DEBUGGER, "debugger"}.isdisjoint(program.facilities)


def _sets_registers(program: Program, probe: ProbeDefinition) -> bool:
    return any(each.spelling.startswith("pop r") for _, each, _ in program.instructions(probe))
