"""What case files cannot say: what programs share, what a context raises, how they are compiled."""

from __future__ import annotations

from typing import Any, cast, get_args

import pytest
from msgspec.structs import replace

from dprobed.program.blocks import find_blocks, is_acyclic, static_depths
from dprobed.program.exceptions import ExCode
from dprobed.program.exec import ir
from dprobed.program.exec.interface import MemoryFault, Outcome
from dprobed.program.exec.lower_table import LOWERINGS
from dprobed.program.exec.python import PythonExecutor
from dprobed.program.exec.python_printer import PRINTERS
from dprobed.program.exec.variables import ListVariables
from dprobed.program.exits import BUDGET, INSTRUCTION_BUDGET
from dprobed.program.isa import BY_KEY, INSTRUCTIONS, Operand, encode_one
from dprobed.program.model import Header, ProbeDefinition, Program, ProgramError
from dprobed.program.rpn.parser import assemble
from dprobed.record.log import decode_log
from tests.programs import walking_maps  # noqa: F401
from tests.programs.cases import Case, FakeContext
from tests.programs.walking import WALKERS


def program(text: str) -> Program:
    return assemble("name = x\n" + text, "test.rpn")


def probe(text: str, header: str = "") -> Program:
    return program(f"{header}\noffset = 0x1000\n{text}\n")


def context() -> FakeContext:
    return Case("", "").context()


def words(executor: PythonExecutor, index: int = 0) -> list[object]:
    outcome = executor.entry(index)(context())
    return [item["words"] for item in decode_log(outcome.log, outcome.raw)]


def test_every_instruction_is_implemented() -> None:
    assert LOWERINGS.keys() == BY_KEY.keys()


def test_every_operation_is_printed_and_walked() -> None:
    assert PRINTERS.keys() == WALKERS.keys() == set(get_args(ir.Op))


def test_kernel_instructions_are_invalid_opcodes_to_this_executor() -> None:
    # No verified user program has one; an executor must still not fail on it in some other way.
    for instruction in INSTRUCTIONS:
        if not instruction.kernel_only:
            continue
        operands = (1,) * len(instruction.operands)
        code = encode_one(instruction, operands) + encode_one(BY_KEY["exit"], ())
        pushes = encode_one(BY_KEY["push word"], (1,)) * 2
        made = Program(Header("x"), (ProbeDefinition(0, end=len(pushes + code)),), pushes + code)
        for static in (True, False):
            outcome = PythonExecutor(made, ListVariables(), {}, static=static).entry(0)(context())
            assert outcome.exception == (ExCode.INVALID_OPCODE, instruction.opcode, 0)


@pytest.mark.parametrize("static", [True, False])
def test_probes_of_a_program_share_locals(static: bool) -> None:
    made = program("vars = 1\noffset = 0x1000\ninc lv,0\noffset = 0x2000\npush lv,0\nlog 1\n")
    executor = PythonExecutor(made, ListVariables(), {}, static=static)
    executor.entry(0)(context())
    executor.entry(0)(context())
    assert words(executor, 1) == [[2]]
    executor.locals.write(0, [40])
    assert words(executor, 1) == [[40]]


def test_programs_share_globals_which_only_grow() -> None:
    globals_ = ListVariables(1)
    globals_.write(0, [7])
    one = PythonExecutor(probe("inc gv,1\n", "gvars = 2"), globals_, {})
    assert globals_.read() == [7, 0]
    two = PythonExecutor(probe("push gv,0\npush gv,1\nlog 2\n", "gvars = 4"), globals_, {})
    assert globals_.read() == [7, 0, 0, 0]
    PythonExecutor(probe("nop\n", "gvars = 1"), globals_, {})
    assert len(globals_) == 4
    one.entry(0)(context())
    assert words(two) == [[1, 7]]
    globals_.write(0, [9])
    assert words(two) == [[1, 9]]


def test_variables_are_read_written_and_reset_only_where_there_are_some() -> None:
    variables = ListVariables(3)
    kept = variables.words
    variables.write(1, [5, 6, 7])
    assert variables.read() == [0, 5, 6]
    assert (variables.read(1, 1), variables.read(2, 9), variables.read(9)) == ([5], [6], [])
    variables.reset(2, 9)
    variables.write(7, [1])
    assert variables.read() == [0, 5, 0]
    variables.grow(2)
    variables.grow(4)
    assert variables.read() == [0, 5, 0, 0]
    variables.reset()
    assert not any(variables.read())
    assert variables.words is kept


def test_a_fork_child_goes_on_with_what_the_variables_were() -> None:
    executor = PythonExecutor(
        probe("inc lv,0\ninc gv,0\n", "vars = 1\ngvars = 1"), ListVariables(), {}
    )
    executor.entry(0)(context())
    globals_ = ListVariables(1)
    child = executor.copy(globals_)
    child.entry(0)(context())
    assert (child.locals.read(), executor.locals.read(), globals_.read()) == ([2], [1], [1])


def test_a_facility_that_nobody_knows_is_refused_with_those_there_are() -> None:
    made = probe("exit mine\n")
    with pytest.raises(ProgramError) as caught:
        PythonExecutor(made, ListVariables(), {"dump": 2, "other": 8})
    assert "test.rpn:4:1: error: no facility is called `mine`" in str(caught.value)
    assert "there are: dump, other" in str(caught.value)
    with pytest.raises(ProgramError) as caught:
        PythonExecutor(replace(made, lines=(), columns=()), ListVariables(), {})
    assert "test.rpn: error: no facility is called `mine`" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("push 1\npush 2\npush sbp,0\npop sbp,1\npush tsp,-1\ncopy tsp,-2\nlog 3\n", False),
        ("push 1\npush 2\npop tsp,0\nlog 1\n", False),
        ("push 1\npush sbp,1\nlog 2\n", True),
        ("push 1\npush tsp,-1\nlog 2\n", True),
        ("push 1\ncall on\nexit\non:\npush sbp,-1\nlog 1\nret\n", True),
    ],
)
def test_words_at_places_known_beforehand_need_no_stack_in_memory(text: str, kept: bool) -> None:
    made = probe(text)
    fast, slow = (PythonExecutor(made, ListVariables(), {}, static=each) for each in (True, False))
    assert ("stack" in fast.source(made.probes[0])) == kept
    assert words(fast) == words(slow)


class Gone(Exception):
    """The thread is not there any more."""


class GoneContext(FakeContext):
    """A thread that ends while its program runs."""

    def read(self, address: int, length: int) -> bytes:
        raise Gone

    def read_partial(self, address: int, length: int) -> bytes:
        raise Gone

    def write(self, address: int, data: bytes) -> None:
        raise Gone

    def writable(self, address: int) -> bool:
        raise Gone

    def fpregs(self) -> bytearray:
        raise Gone

    def now(self) -> int:
        raise Gone


GONE = [
    "push 0x1000\npush mem,u8\n",
    "push 0x1000\npush 1\npop mem,u8\n",
    "push 1\npush 0x1000\nlog str\n",
    "push 1\npush 0x1000\nlog mrf\n",
    "push 0x1000\nvfy r\n",
    "push r,xmm0\n",
    "push 1\npop r,fcw\n",
    "push time\n",
]


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("text", GONE)
def test_what_a_context_raises_goes_to_the_caller(text: str, static: bool) -> None:
    gone = GoneContext([], Case("", "").thread)
    executor = PythonExecutor(
        probe("sx on\n" + text + "exit\non:\nnop\n"), ListVariables(), {}, static=static
    )
    with pytest.raises(Gone):
        executor.entry(0)(gone)
    executor = PythonExecutor(probe(text), ListVariables(), {}, static=static)
    with pytest.raises(Gone):
        executor.entry(0)(gone)


class FickleContext(FakeContext):
    """Memory that can be read only now and then: another thread unmaps it."""

    def __init__(self) -> None:
        super().__init__([], Case("", "").thread)
        self.reads = 0

    def read(self, address: int, length: int) -> bytes:
        self.reads += 1
        if self.reads % 2:
            raise MemoryFault(address)
        return b"\x01" * length


def test_a_fault_is_the_program_s_own_and_only_of_that_hit() -> None:
    fickle = FickleContext()
    entry = PythonExecutor(probe("push 0x1000\npush mem,u16\nlog 1\n"), ListVariables(), {}).entry(
        0
    )
    assert entry(fickle).exception == (ExCode.INVALID_ADDR, 0x1000, 0)
    outcome = entry(fickle)
    assert (outcome.exit, outcome.exception) == (0, None)
    assert decode_log(outcome.log, outcome.raw) == [{"words": [0x0101]}]


def _instructions_run(header: str, text: str) -> int:
    """How often the loop in ``text`` went around (it counts in local 0) before the budget ended."""
    executor = PythonExecutor(
        probe(text, f"jmpmax = 2147483647\nvars = 1\n{header}"), ListVariables(), {}
    )
    assert executor.entry(0)(context()).exit == BUDGET
    return executor.locals.words[0]


def test_the_budget_is_charged_by_the_instruction() -> None:
    # Blocks of `inc; jmp`: half of the budget.
    assert _instructions_run("", "again:\ninc lv,0\njmp again\n") == INSTRUCTION_BUDGET // 2


def test_moving_many_words_costs_more_of_the_budget() -> None:
    rounds = _instructions_run("", "push 1\nagain:\ninc lv,0\ndup 240\nros 240\njmp again\n")
    assert rounds == (INSTRUCTION_BUDGET - 1) // (4 + 2 * 240 // 8)
    rounds = _instructions_run("", "again:\ninc lv,0\npush 239\npush 7\ndup\nros 240\njmp again\n")
    assert rounds < INSTRUCTION_BUDGET // 6


class EndlessContext(FakeContext):
    """All memory can be read."""

    def read_partial(self, address: int, length: int) -> bytes:
        return bytes(length)


def test_bytes_that_are_logged_cost_of_the_budget() -> None:
    text = "again:\ninc lv,0\npush 64000\npush 0x1000\nlog mrf\npush 0\npop lp\njmp again\n"
    made = probe(text, "jmpmax = 2147483647\nvars = 1\nlogmax = 65536")
    executor = PythonExecutor(made, ListVariables(), {})
    endless = EndlessContext([], Case("", "").thread)
    assert executor.entry(0)(endless).exit == BUDGET
    assert executor.locals.words[0] == INSTRUCTION_BUDGET // (7 + 64000 // 64) + 1


def test_what_is_read_and_then_not_logged_costs_as_well() -> None:
    text = "again:\ninc lv,0\npush 64000\npush 0x1000\nlog str\njmp again\n"
    made = probe(text, "jmpmax = 2147483647\nvars = 1\nlogmax = 6400")

    class Unending(FakeContext):
        def read_partial(self, address: int, length: int) -> bytes:
            return b"x" * length

    executor = PythonExecutor(made, ListVariables(), {})
    outcome = executor.entry(0)(Unending([], Case("", "").thread))
    assert (outcome.exit, outcome.log) == (BUDGET, b"")
    assert executor.locals.words[0] == INSTRUCTION_BUDGET // (5 + 6400 // 64) + 1


def test_heap_that_is_cleared_costs_as_well() -> None:
    text = "heap = 1048576\nagain:\ninc lv,0\npush 1048576\nmalloc\nfree\njmp again\n"
    rounds = _instructions_run("heapmax = 1048576", text)
    assert rounds == INSTRUCTION_BUDGET // (5 + 1048576 // 64) + 1


@pytest.mark.slow
@pytest.mark.parametrize("static", [True, False])
def test_a_program_without_loops_can_use_up_its_budget(static: bool) -> None:
    made = probe("push 1\nlog 1\npush 1\njz on\non:\n" + "dup 240\nros 240\n" * 16_300)
    outcome = PythonExecutor(made, ListVariables(), {}, static=static).entry(0)(context())
    assert outcome.exit == BUDGET
    assert decode_log(outcome.log, outcome.raw) == [{"words": [1]}]


@pytest.mark.parametrize(
    "code", ["push r,rdi\nlog 1\n", "sx on{0}\ncall sub{0}\non{0}:\nexit\nsub{0}:\nlog st\nret\n"]
)
def test_probes_with_the_same_instructions_share_their_code(code: str) -> None:
    text = "".join(f"offset = {n}\nminor = {n}\n" + code.format(n) for n in range(1, 4))
    executor = PythonExecutor(program(text), ListVariables(), {})
    outcomes = [executor.entry(p.index)(context()) for p in executor.program.probes]
    assert [outcome.minor for outcome in outcomes] == [1, 2, 3]
    sources = {executor.source(p) for p in executor.program.probes}
    assert len(sources) == 1


def test_probes_that_call_one_subroutine_share_their_code() -> None:
    """Each trace says where its own probe called from, and all the same subroutine."""
    calls = "".join(f"offset = {n}\ncall common\nexit\n" for n in range(1, 4))
    made = program(f"{calls}common:\nlog st\nret\n")
    executor = PythonExecutor(made, ListVariables(), {})
    assert len({executor.source(p) for p in made.probes}) == 1
    traces = [_frames(executor.entry(p.index)(context())) for p in made.probes]
    common = made.code.index(BY_KEY["log st"].opcode)
    after_call = BY_KEY["call label"].size
    assert traces == [
        [{"called": common, "return": p.entry + after_call}, {"called": p.entry, "return": None}]
        for p in made.probes
    ]


def _frames(outcome: Outcome) -> list[dict[str, object]]:
    (item,) = decode_log(outcome.log, outcome.raw)
    frames = cast(Any, item["trace"])["frames"]
    return [{name: frame[name] for name in ("called", "return")} for frame in frames]


def test_a_straight_program_takes_no_stack_no_buffer_and_no_counters() -> None:
    made = probe("push r,rdi\nlog 1\nexit\n")
    source = PythonExecutor(made, ListVariables(), {}).source(made.probes[0])
    assert source.splitlines()[1:] == [
        " regs = ctx.regs",
        " t1 = regs[14]",
        " return Outcome(0, pack1(t1), (0, 1), MAJ, MNR, None, False, False)",
    ]


def test_depths_are_static_where_all_paths_agree() -> None:
    agree = probe("push 1\njz a\npush 2\njmp b\na:\npush 3\nb:\nlog 2\n")
    blocks = find_blocks(agree.code, 0)
    assert is_acyclic(blocks)
    depths = static_depths(blocks, 64)
    assert depths is not None
    assert sorted(depths.values()) == [0, 1, 1, 2]
    differ = probe("push 1\njz b\npush 2\nb:\nlog 1\n")
    assert static_depths(find_blocks(differ.code, 0), 64) is None


def test_a_loop_is_not_acyclic() -> None:
    assert not is_acyclic(find_blocks(probe("push 3\nagain:\nloop again\n").code, 0))
    assert not is_acyclic(find_blocks(probe("call sub\nexit\nsub:\nret\n").code, 0))


def test_every_block_ends_where_another_can_begin() -> None:
    made = probe("push 1\nagain:\nnop\nloop again\ncall sub\nnop\nexit\nsub:\nret\n")
    blocks = find_blocks(made.code, 0)
    starts = {block.start for block in blocks}
    for block in blocks:
        assert all(step.offset not in starts for step in block.steps[1:])
        for step in block.steps:
            if Operand.LABEL in step.instruction.operands:
                assert step.operands[0] in starts


def test_traces_of_every_probe_name_offsets_in_the_program() -> None:
    made = program("".join(f"offset = {n}\nsx on{n}\nlog st\non{n}:\nexit\n" for n in (1, 2)))
    executor = PythonExecutor(made, ListVariables(), {})
    for defined in made.probes:
        outcome = executor.entry(defined.index)(context())
        (item,) = decode_log(outcome.log, outcome.raw)
        trace = item["trace"]
        assert isinstance(trace, dict)
        assert trace["handler"] == defined.end - BY_KEY["exit"].size
        assert isinstance(trace["frames"], list)
        frame = trace["frames"][0]
        assert isinstance(frame, dict)
        assert frame["called"] == defined.entry
