"""What we take from python-ptrace: numbers and places are the kernel's; no ``ldconfig`` runs."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dprobed.arch.x86_64 import registers, siginfo, syscalls
from dprobed.arch.x86_64.python_ptrace import binding
from dprobed.program.registers import USER_REGS
from dprobed.tracee import ptrace
from dprobed.tracee.ptrace import Gone, PtraceError, Registers

HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")


def test_registers_are_those_that_programs_name() -> None:
    assert registers.REGISTER_NAMES == USER_REGS
    assert 8 * len(USER_REGS) == registers.REGISTERS_SIZE
    assert registers.FPREGS_SIZE == 512


@pytest.mark.skipif(not HEADER.exists(), reason="the kernel's headers are not installed")
def test_system_calls_have_the_numbers_of_the_kernels_header() -> None:
    numbers = dict(re.findall(r"#define __NR_(\w+) (\d+)", HEADER.read_text()))
    ours = {name: number for name, number in vars(syscalls).items() if name.startswith("SYS_")}
    assert ours
    for name, number in ours.items():
        assert number == int(numbers[name.removeprefix("SYS_").lower()])


@pytest.mark.parametrize("module", ["dprobed.tracee.thread_group", "dprobed.tracer.main"])
def test_nobody_runs_ldconfig_for_it(module: str) -> None:
    """``ctypes.util`` does, which python-ptrace imports if nobody prevents it."""
    look = "print('ctypes.util' in sys.modules, 'ptrace.binding' in sys.modules)"
    code = f"import sys, {module}; {look}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.fixture
def stopped() -> Iterator[int]:
    """A child of ours in a signal-delivery-stop of SIGUSR1 that it sent to itself."""
    pid = os.fork()
    if pid == 0:
        binding.ptrace_traceme()
        os.kill(os.getpid(), signal.SIGUSR1)
        os._exit(0)
    os.waitpid(pid, 0)
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_siginfo(stopped: int) -> None:
    info = ptrace.get_siginfo(stopped)
    assert len(info) == siginfo.SIGINFO_SIZE
    assert siginfo.was_sent(info)
    assert int.from_bytes(info[:4], "little") == signal.SIGUSR1
    # The sender's process and user id stand where a fault has its address.
    assert siginfo.address_of(info) == stopped | os.getuid() << 32
    moved = siginfo.with_address(info, 0x1234_5678_9ABC)
    ptrace.set_siginfo(stopped, moved)
    assert ptrace.get_siginfo(stopped) == moved
    assert siginfo.address_of(moved) == 0x1234_5678_9ABC


def test_register_sets(stopped: int) -> None:
    loaded = Registers()
    words = loaded.load(stopped)
    general = ptrace.FixedBuffer(registers.REGISTERS_SIZE)
    assert ptrace.get_regset(stopped, 1, general) == bytes(loaded.data)  # NT_PRSTATUS
    words[registers.RCX] = 0xFFFF_FFFF_FFFF_FFFF
    loaded.store(stopped)
    assert Registers().load(stopped)[registers.RCX] == 0xFFFF_FFFF_FFFF_FFFF
    fpregs = ptrace.FixedBuffer(registers.FPREGS_SIZE)
    ptrace.get_fpregs(stopped, fpregs)
    assert ptrace.get_xstate(stopped)[:24] == fpregs.data[:24]
    ptrace.set_xstate(stopped, ptrace.get_xstate(stopped))


def test_a_word_of_minus_one_is_no_failure(stopped: int) -> None:
    loaded = Registers()
    loaded.load(stopped)[registers.RCX] = 0xFFFF_FFFF_FFFF_FFFF
    loaded.store(stopped)
    with pytest.raises(PtraceError):
        ptrace.bound_call(binding.PTRACE_PEEKUSER, stopped, 1 << 20, 0, True)
    word = ptrace.bound_call(binding.PTRACE_PEEKUSER, stopped, 8 * registers.RCX, 0, True)
    assert word == 0xFFFF_FFFF_FFFF_FFFF
    assert ptrace.peek_debug(stopped, 0) == 0


def test_who_is_gone_and_what_else_fails(stopped: int) -> None:
    with pytest.raises(Gone, match="thread 4194305 is gone"):
        ptrace.interrupt((1 << 22) + 1)
    with pytest.raises(Gone):
        ptrace.cont((1 << 22) + 1)
    with pytest.raises(PtraceError) as failed:
        ptrace.set_options(stopped, 1 << 30)
    assert failed.value.errno == errno.EINVAL
