"""Fixtures of the integration tests: nothing that they start outlives the test."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dprobed.compiler import is_there
from dprobed.wire.engines import NATIVE
from dprobed.wire.limits import Limits
from tests.integration.client_support import Cat, Daemon, cat, running_daemon
from tests.integration.harness import Target, TracerProcess
from tests.integration.policy_support import Place

Start = Callable[..., Target]
Trace = Callable[..., TracerProcess]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a program and wait for its ``ready``."""
    started: list[Target] = []

    def begin(*command: str | Path, ready: bool = True, **options: object) -> Target:
        target = Target(command, **options)
        started.append(target)
        if ready:
            target.expect("ready")
        return target

    yield begin
    for target in started:
        target.end()


@pytest.fixture(params=["trap"])
def engine(request: pytest.FixtureRequest) -> str:
    """Which engine serves code probes: what holds of one has to hold of all."""
    name: str = request.param
    return name


#: For what holds of each of them, where the places are such that each can serve them.
EACH_ENGINE = pytest.mark.parametrize(
    "engine",
    [
        "trap",
        *(
            pytest.param(
                name, marks=pytest.mark.skipif(not is_there(), reason="llvmlite is not installed")
            )
            for name in NATIVE
        ),
    ],
)


@pytest.fixture
def trace(start: Start, engine: str) -> Iterator[Trace]:
    """A tracer, attached to a target (if one is given). It detaches before the target is ended."""
    tracers: list[TracerProcess] = []

    def begin(
        target: Target | None = None, uid: int = 0, **options: bool | float | Limits
    ) -> TracerProcess:
        tracer = TracerProcess(uid, engine)
        tracers.append(tracer)
        if target is not None:
            tracer.attach(target.pid, **options)
            target.tracer = tracer
        return tracer

    yield begin
    for tracer in tracers:
        tracer.end()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon of the test's own."""
    with running_daemon(tmp_path) as running:
        yield running


@pytest.fixture
def target() -> Iterator[Cat]:
    """A `cat` to probe, which ends well."""
    with cat() as running:
        yield running


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A folder that every user can enter: those of pytest are its user's alone."""
    with tempfile.TemporaryDirectory(prefix="dprobed-test-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def place(everybodys: Path) -> Iterator[Place]:
    found = Place(everybodys)
    yield found
    found.journal.close()
