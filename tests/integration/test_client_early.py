"""What cannot work is refused by `dprobe attach` and `insert` before the process is touched."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.client_support import (
    Cat,
    Json,
    Peer,
    cat,
    children,
    dprobe,
    parsed,
    program,
    running_daemon,
    tracer_of,
)
from tests.integration.policy_support import (
    NOBODY,
    Place,
    answer,
    asking,
    cat_of,
    refused,
    upload,
)

LIBC = "/usr/lib/x86_64-linux-gnu/libc.so.6"
MISTYPED = """\
// what it writes
name = libc.so.6
  offset = wriite // not write
    exit
offset = malloc+1
    exit
"""
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root serves several users")


def stops(pid: int) -> list[str]:
    """How often each thread has slept: a stop that it is woken for is one more."""
    lines = []
    for task in sorted(Path(f"/proc/{pid}/task").iterdir()):
        text = (task / "status").read_text().splitlines()
        lines += [task.name, *(line for line in text if "ctxt_switches" in line)]
    return lines


@contextmanager
def untouched(target: Cat) -> Iterator[None]:
    """No thread of a process that waits for input is stopped meanwhile."""
    while "State:\tS" not in Path(f"/proc/{target.pid}/status").read_text():
        os.sched_yield()
    before = stops(target.pid)
    yield
    assert stops(target.pid) == before
    assert tracer_of(target.pid) == 0


def check_refused(done: subprocess.CompletedProcess[str], mistyped: Path) -> None:
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert lines[:4] == [
        f"dprobe: {mistyped}:3:12: error: {LIBC}: no symbol wriite",
        "      offset = wriite // not write",
        "               ^~~~~~",
        lines[3],
    ]
    assert lines[3].startswith("    hint: did you mean `write`")
    assert f"{mistyped}:5:10: error: {LIBC}: malloc+0x1 is inside an instruction" in done.stderr
    assert lines[-1] == "(`--missing warn` goes on without such probes)"


def test_attach_refuses_before_it_attaches(tmp_path: Path) -> None:
    mistyped, good = program(tmp_path, MISTYPED, "mistyped"), program(tmp_path)
    with cat() as target:
        with untouched(target):
            check_refused(dprobe("attach", target.pid, good, mistyped), mistyped)
        # The evidence is one: whoever is attached to has slept once more.
        before = stops(target.pid)
        assert dprobe("attach", "--for", "0.01", target.pid, good).returncode == 0
        assert stops(target.pid) != before


def test_insert_refuses_all_programs_before_it_attaches(tmp_path: Path) -> None:
    mistyped, good = program(tmp_path, MISTYPED, "mistyped"), program(tmp_path)
    nobody = program(tmp_path, "name = libc.so.6\noffset = write\n    exit nobody\n", "nobody")
    with running_daemon(tmp_path) as daemon, cat() as target:
        with untouched(target):
            for sources in ((good, mistyped), (mistyped, good)):
                check_refused(daemon.dprobe("insert", "--pid", target.pid, *sources), mistyped)
            done = daemon.dprobe("insert", "--pid", target.pid, good, nobody)
            assert (done.returncode, done.stdout) == (2, "")
            text = f"dprobe: {nobody}:3:5: nobody: no facility nobody is registered; registered: "
            assert done.stderr.startswith(text)
        assert daemon.json("programs") == daemon.json("query") == []
        assert children(daemon.process.pid) == []  # no tracer was ever started
        assert daemon.dprobe("insert", "--pid", target.pid, good).returncode == 0
        assert len(children(daemon.process.pid)) == 1
        assert len(daemon.json("programs")) == 1


def test_missing_warn_goes_on_without_such_probes(tmp_path: Path) -> None:
    source = program(tmp_path, MISTYPED + "offset = write\n    exit\n", "some")
    states = ["invalid offset", "invalid offset", "active"]
    sources = [f"{source}:3:12", f"{source}:5:10", ""]
    warning = f"dprobe: {source}:3:12: some 1.1 at wriite: invalid offset: {LIBC}: no symbol"
    with running_daemon(tmp_path) as daemon, cat() as target:
        options = ("--missing", "warn", "--for", "0.01", "--format", "json")
        done = dprobe("attach", *options, target.pid, source)
        assert done.returncode == 0
        assert warning in done.stderr
        (summary,) = parsed(done.stdout)
        assert [probe["state"] for probe in summary["probes"]] == states
        assert [probe.get("source", "") for probe in summary["probes"]] == sources
        text = dprobe("attach", *options[:4], target.pid, source).stderr
        assert f"{source}:3:12: some 1.1 wriite: invalid offset: " in text
        done = daemon.dprobe("insert", "--missing", "warn", "--pid", target.pid, source)
        assert done.returncode == 0
        assert warning in done.stderr
        rows = daemon.json("query")
        assert [row["state"] for row in rows] == states
        assert [row["source"] for row in rows] == sources
        assert f"{source}:3:12" in daemon.dprobe("query", "-x").stdout


def test_a_module_that_is_not_mapped_is_waited_for(tmp_path: Path) -> None:
    later = program(tmp_path, "name = liblater.so\noffset = nosuch\n    exit\n", "later")
    with running_daemon(tmp_path) as daemon, cat() as target:
        assert daemon.dprobe("insert", "--pid", target.pid, later).returncode == 0
        (row,) = daemon.json("query")
        assert (row["state"], row["source"]) == ("pending", "")


def test_lines_and_static_names_of_the_executable(tmp_path: Path) -> None:
    (tmp_path / "waits.c").write_text(
        "#include <unistd.h>\n\nstatic int twice(int n) { return 2 * n; }\n"
        "int main(int count, char **names)\n{\n    char c;\n"
        "    while (read(0, &c, 1) == 1)\n        if (write(1, &c, 1) != 1 || !twice(count))\n"
        "            return 1;\n    return 0;\n}\n"
    )
    binary = tmp_path / "waits"
    subprocess.run(["gcc", "-g", tmp_path / "waits.c", "-o", binary], check=True, timeout=60)
    right = program(tmp_path, "name = waits\noffset = waits.c:3\n    exit\n", "right")
    wrong = program(tmp_path, "name = waits\noffset = waits.c:2\n    exit\n", "wrong")
    other = program(tmp_path, f"name = {binary}\noffset = twicee\n    exit\n", "other")
    with cat([binary]) as target:
        with untouched(target):
            done = dprobe("attach", target.pid, right, wrong, other)
            assert done.returncode == 2
            assert f"{right}:" not in done.stderr
            assert f"{wrong}:2:10: error: {binary}: " in done.stderr
            assert f"{other}:2:10: error: {binary}: no symbol twicee" in done.stderr
            assert "did you mean `twice`?" in done.stderr
        # What was mapped is what counts, not what has its path now.
        binary.unlink()
        shutil.copy("/bin/true", binary)
        with untouched(target):
            assert dprobe("attach", target.pid, other).returncode == 2
        if os.geteuid() == 0:
            assert dprobe("attach", "--for", "0.01", target.pid, right).returncode == 0


@pytest.mark.parametrize(
    ("place", "column", "reason"),
    [
        ("offset = write\nopcode = 0xcc", 10, "mismatch: "),
        ("address = 0x1001:8\nwatchpoint = w", 11, "watchpoint length invalid: 8 bytes"),
    ],
)
def test_what_only_the_tracer_knows_has_its_source_too(
    tmp_path: Path, place: str, column: int, reason: str
) -> None:
    source = program(tmp_path, f"name = libc.so.6\n{place}\n    exit\n", "vain")
    with cat() as target:
        done = dprobe("attach", target.pid, source)
        assert done.returncode == 2
        assert f"dprobe: {source}:2:{column}: vain 1.1 at " in done.stderr
        assert f": {reason}" in done.stderr


def test_a_length_that_no_watchpoint_has_is_refused_early(tmp_path: Path) -> None:
    source = program(
        tmp_path, "name = libc.so.6\naddress = qsort:3\nwatchpoint = w\n    exit\n", "odd"
    )
    says = f"dprobe: {source}:2:11: error: qsort+0x0 has 3 bytes at "
    with cat() as target:
        for command in (
            ("attach", target.pid, source),
            ("run", source, "--", "true"),
            ("check", "--in", target.pid, source),
        ):
            done = dprobe(*command)
            assert done.returncode == 2
            assert done.stderr.startswith(says)
            assert "write it as symbol:length" in done.stderr


def test_an_unknown_facility_is_seen_by_check(tmp_path: Path) -> None:
    source = program(tmp_path, "name = libc.so.6\noffset = write\n    exit nofac\n", "odd")
    says = f"dprobe: {source}:3:5: error: no facility nofac is registered\n"
    done = dprobe("--socket", tmp_path / "none", "check", source)
    assert (done.returncode, done.stderr) == (
        2,
        says + "    hint: registered: debugger (1), dump (3), trace (4)\n",
    )
    with running_daemon(tmp_path) as daemon, Peer(daemon) as peer:
        assert daemon.dprobe("check", source).stderr.startswith(says)
        peer.ask({"type": "register", "id": 1, "name": "mine", "facility": "nofac"})
        assert daemon.dprobe("check", source).returncode == 0


def test_a_process_that_does_not_exist(tmp_path: Path) -> None:
    """One line and status 2, whatever is asked of it."""
    with cat() as target:
        pass
    source = program(tmp_path)
    with running_daemon(tmp_path) as daemon:
        for command in (
            ("query", "-p", target.pid),
            ("programs", "-p", target.pid),
            ("log", "-p", target.pid),
            ("log", "-f", "-p", target.pid),
            ("attach", "-p", target.pid, source),
            ("insert", "-p", target.pid, source),
            ("dump", "-p", target.pid),
            ("remove", "-p", target.pid, "writes"),
            ("vars", "--global", target.pid),
            ("check", "--in", target.pid, source),
            ("debug", target.pid),
            ("resume", target.pid),
            ("policy", "explain", target.pid),
        ):
            done = daemon.dprobe(*command)
            assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), command


def test_the_executable_of_a_selection(tmp_path: Path) -> None:
    """One file is named: its places are looked for, and only a glob or a name leaves them open."""
    binary = tmp_path / "tool"
    shutil.copy(os.path.realpath("/bin/cat"), binary)
    source = program(tmp_path, "name = tool\noffset = 0x1\n    exit\n", "tools")
    libc = program(tmp_path, MISTYPED, "libc")
    with running_daemon(tmp_path) as daemon:
        done = daemon.dprobe("insert", "--exe", binary, source)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{source}:2:10: error: {binary}: file offset 0x1 is not in an exec" in done.stderr
        assert daemon.json("programs") == []
        for options in (("--exe", binary, "--missing", "warn"), ("--exe", f"{binary}*")):
            assert daemon.dprobe("insert", *options, source).returncode == 0
        # So is the library of that name here: a process may map another one.
        assert daemon.dprobe("insert", "--exe", binary, libc).returncode == 2
        assert daemon.dprobe("insert", "--exe", binary, "--missing", "warn", libc).returncode == 0


# --- several users ---


def checked(peer: Peer, pid: int, *uploads: Json) -> Json:
    return answer(peer, {"type": "check", "id": 1, "pid": pid, "programs": list(uploads)})


@AS_ROOT
def test_a_denied_right_is_told_with_its_line_before_anything_is_touched(place: Place) -> None:
    place.write(
        '[[policy]]\nname = "look"\nmatch = { exe = "cat" }\nrights = { self = ["observe"] }\n'
    )
    alters = "name = libc.so.6\noffset = write\n    push 1\n    pop r,rax\n    exit\n"
    with place.daemon() as daemon, cat_of(NOBODY) as target, asking(daemon) as peer:
        with untouched(target):
            text = refused(checked(peer, target.pid, upload(), upload(alters, "alters")))
            assert text.startswith(f"user 65534 (nobody) may not alter process {target.pid} (cat)")
            assert text.endswith("alters needs alter for `pop r` in alters.rpn:4:5")
            assert checked(peer, target.pid, upload()) == {
                "type": "checked",
                "id": 1,
                "missing": [],
            }
        assert children(daemon.process.pid) == []


@AS_ROOT
def test_who_may_not_read_a_process_is_told_nothing_of_its_files(place: Place) -> None:
    """Root's daemon could; a process that is not dumpable executes a file that is not readable."""
    secret = place.folder / "secret"
    shutil.copy(os.path.realpath("/bin/cat"), secret)
    text = "name = {}\noffset = nosuch\n    exit\n"
    with place.daemon() as daemon, asking(daemon) as peer:
        for mode, missing in ((0o755, 1), (0o711, 0)):
            secret.chmod(mode)
            with cat_of(NOBODY, secret) as target, untouched(target):
                found = checked(peer, target.pid, upload(text.format("secret"), "x"))
                assert len(found["missing"]) == missing, mode
                assert [each["source"] for each in found["missing"]] == ["x.rpn:2:10"] * missing
        with cat_of(1) as other:
            assert "may not touch" in refused(checked(peer, other.pid, upload()))


def test_check_is_refused_as_other_requests_are(target: Cat, tmp_path: Path) -> None:
    with running_daemon(tmp_path) as daemon, Peer(daemon) as peer:
        text = refused(checked(peer, daemon.process.pid, upload()))
        assert "is part of dprobed itself" in text
        assert "not a message" in refused(checked(peer, 1))
        bad = {"label": "x", "bytecode": ""}
        assert refused(checked(peer, target.pid, bad)).startswith("x: ")
