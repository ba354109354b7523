"""Probes that can never fire: said at once, by each command, with the way out."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import BuildTarget
from tests.integration.client_support import DPROBE, PATIENCE, Cat, Daemon, cat, dprobe, program

#: A probe in a function of a module.
AT = "name = {module}\nmajor = 1\noffset = {symbol}\nexit\n"
MALLOC = """
#include <stdlib.h>
#include <stddef.h>
extern void *__libc_malloc(size_t size);
void *malloc(size_t size) { return __libc_malloc(size); }
"""
#: Calls malloc for each line, through its own procedure linkage table.
CALLS = """
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(void)
{
    char letter;
    while (read(0, &letter, 1) == 1) {
        free(malloc(100));
        if (write(1, &letter, 1) != 1)
            return 1;
    }
    return 0;
}
"""


def at(folder: Path, module: str, symbol: str, name: str = "p") -> Path:
    return program(folder, AT.format(module=module, symbol=symbol), name)


def built(folder: Path, text: str, name: str, *options: str) -> Path:
    source = folder / f"{name}.c"
    source.write_text(text)
    path = folder / name
    command: list[str | Path] = ["gcc", "-O1", "-fno-builtin", *options, "-o", path, source]
    subprocess.run(command, check=True)
    return path


@pytest.fixture
def interposed(tmp_path: Path) -> Iterator[Cat]:
    """A process whose malloc is a library's that was loaded before the C library."""
    library = built(tmp_path, MALLOC, "libfast.so.2", "-shared", "-fPIC")
    command = built(tmp_path, CALLS, "calls")
    with cat([command], env={**os.environ, "LD_PRELOAD": str(library)}) as running:
        yield running


@contextmanager
def attached(*arguments: object) -> Iterator[list[str]]:
    """The first lines of an ``attach``, up to that with the number of probes."""
    command = [str(DPROBE), "attach", *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines: list[str] = []
        try:
            while not (lines and "in process" in lines[-1] and "until" in lines[-1]):
                lines.append(process.stderr.readline())
                assert lines[-1], lines
            yield lines
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE)


def test_a_function_that_another_module_defines_first(
    daemon: Daemon, interposed: Cat, tmp_path: Path
) -> None:
    said = "`malloc` is libfast.so.2's: calls calls that, not the one in libc.so.6; write name = "
    path = at(tmp_path, "libc.so.6", "malloc", "counted")
    done = daemon.dprobe("insert", "--pid", interposed.pid, path)
    assert done.returncode == 0
    assert f"counted at malloc+0x0: active in process {interposed.pid}" in done.stderr
    assert said in done.stderr
    done = daemon.dprobe("query")
    assert said in done.stderr
    (row,) = daemon.json("query")
    assert said in row["doubt"]
    # The way out: there it fires, and nothing is in doubt.
    assert daemon.dprobe("remove", "counted").returncode == 0
    path = at(tmp_path, "libfast.so.2", "malloc", "counted")
    assert daemon.dprobe("insert", "--pid", interposed.pid, path).returncode == 0
    interposed.say("x")
    (row,) = daemon.json("query")
    assert (row["hits"], row["doubt"]) == (2, "")
    assert daemon.dprobe("query").stderr == ""


def test_a_function_of_the_module_itself_is_in_no_doubt(daemon: Daemon, tmp_path: Path) -> None:
    command = built(tmp_path, CALLS, "calls")
    with cat([command]) as target:
        path = at(tmp_path, "libc.so.6", "malloc")
        done = daemon.dprobe("insert", "--pid", target.pid, path)
        assert (done.returncode, done.stderr) == (0, "")
        assert daemon.dprobe("query").stderr == ""


def test_attach_tells_of_it(interposed: Cat, tmp_path: Path) -> None:
    with attached(interposed.pid, at(tmp_path, "libc.so.6", "malloc")) as lines:
        assert any("`malloc` is libfast.so.2's" in line for line in lines)


def test_run_tells_of_it_before_the_command_runs(tmp_path: Path) -> None:
    library = built(tmp_path, MALLOC, "libfast.so.2", "-shared", "-fPIC")
    command = built(tmp_path, CALLS, "calls")
    path = at(tmp_path, "libc.so.6", "malloc")
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    done = dprobe("run", path, "--", command, env=environment)
    first = done.stderr.splitlines()[0]
    assert "`malloc` will be libfast.so.2's, which comes before libc.so.6" in first
    assert "write name = libfast.so.2" in first
    fast = at(tmp_path, "libfast.so.2", "malloc", "fast")
    done = dprobe("run", fast, "--", command, env=environment)
    assert "dprobe: " not in done.stderr
    done = dprobe("run", path, "--", command)
    assert "dprobe: " not in done.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("libc", "libc.so.6: write name = libc.so.6"),
        ("libc.so", "libc.so.6: write name = libc.so.6"),
        ("c", "libc.so.6: write name = libc.so.6"),
        ("/nowhere/libc.so.6", "/libc.so.6: write name = /"),
        ("libnothing.so.7", "no module `libnothing.so.7` is mapped"),
        ("libnothing-*.so", "when one is; a name is no pattern: `*` and `?` stand for themselves"),
    ],
)
def test_a_module_that_is_not_mapped(
    daemon: Daemon, target: Cat, tmp_path: Path, name: str, said: str
) -> None:
    path = at(tmp_path, name, "write")
    done = daemon.dprobe("insert", "--pid", target.pid, path)
    assert done.returncode == 0
    assert said in done.stderr
    assert said in daemon.dprobe("query").stderr


def test_near_names_at_run_and_attach(target: Cat, tmp_path: Path) -> None:
    path = at(tmp_path, "libc", "write")
    done = dprobe("run", path, "--", "true")
    assert "no module `libc` is mapped at the start, but libc.so.6" in done.stderr.splitlines()[0]
    with attached(target.pid, path) as lines:
        assert any("no module `libc` is mapped, but libc.so.6" in line for line in lines)
    done = dprobe("run", at(tmp_path, "libnothing-*.so", "write"), "--", "true")
    assert "a name is no pattern" in done.stderr.splitlines()[0]


def test_what_was_counted_before_an_exec_hides_nothing(tmp_path: Path) -> None:
    """Of the program that is executed then nothing has fired."""
    alone = built(tmp_path, CALLS, "alone", "-static")
    script = f"read line; exec {alone}"
    with subprocess.Popen(
        [DPROBE, "run", at(tmp_path, "libc.so.6", "malloc"), "--", "bash", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdin is not None
        assert running.stderr is not None
        running.stdin.write("go\n")
        running.stdin.flush()
        said = ""
        while "alone is a static program, which maps no other module" not in said:
            said = running.stderr.readline()
            assert said
        running.stdin.close()
        assert running.wait(PATIENCE) == 0


def test_deployments_say_at_once_what_is_wrong_in_processes_that_run(
    daemon: Daemon, tmp_path: Path
) -> None:
    """And no name is called unknown that processes have."""
    alone = built(tmp_path, CALLS, "alone", "-static")
    missing = "libm", "cos"
    with cat([alone]) as running:
        done = daemon.dprobe("insert", "--exe", alone, at(tmp_path, "libc.so.6", "malloc"))
        assert (done.returncode, running.process.poll()) == (0, None)
        assert "alone is a static program, which maps no other module" in done.stderr
        (row,) = (each for each in daemon.json("query") if each["type"] == "deployment")
        assert (row["state"], row["processes"]) == ("pending", 1)
    calls = built(tmp_path, CALLS, "calls-of-a-name")
    with cat([calls]):
        source = at(tmp_path, *missing, "q")
        done = daemon.dprobe("insert", "--missing", "warn", "--exe", "calls-of-a-name", source)
        assert done.returncode == 0, done.stderr
        assert "no module `libm` is mapped" in done.stderr
        assert "there is no such command or file" not in done.stderr
    done = daemon.dprobe("insert", "--exe", "calls-of-a-nome", at(tmp_path, "libc.so.6", "malloc"))
    assert "there is no such command or file here (yet)" in done.stderr


def test_a_static_program(daemon: Daemon, tmp_path: Path) -> None:
    command = built(tmp_path, CALLS, "alone", "-static")
    path = at(tmp_path, "libc.so.6", "write")
    said = "alone is a static program, which maps no other module"
    with cat([command]) as target:
        done = daemon.dprobe("insert", "--pid", target.pid, path)
        assert said in done.stderr
        assert "write name = alone" in done.stderr
        assert said in daemon.dprobe("query").stderr
    done = dprobe("run", path, "--", command)
    assert said in done.stderr.splitlines()[0]


def test_executables_that_no_process_can_show(daemon: Daemon, tmp_path: Path) -> None:
    script = tmp_path / "job"
    script.write_text("#!/usr/bin/python3\n")
    script.chmod(0o755)
    path = program(tmp_path)
    for exe, said in (
        ("no-such-command", "there is no such command or file here (yet)"),
        (tmp_path / "nothing", "there is no such command or file here (yet)"),
        (tmp_path, f"{tmp_path} is no file; write {tmp_path}/**"),
        (script, "is a script: its processes execute /usr/bin/python3"),
    ):
        done = daemon.dprobe("insert", "--exe", exe, path, "--merge")
        assert done.returncode == 0
        assert said in done.stderr


@pytest.mark.parametrize("selection", [("--exe", "no-such-command"), ("--user", "65533")])
def test_a_misspelt_symbol_is_refused_for_all_processes_too(
    daemon: Daemon, target: Cat, tmp_path: Path, selection: tuple[str, str]
) -> None:
    path = at(tmp_path, "libc.so.6", "wriite")
    for options in (selection, ("--pid", str(target.pid))):
        done = daemon.dprobe("insert", *options, path)
        assert done.returncode == 2
        assert "p.rpn:3:10: error: " in done.stderr
        assert "`write`" in done.stderr
        assert daemon.json("query") == []
    done = daemon.dprobe("insert", *selection, "--missing", "warn", path)
    assert done.returncode == 0


def test_a_link_names_the_executable_for_a_selection(
    daemon: Daemon, build_target: BuildTarget, tmp_path: Path
) -> None:
    command = built(tmp_path, CALLS, "calls-1.2")
    (tmp_path / "calls").symlink_to(command)
    with cat([tmp_path / "calls"]) as target:
        path = at(tmp_path, "libc.so.6", "malloc")
        assert daemon.dprobe("insert", "--exe", tmp_path / "calls", path).returncode == 0
        while not [row for row in daemon.query() if row.get("pid") == target.pid]:
            pass
        target.say("xyz")
        rows = [row for row in daemon.query() if row.get("pid") == target.pid]
        assert [row["hits"] for row in rows] == [4]
        assert daemon.dprobe("remove", "--all").returncode == 0
