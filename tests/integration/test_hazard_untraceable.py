"""Hazard 7: targets that cannot be traced, or only with care."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from dprobed.proc import procfs
from dprobed.wire import protocol
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import PATIENCE, RefusedError, TracerProcess, counting, text
from tests.integration.test_engine_threads import await_child, await_state, stall

NOBODY = 65534
SOMEBODY = 65533


@pytest.fixture
def public(build_target: BuildTarget, everybodys: Path) -> Path:
    """``boxed`` where every user can run it."""
    return Path(shutil.copy(build_target("boxed.c"), everybodys / "boxed"))


def as_user(uid: int) -> dict[str, object]:
    return {"user": uid, "group": uid, "extra_groups": []}


def refusal(tracer: TracerProcess, pid: int) -> str:
    """Why this process cannot be attached."""
    with pytest.raises(RefusedError) as caught:
        tracer.attach(pid)
    reason = str(caught.value)
    assert "\n" not in reason
    return reason


# --- refused ---


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("gdb", "-q", "-nx", "-p"), b"(gdb)"),
        (("strace", "-o", "/dev/null", "-p"), b"attached"),
    ],
    ids=["gdb", "strace"],
)
def test_already_traced(
    public: Path, start: Start, trace: Trace, command: tuple[str, ...], said: bytes
) -> None:
    target = start(public)
    debugger = subprocess.Popen(
        [*command, str(target.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        assert debugger.stdout is not None
        heard = b""
        while said not in heard:
            data = os.read(debugger.stdout.fileno(), 4096)
            assert data, heard
            heard += data
        reason = refusal(trace(), target.pid)
        assert f"already traced by process {debugger.pid} ({command[0]})" in reason
    finally:
        debugger.kill()
        debugger.communicate()
    tracer = trace(target)
    number = tracer.put(counting(public, "probed"))
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [100]
    tracer.detach()
    target.finish()


def test_a_tracer_keeps_other_tracers_out(public: Path, start: Start, trace: Trace) -> None:
    target = start(public)
    tracer = trace(target)
    assert f"already traced by process {tracer.pid}" in refusal(trace(), target.pid)


def test_another_users_process(public: Path, start: Start, trace: Trace) -> None:
    target = start(public, **as_user(SOMEBODY))
    reason = refusal(trace(uid=NOBODY), target.pid)
    assert re.search(rf"uid: it runs as uid {SOMEBODY}, we as {NOBODY}", reason)


def test_our_own_users_process(public: Path, start: Start, trace: Trace) -> None:
    """Without a privilege: the kernel gives no map_files then."""
    target = start(public, **as_user(NOBODY))
    before = text(target.pid)
    tracer = trace(uid=NOBODY)
    tracer.attach(target.pid)
    target.tracer = tracer
    number = tracer.put(counting(public, "probed"))
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [100]
    tracer.detach()
    assert text(target.pid) == before
    target.finish()


def test_not_dumpable(public: Path, start: Start, trace: Trace) -> None:
    target = start(public, "undumpable", **as_user(NOBODY))
    assert "dumpable" in refusal(trace(uid=NOBODY), target.pid)
    tracer = trace(target)  # root may
    number = tracer.put(counting(public, "probed"))
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [100]
    tracer.detach()
    target.finish()


def test_it_stops_being_dumpable_and_forks(
    build_target: BuildTarget, everybodys: Path, start: Start, trace: Trace
) -> None:
    """Its children's memory is closed to an ordinary user, and has breakpoints in it."""
    program = Path(shutil.copy(build_target("hides.c"), everybodys / "hides"))
    target = start(program, **as_user(NOBODY))
    tracer = trace(uid=NOBODY)
    tracer.attach(target.pid)
    target.tracer = tracer
    number = tracer.put(counting(program, "probed"))
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [21]
    tracer.detach()
    assert target.finish() == 21


def test_it_stops_being_dumpable_and_is_killed_in_fork(
    build_target: BuildTarget, everybodys: Path, start: Start, trace: Trace
) -> None:
    """No event tells whose child it is, and its memory, which would, is closed."""
    program = Path(shutil.copy(build_target("engine_fork.c"), everybodys / "forks"))
    target = start(program, "hides", **as_user(NOBODY))
    tracer = trace(uid=NOBODY)
    tracer.attach(target.pid)
    target.tracer = tracer
    tracer.put(counting(program, "probed"))
    stall(tracer)
    target.go()
    await_child(target.pid)
    os.kill(target.pid, signal.SIGKILL)
    await_state(target.pid, "Z")
    os.kill(tracer.pid, signal.SIGCONT)
    assert tracer.wait().how == "killed"
    target.tracer = None
    assert target.line() == "child clean"


@pytest.mark.parametrize("follow", [False, True], ids=["detached", "followed"])
@pytest.mark.parametrize("child", ["ends", "executes"])
@pytest.mark.parametrize("we", ["stay", "leave"])
def test_it_closes_itself_altogether_and_forks(
    build_target: BuildTarget,
    everybodys: Path,
    start: Start,
    trace: Trace,
    follow: bool,
    child: str,
    we: str,
) -> None:
    """The child's memory is closed: we cannot detach, with our breakpoints in it."""
    program = Path(shutil.copy(build_target("engine_closed.c"), everybodys / "closed"))
    target = start(program, child, **as_user(NOBODY))
    tracer = trace(uid=NOBODY)
    tracer.attach(target.pid, follow_forks=follow)
    target.tracer = tracer
    number = tracer.put(counting(program, "probed"))
    target.go()
    target.expect("grandchild")
    notices = [each for each in tracer.events if isinstance(each, protocol.TargetEvent)]
    told = [(each.kind, each.pid) for each in notices if "stays traced" in each.text]
    assert told[0] == ("unprobed", target.pid)
    if we == "leave":
        tracer.close()
    target.go()
    target.expect("stopped")
    if we == "stay":
        assert tracer.hits(number) == [2]
        tracer.detach()
    assert tracer.forked == []
    assert target.finish() == 2


def test_a_32_bit_program(build_target: BuildTarget, start: Start, trace: Trace) -> None:
    try:
        target = start(build_target("small32.s", "-m32", "-nostdlib", "-static"))
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        pytest.skip("this kernel runs no 32-bit programs")
    assert "32-bit" in refusal(trace(), target.pid)
    target.go()
    assert target.process.wait(PATIENCE) == 0


def test_a_kernel_thread(trace: Trace) -> None:
    assert "(kthreadd) is a kernel thread" in refusal(trace(), 2)


def test_a_zombie_and_then_nobody(trace: Trace) -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert "zombie" in refusal(trace(), process.pid)
    process.wait()
    assert "gone" in refusal(trace(), process.pid)


def test_a_thread_is_not_a_process(build_target: BuildTarget, start: Start, trace: Trace) -> None:
    target = start(build_target("crowd.c", "-pthread"))
    tid = next(tid for tid in procfs.threads(target.pid) if tid != target.pid)
    assert f"{tid} is a thread of process {target.pid}" in refusal(trace(), tid)
    target.go()
    target.expect("stopped")
    target.finish()


# --- with care ---


@pytest.mark.parametrize("box", ["strict", "filter", "nnp"])
def test_boxes_that_kill_on_an_unexpected_system_call(
    public: Path, start: Start, trace: Trace, box: str
) -> None:
    target = start(public, box)
    before = text(target.pid)
    tracer = trace(target)
    number = tracer.put(counting(public, "probed"))
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [100]
    tracer.detach()
    assert text(target.pid) == before
    assert target.finish() == 100


@pytest.mark.parametrize("box", ["strict", "filter"])
def test_a_seccomp_filter_without_the_right_to_suspend_it(
    public: Path, start: Start, trace: Trace, box: str
) -> None:
    target = start(public, box, **as_user(NOBODY))
    tracer = trace(uid=NOBODY)
    tracer.attach(target.pid)
    with pytest.raises(RefusedError, match="seccomp"):
        tracer.insert(counting(public, "probed"))
    tracer.detach()
    target.go()
    target.expect("stopped")
    assert target.finish() == 100


def test_another_mount_namespace(public: Path, start: Start, trace: Trace) -> None:
    """The program's path means another file to us, and the library's path none at all."""
    script = (
        'd=$(dirname "$0"); cp "$0" /dev/shm/boxed.$$; mount -t tmpfs none "$d"; '
        'cp /dev/shm/boxed.$$ "$d/hidden"; rm /dev/shm/boxed.$$; exec "$d/hidden"'
    )
    target = start("unshare", "-m", "sh", "-c", script, public)
    hidden = public.parent / "hidden"
    assert not hidden.exists()
    before = text(target.pid)
    tracer = trace(target)
    by_name = tracer.put(counting("hidden", "probed"))
    by_path = tracer.put(counting(hidden, "probed"))
    target.go()
    target.expect("stopped")
    assert tracer.hits(by_name) == tracer.hits(by_path) == [100]
    tracer.detach()
    assert text(target.pid) == before
    target.finish()


def test_another_pid_namespace(build_target: BuildTarget, start: Start, trace: Trace) -> None:
    """Its threads have other numbers inside; ours are what counts."""
    program = build_target("threads.c", "-pthread")
    target = start("unshare", "-pf", "--kill-child", "--mount-proc", program)
    inside = int(Path(f"/proc/{target.pid}/task/{target.pid}/children").read_text())
    before = text(inside)
    tracer = trace()
    tracer.attach(inside)
    target.tracer = tracer
    number = tracer.put(counting(program, "probed", body="exit"))
    target.go()
    target.expect("running")
    target.go()
    target.expect("stopped")
    hits = tracer.hits(number)
    tracer.detach()
    assert text(inside) == before
    assert [target.finish()] == hits
    assert {each.pid for each in tracer.records} == {inside}


def test_asleep_in_vfork_with_a_child_of_its_own(public: Path, start: Start, trace: Trace) -> None:
    """A child that shares the memory but is not traced would die of a breakpoint."""
    target = start(public, "vfork")
    target.go()
    target.expect("inside")
    assert "shares its memory" in refusal(trace(), target.pid)
    target.go()
    target.expect("stopped")
    assert target.finish() == 300


def test_probes_come_and_go_while_the_parent_is_asleep_in_vfork(
    public: Path, start: Start, trace: Trace
) -> None:
    target = start(public, "vfork")
    before = text(target.pid)
    tracer = trace(target)
    kept = tracer.put(counting(public, "probed"))
    target.go()
    target.expect("inside")
    for _ in range(2):
        tracer.remove(tracer.put(counting(public, "probed", "probed+0x8")))
    target.go()
    target.expect("stopped")
    assert tracer.hits(kept) == [300]
    tracer.detach()
    assert text(target.pid) == before
    assert target.finish() == 300


def test_the_first_probe_while_the_parent_is_asleep_in_vfork(
    public: Path, start: Start, trace: Trace
) -> None:
    """Only the child, which shares its memory, can make room for slots."""
    target = start(public, "vfork")
    before = text(target.pid)
    tracer = trace(target)
    target.go()
    target.expect("inside")
    number = tracer.put(counting(public, "probed"))
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [200]
    tracer.detach()
    assert text(target.pid) == before
    assert target.finish() == 300


def test_detaching_while_the_parent_is_asleep_in_vfork(
    public: Path, start: Start, trace: Trace
) -> None:
    """The breakpoints are removed at once; from the sleeper we detach when it wakes."""
    target = start(public, "vfork")
    before = text(target.pid)
    tracer = trace(target)
    tracer.put(counting(public, "probed"))
    target.go()
    target.expect("inside")
    tracer.sock.sendall(protocol.pack(protocol.Detach(tracer.next(), tracer.target)))
    target.go()
    target.expect("stopped")
    assert tracer.wait().how == "detached"
    assert text(target.pid) == before
    assert target.finish() == 300
