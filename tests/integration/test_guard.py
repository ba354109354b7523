"""The guard: a target whose tracer was killed goes on, as if it had never been traced."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from dprobed.proc import procfs
from tests.conftest import BuildTarget
from tests.integration.client_support import Daemon, running_daemon
from tests.integration.conftest import Start, Trace
from tests.integration.harness import Target, TracerProcess, counting, text

#: How often a tracer is killed at some moment.
ROUNDS = 15


@pytest.fixture
def guarded(build_target: BuildTarget) -> Path:
    return build_target("guarded.c", "-pthread")


def say(target: Target, letter: str) -> None:
    target.process.stdin.write(letter.encode())
    target.process.stdin.flush()


def is_whole(target: Target) -> bool:
    """Whether it ends well, and all of its sums were right."""
    target.go()
    target.expect("bad 0")
    status: int = target.process.wait(60)
    return status == 0


def catches(target: Target) -> bool:
    """Whether the kernel has a handler for SIGTRAP."""
    status = Path(f"/proc/{target.pid}/status").read_text()
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return int(mask, 16) >> (signal.SIGTRAP - 1) & 1 == 1


def until_it_hits(tracer: TracerProcess, number: int, hits: int = 1) -> None:
    while tracer.query(number)[0].hits < hits:
        pass


@pytest.mark.parametrize("body", ["push r,rdi\nlog 1\nexit", "push r,rax\npop r,rax\nabort"])
def test_at_any_moment(guarded: Path, start: Start, trace: Trace, body: str) -> None:
    for _ in range(ROUNDS):
        target = start(guarded)
        tracer = trace(target)
        number = tracer.put(counting(guarded, "probed", body=body))
        until_it_hits(tracer, number, random.randrange(1, 3000))
        target.tracer = None
        tracer.kill()
        assert is_whole(target)


def test_with_many_sites(guarded: Path, start: Start, trace: Trace) -> None:
    """More than the first mapping has room for."""
    target = start(guarded)
    tracer = trace(target)
    tracer.put(counting(guarded, "probed"))
    _, probes = tracer.insert(counting("libc.so.6", *functions(libc(target), "get", "xdr", "inet")))
    assert sum(each.state == "active" for each in probes) > 250
    number = tracer.put(counting(guarded, "work"))
    until_it_hits(tracer, number)
    target.tracer = None
    tracer.kill()
    say(target, "f")
    target.expect("1 6")
    assert is_whole(target)


@pytest.mark.parametrize("killed", [False, True], ids=["traced", "after that"])
@pytest.mark.parametrize("letter", ["t", "i"], ids=["sent", "int3"])
def test_a_sigtrap_of_its_own_ends_it(
    guarded: Path, start: Start, trace: Trace, letter: str, killed: bool
) -> None:
    target = start(guarded)
    tracer = trace(target)
    until_it_hits(tracer, tracer.put(counting(guarded, "probed")))
    if killed:
        target.tracer = None
        tracer.kill()
    say(target, letter)
    if not killed:
        ended = tracer.wait()
        assert (ended.how, ended.status) == ("killed", signal.SIGTRAP)
    assert target.process.wait(60) == -signal.SIGTRAP


def test_its_own_handler_takes_its_place(guarded: Path, start: Start, trace: Trace) -> None:
    target = start(guarded)
    tracer = trace(target)
    number = tracer.put(counting(guarded, "probed"))
    until_it_hits(tracer, number)
    assert catches(target)
    say(target, "aaha")
    for word in ("default", "default", "default 5", "another"):
        target.expect(word)
    until_it_hits(tracer, number, tracer.query(number)[0].hits + 1)
    tracer.detach()
    assert catches(target)
    assert is_whole(target)


def test_nothing_is_left_after_a_detach(guarded: Path, start: Start, trace: Trace) -> None:
    target = start(guarded)
    before = text(target.pid)
    maps = Path(f"/proc/{target.pid}/maps").read_text()
    tracer = trace(target)
    until_it_hits(tracer, tracer.put(counting(guarded, "probed")))
    assert catches(target)
    tracer.detach()
    assert not catches(target)
    assert text(target.pid) == before
    assert Path(f"/proc/{target.pid}/maps").read_text() == maps
    assert is_whole(target)


def test_a_child_that_is_not_followed(guarded: Path, start: Start, trace: Trace) -> None:
    target = start(guarded)
    tracer = trace(target)
    until_it_hits(tracer, tracer.put(counting(guarded, "probed")))
    say(target, "f")
    target.expect("0 6")
    tracer.detach()
    assert is_whole(target)


def test_a_child_that_is_followed(guarded: Path, start: Start, trace: Trace) -> None:
    target = start(guarded)
    tracer = trace(target, follow_forks=True)
    until_it_hits(tracer, tracer.put(counting(guarded, "probed")))
    say(target, "f")
    target.expect("1 6")
    target.tracer = None
    tracer.kill()
    say(target, "f")
    target.expect("1 6")
    assert is_whole(target)


def test_a_tracer_that_comes_after_a_killed_one(
    guarded: Path, start: Start, daemon: Daemon, tmp_path: Path
) -> None:
    """The guard that the first one left is not taken for a handler of the target's."""
    target = start(guarded)
    source = tmp_path / "x.rpn"
    source.write_text(counting(guarded, "probed"))
    for _ in range(2):
        daemon.json("insert", source, "--pid", target.pid)
        os.kill(tracer_of(target.pid), signal.SIGKILL)
        while daemon.json("query", "--pid", target.pid)[0]["state"] == "active":
            pass
    daemon.json("insert", source, "--pid", target.pid)
    say(target, "ah")
    target.expect("default")
    target.expect("default 5")
    assert is_whole(target)


def tracer_of(pid: int) -> int:
    found = procfs.status(pid)
    assert found is not None
    return found.tracer


def libc(target: Target) -> Path:
    maps = Path(f"/proc/{target.pid}/maps").read_text().split()
    return next(Path(each) for each in maps if "/libc.so" in each)


def functions(library: Path, *prefixes: str) -> list[str]:
    """The functions of a library whose names begin so, without what ends a thread: it blocks
    signals for that, and the guard cannot help."""
    with library.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".dynsym")
        assert isinstance(table, SymbolTableSection)
        return sorted(
            {
                each.name
                for each in table.iter_symbols()
                if each.name.startswith(prefixes)
                and each.name != "getpagesize"
                and each["st_info"]["type"] == "STT_FUNC"
                and each["st_shndx"] != "SHN_UNDEF"
            }
        )


@pytest.fixture
def source(guarded: Path, tmp_path: Path) -> Path:
    path = tmp_path / "probed.rpn"
    path.write_text(counting(guarded, "probed"))
    return path


@pytest.mark.parametrize(
    ("letters", "why"),
    [("", ""), ("h", "it has a SIGTRAP handler of its own"), ("g", "it ignores SIGTRAP")],
)
def test_who_is_not_guarded_is_seen(
    guarded: Path, source: Path, start: Start, daemon: Daemon, letters: str, why: str
) -> None:
    target = start(guarded)
    if letters:
        say(target, letters)
        target.expect({"h": "default 5", "g": "ignored"}[letters])
    daemon.json("insert", source, "--pid", target.pid)
    assert [row["unguarded"] for row in daemon.json("query")] == [why]
    said = daemon.dprobe("query").stderr
    assert said == (
        f"dprobe: process {target.pid} is unguarded: {why}; if its tracer is killed, so is it\n"
        if why
        else ""
    )
    daemon.dprobe("remove", "--all")
    assert is_whole(target)


def test_a_thread_that_blocks_sigtrap_is_seen(
    guarded: Path, source: Path, start: Start, daemon: Daemon
) -> None:
    target = start(guarded)
    say(target, "b")
    target.expect("blocked")
    daemon.json("insert", source, "--pid", target.pid)
    (row,) = daemon.json("query")
    assert row["unguarded"] == f"thread {target.pid} blocks SIGTRAP"
    daemon.dprobe("remove", "--all")
    assert is_whole(target)


def test_a_policy_refuses_breakpoints_there(
    guarded: Path, source: Path, start: Start, tmp_path: Path
) -> None:
    config = tmp_path / "dprobed.toml"
    config.write_text('policies = "policies.d"\n')
    policies = tmp_path / "policies.d" / "p.toml"
    policies.parent.mkdir()
    policies.write_text('\n[[policy]]\nname = "p"\nmatch.exe = "**"\nunguarded = "refuse"\n')
    guarded_one, other = start(guarded), start(guarded)
    say(other, "h")
    other.expect("default 5")
    with running_daemon(tmp_path, "--config", config) as daemon:
        daemon.json("insert", source, "--pid", guarded_one.pid)
        before = text(other.pid)
        refused = daemon.dprobe("insert", source, "--pid", other.pid)
    assert refused.returncode == 2
    assert (
        "it would be unguarded: it has a SIGTRAP handler of its own; "
        f"policy p ({policies}:2) refuses that" in refused.stderr
    )
    assert text(other.pid) == before
    assert is_whole(guarded_one)
    assert is_whole(other)
