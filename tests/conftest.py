"""Fixtures for all layers of tests."""

from __future__ import annotations

import contextlib
import gc
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dprobed.proc import mounts
from dprobed.proc.helper import HELPER
from tests.unit import location_files

TARGETS = Path(__file__).parent / "targets"

BuildTarget = Callable[..., Path]

# A shell's job in the background, and what nohup starts, ignores these, and so would all that the
# tests start: no program can trap what was ignored when it began.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _ignored in (signal.SIGQUIT, signal.SIGHUP):
    signal.signal(_ignored, signal.SIG_DFL)


def _children() -> set[int]:
    """Children of this process, those that have ended and were not waited for, too."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that just ended
            found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def _descriptors() -> set[tuple[str, str]]:
    """Open descriptors, by number and by what they are of."""
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the list itself
            found.add((each.name, str(each.readlink())))
    return found


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A test leaves no child, ended or not, and no descriptor in the process of the tests.

    Fixtures for several tests are there before it, and may. What dprobed keeps in any process as
    long as that lives is made before (the table of mounts), or taken down after (the helper, files
    that were read).
    """
    mounts.is_local(0)
    children, descriptors = _children(), _descriptors()
    yield
    HELPER.close()
    location_files.forget()
    left = _descriptors() - descriptors
    if left:
        gc.collect()  # what an exception's traceback still held
        left = _descriptors() - descriptors
    orphaned = _children() - children
    assert not orphaned, f"children were left: {sorted(orphaned)}"
    assert not left, f"descriptors were left: {sorted(left)}"


@pytest.fixture(scope="session")
def build_target(tmp_path_factory: pytest.TempPathFactory) -> BuildTarget:
    """Compile ``tests/targets/NAME`` once a session: ``build_target("x.c", "-pthread")``.

    Returns the program's path. ``output`` names it otherwise (a library: ``libx.so``).
    """
    directory = tmp_path_factory.mktemp("targets")
    built: dict[tuple[str, tuple[str, ...], str], Path] = {}

    def build(name: str, *flags: str, output: str = "") -> Path:
        key = (name, flags, output)
        if key not in built:
            made = directory / (output or f"{Path(name).stem}-{len(built)}")
            compiler = "g++" if name.endswith(".cc") else "gcc"
            command = [compiler, "-g", "-O1", "-Wall", "-Wextra", "-Werror"]
            command += [str(TARGETS / name), "-o", str(made), *flags]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
            built[key] = made
        return built[key]

    return build
