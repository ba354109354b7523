"""Jumps in place of instructions."""

from __future__ import annotations

from typing import Final

#: Bytes of ``jmp rel32``.
JUMP_SIZE: Final = 5
_JMP_REL32: Final = b"\xe9"


def jump(address: int, target: int) -> bytes:
    """``jmp target``, at an address; raises OverflowError out of reach."""
    return _JMP_REL32 + (target - address - JUMP_SIZE).to_bytes(4, "little", signed=True)
