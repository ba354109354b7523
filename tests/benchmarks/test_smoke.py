"""Each bench still works: the least of it, whose figures mean nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.figures import processor

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "name",
    [
        *(
            "interpreter",
            "trap",
            "inline",
            "returns",
            "stack",
            "many",
            "maps",
            "start",
            "trace",
            "dump",
        ),
        *("debug", "discovery", "soak"),
    ],
)
def test_bench_works(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.run", "--smoke", name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "theirs" in done.stdout
    assert processor() in done.stdout
