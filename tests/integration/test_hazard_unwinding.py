"""Hazard 6: unwinding through probed functions, and through the calls that slots make."""

from __future__ import annotations

import subprocess
from pathlib import Path

from iced_x86 import Decoder

from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import counting, text

FUNCTIONS = ("thrower", "catcher", "cancelled", "inner", "outer", "main_loop", "call_main_loop")


def every_instruction(program: Path, *functions: str) -> list[str]:
    """``function+n`` for each instruction."""
    data = program.read_bytes()
    listed = subprocess.run(["nm", "-S", program], capture_output=True, text=True, check=True)
    found = []
    for row in map(str.split, listed.stdout.splitlines()):
        if len(row) == 4 and row[3] in functions:
            address, size = int(row[0], 16), int(row[1], 16)
            for one in Decoder(64, data[address : address + size], ip=address):
                found.append(f"{row[3]}+{one.ip - address:#x}")
    return found


def test_unwinding_through_probed_functions(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """A probe on every instruction, so on each call that an unwinder passes."""
    program = build_target("unwinds.cc", "-pthread")
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    places = every_instruction(program, *FUNCTIONS)
    places.remove("call_main_loop+0x8")  # behind its end, where nothing leads
    assert len(places) > 150
    number = tracer.put(counting(program, *places, "probed", "probed+0x8"))
    libraries = [
        tracer.put(counting("libgcc_s.so.1", "_Unwind_RaiseException", "_Unwind_ForcedUnwind")),
        tracer.put(counting("libstdc++.so.6", "__cxa_throw", "__cxa_begin_catch")),
    ]
    target.go()
    target.expect("stopped")
    hits = dict(zip(places, tracer.hits(number), strict=False))
    assert hits["thrower+0x0"] == 55
    assert hits["catcher+0x0"] == 10
    assert hits["cancelled+0x0"] == 5
    assert hits["outer+0x0"] == hits["inner+0x0"] == 1
    assert [tracer.hits(each) for each in libraries] == [[10, 5], [10, 10]]
    tracer.detach()
    assert text(target.pid) == before
    target.finish()
