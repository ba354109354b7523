"""The daemon's resolvers: how many there are."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from dprobed.daemon import resolver_process
from dprobed.daemon.resolver_process import Resolvers
from dprobed.proc import procfs
from dprobed.resolver import caution, limits
from dprobed.resolver.errors import LostError, SilenceError
from dprobed.resolver.files import Ask, KnownFiles, Steps
from dprobed.wire import resolver as wire
from tests.unit.location_files import endless_symbols

ME = os.geteuid(), os.getegid()
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
            facts = await resolvers.run(user, user[0], KnownFiles().describe_file("/bin/cat"))
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


async def _ended(resolvers: Resolvers) -> None:
    resolvers.stop()
    while resolvers.processes:
        await asyncio.sleep(0.01)


def test_a_file_of_which_it_dies_is_asked_about_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nobody else of that user's processes waits for it again, nor for another resolver."""
    monkeypatch.setattr(limits, "DEADLINE", 0.3)
    monkeypatch.setattr(resolver_process, "_RESTART_DELAY", 0.0)
    deadly = endless_symbols(tmp_path / "hostile")

    async def ask() -> None:
        resolvers = Resolvers()
        facts = await resolvers.run(*_as(ME), KnownFiles().describe_file(str(deadly)))
        # Once for the first question, and for all others.
        started: set[int] = set()
        for _ in range(3):
            with pytest.raises(LostError):
                await resolvers.run(*_as(ME), resolve(deadly, facts))
            started |= set(resolvers.processes)
        assert len(started) <= 1
        assert (await resolvers.run(*_as(ME), KnownFiles().describe_file("/bin/cat"))).needed
        await _ended(resolvers)

    asyncio.run(ask())


def resolve(path: Path, facts: wire.FileFacts) -> Steps[wire.Answer]:
    """Ask where a function of a file is."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return (yield Ask(wire.Resolve(str(path), "", "f"), descriptor, facts))
    finally:
        os.close(descriptor)


def _as(user: tuple[int, int]) -> tuple[tuple[int, int], int]:
    return user, user[0]


def test_one_that_does_not_answer_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver_process, "_STUCK", 60.0)

    async def ask() -> None:
        resolvers = Resolvers()
        known = KnownFiles()
        await resolvers.run(*_as(ME), known.describe_file("/bin/cat"))
        (pid,) = resolvers.processes
        os.kill(pid, signal.SIGSTOP)
        monkeypatch.setattr(caution, "PATIENCE", 0.5)
        with pytest.raises(SilenceError, match="did not answer in"):
            await resolvers.run(*_as(ME), known.describe_file("/bin/sh"))
        with pytest.raises(SilenceError, match="does not answer"):
            await resolvers.run(*_as(ME), known.describe_file("/bin/ls"))
        os.kill(pid, signal.SIGCONT)
        await _ended(resolvers)

    asyncio.run(ask())


@pytest.mark.skipif(os.geteuid() != 0, reason="asks for other users")
def test_roots_questions_about_others_files_have_resolvers_of_their_own() -> None:
    async def ask() -> None:
        resolvers = Resolvers()
        known = KnownFiles()
        for owner in (0, SUBORDINATE):
            assert await resolvers.run((0, 0), owner, known.describe_file("/bin/cat"))
            known = KnownFiles()
        assert len(resolvers.processes) == 2
        await _ended(resolvers)

    asyncio.run(ask())
