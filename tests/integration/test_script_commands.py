"""Scripts where commands take programs: check, compile, disasm, insert; and what is refused."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.integration.client_support import Cat, Daemon, dprobe
from tests.integration.script_support import built

HIST = "uprobe:libc:malloc { @ = hist(arg0); }"


def test_a_script_is_checked_with_all_its_faults(tmp_path: Path) -> None:
    path = tmp_path / "wrong.bt"
    path.write_text("uprobe:libc:malloc { print(x); }\nuprobe:libc:free { print(y); }\n")
    done = dprobe("check", "--json", path)
    assert done.returncode == 2
    (row,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["line"] for each in row["diagnostics"]] == [1, 2]
    assert f"{path}:1:28: error: " in done.stderr


def test_a_place_of_a_script_is_looked_for() -> None:
    done = dprobe("check", "-e", HIST, "--in", "ls", "--json")
    row = json.loads(done.stdout)
    assert (done.returncode, row["probes"], row["placed"], row["pending"]) == (0, 1, 1, 0)
    done = dprobe("check", "-e", "uprobe:libc:mallok { @ = count(); }", "--in", "ls")
    assert done.returncode == 2
    assert "mallok" in done.stderr


def test_a_compiled_script_runs_without_its_text(tmp_path: Path) -> None:
    work, path = built(tmp_path), tmp_path / "sum.bt"
    path.write_text(f"uprobe:{work}:inner {{ @[str($1)] = sum(arg0); }}\n")
    done = dprobe("compile", path, "all")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    path.unlink()
    done = dprobe("run", path.with_suffix(".btb"), "--", work)
    assert (done.returncode, done.stderr) == (0, "@[all]: 3\n")
    done = dprobe("run", path.with_suffix(".btb"), "more", "--", work)
    assert done.returncode == 2
    assert "takes no others" in done.stderr


@pytest.mark.parametrize("data", [b"", b"rubbish", b"\x81\xa7version\x07"])
def test_a_file_that_is_no_compiled_script_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.btb"
    path.write_bytes(data)
    done = dprobe("run", path, "--", "true")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "Traceback" not in done.stderr


def test_what_a_script_becomes_is_shown() -> None:
    done = dprobe("disasm", "-e", HIST)
    assert done.returncode == 0
    assert "offset = malloc" in done.stdout
    assert "madd" in done.stdout


def test_a_script_that_only_keeps_maps_stays(daemon: Daemon, tmp_path: Path) -> None:
    work = built(tmp_path)
    with_maps = f"uprobe:{work}:inner {{ @calls[arg0] = count(); }}"
    worker = Cat((work, "3"))
    try:
        done = daemon.dprobe("insert", "-e", with_maps, "-p", worker.pid)
        assert (done.returncode, done.stderr) == (0, "")
        worker.say("go")
        shown = daemon.dprobe("maps", "--json").stdout
        (row,) = [json.loads(line) for line in shown.splitlines()]
        assert sorted(entry["key"] for entry in row["entries"]) == [[0], [1], [2]]
        done = daemon.dprobe(
            "insert", "-e", f"uprobe:{work}:inner {{ print(1); }}", "-p", worker.pid
        )
        assert done.returncode == 2
        assert "dprobe attach" in done.stderr
    finally:
        worker.process.kill()
        worker.process.communicate()


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "-e", HIST),
        ("run", "-e", "", "--", "true"),
        ("run", "nothing.bt", "--", "true"),
        ("attach", "-e", HIST),
        ("attach", "x.rpn", "--exe", "sh"),
        ("attach", "-e", HIST, "-p", "1", "--exe", "sh"),
        ("compile", "-e", HIST),
        ("compile", "-e", HIST, "-o", "x.dpb"),
        ("run", "-e", "uprobe:libc:malloc { ", "--", "true"),
        ("run", "-e", 'BEGIN { system("true"); }', "--", "true"),
    ],
)
def test_what_is_not_meant_so_is_said_in_short(arguments: tuple[str, ...]) -> None:
    done = dprobe(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("to_terminal", [False, True])
def test_a_terminal_obeys_no_process(tmp_path: Path, to_terminal: bool) -> None:
    """What a process has of control characters is shown; what the script writes itself is done."""
    name = tmp_path / "red\x1b[31m"
    name.touch()
    script = (
        'uprobe:libc:open /str(arg0) == str($1)/ { printf("\\033[0m<%s>\\n", str(arg0));'
        " @[str(arg0)] = count(); print(str(arg0)); exit() }"
    )
    ours, theirs = pty.openpty() if to_terminal else os.pipe()
    words = ["run", "-e", script, str(name), "--", "cat", name]
    done = dprobe(*words, stderr=theirs, stdout=subprocess.DEVNULL, capture_output=False)
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # EIO: a terminal that nobody has any more
        while data := os.read(ours, 4096):
            said += data
    os.close(ours)
    assert done.returncode == 0
    shown = str(name).replace("\x1b", "\\x1b") if to_terminal else str(name)
    lines = [f"\x1b[0m<{shown}>", shown, f"@[{shown}]: 1"]
    assert [line for line in said.decode().split("\r\n" if to_terminal else "\n") if line] == lines
