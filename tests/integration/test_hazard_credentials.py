"""Hazard: what the kernel does by parent and privilege is as without us, as far as it lets us."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dprobed.record.log import decode_log
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import counting

NOBODY = 65534


@pytest.fixture
def program(build_target: BuildTarget) -> Iterator[Path]:
    """Where another user can execute it."""
    built = build_target("credentials.c", "-pthread")
    with tempfile.TemporaryDirectory(prefix="dprobed-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(shutil.copy(built, Path(folder) / "credentials"))


def test_the_end_of_a_parent_is_told_to_its_child(
    program: Path, start: Start, trace: Trace
) -> None:
    """PR_SET_PDEATHSIG goes by the real parent's thread, which is not the tracer."""
    target = start(program, "pdeathsig")
    tracer = trace(target)
    number = tracer.put(counting(program, "probed"))
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [1]
    tracer.detach()
    target.finish()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a setuid program and another user")
@pytest.mark.parametrize("uid", [0, NOBODY])
def test_a_setuid_program_that_the_target_executes(
    program: Path, start: Start, trace: Trace, uid: int
) -> None:
    """It gains its privilege under root's tracer; under another's the kernel does not let it
    (ptracer_capable), and it runs without."""
    setuid = Path(shutil.copy(program, program.with_name("setuid")))
    setuid.chmod(0o4755)
    target = start(program, "exec", setuid, user=NOBODY, group=NOBODY, extra_groups=[])
    tracer = trace(target, uid=uid)
    number = tracer.put(counting(program, "probed"))
    target.go()
    target.expect("executed")
    assert f"user {NOBODY} {uid}" in target.said
    if uid == 0:
        assert tracer.hits(number) == [1]
    target.go()
    target.expect("stopped")
    target.go()
    target.expect("OK")
    assert target.process.wait(60) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs privileges to give up")
@pytest.mark.parametrize("mode", [0o755, 0o4755])
@pytest.mark.parametrize("step", ["nofixup", "keep", "noroot", "other", "nonew"])
def test_privileges_are_the_same_with_a_tracer(
    build_target: BuildTarget, start: Start, trace: Trace, step: str, mode: int
) -> None:
    """Whatever it has given up or kept, also over an ``exec``, of a setuid program too."""
    with tempfile.TemporaryDirectory(prefix="dprobed-test-") as folder:
        Path(folder).chmod(0o755)
        program = Path(shutil.copy(build_target("privileges.c"), Path(folder) / "privileges"))
        program.chmod(mode)
        said = []
        for traced in (False, True):
            target = start(program, program, step, "who")
            if traced:
                tracer = trace(target)
                number = tracer.put(counting(program, "probed"))
            target.go()
            target.expect("stopped")
            if traced:
                assert tracer.hits(number) == [2]
                tracer.detach()
            target.finish()
            said.append(target.said)
        assert said[0] == said[1]


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_a_program_sees_at_once_that_it_is_another_users(
    program: Path, start: Start, trace: Trace
) -> None:
    """A decision may depend on it."""
    target = start(program, "changes")
    tracer = trace(target)
    tracer.put(counting(program, "probed", body="push uid\nlog 1\npush gid\nlog 1\nexit"))
    target.go()
    target.expect("stopped")
    tracer.detach()
    logged = [[item["words"] for item in decode_log(each.log, each.raw)] for each in tracer.records]
    assert logged == [[[0], [0]], [[NOBODY], [NOBODY - 1]]]
    target.finish()
