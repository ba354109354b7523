"""TAB in bash, zsh and fish: what the shells themselves make of our scripts."""

from __future__ import annotations

import os
import pty
import select
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.client_support import (
    DPROBE,
    PATIENCE,
    Cat,
    Daemon,
    cat,
    dprobe,
    program,
    running_daemon,
)

#: A line, and a word that a TAB behind it must offer or put there.
LINES = (
    ("dprobe trace sto", "stop"),
    ("dprobe query wri", "writes"),
    ("dprobe query -o pid,hi", "pid,hits"),
    ("dprobe trace stop my", "mysession"),
    ("dprobe dumps remove red", "redis-server.12.20240131T101500Z"),
    ("dprobe places libc.so.6 malloc_us", "malloc_usable_size"),
    ("dprobe places libc.so.", "libc.so.6"),
    ("dprobe handlers disarm debu", "debugger"),
    ("dprobe help trace sav", "save"),
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One with a program, a session, and a core beside it."""
    folder = tmp_path_factory.mktemp("completion")
    (folder / "redis-server.12.20240131T101500Z.core").write_bytes(b"core")
    with running_daemon(folder) as running, cat() as target:
        running.json("insert", "-p", target.pid, program(folder))
        running.json("trace", "start", folder / "mysession")
        yield running
        running.dprobe("remove", "--all")
        running.dprobe("trace", "stop", "mysession")


def environment(daemon: Daemon, folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{DPROBE.parent}:{os.environ['PATH']}",
        "DPROBE_SOCKET": str(daemon.socket),
        "DPROBED_DUMPS": str(daemon.socket.parent),
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
        "ZDOTDIR": str(folder),
        "TERM": "xterm",
    }


def _bash(line: str, environ: dict[str, str]) -> str:
    code = (
        "source <(dprobe completion bash); COMP_WORDS=($1); COMP_CWORD=$((${#COMP_WORDS[@]} - 1));"
        ' _dprobe_completion dprobe; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    return _said(["bash", "-c", code, "bash", line], environ)


def _fish(line: str, environ: dict[str, str]) -> str:
    code = "dprobe completion fish | source; complete -C $argv[1]"
    return _said(["fish", "-c", code, line], environ)


def _said(command: list[str], environ: dict[str, str]) -> str:
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert done.stderr == ""
    return done.stdout


def _zsh(line: str, environ: dict[str, str]) -> str:
    """A terminal in which the line is typed, and TAB; all that is seen until a mark behind it."""
    Path(environ["ZDOTDIR"], ".zshrc").write_text(
        'autoload -U compinit; compinit -u\nPS1="ready> "\neval "$(dprobe completion zsh)"\n'
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("zsh", ["zsh", "-i"], environ)
    try:
        seen = _read(terminal, "ready> ")
        os.write(terminal, line.encode() + b"\t")
        # What is typed after TAB is read when the completion is done.
        os.write(terminal, b"#mark#")
        seen = _read(terminal, "mark#")
    finally:
        os.write(terminal, b"\x15exit\n")
        os.close(terminal)
        os.waitpid(pid, 0)
    return seen.replace("\x08", "")


def _read(terminal: int, until: str) -> str:
    seen = ""
    deadline = time.monotonic() + PATIENCE
    while until not in seen:
        assert select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0], seen
        seen += os.read(terminal, 4096).decode(errors="replace")
    return seen


SHELLS: dict[str, Callable[[str, dict[str, str]], str]] = {
    "bash": _bash,
    "fish": _fish,
    "zsh": _zsh,
}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("line", "word"), LINES)
def test_a_tab(daemon: Daemon, tmp_path: Path, shell: str, line: str, word: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert word in SHELLS[shell](line, environment(daemon, tmp_path))


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_processes(daemon: Daemon, tmp_path: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    name = f"tab{os.getpid()}"
    copy = tmp_path / name
    copy.write_bytes(Path("/bin/cat").read_bytes())
    copy.chmod(0o755)
    target = Cat([copy])
    try:
        environ = environment(daemon, tmp_path)
        assert name in SHELLS[shell](f"dprobe query -p {name[:-1]}", environ)
        assert str(target.pid) in SHELLS[shell](f"dprobe attach -p {target.pid}", environ)
    finally:
        assert target.end() == 0


def test_a_tab_behind_a_mistake_says_nothing(daemon: Daemon, tmp_path: Path) -> None:
    environ = {**environment(daemon, tmp_path), "DPROBE_SOCKET": str(tmp_path / "nowhere")}
    assert _bash("dprobe nonsense x", environ).strip() == ""
    assert _bash("dprobe query x", environ).strip() == ""


def offered(*words: object) -> list[str]:
    """What is offered for the last of these words, which may have blanks in it."""
    line = shlex.join(map(str, ("dprobe", *words)))
    environ = {**os.environ, "_DPROBE_COMPLETE": "bash_complete", "COMP_WORDS": line}
    done = dprobe(env={**environ, "COMP_CWORD": str(len(words))})
    assert done.stderr == ""
    return [each.partition(",")[2] for each in done.stdout.splitlines()]


def test_words_of_a_script_behind_e() -> None:
    assert offered("run", "-e", "uprobe:libc:malloc { @ = his") == ["uprobe:libc:malloc { @ = hist"]
    assert "uprobe:libc:malloc_usable_size" in offered("run", "-e", "uprobe:libc:mallo")
    assert set(offered("attach", "-e", "malloc { @ = count() } uret")) == {
        "malloc { @ = count() } uretprobe"
    }


def test_functions_of_a_target() -> None:
    with cat() as target:
        assert "malloc" in offered("logpoint", target.pid, "mallo")
        assert "malloc" in offered("snapshot", target.pid, "mallo")
