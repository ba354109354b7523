"""What outlives the daemon: files that may be torn, of another version, or find no room; and what
the next one makes of them."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from dprobed.change_journal import boot
from dprobed.daemon.former import FormerCounts
from dprobed.daemon.insertion import Term
from dprobed.daemon.kept import Kept, KeptInsertion, KeptProgram
from dprobed.policy.config import Config
from dprobed.proc import procfs
from dprobed.wire import messages, protocol
from tests.fakes.backend import PID, PROGRAM, FakeClient, FakeDaemon, status

UID = 1000
INSERTED = KeptInsertion(
    3,
    UID,
    UID,
    messages.Upload(label="x", bytecode=PROGRAM),
    check_opcode=True,
    follow_forks=False,
    term=Term(),
)
ONE = KeptProgram(INSERTED, PID, 1, boot())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "changes"
    path.mkdir()
    return path


def write(folder: Path, *programs: KeptProgram) -> None:
    """As a daemon before this one did."""
    for each in programs:
        name = f"program-{each.inserted.number}-{each.pid}"
        (folder / name).write_bytes(msgspec.msgpack.encode(each))


def run(
    tmp_path: Path, kept: Kept, script: Callable[[FakeDaemon], Awaitable[None]]
) -> list[protocol.Insert]:
    """Have a daemon of root's go on with what is kept; what its tracers were asked to insert."""

    async def main() -> list[protocol.Insert]:
        daemon = FakeDaemon(Config(tmp_path / "policies.d"), kept=kept)
        assert daemon.app.public is not None
        await daemon.app.public.adopting.begin(60)
        await script(daemon)
        found = [each for one in daemon.backends.made for each in one.of(protocol.Insert)]
        await daemon.app.stop(1)
        return found

    return asyncio.run(asyncio.wait_for(main(), 60))


async def nothing(daemon: FakeDaemon) -> None:
    """Nobody asks for anything."""


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The processes of the fakes, to root's daemon."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("dprobed.daemon.gate.groups_of", lambda uid, gid: [gid])
    monkeypatch.setattr("dprobed.daemon.detaching._END_REPORT_TIMEOUT", 0.01)
    monkeypatch.setenv("DPROBED_JOURNAL_SOCKET", str(tmp_path / "none"))
    monkeypatch.setattr(procfs, "start_time", lambda pid: 1 if pid >= PID else None)
    monkeypatch.setattr(procfs, "has_ended", lambda pid: pid < PID)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        msgspec.msgpack.encode(ONE)[:-5],
        b"\xff" * 100,
        msgspec.msgpack.encode({"inserted": {"number": 3}, "pid": PID}),
    ],
    ids=["empty", "cut short", "rubbish", "another version"],
)
def test_a_file_that_cannot_be_read_is_told(
    folder: Path, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """And is gone; what else is kept goes on."""
    (folder / "program-3-77").write_bytes(content)
    write(folder, ONE)
    (asked,) = run(tmp_path, Kept(folder), nothing)
    assert (asked.program, asked.pid) == (3, PID)
    assert f"{folder}/program-3-77 is not gone on with" in caplog.text
    assert list(folder.iterdir()) == []


def test_no_room(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is inserted stays so; that it is not kept is said once, and no piece of it is left."""
    said: list[str] = []
    monkeypatch.setattr(
        logging.getLogger("dprobed"), "warning", lambda *a: said.append(a[0] % a[1:])
    )

    def full(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    kept = Kept(folder)

    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        await daemon.attach(client)
        await daemon.insert(client, count=2, keep=True)
        assert list(folder.iterdir()) == []

    assert len(run(tmp_path, kept, script)) == 2
    assert said == [
        "what is inserted now would not be gone on with after a restart: "
        f"{folder}: No space left on device"
    ]


def test_what_a_daemon_was_writing_goes(folder: Path) -> None:
    (folder / "new-program-3-77").touch()
    Kept(folder).close()
    assert list(folder.iterdir()) == []


def test_another_boot_has_other_processes(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(folder, msgspec.structs.replace(ONE, boot=b"another"))
    assert run(tmp_path, Kept(folder), nothing) == []
    assert "program 3 (x) of user 1000 is not put in again after a restart: it has ended" in (
        caplog.text
    )


def test_what_was_in_the_kernel_is_told(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(folder, msgspec.structs.replace(ONE, pid=messages.KERNEL, start=0))
    assert run(tmp_path, Kept(folder), nothing) == []
    assert (
        "the kernel: program 3 (x) of user 1000 is not put in again after a restart: what is in "
        "the kernel ends with the daemon that put it there"
    ) in caplog.text


def test_a_defect_concerns_that_one_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [
        msgspec.structs.replace(ONE, inserted=msgspec.structs.replace(INSERTED, number=number))
        for number in (1, 2)
    ]
    write(folder, *others, ONE)
    real = FormerCounts.get

    def get(self: FormerCounts, uid: int, number: int, pid: int) -> object:
        if number == 1:
            raise RuntimeError("a defect")
        return real(self, uid, number, pid)

    monkeypatch.setattr(FormerCounts, "get", get)
    shown: list[messages.KeptInfo] = []

    async def script(daemon: FakeDaemon) -> None:
        # Its owner is shown which is not in, and why; nobody else.
        shown.extend((await daemon.query(FakeClient(1000))).kept)
        assert (await daemon.query(FakeClient(1001))).kept == []
        remove = messages.Remove(id=1, select=messages.Select(number=1))
        await daemon.ask(FakeClient(1000), remove, messages.Removed)
        assert (await daemon.query(FakeClient(1000))).kept == []

    assert [each.program for each in run(tmp_path, Kept(folder), script)] == [2, 3]
    assert [(each.number, each.program, each.uid) for each in shown] == [(1, "x", 1000)]
    assert shown[0].problem == "internal error in the daemon (see its log)"


def test_a_new_program_does_not_go_on_from_what_another_of_its_number_had_counted(
    folder: Path, tmp_path: Path
) -> None:
    """One that was not kept has ended with its client, and its number is given anew."""
    counted = protocol.Counted(PID, 1, [status(number, hits=5) for number in (3, 4)], [])
    note = UID, 7, protocol.pack_counts([counted])
    write(folder, ONE)

    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        await daemon.attach(client)
        await daemon.insert(client)

    kept, new = run(tmp_path, Kept(folder, FormerCounts([note])), script)
    assert (kept.program, new.program) == (3, 4)
    assert kept.former is not None
    assert [each.hits for each in kept.former.probes] == [5]
    assert new.former is None


def until(seconds: float) -> KeptProgram:
    """One that was inserted a minute ago, and ends in so many seconds."""
    now = time.monotonic()
    term = Term(now - 60, now + seconds)
    return msgspec.structs.replace(ONE, inserted=msgspec.structs.replace(INSERTED, term=term))


def test_its_end_and_its_age_are_what_they_were(tmp_path: Path, folder: Path) -> None:
    write(folder, until(1000))

    async def script(daemon: FakeDaemon) -> None:
        (probe,) = (await daemon.query(FakeClient(UID))).probes
        assert probe.left_seconds is not None
        assert 900 < probe.left_seconds <= 1000
        assert probe.age_seconds >= 60

    run(tmp_path, Kept(folder), script)


def test_what_was_over_meanwhile_is_taken_out(tmp_path: Path, folder: Path) -> None:
    write(folder, until(-1))

    async def script(daemon: FakeDaemon) -> None:
        while (await daemon.query(FakeClient(UID))).probes:
            await asyncio.sleep(0)
        assert list(folder.glob("program-*")) == []

    run(tmp_path, Kept(folder), script)


def test_what_a_tracer_does_not_answer_in_time_is_put_in_later(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Slow files, a machine that is busy as it starts: nothing is lost of what was kept."""
    write(folder, ONE)

    async def main() -> None:
        daemon = FakeDaemon(Config(tmp_path / "policies.d"), kept=Kept(folder))
        assert daemon.app.public is not None
        pause = daemon.backends.pause_next(protocol.Insert)
        await daemon.app.public.adopting.begin(0.1)
        await pause.came.wait()
        while "does not answer" not in caplog.text:
            await asyncio.sleep(0)
        assert [each.number for each in (await daemon.query(FakeClient(UID))).kept] == [3]
        assert [each.name for each in folder.glob("program-*")] == [f"program-3-{PID}"]
        pause.go.set()
        while not (await daemon.query(FakeClient(UID))).probes:
            await asyncio.sleep(0)
        status = await daemon.query(FakeClient(UID))
        assert [(each.number, each.state) for each in status.probes] == [(3, "active")]
        assert status.kept == []
        assert [each.name for each in folder.glob("program-*")] == [f"program-3-{PID}"]
        await daemon.app.stop(1)

    asyncio.run(asyncio.wait_for(main(), 60))
