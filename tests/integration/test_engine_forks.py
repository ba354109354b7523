"""Children that are made at awkward moments: let go clean, or followed, and none is lost."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

import pytest

from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import counting

both = pytest.mark.parametrize("follow", [False, True], ids=["let go", "followed"])


@contextlib.contextmanager
def no_cpu_idle() -> Iterator[None]:
    """So that a new process waits for its first turn."""
    busy = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(4)]
    try:
        yield
    finally:
        for each in busy:
            each.kill()
            each.wait()


@both
def test_another_thread_executes_while_one_forks(
    build_target: BuildTarget, start: Start, trace: Trace, follow: bool
) -> None:
    """The thread that forked is gone before it could tell, and its child had no turn yet."""
    program = build_target("engine_forkexec.c", "-pthread")
    target = start(program, "40", "1")
    tracer = trace(target, follow_forks=follow)
    tracer.put(counting(program, "probed"))
    with no_cpu_idle():
        target.go()
        target.expect("stopped")
    assert bool(tracer.forked) == follow
    for forked in tracer.forked:
        ended = tracer.ends_of(forked.pid)
        assert (ended.how, ended.status, ended.probes[0].hits) == ("exited", 0, 3)
    tracer.detach()
    target.finish()


@both
@pytest.mark.parametrize("wanted", ["handles", "ignores"])
def test_a_child_has_what_its_parent_set_for_sigtrap(
    build_target: BuildTarget, start: Start, trace: Trace, wanted: str, follow: bool
) -> None:
    """The parent's hits made the kernel forget it before the fork."""
    program = build_target("engine_trapfork.c")
    target = start(program, wanted)
    tracer = trace(target, follow_forks=follow)
    number = tracer.put(counting(program, "probed"))
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [10]
    tracer.detach()
    target.finish()
