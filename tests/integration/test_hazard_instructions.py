"""Hazard 5: the probed instruction, of every kind and at every place."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from iced_x86 import Decoder

from dprobed.wire.protocol import State
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import counting, text

ROUNDS = 20
#: Hits of one round where it is not one.
OFTEN = {"at_loop": 5, "at_loop_self": 5, "at_callee": 8}


@pytest.fixture(scope="module")
def program(build_target: BuildTarget) -> Path:
    return build_target("kinds.c")


def symbols(program: Path) -> dict[str, int]:
    """Address of each ``at_…`` and ``kind_…``."""
    listed = subprocess.run(["nm", program], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    found = {row[2]: int(row[0], 16) for row in rows if len(row) == 3}
    return {name: at for name, at in found.items() if name.startswith(("at_", "kind_"))}


def has_avx512() -> bool:
    return " avx512f" in Path("/proc/cpuinfo").read_text()


def expected(place: str) -> int:
    if place == "at_avx512" and not has_avx512():
        return 0
    return ROUNDS * OFTEN.get(place, 1)


def test_every_kind_of_instruction(program: Path, start: Start, trace: Trace) -> None:
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    places = sorted(name for name in symbols(program) if name.startswith("at_"))
    number = tracer.put(counting(program, *places))
    target.go()
    target.expect("stopped")
    hits = dict(zip(places, tracer.hits(number), strict=True))
    assert hits == {place: expected(place) for place in places}
    tracer.detach()
    assert text(target.pid) == before
    target.finish()


@pytest.mark.parametrize("linked", ["-no-pie", "-static", "-static-pie"])
def test_programs_linked_otherwise(
    build_target: BuildTarget, start: Start, trace: Trace, linked: str
) -> None:
    program = build_target("kinds.c", linked)
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    places = ["at_load", "at_call", "at_call_memory", "at_syscall", "at_page_end"]
    number = tracer.put(counting(program, *places))
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [ROUNDS] * len(places)
    tracer.detach()
    assert text(target.pid) == before
    target.finish()


def instructions(program: Path) -> dict[str, bytes]:
    """``kind_x+n`` for every instruction of the assembly functions, and its bytes."""
    data = program.read_bytes()
    listed = subprocess.run(
        ["nm", "-S", program], capture_output=True, text=True, check=True
    ).stdout
    found = {}
    for line in listed.splitlines():
        fields = line.split()
        if len(fields) < 4 or not fields[3].startswith("kind_"):
            continue
        address, size = int(fields[0], 16), int(fields[1], 16)
        # In a small program the text's file offsets are its addresses.
        for one in Decoder(64, data[address : address + size], ip=address):
            if one.is_invalid or (one.len == 2 and data[one.ip : one.ip + 2] == b"\0\0"):
                continue  # the filling before the end of a page
            found[f"{fields[3]}+{one.ip - address:#x}"] = data[one.ip : one.next_ip]
    return found


def test_every_instruction_at_once(program: Path, start: Start, trace: Trace) -> None:
    """Neighbours one byte apart, and instructions of one byte, among them."""
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    code = instructions(program)
    places = [place for place in code if "kind_page_end" not in place]
    places = [place for place in places if "kind_last_byte" not in place]
    assert len(places) > 150
    # Most are known to be instructions; what is behind a jump through a register is not.
    source = counting(program, *places)
    for place in places:
        opcode = " ".join(f"{byte:#x}" for byte in code[place])
        source = source.replace(f"= {place}\n", f"= {place}\nopcode = {opcode}\n")
    number = tracer.put(source)
    target.go()
    target.expect("stopped")
    hits = dict(zip(places, tracer.hits(number), strict=True))
    assert hits["kind_bytes+0x5"] == hits["kind_bytes+0x6"] == hits["kind_bytes+0x7"] == ROUNDS
    assert hits["kind_callee+0x0"] == 8 * ROUNDS
    tracer.detach()
    assert text(target.pid) == before
    target.finish()


def test_an_instruction_that_is_probed_already(program: Path, start: Start, trace: Trace) -> None:
    target = start(program)
    tracer = trace(target)
    source = f'name = "{program}"\nvars = 1\noffset = at_load\ninc lv,0\nexit\n'
    numbers = [tracer.put(source) for _ in range(3)]
    twice = tracer.put(counting(program, "at_load", "at_load"))
    tracer.remove(numbers[1])
    target.go()
    target.expect("stopped")
    assert [tracer.hits(number) for number in (numbers[0], numbers[2])] == [[ROUNDS]] * 2
    assert tracer.vars(numbers[2]) == [ROUNDS]
    assert tracer.hits(twice) == [ROUNDS, ROUNDS]
    tracer.detach()
    target.finish()


def test_inside_an_instruction_is_no_place(program: Path, start: Start, trace: Trace) -> None:
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    _, probes = tracer.insert(counting(program, "at_load", "at_load+0x1"))
    assert [each.state for each in probes] == [State.ACTIVE, State.INVALID_OFFSET]
    assert "instruction" in probes[1].reason
    tracer.detach()
    assert text(target.pid) == before
    target.go()
    target.expect("stopped")
    target.finish()


def test_another_opcode_than_expected(program: Path, start: Start, trace: Trace) -> None:
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    source = (
        f'name = "{program}"\noffset = at_load\nopcode = 0x48 0x8b 0x06\nminor = 1\nabort\n'
        "offset = at_push\nopcode = 0x57\nminor = 2\nabort\n"
    )
    number, probes = tracer.insert(source)
    assert [each.state for each in probes] == [State.MISMATCH, State.ACTIVE]
    assert "48 8b 05" in probes[0].reason
    assert text(target.pid) != before
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [0, ROUNDS]
    tracer.detach()
    assert text(target.pid) == before
    target.finish()


def test_data_among_instructions_is_not_overwritten(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """Asked for by any byte of it; where an instruction begins behind it, ``opcode`` says so."""
    source = Path(__file__).parents[1] / "targets" / "table_in_code.S"
    program = build_target("data_in_code.c", str(source))
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    table = 0x13
    first = table + 4 * 4 + 3
    second = first + 7
    for offset in range(table, second):
        _, (probe,) = tracer.insert(counting(program, f"dispatch+{offset:#x}"))
        assert probe.state is State.INVALID_OFFSET, offset
    assert (
        before.items() >= {k: v for k, v in text(target.pid).items() if str(program) in k}.items()
    )
    said = counting(program, f"dispatch+{first:#x}").replace("minor", "opcode = 0xb8 0xa\nminor")
    number = tracer.put(said)
    known = tracer.put(counting(program, "dispatch", f"dispatch+{second:#x}"))
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [50]
    assert tracer.hits(known) == [100, 50]
    tracer.detach()
    target.finish()
