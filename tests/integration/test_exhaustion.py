"""What runs out runs out for us, not for who is probed: room for the journal, process numbers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from dprobed.change_journal import RECORD
from dprobed.daemon.kept import KeptProgram
from tests.conftest import BuildTarget
from tests.integration.client_support import (
    Cat,
    program,
    running_daemon,
)
from tests.integration.conftest import Start
from tests.integration.harness import counting, text
from tests.integration.test_adoption import kill, log_of, state
from tests.integration.test_guard import is_whole


@pytest.fixture
def guarded(build_target: BuildTarget) -> Path:
    return build_target("guarded.c", "-pthread")


def test_no_room_to_note_a_change(guarded: Path, start: Start, tmp_path: Path) -> None:
    """A disk that is full: what cannot be undone later is not done."""
    target = start(guarded)
    before = text(target.pid)
    source = tmp_path / "x.rpn"
    source.write_text(counting(guarded, "probed"))
    limit = ("prlimit", f"--fsize={2 * RECORD}", "--")
    with running_daemon(tmp_path, before=limit) as daemon:
        refused = daemon.dprobe("insert", source, "--pid", target.pid)
        assert refused.returncode != 0
        assert "nothing is changed, because its undo cannot be noted" in refused.stderr
        assert daemon.query() == []
        assert text(target.pid) == before
    assert is_whole(target)


def test_another_process_of_that_number_gets_nothing(target: Cat, tmp_path: Path) -> None:
    """Reuse of a pid: a process is the one that was probed only if it began when that did."""
    with running_daemon(tmp_path) as daemon:
        daemon.json("insert", program(tmp_path), "--pid", target.pid)
        kill(daemon, "both")
        (path,) = state(daemon).glob("program-*")
        kept = msgspec.msgpack.decode(path.read_bytes(), type=KeptProgram)
        path.write_bytes(
            msgspec.msgpack.encode(msgspec.structs.replace(kept, start=kept.start - 1))
        )
    with running_daemon(tmp_path) as daemon:
        assert f"process {target.pid}" in log_of(daemon, "is not put in again after a restart")
        assert daemon.query() == []
