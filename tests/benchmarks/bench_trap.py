"""One trap hit, beside the least that ptrace can do and beside gdb's conditional breakpoint.

The target calls an empty function and times itself. Ours runs a program of three instructions at
each hit and sends its record on. The C loop does nothing but stop, get the registers, set them and
go on. A stop costs several times as much where tracer and target are on two CPUs: so there are
figures on one CPU, for what the work costs, and without any rule, as one runs these tools.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
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


def ours(
    binary: Path, rounds: int, hits: int, cpu: int | None = None, *, as_nobody: bool = False
) -> Iterator[float]:
    """Nanoseconds of a hit of ours, once for each round; the target is kept on ``cpu`` if given."""
    with (
        Target(binary, cpu, as_nobody=as_nobody) as target,
        Tracer(target.pid, as_nobody=as_nobody) as tracer,
    ):
        tracer.insert(TICK_PROGRAM.format(binary=binary))
        for _ in range(rounds):
            target.tell(str(hits))
            yield float(tracer.until_line(target))
        probe = tracer.query().probes[0]
        if probe.hits != rounds * hits or probe.ran != probe.hits:
            raise RuntimeError(f"{rounds * hits} calls, but {probe.hits} hits, {probe.ran} ran")


@contextlib.contextmanager
def kept_to(cpu: int) -> Iterator[None]:
    """What takes the records keeps out of the way."""
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, everywhere)


def measure(smoke: bool) -> tuple[list[Figure], list[str]]:
    """Each pair alternates: on one CPU beside C and gdb, then scheduled freely beside gdb."""
    rounds, hits = (1, 500) if smoke else (7, 30_000)
    fewer = min(hits, 2_000)
    cpu, *_, other = by_load() * 2
    pinned: list[float] = []
    free: list[float] = []
    loop: list[float] = []
    gdb_pinned: list[float] = []
    nobodys: list[float] = []
    gdb_free: list[float] = []
    with compiled("tick") as tick, compiled("ptrace_loop") as ptrace_loop:
        hit = ours(tick, rounds, hits, cpu)
        for _ in range(rounds):
            with kept_to(other):
                pinned.append(next(hit))
            loop.append(c_loop(ptrace_loop, hits, cpu))
            gdb_pinned.append(gdb(tick, fewer, cpu))
        next(hit, None)
        hit = ours(tick, rounds, hits)
        for _ in range(rounds):
            free.append(next(hit))
            gdb_free.append(gdb(tick, fewer, None))
        next(hit, None)
        hit = ours(tick, rounds, hits, as_nobody=os.geteuid() == 0)
        for _ in range(rounds):
            nobodys.append(next(hit))
            gdb_free.append(gdb(tick, fewer, None))
        next(hit, None)
    return [
        _beside("trap hit, one CPU", pinned, "C ptrace loop", loop, most=2),
        _beside("trap hit, one CPU", pinned, "gdb, false condition", gdb_pinned),
        _beside("trap hit, scheduled freely", free, "C ptrace loop", loop, most=2),
        _beside("trap hit, scheduled freely", free, "gdb, false condition", gdb_free, least=12),
        _beside("the same, without any rights", nobodys, "gdb, false condition", gdb_free),
    ], ["one CPU: both are kept to the one of their target; ours goes there by itself"]


def _beside(
    what: str,
    mine: list[float],
    peer: str,
    theirs: list[float],
    *,
    most: float | None = None,
    least: float | None = None,
) -> Figure:
    """The ratio says how many times the lesser of the two the other one takes."""
    ratio = ratio_of_medians(mine, theirs) if most else ratio_of_medians(theirs, mine)
    return Figure(what, median(mine), "ns", peer, median(theirs), ratio, most, least)
