"""The symbol cache: never wrong, and no error where it cannot be used."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from dprobed.binary import symbols as symbols_module
from dprobed.binary.file import Binary
from dprobed.binary.places import resolve
from dprobed.resolver import cache
from dprobed.resolver.service import OpenFiles
from tests.unit.location_files import LIBC, objcopy, program


@pytest.fixture(autouse=True)
def _everything_is_worthwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_WORTHWHILE", 1)


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows each time symbols are sorted instead of taken from the cache."""
    calls: list[int] = []
    original = symbols_module.pack

    def counting(tables: list[tuple[symbols_module.RawSymbols, int]]) -> symbols_module.SymbolTable:
        calls.append(len(tables))
        return original(tables)

    monkeypatch.setattr(cache, "pack", counting)
    return calls


def fresh(path: Path | str) -> Binary:
    """Opened as by another process, which knows nothing yet."""
    return Binary(os.open(path, os.O_RDONLY), str(path), packer=cache.packed)


def test_second_process_takes_it_from_the_cache(cache_folder: Path, packed: list[int]) -> None:
    first = fresh(LIBC)
    want = resolve(first, "malloc")
    assert resolve(fresh(LIBC), "malloc") == want
    assert fresh(LIBC).symbols.data == first.symbols.data
    assert len(packed) == 1
    (file,) = cache_folder.iterdir()
    assert file.name == f"{first.build_id}.symbols"
    assert file.stat().st_mode & 0o077 == 0


def test_damaged_cache_is_made_again(cache_folder: Path, packed: list[int]) -> None:
    want = resolve(fresh(program()), "main")
    (file,) = cache_folder.iterdir()
    good = file.read_bytes()
    damaged = [b"", good[:10], good[:200], good + b"\0", b"DPCACHE\2" + good[8:]]
    damaged += [good[:n] + bytes([good[n] ^ 1]) + good[n + 1 :] for n in (9, 25, 30, len(good) - 9)]
    for number, data in enumerate(damaged, 2):
        file.write_bytes(data)
        assert resolve(fresh(program()), "main") == want
        assert len(packed) == number
        assert file.read_bytes() == good


def test_another_file_with_the_same_build_id(packed: list[int]) -> None:
    whole = program("-rdynamic")
    stripped = objcopy(whole, "same-id", "--strip-all")
    assert len(fresh(whole).symbols) > len(fresh(stripped).symbols)
    assert fresh(whole).build_id == fresh(stripped).build_id
    assert fresh(whole).symbols.find("helper")
    assert not fresh(stripped).symbols.find("helper")
    assert len(packed) == 4


@pytest.mark.parametrize("kind", ["foreign", "writable", "link", "fifo"])
def test_what_others_could_have_written_is_not_read(
    kind: str, cache_folder: Path, packed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh(program()).symbols  # noqa: B018
    (file,) = cache_folder.iterdir()
    if kind == "foreign":
        user = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    elif kind == "writable":
        file.chmod(0o666)
    elif kind == "link":
        shutil.move(file, cache_folder / "elsewhere")
        file.symlink_to(cache_folder / "elsewhere")
    else:
        file.unlink()
        os.mkfifo(file)
    assert resolve(fresh(program()), "main")
    assert len(packed) == 2


def test_unwritable_folder_is_done_without(
    tmp_path: Path, packed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(cache, "folder", lambda: tmp_path / "file" / "sub")
    assert resolve(fresh(program()), "main")
    monkeypatch.setattr(cache, "folder", lambda: Path("/proc/none"))
    assert resolve(fresh(program()), "main")
    assert len(packed) == 2


def test_nothing_is_left_when_the_disk_is_full(
    cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert resolve(fresh(program()), "main")
    assert list(cache_folder.iterdir()) == []


def test_the_folder_is_bounded(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was used longest ago goes, and what a killed process left."""
    programs = [program(f"-Wl,--build-id=0xabcd0{number}") for number in range(4)]
    ids = []
    for each in programs[:3]:
        file = fresh(each)
        file.symbols  # noqa: B018
        ids.append(str(file.build_id))
    names = [f"{each}.symbols" for each in ids]
    assert len(set(names)) == 3
    for age, name in enumerate(names):
        os.utime(cache_folder / name, (1000 + age, 1000 + age))
    (cache_folder / f"{'0' * 40}.12345").write_bytes(b"half")
    os.utime(cache_folder / f"{'0' * 40}.12345", (1, 1))
    fresh(programs[0]).symbols  # noqa: B018  # used now
    monkeypatch.setattr(cache, "MOST_FILES", 3)
    last = fresh(programs[3])
    last.symbols  # noqa: B018
    left = {names[0], names[2], f"{last.build_id}.symbols"}
    assert {each.name for each in cache_folder.iterdir()} == left
    size = (cache_folder / names[0]).stat().st_size
    monkeypatch.setattr(cache, "MOST_BYTES", 2 * size)
    (cache_folder / names[2]).unlink()
    (cache_folder / names[0]).write_bytes(bytes(2 * size))
    fresh(programs[2]).symbols  # noqa: B018
    assert sum(each.stat().st_size for each in cache_folder.iterdir()) <= 2 * size
    monkeypatch.setattr(cache, "MOST_BYTES", 10)
    fresh(programs[1]).symbols  # noqa: B018
    assert f"{ids[1]}.symbols" not in {each.name for each in cache_folder.iterdir()}


def test_files_without_build_id_are_not_cached(cache_folder: Path) -> None:
    assert resolve(fresh(program("-Wl,--build-id=none")), "main")
    assert not cache_folder.exists()


def test_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert str(cache.folder()) == "/var/cache/dprobed"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", "/tmp/xdg")
    assert str(cache.folder()) == "/tmp/xdg/dprobed"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(cache.folder()) == "/home/someone/.cache/dprobed"


def test_same_file_opened_twice_sorts_once(packed: list[int]) -> None:
    files = OpenFiles()
    path = str(program("-DTWICE"))
    for _ in range(3):
        assert resolve(files.open(os.open(path, os.O_RDONLY), path, ""), "main")
    assert len(packed) == 1
