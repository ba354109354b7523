"""Any program that the verifier lets through ends, and does nothing but what it may.

Programs are drawn at random: some subroutines, jumps within each, a stack that is mostly deep
enough. Each one is run by every executor, with the stack in variables and in memory, which must
come to the same, and once more with every instruction reporting the depth of the stack, which must
be what the verifier said. The instruction budget is small here, so that programs which use it up do
so quickly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast
from unittest import mock

import msgspec
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from dprobed.program.blocks import Step
from dprobed.program.cell_operand import cell_operand
from dprobed.program.decoded import Decoded
from dprobed.program.exec import ir, lower, python, unit
from dprobed.program.exec.interface import Outcome
from dprobed.program.exec.lower import lower_step
from dprobed.program.exec.lowering import Lowering
from dprobed.program.exec.python import PythonExecutor
from dprobed.program.exec.python_printer import PRINTERS, Printer, word
from dprobed.program.exec.variables import ListVariables
from dprobed.program.flow import Analysis
from dprobed.program.isa import (
    BY_KEY,
    INSTRUCTIONS,
    STACK_WORDS,
    WORD_MASK,
    Flow,
    Instruction,
    Operand,
    decode_at,
    encode_one,
)
from dprobed.program.map_use import unfit
from dprobed.program.maps import MapContents, MapDefinition
from dprobed.program.model import Header, ProbeDefinition, Program, ProgramError
from dprobed.program.registers import REGISTERS, USER_REGS
from dprobed.program.verifier import verify
from dprobed.record.log import decode_log
from tests.programs.cases import Case, FakeContext, Region, hit
from tests.programs.executors import EXECUTORS, Maker

pytestmark = pytest.mark.slow

BUDGET = 3000
FACILITIES = {"mine": 9}
EXIT, RET, PUSH = BY_KEY["exit"], BY_KEY["ret"], BY_KEY["push word"]

#: What a drawn program is made of; `exit` and `ret` also end its parts, keys come with their use.
USER = [
    i
    for i in INSTRUCTIONS
    if not i.kernel_only and i not in (EXIT, RET) and not i.name.startswith("key")
]
WITHOUT_MAPS = [i for i in USER if i.group != "maps"]
#: Of each kind, with the instructions that gather its keys.
KEY, KEY_STR, KEY_COMM = BY_KEY["key count"], BY_KEY["key str"], BY_KEY["key comm"]
KEY_TEXT = BY_KEY["key text,count"]
Maps = list[tuple[MapDefinition, tuple[Instruction, ...]]]
MAPS: Maps = [
    (MapDefinition("value", "value", keys=1, size=2), (KEY,)),
    (MapDefinition("word", "value"), ()),
    (MapDefinition("words", "value", (3,), keys=1, size=3), (KEY_TEXT,)),
    (MapDefinition("timed", "value", (2, 1), keys=1, size=2), (KEY,)),
    (MapDefinition("count", "count", keys=2), (KEY_COMM, KEY)),
    (MapDefinition("sum", "sum", keys=1, signed=True), (KEY_STR,)),
    (MapDefinition("min", "min", keys=2), (KEY_STR, KEY_STR)),
    (MapDefinition("max", "max", signed=True), ()),
    (MapDefinition("avg", "avg", keys=1), (KEY_COMM,)),
    (MapDefinition("stats", "stats", keys=1, size=1, signed=True), (KEY,)),
    (MapDefinition("hist", "hist", (2,), keys=1), (KEY,)),
    (MapDefinition("lhist", "lhist", (-50, 50, 7), signed=True), ()),
    (MapDefinition("tseries", "tseries", (10, 4)), ()),
]
#: The same where values have one word.
PLAIN_MAPS: Maps = [
    (
        msgspec.structs.replace(one, arguments=()) if one.kind == "value" else one,
        tuple(KEY if key is KEY_TEXT else key for key in keys),
    )
    for one, keys in MAPS
]
#: What an entry part may have, but for calls: what is called is there for the return.
ENTRY_PART = [
    i for i in USER
    if i.group != "log" and not i.holds and i.flow is not Flow.CALL
    and i.name not in ("rem", "log st") and Operand.FACILITY not in i.operands
]  # fmt: skip
READABLE = [n for n, r in enumerate(REGISTERS) if not r.kernel_only]
WRITABLE = [n for n in READABLE if REGISTERS[n].may_pop(kernel=False)]

WORDS = st.one_of(
    st.integers(0, 12),
    st.sampled_from([0x1000, 0x1038, 0x103F, 0x1040, 0x104F, 0x2000, 1 << 56, 1 << 63]),
    st.sampled_from([WORD_MASK, WORD_MASK - 1, 1023, 1024, 1025, 64, 65, 1 << 47]),
    st.integers(0, WORD_MASK),
)


@dataclass(frozen=True)
class Line:
    """One instruction of a drawn program; a label is the number of a line."""

    instruction: Instruction
    operands: tuple[int, ...]
    #: A key is open before it: nothing may jump here.
    is_inside: bool = False


_KEY_OPERANDS = {"key count": (1,), "key text,count": (2,)}


def _fits(instruction: Instruction, one: MapDefinition) -> bool:
    alone = one.words == 1 or instruction.name in ("mhas", "mdel")
    alone = alone or (one.timed and instruction.name == "minc")
    return alone and unfit(instruction, one) is None


def _operand(draw: st.DrawFn, instruction: Instruction, header: Header, maps: Maps) -> int:
    kind = instruction.operands[0]
    if kind is Operand.WORD:
        return draw(WORDS)
    if kind is Operand.REGISTER:
        return draw(st.sampled_from(WRITABLE if instruction.writes else READABLE))
    if kind in (Operand.FACILITY, Operand.NAME, Operand.SYMBOL):
        return draw(st.integers(0, 1))
    if kind is Operand.U16:
        many = {"locals": header.vars, "globals": header.gvars}.get(instruction.group, 0x10000)
        return draw(st.integers(0, many - 1))
    if kind is Operand.MAP:
        fit = [n for n, (one, _) in enumerate(maps) if _fits(instruction, one)]
        return draw(st.sampled_from(fit))
    if kind is Operand.CELL:
        fit = [n for n, (one, _) in enumerate(maps) if unfit(instruction, one) is None]
        number = draw(st.sampled_from(fit))
        return cell_operand(number, maps[number][0].words)
    if kind is Operand.SLOT:
        return draw(st.integers(-3, 3))
    if kind in (Operand.COUNT16, Operand.COUNT8):
        return draw(st.sampled_from([1, 2, 3, 9, 20]))
    return draw(st.integers(kind.low, kind.high))


def _part(
    draw: st.DrawFn,
    header: Header,
    first: int,
    ends: Instruction,
    among: Sequence[Instruction],
    maps: Maps,
) -> list[Line]:
    """The lines of one subroutine; its labels are lines of its own, its calls are still -1."""
    lines: list[Line] = []
    depth = 0
    for instruction in draw(st.lists(st.sampled_from(among), max_size=14)):
        if instruction.operands and instruction.operands[0] is Operand.LABEL:
            operands: tuple[int, ...] = (-1,)
        else:
            operands = tuple(
                _operand(draw, instruction, header, maps) for _ in instruction.operands
            )
        number = instruction.map_index(operands)
        keys = maps[number][1] if number is not None else ()
        # What is taken off the stack comes before the key.
        steps = [(key, _KEY_OPERANDS.get(key.key, ())) for key in keys]
        inside = False
        for step, its in (*steps, (instruction, operands)):
            need, change = step.effect(its)
            while depth < need and (not depth or draw(st.integers(0, 7))):
                lines.append(Line(PUSH, (draw(WORDS),), inside))
                depth += 1
            lines.append(Line(step, its, inside))
            inside = True
            depth = max(depth + (change or 0), 0)
        if instruction.flow is Flow.END:
            break
    lines.append(Line(ends, ()))
    places = st.sampled_from([first + n for n, line in enumerate(lines) if not line.is_inside])
    return [
        Line(line.instruction, (draw(places),), line.is_inside)
        if line.operands == (-1,) and line.instruction.flow is not Flow.CALL
        else line
        for line in lines
    ]


def _assembled(lines: list[Line]) -> bytes:
    offsets = [0]
    for line in lines:
        offsets.append(offsets[-1] + line.instruction.size)
    code = b""
    for line in lines:
        labels = line.instruction.operands[:1] == (Operand.LABEL,)
        operands = (offsets[line.operands[0]],) if labels else line.operands
        code += encode_one(line.instruction, operands)
    return code


@st.composite
def programs(
    draw: st.DrawFn,
    among: Sequence[Instruction] = USER,
    *,
    returns: bool = True,
    maps: Maps = MAPS,
) -> Program:
    """``returns``: whether return probes are among them."""
    header = Header(
        "x",
        jmpmax=draw(st.sampled_from([0, 3, 50, 1 << 30])),
        logmax=draw(st.sampled_from([0, 20, 100, 1024])),
        ex_logmax=draw(st.sampled_from([0, 70, 1024])),
        vars=3,
        gvars=2,
        heapmax=64,
        autostacktrace=draw(st.booleans()),
        map=tuple(one for one, _ in maps),
    )
    parts: list[list[Line]] = []
    starts = []
    at = draw(st.sampled_from(["entry", "return"])) if returns else "entry"
    others = ("push e",) if at == "return" else ("push a", "push f")
    split = 0
    if at == "return" and draw(st.booleans()):
        parts.append(_part(draw, header, 0, EXIT, [i for i in among if i in ENTRY_PART], maps))
        split = len(_assembled(parts[0]))
    among = [i for i in among if i.group != "functions" or i.name in others]
    for number in range(draw(st.integers(1, 3))):
        first = sum(map(len, parts))
        starts.append(first)
        parts.append(_part(draw, header, first, RET if number else EXIT, among, maps))
    lines = [
        Line(line.instruction, (draw(st.sampled_from(starts[1:] or [0])),))
        if line.operands == (-1,)
        else line
        for part in parts
        for line in part
    ]
    code = _assembled(lines)
    masks = st.sampled_from([0xFFF, 0x1FFF, 0x2FFF, 0xBFFF, 0xFFFF, 0, 0xFFB])
    heap = draw(st.sampled_from([0, 64]))
    probe = ProbeDefinition(
        0, offset="0x1000", ex_mask=draw(masks), heap=heap, end=len(code), at=at, split=split
    )
    return Program(header, (probe,), code, (2, "mine"), names=("result", "n"))


def drawn_context() -> FakeContext:
    thread = Case("", "").thread
    writable = Region(0x1000, bytearray(b"text\0" + bytes(range(1, 60))), True)
    context = FakeContext([writable, Region(0x1040, bytearray(16), False)], thread)
    context.kept[:2] = 5, WORD_MASK
    return context


@contextmanager
def _small_budget() -> Iterator[None]:
    with mock.patch("dprobed.program.exec.lowering.INSTRUCTION_BUDGET", BUDGET):
        yield


@dataclass
class Run:
    """All that a program can have done."""

    outcome: Outcome
    context: FakeContext
    variables: tuple[list[int], list[int]]
    maps: list[MapContents]

    def state(self) -> list[object]:
        found = self.context
        return [
            self.outcome,
            bytes(found.buffer),
            found.fp,
            found.fp_dirty,
            found.kept,
            found.regions,
            self.variables,
            self.maps,
        ]


def run_drawn(program: Program, static: bool, maker: Maker = PythonExecutor) -> Run:
    globals_ = ListVariables(1)
    globals_.write(0, [5])
    with _small_budget():
        executor = maker(program, globals_, FACILITIES, static=static)
    context = drawn_context()
    # Twice: what stays of the first hit are variables, registers and memory, nothing else.
    hit(executor, context)
    outcome = hit(executor, context)
    maps = [each.contents() for each in executor.maps]
    return Run(outcome, context, (executor.locals.read(), globals_.read()), maps)


def verified(program: Program) -> Program:
    try:
        verify(program)
    except ProgramError:
        reject()
    return program


def drawing(count: int) -> settings:
    """So many drawn programs; what runs them may be a fixture, which serves all of them."""
    return settings(
        max_examples=count,
        suppress_health_check=[
            HealthCheck.filter_too_much,
            HealthCheck.too_slow,
            HealthCheck.function_scoped_fixture,
        ],
    )


@drawing(300)
@given(programs())
def test_a_verified_program_ends_and_keeps_to_its_limits(program: Program) -> None:
    verified(program)
    run = run_drawn(program, static=True)
    outcome, header = run.outcome, program.header
    assert outcome.exit in (-4, -3, -2, -1, 0, 2, 9)
    assert (outcome.exit == -3) == (outcome.exception is not None)
    assert len(outcome.log) <= header.logmax + header.ex_logmax
    items = decode_log(outcome.log, outcome.raw)
    assert not any("undecoded" in item for item in items)
    assert all(0 <= word <= WORD_MASK for part in run.variables for word in part)
    assert 0 <= outcome.major < 1 << 16
    assert 0 <= outcome.minor < 1 << 16
    for one, contents in zip(header.map, run.maps, strict=True):
        assert len(contents.entries) <= one.size
        assert all(len(key) == one.keys for key, _ in contents.entries)
    before = drawn_context()
    assert run.context.regions[1] == before.regions[1], "read-only memory"
    assert len(run.context.fp) == 512
    kept = ("cs", "ss", "ds", "es", "fs", "gs", "fs_base", "gs_base", "orig_rax")
    assert all(_register(run.context, name) == 0 for name in kept)


def _register(context: FakeContext, name: str) -> int:
    return context.words[USER_REGS.index(name)]


@drawing(300)
@given(programs())
def test_where_the_stack_is_kept_makes_no_difference(program: Program) -> None:
    verified(program)
    assert run_drawn(program, static=True).state() == run_drawn(program, static=False).state()


@drawing(300)
@given(programs(), st.booleans())
def test_executors_agree(program: Program, static: bool) -> None:
    verified(program)
    first, *others = (run_drawn(program, static, maker).state() for maker in EXECUTORS)
    assert all(state == first for state in others)


class _Claims:
    """Holds the depths at run time to what the verifier said of each instruction."""

    def __init__(self, program: Program) -> None:
        code = []
        offset = 0
        while offset < len(program.code):
            instruction, operands, following = decode_at(program.code, offset)
            code.append(Decoded(offset, instruction, operands, following))
            offset = following
        probe = program.probes[0]
        analysis = Analysis(code, sorted({probe.entry, probe.start}))
        analysis.run()
        self.depths = analysis.depths
        self.needs = {d.offset: d.instruction.effect(d.operands)[0] for d in code}
        self.wrapped = False

    def __call__(self, offset: int, depth: int) -> None:
        # Once the stack has wrapped round, nothing is known of it.
        self.wrapped |= not 0 <= depth <= STACK_WORDS
        if not self.wrapped:
            low, high = self.depths[offset]
            assert low <= depth <= high, f"{offset:#x}: {depth}, not {low}..{high}"
            # It pops more than there is, and an exception may push again before the next one.
            self.wrapped = depth < self.needs[offset]


@dataclass(slots=True)
class _Claim:
    """An operation of these tests alone: hand the depth of the stack to the claims."""

    offset: int
    depth: ir.Depth


def _lower_with_claim(to: Lowering, step: Step) -> None:
    to.add(cast(ir.Op, _Claim(step.offset, to.depth())))
    lower_step(to, step)


def _print_claim(to: Printer, op: _Claim) -> None:
    to.line(f"claim({op.offset}, {word(op.depth)})")


@drawing(300)
@given(programs())
def test_the_depths_are_what_the_verifier_said(program: Program) -> None:
    verified(program)
    claims = _Claims(program)
    python._code_of.cache_clear()
    with (
        mock.patch.object(lower, "lower_step", _lower_with_claim),
        mock.patch.dict(PRINTERS, {_Claim: _print_claim}),
        mock.patch.dict(python._NAMES, {"claim": claims}),
        # Each part stays where it is in the program.
        mock.patch.object(unit, "has_labels", lambda *_: True),
    ):
        run_drawn(program, static=False)
    python._code_of.cache_clear()
