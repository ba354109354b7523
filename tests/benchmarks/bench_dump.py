"""A core of a live process with 1 GiB of touched memory: `dprobe dump` against gdb's `gcore`.

A `dprobed` runs already. The pause is what a thread of the process itself notices: the longest time
between two looks at the clock. The total is from the start of the command to its end. Both write to
the same folder, in memory where there is room: the disk is nobody's merit. Alternating; medians.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tests.benchmarks.driver import Target, compiled, dprobe, timed
from tests.benchmarks.figures import Figure, ratio_of_medians

ROUNDS = 5
MEBIBYTES = 1024
SHARED = Path("/dev/shm")


def _folder(size: int) -> str | None:
    room = shutil.disk_usage(SHARED).free if SHARED.is_dir() else 0
    return str(SHARED) if room > 2 * size else None


def _round(target: Target, command: list[str | Path], folder: Path) -> tuple[float, float]:
    """Pause and total of one core, in seconds; the core is removed."""
    _longest(target)
    total = timed(command)
    pause = _longest(target)
    shutil.rmtree(folder)
    folder.mkdir(mode=0o700)
    return pause, total


def _longest(target: Target) -> float:
    target.tell("")
    return int(target.output.readline()) / 1e9


@contextlib.contextmanager
def _daemon(socket: Path, folder: Path) -> Iterator[None]:
    command: list[str | Path] = [Path(sys.executable).with_name("dprobed"), "--socket", socket]
    environment = os.environ | {"DPROBED_DUMPS": str(folder)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    assert process.stderr is not None
    try:
        assert b"listens" in process.stderr.readline()
        yield
    finally:
        process.terminate()
        process.communicate(timeout=30)


def measure(smoke: bool) -> tuple[list[Figure], list[str]]:
    """Pauses and totals of both."""
    size = 160 if smoke else MEBIBYTES
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    with (
        compiled("heap") as binary,
        tempfile.TemporaryDirectory(prefix="dprobed-bench-", dir=_folder(size << 20)) as place,
    ):
        folder, socket = Path(place) / "cores", Path(place) / "socket"
        folder.mkdir(mode=0o700)
        with _daemon(socket, folder), Target(binary, arguments=(str(size),)) as target:
            assert target.output.readline() == b"ready\n"
            dump = dprobe("--socket", socket, "dump", str(target.pid))
            gcore: list[str | Path] = ["gcore", "-o", folder / "core", str(target.pid)]
            for _ in range(1 if smoke else ROUNDS):
                ours.append(_round(target, dump, folder))
                theirs.append(_round(target, gcore, folder))
        where = subprocess.run(
            ["stat", "-f", "-c", "%T", place], capture_output=True, text=True, check=True
        ).stdout.strip()
    pauses = [[each[0] * 1e3 for each in side] for side in (theirs, ours)]
    totals = [[each[1] * 1e3 for each in side] for side in (ours, theirs)]
    figures = [
        Figure(
            "pause, times shorter",
            median(pauses[1]),
            "ms",
            "gcore",
            median(pauses[0]),
            ratio_of_medians(*pauses),
            at_least=10,
        ),
        Figure(
            "total",
            median(totals[0]),
            "ms",
            "gcore",
            median(totals[1]),
            ratio_of_medians(*totals),
            at_most=1,
        ),
    ]
    return figures, [f"{size} MiB, {len(ours)} rounds, cores written to {where}"]
