"""`dprobe status`: what a daemon has, lost and throttles, in one look."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from dprobe.commands.status import lasting

from tests.integration.client_support import PATIENCE, Cat, Daemon, parsed, program

THROTTLED = """
name = libc.so.6
offset = write
    push 1
    log 1
    exit
"""


def test_a_daemon_that_has_nothing(daemon: Daemon) -> None:
    (found,) = parsed(daemon.dprobe("status", "--json").stdout)
    assert (found["type"], found["schema"], found["pid"]) == ("health", 1, daemon.process.pid)
    assert (found["targets"], found["programs"], found["probes"]) == (0, 0, {})
    assert 0 <= found["uptime"] < 600
    assert not any(found["losses"].values())
    text = daemon.dprobe("status").stdout
    assert f"process {daemon.process.pid} of " in text
    assert str(daemon.socket) in text


def test_what_is_throttled_and_why(daemon: Daemon, target: Cat, tmp_path: Path) -> None:
    source = program(tmp_path, THROTTLED, "often")
    inserted = daemon.dprobe("insert", "-p", target.pid, "--budget", "1/s", source)
    assert inserted.returncode == 0, inserted.stderr

    def seen(*options: str) -> str:
        """What is said while it is throttled, which is over soon."""
        deadline = time.monotonic() + PATIENCE
        while True:
            for _ in range(20):
                target.say("once more")
            said = daemon.dprobe("status", *options).stdout
            if "over the budget of" in said:
                return said
            assert time.monotonic() < deadline, said

    (found,) = parsed(seen("--json"))
    (throttled,) = found["throttled"]
    assert (throttled["program"], throttled["pid"]) == ("often", target.pid)
    assert throttled["reason"]
    assert found["probes"] == {"throttled": 1}
    assert (found["targets"], found["programs"], found["tracers"]) == (1, 1, 1)
    assert found["engines"] == {"trap": 1}
    text = seen()
    assert f"often write+0x0 in process {target.pid}: {throttled['reason']}" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (3723, "1 h 2 min"), (86400 * 3 + 60, "3 d 0 h")],
)
def test_a_duration_in_two_units(seconds: float, text: str) -> None:
    assert lasting(seconds) == text
