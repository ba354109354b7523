"""A file system that does not answer never keeps the client, whatever it wants to read there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BuildTarget
from tests.integration.client_support import DPROBE, Peer, cat, dprobe, program, running_daemon
from tests.integration.policy_support import upload
from tests.integration.silent_fs import SilentFiles


@pytest.fixture
def files(build_target: BuildTarget, tmp_path: Path) -> Iterator[SilentFiles]:
    """One with a command in it."""
    source = tmp_path / "passes"
    shutil.copy("/bin/cat", source)
    with SilentFiles(build_target("silent_fs.c"), tmp_path, source) as mounted:
        yield mounted


def test_a_file_that_does_not_answer(files: SilentFiles, tmp_path: Path) -> None:
    source = program(tmp_path)
    assert dprobe("places", files.path, "*").returncode == 0
    assert dprobe("check", "--in", files.path, source).returncode == 0
    files.mute()
    try:
        done = dprobe("places", files.path, "*")
        assert (done.returncode, done.stdout) == (2, "")
        assert f"dprobe: {files.path}: its file system does not answer" in done.stderr
        done = dprobe("check", "--in", files.path, source)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"dprobe: {files.path}: ")
    finally:
        files.answer()


def test_a_command_that_does_not_answer(files: SilentFiles, tmp_path: Path) -> None:
    source = program(tmp_path)
    options = {"env": {**os.environ, "PATH": f"{files.mount}:{os.environ['PATH']}"}}
    for command in (files.path, files.path.name):
        assert dprobe("run", source, "--", command, "/dev/null", **options).returncode == 0
    files.mute()
    try:
        for command in (files.path, files.path.name):
            done = dprobe("run", source, "--", command, "/dev/null", **options)
            assert (done.returncode, done.stdout) == (126, "")
            assert done.stderr == f"dprobe: {files.path}: its file system does not answer\n"
        # Another command, behind it on PATH, could be meant to be one that is in there.
        done = dprobe("check", "--in", "true", source, **options)
        assert done.returncode == 2
        assert done.stderr == f"dprobe: {files.mount}/true: its file system does not answer\n"
    finally:
        files.answer()


def test_a_program_that_does_not_answer(build_target: BuildTarget, tmp_path: Path) -> None:
    source = program(tmp_path)
    whole = tmp_path / "whole.rpn"
    with SilentFiles(build_target("silent_fs.c"), tmp_path, source) as files:
        whole.write_text(f'#include "{files.path}"\n')
        for each in (files.path, whole):
            assert dprobe("check", each).returncode == 0
        # A name in the folder in which one is.
        assert dprobe("check", files.path.name, cwd=files.mount).returncode == 0
        files.mute()
        try:
            for arguments in (
                ["check", files.path],
                ["check", whole],
                ["compile", "-o", tmp_path / "compiled", files.path],
                ["run", files.path, "--", "true"],
                ["attach", "-p", os.getpid(), files.path],
            ):
                done = dprobe(*arguments)
                assert done.returncode == 2
                assert "its file system does not answer" in done.stderr
                assert "Traceback" not in done.stderr
        finally:
            files.answer()


def test_an_output_that_does_not_answer(files: SilentFiles, tmp_path: Path) -> None:
    source = program(tmp_path)
    files.mute()
    try:
        for output in (files.path, files.mount / "new"):
            done = dprobe("run", "-o", output, source, "--", "echo", "never")
            assert (done.returncode, done.stdout) == (2, "")
            assert done.stderr == f"dprobe: {output}: its file system does not answer\n"
            done = dprobe("compile", "-o", output, source)
            assert (done.returncode, done.stdout) == (1, "")
    finally:
        files.answer()


def test_the_daemon_waits_for_no_executable_that_somebody_names(
    files: SilentFiles, tmp_path: Path
) -> None:
    """It may be a link, so it is refused; nobody else is kept by that."""
    source = program(tmp_path)
    policy = tmp_path / "policy.toml"
    policy.write_text(f'[[policy]]\nname = "p"\nmatch.exe = "{files.mount}/three"\n')
    with running_daemon(tmp_path) as daemon:
        files.mute()
        try:
            done = daemon.dprobe("insert", "--exe", files.mount / "one", source)
            assert (done.returncode, done.stdout) == (2, "")
            says = f"{files.mount}/one: its file system does not answer"
            # Before it, what it was looking at for so long.
            assert done.stderr.splitlines()[-1] == f"dprobe: --exe {says}"
            with Peer(daemon) as peer:
                # As a client asks that did not look before.
                request = {"type": "deploy", "id": 1, "programs": [upload()]}
                for name in ("one", "two"):
                    selection = {"exe": f"{files.mount}/{name}"}
                    answer = peer.ask({**request, "selection": selection})
                    says = f"{files.mount}/{name}: its file system does not answer"
                    assert (answer["type"], answer["error"]) == ("error", f"exe {says}")
            assert daemon.query() == []
            done = dprobe("policy", "check", policy)
            assert done.returncode == 2
            assert f"{files.mount}/three: its file system does not answer" in done.stderr
        finally:
            files.answer()


def test_a_trace_where_nobody_answers(files: SilentFiles, tmp_path: Path) -> None:
    with running_daemon(tmp_path) as daemon:
        files.mute()
        try:
            for form in ("ctf", "json"):
                folder = files.mount / form
                done = daemon.dprobe("trace", "start", "--format", form, folder)
                assert done.returncode == 2
                assert done.stderr == f"dprobe: {folder}: its file system does not answer\n"
                assert daemon.json("trace", "list") == []
        finally:
            files.answer()
        assert daemon.dprobe("trace", "start", tmp_path / "trace").returncode == 0


def test_a_socket_where_nobody_answers(files: SilentFiles) -> None:
    path = files.mount / "control.sock"
    files.mute()
    try:
        done = dprobe("--socket", path, "query")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"dprobe: {path}: its file system does not answer\n"
    finally:
        files.answer()


def test_a_name_is_completed_where_nobody_answers(files: SilentFiles) -> None:
    words = {"COMP_WORDS": f"dprobe places {files.mount}/", "COMP_CWORD": "2"}
    files.mute()
    try:
        done = dprobe(env={**os.environ, **words, "_DPROBE_COMPLETE": "bash_complete"})
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
    finally:
        files.answer()


def test_cores_where_nobody_answers(files: SilentFiles) -> None:
    options = {"env": {**os.environ, "DPROBED_DUMPS": str(files.mount)}}
    files.mute()
    try:
        for arguments in (["dumps"], ["dumps", "remove", "--all"], ["dumps", "gdb", "one"]):
            done = dprobe(*arguments, **options)
            assert (done.returncode, done.stdout) == (2, "")
            assert done.stderr == f"dprobe: {files.mount}: its file system does not answer\n"
    finally:
        files.answer()


@contextmanager
def _client(*arguments: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A command that works while its file system ceases to answer."""
    command = [str(DPROBE), *map(str, arguments)]
    streams: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    with subprocess.Popen(command, **streams) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_core_whose_program_does_not_answer(files: SilentFiles, tmp_path: Path) -> None:
    """gdb would sleep there where nothing wakes it."""
    own = {"DPROBED_DUMPS": tmp_path / "cores", "DPROBED_JOURNAL_SOCKET": tmp_path / "journal"}
    env = {**os.environ, **{name: str(path) for name, path in own.items()}}
    with cat([files.path]) as target:
        dumped = dprobe("dump", target.pid, env=env)
        assert dumped.returncode == 0, dumped.stderr
        files.mute()
        try:
            done = dprobe("dumps", "gdb", dumped.stdout.strip(), "-batch", env=env)
        finally:
            files.answer()
    assert (done.returncode, done.stdout) == (2, "")
    says = f"{files.path}: its file system does not answer, and gdb would wait for it"
    assert done.stderr == f"dprobe: {says}\n"


_MAPS = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    data = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
for at in range(0, len(data), 4096):
    data[at] = data[at]
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_core_has_much_of_a_file_that_may_not_answer(
    build_target: BuildTarget, tmp_path: Path
) -> None:
    """Its pages are read by the helper, more of them than go into one message."""
    own = {"DPROBED_DUMPS": tmp_path / "cores", "DPROBED_JOURNAL_SOCKET": tmp_path / "journal"}
    env = {**os.environ, **{name: str(path) for name, path in own.items()}}
    source = tmp_path / "data"
    source.write_bytes(os.urandom(1 << 20))
    command = ["/usr/bin/python3", "-c", _MAPS]
    with (
        SilentFiles(build_target("silent_fs.c"), tmp_path, source) as files,
        subprocess.Popen(
            [*command, files.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as target,
    ):
        assert target.stdout is not None
        assert target.stdout.readline() == "ready\n"
        dumped = dprobe("dump", target.pid, env=env)
        target.communicate("")
    assert dumped.returncode == 0, dumped.stderr
    assert source.read_bytes() in Path(dumped.stdout.strip()).read_bytes()


def _trace(path: Path, records: int) -> Path:
    """A file of so many records."""
    record = {
        "type": "record",
        "program": "p",
        "major": 1,
        "minor": 1,
        "module": "m",
        "place": "f+0x0",
        "pid": 1,
        "tid": 1,
        "comm": "p",
        "uid": 0,
        "cpu": 0,
        "time": 1,
        "hit": 1,
        "exit": "exit",
        "log": [{"string": "x" * 1000}],
    }
    path.write_text(f"{json.dumps(record, separators=(',', ':'))}\n" * records)
    return path


def test_a_trace_that_does_not_answer(build_target: BuildTarget, tmp_path: Path) -> None:
    source = _trace(tmp_path / "t.jsonl", 2000)
    made = tmp_path / "made"
    with SilentFiles(build_target("silent_fs.c"), tmp_path, source) as files:
        done = dprobe("trace", "stat", "--json", files.path)
        assert json.loads(done.stdout)["records"] == 2000
        files.mute()
        try:
            for arguments in (
                ["show", files.path],
                ["show", files.mount],
                ["stat", files.path],
                ["convert", files.path, "--format", "text", "-o", made],
                ["convert", files.path, "--format", "ctf", "-o", made],
            ):
                done = dprobe("trace", *arguments)
                assert (done.returncode, done.stdout) == (2, "")
                assert done.stderr == f"dprobe: {arguments[1]}: its file system does not answer\n"
            for form in ("text", "ctf"):
                where = files.mount / "made"
                done = dprobe("trace", "convert", source, "--format", form, "-o", where)
                assert done.returncode == 1
                assert "its file system does not answer" in done.stderr
        finally:
            files.answer()
        assert not made.exists()


def test_a_trace_that_ceases_to_answer(build_target: BuildTarget, tmp_path: Path) -> None:
    """It has been read in part; not even the end of the client waits for it."""
    source = _trace(tmp_path / "t.jsonl", 5000)
    with (
        SilentFiles(build_target("silent_fs.c"), tmp_path, source) as files,
        _client("trace", "show", files.path) as reading,
    ):
        assert reading.stdout is not None
        # What is shown goes into a pipe, which is full long before all of the file was read.
        assert reading.stdout.readline()
        files.mute()
        try:
            rest, complaint = reading.communicate(timeout=60)
        finally:
            files.answer()
        assert reading.returncode == 2
        assert complaint == f"dprobe: {files.path}: its file system does not answer\n"
        assert rest.count("\n") < 5000


def test_an_output_that_ceases_to_answer(files: SilentFiles, tmp_path: Path) -> None:
    source = program(tmp_path)
    command = ["sh", "-c", "echo begun; read line; echo ended"]
    with _client("run", "-o", files.path, source, "--", *command, stdin=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "begun\n"
        files.mute()
        try:
            rest, complaint = run.communicate("go on\n", timeout=60)
        finally:
            files.answer()
        assert (run.returncode, rest) == (0, "ended\n")
        says = f"{files.path}: its file system does not answer; no further records are written"
        first, *counts = complaint.splitlines()
        assert first == f"dprobe: {says}"
        # What was counted is nowhere else.
        assert any(line.split()[2:4] == ["write+0x0", "active"] for line in counts)


def test_what_is_open_already_is_the_clients_own(tmp_path: Path) -> None:
    """As a shell gives it, by `<(command)` and `>(command)`: no helper has it."""
    source = program(tmp_path)
    for end in ("/dev/fd/{}", "/proc/self/fd/{}"):
        from_there, into = os.pipe()
        os.write(into, source.read_bytes())
        os.close(into)
        name = end.format(from_there)
        done = dprobe("check", name, pass_fds=[from_there])
        os.close(from_there)
        assert done.returncode == 0, done.stderr
        from_there, into = os.pipe()
        name = end.format(into)
        done = dprobe("run", "-o", name, source, "--", "echo", "said", pass_fds=[into])
        os.close(into)
        assert (done.returncode, done.stdout) == (0, "said\n"), done.stderr
        with open(from_there, encoding="utf-8") as reports:
            assert "write+0x0 #1: 5" in reports.read()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "made")
    with subprocess.Popen(["cat", fifo], stdout=subprocess.PIPE, text=True) as reader:
        assert dprobe("run", "-o", fifo, source, "--", "echo", "said").returncode == 0
        assert "write+0x0 #1: 5" in reader.communicate()[0]
    assert dprobe("run", "-o", link, source, "--", "echo", "said").returncode == 0
    assert "write+0x0 #1: 5" in (tmp_path / "made").read_text()


def test_a_process_that_maps_one(files: SilentFiles, tmp_path: Path) -> None:
    source = program(tmp_path)
    with cat([files.path]) as target:
        files.mute()
        try:
            done = dprobe("check", "--in", target.pid, source)
            assert done.returncode == 0, done.stderr
            # Nothing is said of what is in a file that cannot be read.
            named = program(tmp_path, f'name = "{files.path}"\noffset = nothing\nexit\n', "named")
            assert dprobe("check", "--in", target.pid, named).returncode == 0
        finally:
            files.answer()
