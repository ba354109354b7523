"""How functions that Go's compiler made begin: with a look whether their stack has room.

    cmp 16(%r14),%rsp; jbe                       a small frame
    lea -N(%rsp),%r12; cmp 16(%r14),%r12; jbe    a larger one
    mov %rsp,%r12; sub $N,%r12; jb; cmp; jbe     a large one

(cmd/internal/obj/x86, ``stacksplit``.) Where there is none, the runtime moves the stack to a larger
one, and the function begins once more. Before Go 1.17, and in its assembler's functions, r14 is not
the goroutine: ``mov %fs:-8,%rcx`` comes first, and the look is at ``16(%rcx)``.
"""

from __future__ import annotations

from typing import Final

from iced_x86 import ConditionCode, Decoder, Instruction, Mnemonic, OpKind, Register

#: ``g.stackguard0``, the end of the stack's room, in a goroutine (runtime2.go).
_STACK_GUARD: Final = 16
#: Instructions that the longest look has.
_MOST: Final = 6
_GOROUTINE: Final = (Register.R14, Register.RCX)
_STACK: Final = (Register.RSP, Register.R12, Register.RAX, Register.RSI, Register.RDI)


def behind_stack_check(code: bytes) -> int:
    """How many bytes the look at the stack takes that a function begins with; 0: it has none."""
    is_compared = False
    for _, instruction in zip(range(_MOST), Decoder(64, code), strict=False):
        if is_compared:
            is_out = instruction.condition_code == ConditionCode.BE
            return instruction.next_ip32 if is_out else 0
        is_compared = _compares(instruction)
        if not is_compared and not _prepares(instruction):
            return 0
    return 0


def _compares(instruction: Instruction) -> bool:
    return (
        instruction.mnemonic == Mnemonic.CMP
        and instruction.op0_kind == OpKind.REGISTER
        and instruction.op0_register in _STACK
        and instruction.op1_kind == OpKind.MEMORY
        and instruction.memory_base in _GOROUTINE
        and instruction.memory_displacement == _STACK_GUARD
    )


def _prepares(instruction: Instruction) -> bool:
    """Whether it computes what is compared."""
    if instruction.mnemonic == Mnemonic.JB:
        return True  # the frame is larger than what is below it
    if instruction.op0_kind != OpKind.REGISTER:
        return False
    register = instruction.op0_register
    match instruction.mnemonic:
        case Mnemonic.MOV:
            is_goroutine = (
                instruction.op1_kind == OpKind.MEMORY and instruction.memory_segment == Register.FS
            )
            return (register == Register.RCX and is_goroutine) or (
                register in _STACK[1:] and instruction.op1_register == Register.RSP
            )
        case Mnemonic.LEA:
            return register in _STACK[1:] and instruction.memory_base == Register.RSP
        case Mnemonic.SUB:
            return register in _STACK[1:]
    return False
