"""What a stack costs at a hit, over a hit that only counts; and what it takes to name its frames.

The target comes by from so many frames below ``main``; three frames of libc and the start are above
that. The first stack of each depth, for which the resolver decodes unwinding information, is not in
the figures, but told beside them.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from dprobe.lib.stacks import StackNames

from dprobed.binary.file import Binary
from tests.benchmarks.driver import Target, Tracer, by_load, compiled
from tests.benchmarks.figures import Figure

PROGRAM = """
name = "{binary}"
logmax = 8192
vars = 1
offset = tick
{body}
"""
COUNTS = "inc lv,0\nabort"
LOGS = "inc lv,0\nlog ustack,{frames}\nexit"
#: What ``log 1`` costs is no part of a stack's cost.
RECORDS = "inc lv,0\npush 1\nlog 1\nexit"


def hits(
    binary: Path, body: str, frames: int, rounds: int, count: int, cpu: int
) -> Iterator[float]:
    """Nanoseconds of a hit, the first ones alone, then once for each round."""
    with Target(binary, cpu) as target, Tracer(target.pid) as tracer:
        tracer.insert(PROGRAM.format(binary=binary, body=body.format(frames=frames)))
        for calls in (1, *[count] * rounds):
            target.tell(f"{calls} {frames - 5}")
            yield float(tracer.until_line(target))
        probe = tracer.query().probes[0]
        if probe.ran != 1 + rounds * count:
            raise RuntimeError(f"{probe.ran} ran of {1 + rounds * count}")


def named(stacks: int) -> float:
    """Seconds to name the frames of so many distinct stacks, of functions of two files."""
    drawn = random.Random(1)
    places = []
    for path, functions in (("/lib/x86_64-linux-gnu/libc.so.6", 30), ("/usr/bin/bash", 200)):
        real = os.path.realpath(path)
        file = Binary(os.open(real, os.O_RDONLY | os.O_CLOEXEC), real)
        symbols = [symbol for symbol in file.symbols.code() if symbol.size > 64]
        for symbol in drawn.sample(symbols, functions):
            places += [(real, file.build_id, symbol.value + at) for at in range(5, 60, 5)]
    logs: list[list[dict[str, Any]]] = []
    for _ in range(stacks):
        frames = [
            {"module": module, "build_id": build_id, "offset": offset}
            for module, build_id, offset in drawn.choices(places, k=20)
        ]
        logs.append([{"ustack": frames}])
    names = StackNames()
    begin = time.perf_counter()
    for log in logs:
        names.name_frames(log, 0)
    seconds = time.perf_counter() - begin
    names.close()
    return seconds


def measure(smoke: bool) -> tuple[list[Figure], list[str]]:
    """Counting hits, hits that log a word, and hits that log stacks, in turns."""
    rounds, count = (1, 200) if smoke else (7, 5_000)
    cpu = by_load()[0]
    figures, notes = [], []
    with compiled("deep") as deep:
        for frames, most in ((10, None), (30, 100_000)):
            ways = [
                hits(deep, body, frames, rounds, count, cpu) for body in (COUNTS, RECORDS, LOGS)
            ]
            firsts = [next(way) for way in ways]
            costs: list[list[float]] = [[], [], []]
            for _ in range(rounds):
                for way, cost in zip(ways, costs, strict=True):
                    cost.append(next(way))
            # The latest one first: its tracer has the sockets of those before it.
            for way in reversed(ways):
                next(way, None)
            counting, recording, logging = map(median, costs)
            figures.append(
                Figure(f"stack of {frames} frames over a record of a word", logging - recording,
                       "ns", "counting hit", counting, at_most=most)
            )  # fmt: skip
            notes.append(f"the first stack of {frames} frames took {firsts[2] / 1e6:.1f} ms")
    stacks = 500 if smoke else 10_000
    seconds = named(stacks)
    figures.append(Figure(f"naming {stacks} distinct stacks of 20", seconds, "s", at_most=2))
    return figures, notes
