"""``dprobe insert`` into several processes: into all of them or none."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.client_support import (
    PATIENCE,
    Cat,
    Daemon,
    cat,
    program,
    running_daemon,
    tracer_of,
)


@pytest.fixture
def targets() -> Iterator[tuple[Cat, Cat]]:
    with cat() as one, cat() as other:
        yield one, other


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running_daemon(tmp_path) as found:
        yield found


def numbers(daemon: Daemon, target: Cat) -> list[int]:
    return [each["number"] for each in daemon.json("query", "--pid", target.pid)]


def test_what_was_replaced_is_back_where_another_refuses(
    tmp_path: Path, daemon: Daemon, targets: tuple[Cat, Cat]
) -> None:
    one, other = targets
    counting = program(tmp_path, "name = libc.so.6\noffset = getppid\nabort\n", "x")
    (former,) = daemon.json("insert", counting, "-p", one.pid)
    # Somebody else traces it.
    tracer = subprocess.Popen(["strace", "-qq", "-p", str(other.pid)], stderr=subprocess.PIPE)
    while not tracer_of(other.pid):
        pass
    refused = daemon.dprobe("insert", "--replace", counting, "-p", one.pid, other.pid)
    assert refused.returncode == 2
    assert " ".join(refused.stderr.split()).endswith("; nothing was put into the others")
    assert numbers(daemon, one) == [former["number"]]
    tracer.terminate()
    tracer.wait(PATIENCE)
    assert tracer.stderr is not None
    tracer.stderr.close()
    done = daemon.json("insert", "--replace", counting, "-p", one.pid, other.pid)
    assert [each["pid"] for each in done] == [one.pid, other.pid]
    assert numbers(daemon, one) != [former["number"]]
