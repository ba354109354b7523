"""``dprobe doctor``: try on this machine, as this user, what probing needs.

Each check does the thing itself on a process forked for it, and says why where it does not work.
"""

from __future__ import annotations

import ctypes
import errno
import importlib.metadata
import os
import platform
import re
import resource
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import click

import dprobed
from dprobe.commands import options
from dprobe.lib.connection import Connection
from dprobe.lib.errors import DprobeError, os_error_text
from dprobe.lib.orphans import named, orphans
from dprobe.view.tables import Listing, show
from dprobed.proc.refusals import CAP_SYS_PTRACE, YAMA, may_suspend_seccomp
from dprobed.wire.socket_path import default_socket

#: What a container must be given, by name of the right, for what its kernel would allow.
_CONTAINER: Final = "as root, or in a container with the capability {} (docker run --cap-add={})"
_YAMA: Final = {
    0: "any process of the same user may be traced",
    1: "only descendants may be traced: `run` works, `attach` needs root",
    2: "only root may trace",
    3: "nobody may trace, until the next boot",
}


#: Where the unit of the daemon's socket may be.
_UNITS: Final = (
    Path("/usr/lib/systemd/system/dprobed.socket"),
    Path("/usr/local/lib/systemd/system/dprobed.socket"),
    Path("/etc/systemd/system/dprobed.socket"),
)
#: The device of the kernel module; that a kernel loads modules; where they are.
_DEVICE: Final = Path("/dev/dprobes")
_MODULES: Final = Path("/proc/modules")
_INSTALLED: Final = Path("/lib/modules")
#: Descriptors that a daemon with thousands of targets wants.
_DESCRIPTORS: Final = 1 << 14
#: Calls that are not everywhere, each by something that makes a descriptor with it.
_CALLS: Final[dict[str, Callable[[], int]]] = {
    "pidfd_open": lambda: os.pidfd_open(os.getpid()),
    "memfd_create": lambda: os.memfd_create("dprobe-doctor"),
    "process_vm_readv": lambda: _own_memory(),
}


class Check(NamedTuple):
    """One finding. ``needed``: ``run`` and ``attach`` need it. ``remedy``: what to do about it,
    where it is not ``ok``."""

    name: str
    ok: bool
    needed: bool
    detail: str
    remedy: str = ""


def _own_memory() -> int:
    """Read memory of this process as a target's is read; a descriptor, which says nothing."""
    here = ctypes.create_string_buffer(b"x")
    there = ctypes.create_string_buffer(1)

    class _Piece(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    pieces = [_Piece(ctypes.addressof(each), 1) for each in (there, here)]
    libc = ctypes.CDLL(None, use_errno=True)
    count = libc.process_vm_readv(
        os.getpid(), ctypes.byref(pieces[0]), 1, ctypes.byref(pieces[1]), 1, 0
    )
    if count != 1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return os.dup(0)


class _RefusedError(Exception):
    """The kernel refused a ptrace call; why."""


class _Traced:
    """A child that does nothing, traced and stopped."""

    def __init__(self) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            while True:
                signal.pause()

    def __enter__(self) -> _Traced:
        try:
            # Here: it needs python-ptrace, and that may be what is missing.
            from dprobed.arch.x86_64.python_ptrace import PTRACE_INTERRUPT, PTRACE_SEIZE

            self._call(PTRACE_SEIZE, 0, 0)
            self._call(PTRACE_INTERRUPT, 0, 0)
            os.waitpid(self.pid, 0)
        except BaseException:
            self.__exit__()
            raise
        return self

    def poke(self, offset: int, value: int) -> None:
        """Store a word of what the kernel has of it (``struct user``); raises _RefusedError."""
        from dprobed.arch.x86_64.python_ptrace import binding

        self._call(binding.PTRACE_POKEUSER, offset, value)

    def _call(self, request: int, address: int, data: int) -> None:
        from dprobed.arch.x86_64.python_ptrace import binding

        try:
            binding.ptrace(request, self.pid, address, data)
        except binding.PtraceError as error:
            raise _RefusedError(os.strerror(error.errno or 0).lower()) from None

    def __exit__(self, *_: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _machine(_: Path | None) -> Check:
    uname = os.uname()
    right = uname.machine == "x86_64" and sys.maxsize > 1 << 32
    detail = f"{uname.machine}, Linux {uname.release}"
    return Check("machine", right, True, detail, "only x86-64 with a 64-bit Python can be probed")


def _python(_: Path | None) -> Check:
    right = sys.version_info >= (3, 11)
    return Check("python", right, True, platform.python_version(), "install Python 3.11 or later")


def _packages(_: Path | None) -> Check:
    """Whether what this installation asks for is there."""
    name = "python packages"
    try:
        asked = importlib.metadata.requires("dprobed") or []
    except importlib.metadata.PackageNotFoundError:
        detail = "dprobed was not installed by pip: they are not known"
        return Check(name, False, False, detail, "make install, or pip install .")
    missing = []
    for requirement in asked:
        if "extra ==" in requirement:
            continue
        package = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    detail = f"missing: {', '.join(missing)}" if missing else "all are there"
    return Check(name, not missing, True, detail, f"pip install {' '.join(missing)}")


def _ptrace(_: Path | None) -> Check:
    try:
        with _Traced():
            pass
    except _RefusedError as error:
        # A seccomp filter (1: strict, 2: filter) may forbid the call.
        filtered = bool(_status_field("Seccomp", 10))
        why = "a seccomp filter is on this process" if filtered else "no seccomp filter is on"
        remedy = _CONTAINER.format("SYS_PTRACE", "SYS_PTRACE")
        return Check("ptrace of own processes", False, True, f"{error}; {why}", remedy)
    return Check("ptrace of own processes", True, True, "a child could be seized and stopped")


def _others(_: Path | None) -> Check:
    capable = bool(_status_field("CapEff", 16) >> CAP_SYS_PTRACE & 1)
    detail = "CAP_SYS_PTRACE" if capable else "only this user's processes"
    return Check("ptrace of others' processes", capable, False, detail, "as root: every user's")


def _filtered(_: Path | None) -> Check:
    """Whether processes with a seccomp filter can be probed: theirs is suspended for a moment."""
    name = "targets with seccomp"
    if may_suspend_seccomp():
        return Check(name, True, False, "their filters can be suspended for calls of ours")
    if _status_field("Seccomp", 10):
        detail = "a filter is on this process itself, so theirs cannot be suspended"
        remedy = "take the filter away (docker run --security-opt seccomp=unconfined)"
        return Check(name, False, False, detail, remedy)
    detail = "their filters may forbid what a probe needs, and cannot be suspended"
    return Check(name, False, False, detail, _CONTAINER.format("SYS_ADMIN", "SYS_ADMIN"))


def _yama(_: Path | None) -> Check | None:
    try:
        scope = int(Path(YAMA).read_text())
    except FileNotFoundError:
        return None  # not in this kernel: it forbids nothing
    capable = bool(_status_field("CapEff", 16) >> CAP_SYS_PTRACE & 1)
    ok = scope == 0 or (capable and scope < 3)
    text = _YAMA.get(scope, "unknown to this version")
    remedy = "boot anew" if scope == 3 else "sysctl kernel.yama.ptrace_scope=0 allows more"
    return Check("Yama", ok, scope == 3, f"ptrace_scope is {scope}: {text}", remedy)


def _debug_registers(_: Path | None) -> Check:
    """Sets a data watchpoint in a child: virtual machines may not have them."""
    from dprobed.arch.x86_64.debug_registers import CONTROL, control_bits
    from dprobed.arch.x86_64.registers import DEBUGREG_OFFSET

    name = "debug registers"
    try:
        with _Traced() as child:
            word = ctypes.c_uint64()
            child.poke(DEBUGREG_OFFSET, ctypes.addressof(word))
            control = DEBUGREG_OFFSET + 8 * CONTROL
            child.poke(control, control_bits(0, "w", 8))
            child.poke(control, 0)
    except _RefusedError as error:
        remedy = "none here: this virtual machine does not have them, use probes on code"
        return Check(name, False, False, f"no watchpoints here: {error}", remedy)
    return Check(name, True, False, "a watchpoint could be set")


def _map_files(_: Path | None) -> Check:
    """What the tracer opens to get at files that were replaced while mapped."""
    name = "map_files"
    folder = Path("/proc/self/map_files")
    try:
        entry = next(folder.iterdir())
        entry.open("rb").close()
    except StopIteration:
        return Check(name, False, False, "empty", "mount -t proc proc /proc")
    except OSError as error:
        detail = f"{os_error_text(error)}: files replaced while mapped are told by build-id only"
        remedy = _CONTAINER.format("CHECKPOINT_RESTORE", "CHECKPOINT_RESTORE")
        return Check(name, False, False, detail, remedy)
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
    except _RefusedError as error:
        return Check(name, False, True, str(error), "see `ptrace of own processes`")
    except OSError as error:
        remedy = "boot without proc_mem.force_override=never, or allow it in the security module"
        return Check(name, False, True, os_error_text(error), remedy)
    return Check(name, True, True, "the code of a traced child could be written")


def _process_events(_: Path | None) -> Check:
    """How soon `insert --exe` and the like are in a new process."""
    from dprobed.proc.connector import listening

    name = "process events"
    try:
        listening().close()
    except OSError as error:
        detail = f"{os_error_text(error)}: new processes are looked for once a second"
        remedy = "as root with NET_ADMIN in the first network and pid namespaces (no container)"
        return Check(name, False, False, detail, remedy)
    return Check(name, True, False, "the kernel tells of new processes as they begin")


def _daemon(socket: Path | None) -> Check:
    path = socket or default_socket(os.getuid())
    try:
        with Connection.open(path) as daemon:
            detail = f"{daemon.welcome.version}, process {daemon.pid}, at {path}"
    except DprobeError as error:
        detail, remedy = str(error), "`run` and `attach` need none"
        if path == default_socket(0) and any(each.exists() for each in _UNITS):
            remedy += "; for the rest, as root: systemctl enable --now dprobed.socket"
        return Check("running dprobed", False, False, detail, remedy)
    return Check("running dprobed", True, False, detail)


def _orphans(socket: Path | None) -> Check:
    """Whether tracers that were killed have left something that nobody undoes."""
    name = "processes of killed tracers"
    path = socket or default_socket(os.getuid())
    pids = orphans(path)
    if not pids:
        return Check(name, True, False, "none has anything left")
    detail = f"{named(pids)} have breakpoints or pages left"
    remedy = "start dprobed again: it undoes that, where nobody else traces them"
    return Check(name, False, False, detail, remedy)


def _descriptors(_: Path | None) -> Check:
    """Each tracer takes two descriptors of the daemon."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    ok = hard == resource.RLIM_INFINITY or hard >= _DESCRIPTORS
    detail = "as many as are wanted" if hard == resource.RLIM_INFINITY else f"at most {hard}"
    remedy = f"ulimit -Hn {_DESCRIPTORS}, or LimitNOFILE= of the unit; else fewer processes at once"
    return Check("descriptors", ok, False, detail, remedy)


def _why_not_loaded() -> tuple[str, str]:
    """Why there is no module dprobes in this kernel, and what to do about it."""
    if not _MODULES.exists():
        return "this kernel loads no modules", "a kernel with CONFIG_MODULES, CONFIG_KPROBES"
    release = os.uname().release
    folder = _INSTALLED / release
    if next(folder.glob("**/dprobes.ko*"), None) is not None:
        remedy = "as root: modprobe dprobes, or load_kernel_module = true in dprobed.toml"
        return "the module dprobes is not loaded", remedy
    remedy = (
        f"as root: apt-get install linux-headers-{release} ./build/dprobes-dkms_*_all.deb (which "
        "`make deb` makes)"
    )
    return "the module dprobes is not installed for this kernel", remedy


def _kernel_module(_: Path | None) -> Check:
    """Whether programs with `modtype = kernel` can be inserted."""
    name = "kernel programs"
    if not _DEVICE.exists():
        return Check(name, False, False, *_why_not_loaded())
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return Check(name, False, False, f"{_DEVICE} is for root", "insert them as root")
    return Check(name, True, False, "the module dprobes is loaded")


def _kernel_calls(_: Path | None) -> Check:
    """System calls that older kernels, and filters, lack."""
    name = "system calls"
    missing = [call for call, works in _CALLS.items() if not _works(works)]
    detail = f"missing: {', '.join(missing)}" if missing else "all are there"
    remedy = "Linux 5.6 or later, and no seccomp filter that forbids them"
    return Check(name, not missing, True, detail, remedy)


def _works(call: Callable[[], int]) -> bool:
    try:
        os.close(call())
    except OSError as error:
        # Forbidden by a filter, or not there.
        return error.errno not in (errno.ENOSYS, errno.EPERM)
    return True


def _status_field(name: str, base: int) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value, base)
    return 0


def _other_users(_: Path | None) -> Check:
    """Whether other users can run this installation: its folder may be closed to them."""
    name = "for other users"
    for path in (os.path.realpath(sys.executable), sys.executable, dprobed.__file__ or ""):
        closed = _closed(Path(path))
        if closed is not None:
            return Check(
                name,
                False,
                False,
                f"{closed} is closed to them",
                "`make install` puts it elsewhere",
            )
    return Check(name, True, False, "they can run it, too")


def _closed(path: Path) -> Path | None:
    """The first folder on the way to a file, or the file, that others may not use."""
    for part in (*reversed(path.absolute().parents), path):
        bits = stat.S_IXOTH if part.is_dir() else stat.S_IROTH
        if not part.stat().st_mode & bits:
            return part
    return None


#: What can be tried where the first three are well.
_CHECKS: Final[tuple[Callable[[Path | None], Check | None], ...]] = (
    _kernel_calls,
    _ptrace,
    _memory,
    _other_users,
    _others,
    _filtered,
    _yama,
    _debug_registers,
    _map_files,
    _process_events,
    _descriptors,
    _kernel_module,
    _daemon,
    _orphans,
)


_LISTING = Listing(
    "check",
    (("check", "check"), ("result", "result"), ("detail", "detail"), ("remedy", "remedy")),
    ("needed",),
)


@click.command(
    "doctor",
    epilog="""\b
example:
  dprobe doctor
""",
)
@options.listing(_LISTING)
@click.pass_obj
def doctor_command(socket: Path | None, json: bool, only: tuple[str, ...]) -> int:
    """Show what works on this machine for this user, why what does not does not, and what to do.

    The exit status is 0 when everything that `run` and `attach` need works.
    """
    checks = [_machine(socket), _python(socket), _packages(socket)]
    if all(check.ok for check in checks):
        checks += [found for check in _CHECKS if (found := check(socket)) is not None]
    rows = [
        {
            "check": check.name,
            "result": "ok" if check.ok else "FAILS" if check.needed else "no",
            "needed": check.needed,
            "detail": check.detail,
            "remedy": "" if check.ok else check.remedy,
        }
        for check in checks
    ]
    show(rows, _LISTING, json=json, empty="", only=only)
    return 0 if all(check.ok for check in checks if check.needed) else 1
