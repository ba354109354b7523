"""Why a process cannot be traced: checked before attach, or after the kernel refused it.

The kernel's check is ``__ptrace_may_access`` (kernel/ptrace.c) and then the Yama module; it only
says EPERM. ``denial`` finds out which rule it was, in the order in which the kernel asks.

The name of a process in a message is ``comm``, which is read anyway: psutil, which knows longer
ones, takes 12 ms and 1.4 MB to import.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from dprobed.printable import printable
from dprobed.proc import files, procfs

# include/uapi/linux/capability.h
CAP_SYS_PTRACE: Final = 19
_CAP_SYS_ADMIN: Final = 21
#: How the refusal begins where the kernel says EPERM.
NOT_PERMITTED: Final = "not permitted to trace process"
YAMA: Final = "/proc/sys/kernel/yama/ptrace_scope"


def may_suspend_seccomp() -> bool:
    """Whether we may use PTRACE_O_SUSPEND_SECCOMP (it asks for CAP_SYS_ADMIN)."""
    own = procfs.status(os.getpid())
    return own is not None and bool(own.capabilities >> _CAP_SYS_ADMIN & 1) and own.seccomp == 0


def refusal(pid: int, *, ask: bool = True) -> str | None:
    """Why ``pid`` cannot be a target, as one line; ``None`` when no reason is found.

    ``ask``: also a file system that may not answer, for which is waited a moment.
    """
    found = procfs.status(pid)
    if found is None:
        return f"process {pid} is gone (no such process)"
    name = printable(found.name.decode(errors="replace"))
    if procfs.is_kernel_thread(pid):
        return f"process {pid} ({name}) is a kernel thread: it has no user space to probe"
    if found.state in "ZX" and procfs.live_thread(pid) == pid:
        return f"process {pid} ({name}) has ended (zombie): its parent has not collected it yet"
    if found.tgid != pid:
        return f"{pid} is a thread of process {found.tgid} ({name}): give the process"
    if pid == os.getpid():
        return "a tracer cannot trace itself"
    if found.tracer:
        by = printable(procfs.comm(found.tracer).decode(errors="replace")) or "?"
        return (
            f"process {pid} ({name}) is already traced by process {found.tracer} ({by}): "
            "a process has one tracer at a time; let that one detach first"
        )
    if files.elf_class(pid, ask=ask) == 32:
        return f"process {pid} ({name}) is a 32-bit program: only x86-64 programs can be probed"
    return None


def denial(pid: int) -> str:
    """Which rule denied ``pid`` to us, after EPERM from ptrace; one line with what to do."""
    found = procfs.status(pid)
    own = procfs.status(os.getpid())
    if found is None or own is None:
        return f"process {pid} is gone (no such process)"
    name = printable(found.name.decode(errors="replace"))
    what = f"{NOT_PERMITTED} {pid} ({name}): "
    if own.capabilities >> CAP_SYS_PTRACE & 1:
        return what + "the kernel refuses it although we have CAP_SYS_PTRACE (a security module?)"
    us = own.uids[0]
    if any(uid != us for uid in found.uids[:3]):
        return what + f"uid: it runs as uid {found.uids[0]}, we as {us}; ask its user, or root"
    if any(gid != own.gids[0] for gid in found.gids[:3]):
        return what + f"gid: it runs as gid {found.gids[0]}, we as {own.gids[0]}; ask root"
    if found.capabilities & ~own.capabilities:
        return what + (
            f"capability: it has capabilities {found.capabilities:#x} that we lack; ask root"
        )
    if not dumpable(pid, us):
        return (
            what + "dumpable: it is marked not dumpable (prctl PR_SET_DUMPABLE, setuid); ask root"
        )
    scope = yama_scope()
    if scope:
        return what + (
            f"Yama: kernel.yama.ptrace_scope is {scope}, so only a parent may trace "
            "(1), only root (2), nobody (3); use 'dprobe run', "
            "or 'sysctl kernel.yama.ptrace_scope=0'"
        )
    return what + "the kernel refuses it (EPERM), and none of the rules known to us explains it"


def dumpable(pid: int, uid: int) -> bool:
    """Whether the process is dumpable: else its /proc files belong to root (proc(5))."""
    try:
        return Path(f"/proc/{pid}/maps").stat().st_uid == uid
    except OSError:
        return False


def yama_scope() -> int:
    """``kernel.yama.ptrace_scope``, 0 where Yama is not there."""
    try:
        return int(Path(YAMA).read_text())
    except (OSError, ValueError):
        return 0
