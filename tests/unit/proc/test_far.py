"""Files are read and written by the helper where perhaps nobody answers, and to the same effect."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dprobed.proc import far, mounts
from dprobed.proc.helper import HELPER, SilentError

#: More than goes into one message to the helper.
_DATA = os.urandom(300_000)


@pytest.fixture(params=["near", "far"])
def is_far(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether no file system counts as one that answers by itself."""
    if request.param == "far":
        monkeypatch.setattr(mounts, "is_local", lambda _device: False)
    monkeypatch.setattr(HELPER, "_patient", (os.getpid(), 30.0))
    return bool(request.param == "far")


def test_a_file_is_written_and_read(is_far: bool, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"what was in it before, which goes" * 20_000)
    with far.open_writing(str(path)) as file:
        for begin in range(0, len(_DATA), 200_000):
            file.write(_DATA[begin : begin + 200_000])
    assert path.read_bytes() == _DATA
    with far.open_reading(str(path)) as file:
        assert file.read(10) == _DATA[:10]
        assert file.tell() == 10
        assert file.read() == _DATA[10:]
    with pytest.raises(FileExistsError):
        far.open_writing(str(path), new=True)
    with far.open_writing(str(tmp_path / "new"), new=True) as file:
        file.write(b"one\ntwo\n")
    with far.open_reading(str(tmp_path / "new")) as file:
        assert list(file) == [b"one\n", b"two\n"]


def test_a_far_file_is_never_open_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To close it is a question to its file system, and so would be our end."""
    monkeypatch.setattr(mounts, "is_local", lambda _device: False)
    monkeypatch.setattr(HELPER, "_patient", (os.getpid(), 30.0))
    path = tmp_path / "file"

    def opened() -> set[int]:
        found = set()
        for link in Path("/proc/self/fd").iterdir():
            try:
                target = str(link.readlink())
            except FileNotFoundError:
                continue
            if target == str(path):
                flags = (
                    Path(f"/proc/self/fdinfo/{link.name}").read_text().split("flags:")[1].split()
                )
                found.add(int(flags[0], 8) & os.O_PATH)
        return found

    with far.open_writing(str(path)) as file:
        file.write(b"something")
        assert opened() == {os.O_PATH}
    with far.open_reading(str(path)) as file:
        assert file.read() == b"something"
        assert opened() == {os.O_PATH}
    assert not opened()


def test_what_is_said_of_one(is_far: bool, tmp_path: Path) -> None:
    assert far.kind(str(tmp_path)) == 0o040000
    assert far.kind("/dev/null") == 0o020000
    assert far.kind(str(tmp_path / "none")) == 0
    with pytest.raises(FileNotFoundError):
        far.open_reading(str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError):
        far.open_writing(str(tmp_path / "none" / "file"))
    with pytest.raises(OSError):
        far.kind("nul\0byte")


def test_the_files_of_a_folder(is_far: bool, tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    odd = os.fsencode(tmp_path) + b"/b/\xff\n"
    for path in (b"a", b"b/c/d"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + path)).touch()
    Path(os.fsdecode(odd)).touch()
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "above").symlink_to(tmp_path)
    found = [os.path.relpath(each, tmp_path) for each in far.regular_files(str(tmp_path))]
    assert found == ["a", "b/c/d", "b/\udcff\n", "link"]
    assert far.entries(str(tmp_path)) == ["a", "above/", "b/", "link"]
    for listed in (far.regular_files, far.entries):
        with pytest.raises(FileNotFoundError):
            listed(str(tmp_path / "none"))


def test_one_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: object) -> None:
        raise SilentError(0, "no answer in 3 s")

    monkeypatch.setattr(mounts, "is_local", lambda _device: False)
    monkeypatch.setattr(HELPER, "do", ask)
    path = str(tmp_path / "file")
    Path(path).touch()
    for asked in (far.kind, far.open_reading, far.open_writing, far.regular_files, far.entries):
        with pytest.raises(SilentError) as raised:
            asked(path)
        assert (raised.value.strerror, raised.value.filename) == (far.SILENCE, path)
