"""One trap hit, beside the least that ptrace can do and beside gdb's conditional breakpoint.

The target calls an empty function and times itself. Ours runs a program of three instructions at
each hit and sends its record on. The C loop does nothing but stop, get the registers, set them and
go on. Both share one CPU with their target. gdb is run as one runs it (where it likes) and on
one CPU as well.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from statistics import median

from tests.benchmarks.driver import TICK_PROGRAM, Target, Tracer, by_load, compiled
from tests.benchmarks.figures import Figure, ratio_of_medians


def c_loop(binary: Path, hits: int, cpu: int) -> float:
    """Nanoseconds of a hit in the C loop."""
    command = ["taskset", "-c", str(cpu), str(binary), str(hits)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def gdb(binary: Path, hits: int, cpu: int | None) -> float:
    """Nanoseconds of a hit of a conditional breakpoint whose condition is false."""
    orders = binary.with_suffix(".in")
    orders.write_text(f"{hits}\n")
    pin = [] if cpu is None else ["taskset", "-c", str(cpu)]
    condition = ["-ex", "break tick if n == -1", "-ex", f"run < {orders}"]
    done = subprocess.run(
        [*pin, "gdb", "-q", "-nx", "-batch", *condition, str(binary)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "DEBUGINFOD_URLS": ""},
    )
    numbers = [line for line in done.stdout.splitlines() if line[:1].isdigit()]
    return float(numbers[0])


def measure(smoke: bool) -> tuple[list[Figure], list[str]]:
    """Alternate all sides for some rounds."""
    rounds, hits = (1, 500) if smoke else (7, 30_000)
    cpu, *_, other = by_load() * 2
    ours: list[float] = []
    loop: list[float] = []
    gdb_free: list[float] = []
    gdb_pinned: list[float] = []
    with compiled("tick") as tick, compiled("ptrace_loop") as ptrace_loop:
        with Target(tick, cpu) as target, Tracer(target.pid) as tracer:
            everywhere = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {other})  # what takes the records keeps out of the way
            try:
                tracer.insert(TICK_PROGRAM.format(binary=tick))
                for _ in range(rounds):
                    target.tell(str(hits))
                    ours.append(float(tracer.until_line(target)))
                    loop.append(c_loop(ptrace_loop, hits, cpu))
            finally:
                os.sched_setaffinity(0, everywhere)
            probe = tracer.query().probes[0]
            if probe.hits != rounds * hits or probe.ran != probe.hits:
                raise RuntimeError(f"{rounds * hits} calls, but {probe.hits} hits, {probe.ran} ran")
        for _ in range(min(rounds, 3)):
            gdb_free.append(gdb(tick, min(hits, 2_000), None))
            gdb_pinned.append(gdb(tick, min(hits, 2_000), cpu))
    hit = median(ours)
    figures = [
        Figure(
            "trap hit",
            hit,
            "ns",
            "C ptrace loop, same CPU",
            median(loop),
            ratio_of_medians(ours, loop),
            at_most=1.6,
        ),
        Figure(
            "trap hit",
            hit,
            "ns",
            "gdb, false condition",
            median(gdb_free),
            ratio_of_medians(gdb_free, ours),
            at_least=12,
        ),
        Figure(
            "trap hit",
            hit,
            "ns",
            "gdb, the same on one CPU",
            median(gdb_pinned),
            ratio_of_medians(gdb_pinned, ours),
        ),
    ]
    return figures, []
