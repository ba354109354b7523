"""Millions of hits through the whole of it: does any of our processes grow?

A target under `dprobe run`, with its private daemon and its tracer; the resident memory of all
three is sampled between equal batches of hits. The first quarter is left out: that is where buffers
and tables reach their size. The C library is told to give freed memory back (mallopt(3)): left to
itself it keeps some megabytes for later after a burst of large buffers, which is no growth of ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.driver import TICK_PROGRAM, compiled, dprobe, relatives
from tests.benchmarks.figures import Figure


def measure(smoke: bool) -> tuple[list[Figure], list[str]]:
    """Run batches, sampling memory after each."""
    batches, hits = (4, 500) if smoke else (50, 100_000)
    samples: dict[str, list[float]] = {}
    with compiled("tick") as tick, tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "tick.rpn"
        program.write_text(TICK_PROGRAM.format(binary=tick))
        # Someone reads every record, and keeps the summary.
        reader = subprocess.Popen(
            ["tail", "-n", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert reader.stdin is not None
        sink = reader.stdin.fileno()
        client = subprocess.Popen(
            dprobe("run", "--format", "json", "-o", f"/dev/fd/{sink}", program, "--", tick),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[sink],
            env={**os.environ, "MALLOC_TRIM_THRESHOLD_": str(1 << 17)},
        )
        reader.stdin.close()
        reader.stdin = None
        assert client.stdin is not None and client.stdout is not None
        start = time.perf_counter()
        for _ in range(batches):
            client.stdin.write(f"{hits}\n".encode())
            client.stdin.flush()
            client.stdout.readline()
            for role, process in relatives(client.pid).items():
                samples.setdefault(role, []).append(process.memory_info().rss / 1e6)
        seconds = time.perf_counter() - start
        client.communicate(timeout=60)
        probe = json.loads(reader.communicate(timeout=60)[0])["probes"][0]
    return _figures(samples, batches * hits, seconds, probe)


def _figures(
    samples: dict[str, list[float]], calls: int, seconds: float, probe: dict[str, Any]
) -> tuple[list[Figure], list[str]]:
    if probe["hits"] != calls or probe["ran"] + probe["missed"] != calls:
        raise RuntimeError(f"{calls} calls, but the summary says {probe}")
    figures = [Figure(f"{calls:,} hits, the whole way", seconds / calls * 1e9, "ns a hit")]
    notes = [f"{calls:,} hits, {probe['ran']:,} ran, {probe['dropped']:,} records dropped"]
    for role, sizes in samples.items():
        quarter = len(sizes) // 4
        grown = median(sizes[-quarter:]) - median(sizes[quarter : 2 * quarter])
        figures.append(Figure(f"{role}: growth over the last half", grown, "MB", at_most=1))
        steps = [sizes[(len(sizes) - 1) * step // 10] for step in range(11)]
        notes.append(f"{role}, MB by tenths of the way: {' '.join(f'{mb:.2f}' for mb in steps)}")
    return figures, notes
