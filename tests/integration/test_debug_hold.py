"""A held target: who may connect, what resumes it, and what single packets do."""

from __future__ import annotations

import os
import select
import stat
import subprocess
from pathlib import Path

import pytest

from dprobed.program.exits import DEBUGGER, NO_DEBUGGER
from dprobed.wire import protocol
from tests.conftest import BuildTarget
from tests.integration.client_support import DPROBE, running_daemon
from tests.integration.conftest import Start, Trace
from tests.integration.debug_support import (
    Client,
    await_hold,
    holding,
    put,
    status,
    told,
    when,
)
from tests.integration.harness import PATIENCE, RefusedError, Target, TracerProcess, counting, text

NOBODY = 65534


@pytest.fixture
def debugged(build_target: BuildTarget) -> Path:
    return build_target("debugged.c", "-pthread")


def held_at_50(program: Path, target: Target, tracer: TracerProcess) -> str:
    """Let it run into the probe; where a debugger connects."""
    put(tracer, holding(program, "probed", when("rdi", 50)))
    target.go()
    found = await_hold(tracer)
    assert found.held == [target.pid]
    return found.socket


def own_text(pid: int, program: Path) -> list[bytes]:
    """The program's code as it is in memory."""
    return [data for line, data in text(pid).items() if str(program) in line]


def ends_well(target: Target) -> None:
    target.expect("OK")
    assert target.number("total") == 5050
    assert target.process.wait(PATIENCE) == 0


def test_socket_is_its_owners(debugged: Path, start: Start, trace: Trace) -> None:
    target = start(debugged)
    tracer = trace(target)
    where = Path(held_at_50(debugged, target, tracer))
    assert stat.S_IMODE(where.stat().st_mode) == 0o600
    assert stat.S_IMODE(where.parent.stat().st_mode) == 0o700
    connect = f"import socket; socket.socket(socket.AF_UNIX).connect({str(where)!r})"
    if os.geteuid() == 0:
        done = subprocess.run(
            ["/usr/bin/python3", "-c", connect],
            user=NOBODY,
            capture_output=True,
            text=True,
            cwd="/",
        )
        assert "PermissionError" in done.stderr
    tracer.detach()
    ends_well(target)
    assert not where.parent.exists()


def test_without_a_debugger_it_goes_on_after_the_limit(
    debugged: Path, start: Start, trace: Trace
) -> None:
    target = start(debugged, "100", "2")
    tracer = trace()
    tracer.attach(target.pid, hold_limit=0.2)
    target.tracer = tracer
    put(tracer, holding(debugged, "probed", when("rdi", 50)))
    target.go()
    ends_well(target)
    ended = tracer.wait()
    assert [each.hits for each in ended.probes] == [100]
    assert "is resumed" in told(tracer)[-1]


def test_where_no_socket_can_be_it_goes_on(
    debugged: Path, start: Start, trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The full disk of the socket's folder; here: its path is too long. A hundred times."""
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    monkeypatch.setattr("dprobed.tracer.debug.entrance.socket_folder", lambda: folder)
    target = start(debugged, "100", "2")
    tracer = trace(target)
    put(tracer, holding(debugged, "probed"))
    before = len(list(Path(f"/proc/{tracer.pid}/fd").iterdir()))
    target.go()
    ends_well(target)
    assert len(list(Path(f"/proc/{tracer.pid}/fd").iterdir())) <= before
    ended = tracer.wait()
    assert [each.hits for each in ended.probes] == [100]
    notices = told(tracer)
    for notice in notices:
        assert notice.startswith("process ")
        assert "is not held: no socket for a debugger" in notice
    # After each try, which was told, there is none for a while, and the records say so.
    exits = [record.exit for record in tracer.records]
    assert exits[0] == DEBUGGER
    assert set(exits) == {DEBUGGER, NO_DEBUGGER}
    assert exits.count(DEBUGGER) <= 2 * len(notices)
    assert not list(folder.iterdir())


def test_resume_resumes_it(debugged: Path, start: Start, trace: Trace) -> None:
    target = start(debugged)
    tracer = trace(target)
    held_at_50(debugged, target, tracer)
    assert tracer.request(protocol.Query(tracer.next(), tracer.target)).suspended == []
    with pytest.raises(RefusedError, match="not held"):
        tracer.request(protocol.Resume(tracer.next(), tracer.target, 1))
    assert tracer.request(protocol.Resume(tracer.next(), tracer.target, target.pid)).tids == [
        target.pid
    ]
    ends_well(target)
    assert [each.hits for each in tracer.wait().probes] == [100]


def test_the_daemons_death_resumes_it(debugged: Path, start: Start, trace: Trace) -> None:
    target = start(debugged, "100", "2")
    tracer = trace(target)
    client = Client(held_at_50(debugged, target, tracer))
    assert client.ask(b"?").startswith(b"T05")
    tracer.close()
    ends_well(target)
    assert tracer.wait().how == "detached"
    client.close()


def test_a_disconnect_resumes_it(debugged: Path, start: Start, trace: Trace) -> None:
    target = start(debugged, "100", "1")
    tracer = trace(target)
    where = held_at_50(debugged, target, tracer)
    client = Client(where)
    assert client.ask(b"QStartNoAckMode") == b"OK"
    stop = client.ask(b"?")
    pc = next(part for part in stop.split(b";") if part.startswith(b"10:"))[3:]
    place = int.from_bytes(bytes.fromhex(pc.decode()), "little")
    for order in (b"Z0,%x,1", b"Z1,%x,1"):
        assert client.ask(order % (place + 7)) == b"OK"
    client.close()
    ends_well(target)


def test_nothing_of_a_debugger_stays(debugged: Path, start: Start, trace: Trace) -> None:
    target = start(debugged)
    before = own_text(target.pid, debugged)
    tracer = trace(target)
    put(tracer, holding(debugged, "outer", when("rdi", 100)))
    target.go()
    client = Client(await_hold(tracer).socket)
    pc = client.ask(b"p10")
    place = int.from_bytes(bytes.fromhex(pc.decode()), "little")
    assert client.ask(b"Z0,%x,1" % (place + 3)) == b"OK"
    assert client.ask(b"Z2,%x,8" % (place + 0x2000 & ~7)) == b"OK"
    # The middle of an instruction: no copy can run, the breakpoint is as it is.
    assert client.ask(b"Z0,%x,1" % (place + 8)) == b"OK"
    assert own_text(target.pid, debugged) != before
    shown = bytes.fromhex(client.ask(b"m%x,10" % place).decode())
    assert shown in before[0] and shown.count(b"\xcc") == 0
    for order in (b"z0,%x,1" % (place + 3), b"z0,%x,1" % (place + 8)):
        assert client.ask(order) == b"OK"
    tracer.remove()
    assert own_text(target.pid, debugged) == before
    assert client.ask(b"D") == b"OK"
    client.close()
    ends_well(target)


def test_interrupted_while_it_runs(debugged: Path, start: Start, trace: Trace) -> None:
    target = start(debugged, "100", "2")
    tracer = trace(target)
    put(tracer, holding(debugged, "outer"))
    target.go()
    client = Client(await_hold(tracer).socket)
    assert b"multiprocess+" in client.ask(b"qSupported:multiprocess+;swbreak+")
    # Hold the first call of `probed` for good, so that the workers run on.
    first = client.ask(b"?").split(b"thread:")[1].split(b";")[0]
    others = client.ask(b"qfThreadInfo")[1:].split(b",")
    assert first in others and len(others) == 3
    running = [each for each in others if each != first]
    client.interrupt(b"vCont;c:%s" % running[0])
    assert client.answer().startswith(b"T02thread:")
    client.interrupt(b"vCont;c:%s;c:%s" % tuple(running))
    assert client.answer().startswith(b"T02thread:")
    client.send(b"vCont;c")
    assert client.answer().startswith(b"W00")
    client.close()
    ends_well(target)


@pytest.mark.parametrize("step_over", [False, True])
def test_every_hit_of_every_thread_is_reported_once(
    build_target: BuildTarget, start: Start, trace: Trace, step_over: bool
) -> None:
    program = build_target("debug_threads.c", "-pthread")
    target = start(program, "50")
    tracer = trace(target)
    put(tracer, holding(program, "probed").replace("probed\n", "probed\nmax_hits = 1\n"))
    counted = put(tracer, counting(program, "probed"))
    target.go()
    client = Client(await_hold(tracer).socket)
    client.ask(b"qSupported:multiprocess+;swbreak+")
    assert client.ask(b"?").startswith(b"T05")
    place = number(client.ask(b"p10"))
    # Others may have come by before everything stood still.
    before = tracer.hits(counted)[0]
    stops = 0
    while True:
        if step_over:
            # As gdb steps over its breakpoint: taken out, one thread alone, put in again.
            client.ask(b"z0,%x,1" % place)
            tid = client.ask(b"qC")[2:]
            answer = client.ask(b"vCont;s:%s" % tid)
            assert answer.startswith(b"T05") and tid in answer
            assert place < number(client.ask(b"p10")) < place + 16
        client.ask(b"Z0,%x,1" % place)
        answer = client.ask(b"vCont;c")
        if answer.startswith(b"W00"):
            break
        assert answer.startswith(b"T05") and b"swbreak" in answer
        assert number(client.ask(b"p10")) == place
        stops += 1
    target.expect("OK")
    assert target.number("calls") == 200
    hits = {each.program: each.hits for each in tracer.wait().probes}
    assert (before + stops, hits[counted]) == (200, 200)
    client.close()


def number(answer: bytes) -> int:
    """A register's value."""
    return int.from_bytes(bytes.fromhex(answer.decode()), "little")


def test_a_range_is_stepped_through_at_once(debugged: Path, start: Start, trace: Trace) -> None:
    target = start(debugged, "100", "1")
    tracer = trace(target)
    client = Client(held_at_50(debugged, target, tracer))
    tid = client.ask(b"?").split(b"thread:")[1].split(b";")[0]
    place = number(client.ask(b"p10"))
    assert client.ask(b"vCont;r%x,%x:%s;c" % (place, place + 0x12, tid)).startswith(b"T05")
    assert number(client.ask(b"p10")) == place + 0x12
    assert client.ask(b"D") == b"OK"
    client.close()
    ends_well(target)


def test_suspended_stays_suspended(build_target: BuildTarget, start: Start, trace: Trace) -> None:
    program = build_target("debug_threads.c", "-pthread")
    target = start(program, "1")
    tracer = trace(target)
    put(
        tracer,
        f"""name = "{program}"
        gvars = 1
        offset = probed
        inc gv,0
        push gv,0
        push 3
        sub
        jz hold
        push gv,0
        push 4
        sub
        jz out
        suspend
        abort
        hold:
        exit debugger
        out:
        abort
        """,
    )
    target.go()
    client = Client(await_hold(tracer).socket)
    client.ask(b"?")
    suspended = tracer.request(protocol.Query(tracer.next(), tracer.target)).suspended
    assert len(suspended) == 2
    client.interrupt(b"vCont;c")
    assert client.answer().startswith(b"T02")
    assert tracer.request(protocol.Query(tracer.next(), tracer.target)).suspended == suspended
    assert client.ask(b"D") == b"OK"
    client.close()
    assert tracer.request(protocol.Resume(tracer.next(), tracer.target)).tids == suspended
    target.expect("OK")
    assert target.number("calls") == 4


def test_a_removed_breakpoint_is_not_reported(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("debug_threads.c", "-pthread")
    target = start(program, "3000")
    tracer = trace(target)
    put(tracer, holding(program, "probed").replace("probed\n", "probed\nmax_hits = 1\n"))
    counted = put(tracer, counting(program, "probed"))
    target.go()
    client = Client(await_hold(tracer).socket)
    client.ask(b"?")
    place = number(client.ask(b"p10"))
    for _ in range(30):
        assert client.ask(b"Z0,%x,1" % place) == b"OK"
        assert client.ask(b"vCont;c").startswith(b"T05")
        # At one of these times at least another thread has come to it as well.
        assert client.ask(b"z0,%x,1" % place) == b"OK"
        client.interrupt(b"vCont;c")
        assert client.answer().startswith(b"T02")
    assert client.ask(b"D") == b"OK"
    client.close()
    target.expect("OK")
    assert target.number("calls") == 12000
    assert {each.program: each.hits for each in tracer.wait().probes}[counted] == 12000


def test_signals_that_the_debugger_does_not_want(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("debug_signals.c")
    target = start(program)
    tracer = trace(target)
    put(tracer, holding(program, "probed", when("rdi", 2)))
    target.go()
    client = Client(await_hold(tracer).socket)
    client.ask(b"?")
    assert client.ask(b"QPassSignals:1e;14") == b"OK"
    assert client.ask(b"vCont;c").startswith(b"W00")
    client.close()
    target.expect("OK")
    assert target.number("first") == 3


def test_an_instruction_with_a_probe_is_not_written_over(
    debugged: Path, start: Start, trace: Trace
) -> None:
    target = start(debugged)
    tracer = trace(target)
    client = Client(held_at_50(debugged, target, tracer))
    place = number(client.ask(b"p10"))
    before = client.ask(b"m%x,20" % place)
    for offset in (-1, 0, 6):
        assert client.ask(b"M%x,2:9090" % (place + offset)) == b"E01"
    assert client.ask(b"m%x,20" % place) == before
    assert client.ask(b"M%x,2:%s" % (place + 7, before[14:18])) == b"OK"
    assert client.ask(b"D") == b"OK"
    client.close()
    ends_well(target)


def test_a_dump_of_a_held_process(
    debugged: Path,
    start: Start,
    trace: Trace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DPROBED_DUMPS", str(tmp_path))
    target = start(debugged, "100", "2")
    tracer = trace(target)
    client = Client(held_at_50(debugged, target, tracer))
    client.ask(b"?")
    dump = tracer.request(protocol.Dump(tracer.next(), tracer.target)).dump
    assert dump is not None
    done = subprocess.run(
        ["gdb", "-nx", "-batch", "-ex", "backtrace", str(debugged), dump.path],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "#0  probed (n=n@entry=50)" in done.stdout
    assert client.ask(b"vCont;c").startswith(b"W00")
    client.close()
    ends_well(target)
    assert [each.hits for each in tracer.wait().probes] == [100]
    assert capfd.readouterr().err == ""


def test_a_second_debugger_is_refused(debugged: Path, start: Start, trace: Trace) -> None:
    target = start(debugged)
    tracer = trace(target)
    where = held_at_50(debugged, target, tracer)
    client = Client(where)
    assert client.ask(b"qAttached") == b"1"
    second = Client(where)
    with pytest.raises((AssertionError, ConnectionError)):
        second.ask(b"?")
    second.close()
    assert status(tracer).attached
    with pytest.raises(RefusedError, match="not held"):
        tracer.request(protocol.Resume(tracer.next(), tracer.target, target.pid))
    assert client.ask(b"D") == b"OK"
    client.close()
    ends_well(target)


def test_probes_go_in_and_out_while_it_is_held(debugged: Path, start: Start, trace: Trace) -> None:
    target = start(debugged)
    tracer = trace(target)
    where = held_at_50(debugged, target, tracer)
    client = Client(where)
    client.ask(b"?")
    more = put(tracer, holding(debugged, "probed", when("rdi", 60)))
    tracer.remove(1)
    client.send(b"vCont;c")
    assert client.answer().startswith(b"T05")
    # The hit at which it was held is no hit of the program that came after it.
    assert [each.hits for each in tracer.query(more)] == [10]
    client.send(b"vCont;c")
    assert client.answer().startswith(b"W00")
    ends_well(target)


@pytest.mark.parametrize(
    "packet",
    [
        b"m", b"mzz,1", b"m0,10", b"M0,1:00", b"X0,1:a", b"Z0,0,1", b"Z2,1,8", b"p999", b"P10=zz",
        b"Hgzz", b"vCont;x", b"T99999", b"qXfer:auxv:read::zz", b"vFile:pread:5,5,5",
        b"vFile:open:00",
    ],
)  # fmt: skip
def test_malformed_packets_are_answered_by_an_error(
    debugged: Path, start: Start, trace: Trace, packet: bytes
) -> None:
    target = start(debugged)
    tracer = trace(target)
    client = Client(held_at_50(debugged, target, tracer))
    assert client.ask(packet)[:1] in (b"E", b"F")
    assert client.ask(b"vMustReplyEmpty") == b""
    client.raw(b"$g#00")
    assert client.ask(b"D") == b"OK"
    client.close()
    ends_well(target)


def test_the_client_lists_and_starts_gdb(debugged: Path, tmp_path: Path, start: Start) -> None:
    program = tmp_path / "hold.rpn"
    program.write_text(holding(debugged, "probed", when("rdi", 50)))
    with running_daemon(tmp_path) as daemon:
        target = start(debugged, "100", "1")
        assert daemon.dprobe("debug").stderr == "no process is held for a debugger\n"
        done = daemon.dprobe("insert", program, "--pid", target.pid)
        assert done.returncode == 0, done.stderr
        target.go()
        while not (rows := daemon.json("debug")):
            pass
        assert (rows[0]["pid"], rows[0]["state"], rows[0]["threads"]) == (
            target.pid, "held", [target.pid],
        )  # fmt: skip
        script = ("-nx", "-batch", "-ex", "print n", "-ex", "set var factor = 2", "-ex", "detach")
        done = daemon.dprobe("debug", target.pid, *script)
        assert "$1 = 50" in done.stdout, done.stdout + done.stderr
        target.expect("OK")
        assert target.number("total") == sum(range(50)) + 2 * sum(range(50, 101))
        assert "not held" in daemon.dprobe("debug", target.pid).stderr


def test_resume_and_the_daemons_end(debugged: Path, tmp_path: Path, start: Start) -> None:
    program = tmp_path / "hold.rpn"
    program.write_text(holding(debugged, "probed", when("rdi", 50)))
    with running_daemon(tmp_path) as daemon:
        resumed, left = start(debugged), start(debugged)
        for target in (resumed, left):
            assert daemon.dprobe("insert", program, "--pid", target.pid).returncode == 0
            target.go()
        while len(daemon.json("debug")) < 2:
            pass
        assert daemon.dprobe("resume", resumed.pid).returncode == 0
        ends_well(resumed)
        daemon.stop()
        ends_well(left)


def test_run_says_where_a_debugger_can_come(debugged: Path, tmp_path: Path) -> None:
    program = tmp_path / "hold.rpn"
    program.write_text(holding(debugged, "probed", when("rdi", 50)))
    process = subprocess.Popen(
        [DPROBE, "run", program, "--", debugged],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stderr is not None and process.stdout is not None
    try:
        process.stdin.write("\n")
        process.stdin.flush()
        while "target remote" not in (line := process.stderr.readline()):
            assert line, "it said nothing of a debugger"
        where = line.split("target remote ")[1].split("'")[0]
        client = Client(where)
        assert client.ask(b"?").startswith(b"T05")
        assert client.ask(b"D") == b"OK"
        client.close()
        assert "total 5050" in process.stdout.read()
        assert process.wait(PATIENCE) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()


def order(target: Target, letter: bytes) -> None:
    target.process.stdin.write(letter)
    target.process.stdin.flush()


def test_the_thread_alone_is_held_where_that_is_wanted(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """The others go on until a debugger is there, and again when it is not there any more."""
    program = build_target("debug_serves.c", "-pthread")
    target = start(program)
    tracer = trace(target, hold_thread=True)
    put(tracer, holding(program, "probed"))
    order(target, b"w")
    found = await_hold(tracer)
    (held,) = found.held
    assert held != target.pid
    assert told(tracer)[-1].startswith(f"thread {held} of process {target.pid} is held")
    order(target, b"p")
    target.expect("here")
    assert tracer.request(protocol.Resume(tracer.next(), tracer.target, held)).tids == [held]
    target.expect("worked")

    order(target, b"w")
    found = await_hold(tracer)
    client = Client(found.socket)
    assert client.ask(b"?").startswith(b"T05")
    order(target, b"p")
    # All of it stands still for the debugger.
    assert not select.select([target.process.stdout], [], [], 0)[0]
    assert client.ask(b"D") == b"OK"
    assert {target.line(), target.line()} == {"here", "worked"}
    order(target, b"e")
    target.expect("OK")
    assert [each.hits for each in tracer.wait().probes] == [2]


def test_a_held_thread_goes_on_after_the_limit(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("debug_serves.c", "-pthread")
    target = start(program)
    tracer = trace(target, hold_thread=True, hold_limit=0.2)
    put(tracer, holding(program, "probed"))
    order(target, b"w")
    target.expect("worked")
    assert status(tracer).expired == 1
    assert "is resumed" in told(tracer)[-1]
    order(target, b"e")
    target.expect("OK")
