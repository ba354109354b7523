"""Every case file, through each executor, in both ways that it keeps the stack."""

from __future__ import annotations

import pytest

from dprobed.program.blocks import find_blocks
from dprobed.program.bytecode import decode, encode
from dprobed.program.exec.interface import Outcome
from dprobed.program.exec.python import PythonExecutor
from dprobed.program.exec.variables import ListVariables
from dprobed.program.isa import INSTRUCTIONS, WORD_MASK
from dprobed.program.model import Program, ProgramError
from dprobed.program.rpn.parser import assemble
from tests.programs.cases import Case, Result, Run, all_cases, check, hit
from tests.programs.executors import EXECUTORS, Maker
from tests.programs.walking import WalkingExecutor

CASES = all_cases()
RUN = [case for case in CASES if not case.refused and not case.accepted]
REFUSED = [case for case in CASES if case.refused]
ACCEPTED = [case for case in CASES if case.accepted]


def _name(case: Case) -> str:
    return f"{case.place} {case.name}"


#: Each with each. The one that walks takes seconds for what ends by its budget.
EACH = [
    pytest.param(
        case,
        executor,
        id=f"{_name(case)}-{'walking' if executor is WalkingExecutor else 'python'}",
        marks=[pytest.mark.slow] if executor is WalkingExecutor and "budget" in case.ends else [],
    )
    for executor in EXECUTORS
    for case in RUN
]


def _with(executor: Maker, static: bool) -> Run:
    def run(case: Case, program: Program) -> Result:
        facilities = dict(case.facilities)
        globals_ = ListVariables(len(case.globals))
        globals_.write(0, case.globals)
        made = executor(program, globals_, facilities, static=static)
        made.locals.write(0, case.locals)
        for symbol, value in case.symbols.items():
            made.symbols[program.names.index(symbol)] = value & WORD_MASK
        for name in case.lost:
            del facilities[name]
        context = case.context()
        outcome: Outcome | None = None
        for _ in range(case.runs):
            outcome = hit(made, context)
        assert outcome is not None
        found = {each.definition.name: each.contents() for each in made.maps}
        return Result(
            outcome,
            context,
            made.locals.read(),
            globals_.read(),
            {n: {tuple(key): cell for key, cell in each.entries} for n, each in found.items()},
            {name: each.lost for name, each in found.items()},
        )

    return run


@pytest.mark.parametrize(("case", "executor"), EACH)
def test_case(case: Case, executor: Maker) -> None:
    check(case, assemble(case.source(), case.place), _with(executor, static=True))


@pytest.mark.parametrize(("case", "executor"), EACH)
def test_case_with_the_stack_in_memory(case: Case, executor: Maker) -> None:
    program = decode(encode(assemble(case.source(), case.place)))
    check(case, program, _with(executor, static=False))


@pytest.mark.parametrize("case", REFUSED, ids=_name)
def test_refused(case: Case) -> None:
    with pytest.raises(ProgramError) as caught:
        PythonExecutor(assemble(case.source(), case.place), ListVariables(), case.facilities)
    for text in case.refused:
        assert text in str(caught.value)


@pytest.mark.parametrize("case", ACCEPTED, ids=_name)
def test_accepted(case: Case) -> None:
    program = assemble(case.source(), case.place)
    assert decode(encode(program)).code == program.code


def _used(cases: list[Case]) -> set[str]:
    keys = set()
    for case in cases:
        program = assemble(case.source(), case.place)
        probe = program.probes[0]
        for start in {probe.entry, probe.start}:
            for block in find_blocks(program.code, start):
                keys |= {step.instruction.key for step in block.steps}
    return keys


def test_every_instruction_has_a_case() -> None:
    user = {i.key for i in INSTRUCTIONS if not i.kernel_only}
    assert user - _used(RUN) == set()
    kernel = {i.key for i in INSTRUCTIONS if i.kernel_only}
    assert kernel - _used(ACCEPTED) == set()
