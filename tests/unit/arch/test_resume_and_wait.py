"""Resume, wait and read registers in one call: in machine code, and by single calls."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator

import pytest
from iced_x86 import Decoder

from dprobed.arch.x86_64 import resume_and_wait
from dprobed.arch.x86_64.python_ptrace import binding
from dprobed.arch.x86_64.registers import REGISTERS_SIZE, RIP
from dprobed.arch.x86_64.resume_and_wait import (
    CODE,
    GO_TO,
    OPTIONS,
    REGISTERS,
    RESUME,
    STATUS,
    TAKEN,
    TRAP_STATUS,
    WAIT_FOR,
    WORDS,
)
from dprobed.tracee.ptrace import WALL, FixedBuffer
from tests.unit.arch.listing import code_of, decoded

MEBIBYTE = 1 << 20


def test_the_listing_says_what_the_code_does() -> None:
    assert decoded(code_of(CODE)) == list(CODE)
    code = code_of(CODE)
    ends = [each.ip for each in Decoder(64, code)]
    assert all(each.near_branch_target in ends for each in Decoder(64, code) if each.op0_kind == 1)


class Wait:
    """A request, and who carries it out; for one thread, since others of this process may end."""

    def __init__(self, native: bool) -> None:
        self.tid = 0
        self.block = FixedBuffer(8 * WORDS)
        self.words = memoryview(self.block.data).cast("Q")
        self.registers = FixedBuffer(REGISTERS_SIZE)
        self.rip = memoryview(self.registers.data).cast("Q")[RIP : RIP + 1]
        self.words[REGISTERS] = self.registers.address
        self._call: Callable[[], int] = (
            resume_and_wait.mapped(self.block.address)
            if native
            else resume_and_wait.one_by_one(self.words)
        )

    def __call__(self, resume: int = 0, go_to: int = 0, options: int = 0, tid: int = 0) -> int:
        self.words[RESUME], self.words[GO_TO] = resume, go_to
        self.words[WAIT_FOR] = tid or self.tid
        self.words[OPTIONS] = WALL | os.WEXITED | os.WSTOPPED | os.WNOWAIT | options
        result = self._call()
        assert self.words[RESUME] == 0
        return result


@pytest.fixture(params=[True, False], ids=["native", "one by one"])
def wait(request: pytest.FixtureRequest) -> Wait:
    return Wait(request.param)


@pytest.fixture
def child(wait: Wait) -> Iterator[int]:
    """A child of ours that sends itself SIGTRAP, then SIGUSR1, and ends with status 7."""
    pid = os.fork()
    if pid == 0:
        binding.ptrace_traceme()
        for number in (signal.SIGTRAP, signal.SIGUSR1):
            os.kill(os.getpid(), number)
        os._exit(7)
    wait.tid = pid
    yield pid
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def test_each_stop_and_the_end(wait: Wait, child: int) -> None:
    assert wait() == child
    assert wait.words[STATUS] == TRAP_STATUS
    assert wait.rip[0] != 0
    wait.rip[0] = 1
    assert wait(child) == child | TAKEN
    assert os.WSTOPSIG(wait.words[STATUS]) == signal.SIGUSR1
    assert wait.rip[0] == 1  # They are read for a hit only.
    assert wait(child) == child | TAKEN
    assert os.waitstatus_to_exitcode(wait.words[STATUS]) == 7
    assert wait() == -errno.ECHILD


def test_a_trap_is_looked_at_and_all_else_is_taken(wait: Wait, child: int) -> None:
    assert [wait(), wait(), wait(tid=child)] == [child] * 3
    assert os.waitpid(child, os.WNOHANG)[0] == child
    assert wait(options=os.WNOHANG) == 0
    assert wait(child) == child | TAKEN
    assert os.WSTOPSIG(wait.words[STATUS]) == signal.SIGUSR1
    assert wait(options=os.WNOHANG) == 0


def test_of_one_thread_or_of_any(wait: Wait, child: int) -> None:
    assert wait() == child
    other = os.fork()
    if other == 0:
        os._exit(3)
    assert wait(tid=other) == other | TAKEN
    assert os.waitstatus_to_exitcode(wait.words[STATUS]) == 3
    assert wait(tid=child) == child
    assert wait.words[STATUS] == TRAP_STATUS
    wait.tid = 0
    while (found := wait()) != child:  # left by another test
        assert found > 0
    assert wait.words[STATUS] == TRAP_STATUS


def test_where_it_goes_on(wait: Wait, child: int) -> None:
    assert wait() == child
    bad = 0x1_0000_0000_0000 - MEBIBYTE * MEBIBYTE
    assert wait(child, bad) == child | TAKEN
    assert os.WSTOPSIG(wait.words[STATUS]) == signal.SIGSEGV
    assert binding.ptrace_getregs(child).rip == bad


def test_one_that_was_killed_meanwhile(wait: Wait, child: int) -> None:
    assert wait() == child
    os.kill(child, signal.SIGKILL)
    assert wait(child, 0x1000) == child | TAKEN
    assert os.WTERMSIG(wait.words[STATUS]) == signal.SIGKILL


def test_a_signal_ends_the_wait(wait: Wait, child: int) -> None:
    assert wait() == child
    os.waitpid(child, 0)
    before = signal.signal(signal.SIGALRM, lambda number, frame: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        assert wait() == -errno.EINTR
    finally:
        signal.signal(signal.SIGALRM, before)
