"""A root's daemon that looks after processes which do what few do, on purpose or not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import BuildTarget
from tests.integration.client_support import (
    Daemon,
    cat,
    program,
    running_daemon,
    tracer_of,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root's daemon hears of everything")


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """The only policy file of ``daemon``."""
    (tmp_path / "dprobed.toml").write_text('policies = "policies.d"\n')
    (tmp_path / "policies.d").mkdir()
    path = tmp_path / "policies.d" / "odd.toml"
    path.write_text("")
    return path


@pytest.fixture
def daemon(tmp_path: Path, policies: Path) -> Iterator[Daemon]:
    config = policies.parent.parent / "dprobed.toml"
    environment = {**os.environ, "DPROBED_DUMPS": str(tmp_path / "cores")}
    with running_daemon(tmp_path, "--config", config, env=environment) as running:
        yield running


def peak(pid: int) -> int:
    """The most memory that a process ever had, in megabytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) >> 10


@pytest.mark.parametrize("what", ["arguments", "environment"])
def test_what_a_process_says_of_itself_has_an_end(
    daemon: Daemon, policies: Path, build_target: BuildTarget, tmp_path: Path, what: str
) -> None:
    """It need not have the memory that it says its arguments are in, and anybody may say so."""
    policies.write_text(
        '[[policy]]\nname = "arguments"\nmatch.cmdline = "*none*"\n'
        '[[policy]]\nname = "environment"\nmatch.environment.NONE = "none"\n'
    )
    assert daemon.dprobe("policy", "reload").returncode == 0
    before = peak(daemon.process.pid)
    with cat([build_target("claims.c"), what, "48"]) as target:
        (found,) = daemon.json("policy", "explain", target.pid)
        assert [step["matches"] for step in found["steps"]] == [False, False]
        daemon.json("insert", program(tmp_path), "--pid", target.pid)
        tracer = tracer_of(target.pid)
        tracer_before = peak(tracer)
        done = daemon.dprobe("dump", target.pid)
        assert done.returncode == 0, done.stderr
        assert peak(tracer) < tracer_before + 24
    assert peak(daemon.process.pid) < before + 24
