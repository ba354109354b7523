"""`make demo`, as a user sees it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_demo_shows_probes_firing_and_leaves_the_job_whole() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "etc" / "demo.py"],
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) <= 60
    assert any(re.search(r" opens .* opens /usr/share/common-licenses/", line) for line in lines)
    # The result is altered while the probes are in, and is not any more when they are out.
    assert any("with probes:" in line and "user id is 4711" in line for line in lines)
    assert any("without probes:" in line and "4711" not in line for line in lines)
    differing = [line for line in lines if line.startswith("bytes of its code that differ")]
    during, after = (int(line.rsplit(maxsplit=1)[1]) for line in differing)
    # Six probes are breakpoints, one is a watchpoint; dprobed has a few breakpoints of its own.
    assert during >= 6
    assert after == 0
    assert re.search(r"sha256 [0-9a-f]+…, as in a run without probes", lines[-2])
