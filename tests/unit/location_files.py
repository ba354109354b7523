"""ELF files for the tests of ``dprobed.location``, built once a session."""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TypeVar

from dprobed.binary.elf import descriptor_of
from dprobed.binary.file import Binary
from dprobed.resolver.files import Steps
from dprobed.resolver.service import Files, Reader

TARGETS = Path(__file__).parent.parent / "targets"
LIBC = "/lib/x86_64-linux-gnu/libc.so.6"

_directory = tempfile.TemporaryDirectory(prefix="location-")
FOLDER = Path(_directory.name)


T = TypeVar("T")


_files = Files()


def open_path(path: str) -> Binary:
    """A file as a resolver opens it: what it has made of an unchanged one it keeps."""
    found = _files.open(descriptor_of(path), path, "")
    _files.shrink()
    return found


def look(steps: Steps[T]) -> T:
    """What a resolver finds out, in this process."""
    reader = Reader()
    try:
        ask = next(steps)
        while True:
            ask = steps.send(reader.look(ask.question, os.dup(ask.descriptor)))
    except StopIteration as end:
        result: T = end.value
        return result


def run(*command: str | Path) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


@functools.cache
def program(*flags: str, name: str = "") -> Path:
    """location_main.c and location_other.c as one program."""
    made = FOLDER / (name or f"program{len(list(FOLDER.iterdir()))}")
    sources = [TARGETS / "location_main.c", TARGETS / "location_other.c"]
    run("gcc", "-g", "-O1", "-Wl,--build-id", *sources, "-o", made, *flags)
    return made


@functools.cache
def library(name: str = "libversions.so.1.2", *flags: str) -> Path:
    """location_versions.c as a library with versions and a soname."""
    made = FOLDER / name
    script = f"-Wl,--version-script={TARGETS / 'location_versions.map'}"
    source = TARGETS / "location_versions.c"
    soname = "-Wl,-soname,libversions.so.1"
    run("gcc", "-g", "-shared", "-fPIC", source, "-o", made, script, soname, *flags)
    return made


def objcopy(source: Path, name: str, *options: str) -> Path:
    """A changed copy."""
    made = FOLDER / name
    run("objcopy", *options, source, made)
    return made


def nm(path: Path | str, *options: str) -> list[tuple[int, str, str]]:
    """Address, type letter and name of each defined symbol, as binutils see them."""
    found = []
    for line in run("nm", "--defined-only", *options, path).splitlines():
        parts = line.split()
        if len(parts) >= 3:
            found.append((int(parts[0], 16), parts[-2], parts[-1]))
    return found


def address(path: Path | str, symbol: str, *options: str) -> int:
    """The address of the only symbol of that name."""
    found = {value for value, _, name in nm(path, *options) if name == symbol}
    assert len(found) == 1, f"{symbol}: {found}"
    return found.pop()
