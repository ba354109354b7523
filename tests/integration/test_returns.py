"""Return probes: functions that are left in all ways there are, with exact counts."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from dprobed.compiler import is_there
from dprobed.engine.trap import returns
from dprobed.wire.limits import Limits
from dprobed.wire.protocol import State
from tests.conftest import BuildTarget
from tests.integration.conftest import EACH_ENGINE, Start, Trace
from tests.integration.harness import text
from tests.integration.returns_support import FLAGS, at_end, counts, logged, returning


@pytest.fixture
def program(build_target: BuildTarget, engine: str) -> Path:
    return build_target("returns.c", *FLAGS[engine], "-pthread")


def test_results_and_what_the_entry_has_kept(program: Path, start: Start, trace: Trace) -> None:
    target = start(program, "many")
    tracer = trace(target)
    before = text(target.pid)
    source = f"""
        name = "{program}"
        offset = many
        minor = 1
        at = return
        entry:
            push a,0
            pop e,0
            push a,6
            pop e,1
            push f,0
            pop e,2
            push f,1
            push 0xffffffff
            and
            pop e,3
        return:
            push e,3
            push e,2
            push e,1
            push e,0
            push r,rax
            log 5
        offset = half
        minor = 2
        at = return
            push r,xmm0
            log 1
        offset = factorial
        minor = 3
        at = return
        entry:
            push a,0
            pop e,7
        return:
            push e,7
            push r,rax
            log 2
    """
    number = tracer.put(source.replace("        ", ""))
    target.go()
    target.expect("stopped")
    assert counts(tracer.query(number)) == [(5, 0), (5, 0), (6, 0)]
    tracer.detach()
    assert text(target.pid) == before
    target.finish()

    def number_of(kind: str, value: float) -> int:
        data = struct.pack(f"<{kind}", value)
        return int.from_bytes(data, "little")

    half, one_and_a_half = number_of("d", 0.5), number_of("f", 1.5)
    assert logged(tracer, 1) == [[i + 23, i, 6, half, one_and_a_half] for i in range(5)]
    assert logged(tracer, 2) == [[number_of("d", i / 2)] for i in range(5)]
    assert logged(tracer, 3) == [[1, 1], [2, 2], [6, 3], [24, 4], [120, 5], [720, 6]]


#: What is called how, the functions that are probed, and their returns and unwound calls.
WAYS = {
    "many": {"many": (5, 0), "half": (5, 0), "factorial": (6, 0)},
    # Those that hand their frame on return with whom they gave it to.
    "tails": {"even": (6 + 4 + 2, 0), "odd": (5 + 4 + 2, 0), "handing": (4, 0), "leaf": (8, 0),
              "exits": (7, 0)},
    "jumps": {"jumper": (5, 40)},
    "threads": {"leaves": (5, 15), "passes": (5, 15)},
    "crowd": {"together": (160, 0)},
    "coroutines": {"yields": (9, 0), "resumes": (39, 0), "leaf": (4, 0)},
    "signals": {"interrupted": (20 + 6, 6)},
}  # fmt: skip


#: Functions that call themselves by a jump, so that several calls return as one.
BY_JUMP = {"even", "odd"}
#: These, and some at one of whose exits no jump can be, because of what is behind.
NOT_INLINE = BY_JUMP | {"jumper", "factorial"}


@EACH_ENGINE
@pytest.mark.parametrize("how", WAYS)
def test_each_way_to_leave_a_function(
    how: str, engine: str, program: Path, start: Start, trace: Trace
) -> None:
    without = {"inline": NOT_INLINE, "signal": BY_JUMP}.get(engine, set())
    if not WAYS[how].keys() - without:
        pytest.skip("none of them can be native")
    target = start(program, how)
    tracer = trace(target)
    number = tracer.put(returning(program, *(each for each in WAYS[how] if each not in without)))
    target.go()
    target.expect("stopped")
    found = at_end(target, tracer, number)
    assert found == [counted for name, counted in WAYS[how].items() if name not in without]


@pytest.mark.skipif(not is_there(), reason="llvmlite is not installed")
@pytest.mark.parametrize("engine", ["inline"])
def test_functions_whose_returns_the_code_does_not_tell(
    program: Path, start: Start, trace: Trace
) -> None:
    """Are refused with the instruction by which they go on."""
    target = start(program, "tails")
    tracer = trace(target)
    _, probes = tracer.insert(returning(program, *BY_JUMP))
    for each in probes:
        assert each.state is State.FAILED
        assert re.search("at 0x[0-9a-f]+ it calls itself by a jump", each.reason), each
    target.go()
    target.expect("stopped")
    target.finish()


@EACH_ENGINE
def test_exceptions_and_coroutines_of_the_language(
    build_target: BuildTarget, engine: str, start: Start, trace: Trace
) -> None:
    target = start(build_target("returns_cpp.cc", "-O2", "-std=c++20"))
    tracer = trace(target)
    functions = ["thrower", "catcher", "rethrower", "doubled", "next"]
    if engine == "inline":
        functions.remove("doubled")  # the jump at its entry would need its return as it is
    number = tracer.put(returning(Path(f"/proc/{target.pid}/exe").resolve(), *functions))
    target.go()
    target.expect("stopped")
    found = at_end(target, tracer, number)
    # Thrown through: 1 to 5 frames, then three times 3.
    counted = {
        "thrower": (4, 15 + 9),
        "catcher": (9, 0),
        "rethrower": (0, 3),
        "doubled": (12, 0),
        "next": (12, 0),
    }
    assert dict(zip(functions, found, strict=True)) == {each: counted[each] for each in functions}


@EACH_ENGINE
def test_returns_are_the_hits_that_are_counted(program: Path, start: Start, trace: Trace) -> None:
    """pass_count, max_hits and `rem`; the entry part decides which calls are followed."""
    target = start(program, "leafs")
    tracer = trace(target)
    kept = "entry:\npush a,0\npop e,0\nreturn:\npush e,0\nlog 1"
    wanted = "push a,0\npush 7\nsub\njlt no{0}\nexit\nno{0}:\nabort"
    numbers = [
        tracer.put(returning(program, "leaf", body=body))
        for body in (
            f"pass_count = 3\n{kept}",
            f"max_hits = 2\nminor = 2\n{kept}".replace("minor = 2\n", ""),
            f"{kept}\nrem",
            f"entry:\n{wanted.format(1)}\nreturn:\nabort",
            "entry:\npush 8\npush mem,u8\npop e,0\nreturn:\nabort",
        )
    ]
    target.go()
    target.expect("stopped")
    found = [tracer.query(number)[0] for number in numbers]
    ended = [(each.hits, each.ran, each.missed, each.unwound, each.state) for each in found]
    assert ended == [
        (10, 7, 0, 0, State.ACTIVE),
        (2, 2, 0, 0, State.DISABLED),
        (1, 1, 0, 0, State.REMOVED),
        (3, 3, 0, 0, State.ACTIVE),
        # The exception that ends its entry part is told, and the call not followed.
        (0, 0, 10, 0, State.ACTIVE),
    ]
    target.finish()
    tracer.wait()
    by_program = {n: [each for each in tracer.records if each.program == n] for n in numbers}
    assert [len(by_program[number]) for number in numbers] == [7, 2, 1, 0, 10]
    assert [each.hit for each in by_program[numbers[0]]] == list(range(4, 11))
    assert by_program[numbers[4]][0].exception == (1, 8, 0)


def test_a_place_that_is_no_functions_entry(program: Path, start: Start, trace: Trace) -> None:
    target = start(program)
    tracer = trace(target)
    line = next(
        number
        for number, text in enumerate(
            Path("tests/targets/returns.c").read_text().splitlines(), start=1
        )
        if "landed = landed + 1" in text
    )
    _, probes = tracer.insert(returning(program, f"returns.c:{line}"))
    assert [each.state for each in probes] == [State.INVALID_OFFSET]
    assert "is no function's entry" in probes[0].reason
    target.go()
    target.expect("stopped")
    target.finish()


@EACH_ENGINE
def test_a_result_is_altered(program: Path, start: Start, trace: Trace) -> None:
    """As with an ordinary probe what the program pops is what the caller finds."""
    target = start(program, "leafs")
    tracer = trace(target)
    entry = "push a,0\npop e,0\npush 77\npop r,rdi"
    at_return = "push r,rax\npush e,0\nlog 2\npush e,0\npush 1\nadd\npop r,rax"
    body = f"entry:\n{entry}\nreturn:\n{at_return}"
    number = tracer.put(returning(program, "leaf", body=body))
    target.go()
    target.expect("stopped")
    assert at_end(target, tracer, number) == [(10, 0)]
    assert logged(tracer, 1) == [[i, 78] for i in range(10)]


def test_a_budget_holds_for_return_probes(program: Path, start: Start, trace: Trace) -> None:
    """Both parts are charged: one hit overdraws so small a budget, and the probe sleeps."""
    target = start(program, "leafs")
    tracer = trace(target)
    number, _ = tracer.insert(
        returning(program, "leaf", body="entry:\nnop\nreturn:\nabort"),
        budget=Limits(share=0.0001),
    )
    target.go()
    target.expect("stopped")
    (found,) = tracer.query(number)
    assert found.hits < 10
    assert found.state is State.THROTTLED
    target.finish()


def test_more_places_than_there_are_return_sites(
    build_target: BuildTarget, start: Start, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is beyond is counted as missed, and the probe says why; nothing stays behind."""
    monkeypatch.setattr(returns, "MAX_SITES", 70)
    program = build_target("returns_many.c")
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    number = tracer.put(returning(program, "called"))
    target.go()
    target.expect("stopped")
    (found,) = tracer.query(number)
    assert (found.hits, found.missed, found.unwound) == (2 * 70, 2 * 30, 0)
    assert found.state is State.ACTIVE
    assert found.reason == (
        "some returns cannot be seen: functions are called from more than 70 places"
    )
    tracer.remove(number)
    number = tracer.put(returning(program, "called"))
    (found,) = tracer.query(number)
    assert (found.hits, found.missed, found.reason) == (0, 0, "")
    tracer.detach()
    assert text(target.pid) == before
    target.finish()
