"""Breakpoints that a lost tracer left: taken out by the file that is mapped, or not touched."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dprobed.daemon.recovery import restore_text
from dprobed.proc import maps
from dprobed.resolver.errors import LocationError
from tests.unit.location_files import program


@contextmanager
def broken(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """A process with a breakpoint of nobody's in its code; its pid, where, and what was there."""
    with subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        (module,) = [each for each in maps.modules(process.pid) if each.path == str(path)]
        code = next(each for each in module.mappings if each.executable)
        with open(f"/proc/{process.pid}/mem", "r+b", buffering=0) as memory:
            before = os.pread(memory.fileno(), 4096, code.start)
            at = code.start + next(n for n in range(64, 4096) if before[n] not in (0, 0xCC))
            os.pwrite(memory.fileno(), b"\xcc", at)
        try:
            yield process.pid, at, before[at - code.start : at - code.start + 1]
        finally:
            process.kill()


def byte_at(pid: int, address: int) -> bytes:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        return os.pread(memory.fileno(), 1, address)


@pytest.fixture(params=[True, False], ids=["map_files", "by path"])
def may_open(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the mapped file itself can be opened."""
    original = os.open

    def refusing(path: str, flags: int, mode: int = 0o777) -> int:
        if "map_files" in str(path):
            raise PermissionError(1, "Operation not permitted")
        return original(path, flags, mode)

    if not request.param:
        monkeypatch.setattr(os, "open", refusing)
    return bool(request.param)


def test_it_is_taken_out(may_open: bool) -> None:
    with broken(program()) as (pid, at, byte):
        assert restore_text(pid) == 1
        assert byte_at(pid, at) == byte
        assert restore_text(pid) == 0


def test_a_copy_of_the_file_is_as_good(may_open: bool, tmp_path: Path) -> None:
    path = tmp_path / "prog"
    shutil.copy(program(), path)
    with broken(path) as (pid, at, byte):
        shutil.copy(path, tmp_path / "copy")
        (tmp_path / "copy").replace(path)
        if may_open:
            assert restore_text(pid) == 1
            assert byte_at(pid, at) == byte
        else:  # the kernel calls it deleted
            with pytest.raises(LocationError, match="was replaced or deleted"):
                restore_text(pid)


def test_another_file_of_that_path_is_not_taken_for_it(may_open: bool, tmp_path: Path) -> None:
    path = tmp_path / "prog"
    shutil.copy(program(), path)
    with broken(path) as (pid, at, byte):
        shutil.copy(program("-O2"), tmp_path / "new")
        (tmp_path / "new").replace(path)
        if may_open:
            assert restore_text(pid) == 1
            assert byte_at(pid, at) == byte
        else:
            with pytest.raises(LocationError, match="was replaced or deleted"):
                restore_text(pid)
            assert byte_at(pid, at) == b"\xcc"


def test_an_int3_in_code_that_is_not_the_files_is_not_ours(may_open: bool) -> None:
    with broken(program()) as (pid, at, _):
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
            before = os.pread(memory.fileno(), 1, at + 3)[0]
            os.pwrite(memory.fileno(), bytes([before ^ 1]), at + 3)
        assert restore_text(pid) == 0
        assert byte_at(pid, at) == b"\xcc"
