"""Places that are not there: refused by `dprobe run` before the command starts, and by `check`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dprobe.lib import loader

from tests.integration.client_support import cat, dprobe, parsed, program, words

#: A library, and a program that calls it.
LIBRARY = "int twice(int n) { return 2 * n; }\n"
PROGRAM = """\
extern int twice(int);
int main(void)
{
    return twice(21) != 42;
}
"""
TWICE = "name = libtwice.so\noffset = twice\n    push r,rdi\n    log 1\n    exit\n"
THRICE = TWICE.replace("twice\n", "thrice\n")
MISTYPED = """\
// what it writes
name = libc.so.6
  offset = wriite // not write
    exit
offset = malloc+1
    exit
"""


def gcc(*arguments: str | Path) -> None:
    subprocess.run(["gcc", "-g", *arguments], check=True, timeout=60)


def built(folder: Path, *flags: str, where: str = "") -> Path:
    """A program, and its library in the folder ``where`` beside it."""
    library = folder / where / "libtwice.so"
    library.parent.mkdir(exist_ok=True)
    (folder / "twice.c").write_text(LIBRARY)
    (folder / "program.c").write_text(PROGRAM)
    gcc("-shared", "-fPIC", folder / "twice.c", "-o", library, "-Wl,-soname,libtwice.so")
    gcc(folder / "program.c", library, "-o", folder / "program", *flags)
    return folder / "program"


def test_every_fault_of_every_program_with_its_place_and_nothing_runs(tmp_path: Path) -> None:
    mistyped = program(tmp_path, MISTYPED, "mistyped")
    other = program(tmp_path, "name = touch\noffset = 0x1\n    exit\n", "other")
    marker = tmp_path / "marker"
    done = dprobe("run", mistyped, other, "--", "touch", marker)
    assert done.returncode == 2
    assert not marker.exists()
    libc = "/usr/lib/x86_64-linux-gnu/libc.so.6"
    lines = done.stderr.splitlines()
    assert lines[:4] == [
        f"dprobe: {mistyped}:3:12: error: {libc}: no symbol wriite",
        "      offset = wriite // not write",
        "               ^~~~~~",
        lines[3],
    ]
    assert lines[3].startswith("    hint: did you mean `write`")
    assert f"{mistyped}:5:10: error: {libc}: malloc+0x1 is inside an instruction" in done.stderr
    assert f"{other}:2:10: error: /usr/bin/touch: file offset 0x1 is not in an exec" in done.stderr
    assert lines[-1] == "(`--missing warn` runs the command without such probes)"


def test_missing_warn_runs_the_command_with_the_other_probes(tmp_path: Path) -> None:
    source = program(tmp_path, MISTYPED + "offset = write\n    exit\n")
    report = tmp_path / "report"
    done = dprobe("run", "--missing", "warn", "-o", report, source, "--", "echo", "x")
    assert (done.returncode, done.stdout) == (0, "x\n")
    assert " wriite: invalid offset: " in done.stderr
    assert "write+0x0 #1" in report.read_text()


def test_a_line_without_code(tmp_path: Path) -> None:
    binary = built(tmp_path, "-Wl,-rpath,$ORIGIN")
    source = program(tmp_path, "name = program\noffset = program.c:1\n    exit\n")
    done = dprobe("run", source, "--", binary)
    assert done.returncode == 2
    assert f"{source}:2:10: error: {binary}: " in done.stderr
    assert "program.c:3" in done.stderr  # the nearest that has code


@pytest.mark.parametrize("how", ["rpath", "runpath", "variable", "preload"])
def test_a_library_that_the_loader_finds(tmp_path: Path, how: str) -> None:
    """The right one: another of its name, which has everything, lies where it is not looked for."""
    where = "inner" if how in ("rpath", "runpath") else "elsewhere"
    tags = {"rpath": "-Wl,--disable-new-dtags", "runpath": "-Wl,--enable-new-dtags"}
    flags = (tags[how], "-Wl,-rpath,$ORIGIN/inner") if how in tags else ()
    binary = built(tmp_path, *flags, where=where)
    library = tmp_path / where / "libtwice.so"
    variables = {
        "variable": ("LD_LIBRARY_PATH", library.parent),
        "preload": ("LD_PRELOAD", library),
    }
    environment = dict(os.environ)
    if how in variables:
        name, value = variables[how]
        environment[name] = str(value)
    report = tmp_path / "report"
    options = ("--format", "json", "-o", report)
    done = dprobe("run", *options, program(tmp_path, TWICE), "--", binary, env=environment)
    assert done.returncode == 0, done.stderr
    assert words(parsed(report.read_text())[0]) == [21]
    source = program(tmp_path, THRICE)
    done = dprobe("run", source, "--", binary, env=environment)
    assert done.returncode == 2
    assert f"{source}:2:10: error: {library}: no symbol thrice" in done.stderr


def test_a_module_that_is_opened_later_is_waited_for(tmp_path: Path) -> None:
    built(tmp_path)
    report = tmp_path / "report"
    command = (sys.executable, "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1]).twice(4)")
    options = ("--format", "json", "-o", report)
    for text, state in ((TWICE, "active"), (THRICE, "invalid offset")):
        source = program(tmp_path, text)
        done = dprobe("run", *options, source, "--", *command, tmp_path / "libtwice.so")
        assert done.returncode == 0, done.stderr
        assert parsed(report.read_text())[-1]["probes"][0]["state"] == state


def test_of_a_script_its_interpreter_counts(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(f"#!{sys.executable}\nprint('ran')\n")
    script.chmod(0o755)
    real = os.path.realpath(sys.executable)
    source = program(tmp_path, f"name = {Path(real).name}\noffset = Py_Mian\n    exit\n")
    done = dprobe("run", source, "--", script)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{source}:2:10: error: {real}: no symbol Py_Mian" in done.stderr
    # The shell executes it, so whatever it is called: that comes later, or not.
    script.write_text("echo ran\n")
    source = program(tmp_path, "name = script\noffset = main\n    exit\n")
    assert dprobe("run", source, "--", script).stdout == "ran\n"


def test_check_in_a_process_and_in_an_executable(tmp_path: Path) -> None:
    mistyped = program(tmp_path, MISTYPED, "mistyped")
    good = program(tmp_path, name="good")
    later = program(tmp_path, TWICE, "later")
    with cat() as target:
        for where in (target.pid, "cat", "/bin/cat"):
            done = dprobe("check", "--json", "--in", where, good, mistyped, later)
            assert done.returncode == 2
            assert [
                (row["file"], row["ok"], row["placed"], row["pending"])
                for row in parsed(done.stdout)
            ] == [(str(good), True, 1, 0), (str(mistyped), False, 0, 0), (str(later), True, 0, 1)]
            assert f"{mistyped}:3:12: error: " in done.stderr
            assert f"{mistyped}:5:10: error: " in done.stderr
            assert dprobe("check", "--in", where, good).returncode == 0
    done = dprobe("check", "--in", target.pid, good)
    assert (done.returncode, done.stderr) == (2, f"dprobe: no process {target.pid}\n")
    os.mkfifo(tmp_path / "pipe")
    for path in ("/etc/passwd", tmp_path / "pipe", tmp_path):
        done = dprobe("check", "--in", path, good)
        assert (done.returncode, done.stdout) == (2, "")
        assert "not an executable whose files are known" in done.stderr


def test_a_compiled_program_knows_where_it_was_written(tmp_path: Path) -> None:
    source = program(tmp_path, MISTYPED, "mistyped")
    assert dprobe("compile", source).returncode == 0
    done = dprobe("check", "--in", "cat", source.with_suffix(".dpb"))
    assert f"{source}:3:12: error: " in done.stderr
    source.unlink()
    done = dprobe("check", "--in", "cat", source.with_suffix(".dpb"))
    assert f"{source}:3:12: error: " in done.stderr
    assert "not write" not in done.stderr  # the line cannot be shown


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")
def test_where_the_loader_may_not_be_asked_only_the_program_is_known(tmp_path: Path) -> None:
    copy = tmp_path / "cat"
    shutil.copy(os.path.realpath("/bin/cat"), copy)
    alone = [str(copy), os.path.realpath("/lib64/ld-linux-x86-64.so.2")]

    def known() -> tuple[list[str], bool]:
        known = loader.files_of_command(str(copy), dict(os.environb))
        return [file.module.path for file in known.files], known.complete

    assert known()[1] and known()[0] > alone
    copy.chmod(0o4755)
    assert known() == (alone, False)
    copy.chmod(0o755)
    os.chown(copy, 12345, 12345)
    assert known() == (alone, False)
    source = program(tmp_path, MISTYPED)
    done = dprobe("check", "--in", copy, source)
    assert done.returncode == 0
    assert "not all of its libraries are known" in done.stderr


def test_a_symbol_that_is_not_there_is_refused_before_the_command_runs(tmp_path: Path) -> None:
    source = program(
        tmp_path,
        "name = libc.so.6\noffset = write\n    push addr,environn\n    log ptr\n"
        "    push tls,errno\n    log ptr\n",
    )
    done = dprobe("run", source, "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{source}:3:5: error: " in done.stderr
    assert "environn" in done.stderr
    assert "errno " not in done.stderr
    assert "did you mean `environ`" in done.stderr
    assert "the candidates" not in done.stderr
    with cat() as target:
        done = dprobe("attach", "-p", target.pid, "--missing", "warn", source)
        assert done.returncode == 2
        assert "invalid offset" in done.stderr
        assert "environn" in done.stderr


def test_what_nothing_tells_of_is_no_reason_not_to_run(tmp_path: Path) -> None:
    """Data among the code, perhaps: the probe is refused, and the command is as without it."""
    targets = Path(__file__).parents[1] / "targets"
    command = tmp_path / "table"
    (tmp_path / "main.c").write_text(
        "long dispatch(long);\nint main(void) { return dispatch(0) != 10; }\n"
    )
    gcc(tmp_path / "main.c", targets / "table_in_code.S", "-o", command)
    places = [f"offset = dispatch+{at:#x}\n    abort\n" for at in (0x15, 0x17)]
    source = program(tmp_path, "name = table\n" + "".join(places), "data")
    done = dprobe("run", "--json", source, "--", command)
    assert done.returncode == 0, done.stderr
    assert "data.rpn:2:10: data 1.1 at dispatch+0x15: invalid offset" in done.stderr
    assert "give the expected bytes with 'opcode ='" in done.stderr
