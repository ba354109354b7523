"""lldb on a held target: it speaks the same protocol in its own way."""

from __future__ import annotations

import re
import subprocess

from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.debug_support import await_hold, holding, put, when
from tests.integration.harness import PATIENCE


def test_registers_backtrace_and_on(build_target: BuildTarget, start: Start, trace: Trace) -> None:
    program = build_target("debugged.c", "-pthread")
    target = start(program, "100", "1")
    tracer = trace(target)
    put(tracer, holding(program, "probed", when("rdi", 50)))
    target.go()
    where = await_hold(tracer).socket
    orders = [
        f"target create {program}",
        f"process connect -p gdb-remote unix-connect://{where}",
        "register read rip rdi",
        "thread backtrace",
        "thread list",
        "breakpoint set -n probed",
        "continue",
        "frame variable n",
        "breakpoint delete -f",
        "continue",
    ]
    command = ["lldb", "-x", "-b"]
    for order in orders:
        command += ["-o", order]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL
    )
    output = done.stdout
    assert re.search(r"rip = 0x\w+ .*`probed", output), output + done.stderr
    assert "rdi = 0x0000000000000032" in output
    assert re.search(r"frame #0: .*`probed\(n=50\).*\n.*frame #1: .*`outer.*\n.*`main", output)
    assert "thread #2" in output
    assert "(long) n = 51" in output
    assert "exited with status = 0" in output
    target.expect("OK")
    assert target.number("total") == 5050
    assert [each.hits for each in tracer.wait().probes] == [100]
