"""Numbers of the system calls of x86-64, from python-ptrace's table.

The table is loaded from its own file: the package around it imports the decoders of the arguments
of all system calls and runs ``ldconfig``, which takes six times as long (48 against 8 ms of CPU on
a machine under load).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final


def _table() -> dict[str, int]:
    """Number by name."""
    package = importlib.util.find_spec("ptrace")
    assert package is not None and package.origin is not None, "python-ptrace is not installed"
    file = Path(package.origin).parent / "syscall" / "linux" / "x86_64.py"
    spec = importlib.util.spec_from_file_location("dprobed.arch.x86_64._syscall_names", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names: dict[int, str] = module.SYSCALL_NAMES
    # From 512 on there are those of the x32 ABI, with the same names.
    return {name: number for number, name in names.items() if number < 512}


_NUMBERS: Final = _table()


def system_call_number(name: str) -> int | None:
    """The number of a system call; None: there is none of this name."""
    return _NUMBERS.get(name)


SYS_MMAP: Final = _NUMBERS["mmap"]
SYS_MUNMAP: Final = _NUMBERS["munmap"]
SYS_CLOSE: Final = _NUMBERS["close"]
SYS_MEMFD_CREATE: Final = _NUMBERS["memfd_create"]
SYS_RT_SIGACTION: Final = _NUMBERS["rt_sigaction"]
SYS_RT_SIGPROCMASK: Final = _NUMBERS["rt_sigprocmask"]
SYS_RT_SIGRETURN: Final = _NUMBERS["rt_sigreturn"]
SYS_CLONE: Final = _NUMBERS["clone"]
SYS_VFORK: Final = _NUMBERS["vfork"]
SYS_WAIT4: Final = _NUMBERS["wait4"]
SYS_RESTART_SYSCALL: Final = _NUMBERS["restart_syscall"]
SYS_PRCTL: Final = _NUMBERS["prctl"]
SYS_TGKILL: Final = _NUMBERS["tgkill"]
SYS_PERF_EVENT_OPEN: Final = _NUMBERS["perf_event_open"]
SYS_KCMP: Final = _NUMBERS["kcmp"]
SYS_CLONE3: Final = _NUMBERS["clone3"]
SYS_CLOSE_RANGE: Final = _NUMBERS["close_range"]
SYS_OPENAT2: Final = _NUMBERS["openat2"]
SYS_GETTID: Final = _NUMBERS["gettid"]
SYS_PROCESS_VM_READV: Final = _NUMBERS["process_vm_readv"]
SYS_PROCESS_VM_WRITEV: Final = _NUMBERS["process_vm_writev"]

#: Calls that end with EINTR after any stop, where others are restarted (signal(7)); to begin them
#: again does what was asked for. Not ``close``, which has closed. python-ptrace lacks epoll_pwait2.
NEVER_RESTARTED: Final = frozenset(
    _NUMBERS[name]
    for name in (
        "epoll_wait",
        "epoll_pwait",
        "semop",
        "semtimedop",
        "rt_sigtimedwait",
        "io_getevents",
        "io_pgetevents",
        "io_uring_enter",
    )
) | frozenset((441,))
#: The same of sockets with a time limit (SO_RCVTIMEO, SO_SNDTIMEO).
NEVER_RESTARTED_ON_SOCKETS: Final = frozenset(
    _NUMBERS[name]
    for name in (
        "read",
        "readv",
        "write",
        "writev",
        "recvfrom",
        "recvmsg",
        "recvmmsg",
        "accept",
        "accept4",
        "connect",
        "sendto",
        "sendmsg",
        "sendmmsg",
    )
)
