"""Dynamic loaders where few have one: executed as a command, and inside of a static program; and
what they load more than once, or choose."""

from __future__ import annotations

from pathlib import Path

import pytest

from dprobed.wire.protocol import State
from tests.conftest import BuildTarget
from tests.integration.client_support import dprobe, parsed
from tests.integration.conftest import Start, Trace
from tests.integration.harness import counting

#: What a dynamic program names as its interpreter.
LOADER = Path("/lib64/ld-linux-x86-64.so.2")
#: Calls of what is in the library, each time it is loaded, and how often it is.
CALLS, LOADS = 25, 8

pytestmark = pytest.mark.skipif(not LOADER.exists(), reason="another loader")


@pytest.fixture
def library(build_target: BuildTarget) -> Path:
    return build_target("plug.c", "-shared", "-fPIC", "-nostdlib", output="libplug.so")


def test_the_loader_as_a_command(build_target: BuildTarget, library: Path, tmp_path: Path) -> None:
    """Found as if the program had been executed, from the first call on."""
    program = build_target("loads.c")
    sources = []
    for module, place in ((program.name, "main"), (library.name, "plugged"), ("libc.so.6", "mmap")):
        sources.append(tmp_path / f"{place}.rpn")
        sources[-1].write_text(counting(module, place))
    report = tmp_path / "report"
    arguments = ["--format", "json", "-o", report, *sources, "--", LOADER, program, library]
    done = dprobe("run", *arguments, stdin=None, input="\n" * 4)
    assert done.returncode == 0, done.stderr
    *_, summary = parsed(report.read_text())
    hits = {each["program"]: each["hits"] for each in summary["probes"]}
    # Its own mmaps, and those of libc itself.
    assert hits.pop("mmap") >= LOADS
    assert hits == {"main": 1, "plugged": CALLS * LOADS}


@pytest.mark.parametrize("how", ["command", "static"])
def test_a_library_that_comes_later(
    build_target: BuildTarget, library: Path, start: Start, trace: Trace, how: str
) -> None:
    if how == "static":
        target = start(build_target("loads.c", "-static"), library)
    else:
        target = start(LOADER, build_target("loads.c"), library)
    tracer = trace(target)
    number, probes = tracer.insert(counting(library.name, "plugged"))
    assert [each.state for each in probes] == [State.PENDING]
    target.go()
    target.expect("loaded")
    assert tracer.hits(number) == [4 * CALLS]
    target.go()
    target.expect("unloaded")
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [LOADS * CALLS]
    tracer.detach()
    target.finish()
