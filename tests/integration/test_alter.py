"""Probe programs that alter the target: registers, memory, vector registers, rip."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import Target, text


@pytest.fixture(scope="module")
def program(build_target: BuildTarget) -> Path:
    return build_target("alters.c")


def one_round(target: Target) -> dict[str, str]:
    """What the target printed in one round, by name."""
    target.go()
    target.said.clear()
    target.expect("round")
    return dict(line.split(" ", 1) for line in target.said[:-1])


UNALTERED = {
    "add": "3",
    "twice": "800",
    "cell": "5",
    "name": "unaltered",
    "answer": "41",
    "skipped": "8",
    "after": "-1",
}


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        ("offset = add\npush 40\npop r,rdi\nexit", {"add": "42"}),
        ("offset = add\npush 0x100000001\npop r,esi\nexit", {"add": "2"}),
        ("offset = answer_ret\npush 42\npop r,rax\nexit", {"answer": "42"}),
        # a return in its place: rax, rip from the stack, rsp above it
        (
            "offset = skipped\npush 99\npop r,rax\npush r,rsp\npush mem,u64\npop r,rip\n"
            "push r,rsp\npush 8\nadd\npop r,rsp\nexit",
            {"skipped": "99", "after": "5"},
        ),
        # xmm0 has two words, the low one on top: 8.0
        ("offset = twice\npush 0\npush 0x4020000000000000\npop r,xmm0\nexit", {"twice": "1600"}),
    ],
    ids=["register", "low half", "return value", "rip", "xmm"],
)
def test_registers(
    program: Path, start: Start, trace: Trace, body: str, changed: dict[str, str]
) -> None:
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    number = tracer.put(f'name = "{program}"\n{body}\n')
    assert one_round(target) == UNALTERED | changed
    assert tracer.hits(number) == [1]
    tracer.detach()
    assert text(target.pid) == before
    assert one_round(target) == UNALTERED
    target.finish()


def address_of(program: Path, target: Target, symbol: str) -> int:
    listed = subprocess.run(["nm", program], capture_output=True, text=True, check=True).stdout
    value = next(
        int(line.split()[0], 16) for line in listed.splitlines() if line.endswith(f" {symbol}")
    )
    base = int(Path(f"/proc/{target.pid}/maps").read_text().split("-")[0], 16)
    return base + value


def test_memory(program: Path, start: Start, trace: Trace) -> None:
    target = start(program)
    tracer = trace(target)
    cell, name = (address_of(program, target, each) for each in ("cell", "name"))
    tracer.put(
        f'name = "{program}"\noffset = add\n'
        f"push {cell}\npush 77\npop mem,u64\n"
        f"push {name}\npush 0x55\npop mem,u8\nexit\n"
    )
    assert one_round(target) == UNALTERED | {"cell": "77", "name": "Unaltered"}
    tracer.detach()


def test_memory_that_cannot_be_written_raises_in_the_program_only(
    program: Path, start: Start, trace: Trace
) -> None:
    """Text is not writable for the target, so neither for a program."""
    target = start(program)
    tracer = trace(target)
    number = tracer.put(
        f'name = "{program}"\noffset = add\npush r,rip\npush 0\npop mem,u8\nexit\n'
        "offset = twice\npush 8\npush mem,u64\nlog 1\nexit\n"
    )
    changed = text(target.pid)
    assert one_round(target) == UNALTERED
    assert text(target.pid) == changed
    assert tracer.hits(number) == [1, 1]
    tracer.detach()
    assert [each.exit for each in tracer.records] == [-3, -3]
    assert [each.exception[0] for each in tracer.records if each.exception] == [1, 1]
    assert one_round(target) == UNALTERED
    target.finish()
