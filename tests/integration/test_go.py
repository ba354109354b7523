"""Programs of Go: functions are entered once for each call, although the runtime enters them again
when their stack was too small; and left wherever their stack has been moved to meanwhile."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from dprobe.lib.stacks import StackNames

from dprobed.compiler import is_there
from dprobed.record.log import decode_log
from dprobed.wire.engines import NATIVE
from dprobed.wire.protocol import State
from tests.conftest import TARGETS
from tests.integration.client_support import dprobe
from tests.integration.conftest import Start, Trace
from tests.integration.harness import counting, text
from tests.integration.returns_support import at_end, returning

GOROUTINES, DEPTH = 20, 60


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("go") / "goroutines"
    folders = {"GOCACHE": str(made.parent / "cache"), "GOPATH": str(made.parent / "path")}
    command = ["env", *(f"{name}={value}" for name, value in folders.items())]
    command += ["GOFLAGS=", "go", "build", "-o", str(made), str(TARGETS / "goroutines.go")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return made


def test_each_call_is_one_hit(program: Path, start: Start, trace: Trace) -> None:
    target = start(program)
    tracer = trace(target)
    before = text(target.pid)
    functions = ("main.deep", "main.moved", "main.leaf", "main.panics")
    number = tracer.put(counting(program, *functions))
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [GOROUTINES * (DEPTH + 1), GOROUTINES, 2 * GOROUTINES + 1, 10]
    tracer.detach()
    assert text(target.pid) == before
    target.finish()


def test_each_return_is_one_hit(program: Path, start: Start, trace: Trace) -> None:
    """What was left by a panic shows at the latest when the process ends."""
    functions = {
        "main.deep": (GOROUTINES * (DEPTH + 1), 0),
        "main.moved": (GOROUTINES, 0),
        "main.travels": (GOROUTINES, 0),
        "main.leaf": (2 * GOROUTINES + 1, 0),
        "main.panics": (5, 5),
        "main.recovers": (10, 0),
    }
    target = start(program)
    tracer = trace(target)
    number = tracer.put(returning(program, *functions))
    target.go()
    target.expect("stopped")
    found = at_end(target, tracer, number)
    assert dict(zip(functions, found, strict=True)) == functions


def test_a_goroutine_that_ends_within(program: Path, start: Start, trace: Trace) -> None:
    target = start(program)
    tracer = trace(target)
    number = tracer.put(returning(program, "main.exits"))
    target.go()
    target.expect("stopped")
    ((hits, unwound),) = at_end(target, tracer, number)
    assert (hits, unwound) == (0, GOROUTINES)


def test_stacks_of_goroutines(program: Path, start: Start, trace: Trace) -> None:
    """From where the runtime has begun each, however often the stack was moved."""
    target = start(program)
    tracer = trace(target)
    functions = {"main.panics": 1, "main.leaf": 2}
    source = f'name = "{program}"\nlogmax = 16384\n'
    for function, minor in functions.items():
        source += f"offset = {function}\nminor = {minor}\nmax_hits = 1\nlog ustack\nexit\n"
    tracer.put(source)
    target.go()
    target.expect("stopped")
    target.finish()
    tracer.wait()
    names = StackNames()
    found: dict[int, list[Any]] = {}
    for record in tracer.records:
        item: Any = decode_log(record.log, record.raw)[0]
        names.name_frames([item], target.pid)
        assert "ended" not in item
        found[record.minor] = [frame["function"] for frame in item["ustack"]]
    names.close()
    assert found[1][:3] == ["main.panics", "main.recovers", "main.main"]
    assert found[1][-1].startswith("runtime.goexit")
    assert found[2][: DEPTH + 3] == ["main.leaf", *["main.deep"] * (DEPTH + 1), "main.moved"]
    assert found[2][-1].startswith("runtime.goexit")


def test_arguments_are_where_go_passes_them(program: Path) -> None:
    command = ["run", "-e", f"uprobe:{program}:main.deep {{ @[n] = count() }}", "--", str(program)]
    done = dprobe(*command)
    counted = set(re.findall(r"@\[(\d+)\]: (\d+)", done.stderr))
    assert counted == {(str(n), str(GOROUTINES)) for n in range(DEPTH + 1)}
    done = dprobe("check", "-e", f"uprobe:{program}:main.deep {{ @[args.n] = count() }}")
    assert done.returncode == 2
    assert "`n` is passed as Go does, in other registers than C's" in done.stderr


@pytest.mark.skipif(not is_there(), reason="llvmlite is not installed")
@pytest.mark.parametrize("engine", NATIVE)
@pytest.mark.parametrize("place", ["main.leaf", "main.moved+0x4", "goroutines.go:38"])
def test_nothing_native_runs_on_the_stack_of_a_goroutine(
    program: Path, engine: str, place: str, start: Start, trace: Trace
) -> None:
    """It has a few hundred bytes, and behind them another's; also where no build id says it."""
    target = start(program)
    tracer = trace(target)
    _, (probe,) = tracer.insert(f'name = "{program}"\noffset = {place}\nabort\n')
    assert probe.state is State.FAILED and "it is a Go program's" in probe.reason, probe
    tracer.detach()
    target.go()
    target.expect("stopped")
    target.finish()
