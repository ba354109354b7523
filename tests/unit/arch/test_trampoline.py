"""Trampolines: whether flags are live, how long they are, and where they write."""

from __future__ import annotations

import msgspec
import pytest
from iced_x86 import Decoder, Mnemonic, Register

from dprobed.arch.x86_64.paging import PAGE
from dprobed.arch.x86_64.trampoline import (
    LONGEST,
    LONGEST_RUN,
    RED_ZONE,
    Clock,
    ProgramRun,
    RecordShape,
    Rings,
    TrampolineFrame,
    flags_are_live,
    trampoline,
)
from dprobed.engine.inline.placing import _HIT
from dprobed.program.registers import USER_REGS

FAR = (1 << 63) - 1
ALL = frozenset(range(len(USER_REGS)))
SHAPE = RecordShape(Rings(FAR, 64, 1 << 20, 1 << 22), 7, 64, 1024, 1, 1, True, True)
#: A program that asks for all that there is.
MOST = ProgramRun(
    0x1000, FAR, FAR, FAR, ALL, ALL, ALL, ALL, True, True, True, SHAPE,
    pid=FAR, tid=True, cpu=True, clock=Clock(FAR), stores=True,
)  # fmt: skip
NONE: frozenset[int] = frozenset()
LEAST = ProgramRun(0x1000, FAR, FAR, FAR, NONE, NONE, NONE, NONE, False, False, False, None)


def made(runs: int, frame: TrampolineFrame, run: ProgramRun = MOST) -> bytes:
    return trampoline(0x2000, 0x1000, [run] * runs, frame, flags=True)


def test_none_is_longer_than_the_room_that_is_kept_for_it() -> None:
    frame = TrampolineFrame(_HIT, 1 << 13, 256)
    first, second, third = (len(made(count, frame)) for count in (1, 2, 3))
    assert second - first == third - second <= LONGEST_RUN
    assert first - (second - first) <= LONGEST


@pytest.mark.parametrize("run", [MOST, LEAST], ids=["most", "least"])
@pytest.mark.parametrize("stack", [8, 256, PAGE])
@pytest.mark.parametrize("room", [0, 1040, 3000, 3600, 4000, 7000, 8192])
def test_nothing_is_written_over_the_page_below_the_stack(
    room: int, stack: int, run: ProgramRun
) -> None:
    """Each write, and all that the program called may write, is a page or less below one before."""
    frame = TrampolineFrame(_HIT, room, stack)
    if run.record is not None and room < SHAPE.log + SHAPE.raw:
        run = msgspec.structs.replace(run, record=None)
    lowest, rsp = 0, 0
    for one in Decoder(64, made(1, frame, run), ip=0x2000):
        if one.mnemonic == Mnemonic.LEA and one.op0_register == Register.RSP:
            rsp += one.memory_displacement - (1 << 64 if one.memory_displacement >> 63 else 0)
        elif one.mnemonic == Mnemonic.CALL:
            assert lowest - (rsp - stack) <= PAGE
        elif one.mnemonic in (Mnemonic.PUSH, Mnemonic.PUSHFQ):
            assert lowest - (rsp - 8) <= PAGE
        elif one.mnemonic == Mnemonic.MOV and one.memory_base == Register.RSP:
            at = rsp + one.memory_displacement
            assert lowest - at <= PAGE
            assert at + 8 <= -RED_ZONE
            lowest = min(lowest, at) if one.op1_register else lowest
    assert rsp == 0 or 16 in run.writes


@pytest.mark.parametrize(
    ("code", "live"),
    [
        ("4885ff c3", False),  # test rdi,rdi
        ("48 8d 47 01 4885ff c3", False),  # lea rax,[rdi+1]; test rdi,rdi
        ("74 10 90 90", True),  # je
        ("48 ff c0 4885ff", False),  # inc, which leaves the carry; test
        ("48 ff c0 72 10", True),  # inc; jb
        ("c3", True),
        ("e8 00 00 00 00 4885ff", True),  # call
        ("9c", True),  # pushf
        ("90 " * 20, True),
        ("06", True),  # no instruction
        ("", True),
    ],
)
def test_flags_that_are_written_before_they_are_read_are_not_live(code: str, live: bool) -> None:
    assert flags_are_live(bytes.fromhex(code), 0x1000) == live
