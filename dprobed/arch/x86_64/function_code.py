"""How functions are come to and left, as their code shows."""

from __future__ import annotations

from typing import Final

from iced_x86 import Decoder, FlowControl, Instruction, Mnemonic, OpKind, Register

#: Bytes before a return address among which its call is looked for.
BEFORE: Final = 15
_CALLS: Final = (FlowControl.CALL, FlowControl.INDIRECT_CALL)
#: The shortest call is ``call *%rax``.
_SHORTEST_CALL: Final = 2
_IMMEDIATES: Final = (OpKind.IMMEDIATE8TO64, OpKind.IMMEDIATE32TO64)


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

    Where it does, its stack is as at its entry. A jump with more on the stack, or a conditional
    one, leads to a part of the function that the compiler has put elsewhere. Code to which only a
    ``switch`` leads, of which nobody knows what is on the stack there, may leave by any jump.
    """
    walk = _Walk(code, address)
    return walk.leaves() or (walk.switches and walk.leaves_anyhow())


class _Walk:
    """The code that is reached from the entry, with how many bytes are on the stack there."""

    def __init__(self, code: bytes, address: int) -> None:
        self._code = code
        self._start = address
        self._left: list[tuple[int, int | None]] = [(address, 0)]
        self._seen: set[int] = set()
        #: Whether it goes on by a table.
        self.switches = False

    def leaves(self) -> bool:
        """Whether a jump out of it is reached with nothing on the stack, as far as that is
        known."""
        while self._left:
            at, depth = self._left.pop()
            before: Instruction | None = None
            for instruction in Decoder(64, self._code[at - self._start :], ip=at):
                if instruction.ip in self._seen or instruction.is_invalid:
                    break
                self._seen.add(instruction.ip)
                depth = _depth_after(instruction, depth)
                if self._jumps_out(instruction, before) and not depth:
                    return True
                if not self._goes_on(instruction, depth):
                    break
                before = instruction.copy()
        return False

    def leaves_anyhow(self) -> bool:
        """Whether there is a jump out of it anywhere, whatever is on the stack there."""
        before: Instruction | None = None
        for instruction in Decoder(64, self._code, ip=self._start):
            if self._jumps_out(instruction, before):
                return True
            before = instruction.copy()
        return False

    def _is_out(self, instruction: Instruction) -> bool:
        """Whether it is a jump, always taken, to elsewhere than into the function."""
        flow = instruction.flow_control
        if flow == FlowControl.INDIRECT_BRANCH:
            return True
        if flow != FlowControl.UNCONDITIONAL_BRANCH:
            return False
        # A jump to the beginning is a call of itself.
        return not self._start < _target(instruction) < self._start + len(self._code)

    def _jumps_out(self, instruction: Instruction, before: Instruction | None) -> bool:
        if _is_switch(instruction, before):
            self.switches = True
            return False
        return self._is_out(instruction)

    def _goes_on(self, instruction: Instruction, depth: int | None) -> bool:
        flow = instruction.flow_control
        if flow in (FlowControl.UNCONDITIONAL_BRANCH, FlowControl.CONDITIONAL_BRANCH):
            target = _target(instruction)
            if self._start < target < self._start + len(self._code):
                self._left.append((target, depth))
        return flow in (FlowControl.NEXT, FlowControl.CONDITIONAL_BRANCH, *_CALLS)


def _target(instruction: Instruction) -> int:
    return instruction.near_branch_target if instruction.op0_kind == OpKind.NEAR_BRANCH64 else 0


def _is_switch(jump: Instruction, before: Instruction | None) -> bool:
    """Whether it goes on by a table: indexed, or with its base added right before."""
    if jump.flow_control != FlowControl.INDIRECT_BRANCH:
        return False
    if jump.op0_kind == OpKind.MEMORY:
        return jump.memory_index != Register.NONE
    return (
        before is not None
        and before.mnemonic == Mnemonic.ADD
        and before.op0_kind == OpKind.REGISTER
        and before.op0_register == jump.op0_register
    )


def _depth_after(instruction: Instruction, depth: int | None) -> int | None:
    """Bytes on the stack after an instruction; None: nobody knows."""
    mnemonic = instruction.mnemonic
    if mnemonic == Mnemonic.LEAVE:
        return 0
    if depth is None or instruction.flow_control in _CALLS:
        return depth
    if (
        instruction.op_count
        and instruction.op0_kind == OpKind.REGISTER
        and (
            instruction.op0_register == Register.RSP
            and mnemonic not in (Mnemonic.PUSH, Mnemonic.POP, Mnemonic.CMP, Mnemonic.TEST)
        )
    ):
        if mnemonic in (Mnemonic.SUB, Mnemonic.ADD) and instruction.op1_kind in _IMMEDIATES:
            size = instruction.immediate(1)
            size -= (size >> 63) << 64
            return depth + size if mnemonic == Mnemonic.SUB else depth - size
        return None
    return depth - instruction.stack_pointer_increment
