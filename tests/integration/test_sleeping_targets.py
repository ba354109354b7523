"""Targets that sleep in the kernel without end: frozen, or waiting for a file that does not come.

None of their threads can be stopped. Others are served, and every request ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from dprobed.arch.x86_64.syscalls import SYS_MMAP
from dprobed.engine.remote_calls import RemoteCalls
from dprobed.proc import procfs
from dprobed.tracee import ptrace
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup
from dprobed.wire import protocol
from tests.conftest import BuildTarget
from tests.integration.client_support import DPROBE, PATIENCE, Daemon, cat, dprobe, program
from tests.integration.conftest import Start, Trace
from tests.integration.harness import RefusedError, Target, counting, text
from tests.integration.silent_fs import SilentFiles

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may freeze and mount")

FREEZER = Path("/sys/fs/cgroup/freezer")
SLEEPS = "sleeps in the kernel"
SYS_ACCESS = 21
SYS_PAUSE = 34


@pytest.fixture
def files(build_target: BuildTarget, tmp_path: Path) -> Iterator[SilentFiles]:
    with SilentFiles(build_target("silent_fs.c"), tmp_path) as mounted:
        yield mounted


class Freezer:
    """A cgroup whose processes are frozen and thawed together, as a container's are."""

    def __init__(self, name: str) -> None:
        self._root = FREEZER
        self._folder = self._root / name
        self._folder.mkdir()

    def freeze(self, *pids: int) -> None:
        for pid in pids:
            (self._folder / "cgroup.procs").write_text(str(pid))
        self._set("FROZEN")

    def thaw(self) -> None:
        self._set("THAWED")

    def _set(self, state: str) -> None:
        (self._folder / "freezer.state").write_text(state)
        deadline = time.monotonic() + PATIENCE
        while (self._folder / "freezer.state").read_text().strip() != state:
            assert time.monotonic() < deadline

    def end(self) -> None:
        self.thaw()
        for pid in (self._folder / "cgroup.procs").read_text().split():
            (self._root / "cgroup.procs").write_text(pid)
        self._folder.rmdir()


class Freezer2(Freezer):
    """One of version 2: its processes can be stopped, and execute nothing."""

    def __init__(self, name: str) -> None:
        roots = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
        found = [each for each in roots if (each / "cgroup.controllers").exists()]
        if not found:
            pytest.skip("no cgroups of version 2")
        self._root = found[0]
        self._folder = self._root / name
        self._folder.mkdir()

    def _set(self, state: str) -> None:
        frozen = int(state == "FROZEN")
        (self._folder / "cgroup.freeze").write_text(str(frozen))
        deadline = time.monotonic() + PATIENCE
        while f"frozen {frozen}\n" not in (self._folder / "cgroup.events").read_text():
            assert time.monotonic() < deadline


@pytest.fixture(params=[1, 2], ids=["version 1", "version 2"])
def any_freezer(request: pytest.FixtureRequest) -> Iterator[Freezer]:
    if request.param == 2:
        made: Freezer = Freezer2(f"dprobed-test-{os.getpid()}")
        yield made
        made.end()
    else:
        yield request.getfixturevalue("freezer")


@pytest.fixture
def freezer() -> Iterator[Freezer]:
    if not (FREEZER / "cgroup.procs").exists():
        pytest.skip("no cgroups of version 1: those of version 2 let a frozen process be traced")
    made = Freezer(f"dprobed-test-{os.getpid()}")
    yield made
    made.end()


def opening(target: Target, files: SilentFiles) -> None:
    """Let it open the file, of which nothing comes."""
    files.mute()
    target.go()
    target.expect("opening")
    deadline = time.monotonic() + PATIENCE
    while Path(f"/proc/{target.pid}/wchan").read_text() != "request_wait_answer":
        assert time.monotonic() < deadline


def answered(files: SilentFiles, target: Target) -> None:
    """Give it what it waits for, and wait until it has it: the file server has to have its turn."""
    files.answer()
    deadline = time.monotonic() + PATIENCE
    while procfs.run_state(target.pid) == "D":
        assert time.monotonic() < deadline


def until_one_waits_for_files(pid: int) -> None:
    """Wait until a thread waits for the file server."""
    deadline = time.monotonic() + PATIENCE
    while not any(
        Path(f"/proc/{pid}/task/{tid}/wchan").read_text() == "request_wait_answer"
        for tid in procfs.threads(pid)
    ):
        assert time.monotonic() < deadline


def test_to_detach_from_one_that_sleeps(
    build_target: BuildTarget, start: Start, trace: Trace, files: SilentFiles
) -> None:
    """The probes are out and the request is answered; the tracer leaves when it wakes."""
    program = build_target("sleeps.c")
    target, other = start(program, files.path), start(program, program)
    before = text(target.pid)
    tracer = trace(target)
    tracer.attach(other.pid)
    number = tracer.put(counting(program, "probed"))
    of_other = tracer.put(counting(program, "probed"), other.pid)
    target.go()
    target.expect("called")
    opening(target, files)
    answer = tracer.request(protocol.Detach(tracer.next(), target.pid))
    assert [each.hits for each in answer.probes if each.program == number] == [3]
    (notice,) = [each for each in tracer.events if isinstance(each, protocol.TargetEvent)]
    assert (notice.kind, notice.pid) == ("asleep", target.pid)
    assert f"(thread {target.pid})" in notice.text
    now = text(target.pid)
    assert {name: now[name] for name in before} == before
    with pytest.raises(RefusedError, match=SLEEPS):
        tracer.insert(counting(program, "probed"))
    other.tracer = tracer
    other.go()
    other.expect("called")
    other.go()
    other.expect("opened")
    assert tracer.hits(of_other, other.pid) == [4]
    files.answer()
    assert tracer.ends_of(target.pid).how == "detached"
    target.expect("opened")
    assert target.finish() == 4
    tracer.detach_from(other.pid)
    assert other.finish() == 4


def test_a_program_for_one_that_sleeps(
    build_target: BuildTarget, start: Start, trace: Trace, files: SilentFiles
) -> None:
    """Refused, with the reason; later it is put in."""
    program = build_target("sleeps.c")
    target = start(program, files.path)
    target.go()
    target.expect("called")
    opening(target, files)
    tracer = trace(target)
    with pytest.raises(RefusedError, match=SLEEPS):
        tracer.insert(counting(program, "probed"))
    answered(files, target)
    number = tracer.put(counting(program, "probed"))
    target.expect("opened")
    assert sum(tracer.hits(number)) <= 1
    tracer.detach()
    assert target.finish() == 4


def test_one_that_sleeps_on_its_way_out(
    build_target: BuildTarget, start: Start, trace: Trace, files: SilentFiles
) -> None:
    """It closes its file, of which the server has to be told, and cannot be stopped any more."""
    program = build_target("sleeps.c")
    target = start(program, files.path)
    tracer = trace(target)
    number = tracer.put(counting(program, "probed"))
    for word in ("called", "opened"):
        target.go()
        target.expect(word)
    files.mute()
    target.go()
    target.expect("OK")
    deadline = time.monotonic() + PATIENCE
    while not procfs.is_ending(target.pid):
        assert time.monotonic() < deadline
    answer = tracer.request(protocol.Detach(tracer.next(), target.pid))
    assert [each.hits for each in answer.probes if each.program == number] == [4]
    files.answer()
    assert target.process.wait(PATIENCE) == 0
    assert tracer.wait().how in ("exited", "detached")


@pytest.mark.parametrize("call", [SYS_ACCESS, SYS_PAUSE], ids=["asleep", "interruptible"])
def test_a_system_call_for_us_that_sleeps(
    build_target: BuildTarget,
    start: Start,
    trace: Trace,
    files: SilentFiles,
    monkeypatch: pytest.MonkeyPatch,
    call: int,
) -> None:
    """The request is answered, others are served, and the thread goes on as it was.

    A call that a signal wakes is over then, and made another way.
    """
    program = build_target("lends.c")
    target, other = start(program, files.path), start(program, files.path)
    before = text(target.pid)
    made = RemoteCalls.call
    sleeping = [target.pid]

    def sleeps(
        self: RemoteCalls, group: ThreadGroup, thread: Thread, number: int, *arguments: int
    ) -> int:
        if number == SYS_MMAP and sleeping == [thread.tid]:
            sleeping.clear()
            number, arguments = call, (target.number("path"), 0)
        return made(self, group, thread, number, *arguments)

    monkeypatch.setattr(RemoteCalls, "call", sleeps)
    tracer = trace(target)
    tracer.attach(other.pid)
    files.mute()
    with pytest.raises(RefusedError, match=SLEEPS) if call == SYS_ACCESS else nullcontext():
        tracer.insert(counting(program, "probed"))
    of_other = tracer.put(counting(program, "probed"), other.pid)
    other.go()
    other.expect("stopped")
    assert tracer.hits(of_other, other.pid) == [3]
    answered(files, target)
    again = tracer.put(counting(program, "probed"))
    target.go()
    target.expect("stopped")
    assert tracer.hits(again) == [3]
    tracer.detach_from(other.pid)
    other.finish()
    tracer.detach()
    now = text(target.pid)
    assert {name: now[name] for name in before} == before
    target.finish()


@pytest.mark.parametrize("state", ["D", "R"])
def test_one_that_cannot_be_stopped_beside_one_that_is_always_hit(
    build_target: BuildTarget,
    start: Start,
    trace: Trace,
    files: SilentFiles,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
) -> None:
    """Each stop of the world has an end, in whatever state the thread seems to be."""
    monkeypatch.setattr("dprobed.tracee.stop_the_world._LIMIT", 2.0)
    run_state = procfs.run_state
    monkeypatch.setattr(procfs, "run_state", lambda tid: run_state(tid).replace("D", state))
    program, loop = build_target("sleeps.c"), build_target("engine_loop.c")
    target, other = start(program, files.path), start(loop)
    tracer = trace(target)
    tracer.attach(other.pid)
    number = tracer.put(counting(program, "probed"))
    tracer.put(counting(loop, "probed"), other.pid)
    other.go()
    target.go()
    target.expect("called")
    opening(target, files)
    assert [each.hits for each in tracer.remove(number)] == [3]
    answer = tracer.request(protocol.Detach(tracer.next(), target.pid))
    assert answer.probes == []
    files.answer()
    assert tracer.ends_of(target.pid).how == "detached"
    target.expect("opened")
    target.finish()
    other.go()
    other.expect("stopping")
    tracer.detach_from(other.pid)
    other.expect("stopped")
    other.finish()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a thread in uninterruptible sleep to stop waits for ever."""
    monkeypatch.setattr("dprobed.tracee.stop_the_world._TIMEOUT", 3600.0)
    monkeypatch.setattr("dprobed.tracee.stop_the_world._LIMIT", 3600.0)


def until_ending(tid: int) -> None:
    """Wait until a thread is on its way out, and sleeps there."""
    deadline = time.monotonic() + PATIENCE
    while not (procfs.is_ending(tid) and procfs.run_state(tid) in ("S", "D")):
        assert time.monotonic() < deadline


@pytest.mark.usefixtures("impatient")
def test_a_thread_that_sleeps_on_its_way_out(
    build_target: BuildTarget, start: Start, trace: Trace, files: SilentFiles
) -> None:
    """It counts as gone: nobody waits for it, neither its process nor others."""
    program = build_target("leaves.c", "-pthread")
    target, other = start(program, "thread", files.path), start(program, "makes")
    tracer = trace(target)
    tracer.attach(other.pid)
    kept = tracer.put(counting(program, "probed"))
    of_other = tracer.put(counting(program, "probed"), other.pid)
    target.go()
    target.expect("leaving")
    (last,) = (tid for tid in procfs.threads(target.pid) if tid != target.pid)
    files.mute()
    other.go()
    target.go()
    target.expect("stopped")
    until_ending(last)
    for _ in range(5):
        tracer.remove(tracer.put(counting(program, "nothing")))
    other.tracer = tracer
    other.expect("stopped")
    assert tracer.hits(of_other, other.pid) == [51]
    assert tracer.hits(kept) == [1]
    answer = tracer.request(protocol.Detach(tracer.next(), target.pid))
    assert [each.hits for each in answer.probes if each.program == kept] == [1]
    files.answer()
    assert tracer.ends_of(target.pid).how == "detached"
    target.finish()
    tracer.detach_from(other.pid)
    other.finish()


@pytest.mark.usefixtures("impatient")
def test_the_first_process_of_a_namespace_that_waits_for_others_on_its_way_out(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """Until all that are in the namespace are collected, one of them by nobody."""
    program = build_target("leaves.c", "-pthread")
    target, other = (
        start("unshare", "-pf", "--kill-child", program, "makes"),
        start(program, "makes"),
    )
    inside = int(Path(f"/proc/{target.pid}/task/{target.pid}/children").read_text())
    tracer = trace(other)
    tracer.attach(inside)
    of_other = tracer.put(counting(program, "probed"))
    number = tracer.put(counting(program, "probed"), inside)
    with subprocess.Popen(
        ["nsenter", "-t", str(inside), "-p", "cat"], stdin=subprocess.PIPE
    ) as into:
        children = Path(f"/proc/{into.pid}/task/{into.pid}/children")
        deadline = time.monotonic() + PATIENCE
        while not children.read_text():
            assert time.monotonic() < deadline
        into.send_signal(signal.SIGSTOP)
        try:
            target.go()
            target.expect("stopped")
            target.go()
            target.expect("OK")
            until_ending(inside)
            other.go()
            answer = tracer.request(protocol.Detach(tracer.next(), inside))
            assert [each.hits for each in answer.probes if each.program == number] == [51]
            other.expect("stopped")
            assert tracer.hits(of_other) == [51]
        finally:
            into.send_signal(signal.SIGCONT)
    assert target.process.wait(PATIENCE) == 0
    tracer.ends_of(inside)
    tracer.detach_from(other.pid)
    other.finish()


def test_one_that_executes_a_program_that_does_not_come(
    build_target: BuildTarget, start: Start, trace: Trace, tmp_path: Path
) -> None:
    """Who wants to trace it would sleep until it comes (PTRACE_SEIZE, cred_guard_mutex)."""
    program = build_target("executes.c", "-pthread")
    with SilentFiles(build_target("silent_fs.c"), tmp_path, program) as files:
        script = tmp_path / "script"
        script.write_text(f"#!{files.path}\n")
        script.chmod(0o755)
        target, other = start(program, script), start(build_target("sleeps.c"), program)
        tracer = trace(other)
        number = tracer.put(counting(build_target("sleeps.c"), "probed"))
        files.mute()
        os.kill(target.pid, signal.SIGUSR1)
        until_one_waits_for_files(target.pid)
        with pytest.raises(RefusedError, match="executes a program"):
            tracer.attach(target.pid)
        other.go()
        other.expect("called")
        assert tracer.hits(number, other.pid) == [3]
        files.answer()
        target.expect("executed")
        tracer.attach(target.pid)
        target.tracer = tracer
        again = tracer.put(counting(files.path.name, "probed"), target.pid)
        target.go()
        target.expect("stopped")
        assert tracer.hits(again, target.pid) == [1]
        tracer.detach_from(target.pid)
        target.finish()


def test_threads_that_an_exec_ends_while_it_is_attached_to(
    build_target: BuildTarget, start: Start, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits until they are collected, by us, who wait for it (de_thread, fs/exec.c)."""
    program = build_target("executes.c", "-pthread")
    target = start(program, program)
    leader, *_, last = procfs.threads(target.pid)  # In the order in which they began.
    seize = ptrace.seize

    def executing(tid: int) -> None:
        if tid == last:
            os.kill(target.pid, signal.SIGUSR1)
            deadline = time.monotonic() + PATIENCE
            while procfs.run_state(leader) != "Z":
                assert time.monotonic() < deadline
        seize(tid)

    monkeypatch.setattr(ptrace, "seize", executing)
    tracer = trace(target)
    target.expect("executed")
    number = tracer.put(counting(program, "probed"))
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [1]
    tracer.detach()
    target.finish()


def test_a_frozen_process_among_others(
    daemon: Daemon, tmp_path: Path, any_freezer: Freezer
) -> None:
    """It is refused, with the reason; the others have the program, and everything ends."""
    own_cat = Path(shutil.copy("/bin/cat", tmp_path / "cat"))
    with cat([own_cat]) as frozen, cat([own_cat]) as other:
        any_freezer.freeze(frozen.pid)
        daemon.json("insert", program(tmp_path), "--exe", own_cat)
        deadline = time.monotonic() + PATIENCE
        while True:
            row, *_ = daemon.query()
            if str(frozen.pid) in row["refusals"] and row["processes"] == 1:
                break
            assert time.monotonic() < deadline, row
        assert SLEEPS in row["refusals"][str(frozen.pid)]
        other.say("served")
        assert [each["hits"] for each in daemon.query() if each.get("pid") == other.pid] == [1]
        done = daemon.dprobe("remove", "--all")
        assert done.returncode == 0, done.stderr
        any_freezer.thaw()


def test_one_that_is_frozen_with_a_program_in_it(
    daemon: Daemon, tmp_path: Path, any_freezer: Freezer
) -> None:
    """That is said where it is listed; what is removed from it is not said to be active, or to have
    ended."""
    with cat() as target:
        daemon.json("insert", program(tmp_path), "-p", target.pid)
        any_freezer.freeze(target.pid)
        first, *_ = daemon.dprobe("query").stdout.splitlines()
        assert first == (
            f"process {target.pid} (cat) is FROZEN with its cgroup: nothing fires in it until that "
            "is thawed"
        )
        removed, *_ = daemon.json("remove", "-p", target.pid)
        assert removed["state"] == "removed"
        any_freezer.thaw()
        target.say("goes on")
        assert daemon.json("query", "--pid", target.pid) == []


def test_attach_to_one_that_is_frozen(tmp_path: Path, any_freezer: Freezer) -> None:
    """It is refused in time, and nothing of it is changed."""
    with cat() as target:
        before = text(target.pid)
        any_freezer.freeze(target.pid)
        done = dprobe("attach", "-p", target.pid, program(tmp_path))
        assert done.returncode == 2
        assert f"process {target.pid} {SLEEPS} (it is frozen, or waits" in done.stderr
        any_freezer.thaw()
        target.say("goes on")
        assert text(target.pid) == before


def test_attach_to_one_that_is_frozen_meanwhile(tmp_path: Path, freezer: Freezer) -> None:
    """It ends when it is told to, with what was counted."""
    with cat() as target:
        command = [str(DPROBE), "attach", str(target.pid), str(program(tmp_path))]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as attached:
            assert attached.stderr is not None
            assert "1 probe in process" in attached.stderr.readline()
            target.say("one")
            freezer.freeze(target.pid)
            attached.send_signal(signal.SIGINT)
            said, errors = attached.communicate(timeout=PATIENCE)
        assert "its process sleeps in the kernel" in said + errors
        assert attached.returncode == 0, errors
        freezer.thaw()
        target.say("two")
