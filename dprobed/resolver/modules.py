"""Opens the file that a module is, and tells whether a program's ``name`` means that module.

A file that a process maps is opened here and read by the resolver.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from dprobed.binary.errors import LocationError
from dprobed.binary.opening import not_opened
from dprobed.proc import files, mounts, procfs
from dprobed.proc.helper import SilentError
from dprobed.proc.maps import Module
from dprobed.resolver.errors import SilenceError

#: What tells an unchanged file from any other.
Identity = tuple[int, int, int, int, int]


#: What the code is called that the kernel itself maps into each process, and why it has no probes.
VDSO_NAMES: Final = frozenset(("[vdso]", "[vsyscall]", "linux-vdso.so.1"))
VDSO: Final = (
    "the kernel's own code (vDSO) cannot be probed: it is in no file; probe the function of libc "
    "that calls it, as clock_gettime"
)


class Named(Protocol):
    """The names of a file."""

    @property
    def soname(self) -> str | None:
        """The name that a library has for the loader."""

    @property
    def build_id(self) -> str | None:
        """Hex digits."""


class Opened(NamedTuple):
    """A mapped file. ``root`` is to be put before paths of the process.

    ``sure`` false: it is what has the module's path now, which may be another file.
    """

    descriptor: int
    identity: Identity
    root: str
    sure: bool


def open_module(module: Module) -> Opened:
    """The file that is mapped, even if another one has its path now; raises LocationError.

    Through ``/proc/PID/map_files``, which opens the mapped inode itself (needs CAP_SYS_ADMIN or
    CAP_CHECKPOINT_RESTORE in the first user namespace). Without that right: the file of that path
    in the process's own file system, of which ``disproof`` then says whether it is the one.
    """
    mapping = next((m for m in module.mappings if m.executable), module.mappings[0])
    root = _root_of(module.pid)
    name = f"/proc/{module.pid}/map_files/{mapping.start:x}-{mapping.end:x}"
    sure = True
    try:
        descriptor = files.open_link(name, mounts.device_of(mapping.dev.encode()))
    except SilentError:
        raise silent(module.path) from None
    except OSError:
        live = procfs.live_thread(module.pid)
        if live != module.pid:  # the leading thread, which has ended, shows nothing
            return open_module(module._replace(pid=live))
        if module.deleted:
            raise replaced(module) from None
        descriptor = open_path(root + module.path)
        sure = False
    return Opened(descriptor, files.facts(descriptor), root, sure)


def open_path(path: str) -> int:
    """Open a file for reading; raises LocationError."""
    try:
        return files.open_file(path)
    except SilentError:
        raise silent(path) from None
    except (OSError, ValueError) as error:
        raise not_opened(path, error) from error


def open_link(path: str) -> int:
    """The same for a magic link of /proc."""
    try:
        return files.open_link(path)
    except SilentError:
        raise silent(path) from None
    except OSError as error:
        raise not_opened(path, error) from error


def silent(path: str) -> SilenceError:
    """The error for a file that cannot be opened in time."""
    return SilenceError(f"{path}: its file system does not answer")


def replaced(module: Module) -> LocationError:
    """The error for a mapped file that is not at its path any more."""
    return LocationError(
        f"{module.path}: the file was replaced or deleted since process {module.pid} mapped it",
        "run as root, who can read the mapped file, or start the program again",
    )


def is_mapped_inode(module: Module, identity: Identity) -> bool:
    """Whether a file has the number that the kernel gives for the mapped one."""
    device = os.makedev(*(int(part, 16) for part in module.key[0].split(":")))
    return (device, module.key[1]) == identity[:2]


def disproof(
    module: Module, identity: Identity, build_id: str | None, inside: str | None
) -> LocationError | None:
    """The error for a file at a module's path that is not the mapped one, or may not be.

    ``build_id`` is the file's, ``inside`` the one in the memory of the process.
    """
    if inside is not None or build_id is not None:
        return replaced(module) if inside != build_id else None
    if is_mapped_inode(module, identity):
        return None
    return LocationError(
        f"{module.path}: without a build-id nobody can tell whether it is the file that "
        f"process {module.pid} maps",
        "run as root, or link the program with -Wl,--build-id",
    )


def _root_of(pid: int) -> str:
    """What to put before paths of the process: nothing if it has the same mounts as we.

    The kernel writes paths in ``maps`` as the reader sees them, also those of a process under
    ``chroot``; but in another mount namespace from that namespace's own root on.
    """
    try:
        if Path(f"/proc/{pid}/ns/mnt").samefile("/proc/self/ns/mnt"):
            return ""
    except OSError:
        live = procfs.live_thread(pid)
        if live != pid:
            return _root_of(live)
    return f"/proc/{pid}/root"


def matches(module: Module, file: Named | None, name: str) -> bool:
    """Whether a program's ``name`` means this module: path, base name, soname or build-id.

    Paths may lead over symbolic links; a path that is not absolute matches the end of the module's.
    Without ``file`` only paths and base names are compared.
    """
    path = module.path
    if "\0" in name:
        return False
    if "/" in name:
        if not name.startswith("/"):
            return path.endswith("/" + os.path.normpath(name))
        return path == name or _leads_to(_real_of, module, name)
    folder, _, base = path.rpartition("/")
    if name == base:
        return True
    if file is not None and (name == file.soname or name.lower() == file.build_id):
        return True
    # python3 is python3.11, libz.so is libz.so.1.2.13: a link beside the module itself.
    return _leads_to(_link_target, module, f"{folder}/{name}")


def _leads_to(
    follow: Callable[[int, int | None, str], str | None], module: Module, name: str
) -> bool:
    """Whether a path leads to a module; no, where its file system does not answer."""
    try:
        return follow(module.pid, module.born, name) == module.path
    except SilentError:
        return False


# Remembered, for this one process: the engine asks for every probe of a program and every module.
@lru_cache(maxsize=4096)
def _real_of(pid: int, born: int | None, path: str) -> str:
    return _real(_root_of(pid), path)


@lru_cache(maxsize=4096)
def _link_target(pid: int, born: int | None, path: str) -> str | None:
    """What a symbolic link leads to in the end; ``None`` if ``path`` is none."""
    root = _root_of(pid)
    try:
        files.read_link(root + path)
    except SilentError:
        raise  # not to be remembered
    except (OSError, ValueError):  # also in a folder that may not be searched, or that is gone
        return None
    return _real(root, path)


def _real(root: str, path: str) -> str:
    """``path`` without symbolic links, as a process sees it whose ``/`` is ``root``.

    Raises SilentError.
    """
    done = ""
    left = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    links = 0
    while left:
        part = left.pop()
        if part == "..":
            done = done.rpartition("/")[0]
            continue
        try:
            target = files.read_link(f"{root}{done}/{part}")
        except SilentError:
            raise
        except (OSError, ValueError):
            done += "/" + part
            continue
        links += 1
        if links > 40:  # as the kernel's own limit
            return path
        if target.startswith("/"):
            done = ""
        left += [item for item in reversed(target.split("/")) if item not in ("", ".")]
    return done
