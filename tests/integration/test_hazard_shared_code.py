"""Hazard: code that is mapped MAP_SHARED, whose breakpoint would be the file's, and everybody's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dprobed.wire.protocol import State
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import counting
from tests.integration.test_hazard_identity import LIBRARY, Plugin

MODES = ["shared", "writable", "late", "memfd"]


@pytest.fixture
def plugin(build_target: BuildTarget) -> Plugin:
    return Plugin(build_target("plug.c", *LIBRARY, output="libplugin.so"))


@pytest.fixture(params=["disk", "memory"])
def path(request: pytest.FixtureRequest, plugin: Plugin, tmp_path: Path) -> Iterator[Path]:
    """A copy on a disk, or in /dev/shm."""
    if request.param == "disk":
        yield plugin.copy(tmp_path / "plugin.so")
        return
    folder = Path("/dev/shm", tmp_path.name + "-" + tmp_path.parent.name)
    yield plugin.copy(folder / "plugin.so")
    shutil.rmtree(folder)


@pytest.mark.parametrize("mode", MODES)
def test_refused_with_the_reason(
    build_target: BuildTarget, plugin: Plugin, start: Start, trace: Trace, path: Path, mode: str
) -> None:
    """Nothing is written into the file, and who else maps it goes on."""
    target = start(build_target("maps.c"), plugin.offset, f"{mode}:{path}")
    other = start(build_target("maps.c"), plugin.offset, f"shared:{path}")
    tracer = trace(target)
    name = "memfd:plugin" if mode == "memfd" else path
    _, (refused,) = tracer.insert(counting(name, "plugged"))
    assert refused.state is State.FAILED
    assert "MAP_SHARED" in refused.reason
    assert path.read_bytes() == plugin.path.read_bytes()
    for each in (other, target):
        each.go()
        each.expect("stopped")
    tracer.detach()
    assert path.read_bytes() == plugin.path.read_bytes()
    for each in (other, target):
        each.finish()


def test_a_private_mapping_of_the_same_file_is_served(
    build_target: BuildTarget, plugin: Plugin, start: Start, trace: Trace, path: Path
) -> None:
    """And the probe says that it is not everywhere."""
    modes = [f"{mode}:{path}" for mode in ("shared", "private", "writable")]
    target = start(build_target("maps.c"), plugin.offset, *modes)
    tracer = trace(target)
    number, (probe,) = tracer.insert(counting(path, "plugged"))
    assert probe.state is State.ACTIVE
    assert "not at each of its places" in probe.reason
    assert "MAP_SHARED" in probe.reason
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [50]
    tracer.detach()
    assert path.read_bytes() == plugin.path.read_bytes()
    target.finish()
