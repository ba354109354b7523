"""Hazard 9: which file is mapped somewhere, and that memory is what that file has.

Device and inode that ``/proc/PID/maps`` prints do not tell files apart on btrfs (the numbers of
the whole file system) and overlayfs (those of a layer).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dprobed.proc import maps
from dprobed.wire.protocol import State
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import Target, counting, text

NOBODY = 65534
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
LIBRARY = ("-shared", "-fPIC", "-Wl,-z,noseparate-code")


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, (command, done.stderr)


class Mounts:
    """Mounts that the test made, and their folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: list[Path] = []

    def mount(self, name: str, *options: str | Path) -> Path:
        """Mount something at a folder of that name."""
        path = self.folder / name
        path.mkdir(exist_ok=True)
        run("mount", *options, path)
        self._made.append(path)
        return path

    def btrfs(self, *names: str) -> list[Path]:
        """Subvolumes of a new btrfs, in which the first files have the same inode number."""
        if shutil.which("mkfs.btrfs") is None:
            pytest.skip("no btrfs-progs")
        image = self.folder / "image"
        image.touch()
        os.truncate(image, 120 << 20)
        run("mkfs.btrfs", "-q", "-f", image)
        top = self.mount("btrfs", "-o", "loop", image)
        for name in names:
            run("btrfs", "-q", "subvolume", "create", top / name)
        return [top / name for name in names]

    def end(self) -> None:
        """Undo all."""
        for path in reversed(self._made):
            run("umount", "-l", path)


@pytest.fixture
def mounts() -> Iterator[Mounts]:
    with tempfile.TemporaryDirectory(prefix="dprobed-test-") as directory:
        Path(directory).chmod(0o755)
        made = Mounts(Path(directory))
        yield made
        made.end()


def two_layers(mounts: Mounts) -> list[Path]:
    """Folders of one overlay, whose layers are two file systems with the same inode numbers."""
    layers = [
        mounts.mount(name, "-t", "tmpfs", "-o", "mode=755", "none") for name in ("one", "two")
    ]
    for layer, name in zip(layers, ("a", "b"), strict=True):
        (layer / name).mkdir()
    return [layer / name for layer, name in zip(layers, ("a", "b"), strict=True)]


def numbers(pid: int, name: str) -> set[tuple[str, int]]:
    """Device and inode of the mappings of a file."""
    return {each.key for each in maps.modules(pid) if each.path.endswith(f"/{name}")}


def changed(target: Target, before: dict[str, bytes], name: str) -> int:
    """How many bytes of the code of a file are others than before."""
    now = text(target.pid)
    return sum(
        a != b
        for line, data in before.items()
        if line.endswith(f"/{name}")
        for a, b in zip(data, now[line], strict=True)
    )


@AS_ROOT
@pytest.mark.parametrize("uid", [0, NOBODY])
@pytest.mark.parametrize("kind", ["btrfs", "overlay"])
def test_program_and_library_with_one_number(
    build_target: BuildTarget, mounts: Mounts, start: Start, trace: Trace, kind: str, uid: int
) -> None:
    library = build_target(
        "plug.c", *LIBRARY, "-Wl,-soname,libnumbered.so", output="libnumbered.so"
    )
    program = build_target("linked.c", str(library))
    folders = mounts.btrfs("a", "b") if kind == "btrfs" else two_layers(mounts)
    places = [Path(shutil.copy(program, folders[0])), Path(shutil.copy(library, folders[1]))]
    if kind == "overlay":
        lower = f"lowerdir={mounts.folder}/one:{mounts.folder}/two"
        overlay = mounts.mount("overlay", "-t", "overlay", "-o", lower, "none")
        places = [overlay / "a" / program.name, overlay / "b" / library.name]
    environment = {"LD_LIBRARY_PATH": str(places[1].parent)}
    target = start(places[0], env=environment, user=uid, group=uid)
    if kind == "btrfs":
        assert numbers(target.pid, program.name) == numbers(target.pid, library.name)
    before = text(target.pid)
    tracer = trace(target, uid=uid)
    own = tracer.put(counting(program.name, "probed"))
    theirs = tracer.put(counting(library.name, "plugged"))
    assert [changed(target, before, each.name) for each in places] == [1, 1]
    target.go()
    target.expect("stopped")
    assert tracer.hits(own) == [50]
    assert tracer.hits(theirs) == [50]
    tracer.detach()
    assert text(target.pid) == before
    assert target.finish() == 50


@AS_ROOT
def test_a_library_that_is_mounted_over_another(
    build_target: BuildTarget, mounts: Mounts, start: Start, trace: Trace
) -> None:
    """One device, inode and path for both; what is mapped tells them apart."""
    old = build_target("plug.c", *LIBRARY, "-Wl,--build-id=0x01", output="libold.so")
    new = build_target("plug.c", *LIBRARY, "-O0", "-Wl,--build-id=0x02", output="libnew.so")
    one, two = mounts.btrfs("one", "two")
    shutil.copy(old, one / "lib.so")
    shutil.copy(new, two / "lib.so")
    at = mounts.mount("at", "--bind", one)
    target = start(build_target("mounted.c"), at / "lib.so", f"{at}/./lib.so", ready=False)
    target.expect("loaded")
    mounts.mount("at", "--bind", two)
    target.go()
    target.expect("ready")
    assert len(numbers(target.pid, "lib.so")) == 1
    tracer = trace(target)
    first = tracer.put(counting("01", "plugged"))
    second = tracer.put(counting("02", "plugged"))
    both = tracer.put(counting(at / "lib.so", "plugged"))
    target.go()
    target.expect("stopped")
    assert tracer.hits(first) == [50]
    assert tracer.hits(second) == [50]
    assert tracer.hits(both) == [100]
    tracer.detach()
    target.finish()


class Plugin:
    """A library that ``maps`` maps itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        listed = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout
        found = (line.split() for line in listed.splitlines())
        (self.offset,) = [f"0x{line[0]}" for line in found if line[-1] == "plugged"]

    def copy(self, to: Path) -> Path:
        """A copy at that path, whose folder is made."""
        to.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(self.path, to))


@pytest.fixture
def plugin(build_target: BuildTarget) -> Plugin:
    return Plugin(build_target("plug.c", *LIBRARY, output="libplugin.so"))


def test_two_files_of_equal_content(
    build_target: BuildTarget, plugin: Plugin, start: Start, trace: Trace, tmp_path: Path
) -> None:
    """Named by their paths, each is itself; by what they have in common, both are meant."""
    paths = [plugin.copy(tmp_path / name / "plugin.so") for name in ("a", "b")]
    named = [f"private:{path}" for path in paths]
    target = start(build_target("maps.c"), plugin.offset, *named)
    tracer = trace(target)
    one = tracer.put(counting(paths[0], "plugged"))
    both = tracer.put(counting("plugin.so", "plugged"))
    target.go()
    target.expect("stopped")
    assert tracer.hits(one) == [50]
    assert tracer.hits(both) == [100]
    tracer.detach()
    target.finish()


@AS_ROOT
def test_one_file_through_a_bind_mount(
    build_target: BuildTarget, plugin: Plugin, start: Start, trace: Trace, mounts: Mounts
) -> None:
    path = plugin.copy(mounts.folder / "real" / "plugin.so")
    bound = mounts.mount("bound", "--bind", path.parent) / "plugin.so"
    target = start(build_target("maps.c"), plugin.offset, f"private:{path}", f"private:{bound}")
    tracer = trace(target)
    numbered = [tracer.put(counting(each, "plugged")) for each in (path, bound, "plugin.so")]
    target.go()
    target.expect("stopped")
    assert [tracer.hits(each) for each in numbered] == [[50], [50], [100]]
    tracer.detach()
    target.finish()


def test_code_that_the_process_has_changed(
    build_target: BuildTarget, plugin: Plugin, start: Start, trace: Trace
) -> None:
    """Its own instruction is not the file's: refused, unless the user says what is there."""
    target = start(build_target("maps.c"), plugin.offset, f"patched:{plugin.path}")
    before = text(target.pid)
    tracer = trace(target)
    for source in (
        counting(plugin.path, "plugged"),
        counting(plugin.path, "plugged").replace("minor", "opcode = 0x48\nminor"),
        counting(plugin.path, "plugged").replace(
            "offset = plugged", "address = plugged\nwatchpoint = x"
        ),
    ):
        _, (refused,) = tracer.insert(source)
        assert refused.state is State.MISMATCH
        assert "the file has 48 8d 44 7f there, memory 48 8d 04 7f" in refused.reason
        assert "opcode" in refused.reason
    assert changed(target, before, plugin.path.name) == 0
    said = counting(plugin.path, "plugged").replace("minor", "opcode = 0x48 0x8d 0x04 0x7f\nminor")
    number = tracer.put(said)
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [50]
    tracer.detach()
    target.finish()
