"""Debian containers with systemd as PID 1, booted in half a second, each from the same root folder.

The root is made by mmdebstrap once (a minute, 200 MB) and kept in ``/var/tmp/dprobed-tests``
(``DPROBED_TEST_ROOTS``), under a name that says what is in it. A container sees it read-only, below
a layer of its own in memory. Nothing of it outlives the test.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from etc import bare
from tests.integration.client_support import PATIENCE, Json

ROOT: Final = Path(__file__).parents[2]
ROOTS: Final = Path(os.environ.get("DPROBED_TEST_ROOTS", "/var/tmp/dprobed-tests"))
#: What a small server of today has, of what matters here.
PACKAGES: Final = ("systemd", "systemd-sysv", "dbus", "dbus-user-session", "libpam-systemd")
SUITE: Final = "bookworm"
#: Where a container finds the test's folder.
SHARED: Final = "/mnt"
_CGROUPS: Final = ("systemd", "unified", "")
#: Left out: nobody reads it there.
_WITHOUT: Final = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*")


class Container:
    """A running container; ``leader`` is its PID 1, as the host numbers it."""

    def __init__(self, leader: int) -> None:
        self._leader = leader

    def command(self, *command: object) -> list[str]:
        """What runs a command in it, as its root."""
        return ["nsenter", f"--target={self._leader}", "--all", "--", *map(str, command)]

    def run(self, *command: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command in it, to its end."""
        done = subprocess.run(
            self.command(*command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def out(self, *command: object) -> str:
        """What a command that succeeds says."""
        return self.run(*command).stdout.strip()

    def shown(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.out("systemctl", "show", "--value", f"--property={name}", unit)

    def until(self, what: str, unit: str, name: str, *values: str) -> str:
        """Wait until a property of a unit is one of these values."""
        deadline = time.monotonic() + PATIENCE
        while (found := self.shown(unit, name)) not in values:
            assert time.monotonic() < deadline, f"{what}: {name} of {unit} is {found!r}"
            time.sleep(0.05)
        return found

    def journal(self, *matches: str) -> list[Json]:
        """Entries of its journal, oldest first."""
        self.run("journalctl", "--sync")
        text = self.out("journalctl", "--no-pager", "--output=json", *matches)
        return [json.loads(line) for line in text.splitlines()]

    def write(self, path: str, text: str) -> None:
        """A file in it."""
        script = 'mkdir -p "$(dirname "$0")"; printf %s "$1" >"$0"'
        self.run("sh", "-c", script, path, text)


def root_folder() -> Path:
    """The root that containers are booted from; it is made where there is none."""
    key = hashlib.sha256(repr((SUITE, PACKAGES, _WITHOUT)).encode()).hexdigest()[:12]
    ROOTS.mkdir(parents=True, exist_ok=True)
    root = ROOTS / f"{SUITE}-{key}"
    with open(ROOTS / f"{root.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            _make(root)
    return root


def _make(root: Path) -> None:
    new = root.with_name(f"{root.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    without = [f"--dpkgopt=path-exclude={each}" for each in _WITHOUT]
    bare.bootstrap(new, SUITE, (*PACKAGES, "python3"), *without)
    new.rename(root)


@contextmanager
def booted(name: str, shared: Path, *arguments: str) -> Iterator[Container]:
    """A container that has booted; ``shared`` is its ``/mnt``."""
    folders = [Path("/sys/fs/cgroup") / each for each in _CGROUPS]
    # In a tree of its own: it would else find a manager of another's units there, or none.
    # A root of cgroups, of version 1 or 2: not a folder in which they are mounted.
    own = [
        each / name
        for each in folders
        if (each / "tasks").exists() or (each / "cgroup.controllers").exists()
    ]
    script = 'for each in $OWN; do mkdir -p "$each"; echo $$ >"$each/cgroup.procs"; done; exec "$@"'
    command = ["sh", "-c", script, "sh", "systemd-nspawn", "--quiet", f"--machine={name}"]
    command += [f"--directory={root_folder()}", "--volatile=overlay", "--boot", "--register=no"]
    # What root may on a machine.
    command += [
        "--capability=all",
        "--keep-unit",
        "--console=pipe",
        f"--bind={shared}:{SHARED}",
        *arguments,
    ]
    log = shared / f"{name}.log"
    with open(log, "wb") as out:
        nspawn = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            # No system call filter of its own: what has one cannot be probed by who has one, too.
            env={**os.environ, "OWN": " ".join(map(str, own)), "SYSTEMD_SECCOMP": "0"},
        )
    try:
        container = Container(_leader(nspawn, log))
        _wait_for_boot(container, log)
        yield container
    finally:
        _end(nspawn)
        for folder in own:
            _remove(folder)


def _leader(nspawn: subprocess.Popen[bytes], log: Path) -> int:
    """Its PID 1: the child of nspawn that has two process ids and a name of its own."""
    deadline = time.monotonic() + PATIENCE
    children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children")
    while True:
        assert nspawn.poll() is None, log.read_text()
        for child in children.read_text().split():
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{child}/status").read_text().splitlines()
                if f"NSpid:\t{child}\t1" in lines and "Name:\tsystemd" in lines:
                    return int(child)
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def _wait_for_boot(container: Container, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        state = container.run("systemctl", "is-system-running", "--wait", check=False).stdout
        if state.strip() in ("running", "degraded"):
            return
        assert time.monotonic() < deadline, f"{state}: {log.read_text()}"
        time.sleep(0.02)


def _end(nspawn: subprocess.Popen[bytes]) -> None:
    # Its end takes all of the container's processes along (they are in a pid namespace).
    nspawn.terminate()
    try:
        nspawn.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        nspawn.kill()
        nspawn.wait()


def _remove(folder: Path) -> None:
    """A cgroup with those in it, once the last of its processes is gone."""
    deadline = time.monotonic() + PATIENCE
    for each in sorted(folder.rglob("*/"), key=lambda path: -len(path.parts)):
        with contextlib.suppress(OSError):
            each.rmdir()
    while folder.exists():
        for path, _, _ in os.walk(folder, topdown=False):
            with contextlib.suppress(OSError):
                Path(path).rmdir()
        assert time.monotonic() < deadline, f"{folder} is in use"


def package(version: str = "") -> Path:
    """Our Debian package, as ``make deb`` makes it."""
    environment: dict[str, Any] = {**os.environ}
    if version:
        environment["VERSION"] = version
    command: Sequence[str | Path] = [ROOT / "etc" / "deb.sh"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return ROOT / done.stdout.splitlines()[-1]
