"""A short fault campaign (``make faults`` is the long one): 0 targets lost, and nothing left."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests import faults
from tests.conftest import BuildTarget


@pytest.fixture
def binary(build_target: BuildTarget) -> Path:
    return build_target("faulted.c", "-pthread")


@pytest.mark.parametrize("who", faults.WHO)
@pytest.mark.parametrize("what", faults.WHAT)
def test_killed_at_a_random_moment(
    binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, who: str
) -> None:
    monkeypatch.setenv("DPROBED_DUMPS", str(tmp_path))
    one = faults.Round(binary, random.Random())
    try:
        one.run(what, who)
    finally:
        one.end()


@pytest.mark.parametrize("what", faults.WHAT)
def test_a_daemon_is_killed_with_what_is_under_it(binary: Path, tmp_path: Path, what: str) -> None:
    chance = random.Random()
    one = faults.DaemonRound(binary, tmp_path, chance)
    try:
        one.run(what, chance.choice(faults.WHO))
    finally:
        one.end()
