"""Jumps in place of instructions, decoded as the processor would."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from iced_x86 import Decoder, FlowControl

from dprobed.arch.x86_64.jump import FAR_JUMP, far_jump, jump, windows

AT = 0x5555_0000_1000


def target_of(code: bytes, at: int) -> int:
    instruction = Decoder(64, code, ip=at).decode()
    assert instruction.flow_control == FlowControl.UNCONDITIONAL_BRANCH
    return instruction.near_branch_target


@pytest.mark.parametrize("target", [AT, AT + 5, AT - 0x7FFF_0000, AT + 0x7FFF_0000])
def test_a_jump_leads_to_its_target(target: int) -> None:
    assert target_of(jump(AT, target), AT) == target
    assert target_of(far_jump(AT, target), AT) == target


def test_a_jump_to_anywhere() -> None:
    code = far_jump(AT, AT + (1 << 40))
    assert code[:6] == bytes.fromhex("ff2500000000")
    assert len(code) == FAR_JUMP
    assert int.from_bytes(code[6:], "little") == AT + (1 << 40)
    with pytest.raises(OverflowError):
        jump(AT, AT + (1 << 40))


@given(length=st.integers(1, 4), tail=st.binary(min_size=8, max_size=8), seed=st.integers(0))
def test_a_punned_jump_leads_into_its_window_and_leaves_what_is_behind(
    length: int, tail: bytes, seed: int
) -> None:
    """Whatever is behind, and wherever in the window it is to lead."""
    code = b"\x90" * length + tail
    found = list(windows(code, AT, length))
    assert [each.prefixes for each in found] == list(range(length))
    for window in found:
        size = window.end - window.start
        assert size == 1 << 8 * (length - 1 - window.prefixes)
        target = window.start + seed % size
        written = window.bytes_for(target, AT)
        assert len(written) == length
        assert target_of(written + tail, AT) == target
        assert window.prefixes + 5 == length + window.tail
