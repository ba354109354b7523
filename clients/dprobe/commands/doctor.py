"""``dprobe doctor``: try on this machine, as this user, what probing needs.

Each check does the thing itself on a process forked for it, and says why where it does not work.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import os
import platform
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import click

from dprobe.commands import options
from dprobe.lib.connection import Connection
from dprobe.lib.errors import DprobeError, os_error_text
from dprobe.view.tables import show
from dprobed.wire.messages import default_socket

# include/uapi/linux/ptrace.h
_PTRACE_POKEUSER: Final = 6
_PTRACE_CONT: Final = 7
_PTRACE_DETACH: Final = 17
_PTRACE_SEIZE: Final = 0x4206
_PTRACE_INTERRUPT: Final = 0x4207
#: offsetof(struct user, u_debugreg) on x86-64 (arch/x86/include/asm/user_64.h).
_DEBUG_REGISTERS: Final = 848
_PACKAGES: Final = ("click", "iced-x86", "msgspec", "psutil", "pyelftools", "python-ptrace", "rich")
_YAMA: Final = {
    0: "any process of the same user may be traced",
    1: "only descendants may be traced: `run` works, `attach` needs root",
    2: "only root may trace",
    3: "nobody may trace, until the next boot",
}


class Check(NamedTuple):
    """One finding. ``needed``: ``run`` and ``attach`` need it."""

    name: str
    ok: bool
    needed: bool
    detail: str


class _PtraceError(Exception):
    pass


class _Traced:
    """A child that does nothing, traced and stopped."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_ulong, ctypes.c_ulong]
        self._libc.ptrace.restype = ctypes.c_long
        self.pid = os.fork()
        if self.pid == 0:
            while True:
                signal.pause()

    def __enter__(self) -> _Traced:
        try:
            self.ptrace(_PTRACE_SEIZE, 0, 0)
            self.ptrace(_PTRACE_INTERRUPT, 0, 0)
            os.waitpid(self.pid, 0)
        except BaseException:
            self.__exit__()
            raise
        return self

    def ptrace(self, request: int, address: int, data: int) -> None:
        """One ptrace call; raises _PtraceError with the reason."""
        if self._libc.ptrace(request, self.pid, address, data) == -1:
            raise _PtraceError(os.strerror(ctypes.get_errno()).lower())

    def __exit__(self, *_: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _machine(_: Path | None) -> Check:
    uname = os.uname()
    right = uname.machine == "x86_64" and sys.maxsize > 1 << 32
    return Check("machine", right, True, f"{uname.machine}, Linux {uname.release}")


def _python(_: Path | None) -> Check:
    return Check("python", sys.version_info >= (3, 11), True, platform.python_version())


def _packages(_: Path | None) -> Check:
    found, missing = [], []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Check("python packages", False, True, f"missing: {', '.join(missing)}")
    return Check("python packages", True, True, ", ".join(found))


def _ptrace(_: Path | None) -> Check:
    try:
        with _Traced():
            pass
    except _PtraceError as error:
        detail = f"ptrace: {error}; is this a container without SYS_PTRACE, or a seccomp filter?"
        return Check("ptrace of own processes", False, True, detail)
    return Check("ptrace of own processes", True, True, "a child could be seized and stopped")


def _others(_: Path | None) -> Check:
    # CAP_SYS_PTRACE is bit 19 (include/uapi/linux/capability.h).
    capable = bool(_status_field("CapEff", 16) >> 19 & 1)
    detail = "CAP_SYS_PTRACE" if capable else "only this user's processes; as root: every user's"
    return Check("ptrace of others' processes", capable, False, detail)


def _yama(_: Path | None) -> Check:
    try:
        scope = int(Path("/proc/sys/kernel/yama/ptrace_scope").read_text())
    except FileNotFoundError:
        return Check("Yama", True, False, "not in this kernel: no further restriction")
    capable = bool(_status_field("CapEff", 16) >> 19 & 1)
    ok = scope == 0 or (capable and scope < 3)
    text = _YAMA.get(scope, "unknown to this version")
    hint = "" if ok else "; sysctl kernel.yama.ptrace_scope=0 allows more"
    return Check("Yama", ok, scope == 3, f"ptrace_scope is {scope}: {text}{hint}")


def _debug_registers(_: Path | None) -> Check:
    """Sets a data watchpoint in a child: virtual machines may not have them."""
    name = "debug registers"
    try:
        with _Traced() as child:
            word = ctypes.c_uint64()
            child.ptrace(_PTRACE_POKEUSER, _DEBUG_REGISTERS, ctypes.addressof(word))
            # DR7: register 0 enabled, write, 8 bytes (Intel SDM vol. 3, 18.2.4).
            child.ptrace(_PTRACE_POKEUSER, _DEBUG_REGISTERS + 7 * 8, 0x1 | 0b1001 << 16)
            child.ptrace(_PTRACE_POKEUSER, _DEBUG_REGISTERS + 7 * 8, 0)
    except _PtraceError as error:
        return Check(name, False, False, f"no watchpoints here: {error}")
    return Check(name, True, False, "a watchpoint could be set")


def _map_files(_: Path | None) -> Check:
    """What the tracer opens to get at files that were replaced while mapped."""
    name = "map_files"
    folder = Path("/proc/self/map_files")
    try:
        entry = next(folder.iterdir())
        entry.open("rb").close()
    except StopIteration:
        return Check(name, False, False, "empty")
    except OSError as error:
        detail = f"{os_error_text(error)}: files replaced while mapped are told by build-id only"
        return Check(name, False, False, detail)
    return Check(name, True, False, "mapped files can be opened, also when they were replaced")


def _memory(_: Path | None) -> Check:
    """/proc/PID/mem must write through read-only mappings of a traced process."""
    name = "/proc/PID/mem"
    try:
        with _Traced() as child:
            address = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p).value or 0
            memory = os.open(f"/proc/{child.pid}/mem", os.O_RDWR | os.O_CLOEXEC)
            try:
                os.pwrite(memory, os.pread(memory, 1, address), address)
            finally:
                os.close(memory)
    except (_PtraceError, OSError) as error:
        return Check(name, False, True, str(error))
    return Check(name, True, True, "the code of a traced child could be written")


def _seccomp(_: Path | None) -> Check:
    mode = _status_field("Seccomp", 10)
    if mode == 0:
        return Check("seccomp", True, False, "no filter on this process")
    return Check("seccomp", True, False, f"mode {mode}: a filter is on; the tries above passed it")


def _cpu(_: Path | None) -> Check:
    flags = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            flags = line
            break
    wanted = ("fxsr", "sse2", "xsave", "avx", "avx512f", "user_shstk", "ibt")
    have = [flag for flag in wanted if f" {flag}" in f"{flags} "]
    return Check("cpu", "fxsr" in have, True, f"{os.cpu_count()} CPUs; {' '.join(have)}")


def _process_events(_: Path | None) -> Check:
    """How soon `insert --exe` and the like are in a new process."""
    from dprobed.proc.connector import listening

    name = "process events"
    try:
        listening().close()
    except OSError as error:
        detail = f"{os_error_text(error)}: new processes are looked for once a second"
        return Check(name, False, False, detail)
    return Check(name, True, False, "the kernel tells of new processes as they begin")


def _daemon(socket: Path | None) -> Check:
    path = socket or default_socket(os.getuid())
    try:
        with Connection.open(path) as daemon:
            detail = f"{daemon.welcome.version}, process {daemon.pid}, at {path}"
    except DprobeError as error:
        return Check("running dprobed", False, False, f"{error} (`run` and `attach` need none)")
    return Check("running dprobed", True, False, detail)


def _status_field(name: str, base: int) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value, base)
    return 0


_CHECKS: Final[tuple[Callable[[Path | None], Check], ...]] = (
    _machine,
    _python,
    _packages,
    _cpu,
    _ptrace,
    _memory,
    _others,
    _yama,
    _debug_registers,
    _map_files,
    _seccomp,
    _process_events,
    _daemon,
)


@click.command(
    "doctor",
    epilog="""\b
example:
  dprobe doctor
""",
)
@options.json
@click.pass_obj
def doctor_command(socket: Path | None, json: bool) -> int:
    """Show what works on this machine for this user, and why what does not does not.

    The exit status is 0 when everything that `run` and `attach` need works.
    """
    checks = [check(socket) for check in _CHECKS]
    rows = [
        {
            "check": check.name,
            "result": "ok" if check.ok else "FAILS" if check.needed else "no",
            "needed": check.needed,
            "detail": check.detail,
        }
        for check in checks
    ]
    columns = (("check", "check"), ("result", "result"), ("detail", "detail"))
    show(rows, columns, json=json, empty="")
    return 0 if all(check.ok for check in checks if check.needed) else 1
