"""`dprobe dumps gdb`: with the program and the libraries that the process had, else it says so."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from dprobe.commands.dumps_gdb import command_of

from dprobed.corefile.store import Core
from tests.integration.client_support import cat, dprobe

BACKTRACE = ("-nx", "-batch", "-ex", "backtrace 1", "-ex", "info files")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "DPROBED_DUMPS": str(tmp_path / "cores"),
        "DPROBED_JOURNAL_SOCKET": str(tmp_path / "journal"),
    }


def dump(pid: int, env: dict[str, str], *more: str) -> Path:
    done = dprobe("dump", pid, *more, env=env)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.mark.parametrize("more", [(), ("--zstd",)])
def test_the_program_and_its_libraries(env: dict[str, str], more: tuple[str, ...]) -> None:
    with cat() as target:
        core = dump(target.pid, env, *more)
    name = core.name.partition(".core")[0]
    for named in (name, str(core), "cat.*"):
        done = dprobe("dumps", "gdb", named, *BACKTRACE, env=env)
        assert done.returncode == 0, done.stderr
        assert "in read () from" in done.stdout or "in __GI___libc_read" in done.stdout
        assert f'Symbols from "{shutil.which("cat")}"' in done.stdout
        assert "dprobe:" not in done.stderr


def test_a_program_that_is_another_by_now(tmp_path: Path, env: dict[str, str]) -> None:
    """While the process is there it still has it; then none is better than a wrong one."""
    own = tmp_path / "own"
    shutil.copy("/usr/bin/cat", own)
    with cat((own,)) as target:
        core = dump(target.pid, env)
        own.unlink()
        shutil.copy("/usr/bin/sleep", own)
        done = dprobe("dumps", "gdb", core.stem, *BACKTRACE, env=env)
        assert f"Local exec file:\n\t`/proc/{target.pid}/exe" in done.stdout
    done = dprobe("dumps", "gdb", core.stem, *BACKTRACE, env=env)
    assert done.returncode == 0
    assert f"dprobe: {own} is not the program that was dumped, or is gone;" in done.stderr
    assert "Symbols from" not in done.stdout
    assert "#0 " in done.stdout


def test_refusals(tmp_path: Path, env: dict[str, str]) -> None:
    with cat() as target:
        core = dump(target.pid, env)
    done = dprobe("dumps", "gdb", "nothing*", env=env)
    assert (done.returncode, done.stderr) == (
        2,
        "dprobe: there is no core nothing*; `dprobe dumps` lists them\n",
    )
    done = dprobe("dumps", "gdb", core.stem, env={**env, "PATH": str(tmp_path)})
    assert (done.returncode, done.stderr) == (
        2,
        "dprobe: gdb is not installed; run: apt-get install gdb\n",
    )
    left = core.parent / ".cat.9.left.part"
    left.write_bytes(b"half")
    done = dprobe("dumps", "gdb", "cat.9.left", env=env)
    assert (done.returncode, done.stderr) == (2, f"dprobe: {left}: it is unfinished\n")


def test_the_files_of_a_container(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Through a process that is in its mount namespace; told where there is none any more."""
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", "echo; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as inside:
        assert inside.stdin is not None and inside.stdout is not None
        if not inside.stdout.readline():
            pytest.skip("no right to make a namespace")
        about = {
            "pid": 0,
            "root": "/",
            "mount_namespace": Path(f"/proc/{inside.pid}/ns/mnt").stat().st_ino,
            "executable": "/usr/bin/cat",
        }
        core = Core("x", tmp_path / "x.core", 0, about)
        command = command_of(core, "x.core", ("-batch",))
        root = f"/proc/{inside.pid}/root"
        assert command == [
            "gdb", "-q", "-iex", f"set sysroot {root}", "-se", f"{root}/usr/bin/cat",
            "--core=x.core", "-batch",
        ]  # fmt: skip
        assert not capfd.readouterr().err
        inside.stdin.close()
    assert command_of(core, "x.core") == [
        "gdb", "-q", "-iex", "set sysroot /nonexistent", "--core=x.core",
    ]  # fmt: skip
    assert "mount namespace that no process has any more" in capfd.readouterr().err


def test_another_root_and_other_libraries(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copy("/usr/bin/sleep", tmp_path / "libc.so.6")
    about = {
        "root": str(tmp_path),
        "executable": "/usr/bin/cat",
        "modules": [{"path": str(tmp_path / "libc.so.6"), "start": 0, "build_id": "00"}],
    }
    core = Core("x", tmp_path / "x.core", 0, about)
    assert f"set sysroot {tmp_path}" in command_of(core, "x.core")
    said = capfd.readouterr().err
    assert f"not those that were dumped, so that names in them may be wrong: {tmp_path}/" in said
