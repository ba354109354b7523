"""Programs that follow a selection of processes: those running, those to come, those that go."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import BuildTarget
from tests.integration.client_support import (
    COUNTS_WRITES,
    WITHOUT_EVENTS,
    WRITES,
    Daemon,
    Json,
    Peer,
    cat,
    children,
    program,
    running_daemon,
    tracer_of,
    wait_end,
    words,
)
from tests.integration.conftest import Start
from tests.integration.harness import text


@pytest.fixture(params=["connector", "polling"])
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that hears of processes in one way or the other."""
    before = WITHOUT_EVENTS if request.param == "polling" else ()
    with running_daemon(tmp_path, before=before) as running:
        yield running


@pytest.fixture
def hearing(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that hears of processes by the kernel."""
    with running_daemon(tmp_path) as running:
        yield running


@pytest.fixture
def own_cat(tmp_path: Path) -> Path:
    """A `cat` that nobody else on this machine runs."""
    path = tmp_path / "cat"
    shutil.copy("/bin/cat", path)
    return path


def deployments(daemon: Daemon) -> list[Json]:
    """The programs that belong to a selection of processes."""
    return [row for row in daemon.query() if row["type"] == "deployment"]


def until(daemon: Daemon, condition: Callable[[Json], bool]) -> Json:
    """Ask until the only deployment is so; pytest-timeout ends it if that never comes."""
    while True:
        (row,) = deployments(daemon)
        if condition(row):
            return row


def probes(daemon: Daemon) -> dict[int, Json]:
    """The probe in each process."""
    return {row["pid"]: row for row in daemon.query() if row["type"] == "probe"}


def hits(daemon: Daemon) -> Counter[int]:
    """The hits of the probe in each process. (What a process writes first may be one: a program
    that waits for processes can be in by then.)"""
    return Counter({pid: row["hits"] for pid, row in probes(daemon).items()})


def test_a_program_waits_for_processes_and_follows_them(
    daemon: Daemon, own_cat: Path, tmp_path: Path
) -> None:
    (row,) = daemon.json("insert", program(tmp_path), "--exe", own_cat)
    assert (row["state"], row["processes"], row["selection"]["exe"]) == ("pending", 0, str(own_cat))
    with cat([own_cat]) as one, cat([own_cat]) as two:
        row = until(daemon, lambda row: row["processes"] == 2)
        assert row["state"] == "active"
        before = hits(daemon)
        one.say("a")
        two.say("bc")
        two.say("def")
        assert hits(daemon) - before == {one.pid: 1, two.pid: 2}
        total = before.total() + 3
        assert two.end() == 0
        row = until(daemon, lambda row: row["processes"] == 1)
        assert (row["hits"], row["entered"]) == (total, 2)
        assert one.end() == 0
    row = until(daemon, lambda row: row["processes"] == 0)
    assert (row["state"], row["hits"], row["dropped"], row["refused"]) == ("pending", total, 0, {})
    (health,) = daemon.json("status")
    assert (health["hits"], health["losses"]["missed_hits"]) == (total, row["missed_hits"])
    logged = sorted(words(record)[0] for record in daemon.json("log"))
    assert (logged[:3], len(logged)) == ([2, 3, 4], total)


def test_processes_that_run_already_and_removal_from_all(
    daemon: Daemon, own_cat: Path, tmp_path: Path
) -> None:
    with cat([own_cat]) as one, cat([own_cat]) as two:
        daemon.json("insert", program(tmp_path), "--exe", f"{tmp_path}/c?t", "--user", "0")
        until(daemon, lambda row: {one.pid, two.pid} <= probes(daemon).keys())
        one.say("x")
        rows = daemon.json("remove", "writes")
        assert rows[0]["type"] == "deployment"
        assert {one.pid, two.pid} <= {row["pid"] for row in rows[1:]}
        assert (tracer_of(one.pid), tracer_of(two.pid)) == (0, 0)
        assert daemon.json("query") == []
        while children(daemon.process.pid):
            pass  # No tracer waits for further processes.


def test_all_that_is_given_must_hold(hearing: Daemon, own_cat: Path, tmp_path: Path) -> None:
    with cat([own_cat]) as target:
        hearing.json("insert", program(tmp_path), "--exe", own_cat, "--user", "nobody")
        hearing.json("insert", program(tmp_path), "--exe", own_cat, "--unit", "none.service")
        hearing.json("insert", program(tmp_path), "--exe", own_cat)
        while not (rows := deployments(hearing))[2]["processes"]:
            pass
        assert [row["processes"] for row in rows] == [0, 0, 1]
        assert probes(hearing)[target.pid]["number"] == 3


def test_a_program_that_is_executed_and_one_that_is_left(
    daemon: Daemon, own_cat: Path, tmp_path: Path
) -> None:
    daemon.json("insert", program(tmp_path), "--exe", own_cat)
    script = 'while read -r word; do [ "$word" = go ] && exec "$0"; echo "$word"; done'
    with cat(["sh", "-c", script, own_cat]) as target:
        assert until(daemon, lambda row: True)["processes"] == 0
        assert target.process.stdin is not None
        target.process.stdin.write(b"go\n")
        target.process.stdin.flush()
        until(daemon, lambda row: row["processes"] == 1)
        target.say("x")
        assert hits(daemon) == {target.pid: 1}
    # And the other way: what a process executes next is not meant any longer.
    daemon.json("remove", "--all")
    daemon.json(
        "insert", program(tmp_path), "--exe", f"**/{tmp_path.parent.name}/{tmp_path.name}/dash"
    )
    shutil.copy("/bin/dash", tmp_path / "dash")
    with cat([tmp_path / "dash", "-c", script, "cat"]) as target:
        until(daemon, lambda row: row["processes"] == 1)
        assert target.process.stdin is not None
        target.process.stdin.write(b"go\n")
        target.process.stdin.flush()
        row = until(daemon, lambda row: row["processes"] == 0)
        assert row["entered"] == 1
        target.say("y")
        while tracer_of(target.pid):
            pass


def test_what_ends_too_soon_is_counted(hearing: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "true"
    shutil.copy("/bin/true", path)
    hearing.json("insert", program(tmp_path), "--exe", path)
    for _ in range(20):
        subprocess.run([path], check=True)
    # Others start processes on this machine, too; those are not meant, but may be unseen as well.
    row = until(
        hearing,
        lambda row: (
            row["processes"] + row["waiting"] == 0
            and row["entered"] + row["missed"] + row["unseen"] >= 20
        ),
    )
    assert row["entered"] + row["missed"] <= 20
    assert row["refused"] == {}


def test_what_ends_on_its_way_in_is_missed(hearing: Daemon, own_cat: Path, tmp_path: Path) -> None:
    hearing.json("insert", program(tmp_path), "--exe", own_cat)
    with cat([own_cat]):
        until(hearing, lambda row: row["processes"] == 1)
    until(hearing, lambda row: row["processes"] == 0)
    (tracer,) = children(hearing.process.pid)  # It waits for the next one.
    os.kill(tracer, signal.SIGSTOP)
    try:
        with cat([own_cat]):
            until(hearing, lambda row: row["waiting"] == 1)
    finally:
        os.kill(tracer, signal.SIGCONT)
    row = until(hearing, lambda row: row["waiting"] == 0)
    assert (row["entered"], row["missed"], row["refused"]) == (1, 1, {})


@pytest.fixture
def libraries(build_target: BuildTarget) -> tuple[Path, Path]:
    """A library that nobody else maps, and a program that opens and closes it."""
    library = build_target("plug.c", "-shared", "-fPIC", output=f"libdeployed{os.getpid()}.so")
    return library, build_target("loads.c", "-ldl")


def test_a_module_that_is_opened_later(
    daemon: Daemon, start: Start, libraries: tuple[Path, Path], tmp_path: Path
) -> None:
    library, loads = libraries
    source = f"name = {library.name}\noffset = plugged\n    abort\n"
    daemon.json("insert", program(tmp_path, source), "--all")
    target = start(loads, library)
    assert until(daemon, lambda row: True)["processes"] == 0
    assert tracer_of(target.pid) == 0
    target.go()
    target.expect("loaded")
    until(daemon, lambda row: row["processes"] == 1)
    target.go()  # closes it, and opens it twice again
    target.expect("unloaded")
    assert probes(daemon)[target.pid]["state"] == "pending"
    assert probes(daemon)[target.pid]["hits"] == 50
    target.go()
    target.expect("stopped")
    assert probes(daemon)[target.pid]["hits"] == 100
    target.finish()
    until(daemon, lambda row: row["processes"] == 0 and row["hits"] == 100)


def test_a_module_in_another_mount_namespace(
    daemon: Daemon, start: Start, build_target: BuildTarget, tmp_path: Path
) -> None:
    """The program is a file that does not exist where the daemon looks."""
    binary = build_target("threads.c", "-pthread")
    inside = tmp_path / "box"
    name = f"deployed-in-{os.getpid()}"  # Nobody else on this machine runs one.
    inside.mkdir()
    script = (
        f"mount -t tmpfs none {inside} && mkdir -p {inside}/lib64 {inside}/lib/x86_64-linux-gnu && "
        f"cp {binary} {inside}/{name} && cp /lib64/ld-linux-x86-64.so.2 {inside}/lib64 && "
        f"cp /lib/x86_64-linux-gnu/libc.so.6 /lib/x86_64-linux-gnu/libpthread.so.0 "
        f"{inside}/lib/x86_64-linux-gnu && exec chroot {inside} /{name}"
    )
    by_name = f"name = {name}\noffset = probed\n    abort\n"
    by_path = f'name = "{inside}/{name}"\noffset = main\n    abort\n'
    daemon.json("insert", program(tmp_path, by_name, "named"), "--all")
    daemon.json(
        "insert", program(tmp_path, by_path, "by_path"), "--exe", f"/deployed-*-{os.getpid()}"
    )
    target = start("unshare", "-m", "sh", "-c", script)
    assert not (inside / name).exists()
    while len(found := [row for row in daemon.query() if row["type"] == "probe"]) < 2:
        pass
    target.go()
    target.expect("running")
    assert {(row["program"], row["pid"], row["state"]) for row in found} == {
        ("named", target.pid, "active"),
        ("by_path", target.pid, "active"),
    }
    target.go()
    target.expect("stopped")
    target.finish()


def test_what_is_traced_by_another_is_refused_counted_and_tried_again(
    hearing: Daemon, own_cat: Path, tmp_path: Path
) -> None:
    with cat([own_cat]) as target:
        strace = subprocess.Popen(
            ["strace", "-o", tmp_path / "trace", "-p", str(target.pid)], stderr=subprocess.PIPE
        )
        assert strace.stderr is not None
        assert b"attached" in strace.stderr.readline()
        hearing.json("insert", program(tmp_path), "--exe", own_cat)
        row = until(hearing, lambda row: bool(row["refused"]))
        assert row["refused"] == {"already traced by strace": 1}
        assert f"is already traced by process {strace.pid}" in row["refusals"][str(target.pid)]
        said = hearing.dprobe("query").stderr
        assert said == "dprobe: writes: refused in 1 process: already traced by strace\n"
        strace.terminate()
        strace.wait()
        strace.stderr.close()
        row = until(hearing, lambda row: row["processes"] == 1)
        assert row["refused"] == {}
        target.say("x")
        assert probes(hearing)[target.pid]["hits"] == 1


def test_a_second_daemon(own_cat: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with (
        cat([own_cat]) as target,
        running_daemon(tmp_path / "second") as second,
        running_daemon(tmp_path / "first") as first,
    ):
        first.json("insert", program(tmp_path), "--exe", own_cat)
        until(first, lambda row: row["processes"] == 1)
        second.json("insert", program(tmp_path), "--exe", own_cat)
        row = until(second, lambda row: bool(row["refused"]))
        assert row["refused"] == {"already traced by dprobed": 1}
        first.stop()
        until(second, lambda row: row["processes"] == 1)
        target.say("x")
        assert probes(second)[target.pid]["hits"] == 1


def test_a_forked_child_is_found(daemon: Daemon, tmp_path: Path) -> None:
    shutil.copy("/bin/dash", tmp_path / "dash")
    daemon.json("insert", program(tmp_path), "--exe", tmp_path / "dash")
    with cat(
        [tmp_path / "dash", "-c", "(while read -r word; do echo $word; done); exit"]
    ) as target:
        until(daemon, lambda row: row["processes"] == 2)
        (child,) = children(target.pid)
        before = hits(daemon)
        target.say("x")
        target.say("y")
        assert probes(daemon).keys() == {child, target.pid}
        assert hits(daemon) - before == {child: 2}


def test_children_have_it_from_their_first_instruction(daemon: Daemon, tmp_path: Path) -> None:
    """However short they live: none is missed, and none of their hits."""
    shutil.copy("/bin/dash", tmp_path / "dash")
    daemon.json("insert", program(tmp_path), "--exe", tmp_path / "dash")
    script = "while read -r word; do n=0; while [ $n -lt 50 ]; do (echo a); n=$((n+1)); done; done"
    with subprocess.Popen(
        [tmp_path / "dash", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as target:
        until(daemon, lambda row: row["processes"] == 1)
        output, _ = target.communicate(b"go\n", timeout=60)
        assert output == b"a\n" * 50
    row = until(daemon, lambda row: row["processes"] == 0)
    assert (row["entered"], row["missed"], row["hits"], row["refused"]) == (51, 0, 50, {})


def test_at_most_so_many_processes(hearing: Daemon, own_cat: Path, tmp_path: Path) -> None:
    hearing.json("insert", program(tmp_path), "--exe", own_cat, "--limit", 1)
    with cat([own_cat]) as one, cat([own_cat]) as two:
        row = until(hearing, lambda row: row["processes"] == 1 and bool(row["refused"]))
        assert row["refused"] == {"over the limit (1)": 1}
        (first,) = probes(hearing)
        other = two if first == one.pid else one
        assert (one if other is two else two).end() == 0
        until(hearing, lambda row: other.pid in probes(hearing))


def test_a_child_beyond_the_limit_loses_it(hearing: Daemon, tmp_path: Path) -> None:
    shutil.copy("/bin/dash", tmp_path / "dash")
    hearing.json("insert", program(tmp_path), "--exe", tmp_path / "dash", "--limit", 1)
    script = "read -r word; (while read -r word; do echo $word; done); exit"
    with subprocess.Popen(
        [tmp_path / "dash", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as target:
        until(hearing, lambda row: row["processes"] == 1)
        assert target.stdin is not None and target.stdout is not None
        target.stdin.write(b"fork\none\n")
        target.stdin.flush()
        assert target.stdout.readline() == b"one\n"
        row = until(hearing, lambda row: row["processes"] == 1 and row["refused"] != {})
        assert row["refused"] == {"over the limit (1)": 1}
        (child,) = children(target.pid)
        while tracer_of(child):
            pass
        assert tracer_of(target.pid)
        target.communicate(timeout=60)


def test_removed_from_one_process_it_stays_out_of_that(
    hearing: Daemon, own_cat: Path, tmp_path: Path
) -> None:
    hearing.json("insert", program(tmp_path), "--exe", own_cat)
    with cat([own_cat]) as one, cat([own_cat]):
        until(hearing, lambda row: row["processes"] == 2)
        (row,) = hearing.json("remove", "writes", "--pid", one.pid)
        assert row["pid"] == one.pid
        assert tracer_of(one.pid) == 0
        # Another program, so that every process is looked at anew.
        other = program(tmp_path, "name = libc.so.6\noffset = read\n    abort\n", "reads")
        hearing.json("insert", other, "--exe", own_cat)
        while [row["processes"] for row in deployments(hearing)] != [1, 2]:
            pass
        assert [row["program"] for row in hearing.json("query", "--pid", one.pid)] == [
            "reads",
            "reads",
        ]


def test_merge_and_replace(hearing: Daemon, own_cat: Path, tmp_path: Path) -> None:
    where = ("--exe", own_cat)
    with cat([own_cat]) as target:
        hearing.json("insert", program(tmp_path), *where)
        done = hearing.dprobe("insert", program(tmp_path), *where)
        assert done.returncode == 2
        assert done.stderr == (
            "dprobe: writes: a program of that name for libc.so.6 is inserted already (number 1) "
            "for the same processes; --merge inserts it as well, --replace removes those for that "
            "module first\n"
        )
        other = program(tmp_path, "name = libc.so.6\noffset = read\n    abort\n", "reads")
        hearing.json("insert", other, *where)
        hearing.json("insert", program(tmp_path), *where, "--merge")
        while [row["processes"] for row in deployments(hearing)] != [1, 1, 1]:
            pass
        hearing.json("insert", program(tmp_path), *where, "--replace")
        until(hearing, lambda row: row["processes"] == 1)
        target.say("x")
        (row,) = probes(hearing).values()
        assert (row["program"], row["hits"]) == ("writes", 1)
        assert hearing.dprobe("insert", other, *where, "--merge", "--replace").returncode == 2


def test_merge_and_replace_in_one_process(hearing: Daemon, own_cat: Path, tmp_path: Path) -> None:
    with cat([own_cat]) as target:
        where = ("--pid", target.pid)
        hearing.json("insert", program(tmp_path), *where)
        done = hearing.dprobe("insert", program(tmp_path), *where)
        assert done.returncode == 2
        assert f"for libc.so.6 is in process {target.pid} already (number 1)" in done.stderr
        hearing.json("insert", program(tmp_path), *where, "--merge")
        target.say("x")
        numbers = [row["number"] for row in hearing.json("programs")]
        assert len(numbers) == 2
        hearing.json("insert", program(tmp_path), *where, "--replace")
        (row,) = hearing.json("programs")
        assert row["number"] not in numbers
        target.say("y")
        (row,) = hearing.json("query")
        assert row["hits"] == 1


def test_it_goes_with_the_connection_that_wanted_it(
    hearing: Daemon, own_cat: Path, tmp_path: Path
) -> None:
    from dprobed.program.bytecode import encode
    from dprobed.program.rpn.parser import assemble
    from dprobed.wire import messages

    bytecode = encode(assemble(WRITES, "writes.rpn"))
    request = messages.Deploy(
        id=1,
        programs=[messages.Upload(label="own", bytecode=bytecode)],
        selection=messages.Selection(exe=str(own_cat)),
    )
    with cat([own_cat]) as target:
        with Peer(hearing) as peer:
            answer = peer.ask(messages.encode(request))
            assert answer["type"] == "deployed"
            assert not answer["deployments"][0]["kept"]
            until(hearing, lambda row: row["processes"] == 1)
            tracer = tracer_of(target.pid)
            target.say("abc")
            record = peer.read()
            assert record is not None
            assert (record["pid"], words(record)) == (target.pid, [4])
        assert wait_end(tracer)
        assert tracer_of(target.pid) == 0
        assert hearing.json("query") == []


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_the_end_of_the_daemon_leaves_the_targets_whole(
    own_cat: Path, tmp_path: Path, sign: signal.Signals
) -> None:
    with (
        cat([own_cat]) as one,
        cat([own_cat]) as two,
        running_daemon(tmp_path) as daemon,
    ):
        daemon.json("insert", program(tmp_path), "--exe", own_cat)
        until(daemon, lambda row: row["processes"] == 2)
        tracers = {tracer_of(one.pid), tracer_of(two.pid)}
        daemon.process.send_signal(sign)
        daemon.process.wait()
        assert all(map(wait_end, tracers))
        for target in (one, two):
            assert tracer_of(target.pid) == 0
            target.say("whole")


def test_what_cannot_be_is_refused_at_once(hearing: Daemon, tmp_path: Path) -> None:
    source = program(tmp_path)
    done = hearing.dprobe("insert", source, "--user", "nobody-of-that-name")
    assert done.returncode == 2
    assert done.stderr == "dprobe: there is no user `nobody-of-that-name`\n"
    done = hearing.dprobe("insert", source, "--exe", "/opt/{a,b")
    assert done.returncode == 2
    assert done.stderr == (
        "dprobe: --exe '/opt/{a,b' is not a valid pattern: `{` is not closed; write `[{]` for the "
        "character itself (at letter 6)\n"
    )
    for arguments in (
        [],
        ["--all", "--exe", "x"],
        ["--exe", ""],
        ["--unit", "a[z-a]"],
        ["--user", "99999999999999999999"],
        ["--all", "--pid", "1"],
        ["--pid", "1", "--limit", "1"],
        ["--exe", "x", "--limit", "99999999999999999999"],
        ["--pid", "one"],
    ):
        done = hearing.dprobe("insert", source, *arguments)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        # Nothing that only who knows the protocol understands, or Python.
        assert not any(word in done.stderr for word in ("message", "range.", "`str`"))
    assert hearing.json("query") == []


def test_dumps_of_a_program_in_several_processes(
    own_cat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that ended, too."""
    monkeypatch.setenv("DPROBED_DUMPS_HOURLY", "1")
    with running_daemon(tmp_path) as daemon:
        dumping = program(tmp_path, WRITES.replace("exit", "exit dump"), "dumping")
        assert daemon.dprobe("insert", dumping, "--exe", own_cat).returncode == 0
        for _ in range(2):
            with cat([own_cat]) as one:
                until(daemon, lambda row: row["processes"] == 1)
                one.say("a line")
                until(daemon, lambda row: row["dumped"] == 1)
            until(daemon, lambda row: row["processes"] == 0)
        (row,) = deployments(daemon)
        # Two lines of each; and what each writes first, where the program was in by then.
        assert row["dumped"] == 1 and 4 <= row["hits"] <= 6
        refused = row["hits"] - 1
        assert sum(row["no_dumps"].values()) == refused
        said = daemon.dprobe("query").stderr
        assert f"dprobe: dumping: in 2 processes: dumped 1, refused {refused}: " in said
        daemon.dprobe("remove", "--all")


def test_variables_of_a_program_in_several_processes(
    hearing: Daemon, own_cat: Path, tmp_path: Path
) -> None:
    hearing.json("insert", program(tmp_path, COUNTS_WRITES), "--exe", own_cat)
    with cat([own_cat]) as one, cat([own_cat]) as two:
        until(hearing, lambda row: row["processes"] == 2)
        before = hits(hearing)
        two.say("x")
        for select, pid, more in (("writes", two.pid, 1), ("1", one.pid, 0)):
            (row,) = hearing.json("vars", select, "--pid", pid)
            assert row["value"] == before[pid] + more
        done = hearing.dprobe("vars", "writes")
        assert done.returncode == 2
        assert done.stderr == "dprobe: writes goes into several processes; say which by --pid\n"


def test_the_breakpoints_of_a_killed_tracer_are_taken_out(
    hearing: Daemon, own_cat: Path, tmp_path: Path
) -> None:
    """Both processes had the same tracer, and would die of their next write."""
    with cat([own_cat]) as one, cat([own_cat]) as two:
        before = [text(one.pid), text(two.pid)]
        hearing.json("insert", program(tmp_path), "--exe", own_cat)
        until(hearing, lambda row: row["processes"] == 2)
        assert [text(one.pid), text(two.pid)] != before
        tracer = tracer_of(one.pid)
        assert tracer_of(two.pid) == tracer
        os.kill(tracer, signal.SIGKILL)
        row = until(hearing, lambda row: row["processes"] == 0)
        assert row["refused"] == {"the tracer was killed by SIGKILL": 2}
        for target, text_before in zip((one, two), before, strict=True):
            now = text(target.pid)
            assert {line: now[line] for line in text_before} == text_before
            target.say("on")
