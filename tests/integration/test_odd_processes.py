"""A root's daemon that looks after processes which do what few do, on purpose or not."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import BuildTarget
from tests.integration.client_support import (
    PATIENCE,
    Daemon,
    Json,
    cat,
    children,
    program,
    running_daemon,
    tracer_of,
)
from tests.integration.conftest import Start

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root's daemon hears of everything")


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """The only policy file of ``daemon``."""
    (tmp_path / "dprobed.toml").write_text('policies = "policies.d"\n')
    (tmp_path / "policies.d").mkdir()
    path = tmp_path / "policies.d" / "odd.toml"
    path.write_text("")
    return path


@pytest.fixture
def daemon(tmp_path: Path, policies: Path) -> Iterator[Daemon]:
    config = policies.parent.parent / "dprobed.toml"
    environment = {**os.environ, "DPROBED_DUMPS": str(tmp_path / "cores")}
    with running_daemon(tmp_path, "--config", config, env=environment) as running:
        yield running


def eventually(daemon: Daemon, holds: Callable[[list[Json]], bool]) -> list[Json]:
    """What ``query`` lists, as soon as it is as it should be."""
    deadline = time.monotonic() + PATIENCE
    while not holds(found := daemon.query()):
        assert time.monotonic() < deadline, found
    return found


def is_in(pid: int) -> Callable[[list[Json]], bool]:
    """Whether a probe is in place in this process."""
    return lambda rows: any(row.get("pid") == pid and row["state"] == "active" for row in rows)


def is_refused(pid: int) -> Callable[[list[Json]], bool]:
    """Whether it could not be put into this process."""
    return lambda rows: str(pid) in rows[0]["refusals"]


def hits_in(daemon: Daemon, pid: int) -> int:
    """How often the only probe in a process was hit."""
    (row,) = [row for row in daemon.json("query") if row.get("pid") == pid]
    hits: int = row["hits"]
    return hits


def peak(pid: int) -> int:
    """The most memory that a process ever had, in megabytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) >> 10


def test_a_number_that_goes_to_another_process_at_once(
    daemon: Daemon, build_target: BuildTarget, tmp_path: Path
) -> None:
    """While the program is on its way into the first, or its end is not known everywhere yet."""
    own_cat = tmp_path / "cat"
    shutil.copy("/bin/cat", own_cat)
    daemon.json("insert", program(tmp_path), "--exe", own_cat)
    for _ in range(10):
        with cat([build_target("reborn.c"), "3", own_cat]) as target:
            (child,) = children(target.pid)
            eventually(daemon, is_in(child))
            # It may be in from the first line on.
            before = hits_in(daemon, child)
            target.say("x")
            assert hits_in(daemon, child) == before + 1


def test_a_process_that_is_denied_by_the_time_it_is_attached_to_is_let_go(
    daemon: Daemon, policies: Path, build_target: BuildTarget, tmp_path: Path
) -> None:
    allowed, denied = tmp_path / "turns-allowed", tmp_path / "turns-denied"
    for path in (allowed, denied):
        shutil.copy(build_target("turns.c"), path)
    policies.write_text(
        f'[[policy]]\nname = "p"\nmatch.exe = "{denied}"\nrights.user.root = "deny"\n'
    )
    assert daemon.dprobe("policy", "reload").returncode == 0
    daemon.json("insert", program(tmp_path), "--exe", f"{tmp_path}/turns-*")
    for _ in range(6):
        with cat([allowed, "60", allowed, denied]) as target:
            eventually(daemon, is_in(target.pid))
        with cat([denied, "60", denied, allowed]) as target:
            eventually(daemon, is_refused(target.pid))
            deadline = time.monotonic() + PATIENCE
            while tracer_of(target.pid):
                assert time.monotonic() < deadline
            assert not is_in(target.pid)(daemon.json("query"))


@pytest.mark.parametrize("what", ["arguments", "environment"])
def test_what_a_process_says_of_itself_has_an_end(
    daemon: Daemon, policies: Path, build_target: BuildTarget, tmp_path: Path, what: str
) -> None:
    """It need not have the memory that it says its arguments are in, and anybody may say so."""
    policies.write_text(
        '[[policy]]\nname = "arguments"\nmatch.cmdline = "*none*"\n'
        '[[policy]]\nname = "environment"\nmatch.environment.NONE = "none"\n'
    )
    assert daemon.dprobe("policy", "reload").returncode == 0
    before = peak(daemon.process.pid)
    with cat([build_target("claims.c"), what, "48"]) as target:
        (found,) = daemon.json("policy", "explain", target.pid)
        assert [step["matches"] for step in found["steps"]] == [False, False]
        daemon.json("insert", program(tmp_path), "--pid", target.pid)
        tracer = tracer_of(target.pid)
        tracer_before = peak(tracer)
        done = daemon.dprobe("dump", target.pid)
        assert done.returncode == 0, done.stderr
        assert peak(tracer) < tracer_before + 24
    assert peak(daemon.process.pid) < before + 24


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("there", ["already", "later"])
def test_a_process_whose_first_thread_has_ended(
    daemon: Daemon,
    policies: Path,
    build_target: BuildTarget,
    start: Start,
    tmp_path: Path,
    there: str,
    killed: bool,
) -> None:
    """While others go on: /proc shows what it has by those alone, and its end is told by nobody."""
    binary = build_target("engine_leader.c", "-pthread")
    policies.write_text(f'[[policy]]\nname = "p"\nmatch.exe = "{binary}"\nbudget.share = "50%"\n')
    assert daemon.dprobe("policy", "reload").returncode == 0
    counting = program(tmp_path, f'name = "{binary}"\noffset = probed\nabort\n')
    if there == "later":
        daemon.json("insert", counting, "--exe", binary)
    target = start(binary)
    target.go()
    target.expect("alone")
    if there == "already":
        daemon.json("insert", counting, "--exe", binary)
    eventually(daemon, is_in(target.pid))
    (found,) = daemon.json("policy", "explain", target.pid)
    assert (found["exe"], found["rule"]) == (str(binary), "p")
    if killed:
        # What its tracer leaves is taken out of it as of any other.
        (tracer,) = children(daemon.process.pid)
        os.kill(tracer, signal.SIGKILL)
        eventually(daemon, lambda rows: not rows[0]["processes"])
    target.go()
    target.expect("worked")
    target.go()
    target.expect("stopped")
    assert target.finish() == 20
    (row,) = eventually(daemon, lambda rows: not rows[0]["processes"])
    assert (row["hits"], row["entered"], row["missed"]) == (0 if killed else 20, 1, 0)


@pytest.mark.parametrize(
    ("what", "why"), [("mappings", "longer than 32 MB"), ("files", "code of more than 4096 files")]
)
def test_a_process_that_maps_too_much_is_refused(
    daemon: Daemon, build_target: BuildTarget, tmp_path: Path, what: str, why: str
) -> None:
    """Others would wait for us to look through it."""
    binary = build_target("crowded.c")
    with cat([binary], cwd=tmp_path) as target:
        target.say(what)
        done = daemon.dprobe("insert", program(tmp_path), "--pid", target.pid)
        assert (done.returncode, done.stdout) == (2, "")
        assert why in done.stderr and done.stderr.count("\n") == 1
        daemon.json("insert", program(tmp_path), "--exe", binary)
        (row,) = eventually(daemon, is_refused(target.pid))
        assert why in row["refusals"][str(target.pid)]
        assert not tracer_of(target.pid)


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("what", ["mappings", "files"])
def test_a_process_that_maps_too_much_later_is_left_whole(
    daemon: Daemon, build_target: BuildTarget, tmp_path: Path, what: str, killed: bool
) -> None:
    binary = build_target("crowded.c")
    with cat([binary], cwd=tmp_path) as target:
        daemon.json("insert", program(tmp_path), "--pid", target.pid)
        target.say(what)
        if killed:
            (tracer,) = children(daemon.process.pid)
            os.kill(tracer, signal.SIGKILL)
            eventually(daemon, lambda rows: not is_in(target.pid)(rows))
        else:
            (row,) = daemon.json("query")
            assert (row["state"], row["hits"]) == ("active", 1)
            (removed,) = daemon.json("remove", "--pid", target.pid)
            assert removed["hits"] == 1
        target.say("whole")
