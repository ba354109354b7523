"""Facts about a live process, by which policies and discovery choose it.

Of these facts some are the kernel's word (user, group, parent, the system's cgroups), others the
process's own: it may write its command line and its environment, and whoever may make namespaces
or owns a part of the cgroup tree (``user@1000.service``) may name files and groups there as he
likes. Rights should hang on the former.

Read by hand, once for each process that is looked at: psutil does not tell supplementary groups,
cgroup, unit, container, namespaces, nor a kernel thread, and nothing of a process whose leader is a
zombie. Its name, executable, command line, ids, parent and start time take 177 us, all of these
facts together 241 us here.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from dprobed.printable import printable, readable
from dprobed.proc import executables, procfs

#: Bytes of its arguments, and of its environment, that are looked at. Where they are and how long
#: is for the process to say (prctl PR_SET_MM_MAP); it need not have the memory that it speaks of.
_MOST: Final = 128 << 10
_UNIT: Final = re.compile(r".+\.(service|scope|socket|mount|swap)\Z")
_USER_MANAGER: Final = re.compile(r"user@\d+\.service\Z")
#: One component of a cgroup path that stands for a container, its id or name in the first group.
_CONTAINERS: Final = (
    # docker-ID.scope, libpod-ID.scope, cri-containerd-ID.scope, crio-ID.scope
    re.compile(r"(?:docker|libpod|cri-containerd|crio)-([0-9a-f]{12,64})(?:\.scope)?\Z"),
    # lxc.payload.NAME, lxc.payload/NAME and lxc/NAME are joined to one component before.
    re.compile(r"lxc(?:\.payload)?[./](.+)\Z"),
    re.compile(r"systemd-nspawn@(.+)\.service\Z"),
    re.compile(r"machine-(.+)\.scope\Z"),
    # docker/ID and kubepods/…/ID, where the cgroup driver is not systemd
    re.compile(r"([0-9a-f]{64})\Z"),
)


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A process as it was at one moment; ``pid`` and ``start`` identify it.

    ``exe``: the path of what it runs, as the process's own mount namespace has it, empty for a
    thread of the kernel's and where we may not know. ``comm``: what does not show is escaped.
    ``uids``, ``gids``: real, effective, saved.
    ``unit``: the unit of the system's manager; ``user_unit``: that of the user's own, below it.
    ``foreign``: it has another process or mount namespace than we.
    """

    pid: int
    start: int
    parent: int
    comm: str
    exe: str
    cmdline: tuple[str, ...]
    uids: tuple[int, int, int]
    gids: tuple[int, int, int]
    groups: tuple[int, ...]
    cgroup: str
    unit: str
    user_unit: str
    container: str
    foreign: bool
    kernel_thread: bool

    @property
    def uid(self) -> int:
        """The real user id."""
        return self.uids[0]

    @property
    def gid(self) -> int:
        """The real group id."""
        return self.gids[0]


def read(pid: int) -> Process | None:
    """The facts of a process; ``None``: it is gone, or a thread that is no process."""
    while True:
        birth = procfs.birth(pid)
        found = procfs.status(pid)
        if birth is None or found is None or found.tgid != pid:
            return None
        live_thread = pid if found.state not in "ZX" else procfs.live_thread(pid)
        cgroup = cgroup_path(_read(f"/proc/{live_thread}/cgroup"))
        unit, user_unit = units(cgroup)
        process = Process(
            pid=pid,
            start=birth.start,
            parent=birth.parent,
            comm=printable(procfs.comm(pid).decode(errors="replace")),
            # A path may be no UTF-8, and messages are.
            exe=readable(executables.path(live_thread)),
            # One that wrote over its arguments may have filled their place up with zeros.
            cmdline=_strings(_read(f"/proc/{live_thread}/cmdline", _MOST).rstrip(b"\0")),
            uids=(found.uids[0], found.uids[1], found.uids[2]),
            gids=(found.gids[0], found.gids[1], found.gids[2]),
            groups=found.groups,
            cgroup=cgroup,
            unit=unit,
            user_unit=user_unit,
            container=container(cgroup),
            foreign=_is_foreign(live_thread),
            kernel_thread=birth.kernel_thread,
        )
        # Its number may have gone to another process while we read.
        if procfs.start_time(pid) == birth.start:
            return process


def environment(process: Process) -> dict[str, str] | None:
    """Its environment in ``/proc``; ``None``: it is gone, or may not be read."""
    try:
        with open(f"/proc/{procfs.live_thread(process.pid)}/environ", "rb") as file:
            data = file.read(_MOST)
    except OSError:
        return None
    if len(data) == _MOST:
        data, _, _ = data.rpartition(b"\0")  # Of the last one not all may be there.
    if procfs.start_time(process.pid) != process.start:
        return None
    pairs = (each.partition("=") for each in _strings(data))
    return {name: value for name, equals, value in pairs if equals}


def cgroup_path(data: bytes) -> str:
    """The most specific path in the contents of ``/proc/PID/cgroup`` (cgroups(7)).

    Units are in systemd's own hierarchy and in the unified one; elsewhere (version 1 without
    systemd) the first controller that has a group for the process says where it is.
    """
    paths: dict[str, str] = {}
    for line in data.decode(errors="replace").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths["unified" if number == "0" else controllers] = path
    known = [paths.pop(name) for name in ("name=systemd", "unified") if name in paths]
    found = [*known, *paths.values()]
    return next((path for path in found if path != "/"), "/" if found else "")


def units(cgroup: str) -> tuple[str, str]:
    """The system's unit and, below ``user@UID.service``, the user's own; empty where none is."""
    found = [part for part in cgroup.split("/") if _UNIT.match(part)]
    if not found:
        return "", ""
    own = found[1] if _USER_MANAGER.match(found[0]) and len(found) > 1 else ""
    return found[0], own


def container(cgroup: str) -> str:
    """The id or the name of the (outermost) container; empty where none is."""
    joined = re.sub(r"/(lxc|lxc\.payload)/(?=[^/])", r"/\1.", cgroup)
    for part in joined.split("/"):
        for pattern in _CONTAINERS:
            match = pattern.match(part)
            if match:
                return match[1].replace("\\x2d", "-")
    return ""


def _is_foreign(pid: int) -> bool:
    try:
        return _namespaces(pid) != _own_namespaces()
    except OSError:
        return False  # Another user's: nobody without rights over it is told.


def _namespaces(pid: int | str) -> tuple[int, int]:
    process, mounts = (Path(f"/proc/{pid}/ns/{kind}").stat().st_ino for kind in ("pid", "mnt"))
    return process, mounts


@cache
def _own_namespaces() -> tuple[int, int]:
    return _namespaces("self")


def _read(path: str, most: int = -1) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(most)
    except OSError:
        return b""


def _strings(data: bytes) -> tuple[str, ...]:
    # A process that wrote over its own arguments may have left no zero byte at the end.
    if not data:
        return ()
    return tuple(each.decode(errors="replace") for each in data.removesuffix(b"\0").split(b"\0"))
