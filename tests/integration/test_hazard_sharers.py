"""Hazard 2: processes that share memory and are neither parent nor child of each other."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from dprobed.proc import procfs
from dprobed.proc.shared_memory import processes, sharers
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import RefusedError, Target, counting

HOW = ["sibling", "orphan", "headless"]


@pytest.fixture
def program(build_target: BuildTarget) -> Path:
    return build_target("sharers.c")


def reap(target: Target) -> None:
    """Collect the other one, where that is our child."""
    with contextlib.suppress(ChildProcessError):
        _, status = os.waitpid(target.number("pid"), 0)
        assert status == 0


@pytest.mark.parametrize("how", HOW)
def test_either_is_refused_and_both_live(
    program: Path, start: Start, trace: Trace, how: str
) -> None:
    target = start(program, how, "before")
    other = target.number("pid")
    there = sharers(procfs.live_thread(target.pid), processes())
    assert set(there) == {target.pid, other}
    for one, its_fellow in ((target.pid, other), (other, target.pid)):
        with pytest.raises(RefusedError, match=f"fellow {its_fellow} .* shares its memory"):
            trace().attach(one)
    target.go()
    target.expect("shared")
    target.go()
    target.expect("stopped")
    target.finish()
    reap(target)


@pytest.mark.parametrize("how", HOW)
def test_one_that_is_made_later_is_served(
    program: Path, start: Start, trace: Trace, how: str
) -> None:
    target = start(program, how, "later")
    tracer = trace(target)
    number = tracer.put(counting(program, "probed"))
    target.go()
    target.expect("shared")
    # Probes come and go while it runs.
    for _ in range(5):
        tracer.remove(tracer.put(counting(program, "probed", "probed+0x8")))
    target.go()
    target.expect("stopped")
    hits = tracer.hits(number)
    tracer.detach()
    assert hits == [target.finish()]
    reap(target)
