"""The commands that need no daemon, help, completion, and how mistakes are told."""

from __future__ import annotations

import json
import os
import pty
import resource
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from dprobe.commands import doctor, places
from dprobe.commands.doctor import doctor_command
from dprobe.main import cli

from dprobed.proc.kernel_symbols import symbols
from tests.integration.client_support import DPROBE, dprobe, parsed, program

COMMANDS = (
    *("run", "attach", "insert", "remove", "query", "programs", "vars", "log", "resume"),
    *("status", "top", "debug", "policy", "trace", "dump", "dumps"),
    *("handlers", "compile", "check", "disasm", "places", "doctor", "completion"),
)


def test_a_compiled_program_does_what_its_source_does(tmp_path: Path) -> None:
    source = program(
        tmp_path, "name = libc.so.6\noffset = write\n    push N\n    log 1\n    exit\n"
    )
    done = dprobe("compile", "-D", "N=7", source)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    compiled = tmp_path / "writes.dpb"
    source.unlink()
    done = dprobe("run", "--format", "json", "-o", "-", compiled, "--", "sh", "-c", "echo >&2")
    record = parsed(done.stdout)[0]
    assert (record["program"], record["log"]) == ("writes", [{"words": [7]}])
    assert dprobe("compile", compiled).returncode == 2


def test_what_disasm_shows_assembles_to_the_same(tmp_path: Path) -> None:
    source = program(tmp_path)
    dprobe("compile", source, "-o", tmp_path / "one.dpb")
    listing = dprobe("disasm", tmp_path / "one.dpb").stdout
    again = program(tmp_path, listing, "again")
    assert dprobe("disasm", again).stdout == listing


def test_check_tells_of_every_file(tmp_path: Path) -> None:
    good = program(tmp_path, name="good")
    bad = program(tmp_path, "name = libc.so.6\noffset = write\n    push r,rzz\n", "bad")
    assert dprobe("check", good).returncode == 0
    done = dprobe("check", "--json", good, bad, tmp_path / "none.rpn")
    assert done.returncode == 2
    rows = parsed(done.stdout)
    assert [(row["file"], row["ok"]) for row in rows] == [
        (str(good), True),
        (str(bad), False),
        (str(tmp_path / "none.rpn"), False),
    ]
    assert f"{bad}:3:" in done.stderr
    assert "none.rpn" in done.stderr


def test_places_finds_libraries_and_commands(tmp_path: Path) -> None:
    rows = parsed(dprobe("places", "--json", "libc.so.6", "mallo?").stdout)
    assert [row["place"] for row in rows] == ["malloc"]
    assert rows[0]["size"] > 0
    assert rows[0]["module"].endswith("/libc.so.6")
    assert dprobe("places", rows[0]["module"], "malloc").stdout.split()[-1] == "malloc"
    done = dprobe("places", "libc.so.6", "no_such_*")
    assert (done.returncode, done.stdout) == (2, "")
    assert "matches no_such_*" in done.stderr
    for name in ("libnothing.so.9", "/etc/passwd", str(tmp_path)):
        done = dprobe("places", name)
        assert done.returncode == 2
        assert done.stderr.startswith("dprobe: ")
        assert "Traceback" not in done.stderr


def _doctor_on_the_kernel() -> dict[str, str]:
    done = CliRunner().invoke(cli, ["doctor", "--json"])
    (row,) = [row for row in parsed(done.stdout) if row["check"] == "kernel programs"]
    return {name: str(text) for name, text in row.items()}


def test_doctor_says_what_to_install_for_kernel_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_DEVICE", "_MODULES", "_INSTALLED"):
        monkeypatch.setattr(doctor, name, tmp_path / name)
    assert "loads no modules" in _doctor_on_the_kernel()["detail"]
    (tmp_path / "_MODULES").touch()
    release = os.uname().release
    row = _doctor_on_the_kernel()
    assert f"apt-get install linux-headers-{release}" in row["remedy"]
    assert "dprobes-dkms" in row["remedy"]
    installed = tmp_path / "_INSTALLED" / release / "updates" / "dkms"
    installed.mkdir(parents=True)
    (installed / "dprobes.ko.xz").touch()
    assert "modprobe dprobes" in _doctor_on_the_kernel()["remedy"]
    (tmp_path / "_DEVICE").touch()
    assert _doctor_on_the_kernel()["result"] == "ok"


KALLSYMS = """\
ffffffff81000000 T vfs_read
ffffffff81000100 T vfs_write
ffffffff82000000 D vfs_count
000000000001fb00 D vfs_of_each_processor
ffffffff82100000 D __tracepoint_task_rename
ffffffffc0000000 t vfs_read\t[my_fs]
"""


@pytest.mark.parametrize("hidden", [False, True])
def test_places_of_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: bool
) -> None:
    """The kernel shows addresses to those who may see them; nothing else here knows them."""
    listed = tmp_path / "kallsyms"
    lines = KALLSYMS.splitlines()
    listed.write_text("".join(f"{'0' * 16 if hidden else x[:16]}{x[16:]}\n" for x in lines))
    monkeypatch.setattr(places, "symbols", lambda: symbols(listed))

    def rows(pattern: str) -> list[tuple[str, ...]]:
        done = CliRunner().invoke(cli, ["places", "--kernel", "--json", pattern])
        assert done.exit_code == 0, done.output
        return [
            tuple(row[name] for name in ("place", "kind", "module", "address"))
            for row in parsed(done.stdout)
        ]

    def at(address: str) -> str:
        return "" if hidden else address

    assert rows("vfs_[rw]*") == [
        ("vfs_read", "code", "kernel", at("0xffffffff81000000")),
        ("vfs_write", "code", "kernel", at("0xffffffff81000100")),
    ]
    assert rows("vfs_count") == [("vfs_count", "data", "kernel", at("0xffffffff82000000"))]
    assert rows("my-fs:*") == [("vfs_read", "code", "my_fs", at("0xffffffffc0000000"))]
    assert len(rows("*:vfs_read")) == 2
    renamed = ("tracepoint:task_rename", "tracepoint", "kernel", at("0xffffffff82100000"))
    assert rows("tracepoint:*") == rows("task_*") == [renamed]


def test_places_of_this_kernel() -> None:
    done = dprobe("places", "--kernel", "vfs_rea?")
    assert (done.returncode, done.stdout.split()[-1]) == (0, "vfs_read")
    for arguments, words in {
        ("--kernel", "no_such_*"): "nothing in the kernel matches no_such_*",
        ("--kernel", "kernel", "vfs_*"): "--kernel goes without a MODULE",
        ("--kernel", "--usdt", "x"): "--kernel goes without --usdt",
        (): "Missing argument 'MODULE'",
    }.items():
        done = dprobe("places", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_doctor_finds_this_machine_fit(tmp_path: Path) -> None:
    done = dprobe("doctor", "--json")
    assert done.returncode == 0, done.stdout
    results = {row["check"]: row["result"] for row in parsed(done.stdout)}
    assert results["ptrace of own processes"] == "ok"
    assert results["python packages"] == "ok"
    assert set(results.values()) <= {"ok", "no"}


def test_doctor_names_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["click>=8", "no-such-package~=1.0", 'neither ; extra == "dev"']
    monkeypatch.setattr("importlib.metadata.requires", lambda name: asked)
    done = CliRunner().invoke(doctor_command, ["--json"], standalone_mode=False)
    assert done.return_value == 1
    last = parsed(done.output)[-1]
    assert (last["check"], last["result"]) == ("python packages", "FAILS")
    assert last["detail"] == "missing: no-such-package"
    assert last["remedy"] == "pip install no-such-package"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give away")
def test_doctor_says_what_to_do_about_each_right_that_is_missing() -> None:
    without = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", str(DPROBE), "doctor", "--json"]
    done = subprocess.run(without, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr  # `run` works without any.
    rows = {row["check"]: row for row in parsed(done.stdout)}
    for name in ("ptrace of others' processes", "targets with seccomp", "process events"):
        assert rows[name]["result"] == "no"
    for row in rows.values():
        assert (row["remedy"] == "") == (row["result"] == "ok"), row


def test_version_is_quick() -> None:
    assert dprobe("--version").stdout.startswith("dprobe 0.")
    bare: list[float] = []
    ours: list[float] = []
    for _ in range(5):
        for command, times in (([sys.executable, "-c", ""], bare), ([DPROBE, "--version"], ours)):
            start = cpu_of_children()
            subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
            times.append(cpu_of_children() - start)
    # Beside a bare Python on the same machine.
    assert min(ours) < 5 * min(bare)


def cpu_of_children() -> float:
    """Seconds of CPU that ended children have had: what others do does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    for flag in ("-h", "--help"):
        done = dprobe(command, flag)
        assert done.returncode == 0
        assert f"Usage: dprobe {command}" in done.stdout
        assert "example" in done.stdout


def test_the_help_lists_every_command() -> None:
    help_text = dprobe("--help").stdout
    assert all(f"\n  {command} " in help_text for command in COMMANDS)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    assert "_DPROBE_COMPLETE" in dprobe("completion", shell).stdout


def test_completion_completes() -> None:
    def complete(line: str) -> list[str]:
        environment = {
            **os.environ,
            "_DPROBE_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1),
        }
        return [each.split(",")[-1] for each in dprobe(env=environment).stdout.splitlines()]

    assert complete("dprobe re") == ["remove", "resume"]
    assert "--for" in complete("dprobe attach --")
    assert complete("dprobe run --format j") == ["json"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["fly"], "there is no command fly"),
        (["attach"], "say which processes, by -p"),
        (["query", "--colour"], "No such option"),
        (["--socket"], "requires an argument"),
        (["insert", "a.rpn"], "a.rpn: "),
        (["attach", "--for", "0", "1", "a.rpn"], "it is more than 0"),
    ],
)
def test_mistakes_are_one_line_and_status_2(arguments: list[str], text: str) -> None:
    done = dprobe(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert text in done.stderr


def test_output_that_nobody_reads_is_no_traceback() -> None:
    command = f"{DPROBE} places libc.so.6 | head -1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False
    )
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


@pytest.mark.parametrize("command", [["places", "libc.so.6", "*"], ["--help"], ["doctor", "-h"]])
def test_a_broken_pipe_has_its_own_status(command: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = dprobe(*command, capture_output=False, stdout=write, stderr=subprocess.PIPE)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def _on_a_terminal(width: int, *arguments: object) -> list[str]:
    """What a command shows on a terminal of that width."""
    pid, terminal = pty.fork()
    if pid == 0:
        termios.tcsetwinsize(0, (40, width))
        os.execvp("env", ["env", "--unset=COLUMNS", *map(str, arguments)])
    seen = b""
    try:
        while chunk := os.read(terminal, 1024):
            seen += chunk
    except OSError:
        pass  # The other side is closed.
    os.waitpid(pid, 0)
    os.close(terminal)
    return seen.decode().splitlines()


@pytest.mark.parametrize("width", [45, 60, 80, 100, 132])
def test_a_listing_fits_its_terminal(width: int) -> None:
    """What a core is called is what the next command wants: it is whole at any width."""
    name = "redis-server.1234.20240131T101500Z"
    about = {"pid": 1234, "command": "redis-server", "probe": {"program": "p", "place": "write"}}
    # The folder is named, too, and whole: a short one.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder, f"{name}.core").write_bytes(b"core")
        Path(folder, f"{name}.json").write_text(json.dumps(about))
        shown = _on_a_terminal(width, f"DPROBED_DUMPS={folder}", DPROBE, "dumps")
    assert name in "\n".join(shown).split()
    assert folder in shown[-1]
    assert max(map(len, shown)) <= width, shown
    assert (shown[0].split() == ["core", name]) == (width <= 60)


def _groups(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command, and the commands below it."""
    yield words
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from _groups(below, (*words, name))


def test_help_fits_into_80_columns() -> None:
    for words in _groups(cli):
        done = CliRunner().invoke(cli, [*words, "--help"], terminal_width=80, prog_name="dprobe")
        assert done.exit_code == 0
        wide = [line for line in done.output.splitlines() if len(line) > 80]
        assert not wide, words
        assert "example" in done.output, words


def test_started_without_standard_streams(tmp_path: Path) -> None:
    report = tmp_path / "report"
    command = 'exec "$@" <&- >&- 2>&-'
    arguments = [DPROBE, "run", "-o", report, program(tmp_path), "--", "sh", "-c", "exit 3"]
    shell = ["sh", "-c", command, "sh", *map(str, arguments)]
    done = subprocess.run(shell, timeout=30, check=False)
    assert done.returncode == 3
    assert report.read_text().startswith("program ")
