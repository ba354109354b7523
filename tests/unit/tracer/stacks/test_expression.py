"""Expressions of unwinding rules: what they compute, and that damaged ones end."""

from __future__ import annotations

import random

import pytest

from dprobed.tracer.stacks.expression import EvaluationError, evaluate


def run(code: str, *pushed: int) -> int:
    return evaluate(
        bytes.fromhex(code), lambda number: 1000 * number, lambda address: address + 7, *pushed
    )


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("77 08", 7008),  # breg7 8
        ("76 78", 5992),  # breg6 -8
        ("76 78 06", 5999),  # ..., deref
        ("77 a0 01", 7160),
        # Of PLT entries: rsp + 8 + (rip & 15 >= 11) << 3; register 16 is 16000, whose low bits 0.
        ("77 08 80 00 3f 1a 3b 2a 33 24 22", 7008),
        ("08 ff 09 ff 22", 0xFE),
        ("0b 00 80", (1 << 64) - 0x8000),
        ("31 32 1c", (1 << 64) - 1),
        ("32 1f", (1 << 64) - 2),
        ("30 20", (1 << 64) - 1),
        ("10 e5 8e 26", 624485),
        ("11 9b f1 59", (1 << 64) - 624485),
        ("31 23 05", 6),
        ("35 36 16 1c", 1),
        ("35 36 14 22 22", 16),
        ("35 36 15 01 22", 11),
        ("35 12 1e", 25),
        ("35 36 13", 5),
        ("31 08 40 24", 0),
        ("09 ff 31 26", (1 << 64) - 1),
        ("09 ff 31 2d", 1),
        ("96 35", 5),
    ],
)
def test_values(code: str, value: int) -> None:
    assert run(code) == value


def test_a_plt_entry_behind_its_push() -> None:
    """Of a thread behind the push in a PLT entry: one word more is on the stack."""
    code = bytes.fromhex("770880003f1a3b2a332422")
    assert evaluate(code, {7: 5000, 16: 0x102B}.__getitem__, lambda address: 0) == 5016
    assert evaluate(code, {7: 5000, 16: 0x1026}.__getitem__, lambda address: 0) == 5008


@pytest.mark.parametrize("code", ["", "06", "22", "31 22", "2f 00 00", "03 00", "31 15", "10 80"])
def test_damaged(code: str) -> None:
    with pytest.raises(EvaluationError):
        run(code)


def test_any_bytes_end() -> None:
    drawn = random.Random(2)
    for _ in range(5000):
        code = drawn.randbytes(drawn.randrange(30))
        try:
            assert 0 <= evaluate(code, lambda number: number, lambda address: address, 5) < 1 << 64
        except EvaluationError:
            continue
    with pytest.raises(EvaluationError):
        evaluate(b"\x12" * 500, lambda number: number, lambda address: address, 5)
