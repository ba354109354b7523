"""`dprobe run`: the command is what it would be without us, and its records come out."""

from __future__ import annotations

import ctypes
import os
import pty
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from dprobe.lib.errors import UserError
from dprobe.lib.launch import find_command
from dprobe.lib.programs import Choice, load_programs

from tests.integration.client_support import (
    DPROBE,
    PATIENCE,
    Cat,
    children,
    dprobe,
    parsed,
    program,
    running_daemon,
    tracer_of,
    wait_end,
    words,
)
from tests.integration.harness import until_it_reads

#: Records as JSON on standard output.
JSON = ("--format", "json", "-o", "-")
ADDR_NO_RANDOMIZE = 0x0040000
#: Prints what a process inherits.
SURROUNDINGS = """
import ctypes, fcntl, os, resource, signal, sys
from pathlib import Path
of = Path("/proc/self")
for name in ("limits", "oom_score_adj", "personality", "coredump_filter", "timerslack_ns", "cgroup",
             "environ", "sessionid", "loginuid"):
    if (of / name).exists():
        print(name, (of / name).read_text())
for name in sorted((of / "ns").iterdir()):
    print(name, name.readlink())
for number in sorted(map(int, os.listdir(of / "fd"))):
    try:
        flags, at = fcntl.fcntl(number, fcntl.F_GETFL), (of / "fdinfo" / str(number)).read_text()
        print(number, os.readlink(of / "fd" / str(number)).split(":")[0], hex(flags), at.split()[1])
    except OSError:
        pass
libc = ctypes.CDLL(None)
print(os.getpgrp(), os.getsid(0), os.getcwd(), sys.argv, os.umask(0))
print(os.getpriority(0, 0), os.sched_getscheduler(0), os.sched_getaffinity(0))
print(libc.syscall(252, 1, 0))  # ioprio_get
for option in (3, 7, 23, 27, 30, 39, 42):  # dumpable, keepcaps, ..., timer slack, no_new_privs, THP
    print(option, libc.prctl(option, 0, 0, 0, 0))
for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
    left, interval = signal.getitimer(timer)
    print(timer, round(left, -2), interval)
"""


def run(tmp_path: Path, *command: object, form: str = "json") -> tuple[int, str, str]:
    report = tmp_path / "report"
    done = dprobe("run", "--format", form, "-o", report, program(tmp_path), "--", *command)
    return done.returncode, done.stdout, report.read_text() if report.exists() else done.stderr


def test_records_and_summary_are_as_promised(tmp_path: Path) -> None:
    status, stdout, report = run(tmp_path, "echo", "hello")
    assert (status, stdout) == (0, "hello\n")
    record, summary = parsed(report)
    known = {key: record[key] for key in ("pid", "tid", "cpu", "time", "module")}
    assert record == known | {
        "type": "record",
        "schema": 1,
        "program": "writes",
        "major": 7,
        "minor": 3,
        "place": "write+0x0",
        "comm": "echo",
        "uid": os.getuid(),
        "hit": 1,
        "exit": "exit",
        "log": [{"words": [6]}],
    }
    assert record["pid"] == record["tid"] > 1
    assert record["module"].endswith("/libc.so.6")
    assert summary["type"] == "summary"
    assert summary["overhead_ns"] > 0
    assert summary["probes"] == [
        {
            "program": "writes",
            "major": 7,
            "minor": 3,
            "place": "write+0x0",
            "state": summary["probes"][0]["state"],
            "engine": summary["probes"][0]["engine"],
            "hits": 1,
            "ran": 1,
            "missed": 0,
            "dropped": 0,
            "spent_ns": summary["probes"][0]["spent_ns"],
        }
    ]
    assert summary["probes"][0]["spent_ns"] > 0


def test_text_goes_to_standard_error_beside_the_commands_output(tmp_path: Path) -> None:
    done = dprobe("run", program(tmp_path), "--", "echo", "hello")
    assert done.stdout == "hello\n"
    record, title, row, overhead = done.stderr.splitlines()
    assert record.endswith(" writes 7.3 write+0x0 #1: 6")
    assert title.split()[:4] == ["program", "probe", "place", "state"]
    assert title.split()[4:] == ["hits", "ran", "missed", "dropped", "engine"]
    assert row.split()[-5:] == ["1", "1", "0", "0", "trap"]
    assert overhead.startswith("time spent in probes: ")


def test_dash_is_standard_output(tmp_path: Path) -> None:
    done = dprobe("run", *JSON, program(tmp_path), "--", "true")
    assert parsed(done.stdout)[-1]["type"] == "summary"


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM),
        (["sh", "-c", "kill -KILL $$"], 128 + signal.SIGKILL),
        (["sh", "-c", "kill -TRAP $$"], 128 + signal.SIGTRAP),
    ],
)
def test_the_status_is_the_commands_own(tmp_path: Path, command: list[str], status: int) -> None:
    assert run(tmp_path, *command)[0] == status


@pytest.mark.parametrize(
    ("command", "status", "text"),
    [
        ("no-such-command-here", 127, "no-such-command-here: command not found"),
        ("./nothing", 127, "./nothing: no such file"),
        ("/etc/passwd", 126, "/etc/passwd: permission denied"),
        ("/etc", 126, "/etc: is a folder"),
    ],
)
def test_a_command_that_cannot_run_is_reported_as_by_a_shell(
    tmp_path: Path, command: str, status: int, text: str
) -> None:
    done = dprobe("run", program(tmp_path), "--", command, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr == f"dprobe: {text}\n"


def test_a_script_without_interpreter_line_is_the_shells(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text('echo "$0 $1"; exit 3\n')
    script.chmod(0o755)
    status, stdout, _ = run(tmp_path, script, "argument")
    assert (status, stdout) == (3, f"{script} argument\n")


def test_options_and_dashes_of_the_command_are_its_own(tmp_path: Path) -> None:
    status, stdout, _ = run(tmp_path, "printf", "%s;", "-D", "--", "--format", "-o")
    assert (status, stdout) == (0, "-D;--;--format;-o;")


def test_the_command_inherits_what_it_would_without_us(tmp_path: Path) -> None:
    script = tmp_path / "surroundings.py"
    script.write_text(SURROUNDINGS)
    libc = ctypes.CDLL(None)
    read, write = os.pipe()
    # No locale: Python would set one in its own environment.
    environment = {"PATH": os.environ["PATH"], "A": "b", "odd": "\x01=é"}
    # The signals by themselves first: Python changes some at its start.
    what = "Sig[BI]|Uid|Gid|Groups|Cap|NoNew|Seccomp|Spec|x86|Mems_a|Cpus_a"
    shell = ["/bin/sh", "-c", f'grep -E "^({what})" /proc/self/status; exec "$@"', "sh"]
    command = [*shell, sys.executable, "-I", str(script), "an argument", ""]

    def inherit() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.signal(signal.SIGWINCH, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGALRM])
        os.umask(0o027)
        os.nice(3)
        signal.setitimer(signal.ITIMER_REAL, 3600, 7)
        for limit, soft in (
            (resource.RLIMIT_NOFILE, 64),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_CPU, 3600),
            (resource.RLIMIT_STACK, 4 << 20),
        ):
            resource.setrlimit(limit, (soft, resource.getrlimit(limit)[1]))
        Path("/proc/self/oom_score_adj").write_text("300")
        Path("/proc/self/timerslack_ns").write_text("70000")
        libc.personality(ADDR_NO_RANDOMIZE)

    def surroundings(*prefix: str) -> bytes:
        done = subprocess.run(
            [*prefix, *command],
            env=environment,
            cwd=tmp_path,
            pass_fds=[write],
            preexec_fn=inherit,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        report = str(tmp_path / "report")
        probed = surroundings(str(DPROBE), "run", "-o", report, str(program(tmp_path)), "--")
        assert probed == surroundings()
    finally:
        os.close(read)
        os.close(write)


def test_what_the_command_closes_is_closed(tmp_path: Path) -> None:
    """Whoever is at the other end of its input, its output or another descriptor sees it."""
    read, write = os.pipe()
    script = f"exec {write}>&- <&- >&-; exec sleep 3600"
    process = subprocess.Popen(
        [DPROBE, "run", "-o", tmp_path / "o", program(tmp_path), "--", "bash", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[write],
    )
    os.close(write)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.read() == b""
        assert os.read(read, 1) == b""
        poll = select.poll()
        poll.register(process.stdin, 0)
        assert poll.poll(1000 * PATIENCE)[0][1] == select.POLLERR
        assert process.poll() is None
    finally:
        os.close(read)
        process.terminate()
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM
        process.stdin.close()
        process.stdout.close()


@pytest.mark.parametrize("command", ["attach --for 0.01", "dump", "insert --pid"])
def test_nobody_waits_for_our_children_in_vain(tmp_path: Path, target: Cat, command: str) -> None:
    """Whoever started us may ignore SIGCHLD, which makes children vanish, or hold signals back."""

    def inherit() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD, signal.SIGALRM, signal.SIGIO])

    arguments = [*command.split(), target.pid]
    if command != "dump":
        arguments.append(program(tmp_path))
    if command.startswith("insert"):
        with running_daemon(tmp_path, preexec_fn=inherit) as daemon:
            assert daemon.dprobe(*arguments).returncode == 0
            target.say("x")
            assert daemon.dprobe("remove", "--all").returncode == 0
        return
    environment = {**os.environ, "DPROBED_DUMPS": str(tmp_path / "cores")}
    done = dprobe(*arguments, preexec_fn=inherit, env=environment)
    assert done.returncode == 0, done.stderr
    assert "no child" not in done.stderr


def test_a_closed_pipe_ends_the_command_as_without_us(tmp_path: Path) -> None:
    report = tmp_path / "report"
    process = subprocess.Popen(
        [DPROBE, "run", "-o", report, program(tmp_path), "--", "yes"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"y\n"
    process.stdout.close()
    assert process.wait(30) == 128 + signal.SIGPIPE


def test_signals_to_dprobe_reach_the_command(tmp_path: Path) -> None:
    for name in ("TERM", "HUP", "USR1"):
        command = f"trap 'echo got {name}; exit 5' {name}; echo ready; while :; do read x; done"
        process = subprocess.Popen(
            [DPROBE, "run", "-o", tmp_path / "o", program(tmp_path), "--", "bash", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.Signals[f"SIG{name}"])
        assert process.stdout.readline() == b"got %s\n" % name.encode()
        assert process.wait(30) == 5
        process.stdin.close()
        process.stdout.close()


def test_keys_at_the_terminal_are_the_commands(tmp_path: Path) -> None:
    """Ctrl-C goes to the command alone to answer: dprobe waits for what it does."""
    command = "trap 'echo interrupted' INT; echo ready; read x; echo got $x; exit 4"
    argv = [DPROBE, "run", "-o", tmp_path / "o", program(tmp_path), "--", "bash", "-c", command]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(DPROBE, list(map(str, argv)))
    seen = b""
    for until, keys in ((b"ready", b"\x03"), (b"interrupted", b"word\n"), (b"got word", b"")):
        while until not in seen:
            seen += os.read(terminal, 1024)
        if until == b"ready":
            # Before that bash would only note the signal, and wait for a line first.
            until_it_reads(str(next(each.pid for each in bashes(pid))))
        os.write(terminal, keys)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4
    os.close(terminal)


def bashes(pid: int) -> Iterator[psutil.Process]:
    """The children of dprobe that run bash."""
    yield from (each for each in psutil.Process(pid).children() if each.name() == "bash")


def test_job_control_stops_and_continues_the_whole_job(tmp_path: Path) -> None:
    """Ctrl-Z stops the command and dprobe with it, so that a shell sees its job stopped."""
    argv = [DPROBE, "run", "-o", tmp_path / "o", program(tmp_path), "--", "bash", "-c"]
    argv.append("'echo ready; exec cat'")
    pid, terminal = pty.fork()
    if pid == 0:
        # A shell's part: a process group of its own, in the foreground, with a living parent.
        os.execv("/bin/bash", ["bash", "--norc", "--noediting", "-i"])
    seen = b""

    def until(text: bytes, keys: bytes) -> None:
        nonlocal seen
        while text not in seen:
            seen += os.read(terminal, 1024)
        seen = seen[seen.index(text) + len(text) :]
        os.write(terminal, keys)

    os.write(terminal, b"PS1='@''@ '\n")
    until(b"@@ ", b"stty -echo; " + b" ".join(str(a).encode() for a in argv) + b"\n")
    until(b"ready\r\n", b"one\n")
    until(b"one\r\n", b"\x1a")
    until(b"Stopped", b"echo shell speaks\n")
    until(b"shell speaks\r\n", b"fg\n")
    until(b"exec cat'", b"two\n")
    until(b"two\r\n", b"\x04")
    until(b"@@ ", b"echo status $?\n")
    until(b"status 0\r\n", b"exit\n")
    os.waitpid(pid, 0)
    os.close(terminal)


def test_dprobe_killed_leaves_nothing_and_the_command_goes_on(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [DPROBE, "run", "-o", tmp_path / "o", program(tmp_path), "--", "cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"before\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"before\n"
    (command,) = (p for p in children(process.pid) if tracer_of(p))
    tracer = tracer_of(command)
    (daemon,) = (p for p in children(process.pid) if p != command)
    process.kill()
    process.wait()
    assert wait_end(tracer)
    assert wait_end(daemon)
    assert tracer_of(command) == 0
    process.stdin.write(b"after\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"after\n"
    process.stdin.close()
    assert wait_end(command)
    process.stdout.close()


@pytest.mark.parametrize("victim", ["daemon", "tracer"])
def test_the_command_outlives_the_daemon_and_the_tracer(tmp_path: Path, victim: str) -> None:
    process = subprocess.Popen(
        [DPROBE, "run", "-o", tmp_path / "o", program(tmp_path, WITHOUT_HITS), "--", "cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(b"before\n")
    process.stdin.flush()
    assert process.stdout is not None
    assert process.stdout.readline() == b"before\n"
    (command,) = (p for p in children(process.pid) if tracer_of(p))
    tracer = tracer_of(command)
    (daemon,) = (p for p in children(process.pid) if p != command)
    os.kill(daemon if victim == "daemon" else tracer, signal.SIGKILL)
    assert wait_end(tracer)
    stdout, stderr = process.communicate(b"after\n", timeout=30)
    assert (process.returncode, stdout) == (0, b"after\n")
    assert b"; the command goes on without probes\n" in stderr
    assert wait_end(daemon)


#: A breakpoint that is never met: a tracer that is killed cannot take one out.
WITHOUT_HITS = """
name = libc.so.6
offset = getpwnam
    exit
"""


def test_a_full_disk_does_not_touch_the_command(tmp_path: Path) -> None:
    done = dprobe("run", "-o", "/dev/full", program(tmp_path), "--", "sh", "-c", "echo x; exit 3")
    assert (done.returncode, done.stdout) == (3, "x\n")
    text = "dprobe: /dev/full: no space left on device; no further records are written\n"
    assert done.stderr.startswith(text)
    # What was counted is nowhere else.
    assert ["writes", "7.3", "write+0x0", "active", "1"] in [
        line.split()[:5] for line in done.stderr.splitlines()
    ]
    assert "time spent in probes: " in done.stderr


def test_a_broken_pipe_does_not_touch_the_command(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [DPROBE, "run", program(tmp_path), "--", "sh", "-c", "echo x; read y; echo $y; exit 3"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stderr.close()
    assert process.stdout.readline() == b"x\n"
    process.stdin.write(b"z\n")
    process.stdin.close()
    assert process.stdout.read() == b"z\n"
    assert process.wait(30) == 3
    process.stdout.close()


def test_a_definition_changes_the_program(tmp_path: Path) -> None:
    source = "name = libc.so.6\noffset = write\n    push N\n    log 1\n    exit\n"
    path = program(tmp_path, source)
    done = dprobe("run", *JSON, "-D", "N=42", path, "--", "sh", "-c", "echo x >&2")
    assert words(parsed(done.stdout)[0]) == [42]


def test_the_engine_is_chosen(tmp_path: Path) -> None:
    source = program(tmp_path)
    assert load_programs([str(source)], Choice())[0].upload.engine == "trap"
    assert load_programs([str(source)], Choice(engine="auto"))[0].upload.engine == "auto"
    done = dprobe("run", "--engine", "trap", *JSON, source, "--", "echo", "x")
    assert done.returncode == 0
    assert parsed(done.stdout.splitlines()[-1])[0]["probes"][0]["hits"] == 1
    done = dprobe("run", "--engine", "magic", source, "--", "echo", "x")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'magic' is not one of 'auto', 'inline', 'signal', 'trap'" in done.stderr


def test_groups_select_probes(tmp_path: Path) -> None:
    source = """
name = libc.so.6
offset = write
group = 1
minor = 1
    exit
offset = write
group = 2
minor = 2
    exit
"""
    options = [*JSON, "--group", "2"]
    done = dprobe("run", *options, program(tmp_path, source), "--", "true")
    assert [probe["minor"] for probe in parsed(done.stdout)[-1]["probes"]] == [2]
    done = dprobe("run", "--group", "3", program(tmp_path, source), "--", "true")
    assert done.returncode == 2
    assert "no probe has that group" in done.stderr


def test_a_facility_that_nobody_registered_is_refused_before_anything_runs(tmp_path: Path) -> None:
    for name in ("mail", "2"):
        source = f"name = libc.so.6\noffset = write\n    exit {name}\n"
        marker = tmp_path / "ran"
        done = dprobe("run", program(tmp_path, source), "--", "touch", marker)
        assert done.returncode == 2
        known = "registered: debugger (1), dump (3)"
        assert f"no facility {name} is registered; {known}" in done.stderr
        assert not marker.exists()


def test_trace_is_a_facility(tmp_path: Path) -> None:
    source = "name = libc.so.6\noffset = write\n    exit trace\n"
    done = dprobe("run", *JSON, program(tmp_path, source), "--", "sh", "-c", "echo >&2")
    assert parsed(done.stdout)[0]["exit"] == "trace"


def test_an_exception_that_nobody_handles_is_told_with_its_name(tmp_path: Path) -> None:
    source = "name = libc.so.6\noffset = write\n    push 0x10\n    push mem,u64\n    exit\n"
    done = dprobe("run", *JSON, program(tmp_path, source), "--", "sh", "-c", "echo >&2")
    record = parsed(done.stdout)[0]
    assert record["exit"] == "exception"
    raised = {"code": 1, "name": "INVALID_ADDR", "parm1": 0x10, "parm2": 0}
    assert record["exception"] == raised


def test_bad_input_is_one_line_and_status_2(tmp_path: Path) -> None:
    good = program(tmp_path)
    for arguments, text in (
        ((good,), "put -- and the COMMAND after the programs"),
        (("--", "true"), "name at least one PROGRAM before --"),
        (("-D", "1=2", good, "--", "true"), "-D 1=2: write -D NAME=VALUE"),
        (("--format", "xml", good, "--", "true"), "'xml' is not one of"),
        ((tmp_path / "none.rpn", "--", "true"), "No such file"),
        (("-o", tmp_path / "no" / "file", good, "--", "true"), "no such file or directory"),
    ):
        done = dprobe("run", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1
        assert text in done.stderr


def test_all_faults_of_all_programs_are_told_and_nothing_runs(tmp_path: Path) -> None:
    one = program(tmp_path, "name = libc.so.6\noffset = write\n    frobnicate\n", "one")
    two = program(tmp_path, "name = libc.so.6\noffset = write\n    push r,rzz\n", "two")
    marker = tmp_path / "ran"
    done = dprobe("run", one, two, "--", "touch", marker)
    assert done.returncode == 2
    assert "one.rpn:3:5: error:" in done.stderr
    assert "two.rpn:3:" in done.stderr
    assert "Traceback" not in done.stderr
    assert not marker.exists()


def test_a_place_that_is_not_there_is_told_and_the_command_runs_if_asked_to(tmp_path: Path) -> None:
    source = "name = libc.so.6\noffset = no_such_function\n    exit\n"
    done = dprobe("run", "--missing", "warn", program(tmp_path, source), "--", "echo", "x")
    assert (done.returncode, done.stdout) == (0, "x\n")
    assert "invalid offset" in done.stderr
    assert "no_such_function" in done.stderr


def test_a_command_that_would_lose_rights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UserError, match="/usr/bin/passwd is set-user-ID and would run without"):
        find_command("passwd", {b"PATH": b"/usr/bin"})
    assert find_command("true", {b"PATH": b"/nowhere:/usr/bin"}) == "/usr/bin/true"
