"""Which mappings are of one file."""

from __future__ import annotations

import os

import pytest

from dprobed.proc import maps, procfs


def read(monkeypatch: pytest.MonkeyPatch, *lines: str) -> list[maps.Module]:
    """The modules of a process that has these lines in ``maps``."""
    text = "\n".join(lines).encode() + b"\n"
    monkeypatch.setattr(procfs, "mappings", lambda pid, most: text)
    return maps.modules(os.getpid())


def test_two_files_with_one_number_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on btrfs and overlayfs; the first is mapped in between, too."""
    found = read(
        monkeypatch,
        "1000-2000 r--p 00000000 00:1c 257 /a/prog",
        "2000-3000 r-xp 00001000 00:1c 257 /a/prog",
        "5000-6000 r-xp 00001000 00:1c 257 /b/lib.so",
        "6000-7000 rw-p 00002000 00:1c 257 /b/lib.so",
        "7000-8000 rw-p 00002000 00:1c 257 /a/prog",
    )
    assert [(each.path, each.base, len(each.mappings)) for each in found] == [
        ("/a/prog", 0x1000, 3),
        ("/b/lib.so", 0x5000, 2),
    ]


def test_one_file_mapped_twice_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what is mapped cannot be opened, and where it is the same."""
    lines = [f"{start}000-{start + 1}000 r-xp 00001000 00:1c 257 /a/lib.so" for start in (2, 5)]
    (found,) = read(monkeypatch, *lines)
    assert len(found.mappings) == 2
    monkeypatch.setattr(maps, "_opened", lambda name: b"mnt_id: 1 ino: 2")
    (found,) = read(monkeypatch, *lines)
    assert len(found.mappings) == 2


def test_what_is_mapped_tells_files_of_one_path_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is mounted over the other."""
    lines = [f"{start}000-{start + 1}000 r-xp 00001000 00:1c 257 /a/lib.so" for start in (2, 5)]
    monkeypatch.setattr(maps, "_opened", lambda name: name.rpartition("/")[2].encode())
    assert [each.base for each in read(monkeypatch, *lines)] == [0x2000, 0x5000]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may open what is mapped")
def test_what_is_opened_by_a_mapping() -> None:
    """Is the file itself, however often and wherever it is mapped."""
    names = [
        f"/proc/self/map_files/{line.start:x}-{line.end:x}"
        for line in maps.lines(procfs.mappings(os.getpid()))
        if line.name.endswith(b"/libc.so.6")
    ]
    assert len(names) > 1
    opened = {maps._opened(name) for name in names}
    assert len(opened) == 1
    assert b"mnt_id" in next(iter(opened))
    assert maps._opened("/proc/self/map_files/1000-2000") == b""
