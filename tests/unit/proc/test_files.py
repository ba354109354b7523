"""Files of local file systems are looked at here, others by the helper process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dprobed.proc import files, helper
from dprobed.proc.helper import SilentError


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no helper to ask."""

    def ask(*_: object) -> None:
        raise SilentError(0, "asked")

    monkeypatch.setattr(helper.HELPER, "do", ask)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of a local file system, whose contents the kernel has in its cache."""
    (tmp_path / "file").write_bytes(b"\x7fELF\x02 and more")
    (tmp_path / "link").symlink_to("file")
    list(tmp_path.iterdir())
    (tmp_path / "file").stat()
    return tmp_path


def test_what_is_known_of_a_file(folder: Path) -> None:
    descriptor = os.open(folder / "file", os.O_RDONLY)
    status = os.fstat(descriptor)
    known = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    assert files.facts(descriptor) == known
    assert files.facts_of(f"/proc/self/fd/{descriptor}") == known
    assert files.known_facts(str(folder / "file")) == known
    assert files.known_facts(str(folder / "none")) is None
    assert files.status(descriptor)[:3] == [status.st_dev, status.st_ino, status.st_mode]
    os.close(descriptor)


def test_local_files_need_no_helper(folder: Path, alone: None) -> None:
    descriptor = files.open_file(str(folder / "file"))
    assert files.read(descriptor, 4, 0) == b"\x7fELF"
    again = files.open_link(f"/proc/self/fd/{descriptor}")
    assert files.read(again, 4, 0) == b"\x7fELF"
    assert files.read_link(str(folder / "link")) == "file"
    for name in ("none", "file"):
        with pytest.raises(OSError, match=r"No such file|Invalid argument"):
            files.read_link(str(folder / name))
    assert files.elf_class(os.getpid()) == 64
    for each in (descriptor, again):
        os.close(each)


def test_a_file_system_that_may_not_answer_is_for_the_helper(alone: None) -> None:
    with pytest.raises(SilentError, match="asked"):
        files.open_file("/proc/self/status")
    descriptor = os.open("/proc/self/status", os.O_RDONLY)
    with pytest.raises(SilentError, match="asked"):
        files.read(descriptor, 4, 0)
    os.close(descriptor)


def test_what_is_told_at_once(folder: Path, alone: None) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "c").write_bytes(b"")
    root = os.open(folder, os.O_PATH)
    for name in ("file", "a/b/c", "a"):
        found = files.told_at_once(str(folder / name))
        status = (folder / name).stat()
        assert found is not None
        assert found[:2] == (status.st_dev, status.st_ino)
        assert files.told_at_once(f"/{name}", root) == found
    for name in ("none", "a/none/c", "file/c"):
        assert files.told_at_once(f"{folder}/{name}") is None
        assert files.told_at_once(f"/{name}", root) is None
    os.close(root)
    with pytest.raises(SilentError):
        files.told_at_once("/proc/self/no such file")


def test_what_the_helper_does() -> None:
    descriptor = files.open_file("/proc/self/status")
    assert files.read(descriptor, 5, 0) == b"Name:"
    assert files.read_link("/proc/self/ns/mnt") == str(Path("/proc/self/ns/mnt").readlink())
    with pytest.raises(FileNotFoundError):
        files.open_file("/nowhere/at/all")
    with pytest.raises(ValueError, match="null"):
        files.open_file("a\0b")
    os.close(descriptor)
    helper.HELPER.close()
