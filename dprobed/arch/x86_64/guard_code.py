"""The guard: a SIGTRAP handler in the target that serves breakpoints when no tracer does.

A thread behind one of our breakpoints goes on in its slot, as the tracer would have it; one behind
a breakpoint of its own, or to which SIGTRAP was sent, dies of that as it would without a handler.
What debug registers and single steps raise is passed over. While a tracer is there it keeps every
SIGTRAP of ours from the handler.

One mapping holds the code, its data, and a table of pairs of words: where a thread's rip is behind
a breakpoint, and its slot; a pair of zeros ends it.
"""

from __future__ import annotations

from typing import Final

from dprobed.arch.x86_64.signal_frame import (
    KERNEL_ACTION_SIZE,
    RESTORER_CODE,
    SA_RESTORER,
    SA_SIGINFO,
)

#: Where the target has an alternate stack, only that is surely large enough (Go).
_SA_ONSTACK: Final = 0x0800_0000
_EVERY_SIGNAL: Final = (1 << 64) - 1

#: Where its ``__restore_rt`` is.
RESTORER: Final = 0x90
#: ``struct kernel_sigaction`` of the guard, and one of zeros: SIG_DFL.
ACTION: Final = 0x100
DEFAULT_ACTION: Final = ACTION + KERNEL_ACTION_SIZE
#: The table, and the size of an entry.
TABLE: Final = 0x200
ENTRY: Final = 16

#: The handler with its listing; jumps lead to offsets. Called as a handler with SA_SIGINFO is: rsi
#: the siginfo_t, rdx the ucontext_t. It alters only registers that a function may.
CODE: Final = (
    ("48 8b 82 a8 00 00 00", "mov rax,[rdx+0A8h]"),  # rip
    ("8b 4e 08", "mov ecx,[rsi+8]"),  # si_code
    ("81 f9 80 00 00 00", "cmp ecx,80h"),  # SI_KERNEL: int3
    ("75 33", "jne 45h"),
    ("48 8d 0d e7 01 00 00", "lea rcx,[rel 200h]"),  # the table
    ("4c 8b 01", "mov r8,[rcx]"),  # 19h
    ("4d 85 c0", "test r8,r8"),
    ("74 1d", "je 3Eh"),
    ("49 39 c0", "cmp r8,rax"),
    ("74 0c", "je 32h"),
    ("48 3b 41 08", "cmp rax,[rcx+8]"),  # the tracer has moved it on already
    ("74 57", "je 83h"),
    ("48 83 c1 10", "add rcx,10h"),
    ("eb e7", "jmp 19h"),
    ("48 8b 41 08", "mov rax,[rcx+8]"),  # 32h: go on in the slot
    ("48 89 82 a8 00 00 00", "mov [rdx+0A8h],rax"),
    ("c3", "ret"),
    ("80 78 ff cc", "cmp byte [rax-1],0CCh"),  # 3Eh: its own, or has a program moved it?
    ("74 06", "je 4Ah"),
    ("c3", "ret"),
    ("85 c9", "test ecx,ecx"),  # 45h: was it sent?
    ("7e 01", "jle 4Ah"),
    ("c3", "ret"),
    ("bf 05 00 00 00", "mov edi,5"),  # 4Ah: SIGTRAP
    ("48 8d 35 ca 00 00 00", "lea rsi,[rel 120h]"),  # SIG_DFL
    ("31 d2", "xor edx,edx"),
    ("41 ba 08 00 00 00", "mov r10d,8"),
    ("b8 0d 00 00 00", "mov eax,0Dh"),  # rt_sigaction
    ("0f 05", "syscall"),
    ("b8 27 00 00 00", "mov eax,27h"),  # getpid
    ("0f 05", "syscall"),
    ("89 c7", "mov edi,eax"),
    ("b8 ba 00 00 00", "mov eax,0BAh"),  # gettid
    ("0f 05", "syscall"),
    ("89 c6", "mov esi,eax"),
    ("ba 05 00 00 00", "mov edx,5"),
    ("b8 ea 00 00 00", "mov eax,0EAh"),  # tgkill: delivered when the handler returns
    ("0f 05", "syscall"),
    ("c3", "ret"),
)

#: The handler's bytes, by which it is known again.
HANDLER: Final = b"".join(bytes.fromhex(each) for each, _ in CODE)


def image(base: int) -> bytes:
    """What is before the table, for a guard that is mapped at ``base``."""
    flags = SA_SIGINFO | _SA_ONSTACK | SA_RESTORER
    parts = (base, flags, base + RESTORER, _EVERY_SIGNAL)
    action = b"".join(part.to_bytes(8, "little") for part in parts)
    begin = HANDLER.ljust(RESTORER, b"\xf4") + RESTORER_CODE
    return (begin.ljust(ACTION, b"\0") + action).ljust(TABLE, b"\0")


def entry(trap: int, slot: int) -> bytes:
    """An entry of the table."""
    return trap.to_bytes(8, "little") + slot.to_bytes(8, "little")


#: In the place of an entry that was taken out: no thread's rip is 1.
FREE_ENTRY: Final = entry(1, 0)
