"""What /proc says of a process: its threads, its identity, and why it cannot be traced.

The kernel's check is ``__ptrace_may_access`` (kernel/ptrace.c) and then the Yama module; it only
says EPERM. ``refusal`` finds out which rule it was, in the order in which the kernel asks.
"""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

_KILL: Final = 1 << (signal.SIGKILL - 1)
# include/linux/sched.h
_PF_EXITING: Final = 0x4
_PF_KTHREAD: Final = 0x0020_0000
_PF_IO_WORKER: Final = 0x10
_PF_USER_WORKER: Final = 0x4000
_CAP_SYS_PTRACE: Final = 19
_CAP_SYS_ADMIN: Final = 21
#: Bytes of a list of mappings that are read: what servers with 262,144 mappings have fits well.
MOST_OF_MAPS: Final = 32 << 20
_YAMA: Final = "/proc/sys/kernel/yama/ptrace_scope"


@dataclass(frozen=True, slots=True)
class Status:
    """The fields of ``/proc/PID/status`` that matter to us. Signal sets: bit n-1 is signal n."""

    name: bytes
    state: str
    tgid: int
    tracer: int
    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]
    capabilities: int
    pending: int
    blocked: int
    caught: int
    ignored: int
    seccomp: int
    shadow_stack: bool


def status(tid: int) -> Status | None:
    """``None`` when there is no such thread."""
    try:
        data = Path(f"/proc/{tid}/status").read_bytes()
    except OSError:
        return None
    fields: dict[bytes, bytes] = {}
    for line in data.splitlines():
        key, _, value = line.partition(b":")
        fields[key] = value.strip()

    def number(key: bytes, base: int = 10) -> int:
        return int(fields.get(key) or b"0", base)

    return Status(
        name=fields.get(b"Name", b""),
        state=fields.get(b"State", b"?")[:1].decode(),
        tgid=number(b"Tgid"),
        tracer=number(b"TracerPid"),
        uids=tuple(map(int, fields[b"Uid"].split())),
        gids=tuple(map(int, fields[b"Gid"].split())),
        groups=tuple(map(int, fields.get(b"Groups", b"").split())),
        capabilities=number(b"CapPrm", 16),
        pending=number(b"SigPnd", 16),
        blocked=number(b"SigBlk", 16),
        caught=number(b"SigCgt", 16),
        ignored=number(b"SigIgn", 16),
        seccomp=number(b"Seccomp"),
        shadow_stack=b"shstk" in fields.get(b"x86_Thread_features", b""),
    )


def comm(tid: int) -> bytes:
    """The thread's name, empty when it is gone."""
    try:
        return Path(f"/proc/{tid}/comm").read_bytes().rstrip(b"\n")
    except OSError:
        return b""


def threads(pid: int) -> list[int]:
    """The thread ids of a process; empty when it is gone."""
    try:
        return [int(each.name) for each in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []


def mappings(tid: int, most: int = MOST_OF_MAPS) -> bytes:
    """``/proc/TID/maps``; raises OSError, EFBIG where it is longer than ``most`` bytes.

    Any process can make it as long as 65,530 mappings (vm.max_map_count) of paths of 4,095 letters
    are, which takes seconds to read, while others wait.
    """
    parts = []
    left = most
    with open(f"/proc/{tid}/maps", "rb", buffering=0) as maps:
        while part := maps.read(1 << 16):
            left -= len(part)
            if left < 0:
                raise OSError(errno.EFBIG, f"longer than {most >> 20} MB")
            parts.append(part)
    return b"".join(parts)


def is_kernels_own(tid: int) -> bool:
    """Whether a process's thread is one of the kernel's (io_uring, vhost): no user code runs."""
    found = _stat(tid)
    return found is not None and bool(int(found[6]) & (_PF_IO_WORKER | _PF_USER_WORKER))


def run_state(tid: int) -> str:
    """The state's letter in ``/proc/PID/stat``: D sleeps uninterruptibly; empty when gone."""
    found = _stat(tid)
    return found[0].decode() if found is not None else ""


def has_ended(pid: int) -> bool:
    """Whether a process is gone, a zombie, or on its way there: it runs no user code any more."""
    return _has_ended(pid) and live_thread(pid) == pid


def live_thread(pid: int) -> int:
    """The thread of whom to ask what a process has: memory, files, executable. That is its first,
    which shows nothing when it has ended, while others may go on."""
    if not _has_ended(pid):
        return pid
    return next((tid for tid in threads(pid) if not (_has_ended(tid) or _is_doomed(tid))), pid)


def _is_doomed(tid: int) -> bool:
    """Whether a thread is about to end because its process does (zap_other_threads, kernel/
    signal.c): it has only not heard of it yet."""
    found = status(tid)
    return found is None or bool(found.pending & _KILL)


def _has_ended(tid: int) -> bool:
    found = _stat(tid)
    return found is None or found[0] in (b"Z", b"X") or bool(int(found[6]) & _PF_EXITING)


def is_kernel_thread(pid: int) -> bool:
    """Whether it is a thread of the kernel's, without user space."""
    found = birth(pid)
    return found is not None and found.kernel_thread


class Birth(NamedTuple):
    """What a process has from its birth; ``start``: in clock ticks since boot. With the id it
    names a process for good."""

    parent: int
    start: int
    kernel_thread: bool


def birth(pid: int) -> Birth | None:
    """``None`` when the process is gone."""
    found = _stat(pid)
    if found is None:
        return None
    return Birth(int(found[1]), int(found[19]), bool(int(found[6]) & _PF_KTHREAD))


def start_time(pid: int) -> int | None:
    """``Birth.start``, by itself."""
    found = birth(pid)
    return found.start if found is not None else None


def executable(pid: int) -> str:
    """The path of what it runs, also where that was replaced; empty when it cannot be read."""
    try:
        path = str(Path(f"/proc/{pid}/exe").readlink())
    except OSError:
        return ""
    return path.removesuffix(" (deleted)")


def parent(pid: int) -> int:
    """The parent process, 0 when the process is gone."""
    found = _stat(pid)
    return int(found[1]) if found is not None else 0


def in_trace_stop(tid: int) -> bool:
    """Whether the thread stands in a stop for its tracer."""
    found = _stat(tid)
    return found is not None and found[0] == b"t"


def cpu(tid: int) -> int:
    """The CPU that the thread ran on last (field 39 of ``/proc/PID/stat``)."""
    found = _stat(tid)
    return int(found[36]) if found is not None else -1


def _stat(tid: int) -> list[bytes] | None:
    """The fields of ``/proc/TID/stat`` from the third (the state) on."""
    try:
        data = Path(f"/proc/{tid}/stat").read_bytes()
    except OSError:
        return None
    return data[data.rindex(b")") + 2 :].split()


def auxv(pid: int) -> dict[int, int]:
    """The auxiliary vector, empty when it cannot be read."""
    try:
        data = Path(f"/proc/{pid}/auxv").read_bytes()
    except OSError:
        return {}
    words = memoryview(data[: len(data) // 16 * 16]).cast("Q")
    return dict(zip(words[0::2], words[1::2], strict=True))


def elf_class(pid: int) -> int | None:
    """64 or 32 by the executable's ELF header, ``None`` when it cannot be read."""
    try:
        with open(f"/proc/{pid}/exe", "rb") as file:
            ident = file.read(5)
    except OSError:
        return None
    return {b"\x7fELF\x01": 32, b"\x7fELF\x02": 64}.get(ident)


def may_suspend_seccomp() -> bool:
    """Whether we may use PTRACE_O_SUSPEND_SECCOMP (it asks for CAP_SYS_ADMIN)."""
    own = status(os.getpid())
    return own is not None and bool(own.capabilities >> _CAP_SYS_ADMIN & 1) and own.seccomp == 0


def refusal(pid: int) -> str | None:
    """Why ``pid`` cannot be a target, as one line; ``None`` when no reason is found."""
    found = status(pid)
    if found is None:
        return f"process {pid} is gone (no such process)"
    name = found.name.decode(errors="replace")
    if is_kernel_thread(pid):
        return f"process {pid} ({name}) is a kernel thread: it has no user space to probe"
    if found.state in "ZX" and live_thread(pid) == pid:
        return f"process {pid} ({name}) has ended (zombie): its parent has not collected it yet"
    if found.tgid != pid:
        return f"{pid} is a thread of process {found.tgid} ({name}): give the process"
    if pid == os.getpid():
        return "a tracer cannot trace itself"
    if found.tracer:
        by = comm(found.tracer).decode(errors="replace") or "?"
        return (
            f"process {pid} ({name}) is already traced by process {found.tracer} ({by}): "
            "a process has one tracer at a time; let that one detach first"
        )
    if elf_class(pid) == 32:
        return f"process {pid} ({name}) is a 32-bit program: only x86-64 programs can be probed"
    return None


def denial(pid: int) -> str:
    """Which rule denies us ``pid``, after the kernel said EPERM; one line with what to do."""
    found = status(pid)
    own = status(os.getpid())
    if found is None or own is None:
        return f"process {pid} is gone (no such process)"
    name = found.name.decode(errors="replace")
    what = f"not permitted to trace process {pid} ({name}): "
    if own.capabilities >> _CAP_SYS_PTRACE & 1:
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
        return int(Path(_YAMA).read_text())
    except (OSError, ValueError):
        return 0


def children(pid: int) -> list[int]:
    """Child processes of all threads (CONFIG_PROC_CHILDREN; empty where it is not there)."""
    found: list[int] = []
    for tid in threads(pid):
        try:
            data = Path(f"/proc/{pid}/task/{tid}/children").read_text()
        except OSError:
            continue
        found += map(int, data.split())
    return found
