"""Forked children: what process lists call them."""

from __future__ import annotations

import os
from pathlib import Path

from dprobed.daemon.child_process import rename


def test_a_renamed_process_is_shown_by_its_name_and_title() -> None:
    environment = Path("/proc/self/environ").read_bytes()
    mine = Path("/proc/self/cmdline").read_bytes()
    done, end = os.pipe()
    there, ready = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(end)
            rename("dprobed", "dprobed: a title")
            os.write(ready, b"!")
            os.read(done, 1)
        finally:
            os._exit(0)
    try:
        os.read(there, 1)
        shown = Path(f"/proc/{child}")
        assert (shown / "comm").read_text() == "dprobed\n"
        title = (shown / "cmdline").read_bytes()
        assert title.rstrip(b"\0") == b"dprobed: a title"
        assert len(title) == len(mine)
        assert (shown / "environ").read_bytes() == environment
        assert Path("/proc/self/cmdline").read_bytes() == mine
    finally:
        os.close(end)
        os.waitpid(child, 0)
        for descriptor in (done, there, ready):
            os.close(descriptor)


def test_a_title_that_has_no_room_is_cut() -> None:
    there, ready = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            rename("dprobed", "x" * 100_000)
            os.write(ready, Path("/proc/self/cmdline").read_bytes()[-3:])
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(there, 8) == b"xx\0"
    os.close(there)
    os.close(ready)
