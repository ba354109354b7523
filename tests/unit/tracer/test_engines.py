"""The engines of a target put together: what was begun is undone where one of them fails."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import pytest

from dprobed.change_journal import Changes
from dprobed.engine.errors import SpaceError
from dprobed.engine.interface import AtStops, Location, Plan, Refusal
from dprobed.engine.probe import Probe
from dprobed.engine.semaphores import Semaphores
from dprobed.tracee.memory import Memory
from dprobed.tracee.ptrace import Gone, Registers
from dprobed.tracee.thread import Thread
from dprobed.tracer.engines import Engines
from dprobed.wire.protocol import State

FIRST, SECOND = 0x1000, 0x1002


class Words:
    """Memory with two semaphores."""

    def __init__(self) -> None:
        self.words = {FIRST: 0, SECOND: 4}

    def peek(self, address: int, length: int) -> bytes:
        return self.words[address].to_bytes(length, "little")

    def poke(self, address: int, data: bytes) -> bool:
        self.words[address] = int.from_bytes(data, "little")
        return True


@pytest.fixture
def memory() -> Words:
    return Words()


def engines(memory: Words, arm: Any) -> tuple[Engines, list[Plan]]:
    """Engines of which the only one arms so, and two plans for it."""
    semaphores = Semaphores(cast(Memory, memory), Changes(None, 1, 0))
    space = SimpleNamespace(semaphores=semaphores, in_shared=lambda words: {})
    one = mock.Mock(arm=arm)
    one.names = ("trap",)
    found = SimpleNamespace(space=space, _all=[one], _classify=lambda: None)
    probe = cast(Probe, mock.Mock())
    plans = [
        Plan("trap", probe, Location(0x400000 + number, semaphore=address), 1)
        for number, address in enumerate((FIRST, SECOND))
    ]
    return cast(Engines, found), plans


@pytest.mark.parametrize("error", [SpaceError("no room"), Gone(7), RuntimeError("a defect")])
def test_semaphores_are_down_again_where_arming_fails(memory: Words, error: Exception) -> None:
    def arm(plans: list[Plan], unstoppable: list[object]) -> list[object]:
        assert memory.words == {FIRST: 1, SECOND: 5}
        raise error

    found, plans = engines(memory, arm)
    with pytest.raises(type(error)):
        Engines.arm(found, plans, [])
    assert memory.words == {FIRST: 0, SECOND: 4}


def test_the_semaphore_of_a_place_that_is_refused_is_down_again(memory: Words) -> None:
    def arm(plans: list[Plan], unstoppable: list[object]) -> list[object]:
        return [(plans[0], mock.Mock()), (plans[1], Refusal(State.FAILED, "changed meanwhile"))]

    found, plans = engines(memory, arm)
    Engines.arm(found, plans, [])
    assert memory.words == {FIRST: 1, SECOND: 4}


class Another(AtStops):
    """An engine that nothing in the tracer knows by its name."""

    names = ("another",)
    is_polled = True  # type: ignore[misc]

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.calls = mock.Mock()

    def sync(self, *, final: bool = False) -> None:
        self.log.append("sync")

    def leave_code(self) -> bool:
        return False

    def pages(self) -> list[tuple[int, int]]:
        return [(0x7000, 0x8000)]

    def changed(self) -> dict[int, int]:
        return {0x5000: 0x90}

    def unmap(self, thread: Thread) -> None:
        self.log.append("unmap")

    def forked(self, child: Another, twin: object) -> list[Any]:
        return [f"twin in {child.names[0]}"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.calls, name)


def test_an_engine_is_asked_for_all_that_it_has_without_being_named() -> None:
    """So one more mechanism is an addition: nobody else has to know that it is there."""
    log: list[str] = []
    ours, child = mock.MagicMock(), mock.MagicMock()
    for each in (ours, child):
        each.group.stopped.return_value.__enter__.return_value = []
    with mock.patch("dprobed.tracer.engine_views.WatchEngine", lambda *_: Another(log)):
        target = Engines(ours.group, ours, Registers(), ours)
        copy = Engines(child.group, child, Registers(), child)
    assert (0x7000, 0x8000) in target.pages()
    assert target.changed() == {0x5000: 0x90}
    assert target.is_polled
    with target.quiet() as is_quiet:
        assert not is_quiet
    with mock.patch("dprobed.tracer.engines.keep_up"):
        found: list[Any] = target.forked(copy, mock.Mock())
    assert found == ["twin in another"]
    target.sync()
    target.remove_all([])
    assert log == ["sync", "unmap"]
