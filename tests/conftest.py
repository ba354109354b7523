"""Fixtures for all layers of tests."""

from __future__ import annotations

import gc
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from tests.leftovers import leaving_nothing

TARGETS = Path(__file__).parent / "targets"

BuildTarget = Callable[..., Path]

# A shell's job in the background, and what nohup starts, ignores these, and so would all that the
# tests start: no program can trap what was ignored when it began.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _ignored in (signal.SIGQUIT, signal.SIGHUP):
    signal.signal(_ignored, signal.SIG_DFL)


# How long an example takes, or ten of them, is a matter of who else is at work on the machine.
settings.register_profile(
    "any machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


#: Tests that may not run beside others of their kind: they share one machine's daemon, services and
#: policies, or one virtual machine. All others run beside these, each file by itself.
_ALONE = {
    "benchmarks": "machine",
    "integration": "machine",
    "service": "machine",
    "system": "machine",
    "kernel": "kernel",
}


class SideBySide(LoadScopeScheduling):  # type: ignore[misc]
    """Which tests one process runs, of the processes of ``--dist=loadscope``.

    (Groups of ``--dist=loadgroup`` are not seen with pytest 9: it keeps names elsewhere.)
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        parts = file.split("/")
        return _ALONE.get(parts[1], file) if len(parts) > 2 else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> SideBySide | None:
    """For ``--dist=loadscope`` alone."""
    return SideBySide(config, log) if config.getvalue("dist") == "loadscope" else None


def pytest_collection_finish() -> None:
    """Garbage is not looked for among the tests themselves: that took up to 0.3 s each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A test leaves no child, ended or not, and no descriptor in the process of the tests."""
    with leaving_nothing():
        yield


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
