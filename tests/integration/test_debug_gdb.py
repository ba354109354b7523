"""The real gdb on a target that a probe program has held."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.debug_support import await_hold, gdb, holding, put, values, when
from tests.integration.harness import PATIENCE, Target, TracerProcess, counting


@pytest.fixture
def debugged(build_target: BuildTarget) -> Path:
    return build_target("debugged.c", "-pthread")


def ending(target: Target, tracer: TracerProcess) -> tuple[int, list[int]]:
    """Let it end: its total, and the hits of each probe."""
    target.expect("OK")
    assert target.line() is None
    assert target.process.wait(PATIENCE) == 0
    ended = tracer.wait()
    assert ended.how == "exited"
    return target.number("total"), [each.hits for each in ended.probes]


def test_a_session(debugged: Path, start: Start, trace: Trace) -> None:
    target = start(debugged, "1000", "2")
    tracer = trace(target)
    put(tracer, holding(debugged, "probed", when("rdi", 900)))
    target.go()
    held = await_hold(tracer)
    output = gdb(
        held.socket,
        "backtrace",
        "print n",
        "print total",
        "print $pc == &probed",
        "info threads",
        "set var factor = 3",
        "step",
        "print total",
        "finish",
        "watch total",
        "continue",
        "print n",
        "delete",
        "break probed if n == 950",
        "continue",
        "print n",
        "print total",
        "delete",
        "continue",
    )
    assert re.search(r"#0 +probed \(n=n@entry=900\).*\n#1 .* in outer .*\n#2 .* in main", output)
    assert len(re.findall(r'Thread .* "debugged', output)) >= 3
    before = sum(range(900))
    stepped = before + 3 * 900
    at_950 = before + 3 * sum(range(900, 950))
    assert values(output) == [
        "900", str(before), "1", str(stepped), "901", "950", str(at_950),
    ]  # fmt: skip
    assert f"Old value = {stepped}\nNew value = {stepped + 3 * 901}" in output
    assert "exited normally" in output
    assert ending(target, tracer) == (before + 3 * sum(range(900, 1001)), [1000])


def test_detached_it_goes_on_with_its_probes(debugged: Path, start: Start, trace: Trace) -> None:
    target = start(debugged)
    tracer = trace(target)
    put(tracer, holding(debugged, "probed", when("rdi", 50)))
    target.go()
    output = gdb(await_hold(tracer).socket, "break outer", "hbreak probed", "stepi", "detach")
    assert "detached" in output
    assert ending(target, tracer) == (5050, [100])


def test_original_bytes_where_probes_are(debugged: Path, start: Start, trace: Trace) -> None:
    target = start(debugged)
    look = ("x/12xb probed", "x/24xb outer")
    plain = bytes_shown(gdb("/nonexistent", *look, file=debugged))
    tracer = trace(target)
    put(tracer, holding(debugged, "probed", when("rdi", 50)))
    put(tracer, counting(debugged, "outer", "probed+0x7"))
    target.go()
    held = await_hold(tracer)
    assert len(plain) == 5
    assert bytes_shown(gdb(held.socket, *look, "detach")) == plain
    assert ending(target, tracer) == (5050, [100, 1, 100])


def bytes_shown(output: str) -> list[str]:
    """The bytes that ``x`` showed, without the addresses."""
    return [line.partition(":")[2] for line in output.splitlines() if "\t0x" in line]


def test_gdbs_breakpoints_and_probes_at_one_place(
    debugged: Path, start: Start, trace: Trace
) -> None:
    target = start(debugged)
    tracer = trace(target)
    put(tracer, holding(debugged, "probed", when("rdi", 20)))
    put(tracer, counting(debugged, "outer+0x13", body="exit"))
    target.go()
    held = await_hold(tracer)
    output = gdb(
        held.socket,
        "break *probed",
        "continue",
        "print n",
        "continue",
        "print n",
        "stepi",
        "stepi",
        "continue",
        "print n",
        "delete",
        "continue",
    )
    assert values(output) == ["21", "22", "23"], output
    total, hits = ending(target, tracer)
    assert (total, hits[0]) == (5050, 100)


def test_stepping_is_the_same_with_probes_on_every_instruction(
    debugged: Path, start: Start, trace: Trace
) -> None:
    def steps(probes: list[str]) -> list[str]:
        target = start(debugged)
        tracer = trace(target)
        put(tracer, holding(debugged, "probed", when("rdi", 50)))
        for place in probes:
            put(tracer, counting(debugged, place))
        target.go()
        script = ["stepi", "print (long)$pc - (long)&outer", "print $rsp", "print $rdi"]
        output = gdb(await_hold(tracer).socket, "print $rsp", *script * 60, "detach")
        found = values(output)
        assert len(found) == 181, output
        assert ending(target, tracer)[0] == 5050
        stack = int(found[0].split()[-1], 16)
        return [
            str(int(value.split()[-1], 16) - stack) if "0x" in value else value for value in found
        ]

    plain = steps([])
    places = {int(each) for each in plain[1::3]}
    assert len(places) > 12
    named = [f"outer+{place:#x}" for place in places if 0 <= place < 0x40]
    assert len(named) > 4
    assert steps(named) == plain


def test_a_function_is_called_from_gdb(debugged: Path, start: Start, trace: Trace) -> None:
    target = start(debugged)
    tracer = trace(target)
    put(tracer, holding(debugged, "probed", when("rdi", 50)))
    target.go()
    output = gdb(
        await_hold(tracer).socket,
        "call probed(7000)",
        "print n",
        "print $pc == &probed",
        "continue",
    )
    assert values(output) == ["50", "1"]
    # The call was a hit more; going on from the probe was none.
    assert ending(target, tracer) == (5050 + 7000, [101])


def test_registers_are_read_and_written(debugged: Path, start: Start, trace: Trace) -> None:
    avx = "avx" in Path("/proc/cpuinfo").read_text().split()
    target = start(debugged)
    tracer = trace(target)
    put(tracer, holding(debugged, "probed", when("rdi", 50)))
    target.go()
    output = gdb(
        await_hold(tracer).socket,
        "set var $rdi = 150",
        "set var $xmm3.v2_int64[1] = 0x1234567812345678",
        "print $rdi",
        "print/x $xmm3.v2_int64[1]",
        "set var $st0 = 2.5",
        "print $st0",
        "print/x $mxcsr",
        "print $fs_base != 0",
        *(["print $ymm3.v4_int64[1] == $xmm3.v2_int64[1]"] if avx else []),
        "continue",
    )
    wanted = ["150", "0x1234567812345678", "2.5", "0x1f80", "1", *(["1"] if avx else [])]
    assert values(output) == wanted, output
    assert ending(target, tracer) == (5150, [100])


def test_each_thread_that_hits_is_reported(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("debug_threads.c", "-pthread")
    target = start(program, "1")
    tracer = trace(target)
    put(tracer, holding(program, "probed"))
    target.go()
    held = await_hold(tracer)
    output = gdb(held.socket, "backtrace", *["continue"] * 4)
    assert re.search(r"#0 +probed \(\).*\n#1 .* in work \(", output)
    assert output.count("received signal SIGTRAP") == 3
    assert "exited normally" in output
    target.expect("OK")
    assert target.number("calls") == 4
    assert [each.hits for each in tracer.wait().probes] == [4]


def test_thread_local_variables(debugged: Path, start: Start, trace: Trace) -> None:
    target = start(debugged, "100", "1")
    tracer = trace(target)
    put(tracer, holding(debugged, "probed", when("rdi", 50)))
    target.go()
    output = gdb(
        await_hold(tracer).socket,
        "print turns",
        "thread 2",
        "set var turns = -123456789012345",
        "print turns",
        "print errno",
        "thread 1",
        "print turns",
        "detach",
    )
    assert values(output) == ["0", "-123456789012345", "0", "0"], output
    assert ending(target, tracer) == (5050, [100])


def test_libraries_and_files_come_from_the_target(
    debugged: Path, start: Start, trace: Trace
) -> None:
    target = start(debugged)
    tracer = trace(target)
    put(tracer, holding(debugged, "probed", when("rdi", 50)))
    target.go()
    output = gdb(
        await_hold(tracer).socket,
        "info sharedlibrary",
        "info symbol getchar",
        "info proc mappings",
        "info auxv",
        "detach",
        sysroot="target:",
    )
    assert re.search(r"0x\w+ +0x\w+ +Yes.* target:/.*libc\.so\.6", output), output
    assert "getchar in section .text of target:" in output
    assert "AT_ENTRY" in output
    assert ending(target, tracer)[0] == 5050


def test_signals_in_and_out(build_target: BuildTarget, start: Start, trace: Trace) -> None:
    program = build_target("debug_signals.c")
    target = start(program)
    tracer = trace(target)
    put(tracer, holding(program, "probed", when("rdi", 1)))
    target.go()
    output = gdb(
        await_hold(tracer).socket,
        "continue",
        "print $_siginfo.si_signo",
        "continue",
        "signal 0",
        "signal SIGUSR2",
    )
    assert output.count("Program received signal SIGUSR1") == 3
    assert "received signal SIGUSR2" not in output
    assert values(output) == ["10"]
    assert "exited normally" in output
    target.expect("OK")
    # The first was passed on, the second suppressed, the third replaced.
    assert (target.number("first"), target.number("second")) == (1, 1)


def test_exec_under_gdb(build_target: BuildTarget, start: Start, trace: Trace) -> None:
    program = build_target("debug_threads.c", "-pthread")
    target = start(program, "3", "exec")
    tracer = trace(target)
    put(tracer, holding(program, "probed").replace("probed\n", "probed\nmax_hits = 1\n"))
    target.go()
    held = await_hold(tracer)
    output = gdb(held.socket, "catch exec", "continue", "info inferiors", "continue")
    assert "Catchpoint 1 (exec'd /" in output
    assert "exited normally" in output
    target.expect("OK")


def test_killed_by_gdb(debugged: Path, start: Start, trace: Trace) -> None:
    target = start(debugged)
    tracer = trace(target)
    put(tracer, holding(debugged, "probed"))
    target.go()
    assert "killed" in gdb(await_hold(tracer).socket, "kill")
    assert target.process.wait(PATIENCE) == -9
    ended = tracer.wait()
    assert (ended.how, ended.status) == ("killed", 9)


def test_next_while_a_signal_arrives_that_gdb_wants_to_know_nothing_of(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """Each goes to the next line, not into the handler, which runs and sees who sent the signal."""
    program = build_target("debug_steps.c", "-O0")
    target = start(program)
    tracer = trace(target)
    put(tracer, holding(program, "probed", when("rdi", 5)))
    target.go()
    held = await_hold(tracer)
    steps = ["next", "frame"] * 6
    output = gdb(
        held.socket,
        "handle SIGALRM nostop noprint pass",
        "frame",
        *steps,
        "detach",
    )
    lines = [int(each) for each in re.findall(r"^#0 .*debug_steps\.c:(\d+)$", output, re.MULTILINE)]
    functions = re.findall(r"^#0 +(?:0x\w+ in )?(\w+) ", output, re.MULTILINE)
    assert set(functions) == {"probed"}, output
    assert lines[1:] == list(range(lines[1], lines[1] + 6)), output
    total, _ = ending(target, tracer)
    assert target.number("forged") == 0
    assert total == 12
