"""Where the tracer runs, with the system calls of its scheduling put on record."""

from __future__ import annotations

import os

import pytest

from dprobed.engine import follow
from dprobed.engine.follow import Follower


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """CPUs that it went to and policies that it took, in order; it has every right."""
    made: list[object] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: made.append(set(cpus)))
    monkeypatch.setattr(os, "sched_setscheduler", lambda pid, policy, param: made.append(policy))
    monkeypatch.setattr(follow, "_may_return", lambda: True)
    monkeypatch.setattr(follow, "_run_delay", lambda: 0)
    return made


def settle(follower: Follower, cpu: int) -> None:
    for _ in range(4):
        follower.hit(cpu)


def test_it_goes_where_hits_come_from_and_gives_way_there(calls: list[object]) -> None:
    follower = Follower()
    for _ in range(3):
        follower.hit(1)
    assert calls == []
    follower.hit(1)
    assert calls == [{1}, os.SCHED_IDLE]
    settle(follower, 2)
    assert calls == [{1}, os.SCHED_IDLE, {2}]


def test_now_and_then_a_hit_elsewhere_moves_nothing(calls: list[object]) -> None:
    follower = Follower()
    settle(follower, 1)
    del calls[:]
    for _ in range(10):
        follower.hit(2)
        follower.hit(2)
        follower.hit(1)
    assert calls == []


def test_who_has_to_wait_for_the_cpu_is_an_ordinary_task_for_a_while(
    calls: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = Follower()
    settle(follower, 1)
    del calls[:]
    monkeypatch.setattr(follow, "_run_delay", lambda: 20_000_000)
    follower.tick(3000)
    assert calls == []
    monkeypatch.setattr(follow, "_run_delay", lambda: 40_000_000)
    follower.tick(10)
    assert calls == [os.SCHED_OTHER]
    for _ in range(99):
        follower.tick(3000)
    assert calls == [os.SCHED_OTHER]
    follower.tick(3000)
    assert calls == [os.SCHED_OTHER, os.SCHED_IDLE]


def test_work_for_which_the_target_waits_is_not_put_off(calls: list[object]) -> None:
    follower = Follower()
    settle(follower, 1)
    del calls[:]
    follower.hurry()
    assert calls == [os.SCHED_OTHER]


def test_without_hits_it_is_placed_by_the_scheduler_again(calls: list[object]) -> None:
    follower = Follower()
    settle(follower, 1)
    del calls[:]
    follower.wander()
    assert calls == [os.SCHED_OTHER, {0, 1, 2}]


def test_who_could_not_come_back_never_gives_way(
    calls: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "_may_return", lambda: False)
    follower = Follower()
    settle(follower, 1)
    follower.wander()
    assert calls == [{1}, {0, 1, 2}]


def test_a_kernel_without_the_figure_is_no_reason_to_fail(
    calls: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> int:
        raise FileNotFoundError

    monkeypatch.setattr(follow, "_run_delay", missing)
    follower = Follower()
    settle(follower, 1)
    assert calls == [{1}]
