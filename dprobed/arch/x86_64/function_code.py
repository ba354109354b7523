"""How functions are come to and left, as their code shows."""

from __future__ import annotations

from typing import Final

from iced_x86 import Decoder, FlowControl, Instruction, Mnemonic, OpKind, Register

#: Bytes before a return address among which its call is looked for.
BEFORE: Final = 15
_CALLS: Final = (FlowControl.CALL, FlowControl.INDIRECT_CALL)
#: The shortest call is ``call *%rax``.
_SHORTEST_CALL: Final = 2


def is_behind_call(before: bytes) -> bool:
    """Whether what stands right before an address can be a call, so that it is a return address."""
    for length in range(_SHORTEST_CALL, len(before) + 1):
        instruction = Decoder(64, before[-length:]).decode()
        if instruction.len == length and instruction.flow_control in _CALLS:
            return True
    return False


def leaves_by_jump(code: bytes, address: int) -> bool:
    """Whether a function may end by jumping to another one (a tail call), which then returns in its
    place.

    A jump by a table of a ``switch`` is none: it goes by an indexed table, or adds to the base of
    one right before. A conditional jump out of the function leads to a part of its own that the
    compiler has put elsewhere.
    """
    end = address + len(code)
    before: Instruction | None = None
    for instruction in Decoder(64, code, ip=address):
        flow = instruction.flow_control
        if flow == FlowControl.UNCONDITIONAL_BRANCH:
            if instruction.op0_kind != OpKind.NEAR_BRANCH64:
                return True
            if not address <= instruction.near_branch_target < end:
                return True
            if instruction.near_branch_target == address:
                return True
        elif flow == FlowControl.INDIRECT_BRANCH and not _is_switch(instruction, before):
            return True
        before = instruction.copy()
    return False


def _is_switch(jump: Instruction, before: Instruction | None) -> bool:
    if jump.op0_kind == OpKind.MEMORY:
        return jump.memory_index != Register.NONE
    return (
        before is not None
        and before.mnemonic == Mnemonic.ADD
        and before.op0_kind == OpKind.REGISTER
        and before.op0_register == jump.op0_register
    )
