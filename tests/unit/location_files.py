"""ELF files for the tests of ``dprobed.binary``, built once a session."""

from __future__ import annotations

import functools
import os
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import TypeVar

from dprobed.binary.file import Binary
from dprobed.binary.opening import descriptor_of
from dprobed.resolver.files import Steps
from dprobed.resolver.service import FileReader, OpenFiles

TARGETS = Path(__file__).parent.parent / "targets"
LIBC = "/lib/x86_64-linux-gnu/libc.so.6"

_directory = tempfile.TemporaryDirectory(prefix="location-")
FOLDER = Path(_directory.name)


T = TypeVar("T")


_files = OpenFiles()


def open_path(path: str) -> Binary:
    """A file as a resolver opens it: what it has made of an unchanged one it keeps."""
    found = _files.open(descriptor_of(path), path, "")
    _files.shrink()
    return found


def forget() -> None:
    """Close the files that were opened."""
    _files.forget()


def look(steps: Steps[T]) -> T:
    """What a resolver finds out, in this process."""
    reader = FileReader()
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


def hand_made(path: Path, *headers: tuple[int, int, int, int, int], size: int = 0x3000) -> Path:
    """A DYN file with nothing but program headers: (type, flags, offset, vaddr, size)."""
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 3, 62, 1, 0, 64, 0, 0, 64, 56, len(headers), 64, 0, 0
    )
    for kind, flags, offset, vaddr, length in headers:
        header += struct.pack(
            "<IIQQQQQQ", kind, flags, offset, vaddr, vaddr, length, length, 0x1000
        )
    path.write_bytes(header.ljust(size, b"\x90"))
    return path


def _hostile(path: Path, size: int, dynamic: tuple[int, int]) -> None:
    """A sparse shared library with one segment of code and a dynamic section (offset, size)."""
    at, length = dynamic
    hand_made(path, (1, 5, 0, 0, size), (2, 4, at, at, length), size=0)
    os.truncate(path, size)


def endless_symbols(path: Path) -> Path:
    """A sparse file whose symbols are counted for hours: no chain of its hash table ends."""
    size = 6 << 30
    _hostile(path, size, (0x1000, 64))
    with path.open("r+b") as file:
        file.seek(0x1000)
        # DT_SYMTAB, DT_STRTAB and DT_GNU_HASH, with one bucket that begins at symbol 1
        file.write(struct.pack("<6Q", 6, 0x3000, 5, 0x3000, 0x6FFFFEF5, 0x2000))
        file.seek(0x2000)
        file.write(struct.pack("<IIII", 1, 1, 0, 0) + struct.pack("<I", 1))
    return path


def endless_needs(path: Path) -> Path:
    """A file that asks for four million libraries."""
    entries = struct.pack("<QQ", 1, 64) * (1 << 22)
    _hostile(path, 0x2000 + len(entries), (0x1000, len(entries) + 16))
    with path.open("r+b") as file:
        file.seek(0x1000)
        file.write(struct.pack("<QQ", 5, 0) + entries)
    return path


def endless_dynamic(path: Path) -> Path:
    """A sparse file with a dynamic section of 6 GB."""
    _hostile(path, 0x1000 + (6 << 30), (0x1000, 6 << 30))
    return path


def endless_sections(path: Path) -> Path:
    """A sparse file with 16 million section headers: 1 GB of them, and 10 as Python objects."""
    count = 1 << 24
    _hostile(path, 0x1000 + 64 * count, (0x800, 0))
    with path.open("r+b") as file:
        file.seek(40)
        file.write(struct.pack("<Q", 0x1000))  # e_shoff; e_shnum 0: the first one's size says it
        file.seek(0x1000 + 32)
        file.write(struct.pack("<Q", count))
    return path


def endless_segments(path: Path) -> Path:
    """A sparse file with 15 million program headers: 0.8 GB of them."""
    count = 15_000_000
    _hostile(path, 0x2000 + 56 * (count + 2), (0x800, 0))
    with path.open("r+b") as file:
        file.seek(64)
        headers = file.read(2 * 56)
        file.seek(32)
        file.write(struct.pack("<QQ", 0x2000, 0x1000))  # e_phoff, e_shoff
        file.seek(56)
        file.write(struct.pack("<HHHH", 0xFFFF, 64, 1, 0))  # PN_XNUM: section 0's sh_info says it
        file.seek(0x1000 + 44)
        file.write(struct.pack("<I", count))
        file.seek(0x2000)
        file.write(headers)
    return path


def endless_strings(path: Path) -> Path:
    """A sparse file with two million symbols whose names have no end in 1.5 GB."""
    count, at = 2_000_000, 0x10000
    strings = at + 24 * count
    _hostile(path, strings + (3 << 29), (0x800, 0))
    with path.open("r+b") as file:
        file.seek(40)
        file.write(struct.pack("<Q", 0x2000))
        file.seek(58)
        file.write(struct.pack("<HHH", 64, 3, 0))
        file.seek(0x2000 + 64)
        file.write(struct.pack("<IIQQQQIIQQ", 0, 2, 0, 0, at, 24 * count, 2, 1, 8, 24))
        file.write(struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, strings, 3 << 29, 0, 0, 1, 0))
        file.seek(at)
        symbol = struct.Struct("<IBBHQQ")
        symbols = (symbol.pack(n & 0xFFF, 0x12, 0, 1, 0x100 + n, 1) for n in range(1, count))
        file.write(bytes(24) + b"".join(symbols))
        file.seek(strings)
        file.write(b"x" * 0x10000)
        for part in range(0, 3 << 29, 1 << 26):
            file.seek(strings + part)
            file.write(b"x")
    return path
