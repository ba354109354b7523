"""The map that a just-in-time compiler keeps: names by address, whatever else is in the file."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from dprobe.lib import perf_map
from dprobe.lib.perf_map import PerfMap


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "perf-7.map"
    monkeypatch.setattr(perf_map, "_path_of", lambda pid: str(found))
    monkeypatch.setattr(perf_map, "_AGAIN", 0.0)
    return found


def test_names_by_address(path: Path) -> None:
    # As node and Java write it.
    path.write_text("1000 20 first one\n0x0000000000002000 0x0000000000000010 second\n")
    known = PerfMap(7)
    assert known.at(0x0FFF) is None
    assert known.at(0x1000) == known.at(0x101F) == (0x1000, "first one")
    assert known.at(0x1020) is None
    assert known.at(0x2001) == (0x2000, "second")
    assert known.at(1 << 63) is None


def test_what_is_added_and_what_is_made_anew(path: Path) -> None:
    known = PerfMap(7)
    assert known.at(0x1000) is None
    path.write_text("1000 20 old\n")
    assert known.at(0x1000) == (0x1000, "old")
    path.write_text("1000 20 old\n1000 30 new\n3000 8 more\n")
    assert known.at(0x3000) == (0x3000, "more")
    assert known.at(0x1000) == (0x1000, "new")


def test_a_hostile_file(path: Path) -> None:
    """What is no line is passed over; a name is one line that can be shown."""
    path.write_bytes(
        b"rubbish\n\xff\xfe\n1000\n1000 zz x\n-1 5 x\n1000 10 \x1b[31mred\xff\n"
        b"11111111111111111 5 too long\n2000 5 " + b"n" * 100_000
    )
    known = PerfMap(7)
    found = known.at(0x1000)
    assert found is not None
    assert found[1].isprintable() and "red" in found[1]
    long = known.at(0x2000)
    assert long is not None and len(long[1]) == 1024


@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
def test_what_is_no_plain_file_is_not_read(path: Path, kind: str) -> None:
    """Neither waited for nor followed: it may lead to what its owner must not read."""
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        other = path.with_name("other")
        other.write_text("1000 20 other\n")
        path.symlink_to(other)
    else:
        path.mkdir()
    assert PerfMap(7).at(0x1000) is None


def test_a_process_that_has_ended(tmp_path: Path) -> None:
    """Its map is the one here, if nobody else may have made it."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    path = Path(f"/tmp/perf-{ended.pid}.map")
    try:
        path.write_text("1000 20 made\n")
        assert PerfMap(ended.pid).at(0x1000) == (0x1000, "made")
        if not os.geteuid():
            os.chown(path, 65534, 65534)
            assert PerfMap(ended.pid).at(0x1000) is None
    finally:
        path.unlink()
