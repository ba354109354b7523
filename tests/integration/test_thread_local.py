"""`push tls,SYMBOL`: each thread's own copy, of programs and of libraries, or a refusal."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import BuildTarget
from tests.integration.client_support import (
    PATIENCE,
    Daemon,
    Json,
    dprobe,
    parsed,
    program,
    words,
)
from tests.integration.conftest import Start

#: How far from where the target says the variable is, what it holds; and another value for it.
LOOKS = """
name = "{module}"
offset = {function}
    push tls,{symbol}
    push r,{register}
    sub
    log 1
    push tls,{symbol}
    push mem,u32
    log 1
    push tls,{symbol}
    push 1234
    pop mem,u32
    exit
"""
LIBRARY = {"function": "lib_there", "symbol": "lib_mine", "register": "rdi"}


def records(text: str) -> list[Json]:
    return [row for row in parsed(text) if row["type"] == "record"]


def build_library(build_target: BuildTarget, model: str) -> Path:
    """Its code finds its variables as ``model`` says."""
    flags = ("-shared", "-fPIC", f'-DMODEL="{model}"')
    return build_target("thread_local_lib.c", *flags, output=f"libthread-{model}.so")


@pytest.mark.parametrize("how", ["-pie", "-no-pie", "-static", "-static-pie", "stripped"])
def test_of_the_program(build_target: BuildTarget, tmp_path: Path, how: str) -> None:
    """Both threads' own, aligned, behind others; errno is a static program's own as well."""
    flags = [flag for flag in (how,) if flag.startswith("-")]
    # glibc warns of dlopen in a static program, which is not called here.
    built = build_target("thread_local.c", *flags, "-pthread", "-Wl,--no-warnings")
    if how == "stripped":
        copy = tmp_path / "stripped"
        subprocess.run(["objcopy", "--only-keep-debug", built, f"{copy}.debug"], check=True)
        subprocess.run(["strip", "-o", copy, built], check=True)
        subprocess.run(["objcopy", f"--add-gnu-debuglink={copy}.debug", copy], check=True)
        built = copy
    looks = LOOKS.format(module=built, function="here", symbol="mine", register="rdi")
    done = dprobe("run", "--json", program(tmp_path, looks), "--", built)
    assert (done.returncode, done.stdout) == (0, "mine 1234\n" * 2)
    assert [words(each) for each in records(done.stderr)] == [[0, 7]] * 2
    if how.startswith("-static"):
        looks = LOOKS.format(module=built, function="here", symbol="errno", register="rsi")
        done = dprobe("run", "--json", program(tmp_path, looks), "--", built)
        assert [words(each) for each in records(done.stderr)] == [[0, 18]] * 2


@pytest.mark.parametrize("model", ["global-dynamic", "initial-exec"])
def test_of_a_library_that_is_loaded_with_the_program(
    build_target: BuildTarget, tmp_path: Path, model: str
) -> None:
    library = build_library(build_target, model)
    built = build_target("thread_local.c", "-DLIBRARY", "-pthread", str(library))
    looks = LOOKS.format(module=library, **LIBRARY)
    done = dprobe("run", "--json", program(tmp_path, looks), "--", built)
    assert done.returncode == 0
    assert [words(each) for each in records(done.stderr)] == [[0, 40]] * 2


@pytest.mark.parametrize("model", ["global-dynamic", "initial-exec"])
def test_of_a_library_that_is_opened_later(
    build_target: BuildTarget, tmp_path: Path, daemon: Daemon, start: Start, model: str
) -> None:
    """Where each thread has it elsewhere, that is said; the loader decides after it is mapped."""
    library = build_library(build_target, model)
    target = start(build_target("thread_local.c", "-pthread"), library)
    looks = LOOKS.format(module=library, **LIBRARY)
    done = daemon.dprobe("insert", "-p", target.pid, program(tmp_path, looks))
    assert done.returncode == 0, done.stderr
    target.go()
    target.expect("opened")
    by = time.monotonic() + PATIENCE
    while (row := daemon.query()[0])["state"] == "pending":
        assert time.monotonic() < by, row["reason"]
    if model == "initial-exec":
        assert row["state"] == "active"
    else:
        assert row["state"] == "invalid offset"
        assert "lib_mine: each thread has it elsewhere" in row["reason"]
    target.go()
    target.expect("mine 7")
    assert target.process.wait(PATIENCE) == 0
    found = [words(each) for each in daemon.json("log") if each["type"] == "record"]
    assert found == ([[0, 40]] * 2 if model == "initial-exec" else [])


def test_two_of_one_name_are_not_chosen_from(tmp_path: Path) -> None:
    for name, start in (("one", "int main(void) { return 0; }"), ("two", "")):
        (tmp_path / f"{name}.c").write_text(
            f"static __thread long ours __attribute__((used));\n{start}\n"
        )
    built = tmp_path / "both"
    subprocess.run(["gcc", tmp_path / "one.c", tmp_path / "two.c", "-o", built], check=True)
    looks = LOOKS.format(module=built, function="main", symbol="ours", register="rdi")
    done = dprobe("run", program(tmp_path, looks), "--", built)
    assert done.returncode == 2
    assert "there are 2 thread-local variables ours" in done.stderr
