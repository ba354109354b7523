"""A return probe, beside a probe at the entry of the same function.

The target calls an empty function and times itself; each program has three instructions and sends
its record on. A return probe stops twice: once to read where the call returns to, and there. The
two alternate, each with a target of its own; target and tracer are on one CPU.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median

from tests.benchmarks.bench_trap import kept_to
from tests.benchmarks.driver import TICK_PROGRAM, Target, Tracer, by_load, compiled
from tests.benchmarks.figures import Figure, ratio_of_medians

#: The same at the return, where the argument is gone.
_AT_RETURN = TICK_PROGRAM.replace("offset = tick\n", "offset = tick\nat = return\n")
_WITH_ENTRY = _AT_RETURN.replace(
    "push r,rdi\n",
    "entry:\npush time\npop e,0\nreturn:\npush time\npush e,0\nsub\n",
)


def call(program: str, binary: Path, target: Target, tracer: Tracer, hits: int) -> float:
    """Nanoseconds of a call under a program."""
    tracer.insert(program.format(binary=binary))
    target.tell(str(hits))
    taken = float(tracer.until_line(target))
    probe = tracer.query().probes[0]
    if (probe.hits, probe.ran, probe.missed, probe.unwound) != (hits, hits, 0, 0):
        raise RuntimeError(f"{hits} calls, but {probe}")
    tracer.remove()
    return taken


def measure(smoke: bool) -> tuple[list[Figure], list[str]]:
    """Each of three kinds in turn, round by round."""
    rounds, hits = (1, 500) if smoke else (7, 20_000)
    cpu, *_, other = by_load() * 2
    programs = TICK_PROGRAM, _AT_RETURN, _WITH_ENTRY
    taken: list[list[float]] = [[], [], []]
    with compiled("tick") as tick, Target(tick, cpu) as target, Tracer(target.pid) as tracer:
        for _ in range(rounds):
            for program, times in zip(programs, taken, strict=True):
                with kept_to(other):
                    times.append(call(program, tick, target, tracer, hits))
    entry, at_return, with_entry = taken
    return [
        _beside("return probe", at_return, entry, most=2.2),
        _beside("return probe with an entry part", with_entry, entry),
    ], ["one CPU: tracer and target are kept to it"]


def _beside(
    what: str, mine: list[float], entry: list[float], *, most: float | None = None
) -> Figure:
    ratio = ratio_of_medians(mine, entry)
    return Figure(what, median(mine), "ns", "entry probe", median(entry), ratio, most)
