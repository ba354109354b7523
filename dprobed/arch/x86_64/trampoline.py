"""Trampolines: what a jump at a probed instruction leads to.

A trampoline saves what its programs may clobber, calls each of them with a ``struct hit``, puts
everything back, runs the displaced instruction and jumps behind the original one. The rules:

- The 128 bytes below rsp are the thread's (System V ABI, red zone): rsp is moved over them by
  ``lea``, which alters no flag, before anything is written.
- Flags are kept in rax by ``lahf`` and ``seto``, and put back by ``sahf`` behind an ``add`` that
  overflows where ``seto`` has said so: a tenth of what ``popf`` takes. Where the flags are written
  before they are read, they are not kept.
- Only jumps lead in and out: nothing is pushed on the thread's stack before rsp was moved.

The frame begins with a ``struct hit``, whose first words are the registers, in the order of
``REGISTER_NAMES``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from iced_x86 import Decoder, FlowControl, InstructionInfoFactory, RflagsBits

from dprobed.arch.x86_64.registers import REGISTER_NAMES, RSP

#: The x86-64 ABI lets a function use so much below rsp.
RED_ZONE: Final = 128

#: Registers in the order of their numbers in instructions.
_NUMBERED: Final = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
#: Their numbers, by index in ``REGISTER_NAMES``.
_HARDWARE: Final = {REGISTER_NAMES.index(name): n for n, name in enumerate(_NUMBERED)}
RAX: Final = REGISTER_NAMES.index("rax")
RCX: Final = REGISTER_NAMES.index("rcx")
RDX: Final = REGISTER_NAMES.index("rdx")
RDI: Final = REGISTER_NAMES.index("rdi")
RSI: Final = REGISTER_NAMES.index("rsi")
RIP: Final = REGISTER_NAMES.index("rip")
EFLAGS: Final = REGISTER_NAMES.index("eflags")

#: Instructions that are looked at for whether the flags are read, at most.
_LOOKED_AT: Final = 8
_ARITHMETIC: Final = (
    RflagsBits.OF | RflagsBits.SF | RflagsBits.ZF | RflagsBits.AF | RflagsBits.CF | RflagsBits.PF
)


class Code:
    """Machine code in the making, at an address."""

    def __init__(self, address: int) -> None:
        self._address: Final = address
        self.bytes: Final = bytearray()

    def __len__(self) -> int:
        return len(self.bytes)

    @property
    def here(self) -> int:
        """The address behind the last byte so far."""
        return self._address + len(self.bytes)

    def raw(self, text: str) -> None:
        """Bytes in hexadecimal digits."""
        self.bytes.extend(bytes.fromhex(text))

    def store(self, offset: int, register: int) -> None:
        """mov [rsp+offset], register."""
        self._rsp_relative(0x89, offset, _HARDWARE[register])

    def load(self, register: int, offset: int) -> None:
        """mov register, [rsp+offset]."""
        self._rsp_relative(0x8B, offset, _HARDWARE[register])

    def lea(self, register: int, offset: int) -> None:
        """lea register, [rsp+offset]."""
        self._rsp_relative(0x8D, offset, _HARDWARE[register])

    def _rsp_relative(self, opcode: int, offset: int, number: int) -> None:
        rex = 0x48 | (number >> 3) << 2
        self.bytes.extend((rex, opcode, 0x84 | (number & 7) << 3, 0x24))
        self.bytes.extend(offset.to_bytes(4, "little", signed=True))

    def constant(self, register: int, value: int) -> None:
        """movabs register, value."""
        number = _HARDWARE[register]
        self.bytes.extend((0x48 | number >> 3, 0xB8 | number & 7))
        self.bytes.extend(value.to_bytes(8, "little"))

    def store_constant(self, offset: int, value: int, by: int) -> None:
        """[rsp+offset] becomes ``value``, through a register that may be clobbered."""
        self.constant(by, value)
        self.store(offset, by)

    def call(self, target: int) -> None:
        """call rel32; raises OverflowError out of reach."""
        self.bytes.append(0xE8)
        self.bytes.extend((target - (self.here + 4)).to_bytes(4, "little", signed=True))

    def branch(self, opcode: str) -> int:
        """A conditional jump rel32, whose target is not known yet; to be given to ``land``."""
        self.raw(opcode)
        self.bytes.extend(bytes(4))
        return len(self.bytes)

    def land(self, branches: Iterable[int]) -> None:
        """These branches lead to here."""
        for end in branches:
            self.bytes[end - 4 : end] = (len(self.bytes) - end).to_bytes(4, "little")


def flags_are_live(code: bytes, address: int) -> bool:
    """Whether the arithmetic flags may be read by what runs from ``address`` on: false is certain.

    Looked at are the next instructions up to one that goes elsewhere. (A ``call`` or ``ret`` does:
    that no function reads them is a convention that compilers keep, and hand-written code may not.)
    """
    decoder = Decoder(64, code, ip=address)
    factory = InstructionInfoFactory()
    unwritten = _ARITHMETIC
    for _ in range(_LOOKED_AT):
        if not decoder.can_decode:
            return True
        instruction = decoder.decode()
        if instruction.is_invalid:
            return True
        factory.info(instruction)
        if instruction.rflags_read & unwritten:
            return True
        unwritten &= ~instruction.rflags_modified
        if not unwritten:
            return False
        if instruction.flow_control != FlowControl.NEXT:
            return True
    return True


#: The words of one probe that its trampolines and we share, a cache line; by their offsets: how
#: often it was come by; hits that do not run the program; the last one that does; not 0 once it is
#: never to run again.
CONTROL_HITS: Final = 0
CONTROL_PASSED: Final = 8
CONTROL_LAST: Final = 16
CONTROL_OVER: Final = 24
CONTROL_SIZE: Final = 64


class Frame(msgspec.Struct, frozen=True):
    """The frame of a trampoline: a ``struct hit``, and behind it what is ours.

    ``size``: bytes of the ``struct hit``, whose first words are the registers.
    """

    size: int

    @property
    def number(self) -> int:
        """Where the number of the hit is."""
        return self.size

    @property
    def flags(self) -> int:
        """Where the arithmetic flags are, as ``lahf`` and ``seto`` give them."""
        return self.size + 8

    @property
    def room(self) -> int:
        """Bytes by which rsp is moved."""
        return RED_ZONE + -(-(self.size + 16) // 16) * 16


class Run(msgspec.Struct, frozen=True):
    """One program to run in a trampoline.

    ``code``: where its function is; ``data``, ``place``: its second and third argument;
    ``control``: that of its probe. ``reads`` and ``writes``: the registers of the thread that it
    looks at and alters; ``clobbers``: those that its code leaves altered. ``numbered``: whether its
    hits are counted one by one, because some do not run it. ``ends``: it may end by `rem`.
    """

    code: int
    data: int
    place: int
    control: int
    reads: frozenset[int]
    writes: frozenset[int]
    clobbers: frozenset[int]
    numbered: bool
    ends: bool


def trampoline(at: int, address: int, runs: Sequence[Run], frame: Frame, *, flags: bool) -> bytes:
    """The code that runs these at the instruction at ``address``, up to the displaced one.

    ``at``: where it will be; ``flags``: whether the arithmetic flags are live. Raises OverflowError
    where a function is out of reach.
    """
    made = Code(at)
    nothing: frozenset[int] = frozenset()
    used = frozenset((RAX, RDI, RSI, RDX)).union(*(run.clobbers for run in runs))
    if any(run.numbered for run in runs):
        used |= {RCX}
    read = nothing.union(*(run.reads for run in runs))
    written = nothing.union(*(run.writes for run in runs))
    kept = sorted((used | read | written) & _HARDWARE.keys() - {RSP})
    made.lea(RSP, -frame.room)
    for register in kept:
        made.store(register * 8, register)
    if flags:
        made.raw("0f90c0 9f")  # seto al; lahf
        made.store(frame.flags, RAX)
    if EFLAGS in read:
        made.raw("9c 8f8424")  # pushfq; pop [rsp+...], which counts from where rsp is then
        made.bytes.extend((EFLAGS * 8).to_bytes(4, "little"))
    if RSP in read | written:
        made.lea(RAX, frame.room)
        made.store(RSP * 8, RAX)
    if RIP in read:
        made.store_constant(RIP * 8, address, RAX)
    for run in runs:
        _run(made, run, frame)
    if flags:
        made.load(RAX, frame.flags)
        made.raw("047f 9e")  # add al,127; sahf
    for register in kept:
        made.load(register, register * 8)
    if RSP in written:
        made.load(RSP, RSP * 8)
    else:
        made.lea(RSP, frame.room)
    return bytes(made.bytes)


def _run(made: Code, run: Run, frame: Frame) -> None:
    skip = []
    made.constant(RAX, run.control)
    if run.numbered:
        skip += [_number(made, frame), _past_last(made)]
    else:
        made.raw("f0 48 ff 00")  # lock inc qword [rax]
    if run.ends:
        made.raw("80 78 18 00")  # cmp byte [rax+CONTROL_OVER],0
        skip.append(made.branch("0f85"))
    made.lea(RDI, 0)
    made.constant(RSI, run.data)
    made.constant(RDX, run.place)
    made.call(run.code)
    if run.ends:
        made.raw("48 83 f8 fe")  # cmp rax,REM
        skip.append(made.branch("0f85"))
        made.constant(RAX, run.control)
        made.raw("c6 40 18 01")  # mov byte [rax+CONTROL_OVER],1
    made.land(skip)


def _number(made: Code, frame: Frame) -> int:
    """The hit gets its number; a branch for those that are passed over."""
    made.raw("b9 01 00 00 00")  # mov ecx,1
    made.raw("f0 48 0f c1 08")  # lock xadd [rax+CONTROL_HITS],rcx
    made.raw("48 83 c1 01")  # add rcx,1
    made.store(frame.number, RCX)
    made.raw("48 3b 48 08")  # cmp rcx,[rax+CONTROL_PASSED]
    return made.branch("0f86")  # jbe


def _past_last(made: Code) -> int:
    made.raw("48 3b 48 10")  # cmp rcx,[rax+CONTROL_LAST]
    return made.branch("0f87")  # ja
