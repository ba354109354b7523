"""The kernel's interpreter does what Python's executor does: every case, and drawn programs."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given

from dprobed.kernel.abi import Refusal
from dprobed.program.exceptions import OPERAND_PORT, OPERAND_REGISTER, ExCode
from dprobed.program.exec.interface import Outcome
from dprobed.program.exec.lowering import facility_numbers
from dprobed.program.exits import EXIT
from dprobed.program.isa import (
    BY_KEY,
    INSTRUCTIONS,
    WORD_MASK,
    Instruction,
    Operand,
    decode_at,
    encode_one,
)
from dprobed.program.maps import Entry, MapContents, MapDefinition
from dprobed.program.model import Program
from dprobed.program.registers import REGISTERS
from dprobed.program.rpn.parser import assemble
from dprobed.program.user_stack import unpacked
from dprobed.record.log import decode_log
from tests.kernel.c_interpreter import HEADER_SIZE, CInterpreter, Refused, request
from tests.programs.cases import Case, Result, all_cases, check
from tests.unit.program.exec.test_generated_programs import (
    BUDGET,
    FACILITIES,
    PLAIN_MAPS,
    USER,
    drawing,
    drawn_context,
    programs,
    run_drawn,
    verified,
)

#: The kernel has no static probes of processes.
CASES = [case for case in all_cases() if not case.refused and not case.arguments]
RUN = [case for case in CASES if not case.accepted]
KERNEL = [case for case in CASES if case.accepted]
#: Programs that are drawn; `make drawn` draws more.
DRAWN = int(os.environ.get("DPROBED_DRAWN", "1000"))


def _name(case: Case) -> str:
    return f"{case.place} {case.name}"


#: Instructions that only Python's executors and native programs have.
_NOT_YET = {"key text,count", "push text,count", "mload cell", "mstore cell"}
#: Instructions that are for processes only.
_OF_PROCESSES = {"log ustack", "key ustack"}


def _fpu(program: Program) -> int | None:
    """Where a program first names a register that the kernel's programs cannot have."""
    offset = 0
    while offset < len(program.code):
        instruction, operands, following = decode_at(program.code, offset)
        if Operand.REGISTER in instruction.operands and REGISTERS[operands[0]].fxsave:
            return offset
        if Operand.FLOAT in instruction.operands:
            return offset
        offset = following
    return None


def _refusal(program: Program) -> Refused | None:
    """Why and where the interpreter refuses a verified program; None: it runs it."""
    for index, one in enumerate(program.header.map):
        if one.kind == "value" and one.arguments:
            return Refused(Refusal.BAD_MAP, index)
    fpu, offset = _fpu(program), 0
    while offset < len(program.code):
        instruction, _, following = decode_at(program.code, offset)
        if offset == fpu:
            return Refused(Refusal.NO_FPU, offset)
        if _is_of_processes(instruction):
            return Refused(Refusal.NO_USTACK, offset)
        if instruction.key in _NOT_YET:
            return Refused(Refusal.NOT_YET, offset)
        offset = following
    return None


def _is_of_processes(instruction: Instruction) -> bool:
    return instruction.name in _OF_PROCESSES


#: What is drawn.
IN_C = [each for each in USER if not _is_of_processes(each) and each.key not in _NOT_YET]


def _symbols(program: Program, values: dict[str, int]) -> list[int]:
    return [values.get(name, 0) & WORD_MASK for name in program.names]


def _run_case(interpreter: CInterpreter, case: Case, program: Program) -> Result | Refused:
    context = case.context()
    header = program.header
    locals_ = (case.locals + [0] * header.vars)[: header.vars]
    globals_ = case.globals + [0] * (header.gvars - len(case.globals))
    numbers = facility_numbers(program, case.facilities)
    left = {number for name, number in case.facilities.items() if name not in case.lost}
    known = set(case.facilities.values())
    outcome = interpreter.run(
        program,
        context,
        facilities=numbers,
        gone=[number in known and number not in left for number in numbers],
        symbols=_symbols(program, case.symbols),
        locals_=locals_,
        globals_=globals_,
        runs=case.runs,
    )
    if isinstance(outcome, Refused):
        return outcome
    maps = dict(zip((one.name for one in header.map), interpreter.maps, strict=True))
    after = {name: {tuple(key): cell for key, cell in each.entries} for name, each in maps.items()}
    lost = {name: each.lost for name, each in maps.items()}
    return Result(outcome, context, locals_, globals_, after, lost)


@pytest.mark.parametrize("case", RUN, ids=_name)
def test_case(case: Case, c_interpreter: CInterpreter) -> None:
    program = assemble(case.source(), case.place)
    result = _run_case(c_interpreter, case, program)
    refusal = _refusal(program)
    if refusal is not None:
        assert result == refusal
        return
    assert isinstance(result, Result), result
    check(case, program, lambda *_: result)


@pytest.mark.parametrize("case", KERNEL, ids=_name)
def test_what_only_a_kernel_program_has(case: Case, c_interpreter: CInterpreter) -> None:
    program = assemble(case.source(), case.place)
    result = _run_case(c_interpreter, case, program)
    assert isinstance(result, Result)
    assert result.outcome.exit == EXIT


def _of_kernel(
    interpreter: CInterpreter, text: str
) -> tuple[list[int], tuple[int, int, int] | None, int]:
    """The words that a kernel program logs, how it failed, and r15 behind it (``harness.c``)."""
    case = Case("own", "own", header={"modtype": "kernel"}, program=text.splitlines())
    result = _run_case(interpreter, case, assemble(case.source(), "own"))
    assert isinstance(result, Result)
    words = struct.unpack(f"<{len(result.outcome.log) // 8}Q", result.outcome.log)
    return list(words), result.outcome.exception, result.context.regs[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("push r,cr4\nlog 1", [300]),
        ("push r,gdtr\nlog 2", [1200, 1210]),
        ("push 0x10\npush r,msr\nlog 1", [1616]),
        ("push 2\npush r,cpuid\nlog 4", [1702, 1712, 1722, 1732]),
        ("push 0x60\npush io,u8\nlog 1", [961]),
        ("push 0xffff\npush io,u32\nlog 1", [655354]),
        ("push 1\npush 5\nseg2lin\nlog 1", [0x1005]),
    ],
)
def test_what_the_processor_has(c_interpreter: CInterpreter, text: str, words: list[int]) -> None:
    assert _of_kernel(c_interpreter, text)[:2] == (words, None)


def test_a_port_is_written(c_interpreter: CInterpreter) -> None:
    assert _of_kernel(c_interpreter, "push 0x60\npush 7\npop io,u16") == ([], None, 7962)


def _frames(interpreter: CInterpreter, count: int, text: str, **header: str) -> list[str]:
    """What a kernel program whose task has so many frames logs, item by item."""
    case = Case("own", "own", header={"modtype": "kernel", **header}, program=text.splitlines())
    case.registers = {"r15": count}
    result = _run_case(interpreter, case, assemble(case.source(), "own"))
    assert isinstance(result, Result)
    found = []
    items: list[Any] = list(decode_log(result.outcome.log, result.outcome.raw))
    for item in items:
        frames = [f"{frame['module']}+{frame['offset']:#x}" for frame in item["ustack"]]
        found.append(" ".join([*frames, item.get("ended", "")]).strip())
    return found


def test_stacks_in_the_kernel(c_interpreter: CInterpreter) -> None:
    two = "[kernel]+0xffffff81000000 [kernel]+0xffffff81000010"
    more = f"{two} more frames than were asked for"
    assert _frames(c_interpreter, 2, "log kstack\nlog kstack,2") == [two, two]
    assert _frames(c_interpreter, 3, "log kstack,2") == [more]
    assert _frames(c_interpreter, 0, "log kstack") == ["there is no stack here"]
    room = f"{two} more frames than the log has room for"
    assert _frames(c_interpreter, 9, "log kstack", logmax="35") == [room]
    assert _frames(c_interpreter, 9, "log kstack", logmax="24") == []
    assert len(_frames(c_interpreter, 300, "log kstack,255", logmax="4000")[0].split("+")) == 256


@pytest.mark.parametrize(("count", "shown"), [(2, 2), (0, 0), (200, 112)])
def test_stacks_as_keys(c_interpreter: CInterpreter, count: int, shown: int) -> None:
    lines = ["key kstack", "minc n"]
    case = Case("own", "own", {"modtype": "kernel"}, maps=["n, count, keys=1"], program=lines)
    case.registers, case.runs = {"r15": count}, 2
    result = _run_case(c_interpreter, case, assemble(case.source(), "own"))
    assert isinstance(result, Result)
    (((stack,), cell),) = result.maps["n"].items()
    assert cell == [2]
    assert isinstance(stack, bytes)
    assert len(unpacked(stack[1:])[0]) == shown


@pytest.mark.parametrize("kind", ["count", "value"])
@pytest.mark.parametrize(("size", "step"), [(4096, 1), (4096, 1 << 47), (1000, 1), (7, 3)])
def test_a_map_has_as_many_keys_as_it_says(
    c_interpreter: CInterpreter, kind: str, size: int, step: int
) -> None:
    """Whatever the keys are: also where they differ in their upper bits only."""
    text = f"push 4096\nagain: dup 1\npush {step}\nmul\nkey 1\nminc n\nloop again"
    case = Case("own", "own", maps=[f"n, {kind}, keys=1, size={size}"], program=text.splitlines())
    result = _run_case(c_interpreter, case, assemble(case.source(), "own"))
    assert isinstance(result, Result)
    first = range(4096, 4096 - size, -1)
    assert result.maps["n"] == {(n * step & WORD_MASK,): [1] for n in first}
    assert result.lost["n"] == 4096 - size


@pytest.mark.parametrize(
    ("text", "good", "there", "refused"),
    [
        ("push 1\nkey 1\nminc n", "count, keys=1", MapDefinition("n", "count"), Refusal.BAD_KEY),
        ("minc n", "count", MapDefinition("n", "count", keys=1), Refusal.BAD_KEY),
        ("push 1\nmadd n", "sum", MapDefinition("n", "count"), Refusal.BAD_KEY),
        ("mget n\nros 1", "value", MapDefinition("n", "sum"), Refusal.BAD_KEY),
        ("minc n", "count", MapDefinition("n", "count", size=65537), Refusal.BAD_MAP),
        ("minc n", "count", MapDefinition("n", "count", size=0), Refusal.BAD_MAP),
        ("minc n", "count", MapDefinition("n", "count", keys=9), Refusal.BAD_MAP),
        ("minc n", "count", MapDefinition("n", "count", signed=True), Refusal.BAD_MAP),
        ("minc n", "count", MapDefinition("n", "count", (1,)), Refusal.BAD_MAP),
        ("push 1\nmadd n", "sum", MapDefinition("n", "hist", (6,)), Refusal.BAD_MAP),
        ("push 1\nmadd n", "sum", MapDefinition("n", "lhist", (5, 5, 1)), Refusal.BAD_MAP),
        ("push 1\nmadd n", "sum", MapDefinition("n", "lhist", (0, 5000, 1)), Refusal.BAD_MAP),
        ("push 1\nmadd n", "sum", MapDefinition("n", "lhist", (-5, 5, 1)), Refusal.BAD_MAP),
        ("push 1\nmadd n", "sum", MapDefinition("n", "tseries", (0, 1)), Refusal.BAD_MAP),
        ("push 1\nmadd n", "sum", MapDefinition("n", "tseries", (1, 1001)), Refusal.BAD_MAP),
    ],
)
def test_the_module_trusts_nobody_with_maps(
    c_interpreter: CInterpreter, text: str, good: str, there: MapDefinition, refused: Refusal
) -> None:
    """The daemon's verifier would not let it come so far."""
    case = Case("own", "own", maps=[f"n, {good}"], program=text.splitlines())
    program = assemble(case.source(), "own")
    header = msgspec.structs.replace(program.header, map=(there,))
    result = _run_case(c_interpreter, case, msgspec.structs.replace(program, header=header))
    assert isinstance(result, Refused)
    assert result.reason is refused


_MINC = [encode_one(BY_KEY["minc map"], (number,)) for number in range(2)]
_SEVEN = encode_one(BY_KEY["push word"], (7,))


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        # No key is used up before the end; another kind of item; one path has an item more.
        ("push 1\nkey 1\nminc n\nnop", _MINC[0], bytes(3)),
        ("push 1\nkey 1\nminc n\nkey comm\nminc m", _MINC[1], _MINC[0]),
        (
            "push 1\njz there\npush 7\nthere: nop",
            _SEVEN,
            encode_one(BY_KEY["key comm"], ()) + bytes(len(_SEVEN) - 1),
        ),
    ],
)
def test_keys_are_the_same_on_every_path(
    c_interpreter: CInterpreter, text: str, old: bytes, new: bytes
) -> None:
    maps = ["n, count, keys=1", "m, count, keys=1"]
    case = Case("own", "own", maps=maps, program=text.splitlines())
    program = assemble(case.source(), "own")
    assert old in program.code
    damaged = msgspec.structs.replace(program, code=program.code.replace(old, new, 1))
    result = _run_case(c_interpreter, case, damaged)
    assert isinstance(result, Refused)
    assert result.reason is Refusal.BAD_KEY


@pytest.mark.parametrize(
    ("text", "exception"),
    [
        ("push 0x11\npush r,msr", (ExCode.INVALID_OPERAND, OPERAND_REGISTER, 0x11)),
        ("push 0x10000\npush io,u8", (ExCode.INVALID_OPERAND, OPERAND_PORT, 0x10000)),
        ("push 0x10000\npush 1\npop io,u8", (ExCode.INVALID_OPERAND, OPERAND_PORT, 0x10000)),
        ("push 0x11\npush 5\nseg2lin", (ExCode.SEG_FAULT, 0x11, 5)),
        ("push 0x10001\npush 5\nseg2lin", (ExCode.SEG_FAULT, 0x10001, 5)),
    ],
)
def test_what_the_processor_has_not(
    c_interpreter: CInterpreter, text: str, exception: tuple[int, int, int]
) -> None:
    words, found, _ = _of_kernel(c_interpreter, text)
    assert (words, found) == ([], exception)


@pytest.mark.parametrize("case", RUN, ids=_name)
def test_damaged_code_harms_nobody(case: Case, c_interpreter: CInterpreter) -> None:
    """Whatever the instructions are: refused or run, and the sanitizers see nothing wrong."""
    program = assemble(case.source(), case.place)
    message = request(
        program,
        case.context(),
        facilities=facility_numbers(program, case.facilities),
        symbols=[0] * len(program.names),
        locals_=[0] * program.header.vars,
        globals_=[0] * max(program.header.gvars, len(case.globals)),
        runs=2,
        budget=BUDGET,
    )
    chance = Random(case.name)
    for _ in range(20):
        damaged = bytearray(message)
        for _ in range(chance.randint(1, 4)):
            at = HEADER_SIZE + chance.randrange(len(program.code))
            damaged[at] = chance.choice([0, 1, 4, 8, 0x7F, 0xFF, chance.randrange(256)])
        c_interpreter.exchange(bytes(damaged))


def _used(cases: list[Case]) -> Iterator[str]:
    for case in cases:
        code = assemble(case.source(), case.place).code
        offset = 0
        while offset < len(code):
            instruction, _, offset = decode_at(code, offset)
            yield instruction.key


def test_every_instruction_was_run() -> None:
    there = [case for case in RUN if _refusal(assemble(case.source(), case.place)) is None]
    missing = {"push f,argument", *_NOT_YET}
    wanted = {i.key for i in INSTRUCTIONS if not i.kernel_only and not _is_of_processes(i)}
    assert wanted - missing <= set(_used(there))


def _sorted(contents: MapContents) -> tuple[int, list[Entry]]:
    """In an order that does not depend on what was deleted."""
    return contents.lost, sorted(contents.entries, key=repr)


@drawing(DRAWN)
@given(programs(IN_C, maps=PLAIN_MAPS))
def test_drawn_programs_agree(c_interpreter: CInterpreter, program: Program) -> None:
    verified(program)
    context = drawn_context()
    locals_, globals_ = [0] * program.header.vars, [5, 0]
    numbers = facility_numbers(program, FACILITIES)
    outcome = c_interpreter.run(
        program,
        context,
        facilities=numbers,
        symbols=[0] * len(program.names),
        locals_=locals_,
        globals_=globals_,
        runs=2,
        budget=BUDGET,
    )
    refusal = _refusal(program)
    if refusal is not None:
        assert outcome == refusal
        return
    assert isinstance(outcome, Outcome), outcome
    expected = run_drawn(program, static=False)
    assert outcome == expected.outcome
    assert bytes(context.buffer) == bytes(expected.context.buffer)
    assert context.regions == expected.context.regions
    assert (locals_, globals_) == expected.variables
    assert list(map(_sorted, c_interpreter.maps)) == list(map(_sorted, expected.maps))
