"""Fixtures of the kernel bridge's tests."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from dprobed.kernel.backend import KernelBackends
from dprobed.policy.config import Config
from dprobed.policy.model import Rights
from dprobed.policy.rights import Right
from tests.fakes.backend import FakeDaemon
from tests.fakes.kernel import FakeKernel
from tests.kernel.c_interpreter import CInterpreter, build
from tests.kernel.device import Device, insert_module, remove_module
from tests.kernel.machine import Machine, build_modules, find_kernel, why_not

Script = Callable[[FakeDaemon, FakeKernel], Awaitable[None]]
Run = Callable[[Script], None]


@pytest.fixture(scope="session")
def c_interpreter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CInterpreter]:
    """The kernel's interpreter, compiled with the sanitizers."""
    program = tmp_path_factory.mktemp("kernel") / "harness"
    build(program)
    interpreter = CInterpreter(program)
    yield interpreter
    interpreter.close()


@pytest.fixture(scope="session")
def release() -> str:
    """The kernel that is there to build for and to boot."""
    missing = why_not()
    if missing:
        assert "CI" not in os.environ, missing
        pytest.skip(missing)
    found = find_kernel()
    assert found is not None
    return found


@pytest.fixture(scope="session")
def modules(release: str, request: pytest.FixtureRequest) -> list[Path]:
    """The kernel module, and those that use it or are probed, built."""
    return build_modules(release, request.config.cache.mkdir("kernel"))


@pytest.fixture(scope="session")
def booted(
    release: str, modules: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """A virtual machine with the module loaded, the same for all tests."""
    machine = Machine(tmp_path_factory.mktemp("machine"), release, modules)
    try:
        insert_module(machine)
        yield machine
    finally:
        machine.close()


@pytest.fixture
def machine(booted: Machine) -> Iterator[Machine]:
    """The virtual machine; the test fails if its kernel has complained."""
    booted.run_on(0)
    before = len(booted.complaints())
    yield booted
    assert not booted.complaints()[before:], booted.console()[-6000:]


@pytest.fixture
def device(machine: Machine) -> Iterator[Device]:
    """An open /dev/dprobes."""
    opened = Device(machine)
    yield opened
    opened.close()


@pytest.fixture
def allowed(machine: Machine) -> Iterator[Device]:
    """The device of a module that was loaded with ``allow_alter=1``."""
    assert remove_module(machine) == 0
    insert_module(machine, "allow_alter=1")
    opened = Device(machine)
    yield opened
    opened.close()
    assert remove_module(machine) == 0
    insert_module(machine)


@pytest.fixture
def kernel(c_interpreter: CInterpreter) -> Iterator[FakeKernel]:
    """A kernel with the module loaded."""
    made = FakeKernel(c_interpreter)
    yield made
    made.close()


@pytest.fixture
def run(tmp_path: Path, kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a script against root's daemon, and ends that: no program may be left in the kernel.
    User 77 may observe it."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("DPROBED_JOURNAL_SOCKET", str(tmp_path / "none"))

    def run(script: Script) -> None:
        async def main() -> None:
            backends = KernelBackends(kernel.calls)
            given = Rights(users={77: frozenset({Right.OBSERVE})})
            daemon = FakeDaemon(Config(tmp_path / "policies.d", kernel=given), backends)
            try:
                await script(daemon, kernel)
            finally:
                await daemon.app.stop(5)
            assert kernel.programs() == []
            await asyncio.sleep(0)
            assert daemon.app.core.targets.by_pid == {}

        asyncio.run(asyncio.wait_for(main(), 60))

    return run
