"""Static probes (USDT): placed by name at each of their places, with arguments and semaphores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dprobed import change_journal
from dprobed.wire.protocol import State
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import Target, TracerProcess, counting
from tests.unit.location_files import open_path


@pytest.fixture
def forms(build_target: BuildTarget) -> Path:
    return build_target("static_probes.c")


def semaphores(target: Target, who: str = "semaphores") -> list[tuple[int, int]]:
    """What the target said that its semaphores were, each time."""
    words = [line.split() for line in target.said]
    return [(int(each[1]), int(each[2])) for each in words if each[0] == who]


def passes(target: Target) -> tuple[int, int]:
    """Let it pass its static probes; what its semaphores were then."""
    target.go()
    target.expect("passed")
    return semaphores(target)[-1]


def noted(tracer: TracerProcess) -> int:
    """How many semaphores its change journal names."""
    kinds = [change.kind for _, change in change_journal.read(tracer.changes)]
    return kinds.count(change_journal.Kind.SEMAPHORE)


def test_each_place_of_a_name_is_probed(forms: Path, start: Start, trace: Trace) -> None:
    target = start(forms)
    tracer = trace(target)
    number = tracer.put(counting(forms, "usdt:forms:many", "usdt:forms:twice"))
    assert [len(each.addresses) for each in tracer.query(number)] == [1, 2]
    passes(target)
    assert tracer.hits(number) == [1, 2]
    tracer.detach()
    assert passes(target) == (0, 0)
    passes(target)
    target.finish()


def test_a_semaphore_is_up_while_a_probe_is_there(forms: Path, start: Start, trace: Trace) -> None:
    """And once only, however many probes of ours need it."""
    target = start(forms)
    tracer = trace(target)
    number = tracer.put(counting(forms, "usdt:forms:last"))
    other = tracer.put(counting(forms, "usdt:forms:last"))
    assert passes(target) == (0, 1)
    assert tracer.hits(number) == [1]
    tracer.remove(number)
    assert passes(target) == (0, 1)
    assert tracer.hits(other) == [2]
    assert noted(tracer) == 1
    tracer.remove(other)
    assert noted(tracer) == 0
    assert passes(target) == (0, 0)
    tracer.detach()
    target.finish()


@pytest.mark.parametrize("follow", [False, True], ids=["detached", "followed"])
def test_a_fork_child_has_them_up_as_long_as_it_is_followed(
    forms: Path, start: Start, trace: Trace, follow: bool
) -> None:
    target = start(forms, "forks")
    tracer = trace(target, follow_forks=follow)
    tracer.put(counting(forms, "usdt:forms:last"))
    passes(target)
    assert passes(target) == (0, 1)
    assert semaphores(target, "child") == [(0, int(follow))]
    if follow:
        (forked,) = tracer.forked
        assert [each.hits for each in tracer.ends_of(forked.pid).probes] == [1]
    tracer.detach()
    assert passes(target) == (0, 0)
    target.finish()


def test_a_killed_tracer_leaves_none_up(forms: Path, start: Start, trace: Trace) -> None:
    """Once another has recovered what it left."""
    target = start(forms)
    tracer = trace(target)
    tracer.put(counting(forms, "usdt:forms:many", "usdt:forms:last"))
    assert passes(target) == (1, 1)
    target.tracer = None
    tracer.kill()
    other = TracerProcess(changes=tracer.changes)
    try:
        assert other.recover() == []
    finally:
        other.end()
    assert passes(target) == (0, 0)
    passes(target)
    target.finish()


def test_what_another_has_counted_up_stays(forms: Path, start: Start, trace: Trace) -> None:
    """As gdb and the kernel do it: one for each who is told."""
    target = start(forms)
    tracer = trace(target)
    tracer.put(counting(forms, "usdt:forms:last"))
    (symbol,) = open_path(str(forms)).symbols.find("forms_last_semaphore")
    mapped = Path(f"/proc/{target.pid}/maps").read_text().splitlines()
    first = int(next(line for line in mapped if str(forms) in line).partition("-")[0], 16)
    with Path(f"/proc/{target.pid}/mem").open("r+b", buffering=0) as memory:
        os.pwrite(memory.fileno(), (2).to_bytes(2, "little"), first + symbol.value)
    assert passes(target) == (0, 2)
    tracer.detach()
    assert passes(target) == (0, 1)
    passes(target)
    target.finish()


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("usdt:forms:lost", "no static probe forms:lost; candidates: usdt:forms:last"),
        ("usdt:shapes:many", "no static probe shapes:many"),
    ],
)
def test_a_name_that_is_not_there(
    forms: Path, start: Start, trace: Trace, place: str, reason: str
) -> None:
    target = start(forms)
    tracer = trace(target)
    _, (status,) = tracer.insert(counting(forms, place))
    assert status.state is State.INVALID_OFFSET
    assert reason in status.reason
    tracer.detach()
    for _ in range(3):
        passes(target)
    target.finish()
