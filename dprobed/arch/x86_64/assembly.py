"""Machine code in the making: the few instructions that trampolines are made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from iced_x86 import Register

from dprobed.arch.x86_64.registers import REGISTER_NAMES

#: Registers in the order of their numbers in instructions.
_NUMBERED: Final = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
#: Their numbers, by index in ``REGISTER_NAMES``.
HARDWARE: Final = {REGISTER_NAMES.index(name): n for n, name in enumerate(_NUMBERED)}
#: The same index by iced-x86's number of the register.
BY_ICED: Final = {getattr(Register, name.upper()): REGISTER_NAMES.index(name) for name in _NUMBERED}
RAX: Final = REGISTER_NAMES.index("rax")
RCX: Final = REGISTER_NAMES.index("rcx")
RDX: Final = REGISTER_NAMES.index("rdx")
R8: Final = REGISTER_NAMES.index("r8")
R9: Final = REGISTER_NAMES.index("r9")
R10: Final = REGISTER_NAMES.index("r10")
R11: Final = REGISTER_NAMES.index("r11")
RDI: Final = REGISTER_NAMES.index("rdi")
RSI: Final = REGISTER_NAMES.index("rsi")
#: In which a function gets its first three arguments.
ARGUMENTS: Final = frozenset((RDI, RSI, RDX))
RIP: Final = REGISTER_NAMES.index("rip")
EFLAGS: Final = REGISTER_NAMES.index("eflags")


class Assembly:
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
        self._rsp_relative(0x89, offset, HARDWARE[register])

    def load(self, register: int, offset: int) -> None:
        """mov register, [rsp+offset]."""
        self._rsp_relative(0x8B, offset, HARDWARE[register])

    def lea(self, register: int, offset: int) -> None:
        """lea register, [rsp+offset]."""
        self._rsp_relative(0x8D, offset, HARDWARE[register])

    def _rsp_relative(self, opcode: int, offset: int, number: int) -> None:
        rex = 0x48 | (number >> 3) << 2
        self.bytes.extend((rex, opcode, 0x84 | (number & 7) << 3, 0x24))
        self.bytes.extend(offset.to_bytes(4, "little", signed=True))

    def constant(self, register: int, value: int) -> None:
        """movabs register, value."""
        number = HARDWARE[register]
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

    def number(self, value: int) -> None:
        """Four bytes of the instruction that was begun."""
        self.bytes.extend(value.to_bytes(4, "little", signed=True))

    def branch(self, opcode: str) -> int:
        """A conditional jump rel32, whose target is not known yet; to be given to ``land``."""
        self.raw(opcode)
        self.bytes.extend(bytes(4))
        return len(self.bytes)

    def back(self, opcode: str, to: int) -> None:
        """A jump rel32 to where there were ``to`` bytes."""
        self.raw(opcode)
        self.number(to - (len(self.bytes) + 4))

    def land(self, branches: Iterable[int]) -> None:
        """These branches lead to here."""
        for end in branches:
            self.bytes[end - 4 : end] = (len(self.bytes) - end).to_bytes(4, "little")
