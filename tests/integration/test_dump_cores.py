"""Cores of live processes: what debuggers read in them, and that the process notices nothing."""

from __future__ import annotations

import os
import pwd
import re
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from dprobed.corefile import ledger
from dprobed.wire import protocol
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.dump_support import PROGRAM, about, children, core_of, gdb, no_core
from tests.integration.harness import PATIENCE, RefusedError, Target, TracerProcess, counting
from tests.integration.silent_fs import SilentFiles


@pytest.fixture
def cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cores"
    monkeypatch.setenv("DPROBED_DUMPS", str(folder))
    monkeypatch.setenv("DPROBED_JOURNAL_SOCKET", str(tmp_path / "no journal"))
    return folder


@pytest.fixture
def program(build_target: BuildTarget) -> Path:
    return build_target("dumped.c", "-pthread")


def put(tracer: TracerProcess, module: Path, passed: int = 0) -> int:
    """The program that exits to dump."""
    number, probes = tracer.insert(
        PROGRAM.format(module=module, passed=passed), facilities={"dump": 3}
    )
    assert [each.state for each in probes] == ["active"]
    return number


def dump(tracer: TracerProcess, zstd: bool = False) -> protocol.DumpStatus:
    found = tracer.request(protocol.Dump(tracer.next(), tracer.target, zstd)).dump
    assert found is not None
    return found


def finish(target: Target, tracer: TracerProcess) -> None:
    """Resume, and see that nothing was noticed."""
    tracer.detach()
    assert len(children(target.pid)) == 1
    assert target.finish() == 100


def test_a_core_at_the_probe(cores: Path, program: Path, start: Start, trace: Trace) -> None:
    target = start(program)
    tracer = trace(target)
    put(tracer, program, passed=40)
    target.go()
    core = core_of(tracer)
    target.expect("stopped")
    said = gdb(
        program,
        core,
        "backtrace",
        "p $pc == (long)&probed",
        "x/i $pc",
        "up",
        "p local",
        "p shown",
        "p calls",
        "info threads",
        "thread apply all backtrace",
        "info sharedlibrary",
        "p $_siginfo.si_signo",
    )
    assert "warning" not in said, said
    assert re.search(r"#0 .* in probed \(\)\n#1 .* in work \(round=(round@entry=)?40\)", said), said
    assert "$1 = 1" in said
    assert re.search(r"=> .*<probed>:\s+lock incq", said)
    assert '$2 = {number = 40, text = "here' in said
    assert '$3 = {number = 4711, text = "in the core' in said
    assert "$4 = 40" in said
    assert said.count("(LWP ") >= 3
    assert said.count("in wait_deep (depth=") == 4
    assert "in waiter (result=" in said
    assert "libc.so.6" in said
    assert "$5 = 5" in said
    told = about(core)
    assert told["how"] == "snapshot"
    assert told["probe"]["place"] == "probed+0x0"
    assert told["record"]["hit"] == 41
    assert told["record"]["log"] == [{"words": [told["registers"]["rip"]]}]
    assert told["registers"]["rip"] == told["probe"]["address"]
    assert told["threads"][0] == target.pid
    assert re.fullmatch("[0-9a-f]{40}", told["modules"][0]["build_id"])
    assert told["limits"]["hourly"] == 5
    assert told["process_limits"]["Max open files"]
    finish(target, tracer)


def test_other_tools_read_it(cores: Path, program: Path, start: Start, trace: Trace) -> None:
    target = start(program)
    tracer = trace(target)
    put(tracer, program)
    target.go()
    core = core_of(tracer)
    target.expect("stopped")
    stack = subprocess.run(
        ["eu-stack", f"--core={core}", f"--executable={program}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    first = stack.split("TID ")[1]
    assert re.match(rf"{target.pid}:\n#0 +0x\w+ probed\n#1 +0x\w+ work\n", first), first
    assert stack.count("TID ") == 3
    notes = subprocess.run(
        ["eu-readelf", "-n", core], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    for kind, count in (
        ("PRSTATUS", 3),
        ("FPREGSET", 3),
        ("X86_XSTATE", 3),
        ("PRPSINFO", 1),
        ("SIGINFO", 1),
        ("AUXV", 1),
        ("FILE", 1),
    ):
        assert len(re.findall(rf"\d  {kind}$", notes, re.MULTILINE)) == count, (kind, notes)
    finish(target, tracer)


def test_lldb_reads_it(cores: Path, program: Path, start: Start, trace: Trace) -> None:
    target = start(program)
    tracer = trace(target)
    put(tracer, program, passed=40)
    target.go()
    core = core_of(tracer)
    target.expect("stopped")
    orders = ("thread list", "register read rip", "bt", "up", "frame variable local", "p calls")
    command: list[str | Path] = ["lldb", "-x", "-b", "-c", core, program]
    for order in orders:
        command += ["-o", order]
    said = subprocess.run(
        command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    ).stdout
    assert re.search(rf"^\* thread #1: tid = {target.pid}, .*`probed.* SIGTRAP$", said, re.M), said
    assert re.search(r"thread #[23]: .*`__libc_pause .*\n", said)
    assert re.search(r"rip = 0x\w+ .*`probed$", said, re.M)
    assert re.search(r"\* frame #0: .*`probed\n +frame #1: .*`work\(.*\n +frame #2: .*`main", said)
    assert '(detail) local = (number = 40, text = "here' in said
    assert "(long) $0 = 40" in said
    finish(target, tracer)


def test_which_memory_is_in_it(cores: Path, program: Path, start: Start, trace: Trace) -> None:
    target = start(program)
    tracer = trace(target)
    done = dump(tracer)
    said = gdb(
        program,
        done.path,
        "p filled[70000]",
        "p sparse[5 * 4096]",
        "p sparse[6 * 4096]",
        "p unforked[70000]",
        "p secret[0]",
    )
    assert "$1 = 102 'f'" in said
    assert "$2 = 120 'x'" in said
    assert "$3 = 0" in said
    assert "$4 = 117 'u'" in said
    assert "$5 = 115" not in said
    content = Path(done.path).read_bytes()
    assert b"f" * 4096 in content
    assert b"s" * 4096 not in content
    status = Path(done.path).stat()
    assert (status.st_size, status.st_blocks * 512) == (done.size, done.bytes)
    assert done.bytes < done.size / 4
    Path(f"/proc/{target.pid}/coredump_filter").write_text("0x10")
    assert b"f" * 4096 not in Path(dump(tracer).path).read_bytes()
    target.go()
    target.expect("stopped")
    finish(target, tracer)


def test_compressed(cores: Path, program: Path, start: Start, trace: Trace) -> None:
    target = start(program)
    tracer = trace(target)
    done = dump(tracer, zstd=True)
    core = cores / "core"
    subprocess.run(["zstd", "-q", "-d", done.path, "-o", core], check=True, timeout=60)
    assert core.stat().st_size == done.size
    assert done.bytes < done.size / 10
    assert "in main ()" in gdb(program, core, "backtrace")
    target.go()
    target.expect("stopped")
    finish(target, tracer)


def test_a_process_that_cannot_be_copied_stays_stopped(
    cores: Path, build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """RLIMIT_NPROC of a user that has no process to spare."""
    program = build_target("crowd.c", "-pthread")
    for parent in list(program.parents)[:-2]:
        parent.chmod(parent.stat().st_mode | 0o055)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NPROC, (301, 301))

    target = start(program, user=61299, group=61299, preexec_fn=limit)
    tracer = trace(target)
    done = dump(tracer)
    told = about(Path(done.path))
    assert (done.how, told["how"]) == ("stopped", "stopped")
    assert "Resource temporarily unavailable" in told["why_stopped"]
    assert 0 < told["pause_ns"] <= done.pause_ns
    assert gdb(program, done.path, "thread apply all bt 1").count("\nThread ") == 300 + 1
    tracer.detach()
    target.go()
    target.expect("stopped")
    target.finish()


def test_a_target_killed_meanwhile(cores: Path, program: Path, start: Start, trace: Trace) -> None:
    target = start(program)
    tracer = trace(target)
    tracer.sock.sendall(protocol.pack(protocol.Dump(tracer.next(), tracer.target)))
    os.kill(target.pid, signal.SIGKILL)
    ended = tracer.wait()
    assert (ended.how, ended.status) == ("killed", signal.SIGKILL)
    whole = list(cores.glob("*.core"))
    assert not list(cores.glob(".*.part"))
    for core in whole:
        assert "in main ()" in gdb(program, core, "backtrace")


def test_full_disk(
    program: Path, start: Start, trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount: list[str | Path] = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "none", disk]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no right to mount")
    try:
        monkeypatch.setenv("DPROBED_DUMPS", str(disk))
        target = start(program)
        tracer = trace(target)
        with pytest.raises(RefusedError, match=rf"no core in {disk}: No space left on device"):
            dump(tracer)
        assert [path.name for path in disk.iterdir()] == [ledger.NAME]
        put(tracer, program)
        target.go()
        assert "No space left" in no_core(tracer, "no core in")
        target.expect("stopped")
        assert [path.name for path in disk.iterdir()] == [ledger.NAME]
        finish(target, tracer)
    finally:
        subprocess.run(["umount", disk], check=True, timeout=PATIENCE)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount so")
def test_a_folder_that_does_not_answer(
    build_target: BuildTarget,
    program: Path,
    start: Start,
    trace: Trace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process waits for it once, and for so long only."""
    with SilentFiles(build_target("silent_fs.c"), tmp_path) as mounted:
        mounted.mute()
        monkeypatch.setenv("DPROBED_DUMPS", str(mounted.mount / "cores"))
        target = start(program)
        tracer = trace(target)
        number = put(tracer, program)
        target.go()
        assert "no answer in 0.2 s" in no_core(tracer, "no core in")
        target.expect("stopped")
        assert tracer.hits(number) == [100]
        with pytest.raises(RefusedError, match="does not answer"):
            dump(tracer)
        finish(target, tracer)


def test_quota(
    cores: Path, program: Path, start: Start, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPROBED_DUMPS_COUNT", "2")
    monkeypatch.setenv("DPROBED_DUMPS_HOURLY", "1")
    target = start(program)
    tracer = trace(target)
    number = put(tracer, program)
    target.go()
    core_of(tracer)
    target.expect("stopped")
    assert tracer.hits(number) == [100]
    dump(tracer)
    with pytest.raises(RefusedError, match=r" has 2 cores \(limit 2\); `dprobe dumps"):
        dump(tracer)
    assert len(list(cores.glob("*.core"))) == 2
    finish(target, tracer)


def test_too_many_bytes(
    cores: Path, program: Path, start: Start, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPROBED_DUMPS_BYTES", "65536")
    target = start(program)
    tracer = trace(target)
    with pytest.raises(RefusedError, match="larger than the 65536 bytes that are left"):
        dump(tracer)
    assert [path.name for path in cores.iterdir()] == [ledger.NAME]
    target.go()
    target.expect("stopped")
    finish(target, tracer)


@pytest.mark.parametrize("uid", [0, 65534])
def test_reserved_memory_of_which_little_is_used(
    everybodys: Path,
    monkeypatch: pytest.MonkeyPatch,
    build_target: BuildTarget,
    start: Start,
    trace: Trace,
    uid: int,
) -> None:
    """Holes stay holes: in the core, and in the process, whose memory nobody allocates by looking.

    A user has no way to what is of System V, and it is read whole.
    """
    folder = everybodys / "cores"
    folder.mkdir(mode=0o700)
    os.chown(folder, uid, uid)
    monkeypatch.setenv("DPROBED_DUMPS", str(folder))
    monkeypatch.setenv("DPROBED_JOURNAL_SOCKET", str(everybodys / "no journal"))
    program = Path(shutil.copy(build_target("reserves.c"), everybodys))
    target = start(program, user=uid, group=uid, extra_groups=[])
    tracer = trace(target, uid)
    found = dump(tracer)
    before = [line for line in target.said if line.startswith(("blocks", "resident"))]
    target.go()
    target.expect("left")
    after = [line for line in target.said if line.startswith(("blocks", "resident"))][2:]
    assert after[0] == before[0] == "blocks 8"
    if uid == 0:
        assert after[1] == before[1]
    assert found.size > 1 << 42
    assert found.bytes < 16 << 20
    said = gdb(
        program,
        found.path,
        "print private + (1l << 41)",
        "print private + (1l << 42) - 4096",
        "print shared + (1l << 30)",
        "print segment + (1l << 29)",
        "print *(long *)(private + 4096)",
    )
    for text in ("in private memory", "at its end", "in shared memory", "in a segment"):
        assert f'"{text}"' in said, said
    assert "$5 = 0" in said
    tracer.detach()
    assert target.finish() == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("is_own", [True, False])
def test_the_folder_of_a_user(
    everybodys: Path,
    monkeypatch: pytest.MonkeyPatch,
    build_target: BuildTarget,
    start: Start,
    trace: Trace,
    is_own: bool,
) -> None:
    """XDG_STATE_HOME says where, if it is the user's: in a daemon of his own, not in root's."""
    uid = 65534
    home = pwd.getpwuid(uid).pw_dir
    state = everybodys / "state"
    state.mkdir()
    os.chown(state, uid, uid)
    program = Path(shutil.copy(build_target("reserves.c"), everybodys))
    monkeypatch.delenv("DPROBED_DUMPS", raising=False)
    monkeypatch.setenv("DPROBED_JOURNAL_SOCKET", str(everybodys / "no journal"))
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    monkeypatch.setenv("HOME", home if is_own else "/root")
    target = start(program, user=uid, group=uid, extra_groups=[])
    tracer = trace(target, uid)
    if is_own:
        core = Path(dump(tracer).path)
        assert core.parent == state / "dprobed/dumps"
        assert (core.stat().st_uid, core.stat().st_mode & 0o777) == (uid, 0o600)
        assert core.parent.stat().st_mode & 0o777 == 0o700
    elif not Path(home).exists():
        with pytest.raises(RefusedError, match=f"no core in {home}/.local/state/dprobed/dumps: "):
            dump(tracer)
        assert not list(state.iterdir())
    tracer.detach()
    target.go()
    assert target.finish() == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may fill memory so")
def test_a_process_of_which_a_thread_hears_of_forks(
    cores: Path, build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """A copy would wait for that thread, which is stopped: it is dumped without one."""
    program = build_target("hears.c", "-pthread")
    target = start(program, "own")
    tracer = trace(target)
    found = dump(tracer)
    assert found.how == "stopped"
    assert "is to hear of each fork" in about(Path(found.path))["why_stopped"]
    assert '"mine"' in gdb(program, found.path, "print area")
    target.go()
    target.expect("called")
    tracer.detach()
    assert target.finish() == 20


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may fill memory so")
def test_a_copy_that_waits_for_another_process(
    cores: Path, build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """Hits of another target are served meanwhile."""
    program = build_target("hears.c", "-pthread")
    target, other = start(program, "other"), start(program, "own")
    tracer = trace(target)
    tracer.attach(other.pid)
    number = tracer.put(counting(program, "probed"), other.pid)
    seq = tracer.next()
    tracer.sock.sendall(protocol.pack(protocol.Dump(seq, target.pid, False)))
    until_it_is_in(target.pid, "userfaultfd_event_wait_completion")
    other.go()
    other.expect("called")
    os.kill(target.number("other"), signal.SIGUSR1)
    while seq not in tracer._answers:
        tracer.receive()
    assert tracer.hits(number, other.pid) == [20]
    for each in (target, other):
        tracer.detach_from(each.pid)
        children = Path(f"/proc/{each.pid}/task/{each.pid}/children").read_text()
        assert all(f"other {child}" in each.said for child in children.split())
    other.finish()
    target.go()
    target.expect("called")
    target.finish()


def until_it_is_in(pid: int, function: str) -> None:
    """Wait until a process sleeps in this function of the kernel."""
    deadline = time.monotonic() + PATIENCE
    while function not in Path(f"/proc/{pid}/stack").read_text():
        assert time.monotonic() < deadline


def test_the_first_thing_that_is_done_with_a_process(
    cores: Path, build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """Nothing of ours is in it before, nor in the copy that is made."""
    target = start(build_target("lends.c"), "nothing")
    tracer = trace(target)
    dump = tracer.request(protocol.Dump(tracer.next(), target.pid, False)).dump
    assert dump is not None and (dump.how, Path(dump.path).exists()) == ("snapshot", True)
    tracer.detach()
    target.go()
    target.expect("stopped")
    target.finish()
