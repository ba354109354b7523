"""Case files through the module, as kernel programs.

A hit in the kernel has registers, memory and a task of its own: what a case says of those is
not looked at here (``test_interpreter`` does), and cases that depend on them are left out.
"""

from __future__ import annotations

import msgspec
import pytest

from dprobed.kernel.abi import Contents, Kind
from dprobed.kernel.contents import entries
from dprobed.program.exec.interface import Outcome
from dprobed.program.exits import ABORT, EXCEPTION
from dprobed.program.isa import WORD_MASK, Instruction, decode_at
from dprobed.program.maps import MapContents, MapDefinition
from dprobed.program.model import Program
from dprobed.program.rpn.parser import assemble
from tests.kernel.device import GETPPID, Device, KernelProgram, check
from tests.kernel.machine import AREA, Machine
from tests.kernel.test_bridge import PLACE, kernel_program
from tests.programs.cases import Case, MapsAfter, Result, all_cases
from tests.programs.cases import check as check_case

#: Instructions whose result is the machine's own, or that a kernel program cannot have.
OWN = ("push task", "push pid", "push tid", "push uid", "push gid", "push procid", "push time",
       "push comm", "push r", "push u", "push a", "push f", "push tls", "vfy rw", "suspend",
       "resume", "log ustack", "key ustack", "key comm", "key text", "push text", "mload",
       "mstore")  # fmt: skip


def is_of_any_machine(instruction: Instruction) -> bool:
    """Whether a kernel program can have it, and does the same on any machine."""
    if instruction.writes or instruction.suffix:
        return False
    return instruction.name not in OWN


def _is_of_any_machine(case: Case) -> bool:
    if case.refused or case.accepted or case.memory or case.registers or case.lost:
        return False
    if any(", tseries" in each for each in case.maps):  # The time is the machine's own.
        return False
    if case.kept:  # In the kernel an entry part alone can have left it.
        return False
    code = assemble(case.source(), case.place).code
    offset = 0
    while offset < len(code):
        instruction, _, offset = decode_at(code, offset)
        if not is_of_any_machine(instruction):
            return False
    return True


CASES = [case for case in all_cases() if _is_of_any_machine(case)]


def _name(case: Case) -> str:
    return f"{case.place} {case.name}"


def _outcome(loaded: KernelProgram, program: Program, case: Case) -> Outcome:
    """What came of the last of the hits that were made."""
    found = loaded.read(1 << 18) if loaded.ready() else []
    if len(found) < case.runs:
        assert loaded.query().runs == case.runs
        # Nobody sees the numbers of a record that there is not.
        numbers = {"major": program.header.major, "minor": program.probes[0].minor, **case.record}
        return Outcome(
            *(ABORT, b"", (), numbers["major"], numbers["minor"], None),
            suspend=False,
            resume=False,
        )
    record, raw, log = found[-1].record, found[-1].raw, found[-1].log
    triple = tuple(record.exception)
    exception = (triple[0], triple[1], triple[2]) if record.exit == EXCEPTION else None
    return Outcome(
        *(record.exit, log, raw, record.major, record.minor, exception), suspend=False, resume=False
    )


def contents(loaded: KernelProgram, number: int, one: MapDefinition) -> MapContents:
    """What is in a map of a program."""
    at = AREA + 4096
    room = loaded.ioctl("DPROBES_CONTENTS", Contents(map=number)).size
    found = loaded.ioctl("DPROBES_CONTENTS", Contents(map=number, data=at, room=room))
    return MapContents(found.lost, entries(one, loaded.machine.read(at, found.size)))


def maps_of(loaded: KernelProgram, program: Program) -> tuple[MapsAfter, dict[str, int]]:
    """What is in its maps, and what was lost."""
    after, lost = {}, {}
    for number, one in enumerate(program.header.map):
        found = contents(loaded, number, one)
        after[one.name] = {tuple(key): cell for key, cell in found.entries}
        lost[one.name] = found.lost
    return after, lost


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_case(case: Case, machine: Machine, device: Device) -> None:
    program = assemble(case.source(), case.place)
    in_kernel = msgspec.structs.replace(
        program, header=msgspec.structs.replace(program.header, modtype="kernel")
    )
    symbols = [case.symbols.get(name, 0) & WORD_MASK for name in program.names]
    loaded = device.load(in_kernel, facilities=case.facilities, symbols=symbols, ring=1 << 18)
    header = program.header
    count = max(header.gvars, len(case.globals))
    # There may be more global variables than it sees: another program of the device asks for them.
    device.load(kernel_program("exit", f"gvars = {count}")).close()
    loaded.set_vars(0, case.locals[: header.vars])
    loaded.set_vars(0, case.globals, global_=True)
    kind = Kind.LEAVE if program.probes[0].returns else Kind.CODE
    loaded.attach(PLACE, kind=kind)
    check(machine.call(GETPPID, count=case.runs))
    outcome = _outcome(loaded, program, case)
    result = Result(
        outcome,
        case.context(),
        loaded.get_vars(0, header.vars),
        loaded.get_vars(0, count, global_=True),
        *maps_of(loaded, program),
    )
    loaded.close()
    check_case(case, program, lambda *_: result)


def test_most_cases_are_here() -> None:
    assert len(CASES) > 150
