"""Dumps that are refused: counted by reason, each told of with a rate limit of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from dprobed.corefile import ledger, store
from dprobed.corefile.store import StoreError, StoreLimits
from dprobed.engine.probe import Probe
from dprobed.program.exec.interface import Context, Outcome
from dprobed.program.rpn.parser import assemble
from dprobed.tracer.dump import admission
from dprobed.tracer.dump.admission import Admission, identity

SOURCE = 'name = "x"\noffset = f\nexit dump\noffset = g\npush 1\nlog 1\nexit dump\n'


def never(context: Context) -> Outcome:
    raise AssertionError


def make_probe(index: int = 0) -> Probe:
    definition = assemble(SOURCE, "test.rpn").probes[index]
    return Probe(1, definition, never, "x", alters=False)


class Clock:
    """Stands for ``time`` in the module."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(admission, "time", found)
    return found


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def admits(told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Admission:
    monkeypatch.setenv("DPROBED_DUMPS", str(tmp_path / "cores"))
    return Admission(
        lambda reason, count, tid: told.append(f"{tid} {count} {reason}"),
        lambda probe: f"probe{probe.index}",
    )


def test_each_reason_of_each_probe_has_its_own_rate_limit(
    admits: Admission, told: list[str], clock: Clock
) -> None:
    one, other = make_probe(0), make_probe(1)
    for _ in range(40):
        admits.refuse(one, StoreError("another is being written", "busy"), 7)
    assert admits.refuse(one, StoreError("no room", "disk"), 7)
    assert admits.refuse(other, StoreError("another is being written", "busy"), 8)
    assert not told  # not before the record
    admits.tell()
    assert told == [
        "7 1 another is being written",
        "7 1 no room",
        "8 1 another is being written",
    ]
    assert (one.no_dumps, other.no_dumps) == ({"busy": 40, "disk": 1}, {"busy": 1})
    clock.now += 11
    assert admits.refuse(one, StoreError("another is being written", "busy"), 7)
    assert not admits.refuse(one, StoreError("another is being written", "busy"), 7)
    admits.tell()
    assert told[3:] == ["7 41 another is being written"]


def test_many_reasons(admits: Admission, told: list[str], clock: Clock) -> None:
    probe = make_probe()
    for number in range(1000):
        admits.refuse(probe, StoreError(f"reason {number}"), 7)
    admits.tell()
    assert len(probe.no_dumps) == len(told) == 17
    assert probe.no_dumps["other reasons"] == 984


def test_the_store_is_not_asked_at_each_hit(
    admits: Admission, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whom it refused is refused for a while, and then asked about again."""
    folder = tmp_path / "cores"
    folder.mkdir(mode=0o700)
    probe = make_probe()
    asked = []

    def look(limits: StoreLimits, name: str) -> None:
        asked.append(name)
        store.look(limits, name)

    monkeypatch.setattr(admission, "look", look)
    with store.opened(folder) as descriptor, ledger.locked(descriptor) as book:
        for _ in range(5):
            admits.admit(probe)
            ledger.note(book, "probe0")
    for _ in range(100):
        with pytest.raises(StoreError, match="had 5 dumps in the last hour"):
            admits.admit(probe)
    assert len(asked) == 6
    admits.admit(make_probe(1))
    (folder / ledger.NAME).unlink()
    clock.now += 2
    assert admits.admit(probe).folder == folder


def test_after_failures_the_pause_grows(admits: Admission, clock: Clock) -> None:
    probe = make_probe()
    for pause in (1, 2, 4, 8, 16, 32, 60, 60):
        admits.admit(probe)
        admits.failed(probe, StoreError("no space left"))
        clock.now += pause - 0.5
        with pytest.raises(StoreError, match="no space left"):
            admits.admit(probe)
        clock.now += 0.5
    admits.admit(probe)
    admits.succeeded(probe)
    admits.failed(probe, StoreError("no space left"))
    clock.now += 1
    admits.admit(probe)


def test_what_makes_a_probe_the_same() -> None:
    program = assemble(SOURCE, "test.rpn")
    commented = assemble(SOURCE.replace("exit dump", "    exit dump // why"), "other.rpn")
    changed = assemble(SOURCE.replace("push 1", "push 2"), "test.rpn")
    assert identity(program, 0) == identity(commented, 0)
    assert len({identity(program, 0), identity(program, 1), identity(changed, 1)}) == 3
