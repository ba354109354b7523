"""Threads in trampolines that cannot be brought out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from dprobed.arch.x86_64.registers import RIP
from dprobed.engine.inline.exits import TrampolineExits
from dprobed.engine.inline.sites import JumpSites
from dprobed.tracee.borrower import Asleep
from dprobed.tracee.lifecycle import State
from dprobed.tracee.ptrace import Gone, Registers
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup

OURS = 0x1000


class Stopped:
    """Registers of a thread that is in our code."""

    def load(self, tid: int) -> list[int]:
        words = [0] * 27
        words[RIP] = OURS
        return words


def exits(error: Gone) -> tuple[TrampolineExits, Thread]:
    def step(thread: Thread) -> None:
        raise error

    thread = SimpleNamespace(tid=7, state=State.STOPPED, signal=10, siginfo=None)
    group = SimpleNamespace(threads={7: thread}, borrower=SimpleNamespace(step=step))
    sites = SimpleNamespace(
        pages=SimpleNamespace(hold=lambda address: address == OURS, areas=[1]),
        trampoline_at=lambda address: None,
    )
    made = TrampolineExits(cast(ThreadGroup, group), cast(Registers, Stopped()))
    made.use(cast(JumpSites, sites))
    return made, cast(Thread, thread)


def test_one_that_falls_asleep_there_comes_back() -> None:
    """What it runs in is not to be unmapped."""
    made, _ = exits(Asleep(7))
    assert not made.leave_all()
    made, thread = exits(Asleep(7))
    made.deliver(thread)
    assert made.may_come_back


def test_one_that_has_ended_does_not() -> None:
    made, thread = exits(Gone(7))
    assert made.leave_all()
    made.deliver(thread)
    assert not made.may_come_back
