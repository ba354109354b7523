"""A ``siginfo_t`` (include/uapi/asm-generic/siginfo.h), 128 bytes as the kernel hands them over.

The places of its fields are those of python-ptrace's structure, whose length is 8 bytes too much.
"""

from __future__ import annotations

from typing import Final

from dprobed.arch.x86_64.python_ptrace import structures

SIGINFO_SIZE: Final = 128
_CODE: Final[int] = structures.siginfo.si_code.offset
_ADDRESS: Final[int] = (
    structures.siginfo._sifields.offset + structures._sifields_t._sigfault.offset
)  # fmt: skip


_SENDER: Final[int] = structures.siginfo._sifields.offset


def code_of(info: bytes) -> int:
    """``si_code``: why the signal was raised."""
    return int.from_bytes(info[_CODE : _CODE + 4], "little", signed=True)


def was_sent(info: bytes) -> bool:
    """Whether a process sent the signal, not the kernel (si_code 0 or less)."""
    return code_of(info) <= 0


def sender_of(info: bytes) -> int:
    """``si_pid`` of a signal that was sent: by whom, as the receiver's pid namespace numbers them,
    0 for a process of an outer one."""
    return int.from_bytes(info[_SENDER : _SENDER + 4], "little")


def address_of(info: bytes) -> int:
    """``si_addr`` of a fault: the address that it is about."""
    return int.from_bytes(info[_ADDRESS : _ADDRESS + 8], "little")


def with_address(info: bytes, address: int) -> bytes:
    """The same with another ``si_addr``."""
    return info[:_ADDRESS] + address.to_bytes(8, "little") + info[_ADDRESS + 8 :]
