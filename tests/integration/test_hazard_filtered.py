"""Hazard: calls that the kernel restarts as another one, which a seccomp filter does not allow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dprobed.wire import protocol
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import RefusedError, counting
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may suspend a filter")
def test_one_whose_handlers_cannot_end_is_shown_as_unguarded(
    program: Path, start: Start, trace: Trace
) -> None:
    """Without us a breakpoint would have it killed by its filter: a policy may refuse that."""
    target = start(program, "handles")
    until_all_wait(target)
    tracer = trace(target)
    number = tracer.put(counting(program, "probed"))
    answer = tracer.request(protocol.Query(tracer.next(), target.pid))
    assert answer.unguarded == "its seccomp filter does not allow rt_sigreturn"
    tracer.remove(number)
    tracer.request(protocol.Adjust(tracer.next(), target.pid, only_guarded="policy p"))
    with pytest.raises(RefusedError, match="does not allow rt_sigreturn; policy p refuses that"):
        tracer.put(counting(program, "probed"))
    tracer.detach()
    target.go()
    target.expect("stopped")
    target.finish()
