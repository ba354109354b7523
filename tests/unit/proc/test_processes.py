"""Facts about live processes, and the meaning of a cgroup path."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dprobed.daemon.deploy.selection import paths_of
from dprobed.proc import executables, helper, processes, refusals
from tests.integration.silent_fs import SilentFiles

ID = "0123456789abcdef" * 4


def test_ourselves() -> None:
    found = processes.read(os.getpid())
    assert found is not None
    assert found.pid == os.getpid()
    assert found.parent == os.getppid()
    assert found.uids == os.getresuid()
    assert found.gids == os.getresgid()
    assert (found.uid, found.gid) == (os.getuid(), os.getgid())
    assert set(found.groups) == set(os.getgroups())
    assert found.exe == str(Path(sys.executable).resolve())
    assert found.cmdline[1:] == tuple(sys.orig_argv[1:])
    assert not found.foreign
    assert not found.kernel_thread
    assert processes.environment(found) is not None


def test_a_child_that_ends_and_its_environment() -> None:
    # Only what it says shows that its exec, which sets arguments and environment up, is over.
    command = ["cat", "-u"]
    with subprocess.Popen(
        command, env={"A": "b=c", "E": ""}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"x\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"x\n"
        found = processes.read(child.pid)
        assert found is not None
        assert (found.comm, found.cmdline) == ("cat", ("cat", "-u"))
        assert processes.environment(found) == {"A": "b=c", "E": ""}
        child.stdin.close()
    assert processes.read(child.pid) is None
    assert processes.environment(found) is None


def test_a_program_that_was_replaced(tmp_path: Path) -> None:
    program = tmp_path / "napping"
    shutil.copy(shutil.which("sleep") or "", program)
    with subprocess.Popen([program, "1000"]) as child:
        try:
            program.unlink()
            found = processes.read(child.pid)
            assert found is not None
            assert found.exe == str(program)
        finally:
            child.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("other_name", [False, True])
def test_a_program_that_is_called_as_a_deleted_one_is_marked(
    tmp_path: Path, gone: bool, other_name: bool
) -> None:
    """Rights hang on the name: it is no other file's, whether it is there still or not."""
    program = tmp_path / "x (deleted)"
    shutil.copy(shutil.which("sleep") or "", program)
    if other_name:
        (tmp_path / "y").hardlink_to(program)
    with subprocess.Popen([program, "1000"]) as child:
        try:
            if gone:
                program.unlink()
            found = processes.read(child.pid)
            assert found is not None
            assert found.exe == str(program)
            assert paths_of(child.pid) == [str(program)]
        finally:
            child.send_signal(signal.SIGKILL)


def test_an_executable_that_does_not_answer_is_called_as_it_is_shown(
    tmp_path: Path, build_target: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits to learn whether its name is one, not even the helper process."""
    asked: list[object] = []
    monkeypatch.setattr(helper.HELPER, "do", lambda *about: asked.append(about))
    source = tmp_path / "x (deleted)"
    shutil.copy(shutil.which("sleep") or "", source)
    (tmp_path / "other").hardlink_to(source)
    with (
        SilentFiles(build_target("silent_fs.c"), tmp_path, source) as mounted,
        subprocess.Popen([mounted.path, "1000"]) as child,
    ):
        try:
            mounted.mute()
            assert executables.path(child.pid) == str(mounted.path)
            assert paths_of(child.pid) == [str(mounted.path)]
            assert refusals.refusal(child.pid, ask=False) is None
            assert asked == []
        finally:
            mounted.answer()
            child.send_signal(signal.SIGKILL)


def test_an_executable_is_asked_for_as_it_is_shown(tmp_path: Path) -> None:
    program = tmp_path / os.fsdecode(b"bad\xff")
    shutil.copy(shutil.which("sleep") or "", program)
    with subprocess.Popen([program, "1000"]) as child:
        try:
            assert paths_of(child.pid) == [f"{tmp_path}/bad\ufffd"]
        finally:
            child.send_signal(signal.SIGKILL)


def test_arguments_that_were_written_over() -> None:
    """What is left of their place, as PostgreSQL leaves it, is filled up with zeros."""
    code = (
        "import ctypes, sys; fields = open('/proc/self/stat').read().rpartition(')')[2].split();"
        "start, end = int(fields[45]), int(fields[46]);"
        "ctypes.memset(start, 0, end - start); ctypes.memmove(start, b'other: idle', 11);"
        "print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        found = processes.read(child.pid)
        assert found is not None
        assert found.cmdline == ("other: idle",)
        assert child.stdin is not None
        child.stdin.close()


def test_a_thread_is_no_process() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert processes.read(thread.native_id or 0) is None
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize(
    ("lines", "path"),
    [
        ("0::/system.slice/nginx.service\n", "/system.slice/nginx.service"),
        ("4:memory:/a\n1:name=systemd:/b.slice\n0::/c\n", "/b.slice"),
        ("4:memory:/docker/1\n1:name=systemd:/\n0::/\n", "/docker/1"),
        ("4:cpu,cpuacct:/x:y\n", "/x:y"),
        ("1:name=systemd:/\n0::/\n", "/"),
        ("", ""),
    ],
)
def test_which_path(lines: str, path: str) -> None:
    assert processes.cgroup_path(lines.encode()) == path


@pytest.mark.parametrize(
    ("cgroup", "unit", "own"),
    [
        ("/system.slice/nginx.service", "nginx.service", ""),
        ("/system.slice/system-pg.slice/pg@15-main.service", "pg@15-main.service", ""),
        ("/system.slice/docker.service/payload/x.service", "docker.service", ""),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope", ""),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/a.service/b.service",
            "user@1000.service",
            "a.service",
        ),
        ("/user.slice/user-1000.slice/user@1000.service", "user@1000.service", ""),
        ("/init.scope", "init.scope", ""),
        ("/", "", ""),
        ("", "", ""),
    ],
)
def test_units(cgroup: str, unit: str, own: str) -> None:
    assert processes.units(cgroup) == (unit, own)


@pytest.mark.parametrize(
    ("cgroup", "name"),
    [
        (f"/docker/{ID}", ID),
        (f"/system.slice/docker-{ID}.scope", ID),
        (f"/machine.slice/libpod-{ID}.scope/container", ID),
        (f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope", ID),
        (f"/kubepods/burstable/pod1/{ID}", ID),
        ("/lxc/web", "web"),
        ("/lxc.payload.web/system.slice", "web"),
        ("/lxc.payload/web", "web"),
        (r"/machine.slice/machine-my\x2dbox.scope/payload", "my-box"),
        ("/machine.slice/systemd-nspawn@box.service/payload", "box"),
        ("/system.slice/nginx.service", ""),
        ("/lxc", ""),
    ],
)
def test_containers(cgroup: str, name: str) -> None:
    assert processes.container(cgroup) == name
