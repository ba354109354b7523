"""How functions are left, and what is behind a call."""

from __future__ import annotations

import pytest

from dprobed.arch.x86_64.function_code import is_behind_call, leaves_by_jump

AT = 0x401000
OUT = "e9 00 10 00 00"  # jmp to far behind


@pytest.mark.parametrize(
    ("code", "leaves"),
    [
        ("c3", False),
        (OUT, True),
        ("eb 00 c3", False),  # a jump within
        ("eb fe", True),  # to its own beginning: a call of itself
        (f"53 {OUT}", False),  # with something on the stack: its own cold part
        (f"53 5b {OUT}", True),
        (f"48 83 ec 08 e8 00 00 00 00 48 83 c4 08 {OUT}", True),
        (f"48 81 ec 00 01 00 00 48 81 c4 00 01 00 00 {OUT}", True),
        (f"55 48 89 e5 48 83 ec 20 c9 {OUT}", True),
        (f"48 89 ec {OUT}", True),  # nobody knows what is on the stack
        ("0f 84 00 10 00 00 c3", False),  # a conditional jump to its own cold part
        ("ff e0", True),  # through a pointer
        ("ff 60 10", True),
        ("48 01 d0 ff e0", False),  # a switch
        ("ff 24 c5 00 20 40 00", False),
        (f"ff 24 c5 00 20 40 00 53 {OUT}", True),  # behind a switch nobody knows
        (f"74 01 c3 53 5b {OUT}", True),
        (f"c3 {OUT}", False),  # where nothing leads
        ("", False),
    ],
)
def test_leaves_by_jump(code: str, leaves: bool) -> None:
    assert leaves_by_jump(bytes.fromhex(code), AT) is leaves


@pytest.mark.parametrize(
    ("code", "is_one"),
    [
        ("e8 00 00 00 00", True),
        ("ff d0", True),
        ("41 ff d3", True),
        ("ff 15 00 00 00 00", True),
        ("ff 94 24 80 00 00 00", True),
        ("90 90 90", False),
        ("ff e0", False),
        ("", False),
    ],
)
def test_is_behind_call(code: str, is_one: bool) -> None:
    assert is_behind_call(bytes.fromhex("90" * 8 + code)[-15:]) is is_one
