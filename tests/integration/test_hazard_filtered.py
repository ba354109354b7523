"""Hazard: calls that the kernel restarts as another one, which a seccomp filter does not allow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import counting
from tests.integration.test_hazard_never_restarted import until_all_wait

NOBODY = 65534


@pytest.fixture
def program(build_target: BuildTarget) -> Path:
    return build_target("filtered.c", "-pthread")


@pytest.mark.parametrize("filter_for", ["kills", "allows"])
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may suspend a filter")
def test_stops_in_a_call_with_a_time_limit(
    program: Path, start: Start, trace: Trace, filter_for: str
) -> None:
    target = start(program, filter_for)
    until_all_wait(target)
    tracer = trace(target)
    number = tracer.put(counting(program, "probed"))
    for _ in range(5):
        tracer.remove(tracer.put(counting(program, "probed+0x8")))
        until_all_wait(target)
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [1]
    tracer.detach()
    target.finish()
