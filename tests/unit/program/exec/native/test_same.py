"""Native code does what the Python executor does: every case, and drawn programs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dprobed.program.exec.variables import ListVariables
from dprobed.program.model import Program
from dprobed.program.rpn.parser import assemble
from tests.programs.cases import Case, check
from tests.programs.native import NativeExecutor, NotNativeError, Runner, build
from tests.unit.program.exec.test_cases import RUN, _name, _with
from tests.unit.program.exec.test_generated_programs import (
    USER,
    Run,
    drawing,
    programs,
    run_drawn,
    verified,
)

#: What has no native code, and why.
REASONS = (
    "`log ustack`: the stack of a thread is walked by the tracer",
    "`key ustack`: the stack of a thread is walked by the tracer",
    "`vfy rw`: whether memory may be written is known to the tracer",
    "`madd`: a `tseries` is kept by the tracer",
)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    program = tmp_path_factory.mktemp("native") / "runner"
    build(program)
    runner = Runner(program)
    yield runner
    runner.close()


class Native:
    """Makes executors of native code."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def __call__(
        self,
        program: Program,
        globals_: ListVariables,
        facilities: Mapping[str, int],
        *,
        static: bool = True,
    ) -> NativeExecutor:
        return NativeExecutor(self._runner, program, globals_, facilities, static=static)


@pytest.mark.parametrize("static", [True, False], ids=["static", "memory"])
@pytest.mark.parametrize("case", RUN, ids=_name)
def test_case(case: Case, static: bool, runner: Runner) -> None:
    program = assemble(case.source(), case.place)
    try:
        check(case, program, _with(Native(runner), static=static))
    except NotNativeError as error:
        # It is one of these that the program has.
        assert str(error) in REASONS
        assert any(
            each.name in str(error) for _, each, _ in program.instructions(program.probes[0])
        )


#: Drawn programs in all, and by how many tests, which can run side by side.
DRAWN = int(os.environ.get("DPROBED_DRAWN_NATIVE", "300"))
SHARES = min(-(-DRAWN // 1000), 64)
#: What a drawn program is made of: most that have an instruction without native code have more.
NATIVE = [i for i in USER if i.name not in ("log ustack", "vfy rw")]


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
@drawing(-(-DRAWN // SHARES))
@given(programs(NATIVE), st.booleans())
def test_drawn(share: int, runner: Runner, program: Program, static: bool) -> None:
    verified(program)
    try:
        found = run_drawn(program, static, Native(runner))
    except NotNativeError:
        return
    assert _state(found) == _state(run_drawn(program, static))


def _state(run: Run) -> list[object]:
    """All that it did; the order of a map's keys does not matter."""
    *state, maps = run.state()
    assert isinstance(maps, list)
    return [*state, [(each.lost, sorted(each.entries, key=repr)) for each in maps]]
