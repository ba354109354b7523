"""Seccomp filters, run as the kernel runs them."""

from __future__ import annotations

import struct

import pytest

from dprobed.tracee.seccomp import Instruction, run

ALLOW = 0x7FFF0000
KILL = 0x80000000
DATA = struct.pack("<IIQ6Q", 219, 0xC000003E, 0x7F0012345678, *range(1, 7))

LD_ABS, LD_IMM, LD_LEN, LD_MEM = 0x20, 0x00, 0x80, 0x60
LDX_IMM, LDX_LEN, LDX_MEM = 0x01, 0x81, 0x61
ST, STX, RET_K, RET_A, TAX, TXA = 0x02, 0x03, 0x06, 0x16, 0x07, 0x87
JA, JEQ, JGT, JGE, JSET, JEQ_X = 0x05, 0x15, 0x25, 0x35, 0x45, 0x1D


def test_a_list_of_system_calls() -> None:
    """As libseccomp makes them: the architecture, then the number."""

    def filter_for(number: int) -> list[Instruction]:
        return [
            (LD_ABS, 0, 0, 4),
            (JEQ, 1, 0, 0xC000003E),
            (RET_K, 0, 0, KILL),
            (LD_ABS, 0, 0, 0),
            (JGE, 2, 0, 0x40000000),
            (JEQ, 0, 1, number),
            (RET_K, 0, 0, ALLOW),
            (RET_K, 0, 0, KILL),
        ]

    assert run(filter_for(219), DATA) == ALLOW
    assert run(filter_for(218), DATA) == KILL


@pytest.mark.parametrize(
    ("program", "result"),
    [
        ([(LD_ABS, 0, 0, 8), (RET_A, 0, 0, 0)], 0x12345678),
        ([(LD_ABS, 0, 0, 12), (RET_A, 0, 0, 0)], 0x7F00),
        ([(LD_LEN, 0, 0, 0), (RET_A, 0, 0, 0)], 64),
        ([(LDX_LEN, 0, 0, 0), (TXA, 0, 0, 0), (RET_A, 0, 0, 0)], 64),
        (
            [
                (LD_IMM, 0, 0, 9),
                (ST, 0, 0, 3),
                (LDX_MEM, 0, 0, 3),
                (TXA, 0, 0, 0),
                (RET_A, 0, 0, 0),
            ],
            9,
        ),
        ([(LDX_IMM, 0, 0, 5), (STX, 0, 0, 1), (LD_MEM, 0, 0, 1), (RET_A, 0, 0, 0)], 5),
        ([(LD_IMM, 0, 0, 7), (TAX, 0, 0, 0), (0x0C, 0, 0, 0), (RET_A, 0, 0, 0)], 14),
        ([(LD_IMM, 0, 0, 1), (0x14, 0, 0, 2), (RET_A, 0, 0, 0)], 0xFFFFFFFF),
        ([(LD_IMM, 0, 0, 0xFFFFFFFF), (0x24, 0, 0, 2), (RET_A, 0, 0, 0)], 0xFFFFFFFE),
        ([(LD_IMM, 0, 0, 9), (0x34, 0, 0, 2), (RET_A, 0, 0, 0)], 4),
        ([(LD_IMM, 0, 0, 8), (0x44, 0, 0, 1), (RET_A, 0, 0, 0)], 9),
        ([(LD_IMM, 0, 0, 9), (0x54, 0, 0, 3), (RET_A, 0, 0, 0)], 1),
        ([(LD_IMM, 0, 0, 9), (0x64, 0, 0, 30), (RET_A, 0, 0, 0)], 1 << 30),
        ([(LD_IMM, 0, 0, 9), (0x74, 0, 0, 3), (RET_A, 0, 0, 0)], 1),
        ([(LD_IMM, 0, 0, 1), (0x84, 0, 0, 0), (RET_A, 0, 0, 0)], 0xFFFFFFFF),
        ([(LD_IMM, 0, 0, 9), (0xA4, 0, 0, 1), (RET_A, 0, 0, 0)], 8),
        ([(JA, 0, 0, 1), (RET_K, 0, 0, 1), (RET_K, 0, 0, 2)], 2),
        ([(LD_IMM, 0, 0, 3), (JGT, 0, 1, 2), (RET_K, 0, 0, 1), (RET_K, 0, 0, 2)], 1),
        ([(LD_IMM, 0, 0, 3), (JSET, 0, 1, 4), (RET_K, 0, 0, 1), (RET_K, 0, 0, 2)], 2),
        (
            [(LD_IMM, 0, 0, 3), (LDX_IMM, 0, 0, 3), (JEQ_X, 0, 1, 0), (RET_K, 0, 0, 1)],
            1,
        ),
    ],
)
def test_every_operation(program: list[Instruction], result: int) -> None:
    assert run(program, DATA) == result
