"""Which files a command will map when it is executed: its program, and the libraries it needs.

Which library a name stands for is decided by RPATH, RUNPATH, LD_LIBRARY_PATH, LD_PRELOAD, the
loader's cache, its default folders and the CPU (ld.so(8)). So the dynamic loader itself is asked,
as ldd(1) does: ``ld.so --list PROGRAM`` maps the libraries and executes nothing of them.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from dprobe.lib import quiet, reading
from dprobe.lib.errors import UserError
from dprobe.lib.mapped import File, open_file, to_be_mapped
from dprobed.binary.errors import LocationError
from dprobed.binary.file import Binary
from dprobed.binary.suggest import similar
from dprobed.proc import far

#: The loader of glibc on x86-64; others have other rules, and are not asked.
_LOADER: Final = "ld-linux-x86-64.so.2"
#: Only these variables say where libraries are; LD_AUDIT, for one, would execute something.
_VARIABLES: Final = frozenset({b"LD_LIBRARY_PATH", b"LD_PRELOAD", b"GLIBC_TUNABLES"})
#: ``libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f…)``, or a path alone.
_LINE: Final = re.compile(r"\t(?:.* => )?(/.*) \(0x[0-9a-f]+\)")
_SECONDS: Final = 10.0
#: Interpreters of interpreters that the kernel follows (fs/exec.c).
_DEPTH: Final = 5
#: Where the dynamic loader of Debian looks by itself, besides its cache (ld.so(8)).
_LIBRARY_FOLDERS = (
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/local/lib",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
)

#: Ends of names of what is nobody's module: folders, and what linkers read.
_NO_MODULE: Final = ("/", ".a", ".la", ".o")


def _program_of(path: str) -> str | None:
    """The file that the kernel maps to execute ``path``: itself, or a script's interpreter.

    None where that is not known.
    """
    for _ in range(_DEPTH):
        try:
            head = reading.beginning(path)
        except OSError:
            return None
        if head.startswith(b"\x7fELF"):
            return path
        if head.startswith(b"#!"):
            words = head[2:].split(b"\n", 1)[0].split()
            if not words:
                return None
            path = os.fsdecode(words[0])
        elif head and b"\0" not in head and _executable(path):
            path = "/bin/sh"  # as execvp(3) has it
        else:
            return None  # the kernel may know of other formats (binfmt_misc)
    return None


def _executable(path: str) -> bool:
    try:
        return reading.look(path).allowed
    except OSError:
        return False


class Mapped(NamedTuple):
    """Files that are surely mapped; ``complete``: all those that are mapped at the start."""

    files: list[File]
    complete: bool


def files_of_command(path: str, environment: Mapping[bytes, bytes]) -> Mapped:
    """The files that are mapped when ``path`` is executed, the program (or interpreter) first.

    Those that cannot be read are left out. Where the loader cannot be asked, its libraries are not
    known: a file with rights of its own (set-user-ID), for one, gets others than this user would.
    """
    program = _program_of(path)
    elf = _open(program) if program is not None else None
    if elf is None:
        return Mapped([], False)
    loader = _interpreter(elf)
    if loader is None:
        return Mapped([to_be_mapped(elf)], elf.kind == "static")
    libraries = _listed(loader, elf, environment) if _trusted(loader, elf) else None
    paths = dict.fromkeys([reading.real(loader), *(libraries or ())])
    found = [other for other in map(_open, paths) if other is not None]
    complete = libraries is not None and len(found) == len(paths)
    quiet.detail(f"{path} will map {', '.join(each.path for each in (elf, *found))}")
    return Mapped([to_be_mapped(each) for each in (elf, *found)], complete)


def _open(path: str) -> Binary | None:
    try:
        return open_file(path)
    except LocationError:
        return None


def _interpreter(elf: Binary) -> str | None:
    """The loader that the program names."""
    try:
        section = elf.section(".interp")
        if section is None:
            return None
        return os.fsdecode(elf.content(section).split(b"\0", 1)[0]) or None
    except LocationError:
        return None


def _trusted(loader: str, elf: Binary) -> bool:
    """Whether it may be executed on this file, and answers for what will happen.

    A file that is made to deceive can take over the loader that maps it, so whoever made program
    and loader must be root or ourselves.
    """
    if Path(loader).name != _LOADER or not Path(loader).is_absolute():
        return False
    try:
        found = [reading.look(loader), reading.look(elf.path)]
    except OSError:
        return False
    gains = any(each.mode & (stat.S_ISUID | stat.S_ISGID) for each in found) or found[1].capable
    return not gains and all(each.owner in (0, os.geteuid()) for each in found)


def _listed(loader: str, elf: Binary, environment: Mapping[bytes, bytes]) -> list[str] | None:
    """The libraries, by the loader's own word; None where it does not find all of them."""
    try:
        asked = subprocess.Popen(
            [loader, "--list", elf.path],
            env={name: value for name, value in environment.items() if name in _VARIABLES},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return None
    assert asked.stdout is not None
    try:
        said, _ = asked.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        # It is not waited for: it may sleep where not even this ends it.
        asked.kill()
        asked.stdout.close()
        return None
    lines = os.fsdecode(said).split("\n")
    paths = [reading.real(match[1]) for line in lines if (match := _LINE.fullmatch(line))]
    missing = any("not found" in line for line in lines)
    return paths if asked.returncode == 0 and not missing else None


def module_folders() -> tuple[str, ...]:
    """Where libraries and commands are looked for, by their names."""
    return (*_LIBRARY_FOLDERS, *os.environ.get("PATH", "/bin:/usr/bin").split(":"))


def find_module(name: str) -> str:
    """The file that a module's name stands for: a path, a command, or a library.

    Raises UserError.
    """
    if "/" in name:
        return name
    for path in _candidates(name, module_folders()):
        if reading.is_regular(path):
            return str(path)
    if reading.is_regular(name):
        return name
    near = _similar(name)
    hint = f"did you mean {' or '.join(near)}?" if near else "give its path"
    raise UserError(f"{name}: no such library or command here; {hint}")


def _similar(name: str) -> list[str]:
    """What libraries and commands are there of which the name may be meant, at most three."""
    names: set[str] = set()
    for folder in dict.fromkeys(module_folders()):
        with contextlib.suppress(OSError):
            names.update(each for each in far.entries(folder) if not each.endswith(_NO_MODULE))
    return similar(name, sorted(names))[:3]


def _candidates(name: str, folders: Iterable[str]) -> Iterable[Path]:
    for folder in folders:
        if folder:
            yield Path(folder) / name
