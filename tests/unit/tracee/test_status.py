"""Wait statuses: the kernel's encodings (wait(2), ptrace(2)), each with what it means."""

from __future__ import annotations

import os
import signal

import pytest

from dprobed.arch.x86_64.resume_and_wait import TRAP_STATUS
from dprobed.tracee.status import Kind, Stop, decode

FORK, VFORK, CLONE, EXEC, VFORK_DONE, EXIT, SECCOMP, STOP = 1, 2, 3, 4, 5, 6, 7, 128


def stopped(number: int, event: int = 0) -> int:
    """The status of a stop, as the kernel makes it."""
    return event << 16 | number << 8 | 0x7F


@pytest.mark.parametrize(
    ("status", "stop"),
    [
        (0, Stop(Kind.EXITED, 0)),
        (0x2A00, Stop(Kind.EXITED, 42)),
        (0xFF00, Stop(Kind.EXITED, 255)),
        (signal.SIGKILL, Stop(Kind.KILLED, signal.SIGKILL)),
        (signal.SIGSEGV | 0x80, Stop(Kind.KILLED, signal.SIGSEGV)),  # with a core dump
        (stopped(signal.SIGTRAP), Stop(Kind.TRAP, signal.SIGTRAP)),
        (stopped(signal.SIGTRAP | 0x80), Stop(Kind.SYSCALL, signal.SIGTRAP | 0x80)),
        (stopped(signal.SIGUSR1), Stop(Kind.SIGNAL, signal.SIGUSR1)),
        (stopped(signal.SIGSTOP), Stop(Kind.SIGNAL, signal.SIGSTOP)),
        (stopped(64), Stop(Kind.SIGNAL, 64)),
        (stopped(signal.SIGTRAP, STOP), Stop(Kind.STOP, signal.SIGTRAP)),
        (stopped(signal.SIGSTOP, STOP), Stop(Kind.GROUP_STOP, signal.SIGSTOP)),
        (stopped(signal.SIGTTIN, STOP), Stop(Kind.GROUP_STOP, signal.SIGTTIN)),
        (stopped(signal.SIGTRAP, FORK), Stop(Kind.FORK, signal.SIGTRAP)),
        (stopped(signal.SIGTRAP, VFORK), Stop(Kind.VFORK, signal.SIGTRAP)),
        (stopped(signal.SIGTRAP, CLONE), Stop(Kind.CLONE, signal.SIGTRAP)),
        (stopped(signal.SIGTRAP, EXEC), Stop(Kind.EXEC, signal.SIGTRAP)),
        (stopped(signal.SIGTRAP, VFORK_DONE), Stop(Kind.OTHER, signal.SIGTRAP)),
        (stopped(signal.SIGTRAP, EXIT), Stop(Kind.OTHER, signal.SIGTRAP)),
        (stopped(signal.SIGTRAP, SECCOMP), Stop(Kind.OTHER, signal.SIGTRAP)),
    ],
)
def test_what_a_status_says(status: int, stop: Stop) -> None:
    assert decode(status) == stop


def test_the_status_that_the_loop_compares_with() -> None:
    assert decode(TRAP_STATUS).kind is Kind.TRAP


@pytest.mark.parametrize("code", range(256))
def test_exit_codes_as_the_system_library_reads_them(code: int) -> None:
    status = code << 8
    assert os.WIFEXITED(status)
    assert decode(status) == Stop(Kind.EXITED, os.WEXITSTATUS(status))


@pytest.mark.parametrize("number", range(1, 65))
def test_deaths_and_stops_as_the_system_library_reads_them(number: int) -> None:
    assert decode(number) == Stop(Kind.KILLED, os.WTERMSIG(number))
    status = stopped(number)
    assert os.WIFSTOPPED(status)
    assert decode(status).value == os.WSTOPSIG(status)
