"""A thousand probes into one process whose fifty threads go on calling what is probed."""

from __future__ import annotations

import time
from statistics import median

from tests.benchmarks.driver import Target, Tracer, compiled
from tests.benchmarks.figures import Figure

PROBE = """
offset = f{number:03}
push r,rsp
log 1
exit
"""


def measure(smoke: bool) -> tuple[list[Figure], list[str]]:
    """Put all in and take all out, some rounds."""
    rounds, probes = (1, 100) if smoke else (5, 1000)
    into: list[float] = []
    out: list[float] = []
    with compiled("many") as many, Target(many) as target:
        target.output.readline()
        text = f'name = "{many}"\n' + "".join(PROBE.format(number=n) for n in range(probes))
        with Tracer(target.pid) as tracer:
            for _ in range(rounds):
                start = time.perf_counter()
                inserted = tracer.insert(text).probes
                into.append(time.perf_counter() - start)
                active = sum(probe.state == "active" for probe in inserted)
                if active != probes:
                    raise RuntimeError(f"{active} of {probes} probes are active")
                start = time.perf_counter()
                tracer.remove()
                out.append(time.perf_counter() - start)
    what = f"{probes:,} probes, 50 threads"
    return [
        Figure(f"{what}: in", median(into), "s", at_most=1),
        Figure(f"{what}: out", median(out), "s", at_most=1),
    ], ["in: the source text assembled, verified, resolved, checked and written"]
