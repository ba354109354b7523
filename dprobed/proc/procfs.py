"""Processes and threads in /proc: status, run state, identity, threads and children.

Read by hand, since most of it psutil does not tell: signal sets, tracer, capabilities, seccomp,
flags of a thread. And since some is read in hot places: name and status of each thread that hits
probes every 100 ms take 52 us here, of which psutil's name, user ids and state alone would take 60;
a start time (14 us, 24 there) is read twice for each process that comes.
"""

from __future__ import annotations

import errno
import signal
from pathlib import Path
from typing import Final

import msgspec

_KILL: Final = 1 << (signal.SIGKILL - 1)
# include/linux/sched.h
_PF_EXITING: Final = 0x4
_PF_KTHREAD: Final = 0x0020_0000
_PF_IO_WORKER: Final = 0x10
_PF_USER_WORKER: Final = 0x4000
#: Bytes of a list of mappings that are read: what servers with 262,144 mappings have fits well.
MOST_OF_MAPS: Final = 32 << 20


class Status(msgspec.Struct, frozen=True):
    """The fields of ``/proc/TID/status`` that are used. Signal sets: bit n-1 is signal n.

    ``state``: see ``run_state``. ``capabilities``: the permitted ones. ``pending``: of the thread
    alone, not of the process. ``innermost``: its process's id in the innermost pid namespace.
    """

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
    innermost: int


def status(tid: int) -> Status | None:
    """The status of a thread, or of a process's leader; ``None`` when there is no such thread."""
    data = _contents(f"/proc/{tid}/status")
    if data is None:
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
        innermost=int((fields.get(b"NStgid") or b"0").split()[-1]),
    )


def seccomp_filters(tid: int) -> int:
    """How many seccomp filters a thread has; 0 as well where that is not told."""
    data = _contents(f"/proc/{tid}/status") or b""
    _, _, rest = data.partition(b"\nSeccomp_filters:")
    return int(rest.split(maxsplit=1)[0]) if rest else 0


def real_ids(tid: int) -> tuple[int, int] | None:
    """The real user and group id of a thread; None when it is gone."""
    data = _contents(f"/proc/{tid}/status")
    if data is None:
        return None
    at = data.index(b"\nUid:")
    user, group = data[at:].split(b"\n", 3)[1:3]
    return int(user.split(maxsplit=2)[1]), int(group.split(maxsplit=2)[1])


def comm(tid: int) -> bytes:
    """The thread's name, empty when it is gone."""
    return (_contents(f"/proc/{tid}/comm") or b"").rstrip(b"\n")


def threads(pid: int) -> list[int]:
    """The thread ids of a process; empty when it is gone."""
    try:
        return [int(each.name) for each in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []


def mappings(tid: int, most: int = MOST_OF_MAPS) -> bytes:
    """``/proc/TID/maps``; raises OSError, EFBIG where it is longer than ``most`` bytes.

    Any process can make it as long as 65,530 mappings (vm.max_map_count) of paths of 4,095 letters
    are, which takes seconds to read, while other targets wait.
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
    """Whether a thread of a process is the kernel's own (io_uring, vhost): it runs no user code."""
    found = stat_fields(tid)
    return found is not None and bool(int(found[6]) & (_PF_IO_WORKER | _PF_USER_WORKER))


def run_state(tid: int) -> str:
    """The state's letter in ``/proc/TID/stat``: R running, S sleeping, D in uninterruptible sleep,
    T in a group-stop, t in a stop for its tracer, Z zombie, X dead; empty when the thread is gone.
    """
    found = stat_fields(tid)
    return found[0].decode() if found is not None else ""


def sleeps(pid: int) -> bool:
    """Whether every thread of a process is in uninterruptible sleep, or frozen with its cgroup."""
    there = threads(pid)
    return bool(there) and all(run_state(tid) == "D" for tid in there)


def has_ended(pid: int) -> bool:
    """Whether a process is gone, a zombie, or about to be one: it runs no user code any more."""
    return is_ending(pid) and live_thread(pid) == pid


def live_thread(pid: int) -> int:
    """The live thread, through which a process is read: memory, files, executable. It is the
    leader, unless that is a zombie, which shows nothing while other threads may go on."""
    if not is_ending(pid):
        return pid
    return next((tid for tid in threads(pid) if not (is_ending(tid) or _is_doomed(tid))), pid)


def _is_doomed(tid: int) -> bool:
    """Whether a thread has a pending SIGKILL, because its process ends (zap_other_threads,
    kernel/signal.c)."""
    found = status(tid)
    return found is None or bool(found.pending & _KILL)


def is_ending(tid: int) -> bool:
    """Whether a thread is gone, a zombie, or about to be one: no signal and no stop reaches it."""
    found = stat_fields(tid)
    return found is None or found[0] in (b"Z", b"X") or bool(int(found[6]) & _PF_EXITING)


def is_kernel_thread(pid: int) -> bool:
    """Whether a process is a kernel thread, without user space."""
    found = birth(pid)
    return found is not None and found.kernel_thread


class Birth(msgspec.Struct, frozen=True):
    """Parent, start time and kind of a process. ``start``: in clock ticks since boot; with the
    process id it identifies a process, also when the id is used again."""

    parent: int
    start: int
    kernel_thread: bool


def birth(pid: int) -> Birth | None:
    """Parent, start time and kind of a process; ``None`` when it is gone."""
    found = stat_fields(pid)
    if found is None:
        return None
    return Birth(int(found[1]), int(found[19]), bool(int(found[6]) & _PF_KTHREAD))


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; ``None`` when it is gone."""
    found = birth(pid)
    return found.start if found is not None else None


def parent(pid: int) -> int:
    """The parent process, 0 when the process is gone."""
    found = stat_fields(pid)
    return int(found[1]) if found is not None else 0


def cpu(tid: int) -> int:
    """The CPU that the thread ran on last (field 39 of ``/proc/PID/stat``)."""
    found = stat_fields(tid)
    return int(found[36]) if found is not None else -1


def _contents(path: str) -> bytes | None:
    """The contents of a file of /proc, ``None`` when it cannot be read."""
    try:
        # A Path and a buffer would double what a small file costs.
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except OSError:
        return None


def stat_fields(tid: int) -> list[bytes] | None:
    """The fields of ``/proc/TID/stat`` from the third (the state) on."""
    data = _contents(f"/proc/{tid}/stat")
    if data is None:
        return None
    # The name before it is in parentheses, and may hold some itself.
    return data[data.rindex(b")") + 2 :].split()


def auxv(pid: int) -> dict[int, int]:
    """The auxiliary vector, empty when it cannot be read."""
    try:
        data = Path(f"/proc/{pid}/auxv").read_bytes()
    except OSError:
        return {}
    words = memoryview(data[: len(data) // 16 * 16]).cast("Q")
    return dict(zip(words[0::2], words[1::2], strict=True))


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
