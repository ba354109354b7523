"""CPU affinity and scheduling policy of the tracer, with its system calls recorded."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import cast

import pytest

from dprobed.engine import affinity
from dprobed.engine.affinity import Affinity, become_scheduling_group
from dprobed.tracee.lifecycle import State
from dprobed.tracee.thread import Group, Thread

#: Nobody asks whose thread it is.
NO_GROUP = cast(Group, None)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """CPUs that it went to, in order."""
    made: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: made.append(set(cpus)))
    return made


def settle(affinity: Affinity, cpu: int) -> None:
    for _ in range(4):
        affinity.hit(cpu)


def test_it_goes_where_hits_come_from(calls: list[set[int]]) -> None:
    affinity = Affinity()
    for _ in range(3):
        affinity.hit(1)
    assert calls == []
    affinity.hit(1)
    assert calls == [{1}]
    settle(affinity, 2)
    assert calls == [{1}, {2}]


def test_now_and_then_a_hit_elsewhere_moves_nothing(calls: list[set[int]]) -> None:
    affinity = Affinity()
    settle(affinity, 1)
    del calls[:]
    for _ in range(10):
        affinity.hit(2)
        affinity.hit(2)
        affinity.hit(1)
    assert calls == []


def test_without_hits_it_runs_anywhere_again(calls: list[set[int]]) -> None:
    affinity = Affinity()
    affinity.release_cpu()
    assert calls == []
    settle(affinity, 1)
    affinity.release_cpu()
    assert calls == [{1}, {0, 1, 2}]


def test_a_cpuset_that_keeps_us_out_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, cpus: set[int]) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    affinity = Affinity()
    settle(affinity, 1)
    affinity.release_cpu()


class Machine:
    """What the tracer sees of one: its own policy, and how long it was kept waiting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.idle = False
        self.run = self.waited = 0
        self.now = 1_000_000_000
        self.refuses = False
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
        monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: None)
        monkeypatch.setattr(os, "sched_setscheduler", self._set)
        monkeypatch.setattr(affinity, "_times", lambda pid: (self.run, self.waited))

    def _set(self, pid: int, policy: int, param: object) -> None:
        if self.refuses and policy == os.SCHED_OTHER:
            raise PermissionError
        if threading.current_thread() is threading.main_thread():
            self.idle = policy == os.SCHED_IDLE

    def hits(
        self,
        affinity: Affinity,
        *tids: int,
        stray: bool = True,
        waited: float = 0.0,
        each: int = 500_000,
        bound: int | None = None,
    ) -> None:
        """256 hits in 4 ms, by these threads in turn; ``waited``: this share of it for others.

        ``each``: nanoseconds of 32 hits; ``bound``: the CPU of the threads.
        """
        for number in range(8):
            self.now += each
            self.waited += int(each * waited)
            cpu = (1 - affinity.cpu if stray else 0) if bound is None else bound
            thread = Thread(tids[number % len(tids)], 7, State.RUNNING, NO_GROUP)
            affinity.review(thread, cpu, 32, self.now)
            affinity.hit(cpu)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_it_becomes_idle_where_the_hits_of_one_thread_stray(machine: Machine) -> None:
    affinity = Affinity(alone=True)
    machine.hits(affinity, 7)
    assert not machine.idle  # nothing to compare with yet
    machine.hits(affinity, 7)
    assert machine.idle
    machine.hits(affinity, 7, stray=False)
    assert machine.idle


@pytest.mark.parametrize(
    ("tids", "stray", "waited"), [((7,), False, 0), ((7, 8), True, 0), ((7,), True, 0.9)]
)
def test_it_does_not_without_need_or_beside_others(
    machine: Machine, tids: tuple[int, ...], stray: bool, waited: float
) -> None:
    affinity = Affinity(alone=True)
    for _ in range(4):
        machine.hits(affinity, *tids, stray=stray, waited=waited)
    assert not machine.idle


def test_only_a_scheduling_group_with_a_way_back_becomes_idle(machine: Machine) -> None:
    for alone, refuses in [(False, False), (True, True)]:
        machine.refuses = refuses
        affinity = Affinity(alone)
        for _ in range(4):
            machine.hits(affinity, 7)
        assert not machine.idle


def polling(machine: Machine) -> Affinity:
    """One that has no way back from SCHED_IDLE, when it has begun to poll."""
    machine.refuses = True
    affinity = Affinity(alone=True)
    machine.hits(affinity, 7)
    machine.hits(affinity, 7)
    assert affinity.polls
    assert not machine.idle
    return affinity


def test_without_a_way_back_it_polls_where_it_is(machine: Machine, calls: list[set[int]]) -> None:
    affinity = polling(machine)
    del calls[:]
    machine.hits(affinity, 7)
    assert affinity.polls
    assert calls == []
    affinity.release_cpu()
    assert not affinity.polls


@pytest.mark.parametrize(
    ("tids", "stray", "waited", "each"),
    [
        ((7,), False, 0, 500_000),
        ((7, 8), True, 0, 500_000),
        ((7,), True, 0.2, 500_000),
        ((7,), True, 0, 32_000_000),
    ],
    ids=["bound", "threads", "busy", "rare"],
)
def test_it_polls_only_while_that_helps_and_hurts_nobody(
    machine: Machine, tids: tuple[int, ...], stray: bool, waited: float, each: int
) -> None:
    if stray:
        affinity = polling(machine)
        for _ in range(2):
            machine.hits(affinity, *tids, waited=waited, each=each)
        assert not affinity.polls
    fresh = Affinity()
    for _ in range(4):
        machine.hits(fresh, *tids, stray=stray, waited=waited, each=each)
    assert not fresh.polls


def test_polling_ends_when_the_thread_is_bound_to_a_cpu(
    machine: Machine, calls: list[set[int]]
) -> None:
    affinity = polling(machine)
    ends = machine.now + 20_000_000_000
    while machine.now < ends:
        machine.hits(affinity, 7, bound=9)
    assert calls[-1] == {9}
    assert not affinity.polls


def test_kept_waiting_it_stays_normal_for_longer_each_time(machine: Machine) -> None:
    affinity = Affinity(alone=True)
    rounds: list[int] = []
    for _ in range(3):
        while not machine.idle:
            machine.hits(affinity, 7)
        began = machine.now
        machine.hits(affinity, 7, waited=0.9)
        assert not machine.idle
        while not machine.idle:
            machine.hits(affinity, 7)
        rounds.append(machine.now - began)
        machine.hits(affinity, 7, waited=0.9)
    assert rounds == sorted(rounds)
    assert rounds[2] > 3 * rounds[0] > 1_000_000_000


def test_without_hits_it_is_as_others_again(machine: Machine) -> None:
    affinity = Affinity(alone=True)
    machine.hits(affinity, 7)
    machine.hits(affinity, 7)
    affinity.release_cpu()
    assert not machine.idle
    machine.hits(affinity, 7)
    assert machine.idle  # it was not wrong


def surroundings(root: Path, cgroup: str, *, autogroup: str = "1", weighed: str = "") -> None:
    (root / "proc/sys/kernel").mkdir(parents=True)
    (root / "proc/sys/kernel/sched_autogroup_enabled").write_text(autogroup + "\n")
    (root / "proc/self/ns").mkdir(parents=True)
    (root / "proc/self/ns/cgroup").symlink_to("cgroup:[4026531835]")
    (root / "proc/self/cgroup").write_text(cgroup)
    folder = root / "sys/fs/cgroup" / weighed
    folder.mkdir(parents=True)
    if weighed:
        (folder / "cpu.weight").write_text("100\n")


@pytest.mark.parametrize(
    ("cgroup", "others", "groups"),
    [
        ("0::/a/b\n", {}, True),
        ("0::/a/b\n", {"weighed": "a"}, False),
        ("0::/a/b\n", {"weighed": "a/b"}, False),
        ("0::/a/b\n", {"weighed": "c"}, True),
        ("0::/a/b\n", {"autogroup": "0"}, False),
        ("4:memory:/x\n2:cpu,cpuacct:/\n0::/\n", {}, True),
        ("2:cpu,cpuacct:/x\n0::/\n", {}, False),
    ],
)
def test_sessions_are_groups_where_no_cgroup_is_in_the_way(
    tmp_path: Path, cgroup: str, others: dict[str, str], groups: bool
) -> None:
    surroundings(tmp_path, cgroup, **others)
    child = os.fork()
    if child == 0:
        status = 2
        with contextlib.suppress(BaseException):
            status = int(become_scheduling_group(tmp_path) and os.getsid(0) == os.getpid())
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == groups


def test_from_inside_a_namespace_nothing_can_be_said(tmp_path: Path) -> None:
    surroundings(tmp_path, "0::/\n")
    (tmp_path / "proc/self/ns/cgroup").unlink()
    (tmp_path / "proc/self/ns/cgroup").symlink_to("cgroup:[4026532262]")
    assert not become_scheduling_group(tmp_path)
