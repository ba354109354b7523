"""Dynamic loaders where few have one: executed as a command, and inside of a static program; and
what they load more than once, or choose."""

from __future__ import annotations

from pathlib import Path

import pytest

from dprobed.wire.protocol import State
from tests.conftest import BuildTarget
from tests.integration.client_support import dprobe, parsed
from tests.integration.conftest import Start, Trace
from tests.integration.harness import counting, text

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


@pytest.mark.parametrize("how", ["-static", "-static-pie", "-no-pie", "-pie"])
def test_an_ifunc_from_its_first_call_on(
    build_target: BuildTarget, tmp_path: Path, how: str
) -> None:
    """What its resolver function chooses is probed as soon as it has chosen."""
    program = build_target("chooses.c", how)
    source, report = tmp_path / "p.rpn", tmp_path / "report"
    source.write_text(counting(program.name, "plugged"))
    done = dprobe("run", "--format", "json", "-o", report, source, "--", program)
    assert done.returncode == 0, done.stderr
    *_, summary = parsed(report.read_text())
    assert [(each["state"], each["hits"]) for each in summary["probes"]] == [("active", 21)]


def test_an_ifunc_of_a_library_that_comes_and_goes(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    library = build_target("chooses.c", "-DLIBRARY", "-shared", "-fPIC", output="libchooses.so")
    target = start(build_target("loads.c"), library)
    tracer = trace(target)
    number, _ = tracer.insert(counting(library.name, "plugged"))
    target.go()
    target.expect("loaded")
    assert tracer.hits(number) == [4 * CALLS]
    for word in ("unloaded", "stopped"):
        target.go()
        target.expect(word)
    assert tracer.hits(number) == [LOADS * CALLS]
    tracer.detach()
    target.finish()


def test_libraries_one_after_the_other_at_the_same_base(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """What one of them chose says nothing of the next."""
    flags = ("-DLIBRARY", "-shared", "-fPIC", "-nostdlib")
    libraries = [
        build_target("chooses.c", *flags, f"-Wl,-soname,{name}", output=name)
        for name in ("libone.so", "libtwo.so")
    ]
    target = start(build_target("reloads.c"), *libraries)
    tracer = trace(target)
    numbers = [tracer.insert(counting(each.name, "plugged"))[0] for each in libraries]
    target.go()
    target.expect("closed")
    assert [tracer.hits(each) for each in numbers] == [[4 * CALLS], [4 * CALLS]]
    tracer.detach()
    target.finish()


@pytest.mark.parametrize("module", ["[vdso]", "linux-vdso.so.1", "[vsyscall]"])
def test_the_kernels_own_code_is_refused_by_its_name(
    build_target: BuildTarget, start: Start, tmp_path: Path, module: str
) -> None:
    source = tmp_path / "p.rpn"
    source.write_text(counting(module, "__vdso_time"))
    target = start(build_target("times.c"))
    done = dprobe("attach", target.pid, source)
    assert done.returncode == 2
    assert f"{module}: the kernel's own code (vDSO) cannot be probed" in done.stderr
    target.go()
    target.expect("timed")
    target.finish()


@pytest.mark.parametrize("flag", ["-pie", "-no-pie"])
def test_a_function_of_libc_that_is_the_kernels_own_code(
    build_target: BuildTarget, start: Start, trace: Trace, flag: str
) -> None:
    """Which it is by an IFUNC: said as soon as that has chosen, maybe at the first call."""
    target = start(build_target("times.c", flag))
    tracer = trace(target)
    number, _ = tracer.insert(counting("libc.so.6", "time", "gettimeofday"))
    target.go()
    target.expect("timed")
    probes = tracer.query(number)
    assert [each.state for each in probes] == [State.INVALID_OFFSET] * 2
    assert all("is a function of the vDSO here" in each.reason for each in probes)
    tracer.detach()
    target.finish()


@pytest.mark.parametrize(("closed", "hits"), [("none", 60), ("first", 50), ("last", 50)])
@pytest.mark.parametrize("kind", ["plug.c", "chooses.c"])
def test_a_library_in_several_namespaces(
    build_target: BuildTarget, start: Start, trace: Trace, kind: str, closed: str, hits: int
) -> None:
    """Each copy has the probe, whichever comes and goes, and the same function of an IFUNC."""
    flags = ("-DLIBRARY", "-shared", "-fPIC")
    library = build_target(kind, *flags, output=f"libmany-{kind[:-2]}.so")
    target = start(build_target("namespaces.c"), library, closed)
    before = text(target.pid)
    tracer = trace(target)
    number, _ = tracer.insert(counting(library.name, "plugged"))
    target.go()
    target.expect("half")
    found = tracer.query(number)
    assert [each.state for each in found] == [State.ACTIVE] * len(found)
    assert tracer.hits(number) == [30]
    target.go()
    target.expect("called")
    assert tracer.hits(number) == [hits]
    tracer.detach()
    now = text(target.pid)
    assert {name: now[name] for name in before} == before
    target.finish()
