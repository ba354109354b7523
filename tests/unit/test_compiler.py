"""Native programs are compiled in another process, which may die or take too long."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from dprobed import compiler
from dprobed.proc.helper import Helper
from dprobed.program.exec.lowering import Unit
from dprobed.program.exec.native.abi import Blob
from dprobed.program.exec.unit import part_of
from dprobed.program.rpn.parser import assemble

_COMPILER = "dprobed.program.exec.native.compiler"


def unit_of(*lines: str) -> Unit:
    text = "\n ".join(("name = x\nvars = 1\noffset = 0x1000\n", *lines, "exit\n"))
    program = assemble(text, "x")
    return part_of(program, program.probes[0], 0, ()).unit


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is known, and no compiler runs; none is left."""
    compiler._kept.clear()
    helper = Helper()
    monkeypatch.setattr(compiler, "COMPILER", helper)
    yield
    helper.close()
    for killed in helper._stuck.values():
        select.select([killed], [], [])
        os.close(killed)


def test_a_counter_is_one_instruction() -> None:
    found = compiler.compiled(unit_of("inc lv,0"))
    assert isinstance(found, Blob)
    # lock inc qword [rsi + 64]; xor eax, eax; ret
    assert found.code == bytes.fromhex("f048ff4640 31c0 c3")
    assert (found.stack_bytes, found.scratch_bytes, found.log_bytes) == (8, 0, 0)


def test_what_was_compiled_is_kept_and_the_compiler_is_not_imported_here() -> None:
    first = compiler.compiled(unit_of("push r,rdi", "log 1"))
    compiler.COMPILER.close()
    assert compiler.compiled(unit_of("push r,rdi", "log 1")) is first
    assert compiler.COMPILER._channel is None


def test_what_cannot_be_compiled_says_why() -> None:
    found = compiler.compiled(unit_of("log ustack"))
    assert found == "`log ustack`: the stack of a thread is walked by the tracer"


def test_without_llvm_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "is_there", lambda: False)
    found = compiler.compiled(unit_of("inc lv,0"))
    assert found == "llvmlite is not installed, by which native code is made"


def test_a_compiler_that_dies_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(unit: Unit) -> Blob:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    monkeypatch.setitem(sys.modules, _COMPILER, SimpleNamespace(compile_unit=die))
    found = compiler.compiled(unit_of("inc lv,0"))
    assert found == "it could not be compiled: the helper process ended"
    monkeypatch.delitem(sys.modules, _COMPILER)
    assert isinstance(compiler.compiled(unit_of("dec lv,0")), Blob)
    # It is not tried again, as often as it is asked for.
    assert compiler.compiled(unit_of("inc lv,0")) == found


def test_a_compiler_that_takes_too_long_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(unit: Unit) -> Blob:
        while True:
            time.sleep(60)

    for each in ("PATIENCE", "FIRST_PATIENCE"):
        monkeypatch.setattr(compiler, each, 0.05)
    monkeypatch.setitem(sys.modules, _COMPILER, SimpleNamespace(compile_unit=sleep))
    found = compiler.compiled(unit_of("inc lv,0"))
    assert found == "it could not be compiled: no answer in 0.05 s"
    for each in ("PATIENCE", "FIRST_PATIENCE"):
        monkeypatch.setattr(compiler, each, 60)
    monkeypatch.delitem(sys.modules, _COMPILER)
    # Another program is; and this one is not tried again at once, but by and by: the machine may
    # only have been busy.
    assert isinstance(compiler.compiled(unit_of("dec lv,0")), Blob)
    found = compiler.compiled(unit_of("inc lv,0"))
    assert isinstance(found, str) and found.startswith("it could not be compiled: ")
    for killed in compiler.COMPILER._stuck.values():
        select.select([killed], [], [])
    compiler.COMPILER._silent.clear()
    assert isinstance(compiler.compiled(unit_of("inc lv,0")), Blob)


def test_an_internal_error_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(unit: Unit) -> Blob:
        raise ValueError("what it is")

    monkeypatch.setitem(sys.modules, _COMPILER, SimpleNamespace(compile_unit=fail))
    found = compiler.compiled(unit_of("inc lv,0"))
    assert found == "it could not be compiled: ValueError: what it is"


def test_a_program_that_only_counts_is_told_from_others() -> None:
    def adds(*lines: str) -> bool:
        found = compiler.compiled(unit_of(*lines))
        assert isinstance(found, Blob)
        return found.adds

    assert adds("inc lv,0", "push r,rdi", "log 1")
    assert not adds("inc lv,0", "push lv,0", "log 1")
    assert not adds("push r,rdi", "pop lv,0")
    assert not adds("push 0", "push 1", "log lv")
    assert not adds("push 0", "push 1", "trace lv", "log st")
