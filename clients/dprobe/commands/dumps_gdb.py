"""gdb on a core, with the files that its process had: the same program, the same root.

The JSON file beside a core says which process it was, and the build-id of each file that it had
mapped. A container's files are found through a process that still has its mount namespace. A file
that is another by now (an upgrade) is told of, and a program that is another is not used: names
that are wrong are worse than none.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from dprobe.lib.errors import UserError
from dprobe.view.output import complain
from dprobed.binary.elf import ElfFile
from dprobed.binary.errors import LocationError
from dprobed.corefile.store import Core
from dprobed.proc import far, files, helper, procfs

_DELETED: Final = " (deleted)"


def open_core(core: Core, more: tuple[str, ...]) -> None:
    """Become gdb; ``more``: the rest of its command line. Raises UserError."""
    if shutil.which("gdb") is None:
        raise UserError("gdb is not installed; run: apt-get install gdb")
    opened = _whole(core.path)
    command = command_of(core, opened, more)
    os.execvp("gdb", command)


def command_of(core: Core, opened: str, more: tuple[str, ...] = ()) -> list[str]:
    """The command line of gdb; ``opened``: the path of the core as it is to be read.

    What is not as it was then is complained of. Raises UserError for what gdb would wait for.
    """
    command = ["gdb", "-q"]
    root = _root(core.about)
    if root is None:
        complain(
            "the process's files were in a mount namespace that no process has any more, so gdb "
            "opens the core alone; -iex 'set sysroot FOLDER' says where they are"
        )
        command += ["-iex", "set sysroot /nonexistent"]
    else:
        if root != "/":
            # gdb takes the rest of the line, as it is.
            command += ["-iex", f"set sysroot {root}"]
        program = _program(core.about, root)
        if program:
            command += ["-se", program]
        for line in _changed(core.about, root):
            complain(line)
    return [*command, f"--core={opened}", *more]


def _root(about: dict[str, Any]) -> str | None:
    """What leads to the files as the process saw them; None: nothing does any more."""
    namespace = about.get("mount_namespace")
    root = str(about.get("root") or "/")
    if not root.isprintable():
        return None
    if namespace is None or namespace == _namespace("self"):
        return root
    others = (each.name for each in Path("/proc").iterdir() if each.name.isdecimal())
    for pid in (str(about.get("pid", 0)), *others):
        if _namespace(pid) == namespace and _link(pid, "root") == root:
            return f"/proc/{pid}/root"
    return None


def _namespace(pid: str) -> int:
    try:
        return Path(f"/proc/{pid}/ns/mnt").stat().st_ino
    except OSError:
        return 0


def _link(pid: str, name: str) -> str:
    try:
        return str(Path(f"/proc/{pid}/{name}").readlink())
    except OSError:
        return ""


def _there(path: str, root: str) -> str:
    """A path of the process's, as it leads there from here.

    That of one that changed its root in our namespace has its root in it already.
    """
    return f"{root}{path}" if root.startswith("/proc/") else path


def _program(about: dict[str, Any], root: str) -> str:
    """The file of the program that the process ran; empty: there is none any more."""
    named = str(about.get("executable", ""))
    path = named.removesuffix(_DELETED)
    ids = {str(each["path"]): each.get("build_id") for each in _modules(about)}
    wanted = ids.get(named) or ids.get(path)
    pid = int(about.get("pid", 0))
    # A file may be called as what is gone is marked.
    places = [_there(each, root) for each in dict.fromkeys([named, path]) if each]
    if pid and procfs.start_time(pid) == about.get("start"):
        places.append(f"/proc/{pid}/exe")
    for place in places:
        if _is_file(place) and (wanted is None or _build_id(place) == wanted):
            return place
    if path:
        complain(
            f"{path} is not the program that was dumped, or is gone; gdb opens the core without it"
        )
    return ""


def _modules(about: dict[str, Any]) -> list[dict[str, Any]]:
    found = about.get("modules")
    return [each for each in found if "path" in each] if isinstance(found, list) else []


def _changed(about: dict[str, Any], root: str) -> Iterator[str]:
    """What to say of libraries that are others by now."""
    others = []
    for each in _modules(about):
        path, wanted = str(each["path"]), each.get("build_id")
        there = _there(path.removesuffix(_DELETED), root)
        if path == about.get("executable") or not _is_file(there) or wanted is None:
            continue
        found = _build_id(there)
        if found is not None and found != wanted:
            others.append(path.removesuffix(_DELETED))
    if others:
        yield f"not those that were dumped, so that names in them may be wrong: {', '.join(others)}"


def _is_file(path: str) -> bool:
    """Whether it is a regular file; raises UserError where nobody answers, for gdb would wait."""
    try:
        return far.kind(path) == stat.S_IFREG
    except helper.SilentError:
        raise _waits(path) from None
    except OSError:
        return False


def _build_id(path: str) -> str | None:
    """The build-id of a file; None: it has none, or is none. Raises UserError as ``_is_file``."""
    try:
        descriptor = files.open_file(path)
        try:
            files.read(descriptor, 1, 0)
        except OSError:
            os.close(descriptor)
            raise
        # It closes the descriptor.
        return ElfFile(descriptor, path).build_id
    except helper.SilentError:
        raise _waits(path) from None
    except (OSError, ValueError, LocationError):
        return None


def _waits(path: str) -> UserError:
    return UserError(f"{path}: {far.SILENCE}, and gdb would wait for it")


def _whole(path: Path) -> str:
    """The path of the core as gdb can read it: a compressed one is unpacked into a file without a
    name, which goes with gdb. Raises UserError."""
    if path.suffix != ".zst":
        return str(path)
    if shutil.which("zstd") is None:
        raise UserError("the core is compressed, and zstd is not installed; run: apt-get install "
                        "zstd")  # fmt: skip
    try:
        unpacked = os.open(path.parent, os.O_TMPFILE | os.O_RDWR, 0o600)
        done = subprocess.run(
            ["zstd", "-q", "-d", "-c", "--sparse", str(path)],
            stdout=unpacked,
            stderr=subprocess.PIPE,
            check=False,
        )
    except OSError as error:
        raise UserError(f"{path.parent}: {error.strerror}") from None
    if done.returncode != 0:
        said = " ".join(done.stderr.decode(errors="replace").split())
        raise UserError(f"{path}: it cannot be unpacked: {said}")
    os.set_inheritable(unpacked, True)
    return f"/proc/self/fd/{unpacked}"
