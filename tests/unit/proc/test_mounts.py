"""Which file systems answer by themselves."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dprobed.proc.mounts import device_of, is_local


def test_shared_memory_is(tmp_path: Path) -> None:
    descriptor = os.memfd_create("test")
    assert is_local(os.fstat(descriptor).st_dev)
    os.close(descriptor)


def test_those_of_the_kernel_or_unknown_are_not() -> None:
    assert not is_local(Path("/proc/self").stat().st_dev)
    assert not is_local(os.makedev(0, 0))


def test_a_device_as_maps_writes_it() -> None:
    assert device_of(b"fd:1f") == os.makedev(0xFD, 0x1F)
    assert device_of(b"253:31", 10) == os.makedev(253, 31)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_one_that_is_mounted_later(tmp_path: Path) -> None:
    assert not is_local(os.makedev(0, 0))  # what is mounted was read
    subprocess.run(["mount", "-t", "tmpfs", "test", tmp_path], check=True)
    try:
        assert is_local(tmp_path.stat().st_dev)
    finally:
        subprocess.run(["umount", tmp_path], check=True)
