"""A debugger at the one call of many where a condition is true: a probe and gdb, beside gdb alone.

The target calls a function many times; the condition is true at the last call. Ours: a probe holds
the process there, gdb comes, prints the argument and goes. gdb alone has a conditional breakpoint
at the same function. Both from the target's first call to gdb's end, so the cost of starting gdb
and reading symbols is on both sides.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from statistics import median

from dprobed.wire import protocol
from tests.benchmarks.driver import Target, Tracer, by_load, compiled
from tests.benchmarks.figures import Figure

PROGRAM = """
name = "{binary}"
offset = tick
push r,rdi
push {last}
sub
jz hold
abort
hold:
exit debugger
"""


def _gdb(*orders: str, binary: Path, cpu: int | None = None) -> str:
    command = [] if cpu is None else ["taskset", "-c", str(cpu)]
    command += ["gdb", "-q", "-nx", "-batch", "-iex", "set sysroot /"]
    for order in orders:
        command += ["-ex", order]
    environment = {**os.environ, "DEBUGINFOD_URLS": ""}
    return subprocess.run(
        [*command, str(binary)], check=True, capture_output=True, text=True, env=environment
    ).stdout


def ours(binary: Path, calls: int, cpu: int | None) -> float:
    """Seconds with a probe that has the condition."""
    with Target(binary, cpu) as target, Tracer(target.pid) as tracer:
        tracer.insert(PROGRAM.format(binary=binary, last=calls - 1), debugger=1)
        begin = time.perf_counter()
        target.tell(str(calls))
        while True:
            events = [each for each in tracer.receive() if isinstance(each, protocol.TargetEvent)]
            if any(each.kind == "debugger" for each in events):
                break
        status = tracer.query().debugger
        if status is None:
            raise RuntimeError("the tracer says nothing of debugging")
        output = _gdb(f"target remote {status.socket}", "print n", "detach", binary=binary)
        took = time.perf_counter() - begin
        if f"$1 = {calls - 1}" not in output:
            raise RuntimeError(f"gdb says: {output}")
        tracer.until_line(target)
    return took


def gdb_alone(binary: Path, calls: int, cpu: int | None) -> float:
    """Seconds with gdb's own condition."""
    orders = binary.with_suffix(".in")
    orders.write_text(f"{calls}\n")
    begin = time.perf_counter()
    condition = f"break tick if n == {calls - 1}"
    output = _gdb(condition, f"run < {orders}", "print n", "continue", binary=binary, cpu=cpu)
    took = time.perf_counter() - begin
    if f"$1 = {calls - 1}" not in output:
        raise RuntimeError(f"gdb says: {output}")
    return took


def measure(smoke: bool) -> tuple[list[Figure], list[str]]:
    """Each side where it likes, and on one CPU; gdb alone takes a minute."""
    calls = 300 if smoke else 200_000
    what = f"true at the last of {calls:,} calls"
    cpu = by_load()[0]
    with compiled("tick") as binary:
        pinned = [ours(binary, calls, cpu)]
        theirs = gdb_alone(binary, calls, None)
        pinned.append(ours(binary, calls, cpu))
        theirs_pinned = gdb_alone(binary, calls, cpu)
        pinned.append(ours(binary, calls, cpu))
        free = ours(binary, calls, None)
    mine = median(pinned)
    figures = [
        Figure(what, free, "s", "gdb's condition", theirs, theirs / free, at_least=12),
        Figure(f"{what}, one CPU", mine, "s", "gdb there", theirs_pinned, theirs_pinned / mine),
    ]
    note = "one CPU: both are kept to the one of their target; else neither is"
    return figures, [note]
