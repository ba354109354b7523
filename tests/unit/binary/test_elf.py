"""Files that cannot be used are refused in one clear line; damage never does anything else."""

from __future__ import annotations

import ctypes
import os
import random
import struct
from pathlib import Path

import pytest

from dprobed.binary.errors import LocationError
from dprobed.binary.places import list_places, resolve
from dprobed.binary.relocations import ifunc_slots, import_slots
from dprobed.binary.thread_local import thread_local
from tests.unit.location_files import (
    FOLDER,
    LIBC,
    hand_made,
    library,
    objcopy,
    open_path,
    program,
    run,
)


def refused(path: Path | str) -> str:
    with pytest.raises(LocationError) as caught:
        open_path(str(path))
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value.message


def changed(name: str, *changes: tuple[int, bytes], source: Path | None = None) -> Path:
    """A copy of a program with other bytes at some offsets."""
    raw = bytearray((source or program()).read_bytes())
    for offset, data in changes:
        raw[offset : offset + len(data)] = data
    path = FOLDER / name
    path.write_bytes(raw)
    return path


def test_other_machines_are_refused() -> None:
    assert "32-bit ELF file (i386)" in refused(changed("i386", (4, b"\1"), (18, b"\3\0")))
    assert "32-bit ELF file (x32)" in refused(changed("x32", (4, b"\1")))
    assert "for AArch64" in refused(changed("arm", (18, b"\xb7\0")))
    assert "for S/390" in refused(changed("s390", (5, b"\2"), (18, b"\0\x16")))
    assert "for machine 9999" in refused(changed("odd", (18, struct.pack("<H", 9999))))


def test_other_files_are_refused(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none")
    assert "not a regular file" in refused(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    assert "not a regular file" in refused(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    assert "not an ELF file" in refused(tmp_path / "empty")
    (tmp_path / "script").write_text("#!/bin/sh\nexec something\n")
    assert "not an ELF file" in refused(tmp_path / "script")
    assert "relocatable object" in refused(changed("object", (16, b"\1\0")))
    assert "core dump" in refused(changed("core", (16, b"\4\0")))
    with pytest.raises(LocationError, match="embedded null"):
        open_path("a\0b")


def test_cut_off_files_are_refused(tmp_path: Path) -> None:
    raw = program().read_bytes()
    for size in (0, 3, 10, 63, 64, 100, 500, 5000, len(raw) // 2):
        path = tmp_path / f"cut{size}"
        path.write_bytes(raw[:size])
        refused(path)
    # Section headers come last: what is to be loaded is there, the symbols are not.
    path = tmp_path / "cut-sections"
    path.write_bytes(raw[:-64])
    with pytest.raises(LocationError, match="damaged ELF file"):
        resolve(open_path(str(path)), "main")


def everything(path: Path) -> None:
    """Use all of a file; only LocationError may come out."""
    try:
        elf = open_path(str(path))
    except LocationError:
        return
    for spec in (
        "main",
        "helper",
        "strong_function+4",
        "strong_function+1",
        "answer@VER_1",
        "no_such_symbol",
        "location_main.c:40",
        "location_versions.c:3",
        "nothing.c:1",
        "0x1150",
    ):
        try:
            resolve(elf, spec)
        except LocationError as error:
            assert "\n" not in error.message
    for use in (
        lambda: list(list_places(elf)),
        lambda: ifunc_slots(elf, 0x1000),
        lambda: import_slots(elf, "printf", "GLIBC_2.2.5"),
    ):
        try:
            use()
        except LocationError as error:
            assert "\n" not in error.message


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_raise_nothing_else(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    compressed = objcopy(program("-gdwarf-5"), "compressed", "--compress-debug-sections=zlib")
    sources = (program(), library(), compressed, program("-rdynamic", "-gdwarf-4"))
    original = bytearray(sources[seed].read_bytes())
    headers = range(0x400)
    tables = range(len(original) - 0xA00, len(original))
    path = tmp_path / "damaged"
    for _ in range(150):
        raw = bytearray(original)
        for _ in range(chance.choice((1, 1, 2, 8))):
            where = chance.choice(chance.choice((headers, tables, range(len(raw)))))
            raw[where] = chance.choice((0, 0xFF, 0x7F, 0x80, chance.randrange(256)))
        if chance.random() < 0.2:
            del raw[chance.randrange(len(raw)) :]
        path.write_bytes(raw)
        everything(path)


def test_file_without_symbols_or_unwind_entries(tmp_path: Path) -> None:
    path = hand_made(tmp_path / "bare", (1, 4, 0, 0x10000, 0x1000), (1, 5, 0x1000, 0x20000, 0x1000))
    (place,) = resolve(open_path(str(path)), "0x1800")
    assert (place.vaddr, place.name, place.boundary) == (0x20800, "0x1800", "unknown")
    for offset in ("0x800", "0x2000", "0x20800"):
        with pytest.raises(LocationError, match="not in an executable segment"):
            resolve(open_path(str(path)), offset)


def test_hostile_headers(tmp_path: Path) -> None:
    huge = 0xFFFF_FFFF_FFFF_F000
    for headers, reason in (
        (((1, 5, huge, 0, 0x1000),), "reaches past its end"),
        (((1, 5, 0, huge, 0x2000),), "a segment at"),
        (((4, 4, 0, 0, 0x1000),), "nothing in it is to be loaded"),
        (((1, 5, 0, 0, 0x1000), (2, 6, huge, 0, 0x1000)), "past its end"),
        (((1, 5, 0, 0, 0x1000), (4, 4, 0x2FFF, 0, 0x100)), "past its end"),
    ):
        assert reason in refused(hand_made(tmp_path / "hostile", *headers))
        (tmp_path / "hostile").unlink()


def test_files_that_shrink_are_an_error_not_a_death(tmp_path: Path) -> None:
    path = tmp_path / "shrinking"
    path.write_bytes(program().read_bytes())
    elf = open_path(str(path))
    os.truncate(path, 100)
    with pytest.raises(LocationError, match="became shorter"):
        resolve(elf, "main")


def test_relocations_against_readelf() -> None:
    path = program("-rdynamic")
    slots = [
        int(line.split()[0], 16)
        for line in run("readelf", "-rW", path).splitlines()
        if " printf@" in line and ("JUMP_SLO" in line or "GLOB_DAT" in line)
    ]
    assert slots
    elf = open_path(str(path))
    assert import_slots(elf, "printf") == slots
    assert import_slots(elf, "printf", "GLIBC_2.2.5") == slots
    assert import_slots(elf, "printf", "GLIBC_9") == []
    assert import_slots(elf, "print") == []
    resolver = resolve(open_path(LIBC), "memcpy")[0]
    chosen = [
        int(line.split()[0], 16)
        for line in run("readelf", "-rW", LIBC).splitlines()
        if "IRELATIV" in line and int(line.split()[-1], 16) == resolver.vaddr
    ]
    assert resolver.kind == "ifunc"
    assert ifunc_slots(open_path(LIBC), resolver.vaddr) == chosen


def test_where_a_thread_local_variable_is() -> None:
    """By libc itself: the word as this process has it, and the address that it says."""
    libc = ctypes.CDLL(None)
    libc.__errno_location.restype = ctypes.c_void_p
    maps = Path("/proc/self/maps").read_text().splitlines()
    start, path = next(
        (int(line.split("-")[0], 16), line.split()[-1]) for line in maps if "libc.so.6" in line
    )
    elf = open_path(path)
    found = thread_local(elf, "errno")
    assert found.base == "word"
    offset = ctypes.c_int64.from_address(start + found.vaddr).value + found.more
    # The first word of the thread's control block is its own address (ELF TLS, variant II).
    thread = ctypes.c_ulong()
    arch_prctl, get_fs = 158, 0x1003
    assert libc.syscall(arch_prctl, get_fs, ctypes.byref(thread)) == 0
    assert thread.value + offset == libc.__errno_location()
    with pytest.raises(LocationError, match="no thread-local variable errnoo") as refused:
        thread_local(elf, "errnoo")
    assert "errno" in refused.value.candidates
    assert refused.value.hint == "the candidates have similar names"
    with pytest.raises(LocationError, match="no thread-local variable write"):
        thread_local(elf, "write")
