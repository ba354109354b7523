"""Hazard: children that no tracer is given by the kernel, with our breakpoints in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import counting, text


@pytest.fixture
def program(build_target: BuildTarget) -> Path:
    return build_target("untraced.c")


@pytest.mark.parametrize(("kind", "calls"), [("fork", 1), ("memory", 4), ("thread", 4)])
def test_the_guard_serves_it(
    program: Path, start: Start, trace: Trace, kind: str, calls: int
) -> None:
    """It comes to no harm, but its hits are nobody's."""
    target = start(program, kind)
    before = text(target.pid)
    tracer = trace(target)
    number = tracer.put(counting(program, "probed"))
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [1]
    tracer.detach()
    now = text(target.pid)
    assert {name: now[name] for name in before} == before
    assert target.finish() == calls
