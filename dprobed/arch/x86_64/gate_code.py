"""The gate: a system call instruction behind which a thread finds its own way back.

We have a thread make a system call there, and put its registers and signal mask back when it is
behind it. Killed before that, we cannot: then the thread goes on into the code that follows, which
puts both back from words behind it, and goes on where the thread was. It uses no stack and alters
no flags. All signals are blocked until it has set the mask.

``clone`` has an entry of its own: the thread goes back as from any call, and the copy, whom nobody
holds then, ends.
"""

from __future__ import annotations

import struct
from collections.abc import MutableSequence, Sequence
from typing import Final

from dprobed.arch.x86_64.registers import (
    NO_SYSCALL,
    ORIG_RAX,
    R8,
    R9,
    R10,
    R11,
    RAX,
    RCX,
    RDI,
    RDX,
    RIP,
    RSI,
)
from dprobed.arch.x86_64.signal_frame import ERESTART_RESTARTBLOCK, RESTARTS
from dprobed.arch.x86_64.syscalls import SYS_RESTART_SYSCALL

#: The code with its listing.
CODE: Final = (
    ("0f 05", "syscall"),
    ("bf 02 00 00 00", "mov edi,2"),  # SIG_SETMASK
    ("48 8d 35 5a 00 00 00", "lea rsi,[rel 68h]"),
    ("ba 00 00 00 00", "mov edx,0"),
    ("41 ba 08 00 00 00", "mov r10d,8"),
    ("b8 0e 00 00 00", "mov eax,0Eh"),  # rt_sigprocmask
    ("0f 05", "syscall"),
    ("48 8b 05 49 00 00 00", "mov rax,[rel 70h]"),
    ("48 8b 0d 4a 00 00 00", "mov rcx,[rel 78h]"),
    ("48 8b 15 4b 00 00 00", "mov rdx,[rel 80h]"),
    ("48 8b 35 4c 00 00 00", "mov rsi,[rel 88h]"),
    ("48 8b 3d 4d 00 00 00", "mov rdi,[rel 90h]"),
    ("4c 8b 05 4e 00 00 00", "mov r8,[rel 98h]"),
    ("4c 8b 0d 4f 00 00 00", "mov r9,[rel 0A0h]"),
    ("4c 8b 15 50 00 00 00", "mov r10,[rel 0A8h]"),
    ("4c 8b 1d 51 00 00 00", "mov r11,[rel 0B0h]"),
    ("ff 25 53 00 00 00", "jmp qword [rel 0B8h]"),
)
GATE: Final = b"".join(bytes.fromhex(each) for each, _ in CODE)
#: The same of the entry for ``clone``, which is behind the words.
CLONE_CODE: Final = (
    ("0f 05", "syscall"),
    ("48 89 c1", "mov rcx,rax"),
    ("e3 05", "jrcxz 0CCh"),
    ("e9 36 ff ff ff", "jmp 2"),
    ("b8 e7 00 00 00", "mov eax,0E7h"),  # exit_group
    ("31 ff", "xor edi,edi"),
    ("0f 05", "syscall"),
    ("f4", "hlt"),  # where a filter forbids that
)
#: Where the words are, and that entry; the size of all.
WORDS: Final = 0x68
CLONE: Final = 0xC0
SIZE: Final = 0xD8
#: What is written; the words are zeros until there is a call.
WHOLE: Final = (
    GATE.ljust(CLONE, b"\0") + b"".join(bytes.fromhex(each) for each, _ in CLONE_CODE)
).ljust(SIZE, b"\0")
_WORDS: Final = struct.Struct("<11Q")
#: The registers among them, behind the mask and before rip: those that a system call, or we, alter.
_REGISTERS: Final = (RAX, RCX, RDX, RSI, RDI, R8, R9, R10, R11)
_SYSCALL_LENGTH: Final = 2


def way_back(words: Sequence[int], mask: int) -> bytes:
    """The words for a thread that has these registers and this signal mask.

    A system call of its own that our stop interrupted is made again, as the kernel does it.
    """
    values = {number: words[number] for number in _REGISTERS}
    rip = words[RIP]
    if words[RAX] in RESTARTS and not words[ORIG_RAX] >> 63:
        block = words[RAX] == ERESTART_RESTARTBLOCK
        values[RAX] = SYS_RESTART_SYSCALL if block else words[ORIG_RAX]
        rip -= _SYSCALL_LENGTH
    return _WORDS.pack(mask, *values.values(), rip)


def back(words: MutableSequence[int] | memoryview, data: bytes) -> int:
    """Set the registers of a thread as the code does by these words; returns its signal mask."""
    mask, *values, rip = _WORDS.unpack(data)
    for number, value in zip(_REGISTERS, values, strict=True):
        words[number] = value
    words[RIP] = rip
    words[ORIG_RAX] = NO_SYSCALL
    return int(mask)
