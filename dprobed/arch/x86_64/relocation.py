"""Displaced instructions: a relocated copy of one x86-64 instruction, in an out-of-line slot.

A probed instruction never runs in place: an ``int3`` stands there. It runs in a *slot*: a copy
that has the same effect on registers, flags and memory, followed by a jump to the instruction
behind the original one. The rules:

- What does not depend on its own address is copied byte for byte, with all its prefixes.
- RIP-relative operands and branches get new displacements. A branch that is out of reach goes
  through an 8-byte constant behind the slot's code.
- ``call`` becomes ``push`` of the *original* return address and a jump: unwinders, ``ret`` and
  programs that look at their return address never see the slot. (On a thread with a shadow stack,
  arch_prctl(ARCH_SHSTK_ENABLE), such a call must not be displaced: its return would fault.)
- ``syscall`` leaves its next address in rcx (Intel SDM vol. 2B, SYSCALL): the slot puts the
  original one there.
- No instruction that is added touches a flag or uses a register.

Every place inside a slot at which a thread can stop has an equivalent outside of it, a
``Position``, so a thread can leave a slot without running a single instruction.

Not preserved: the x87 instruction pointer that FNSTENV and FXSAVE show is the slot's.

Not iced-x86's BlockEncoder, although it moves an instruction in 2 µs, and a slot takes 12 to make:
it encodes anew and loses prefixes (``66 48 e8`` becomes ``e8``), has a ``call`` push the slot's
address, and does not tell at which places a thread can stop. iced-x86's decoder is used.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple

import msgspec
from iced_x86 import Code, Decoder, FlowControl, Instruction, Mnemonic, OpKind, Register

from dprobed.arch.x86_64.breakpoint import INT3
from dprobed.arch.x86_64.paging import WORD

#: No slot is longer (the worst case is an indirect ``call`` with prefixes: 6 + 15 + 4 + 8 bytes).
MAX_SLOT: Final = 64


_LEGACY_PREFIXES: Final = frozenset(
    (0x66, 0x67, 0xF2, 0xF3, 0xF0, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65)
)
_PUSH_CONSTANT: Final = b"\xff\x35"  # push qword [rip+disp32]
_JMP_CONSTANT: Final = b"\xff\x25"  # jmp qword [rip+disp32]
_JMP_REL32: Final = b"\xe9"
_MOV_RCX_IMM64: Final = b"\x48\xb9"


_POP_FLAGS: Final = frozenset((Mnemonic.POPF, Mnemonic.POPFD, Mnemonic.POPFQ))
_PUSH_FLAGS: Final = frozenset((Mnemonic.PUSHF, Mnemonic.PUSHFD, Mnemonic.PUSHFQ))


class RelocationError(Exception):
    """The instruction cannot be displaced; ``reason`` says why, in one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Where(Enum):
    """How much of the original instruction a thread in a slot has executed."""

    BEFORE = "before"
    AFTER = "after"
    INSIDE = "inside"


class Position(NamedTuple):
    """The original place that a place in the slot is equivalent to; to move a thread there:

    Set rip to ``address`` (BEFORE and INSIDE: the original instruction, which then runs from its
    start; AFTER: where the original goes on, also a branch's target), add ``rsp_delta`` to rsp,
    and set rcx unless ``rcx`` is None. BEFORE needs nothing but rip; INSIDE undoes a part.
    """

    where: Where
    address: int
    rsp_delta: int = 0
    rcx: int | None = None


class Displaced(msgspec.Struct, frozen=True):
    """A displaced instruction: the code of its slot, made for one address.

    ``positions``: for each instruction boundary inside ``code``, ascending, its offset and what a
    thread whose rip is there is equivalent to. ``is_syscall``: a thread can be in the kernel's
    system call code from here (``syscall``, ``int 0x80``). ``is_rep``: a repeated string
    instruction (interruptible between its rounds, rip still at the start; a single step makes one
    round). ``may_fault``: it can raise an exception, so a signal can come from within the slot;
    False is certain, True is not. ``branches``: it can go on elsewhere than behind itself.
    ``saves_flags``: it stores the flags, a debugger's trap flag among them (``pushf``).
    """

    code: bytes
    length: int
    positions: tuple[tuple[int, Position], ...]
    is_syscall: bool
    is_rep: bool
    may_fault: bool
    branches: bool
    saves_flags: bool


class _Slot:
    """A slot in the making."""

    __slots__ = ("_constants", "_slot", "code", "instruction", "next", "original", "positions")

    def __init__(self, instruction: Instruction, original: bytes, address: int, slot: int) -> None:
        self.instruction = instruction
        self.original = original
        self.next = (address + len(original)) & WORD
        self.code = bytearray()
        self.positions: list[tuple[int, Position]] = [(0, Position(Where.BEFORE, address))]
        self._slot = slot
        self._constants: list[tuple[int, int]] = []

    def mark(self, position: Position) -> None:
        """A thread that stops from here on is at ``position``."""
        self.positions.append((len(self.code), position))

    def displacement(self, target: int, length: int) -> int | None:
        """From an instruction of ``length`` bytes that begins here; None when out of reach."""
        distance = target - (self.here() + length)
        return distance if -(1 << 31) <= distance < 1 << 31 else None

    def here(self) -> int:
        """The address behind the last byte so far."""
        return self._slot + len(self.code)

    def reach(self, target: int) -> int:
        """From the end of the code to an operand; raises RelocationError when out of reach."""
        distance = target - self.here()
        if not -(1 << 31) <= distance < 1 << 31:
            raise RelocationError(
                f"its operand at {target:#x} is more than 2 GiB away from the resident area"
            )
        return distance

    def jump(self, target: int) -> None:
        """Go to ``target``, wherever it is."""
        distance = self.displacement(target, 5)
        if distance is None:
            self.with_constant(_JMP_CONSTANT, target)
        else:
            self.code += _JMP_REL32 + distance.to_bytes(4, "little", signed=True)

    def with_constant(self, opcode: bytes, value: int) -> None:
        """An instruction with a RIP-relative operand that is the constant ``value``."""
        self.code += opcode + bytes(4)
        self._constants.append((len(self.code), value))

    def fall_through(self) -> None:
        """The original instruction is done: jump behind it."""
        self.mark(Position(Where.AFTER, self.next))
        self.jump(self.next)

    def finish(self) -> bytes:
        """The code with its constants behind it."""
        for end, value in self._constants:
            self.code[end - 4 : end] = (len(self.code) - end).to_bytes(4, "little")
            self.code += value.to_bytes(8, "little")
        return bytes(self.code)


def instruction_length(code: bytes, address: int) -> int:
    """The length in bytes of the instruction that ``code`` begins with.

    Raises RelocationError when the bytes are not a whole valid instruction.
    """
    return _decode(code, address)[1].len


def displace(code: bytes, address: int, slot: int) -> Displaced:
    """The slot at address ``slot`` for the instruction at ``address`` that ``code`` begins with.

    Raises RelocationError when the instruction cannot be displaced, or not to so far away.
    """
    decoder, instruction = _decode(code, address)
    length = instruction.len
    if code[0] == INT3[0]:
        raise RelocationError("a breakpoint of another debugger is there (int3)")
    if instruction.mnemonic in _POP_FLAGS:
        # The trap flag fires behind the instruction that follows, which would be the slot's jump.
        raise RelocationError("it can begin single stepping, which would show")
    made = _Slot(instruction, code[:length], address, slot)
    flow = instruction.flow_control
    if flow == FlowControl.NEXT:
        _copy(made, decoder)
        made.fall_through()
    else:
        _TRANSFERS[flow](made, decoder)
    return Displaced(
        code=made.finish(),
        length=length,
        positions=tuple(made.positions),
        is_syscall=instruction.mnemonic == Mnemonic.SYSCALL or flow == FlowControl.INTERRUPT,
        is_rep=instruction.is_string_instruction
        and (instruction.has_rep_prefix or instruction.has_repne_prefix),
        may_fault=_may_fault(instruction),
        branches=flow in _BRANCHING and instruction.mnemonic != Mnemonic.SYSCALL,
        saves_flags=instruction.mnemonic in _PUSH_FLAGS,
    )


def _decode(code: bytes, address: int) -> tuple[Decoder, Instruction]:
    decoder = Decoder(64, code[:15], ip=address)
    instruction = decoder.decode()
    if instruction.is_invalid:
        shown = code[:15].hex(" ") or "nothing"
        raise RelocationError(f"no x86-64 instruction is there ({shown})")
    return decoder, instruction


def _copy(made: _Slot, decoder: Decoder) -> None:
    """The original bytes, a RIP-relative operand adjusted to the slot's address."""
    instruction = made.instruction
    start = len(made.code)
    made.code += made.original
    if not instruction.is_ip_rel_memory_operand:
        return
    target = instruction.ip_rel_memory_address
    if instruction.memory_base == Register.EIP:  # address size prefix: all modulo 2**32
        distance = target - made.here()
    else:
        distance = made.reach(target)
    at = start + decoder.get_constant_offsets(instruction).displacement_offset
    made.code[at : at + 4] = (distance & 0xFFFFFFFF).to_bytes(4, "little")


def _opcode_offset(made: _Slot) -> int:
    """Where the opcode of a near transfer begins, behind its prefixes.

    Intel and AMD differ on the operand size prefix here: Intel ignores it, AMD cuts the new rip
    to 16 bits (AMD APM vol. 3, 1.2.2). With REX.W, as linkers pad ``call``, both ignore it.
    """
    code = made.original
    offset = rex = 0
    while True:
        byte = code[offset]
        if 0x40 <= byte <= 0x4F:
            rex = byte
        elif byte in _LEGACY_PREFIXES:
            rex = 0  # a REX prefix counts only right before the opcode
        else:
            break
        offset += 1
    if 0x66 in code[:offset] and not rex & 8:
        raise RelocationError("a near branch with an operand size prefix: processors differ on it")
    return offset


def _jump(made: _Slot, decoder: Decoder) -> None:
    if not made.instruction.is_jmp_short_or_near:
        raise RelocationError("a far jump")
    _opcode_offset(made)
    made.jump(made.instruction.near_branch_target)


def _jump_indirect(made: _Slot, decoder: Decoder) -> None:
    if made.instruction.is_jmp_far_indirect:
        raise RelocationError("a far jump")
    _opcode_offset(made)
    _copy(made, decoder)


def _jump_conditional(made: _Slot, decoder: Decoder) -> None:
    """jcc, loop, loope, loopne, jrcxz, jecxz."""
    instruction = made.instruction
    opcode = _opcode_offset(made)
    target = instruction.near_branch_target
    if instruction.is_jcc_short_or_near:
        condition = made.original[opcode + (made.original[opcode] == 0x0F)] & 0x0F
        distance = made.displacement(target, 6)
        if distance is not None:
            made.code += bytes((0x0F, 0x80 | condition))
            made.code += distance.to_bytes(4, "little", signed=True)
            made.fall_through()
            return
        made.code += bytes((0x70 | condition, 0))
    else:
        made.code += made.original  # its prefix chooses between rcx and ecx
    _through_stub(made, target, 1)


def _through_stub(made: _Slot, target: int, size: int) -> None:
    """End the slot of a branch whose last ``size`` bytes are its displacement, to a jump here."""
    end = len(made.code)
    made.fall_through()
    made.code[end - size : end] = (len(made.code) - end).to_bytes(size, "little")
    made.mark(Position(Where.AFTER, target))
    made.jump(target)


def _transaction(made: _Slot, decoder: Decoder) -> None:
    """xbegin: what it branches to is where it goes on when the transaction aborts."""
    if made.instruction.code != Code.XBEGIN_REL32:
        raise RelocationError("xbegin with an operand size prefix")
    made.code += made.original
    _through_stub(made, made.instruction.near_branch_target, 4)


def _call(made: _Slot, decoder: Decoder) -> None:
    """A direct near call; ``syscall``, which iced-x86 counts as a call, too."""
    instruction = made.instruction
    if instruction.mnemonic == Mnemonic.SYSCALL:
        made.code += made.original
        made.mark(Position(Where.AFTER, made.next, rcx=made.next))
        made.code += _MOV_RCX_IMM64 + made.next.to_bytes(8, "little")
        made.fall_through()
        return
    if not instruction.is_call_near:
        raise RelocationError(_only_in_place(instruction))
    _opcode_offset(made)
    _push_return_address(made)
    made.jump(instruction.near_branch_target)


def _push_return_address(made: _Slot) -> None:
    made.with_constant(_PUSH_CONSTANT, made.next)
    before = made.positions[0][1]
    made.mark(Position(Where.INSIDE, before.address, rsp_delta=8))


def _call_indirect(made: _Slot, decoder: Decoder) -> None:
    """``call r/m64`` as ``push`` and ``jmp r/m64``, whose operand is then read after the push.

    That differs from the original only where the operand is the stack word that the push writes:
    refused where it can be seen, which is when rsp is the operand's base and there is no index.
    """
    instruction = made.instruction
    if instruction.is_call_far_indirect:
        raise RelocationError("a far call")
    opcode = _opcode_offset(made)
    jump = bytearray(made.original)
    jump[opcode + 1] ^= (2 ^ 4) << 3  # FF /2 is call, FF /4 is jmp
    if instruction.op0_kind == OpKind.REGISTER:
        if instruction.op0_register == Register.RSP:
            raise RelocationError("call rsp: the push that stands for it changes the target")
    elif instruction.memory_base in (Register.RSP, Register.ESP):
        jump = _above_the_push(instruction, jump, opcode + 1)
    _push_return_address(made)
    made.original = bytes(jump)
    _copy(made, decoder)


def _above_the_push(instruction: Instruction, jump: bytearray, modrm: int) -> bytearray:
    """``jmp [rsp+...]`` with 8 more as displacement, since the push moved rsp."""
    displacement = instruction.memory_displacement
    displacement -= (displacement & (1 << 63)) << 1  # unsigned to signed
    if instruction.memory_base == Register.ESP:
        displacement -= (displacement & (1 << 31)) << 1
    if instruction.memory_index == Register.NONE and -16 < displacement < 0:
        raise RelocationError("a call through a stack word that the call itself may write")
    if displacement + 8 >= 1 << 31:
        raise RelocationError("a call through the stack, 2 GiB above it")
    jump[modrm] = jump[modrm] & 0x3F | 0x80  # mod 2: SIB byte and disp32
    return jump[: modrm + 2] + (displacement + 8).to_bytes(4, "little", signed=True)


def _return(made: _Slot, decoder: Decoder) -> None:
    if made.instruction.mnemonic != Mnemonic.RET:
        raise RelocationError(_only_in_place(made.instruction))
    _opcode_offset(made)
    made.code += made.original


def _interrupt(made: _Slot, decoder: Decoder) -> None:
    if made.original[-2:] != b"\xcd\x80":
        raise RelocationError("an interrupt instruction other than int 0x80")
    made.code += made.original
    made.fall_through()


def _exception(made: _Slot, decoder: Decoder) -> None:
    """ud0, ud1, ud2: they always fault."""
    _copy(made, decoder)


def _only_in_place(instruction: Instruction) -> str:
    return f"{instruction:x} cannot run outside of its place"


_TRANSFERS: Final[dict[int, Callable[[_Slot, Decoder], None]]] = {
    FlowControl.UNCONDITIONAL_BRANCH: _jump,
    FlowControl.INDIRECT_BRANCH: _jump_indirect,
    FlowControl.CONDITIONAL_BRANCH: _jump_conditional,
    FlowControl.RETURN: _return,
    FlowControl.CALL: _call,
    FlowControl.INDIRECT_CALL: _call_indirect,
    FlowControl.INTERRUPT: _interrupt,
    FlowControl.XBEGIN_XABORT_XEND: _transaction,
    FlowControl.EXCEPTION: _exception,
}

_BRANCHING: Final = frozenset(_TRANSFERS) - {FlowControl.INTERRUPT}

#: Instructions that raise nothing when all their operands are registers or immediates.
_HARMLESS_NAMES: Final = """
    ADC ADD AND BSF BSR BSWAP BT BTC BTR BTS CBW CDQ CDQE CLC CLD CMC CMOVA CMOVAE CMOVB CMOVBE
    CMOVE CMOVG CMOVGE CMOVL CMOVLE CMOVNE CMOVNO CMOVNP CMOVNS CMOVO CMOVP CMOVS CMP CMPXCHG CQO
    CWD CWDE DEC ENDBR64 IMUL INC JA JAE JB JBE JE JECXZ JG JGE JL JLE JMP JNE JNO JNP JNS JO JP
    JRCXZ JS LOOP LOOPE LOOPNE MOV MOVSX MOVSXD MOVZX MUL NEG NOT OR PAUSE RCL RCR ROL ROR SAR SBB
    SETA SETAE SETB SETBE SETE SETG SETGE SETL SETLE SETNE SETNO SETNP SETNS SETO SETP SETS SHL
    SHLD SHR SHRD STC STD SUB TEST XADD XCHG XOR
"""
_HARMLESS: Final = frozenset(getattr(Mnemonic, name) for name in _HARMLESS_NAMES.split())

_SEGMENTS: Final = frozenset(
    (Register.ES, Register.CS, Register.SS, Register.DS, Register.FS, Register.GS)
)


def _may_fault(instruction: Instruction) -> bool:
    mnemonic = instruction.mnemonic
    if mnemonic in (Mnemonic.LEA, Mnemonic.NOP):  # their memory operand is not accessed
        return False
    if (
        mnemonic not in _HARMLESS
        or instruction.is_privileged
        or instruction.flow_control == FlowControl.INDIRECT_BRANCH  # to a non-canonical address
    ):
        return True
    for index in range(instruction.op_count):
        kind = instruction.op_kind(index)
        if kind == OpKind.MEMORY:
            return True
        # mov ds, ax faults on a bad selector
        if kind == OpKind.REGISTER and instruction.op_register(index) in _SEGMENTS:
            return True
    return False
