"""Processes with names that are made to deceive: control characters, line feeds, no UTF-8."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.client_support import (
    WRITES,
    Cat,
    cat,
    dprobe,
    parsed,
    program,
    running_daemon,
)

#: Of at most 15 letters, that it is a process's whole name; it turns a terminal red.
NASTY = "\x1b[31m\ndprobed:"


@pytest.fixture
def nasty(tmp_path: Path) -> Iterator[Cat]:
    path = tmp_path / NASTY
    shutil.copy("/usr/bin/cat", path)
    with cat([path]) as running:
        yield running


def test_names_neither_command_the_terminal_nor_begin_lines(nasty: Cat, tmp_path: Path) -> None:
    policy = tmp_path / "p.toml"
    policy.write_text('[[policy]]\nname = "p"\nmatch.exe = "**"\nrights.user.root = "deny"\n')
    outputs = [dprobe("policy", "test", policy, nasty.pid)]
    with running_daemon(tmp_path) as daemon:
        outputs += [
            daemon.dprobe("policy", "explain", nasty.pid),
            daemon.dprobe("insert", "--pid", nasty.pid, program(tmp_path)),
        ]
        nasty.say("one")
        outputs += [
            daemon.dprobe("query", "-x"),
            daemon.dprobe("top", "--once", "--interval", "0.1"),
            daemon.dprobe("log"),
            daemon.dprobe("remove", "--all"),
        ]
    for done in outputs:
        assert done.returncode == 0, done.stderr
        for line in (*done.stdout.split("\n"), *done.stderr.split("\n")):
            assert line.isprintable()
            assert not line.startswith("dprobed:")
    assert "(\\x1b[31m\\ndprobed:): " in outputs[0].stdout
    assert " \\x1b[31m\\ndprobed:[" in outputs[5].stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="a policy for root's daemon")
def test_a_line_of_the_log_is_a_line(nasty: Cat, tmp_path: Path) -> None:
    folder = tmp_path / "policies.d"
    folder.mkdir()
    rule = '[[policy]]\nname = "p"\nmatch.exe = "**"\nrights.user.root = "deny"\n'
    (folder / "p.toml").write_text(rule)
    config = tmp_path / "dprobed.toml"
    config.write_text('policies = "policies.d"\n')
    with running_daemon(tmp_path, "--config", config) as daemon:
        done = daemon.dprobe("insert", "--pid", nasty.pid, program(tmp_path))
        assert done.returncode == 2
        assert done.stderr.removesuffix("\n").isprintable()
        assert daemon.process.stderr is not None
        line = daemon.process.stderr.readline()
        assert line.startswith("dprobed: denied: user 0 (root) may not touch process")
        assert "\\x1b[31m\\ndprobed:): policy p" in line


def test_what_is_no_utf8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"c\xfft")
    shutil.copy("/usr/bin/cat", path)
    with cat([path]) as target, running_daemon(tmp_path) as daemon:
        (found,) = daemon.json("policy", "explain", target.pid)
        assert found["exe"] == f"{tmp_path}/c\ufffdt"
        done = daemon.dprobe("insert", "--exe", path.name, program(tmp_path))
        assert done.returncode == 2
        assert "--exe c\ufffdt: not UTF-8, and only such text can be asked for" in done.stderr
        assert "`c\ufffdt`, as it is shown, means it" in done.stderr
        done = daemon.dprobe("insert", "--exe", "c\ufffdt", program(tmp_path))
        assert done.returncode == 0, done.stderr
        target.say("one")
        assert "no such command" not in done.stderr
        (probe,) = (each for each in daemon.json("query") if each["type"] == "probe")
        assert (probe["pid"], probe["hits"]) == (target.pid, 1)
    folder = tmp_path / os.fsdecode(b"l\xffb")
    folder.mkdir()
    shutil.copy("/lib/x86_64-linux-gnu/libc.so.6", folder)
    with (
        cat(env={**os.environ, "LD_LIBRARY_PATH": str(folder)}) as target,
        running_daemon(tmp_path) as daemon,
    ):
        done = daemon.dprobe("insert", "--pid", target.pid, program(tmp_path), "--json")
        if os.geteuid() == 0:
            assert done.returncode == 0, done.stderr
            target.say("one")
            (probe,) = daemon.json("query")
            assert (probe["module"], probe["hits"]) == (f"{tmp_path}/l\ufffdb/libc.so.6", 1)
        else:  # It cannot be opened by its mapping.
            assert done.returncode == 2
    rule = tmp_path / os.fsdecode(b"\xff.toml")
    rule.write_text("x = 1\n")
    done = dprobe("policy", "check", rule, "--json")
    assert done.returncode == 2
    assert f'{tmp_path}/\ufffd.toml","ok":false' in done.stdout


def test_a_program_in_a_folder_that_is_no_utf8(tmp_path: Path) -> None:
    """Its name is shown with the bytes replaced; with what it includes it is read as ever."""
    folder = tmp_path / os.fsdecode(b"f\xff\xfe")
    folder.mkdir()
    path = program(folder, '#include "more.h"\n' + WRITES)
    (folder / "more.h").write_text("#define UNUSED 1\n")
    done = dprobe("check", "--json", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert parsed(done.stdout)[0]["file"] == f"{tmp_path}/f\ufffd\ufffd/writes.rpn"
    compiled = folder / "writes.dpb"
    assert dprobe("compile", path).returncode == 0
    for each in (path, compiled):
        done = dprobe("run", "--format", "json", each, "--", "sh", "-c", "echo one; exec cat")
        assert done.returncode == 0, done.stderr
        assert "one\n" in done.stdout
    done = dprobe("run", path, "--", folder / "nothing")
    assert done.returncode == 127
    bad = program(folder, WRITES.replace("log 1", "log 0"), "bad")
    done = dprobe("check", "--json", bad)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "bad.rpn:7:9: error: 0 is out of range" in done.stderr
    (path.parent / "more.h").unlink()
    assert "cannot read" in dprobe("check", path).stderr
    misplaced = program(folder, WRITES.replace("= write", "= wrjte"), "misplaced")
    done = dprobe("run", misplaced, "--", "cat")
    assert done.returncode == 2
    assert "offset = wrjte" in done.stderr  # the line itself


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("x (deleted)", "x (deleted)"),
        ("new\nline", "new\\nline"),
        ("back\\slash", "back\\\\slash"),
        ("new\\012line", "new\\\\012line"),
        ("caf\\xe9", "caf\\\\xe9"),
        (os.fsdecode(b"caf\xe9"), "caf\ufffd"),
        ('"quoted"', '\\"quoted\\"'),
    ],
)
def test_odd_names_of_files(tmp_path: Path, name: str, written: str) -> None:
    """Each is meant by its own name alone, of a process with another file of a like name."""
    path = tmp_path / name
    shutil.copy("/usr/bin/cat", path)
    others = ["x", "new\nline", "new\\012line", "caf\\xe9", "backslash", "quoted"]
    source = program(tmp_path, f'name = "{written}"\noffset = 0x40\nopcode = 0x00\nexit\n')
    with cat([path]) as target:
        done = dprobe("attach", "--for", "0.01", "--missing", "warn", target.pid, source)
        # The module is found; what is there is no code.
        assert "not in an executable segment" in done.stdout + done.stderr, done
    for other in others:
        if other != name:
            like = tmp_path / other
            shutil.copy("/usr/bin/cat", like)
            with cat([like]) as target:
                done = dprobe("attach", "--for", "0.01", target.pid, source)
                assert "no mapped module of that name yet" in done.stderr, done


def test_a_file_that_was_deleted(tmp_path: Path) -> None:
    path = tmp_path / "x"
    shutil.copy("/usr/bin/cat", path)
    source = program(tmp_path, 'name = "x"\noffset = 0x40\nopcode = 0x00\nexit\n')
    with cat([path]) as target:
        path.unlink()
        shutil.copy("/usr/bin/cat", tmp_path / "x (deleted)")  # of another inode
        done = dprobe("attach", "--for", "0.01", "--missing", "warn", target.pid, source)
        assert "no mapped module" not in done.stderr
