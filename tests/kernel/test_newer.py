"""The module on a newer kernel, of Debian's backports: it builds, and each kind of place is hit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dprobed.kernel.abi import Kind, State
from tests.kernel.device import (
    CLOSE,
    GETPPID,
    Device,
    KernelProgram,
    address_of,
    check,
    insert_module,
    path,
    remove_module,
    write_text,
)
from tests.kernel.machine import AREA, Machine, build_modules
from tests.kernel.newer import NewerKernel, NoneError, newer_kernel
from tests.kernel.test_bridge import PLACE, kernel_program
from tests.kernel.test_files import assembled, entry_of

#: 60 MB are fetched, once.
pytestmark = pytest.mark.timeout(1200)

SOURCE = ".globl _start\n_start: mov $60, %eax\n mov $7, %edi\n syscall\n"
PRCTL, SET_NAME = 157, 15


@pytest.fixture(scope="module")
def kernel(release: str, request: pytest.FixtureRequest) -> NewerKernel:
    """It is there, and newer than this machine's."""
    try:
        found = newer_kernel(request.config.cache.mkdir("newer"))
    except NoneError as error:
        assert "CI" not in os.environ, str(error)
        pytest.skip(str(error))
    assert _version(found.release) > _version(release)
    return found


def _version(release: str) -> tuple[int, ...]:
    return tuple(map(int, release.split(".")[:2]))


@pytest.fixture(scope="module")
def newer(
    kernel: NewerKernel, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """A machine with that kernel, and the module built for it without a warning."""
    cache = request.config.cache.mkdir("kernel")
    modules = build_modules(kernel.release, cache, kernel.build)
    folder = tmp_path_factory.mktemp("newer")
    more = {"bin/brief": assembled(SOURCE, folder / "brief")}
    machine = Machine(folder, kernel.release, modules, more, kernel=kernel.image)
    try:
        insert_module(machine)
        yield machine
        assert remove_module(machine) == 0
        assert not machine.complaints(), machine.console()[-6000:]
    finally:
        machine.close()


@pytest.fixture
def device(newer: Machine) -> Iterator[Device]:
    """Its open /dev/dprobes."""
    opened = Device(newer)
    yield opened
    opened.close()


def _counts(loaded: KernelProgram) -> tuple[State, int, int]:
    query = loaded.query()
    return State(query.state), query.runs, len(loaded.read())


@pytest.mark.parametrize("kind", [Kind.CODE, Kind.LEAVE])
def test_a_function(newer: Machine, device: Device, kind: Kind) -> None:
    loaded = device.load(kernel_program("push pid\nlog 1"))
    loaded.attach(PLACE, kind=kind)
    check(newer.call(GETPPID, count=3))
    assert _counts(loaded) == (State.ACTIVE, 3, 3)
    loaded.close()


def test_a_tracepoint(newer: Machine, device: Device) -> None:
    # Kernel threads are named, too.
    loaded = device.load(
        kernel_program("push pid\npush 1\nsub\njnz no\npush 1\nlog 1\nexit\nno:\nabort")
    )
    loaded.attach("task_rename", kind=Kind.TRACEPOINT)
    newer.write(AREA, b"init\0")
    check(newer.call(PRCTL, SET_NAME, AREA))
    assert len(loaded.read()) == 1
    loaded.close()


def test_data(newer: Machine, device: Device) -> None:
    insert_module(newer, name="dpsample")
    loaded = device.load(kernel_program("push 1\nlog 1"))
    loaded.watch(Kind.WATCH_W, address_of(newer, "dpsample_total"), 4)
    write_text(newer, "/sys/module/dpsample/parameters/step", "5")
    assert _counts(loaded) == (State.ACTIVE, 1, 1)
    loaded.close()
    check(remove_module(newer, "dpsample"))


def test_a_hook(newer: Machine, device: Device) -> None:
    insert_module(newer, name="dprobes_ledger")
    loaded = device.load(kernel_program("push r,rdx\nlog 1"))
    loaded.attach("ledger_posted", kind=Kind.HOOK)
    write_text(newer, "/sys/module/dprobes_ledger/parameters/post", "1 2 50")
    assert _counts(loaded) == (State.ACTIVE, 1, 1)
    loaded.close()
    check(remove_module(newer, "dprobes_ledger"))


def test_a_file(newer: Machine, device: Device, tmp_path: Path) -> None:
    loaded = device.load(kernel_program("push pid\nlog 1"))
    fd = check(path(newer, "/bin/brief", 0))
    offset = entry_of(assembled(SOURCE, tmp_path / "brief").read_bytes())
    loaded.attach("", kind=Kind.FILE, offset=offset, length=fd)
    check(newer.call(CLOSE, fd))
    for _ in range(3):
        assert newer.run("/bin/brief") == (7, "")
    assert _counts(loaded) == (State.ACTIVE, 3, 3)
    loaded.close()
    assert newer.run("/bin/brief") == (7, "")
