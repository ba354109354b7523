"""One form for one thing: processes, JSON, durations, standard input, mistyped commands."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from dprobe.commands import doctor
from dprobe.commands.pids import Processes, gathered, pids_of
from dprobe.main import cli, main

from dprobed.proc import procfs

PROGRAM = "name = libc.so.6\noffset = write\n    exit\n"


def _commands(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            below = command.get_command(click.Context(command), name)
            assert below is not None
            yield from _commands(below, (*words, name))
    yield words


def _options(words: tuple[str, ...]) -> set[str]:
    command: click.Command = cli
    for word in words:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), word)
        assert found is not None
        command = found
    return {name for each in command.params for name in (*each.opts, *each.secondary_opts)}


#: Where ``--format`` says what is written into files.
_FILES = {("trace", "start"), ("trace", "convert")}


@pytest.mark.parametrize("words", [each for each in _commands(cli) if each not in _FILES])
def test_json_has_two_names_wherever_it_has_one(words: tuple[str, ...]) -> None:
    options = _options(words)
    assert ("--json" in options) == ("--format" in options)


@pytest.mark.parametrize("words", list(_commands(cli)))
def test_how_much_is_said_may_be_chosen_behind_each_command(words: tuple[str, ...]) -> None:
    assert {"--quiet", "--verbose"} <= _options(words)


def test_json_and_text_at_once_are_refused() -> None:
    done = CliRunner().invoke(cli, ["doctor", "--json", "--format", "text"])
    assert done.exit_code == 2
    assert "exclude each other" in done.output


@pytest.mark.parametrize("command", ["attach", "insert", "query", "dump", "programs", "remove"])
def test_processes_are_named_alike(command: str) -> None:
    assert {"-p", "--pid"} <= _options((command,))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("-p 12 13 14 a.rpn", "-p 12,13,14 a.rpn"),
        ("-p nginx 3", "-p nginx 3"),
        ("--pid 12 -f 13", "--pid 12 -f 13"),
        ("3 -p 12 -p 13 14", "3 -p 12 -p 13,14"),
        ("-p 12 -- 13", "-p 12 -- 13"),
        ("-p", "-p"),
    ],
)
def test_what_pidof_prints_is_several_processes(given: str, meant: str) -> None:
    assert gathered(given.split()) == meant.split()


def test_a_process_by_its_name(tmp_path: Path) -> None:
    name = f"dp{os.getpid()}"
    link = tmp_path / name
    link.write_bytes(Path("/bin/cat").read_bytes())
    link.chmod(0o755)
    with subprocess.Popen([link], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as target:
        assert target.stdin is not None
        assert target.stdout is not None
        target.stdin.write(b"here\n")
        target.stdin.flush()
        assert target.stdout.readline() == b"here\n"
        assert pids_of(name) == (target.pid,)
        assert Processes().convert(name, None, None) == (target.pid,)
        target.stdin.close()
    with pytest.raises(click.BadParameter, match=f"no process is called {name}"):
        Processes().convert(name, None, None)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["atach"], "there is no command atach; did you mean attach?"),
        (["rnu"], "there is no command rnu; did you mean run?"),
        (["trace", "lst"], "there is no command lst; did you mean list?"),
        (["help", "trace", "sow"], "there is no command sow; did you mean show"),
        (["xyzzy"], "there is no command xyzzy (see: dprobe --help)"),
        (["help", "run", "more"], "dprobe run has no commands below it"),
    ],
)
def test_a_mistyped_command(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert hint in capsys.readouterr().err


def test_help_of_a_command_is_that_of_its_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "trace", "start"]) == 0
    helped = capsys.readouterr().out
    assert main(["trace", "start", "--help"]) == 0
    assert helped.split() == capsys.readouterr().out.split()


def _stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_a_program_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    _stdin(monkeypatch, PROGRAM.encode())
    assert main(["compile", "-", "-o", "-"]) == 0
    compiled = capsysbinary.readouterr().out
    _stdin(monkeypatch, compiled)
    assert main(["disasm", "-"]) == 0
    assert b"offset = write" in capsysbinary.readouterr().out


def test_check_gives_diagnostics(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _stdin(monkeypatch, PROGRAM.replace("exit", "push rdi").encode())
    assert main(["check", "--json", "-", str(tmp_path / "none.rpn")]) == 2
    out, err = capsys.readouterr()
    first, second = map(json.loads, out.splitlines())
    assert (first["type"], first["schema"], first["ok"]) == ("checked", 1, False)
    [fault] = first["diagnostics"]
    known = {key: fault[key] for key in ("severity", "file", "line", "column", "message", "hint")}
    assert known == {
        "severity": "error",
        "file": "standard input",
        "line": 3,
        "column": 5,
        "message": "unknown instruction `push rdi`",
        "hint": "did you mean `push r,rdi`?",
    }
    assert second["diagnostics"][0]["file"].endswith("none.rpn")
    assert "standard input:3:5: error:" in err


def test_places_that_are_not_there_are_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["places", "libc.so.6", "no_such_*"]) == 2
    assert "no_such_*" in capsys.readouterr().err


def test_doctor_says_how_kernel_programs_become_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, modules, installed = (tmp_path / name for name in ("dprobes", "modules", "installed"))
    monkeypatch.setattr(doctor, "_DEVICE", device)
    monkeypatch.setattr(doctor, "_MODULES", modules)
    monkeypatch.setattr(doctor, "_INSTALLED", installed)

    def remedy() -> str:
        found = doctor._kernel_module(None)
        assert (found.ok, found.needed) == (False, False)
        return found.remedy

    assert "CONFIG_KPROBES" in remedy()
    modules.touch()
    assert f"apt-get install linux-headers-{os.uname().release}" in remedy()
    module = installed / os.uname().release / "updates/dkms/dprobes.ko.xz"
    module.parent.mkdir(parents=True)
    module.touch()
    assert "modprobe dprobes" in remedy()
    device.touch(0o600)
    assert doctor._kernel_module(None).ok


KERNEL = "name = kernel\nmodtype = kernel\noffset = schedule\n    exit\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--pid", "1", "kernel.rpn"], "goes into no process"),
        (["--all", "kernel.rpn"], "goes into no process"),
        (["-f", "kernel.rpn"], "goes into no process"),
        (["kernel.rpn", "user.rpn"], "insert them separately"),
        (["user.rpn"], "say --pid, or which processes, or --all"),
        (["--engine", "kernel", "user.rpn"], "`dprobe insert --engine kernel --all`"),
        (["--engine", "kernel", "-p", "1", "user.rpn"], "`dprobe insert --engine kernel --all`"),
        (["--engine", "kernel", "--exe", "x", "user.rpn"], "`dprobe insert --engine kernel --all`"),
        (["--engine", "kernel", "--all", "--limit", "2", "user.rpn"], "goes with --all alone"),
    ],
)
def test_where_a_program_goes_has_to_be_said(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "kernel.rpn").write_text(KERNEL)
    (tmp_path / "user.rpn").write_text(PROGRAM)
    paths = [str(tmp_path / each) if each.endswith(".rpn") else each for each in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "dprobe", "insert", *paths],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert words in done.stderr


def test_no_thread_of_the_kernel_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    own = os.getppid()
    monkeypatch.setattr(procfs, "is_kernel_thread", lambda pid: pid != own)
    command = click.Command("x")
    items = Processes().shell_complete(click.Context(command), click.Option(["-p"]), str(own))
    assert str(own) in [each.value for each in items]
    everything = Processes().shell_complete(click.Context(command), click.Option(["-p"]), "")
    assert {each.value for each in everything if each.value.isdecimal()} == {str(own)}


def test_a_module_that_is_mistyped_may_be_another(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["places", "libc.so.7", "malloc"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("dprobe: libc.so.7: no such library or command here; did you mean libc.")
    assert main(["places", "nothing-of-that-name"]) == 2
    assert "no such library or command here; give its path" in capsys.readouterr().err
