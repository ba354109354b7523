"""Drawn programs in the kernel: what comes of two hits is what Python's executor says.

``DPROBED_DRAWN_IN_KERNEL``: how many are drawn (``make drawn`` draws more).
"""

from __future__ import annotations

import os
from typing import NamedTuple

import msgspec
from hypothesis import given

from dprobed.program.exec.interface import Outcome
from dprobed.program.exec.python import PythonExecutor
from dprobed.program.exec.variables import ListVariables
from dprobed.program.exits import ABORT, EXCEPTION, REM
from dprobed.program.maps import MapContents
from dprobed.program.model import Program
from tests.kernel.device import GETPPID, Device, Hit, KernelProgram, check
from tests.kernel.test_bridge import PLACE
from tests.kernel.test_cases_in_kernel import contents, is_of_any_machine
from tests.programs.cases import Case, FakeContext
from tests.unit.program.exec.test_generated_programs import (
    FACILITIES,
    PLAIN_MAPS,
    USER,
    drawing,
    programs,
    verified,
)

DRAWN = int(os.environ.get("DPROBED_DRAWN_IN_KERNEL", "100"))
AMONG = [instruction for instruction in USER if is_of_any_machine(instruction)]
RING = 1 << 13


def _in_kernel(program: Program) -> Program:
    # Not until the budget is used up: the machine is emulated.
    header = program.header
    few = msgspec.structs.replace(header, modtype="kernel", jmpmax=min(header.jmpmax, 50))
    return msgspec.structs.replace(program, header=few)


class Expected(NamedTuple):
    """What comes of two hits; ``maps``: but for those that depend on the machine's time."""

    outcomes: list[Outcome]
    variables: tuple[list[int], list[int]]
    maps: list[MapContents]


def _expected(program: Program) -> Expected:
    """What comes of two hits where no address that a drawn program knows can be read."""
    globals_ = ListVariables(program.header.gvars)
    globals_.write(0, [5])
    executor = PythonExecutor(program, globals_, FACILITIES, static=False)
    context = FakeContext([], {**Case("", "").thread, "comm": b"init"})
    outcomes = [executor.entry(0)(context)]
    if outcomes[0].exit != REM:
        outcomes.append(executor.entry(0)(context))
    variables = executor.locals.read(), globals_.read()
    maps = [each.contents() for each in executor.maps if each.definition.kind != "tseries"]
    return Expected(outcomes, variables, list(map(_sorted, maps)))


def _sorted(contents: MapContents) -> MapContents:
    return MapContents(contents.lost, sorted(contents.entries, key=repr))


def _maps(loaded: KernelProgram, program: Program) -> list[MapContents]:
    return [
        _sorted(contents(loaded, number, one))
        for number, one in enumerate(program.header.map)
        if one.kind != "tseries"
    ]


def _outcome(hit: Hit) -> Outcome:
    record = hit.record
    one, two, three = record.exception
    exception = (one, two, three) if record.exit == EXCEPTION else None
    return Outcome(
        *(record.exit, hit.log, hit.raw, record.major, record.minor, exception),
        suspend=False,
        resume=False,
    )


def _run(loaded: KernelProgram, program: Program) -> tuple[list[Hit], list[int], list[int]]:
    """Hit it twice: its records and its variables."""
    header = program.header
    loaded.set_vars(0, [5], global_=True)
    loaded.attach(PLACE)
    check(loaded.machine.call(GETPPID, count=2))
    found = loaded.read() if loaded.ready() else []
    return found, loaded.get_vars(0, header.vars), loaded.get_vars(0, header.gvars, global_=True)


@drawing(DRAWN)
@given(drawn=programs(AMONG, returns=False, maps=PLAIN_MAPS))
def test_drawn_programs_agree(device: Device, drawn: Program) -> None:
    program = verified(_in_kernel(drawn))
    expected = _expected(program)
    # Its global variables are those of a device that nobody else has.
    alone = Device(device.machine)
    try:
        loaded = alone.load(program, ring=RING, facilities=FACILITIES)
        try:
            found, after, shared = _run(loaded, program)
            assert loaded.query().runs == len(expected.outcomes)
            maps = _maps(loaded, program)
        finally:
            loaded.close()
    finally:
        alone.close()
    told = [each for each in expected.outcomes if each.exit != ABORT]
    assert list(map(_outcome, found)) == told
    assert (after, shared) == expected.variables
    assert maps == expected.maps
