"""Native code reads and writes memory that others unmap meanwhile, and never faults."""

from __future__ import annotations

import subprocess
from pathlib import Path

from dprobed.program.exec.native.abi import Hit
from dprobed.program.exec.native.compiler import compile_unit
from dprobed.program.exec.unit import part_of
from dprobed.program.rpn.parser import assemble
from tests.programs.native import SOURCE

PROGRAMS = {
    "reads": "push r,rdi\n push mem,u64\n log 1",
    "logs": "push 16\n push r,rdi\n log mrf",
    "writes": "push r,rdi\n push r,rsi\n pop mem,u64",
}


def test_memory_that_others_unmap(tmp_path: Path) -> None:
    runner = tmp_path / "runner"
    source = SOURCE.with_name("native_memory.c")
    flags = ("-g", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread")
    subprocess.run(["gcc", *flags, str(source), "-o", str(runner)], check=True)
    for name, lines in PROGRAMS.items():
        program = assemble(f"name = x\noffset = 0x1000\n {lines}\n exit\n", name)
        part = part_of(program, program.probes[0], 0, ())
        (tmp_path / name).write_bytes(compile_unit(part.unit).code)
    fields = (Hit.LOG, Hit.LOG_SIZE, Hit.RAW, Hit.EXCEPTION, Hit.RED_ZONE)
    done = subprocess.run(
        [str(runner), *(str(tmp_path / name) for name in PROGRAMS), *map(str, map(int, fields))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
