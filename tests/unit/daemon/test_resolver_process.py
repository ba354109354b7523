"""The daemon's resolvers: how many there are."""

from __future__ import annotations

import asyncio
import os

import pytest

from dprobed.daemon import resolver_process
from dprobed.daemon.resolver_process import Resolvers
from dprobed.proc import procfs
from dprobed.resolver.files import KnownFiles

MOST = 3
SUBORDINATE = 200_000


@pytest.mark.skipif(os.geteuid() != 0, reason="asks as other users")
def test_a_user_of_many_ids_has_few(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each id has its own, as its rights are others'; those asked longest ago are ended."""
    monkeypatch.setattr(resolver_process, "_MOST", MOST)

    async def ask() -> list[int]:
        resolvers = Resolvers()
        counts = []
        for each in [*range(4 * MOST), 0]:
            user = SUBORDINATE + each, SUBORDINATE
            facts = await resolvers.run(user, KnownFiles().describe_file("/bin/cat"))
            assert facts
            alive = [pid for pid in resolvers.processes if procfs.run_state(pid) not in ("", "Z")]
            counts.append(len(alive))
        resolvers.stop()
        while resolvers.processes:
            await asyncio.sleep(0.01)
        return counts

    counts = asyncio.run(ask())
    assert max(counts) <= 2 * MOST, counts
    assert not caplog.records
