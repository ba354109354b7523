"""Where the tracer runs, with the system calls of its scheduling put on record."""

from __future__ import annotations

import os

import pytest

from dprobed.engine.follow import Follower


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """CPUs that it went to, in order."""
    made: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: made.append(set(cpus)))
    return made


def settle(follower: Follower, cpu: int) -> None:
    for _ in range(4):
        follower.hit(cpu)


def test_it_goes_where_hits_come_from(calls: list[set[int]]) -> None:
    follower = Follower()
    for _ in range(3):
        follower.hit(1)
    assert calls == []
    follower.hit(1)
    assert calls == [{1}]
    settle(follower, 2)
    assert calls == [{1}, {2}]


def test_now_and_then_a_hit_elsewhere_moves_nothing(calls: list[set[int]]) -> None:
    follower = Follower()
    settle(follower, 1)
    del calls[:]
    for _ in range(10):
        follower.hit(2)
        follower.hit(2)
        follower.hit(1)
    assert calls == []


def test_without_hits_it_runs_anywhere_again(calls: list[set[int]]) -> None:
    follower = Follower()
    follower.wander()
    assert calls == []
    settle(follower, 1)
    follower.wander()
    assert calls == [{1}, {0, 1, 2}]


def test_a_cpuset_that_keeps_us_out_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, cpus: set[int]) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    follower = Follower()
    settle(follower, 1)
    follower.wander()
