"""The daemon on fake backends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from dprobed.policy.config import Config
from tests.fakes.backend import FakeDaemon

Script = Callable[[FakeDaemon], Awaitable[None]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Script], None]:
    """Runs a script against root's daemon, and ends that: nothing may be left."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    # What our clients' users are in is the same on every machine.
    monkeypatch.setattr("dprobed.daemon.gate.groups_of", lambda uid, gid: [gid])
    # No process of these numbers ever says its last words.
    monkeypatch.setattr("dprobed.daemon.detaching._END_REPORT_TIMEOUT", 0.01)
    monkeypatch.setenv("DPROBED_JOURNAL_SOCKET", str(tmp_path / "none"))

    def run(script: Script) -> None:
        async def main() -> None:
            daemon = FakeDaemon(Config(tmp_path / "policies.d"))
            try:
                await script(daemon)
            finally:
                await daemon.app.stop(1)
            await asyncio.sleep(0.01)
            assert daemon.app.core.targets.by_pid == {}

        asyncio.run(asyncio.wait_for(main(), 60))

    return run
