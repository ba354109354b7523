"""Folders of debuggers' sockets: those of killed tracers go, those of others stay."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from dprobed.tracer.debug.folders import PrivateFolder, remove_abandoned


def killed(inside: Path) -> Path:
    """The folder of one that was killed, with a socket in it."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        folder = PrivateFolder(inside)
        (folder.path / "123").touch()
        os.write(writing, os.fsencode(folder.path))
        signal.pause()
    path = Path(os.fsdecode(os.read(reading, 4096)))
    for each in (reading, writing):
        os.close(each)
    remove_abandoned(inside)
    assert path.exists()  # It lives.
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (path / "123").exists()
    return path


def test_the_next_one_removes_it(tmp_path: Path) -> None:
    left = killed(tmp_path)
    folder = PrivateFolder(tmp_path)
    assert not left.exists()
    assert folder.path.stat().st_mode & 0o777 == 0o700
    folder.close()
    assert list(tmp_path.iterdir()) == []


def test_who_undoes_the_rest_removes_it(tmp_path: Path) -> None:
    left = killed(tmp_path)
    remove_abandoned(tmp_path)
    assert not left.exists()


def test_what_is_no_such_folder_stays(tmp_path: Path) -> None:
    """Of another name, that others may use, a link, of another user."""
    other = tmp_path / "dprobed-debug-abc"
    other.mkdir(0o700)
    used = tmp_path / "dprobed-debug-used.lk"
    used.mkdir(0o755)
    (tmp_path / "dprobed-debug-link.lk").symlink_to(other)
    kept = {other.name, used.name, "dprobed-debug-link.lk"}
    if os.geteuid() == 0:
        foreign = tmp_path / "dprobed-debug-foreign.lk"
        foreign.mkdir(0o700)
        os.chown(foreign, 1000, 1000)
        kept.add(foreign.name)
    remove_abandoned(tmp_path)
    assert {each.name for each in tmp_path.iterdir()} == kept


def test_where_there_can_be_none(tmp_path: Path) -> None:
    remove_abandoned(tmp_path / "none")
    with pytest.raises(OSError, match="No such file"):
        PrivateFolder(tmp_path / "none")
