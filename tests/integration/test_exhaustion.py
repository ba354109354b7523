"""What runs out runs out for us, not for who is probed: room for the journal, a tracer's memory."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from dprobed.change_journal import RECORD
from dprobed.daemon.kept import KeptProgram
from tests.conftest import BuildTarget
from tests.integration.client_support import (
    Cat,
    cat,
    program,
    running_daemon,
    tracer_of,
)
from tests.integration.conftest import Start
from tests.integration.harness import counting, text
from tests.integration.test_adoption import kill, log_of, state
from tests.integration.test_guard import is_whole


@pytest.fixture
def guarded(build_target: BuildTarget) -> Path:
    return build_target("guarded.c", "-pthread")


@pytest.fixture
def target() -> Iterator[Cat]:
    with cat() as found:
        yield found


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


def test_no_memory_for_a_tracer(target: Cat, tmp_path: Path) -> None:
    """It detaches from the target that it was at work for, says so, and that goes on."""
    many = "\n".join(f"offset = write+{0}\nminor = {n + 1}\nabort" for n in range(3000))
    source = program(tmp_path, f"name = libc.so.6\nmajor = 7\n{many}\n", "many")
    with running_daemon(tmp_path) as daemon:
        daemon.json("insert", program(tmp_path), "--pid", target.pid)
        tracer = tracer_of(target.pid)
        used = next(
            int(line.split()[1]) << 10
            for line in Path(f"/proc/{tracer}/status").read_text().splitlines()
            if line.startswith("VmData:")
        )
        assert resource.prlimit(tracer, resource.RLIMIT_DATA)[0] == 1 << 30
        resource.prlimit(tracer, resource.RLIMIT_DATA, (used, used))
        refused = daemon.dprobe("insert", source, "--pid", target.pid)
        assert refused.returncode != 0
        assert "internal error" in refused.stderr
        while tracer_of(target.pid):
            daemon.query()
        target.say("it goes on")


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
