"""Dumps of processes that are not free to do what a dump needs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dprobed.wire import protocol
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.dump_support import PROGRAM, about, children, core_of, gdb
from tests.integration.harness import TracerProcess

USER = 61298


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place that an ordinary user can get at, for the program and the cores."""
    with tempfile.TemporaryDirectory(prefix="dprobed-test-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        monkeypatch.setenv("DPROBED_DUMPS", str(folder / "cores"))
        monkeypatch.setenv("DPROBED_JOURNAL_SOCKET", str(folder / "no journal"))
        yield folder


@pytest.fixture
def boxed(build_target: BuildTarget, folder: Path) -> Path:
    program = folder / "boxed"
    program.write_bytes(build_target("boxed.c").read_bytes())
    program.chmod(0o755)
    return program


def look_at_core(program: Path, core: Path, frame: str) -> None:
    said = gdb(program, core, "backtrace", "x/i $pc")
    assert "#0  0x" in said
    assert f"in {frame} (" in said
    assert "<probed>:\tlock incq" in said


@pytest.mark.parametrize(
    ("box", "uid", "how"),
    [
        ("filter", 0, "snapshot"),
        ("strict", 0, "snapshot"),
        ("nnp", USER, "snapshot"),
        ("filter", USER, "stopped"),
    ],
)
def test_boxes(
    boxed: Path, folder: Path, start: Start, trace: Trace, box: str, uid: int, how: str
) -> None:
    """Root suspends a seccomp filter for the copy; for others the process stays stopped."""
    target = start(boxed, box, user=uid, group=uid, extra_groups=[])
    tracer = trace(uid=uid)
    tracer.attach(target.pid)
    target.tracer = tracer
    if how == "stopped":
        # No probe gets into such a process; a dump asks nothing of it.
        core = Path(_dump(tracer).path)
        assert "seccomp" in about(core)["why_stopped"]
        assert "in main (" in gdb(boxed, core, "backtrace")
    else:
        tracer.insert(PROGRAM.format(module=boxed, passed=0), facilities={"dump": 3})
        target.go()
        core = core_of(tracer)
        target.expect("stopped")
        look_at_core(boxed, core, "main")
    assert about(core)["how"] == how
    assert (core.stat().st_uid, core.stat().st_mode & 0o777) == (uid, 0o600)
    tracer.detach()
    assert children(target.pid) == []
    if how == "stopped":
        target.go()
        target.expect("stopped")
    target.finish()


def _dump(tracer: TracerProcess) -> protocol.DumpStatus:
    found = tracer.request(protocol.Dump(tracer.next(), tracer.target)).dump
    assert found is not None
    return found


def test_a_child_in_vfork(boxed: Path, folder: Path, start: Start, trace: Trace) -> None:
    """It is the child that is at the probe; the parent sleeps and cannot be borrowed."""
    target = start(boxed, "vfork")
    tracer = trace(target)
    tracer.insert(PROGRAM.format(module=boxed, passed=0), facilities={"dump": 3})
    target.go()
    core = core_of(tracer)
    target.expect("inside")
    look_at_core(boxed, core, "in_vfork")
    [child] = children(target.pid)
    assert about(core)["pid"] == child
    target.go()
    target.expect("stopped")
    tracer.detach()
    target.finish()


def test_another_pid_namespace(
    build_target: BuildTarget, folder: Path, start: Start, trace: Trace
) -> None:
    """The copy has another number inside, by which the process has to collect it."""
    program = build_target("crowd.c", "-pthread")
    target = start("unshare", "-pf", "--kill-child", "--mount-proc", program)
    [inside] = children(target.pid)
    tracer = trace()
    tracer.attach(inside)
    target.tracer = tracer
    core = Path(_dump(tracer).path)
    assert about(core)["how"] == "snapshot"
    tracer.detach()
    assert children(inside) == []
    target.go()
    target.expect("stopped")
    target.finish()
