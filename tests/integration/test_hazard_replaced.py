"""Hazard 9: a file that was replaced on disk while it is mapped; the mapped one counts."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dprobed.wire.protocol import State
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import counting, text

NOBODY = 65534


@dataclass
class Package:
    """A program that can be upgraded: another build, with ``probed`` elsewhere."""

    installed: Path
    old: Path
    new: Path

    def upgrade(self) -> None:
        fresh = self.installed.with_suffix(".new")
        shutil.copy(self.new, fresh)
        fresh.rename(self.installed)


def symbol(program: Path, name: str) -> str:
    listed = subprocess.run(["nm", program], capture_output=True, text=True, check=True).stdout
    return next(line.split()[0] for line in listed.splitlines() if line.endswith(f" {name}"))


def build_id(program: Path) -> str:
    notes = subprocess.run(["readelf", "-n", program], capture_output=True, text=True, check=True)
    return notes.stdout.partition("Build ID: ")[2].split()[0]


@pytest.fixture
def package(build_target: BuildTarget) -> Iterator[Package]:
    old = build_target("boxed.c")
    new = build_target(
        "boxed.c", "-O0", "-falign-functions=512", "-Wl,--build-id=0x1234567890abcdef"
    )
    assert symbol(old, "probed") != symbol(new, "probed")
    with tempfile.TemporaryDirectory(prefix="dprobed-test-") as directory:
        Path(directory).chmod(0o755)
        installed = Path(shutil.copy(old, Path(directory) / "upgraded"))
        yield Package(installed, old, new)


@pytest.mark.parametrize("by", ["path", "base name", "build-id"])
def test_an_upgraded_program(package: Package, start: Start, trace: Trace, by: str) -> None:
    target = start(package.installed)
    before = text(target.pid)
    package.upgrade()
    name = {
        "path": str(package.installed),
        "base name": package.installed.name,
        "build-id": build_id(package.old),
    }[by]
    tracer = trace(target)
    number = tracer.put(counting(name, "probed"))
    _, other = tracer.insert(counting(build_id(package.new), "probed"))
    assert [each.state for each in other] == [State.PENDING]
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [100]
    tracer.detach()
    after = {line.replace(" (deleted)", ""): data for line, data in text(target.pid).items()}
    assert list(after.values()) == list(before.values())
    target.finish()


def test_a_deleted_program(package: Package, start: Start, trace: Trace) -> None:
    target = start(package.installed)
    package.installed.unlink()
    tracer = trace(target)
    number = tracer.put(counting(package.installed.name, "probed", "probed+0x8"))
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [100, 100]
    tracer.detach()
    target.finish()


def test_the_old_and_the_new_side_by_side(package: Package, start: Start, trace: Trace) -> None:
    first = start(package.installed)
    package.upgrade()
    second = start(package.installed)
    tracers = []
    for target in (first, second):
        tracer = trace(target)
        tracers.append((target, tracer, tracer.put(counting(package.installed, "probed"))))
    for target, tracer, number in tracers:
        target.go()
        target.expect("stopped")
        assert tracer.hits(number) == [100]
        tracer.detach()
        target.finish()


def test_without_the_right_to_open_the_mapped_file(
    package: Package, start: Start, trace: Trace
) -> None:
    """An unprivileged user cannot open map_files: refused, not placed by the wrong file."""
    target = start(package.installed, user=NOBODY, group=NOBODY, extra_groups=[])
    before = text(target.pid)
    package.upgrade()
    tracer = trace(uid=NOBODY)
    tracer.attach(target.pid)
    target.tracer = tracer
    number, probes = tracer.insert(counting(package.installed, "probed"))
    assert probes[0].state == State.INVALID_OFFSET
    assert "replaced" in probes[0].reason
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [0]
    tracer.detach()
    assert list(text(target.pid).values()) == list(before.values())
    target.finish()


def test_a_library_that_is_upgraded_between_two_loads(
    build_target: BuildTarget, start: Start, trace: Trace, tmp_path: Path
) -> None:
    program = build_target("loads.c")
    flags = ("-shared", "-fPIC", "-Wl,-soname,libplug.so.1")
    old = build_target("plug.c", *flags, output="libold.so")
    new = build_target("plug.c", *flags, "-O0", "-falign-functions=256", output="libnew.so")
    installed = Path(shutil.copy(old, tmp_path / "libplug.so"))
    target = start(program, installed)
    tracer = trace(target)
    number, _ = tracer.insert(counting("libplug.so", "plugged"))
    target.go()
    target.expect("loaded")
    Package(installed, old, new).upgrade()
    target.go()
    target.expect("unloaded")
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [200]
    tracer.detach()
    target.finish()
