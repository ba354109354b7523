"""A file system that does not answer never keeps the client, whatever it wants to read there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import BuildTarget
from tests.integration.client_support import cat, dprobe, program
from tests.integration.silent_fs import SilentFiles


@pytest.fixture
def files(build_target: BuildTarget, tmp_path: Path) -> Iterator[SilentFiles]:
    """One with a command in it."""
    source = tmp_path / "passes"
    shutil.copy("/bin/cat", source)
    with SilentFiles(build_target("silent_fs.c"), tmp_path, source) as mounted:
        yield mounted


def test_a_file_that_does_not_answer(files: SilentFiles, tmp_path: Path) -> None:
    source = program(tmp_path)
    assert dprobe("places", files.path, "*").returncode == 0
    assert dprobe("check", "--in", files.path, source).returncode == 0
    files.mute()
    try:
        done = dprobe("places", files.path, "*")
        assert (done.returncode, done.stdout) == (2, "")
        assert f"dprobe: {files.path}: its file system does not answer" in done.stderr
        done = dprobe("check", "--in", files.path, source)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"dprobe: {files.path}: ")
    finally:
        files.answer()


def test_a_process_that_maps_one(files: SilentFiles, tmp_path: Path) -> None:
    source = program(tmp_path)
    with cat([files.path]) as target:
        files.mute()
        try:
            done = dprobe("check", "--in", target.pid, source)
            assert done.returncode == 0, done.stderr
            # Nothing is said of what is in a file that cannot be read.
            named = program(tmp_path, f'name = "{files.path}"\noffset = nothing\nexit\n', "named")
            assert dprobe("check", "--in", target.pid, named).returncode == 0
        finally:
            files.answer()
