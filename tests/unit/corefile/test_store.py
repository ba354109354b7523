"""The folder of cores: limits, names, what is listed, removed and left."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from dprobed.corefile import store
from dprobed.corefile.store import StoreError, StoreLimits


@pytest.fixture
def limits(tmp_path: Path) -> StoreLimits:
    return StoreLimits(tmp_path / "cores", count=3, bytes=1 << 20, hourly=2)


def put(limits: StoreLimits, comm: bytes = b"x", size: int = 1, probe: str = "") -> Path:
    """A core that is whole."""
    draft = store.begin(limits, comm, 7, ".core", probe)
    try:
        os.write(draft.fd, b"x" * size)
        draft.check()
        draft.publish({"pid": 7})
    finally:
        draft.discard()
    return draft.path


def test_limits_from_the_environment(tmp_path: Path) -> None:
    found = store.limits({"DPROBED_DUMPS": str(tmp_path), "DPROBED_DUMPS_COUNT": "3"})
    assert (found.folder, found.count, found.zstd) == (tmp_path, 3, False)
    assert store.limits({"DPROBED_DUMPS": "cores"}).folder == Path.cwd() / "cores"
    with pytest.raises(StoreError, match="DPROBED_DUMPS_BYTES=many is not a number"):
        store.limits({"DPROBED_DUMPS_BYTES": "many"})


def test_the_limit_of_an_hour_outlasts_cores(limits: StoreLimits) -> None:
    """Removed ones count; failed ones do not, nor those of other probes and of nobody."""
    first = put(limits, probe="p")
    store.begin(limits, b"x", 7, ".core", "p").discard()
    put(limits, probe="p")
    assert store.remove(limits.folder, store.cores(limits.folder))
    assert not first.exists()
    for attempt in (
        lambda: store.look(limits, "p"),
        lambda: store.begin(limits, b"x", 7, ".core", "p"),
    ):
        with pytest.raises(StoreError, match="had 2 dumps in the last hour") as caught:
            attempt()
        assert caught.value.cause == "limit of 2 an hour"
    store.look(limits, "other")
    store.look(limits)
    put(limits, probe="other")
    put(limits)


def test_how_many_and_how_large(limits: StoreLimits) -> None:
    put(limits, size=700_000)
    with pytest.raises(StoreError, match=r"larger than the \d+ bytes that are left") as caught:
        put(limits, size=700_000)
    assert caught.value.cause == "limit of 1048576 bytes"
    put(limits)
    put(limits)
    with pytest.raises(StoreError, match=r"has 3 cores \(limit 3\)") as caught:
        store.look(limits)
    assert caught.value.cause == "limit of 3 cores"


def test_cores_that_are_being_written_count(limits: StoreLimits) -> None:
    """Two daemons in one folder have no more together than one."""
    drafts = [store.begin(limits, b"x", 7, ".core") for _ in range(3)]
    assert len({draft.path for draft in drafts}) == 3
    with pytest.raises(StoreError, match=r"has 3 cores \(limit 3\)"):
        store.begin(limits, b"x", 7, ".core")
    for draft in drafts[:2]:
        os.write(draft.fd, b"x" * 700_000)
    with pytest.raises(StoreError, match="larger than"):
        drafts[0].check()
    for draft in drafts:
        draft.discard()
    assert store.cores(limits.folder) == []


def test_a_folder_that_is_not_ours_alone(tmp_path: Path, limits: StoreLimits) -> None:
    limits.folder.mkdir()
    limits.folder.chmod(0o777)
    with pytest.raises(StoreError, match="chmod go-w"):
        store.look(limits)
    limits.folder.rmdir()
    limits.folder.write_text("")
    with pytest.raises(StoreError, match=r"cores is not a folder of user \d+$"):
        store.look(limits)
    limits.folder.unlink()
    limits.folder.symlink_to(tmp_path)
    with pytest.raises(StoreError, match="is a link, not a folder; name the folder itself"):
        store.begin(limits, b"x", 7, ".core")
    assert [path.name for path in tmp_path.iterdir()] == ["cores"]


def test_a_folder_that_is_replaced_meanwhile(tmp_path: Path, limits: StoreLimits) -> None:
    """The core goes where it was begun, never through a link that is there now."""
    draft = store.begin(limits, b"x", 7, ".core")
    limits.folder.rename(tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    limits.folder.symlink_to(tmp_path / "elsewhere")
    draft.publish({})
    draft.discard()
    assert not list((tmp_path / "elsewhere").iterdir())
    assert draft.path.name in {path.name for path in (tmp_path / "moved").iterdir()}


def test_a_folder_that_is_removed_meanwhile(limits: StoreLimits) -> None:
    draft = store.begin(limits, b"x", 7, ".core")
    for path in limits.folder.iterdir():
        path.unlink()
    limits.folder.rmdir()
    with pytest.raises(FileNotFoundError):
        draft.publish({})
    draft.discard()
    assert not limits.folder.exists()


def test_what_a_dead_writer_left(limits: StoreLimits) -> None:
    """It is listed, counts for nothing, can be removed, and goes when the next core is begun."""
    draft = store.begin(limits, b"y", 2, ".core")
    for name in ("x.1", "x.2"):
        (limits.folder / f".{name}.part").write_bytes(b"half")
        (limits.folder / f"{name}.json").write_text("{}")
    assert sorted((core.name, core.state) for core in store.cores(limits.folder)) == [
        ("x.1", "unfinished"),
        ("x.2", "unfinished"),
        (draft.path.stem, "being written"),
    ]
    chosen = store.chosen(store.cores(limits.folder), ["x.1", "y.*"])
    assert [core.name for core in store.remove(limits.folder, chosen)] == ["x.1"]
    other = put(limits)
    draft.publish({"pid": 2})
    draft.discard()
    assert {(core.path, core.state) for core in store.cores(limits.folder)} == {
        (other, "whole"),
        (draft.path, "whole"),
    }
    assert not (limits.folder / "x.2.json").exists()


def test_which_cores_are_meant(limits: StoreLimits) -> None:
    one, two, three = put(limits, b"one"), put(limits, b"two"), put(limits, b"three")
    found = store.cores(limits.folder)

    def meant(*patterns: str) -> list[Path]:
        return [core.path for core in store.chosen(found, patterns)]

    assert meant("t*") == meant("two*", "three.7.*", "t*") == [two, three]
    assert meant(one.stem) == meant(one.name) == meant(str(one)) == [one]
    for nothing in ("four*", "", "on", "/"):
        with pytest.raises(StoreError, match="there is no core"):
            meant("t*", nothing)


def test_a_core_that_goes_while_it_is_listed_or_removed(
    limits: StoreLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = put(limits, b"one"), put(limits, b"two")
    found = store.cores(limits.folder)
    listed = os.listdir

    def listing(folder: int) -> list[str]:
        names = listed(folder)
        one.unlink(missing_ok=True)
        return names

    monkeypatch.setattr(os, "listdir", listing)
    assert [core.path for core in store.cores(limits.folder)] == [two]
    assert [core.path for core in store.remove(limits.folder, found)] == [two]


def test_names_with_control_characters(limits: StoreLimits) -> None:
    path = put(limits, b"\x1b[31m\n/../\xff")
    assert path.parent == limits.folder
    assert path.name.startswith("__31m______.7.")
    assert all(letter.isalnum() or letter in "-_+." for letter in path.name)


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_STATE_HOME, where the environment is the user's own; root's is a fixed one."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert store.default_folder({"XDG_STATE_HOME": "/state"}) == Path("/var/lib/dprobed/dumps")
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    home = Path(pwd.getpwuid(1).pw_dir)
    own = {"HOME": str(home), "XDG_STATE_HOME": "/state"}
    assert store.default_folder(own) == Path("/state/dprobed/dumps")
    assert store.folders(own) == [Path("/state/dprobed/dumps"), home / ".local/state/dprobed/dumps"]
    assert store.folders({"HOME": str(home)}) == [home / ".local/state/dprobed/dumps"]
    assert store.folders({**own, "DPROBED_DUMPS": "/d"}) == [Path("/d")]
    for other in ({**own, "HOME": "/root"}, {**own, "XDG_STATE_HOME": "rel"}, {"HOME": str(home)}):
        assert store.default_folder(other) == home / ".local/state/dprobed/dumps"
