#!/usr/bin/env python3
"""`make test-bare`: other goals of ours on a Debian that never saw this project.

    etc/bare.py [--keep] [GOAL...]

A machine on which a project is developed hides which steps of its setup are missing. So this makes
the smallest Debian there is (with make, git and certificates) in a temporary folder, clones HEAD
into it, and runs the goals there, one after the other: `demo` and `test` unless others are named.

It needs root, mmdebstrap, git, 5 GB of room under $TMPDIR (/var/tmp), and where the packages come
from. For that the configuration of this machine is copied in: apt's sources, keys and way to the
network, certificates, pip's configuration and the folders that it names. It takes a minute to
make the system, half of one for `demo`, and for `test` what that takes, and its packages. Kernel,
processes and network are those of this machine. Whatever happens, nothing stays mounted, and the
folder is removed (`--keep`: it stays).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGES: Final = ("make", "git", "ca-certificates")
ROOM: Final = 5 << 30
#: Variables that say how to reach the network and Python's packages.
PASSED: Final = re.compile(r"PIP_\w+|(https?|no|all)_proxy|SSL_CERT_\w+|\w+_CA_BUNDLE", re.I)
#: Of apt's configuration: how it fetches, and not what it does besides on this machine.
FETCHING: Final = re.compile(r"Acquire::(?!IndexTargets|Languages|CompressionTypes|Changelogs)")
#: Seconds that an interrupted goal has to clean up behind itself.
PATIENCE: Final = 60.0
#: Makes the folder that it is started in the root of a mount namespace of its own. A chroot would
#: not do: its root is no mount point, and what is run in it makes namespaces, too.
ENTER: Final = r"""
set -e
mount --make-rprivate /
mount --rbind . .
cd "$PWD"
mkdir -p old
mount -t proc proc proc
mount --rbind /dev dev
mount -t sysfs sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount -t tmpfs tmpfs run
while [ "$1" != -- ]; do
    mkdir -p ".$1"
    mount --bind -o ro "$1" ".$1"
    shift
done
shift
pivot_root . old
cd /
umount -l old
cd /root/dprobed
exec "$@"
"""


class Unable(Exception):
    """It cannot be done here; the text says why."""


def needed() -> str:
    """The release of Debian to make; raises Unable where something is missing."""
    if os.geteuid() != 0:
        raise Unable("only root can make a system and mount what it needs")
    for command, package in (
        ("mmdebstrap", "mmdebstrap"),
        ("git", "git"),
        ("unshare", "util-linux"),
    ):
        if shutil.which(command) is None:
            raise Unable(f"there is no {command}; install it: apt-get install {package}")
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if line
    )
    if release.get("ID") != "debian" or "VERSION_CODENAME" not in release:
        raise Unable("it takes the package sources of this machine, which is no Debian")
    free = shutil.disk_usage(parent()).free
    if free < ROOM:
        raise Unable(f"{parent()} has {free >> 20} MB of room, and {ROOM >> 20} are needed")
    return release["VERSION_CODENAME"].strip('"')


def parent() -> Path:
    """Where the folder is made."""
    return Path(os.environ.get("TMPDIR", "/var/tmp"))


def run(command: Sequence[str | Path], **options: str | Path | dict[str, str]) -> None:
    """Run a command to its end; raises Unable. An interrupt is passed on to all that it started,
    which ends before we go on."""
    with subprocess.Popen(  # type: ignore[call-overload]
        command, stdin=subprocess.DEVNULL, start_new_session=True, **options
    ) as process:
        try:
            status = process.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if status:
        raise Unable(f"`{' '.join(map(str, command[:3]))} …` ended with status {status}")


def output(*command: str) -> str:
    """What a command says; empty where there is no such command, or it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def bootstrap(root: Path, release: str, packages: Sequence[str], *options: str) -> None:
    """Make the smallest Debian with ``packages`` in the folder ``root``, from the sources of this
    machine; ``options``: more for mmdebstrap. Raises Unable."""
    apt = Path("/etc/apt")
    sources = [apt / "sources.list", *sorted(apt.glob("sources.list.d/*"))]
    sources = [each for each in sources if each.suffix in (".list", ".sources") and each.is_file()]
    fetching = root.with_name(f"{root.name}.apt.conf")
    dump = output("apt-config", "dump").splitlines(keepends=True)
    fetching.write_text("".join(line for line in dump if FETCHING.match(line)))
    command: list[str | Path] = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase"]
    command += [f"--include={','.join(packages)}", f"--aptopt={fetching}", *options]
    run([*command, release, root, *sources])
    fetching.unlink()


def make(folder: Path, release: str) -> Path:
    """A bare system in ``folder``, which can fetch packages as this machine does; its root."""
    root = folder / "root"
    copied = ["/etc/apt/keyrings", "/etc/apt/trusted.gpg.d", "/etc/apt/auth.conf.d"]
    copied += ["/usr/share/keyrings", "/usr/local/share/ca-certificates"]
    bootstrap(root, release, PACKAGES)
    for name in copied:
        if Path(name).is_dir():
            shutil.copytree(name, f"{root}{name}", dirs_exist_ok=True)
    for path in map(Path, pip_files()):
        copy = Path(f"{root}{path}")
        if path.is_relative_to(Path.home()):
            copy = root / "root" / path.relative_to(Path.home())
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    run(["chroot", root, "update-ca-certificates", "--fresh"])
    run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, root / "root/dprobed"])
    return root


def pip(*command: str) -> str:
    """What pip says."""
    return output("pip", *command) or output("python3", "-m", "pip", *command)


def pip_files() -> list[str]:
    """The files that pip reads, and those that they name (constraints, certificates)."""
    read = re.findall(r"^\s*(/.+), exists: True$", pip("config", "debug"), re.MULTILINE)
    named = re.findall(r"(?<=[' ])/[^\s'\\]+", pip("config", "list"))
    return [path for path in (*read, *named) if Path(path).is_file()]


def pip_folders() -> list[str]:
    """Folders of packages that pip's configuration names."""
    found = set()
    for url, path in re.findall(r"(?<=[' ])(file://)?(/[^\s'\\]+)", pip("config", "list")):
        # An index leads to files beside it.
        folder = Path(path).parent if url and len(Path(path).parts) > 3 else Path(path)
        if folder.is_dir():
            found.add(str(folder))
    return sorted(found)


def enter(root: Path, goals: Sequence[str]) -> None:
    """Run the goals in it."""
    environment = {key: value for key, value in os.environ.items() if PASSED.fullmatch(key)}
    environment |= {"HOME": "/root", "LANG": "C.UTF-8", "TERM": os.environ.get("TERM", "dumb")}
    environment["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    folders = pip_folders()
    for goal in goals:
        print(f"--- make {goal}", flush=True)
        command = ["unshare", "--mount", "sh", "-c", ENTER, "enter", *folders, "--", "make", goal]
        run(command, cwd=root, env=environment)


def remove(folder: Path) -> None:
    """The folder with all that is in it; first what is mounted there, if something is."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount.startswith(f"{folder}/"):
            subprocess.run(["umount", "-l", mount], check=False)
    subprocess.run(["rm", "-rf", "--one-file-system", folder], check=False)


def stop(number: int, frame: object) -> None:
    """Any signal that ends us does it as an interrupt: in order."""
    raise KeyboardInterrupt


def main() -> int:
    """Make the system, run the goals, remove it."""
    parser = argparse.ArgumentParser(prog="make test-bare", description=__doc__)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("goal", nargs="*", default=["demo", "test"])
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        release = needed()
    except Unable as error:
        print(f"make test-bare: {error}", file=sys.stderr)
        return 2
    if changed := output("git", "-C", str(ROOT), "status", "--porcelain").splitlines():
        print(f"HEAD is what is tried: {len(changed)} changed files are not in it")
    folder = Path(tempfile.mkdtemp(prefix="dprobed-bare-", dir=parent()))
    try:
        print(f"making a bare Debian ({release}) in {folder}", flush=True)
        enter(make(folder, release), arguments.goal)
    except Unable as error:
        print(f"make test-bare: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("make test-bare: interrupted", file=sys.stderr)
        return 130
    finally:
        if arguments.keep:
            print(f"kept: {folder}")
        else:
            remove(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
