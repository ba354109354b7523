"""One inline hit at a function's entry: a count and a record, beside none, trap and bpftrace; and
one of the signal engine without a tracer, beside a handler of SIGTRAP that does nothing.

The target calls an empty function and times itself: what a call takes without a probe is taken off.
bpftrace counts by an uprobe (where it is installed and we are root).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final

from tests.benchmarks.bench_trap import kept_to
from tests.benchmarks.driver import Target, Tracer, by_load, compiled
from tests.benchmarks.figures import Figure, ratio_of_medians

_COUNT = """
name = "{binary}"
vars = 1
offset = tick
inc lv,0
abort
"""
_RECORD = """
name = "{binary}"
offset = tick
push r,rdi
push r,rsi
push r,rdx
push r,rcx
log 4
exit
"""
#: The time between entry and return, by powers of two.
_LATENCY = """
name = "{binary}"
map = latency, hist
offset = tick
at = return
entry:
push time
pop e,0
return:
push time
push e,0
sub
madd latency
abort
"""
#: Records for which there is room until they are read.
_BURST: Final = 5_000
#: Seconds until bpftrace has put its probe in.
_PATIENCE: Final = 60


def plain(binary: Path, rounds: int, calls: int, cpu: int) -> Iterator[float]:
    """Nanoseconds of a call without a probe."""
    command = ["taskset", "-c", str(cpu), str(binary)]
    for _ in range(rounds):
        done = subprocess.run(
            command, input=f"{calls}\n", check=True, capture_output=True, text=True
        )
        yield float(done.stdout)


def ours(
    binary: Path, source: str, engine: str, rounds: int, calls: int, cpu: int
) -> Iterator[float]:
    """Nanoseconds of a call with a probe of ours at the function's entry; no record is lost."""
    records = calls if source == _RECORD else 0
    with Target(binary, cpu) as target, Tracer(target.pid) as tracer:
        tracer.insert(source.format(binary=binary), engine=engine)
        expected = 0
        for _ in range(rounds):
            target.tell(str(calls))
            yield float(tracer.until_line(target))
            expected += records
            while tracer.records < expected:
                for _ in tracer.receive():
                    pass
        probe = tracer.query().probes[0]
        if probe.hits != rounds * calls or probe.ran != probe.hits:
            raise RuntimeError(f"{rounds * calls} calls, but {probe.hits} hits, {probe.ran} ran")


def alone(binary: Path, rounds: int, calls: int, cpu: int) -> Iterator[float]:
    """Nanoseconds of a call that the signal engine counts where no tracer is left."""
    with Target(binary, cpu) as target, Tracer(target.pid) as tracer:
        tracer.insert(_COUNT.format(binary=binary), engine="signal")
        tracer.kill()
        for _ in range(rounds):
            target.tell(str(calls))
            yield float(target.output.readline())


@contextmanager
def bpftrace(binary: Path) -> Iterator[None]:
    """bpftrace counts the calls of all processes of this program."""
    script = f'BEGIN {{ printf("ready\\n"); }} uprobe:{binary}:tick {{ @ = count(); }}'
    process = subprocess.Popen(
        ["bpftrace", "-e", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        while line := process.stdout.readline():
            if line.strip() == "ready":
                break
        else:
            raise OSError("bpftrace cannot run here")
        yield
    finally:
        process.terminate()
        process.communicate(timeout=_PATIENCE)


def by_bpftrace(binary: Path, rounds: int, calls: int, cpu: int) -> list[float]:
    """Nanoseconds of a call that bpftrace counts; empty where it cannot run."""
    if os.geteuid() or shutil.which("bpftrace") is None:
        return []
    try:
        with bpftrace(binary):
            return list(plain(binary, rounds, calls, cpu))
    except OSError:
        return []


def measure(smoke: bool) -> tuple[list[Figure], list[str]]:
    """Those of ours one after the other, with plain calls after each; then bpftrace."""
    rounds, calls, fewer = (1, 1000, 200) if smoke else (7, 20_000_000, 20_000)
    cpu, *_, other = by_load() * 2
    times: dict[str, list[float]] = {
        name: [] for name in ("none", "count", "record", "trap", "latency")
    }
    with compiled("tick", "-DLONG_ENTRY", "-fcf-protection=full") as tick, kept_to(other):
        runs = {
            "count": ours(tick, _COUNT, "inline", rounds, calls, cpu),
            "record": ours(tick, _RECORD, "inline", 5 * rounds, min(calls, _BURST), cpu),
            "trap": ours(tick, _COUNT, "trap", rounds, fewer, cpu),
            "latency": ours(tick, _LATENCY, "inline", rounds, calls, cpu),
        }
        for name, run in runs.items():
            times[name] += run
            times["none"] += plain(tick, rounds, calls, cpu)
        theirs = by_bpftrace(tick, rounds, fewer, cpu)
        by_signal = list(alone(tick, rounds, 10 * fewer, cpu))
    with compiled("tick", "-DBARE_HANDLER") as tick, kept_to(other):
        bare = list(plain(tick, rounds, 10 * fewer, cpu))
    call = median(times["none"])
    count, record, trap, latency = (
        [each - call for each in times[name]] for name in list(times)[1:]
    )
    figures = [
        Figure("count, inline", median(count), "ns", "a call without it", call, 1.0, None, None),
        _beside("count, inline", count, "trap", trap, 100),
        _beside("record of four registers, inline", record, "trap, a count", trap, 50),
        _beside("entry, return, histogram, inline", latency, "trap, a count", trap, 100),
    ]
    hits = [each - call for each in by_signal]
    handled = [each - call for each in bare]
    figures.append(
        _beside("count, signal", hits, "a SIGTRAP handler that does nothing", handled, 0.77)
    )
    if theirs:
        hits = [each - call for each in theirs]
        figures.append(_beside("count, inline", count, "bpftrace, uprobe", hits, 100))
    notes = [
        "records for which there is no room are counted, and dropped, as the tracer reads them"
    ]
    return figures, notes if theirs else [*notes, "bpftrace is not there, or cannot run"]


def _beside(what: str, mine: list[float], peer: str, theirs: list[float], least: float) -> Figure:
    ratio = ratio_of_medians(theirs, mine)
    return Figure(what, median(mine), "ns", peer, median(theirs), ratio, None, least)
