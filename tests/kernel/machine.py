"""A virtual machine with Debian's kernel, in which the tests make system calls: ``agent.c``.

QEMU emulates the processor (``-accel tcg``), so that it runs where there is no /dev/kvm. Its two
CPUs take turns in one thread: with a thread for each, QEMU 7.2 may go on executing a breakpoint
that the kernel has taken out, for ever (translating code and writing to it exclude each other only
from QEMU 8.1 on). The machine's only process is the agent; the module is loaded by it like anything
else.
"""

from __future__ import annotations

import hashlib
import os
import select
import shutil
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

HERE = Path(__file__).parent
BRIDGE = HERE.parent.parent / "kernel_bridge"

#: Memory of the agent that is there to use.
AREA: Final = 0x10000000
_WAIT4: Final = 61
#: Where the agent writes what programs print that go on.
LOG: Final = "/log"
#: Seconds for an answer. Emulated, on a busy machine.
PATIENCE: Final = 180
#: QEMU 7.2 spoils the flags at cmpxchg16b without a lock, which kernels from 6.5 on make use of
#: where the processor has it.
_PROCESSOR: Final = "max,cx16=off"
#: What the kernel says on its console when something is wrong with it.
COMPLAINTS: Final = ("BUG:", "Oops", "WARNING:", "Call Trace", "general protection", "KASAN", "RCU")


def find_kernel() -> str | None:
    """The release of Debian's cloud kernel that can be built for and booted, if there is one."""
    found = [
        path.name
        for path in sorted(Path("/lib/modules").glob("*-cloud-amd64"))
        if (path / "build" / "Makefile").exists() and Path(f"/boot/vmlinuz-{path.name}").exists()
    ]
    return found[-1] if found else None


def why_not() -> str:
    """What is missing on this machine, or an empty text."""
    if shutil.which("qemu-system-x86_64") is None:
        return "there is no qemu-system-x86_64"
    if find_kernel() is None:
        return "there is no Debian cloud kernel with its headers"
    return ""


def _sources() -> dict[str, Path]:
    """What the modules are made of: the bridge, its samples, and those of the tests."""
    kinds = ("*.c", "*.h", "interp/*.[ch]", "uapi/*.h", "Kbuild", "Makefile", "samples/*")
    found = [path for kind in kinds for path in BRIDGE.glob(kind)]
    names = {str(path.relative_to(BRIDGE)): path for path in found}
    names |= {f"sample/{path.name}": path for path in (HERE / "sample").iterdir()}
    return dict(sorted(names.items()))


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    assert "warning" not in done.stdout + done.stderr, done.stdout + done.stderr


def build_modules(release: str, cache: Path, headers: Path | None = None) -> list[Path]:
    """All modules for that kernel, ours first: of the cache, if nothing that they are made of has
    changed. ``headers``: where its are, if they are not installed."""
    digest = hashlib.sha256(release.encode())
    sources = _sources()
    for name, path in sources.items():
        digest.update(name.encode() + path.read_bytes())
    made = cache / digest.hexdigest()[:32]
    if not made.exists():
        work = cache / f"build-{os.getpid()}"
        for name, path in sources.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, work / name)
        options = ["W=1", "DPB_INJECT=y", "DPB_MORE=samples/ sample/"]
        # Debian 12's sparse is older than what newer kernels' headers have.
        if headers is None and shutil.which("sparse") is not None:
            options += ["C=2", "CHECK=sparse"]
        kernel = headers or Path(f"/lib/modules/{release}/build")
        _run(["make", "-C", str(work), f"KDIR={kernel}", *options, "modules"])
        done = cache / f"done-{os.getpid()}"
        done.mkdir()
        for module in work.rglob("*.ko"):
            module.rename(done / module.name)
        shutil.rmtree(work)
        # Nobody sees a part of them.
        done.rename(made)
    return sorted(made.glob("*.ko"), key=lambda path: (path.name != "dprobes.ko", path.name))


def _cpio(files: Mapping[str, bytes | Path | None]) -> Iterator[bytes]:
    """An archive (newc) of files, and of folders, which are None, before what is in them."""
    for inode, (name, content) in enumerate([*files.items(), ("TRAILER!!!", b"")], 1):
        mode = 0o040755 if content is None else 0o100755
        data = content.read_bytes() if isinstance(content, Path) else content or b""
        # Compiled Python is valid as long as its source has this time.
        changed = int(content.stat().st_mtime) if isinstance(content, Path) else 0
        fields = (inode, mode, 0, 0, 1, changed, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        yield head + bytes(-len(head) % 4)
        yield data + bytes(-len(data) % 4)


def _folders(names: Iterable[str]) -> dict[str, None]:
    """The folders that these files lie in, each before those in it."""
    parents = {str(each) for name in names for each in Path(name).parents}
    return dict.fromkeys(sorted(parents - {"."}))


def _write_initrd(
    folder: Path, agent: Path, modules: Sequence[Path], more: Mapping[str, Path]
) -> None:
    """The files that a machine has, which has no disk."""
    files: dict[str, bytes | Path | None] = {"dev": None, "proc": None, "sys": None}
    files |= {"tmp": None, "run": None, **_folders(more), **more}
    files |= {"init": agent, **{module.name: module for module in modules}}
    with (folder / "initrd").open("wb") as initrd:
        initrd.writelines(_cpio(files))


class Machine:
    """A running machine. ``call`` and what is around it are done by its agent, which is root.

    ``modules``: kernel modules to be loaded, in its root; ``more``: further files; ``environment``:
    of the programs that it runs; ``kernel``: what boots, if that is not installed.
    """

    def __init__(
        self,
        folder: Path,
        release: str,
        modules: Sequence[Path],
        more: Mapping[str, Path] | None = None,
        environment: Mapping[str, str] | None = None,
        kernel: Path | None = None,
    ) -> None:
        agent = folder / "agent"
        _run(["gcc", "-static", "-O1", "-Wall", "-Wextra", str(HERE / "agent.c"), "-o", str(agent)])
        settings = (f"{name}={value}" for name, value in (environment or {}).items())
        self._environment = [*settings, ""]
        #: The answer to the last message.
        self._owes = False
        self._console = folder / "console"
        quiet = "console=ttyS0 panic=-1 oops=panic tsc=reliable no_timer_check loglevel=6"
        # What guards real processors is slow where one is emulated.
        quiet += " mitigations=off"
        _write_initrd(folder, agent, modules, more or {})
        self._process = subprocess.Popen(
            [
                *("qemu-system-x86_64", "-accel", "tcg,thread=single", "-cpu", _PROCESSOR),
                *("-smp", "2", "-m", "1024" if more else "512", "-nodefaults"),
                *("-display", "none", "-no-reboot"),
                *("-kernel", str(kernel or f"/boot/vmlinuz-{release}")),
                *("-initrd", str(folder / "initrd")),
                *("-append", quiet, "-serial", f"file:{self._console}"),
                *("-chardev", "stdio,id=agent,signal=off", "-serial", "chardev:agent"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            self._receive()
        except BaseException:
            self.close()
            raise

    def console(self) -> str:
        """What the kernel has said."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def complaints(self) -> list[str]:
        """Lines of the console that say that something is wrong."""
        lines = self.console().splitlines()
        return [line for line in lines if any(text in line for text in COMPLAINTS)]

    def close(self) -> None:
        """Switch it off."""
        self._process.kill()
        self._process.communicate()

    # -- messages -----------------------------------------------------------------------------

    def _take(self, size: int) -> bytes:
        pipe = self._process.stdout
        assert pipe is not None
        taken = b""
        end = time.monotonic() + PATIENCE
        while len(taken) < size:
            ready, _, _ = select.select([pipe], [], [], max(end - time.monotonic(), 0))
            part = os.read(pipe.fileno(), size - len(taken)) if ready else b""
            if not part:
                how = "ended" if ready else "does not answer"
                raise AssertionError(f"the machine {how}; its console:\n{self.console()[-6000:]}")
            taken += part
        return taken

    def _receive(self) -> bytes:
        (size,) = struct.unpack("<I", self._take(4))
        return self._take(size)

    def exchange(self, *requests: bytes) -> bytes:
        """Send requests as one message, and wait for the answers."""
        pipe = self._process.stdin
        assert pipe is not None
        assert not self._owes, "the machine has not answered an earlier message"
        self._owes = True
        body = b"".join(requests)
        pipe.write(struct.pack("<I", len(body)) + body)
        pipe.flush()
        answer = self._receive()
        self._owes = False
        return answer

    # -- requests -----------------------------------------------------------------------------

    def write(self, address: int, data: bytes) -> None:
        """Write memory of the agent."""
        self.exchange(written(address, data))

    def read(self, address: int, size: int) -> bytes:
        """Read memory of the agent."""
        return self.exchange(fetched(address, size))

    def call(self, number: int, *args: int, count: int = 1) -> int:
        """Make a system call ``count`` times: the last result, -errno where it failed."""
        return result_of(self.exchange(called(number, *args, count=count)))

    def for_ever(self, number: int, *args: int) -> int:
        """Make a system call again and again in a process of its own: its pid."""
        return result_of(self.exchange(b"B" + _call(number, args)))

    def look_for(self, name: str, wanted: str) -> tuple[int, str]:
        """How many lines of a file have that text in them, and the first 16 letters of the last."""
        names = written(AREA, f"{name}\0{wanted}\0".encode())
        answer = self.exchange(names, b"G" + struct.pack("<Q", AREA))
        return result_of(answer), answer[8:].decode()

    def run(self, *command: str) -> tuple[int, str]:
        """Run a program: its exit status, and what it prints."""
        answer = self._run(command, wait=1)
        return os.waitstatus_to_exitcode(result_of(answer)), answer[8:].decode()

    def start(self, *command: str) -> int:
        """Start a program, which goes on: its pid. What it prints is in ``log``."""
        return result_of(self._run(command, wait=0))

    def _run(self, command: Sequence[str], wait: int) -> bytes:
        texts = "".join(f"{text}\0" for text in (*command, "", *self._environment))
        return self.exchange(written(AREA, texts.encode()), b"X" + struct.pack("<2Q", wait, AREA))

    def wait(self, pid: int) -> None:
        """Wait for the end of a process that was started."""
        self.call(_WAIT4, pid, 0, 0, 0)

    def run_on(self, cpu: int) -> None:
        """The agent, and what it starts, runs on that CPU."""
        self.exchange(b"C" + struct.pack("<Q", cpu))


def written(address: int, data: bytes) -> bytes:
    """The request to write memory."""
    return b"W" + struct.pack("<2Q", address, len(data)) + data


def fetched(address: int, size: int) -> bytes:
    """The request to read memory."""
    return b"R" + struct.pack("<2Q", address, size)


def drained(fd: int, size: int) -> bytes:
    """The request to read from a descriptor: the answer is the result, then the data."""
    return b"D" + struct.pack("<2Q", fd, size)


def called(number: int, *args: int, count: int = 1) -> bytes:
    """The request to make a system call."""
    return b"S" + struct.pack("<Q", count) + _call(number, args)


def result_of(answer: bytes) -> int:
    """The result of a system call."""
    return int(struct.unpack("<q", answer[:8])[0])


def _call(number: int, args: Sequence[int]) -> bytes:
    words = [number, *args, *[0] * (6 - len(args))]
    return struct.pack("<7Q", *(word & 0xFFFFFFFFFFFFFFFF for word in words))
