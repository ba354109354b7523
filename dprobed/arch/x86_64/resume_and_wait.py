"""One call for what a breakpoint hit asks of the kernel: resume a thread, wait, read registers.

Four system calls of a hit made one by one from Python cost 4.0 µs more than from C, where a C loop
takes 9.7; made by these few instructions, in one call by ctypes, 1.2 µs more (Ice Lake at 2.8 GHz,
one CPU), and 0.25 less than that as a ``python_function``. A C extension would do the same, but
needs a compiler, or a wheel for each Python.

A plain SIGTRAP stop, which may be a hit, is looked at and not *taken* (WNOWAIT): a stop that was
taken has no signal any more (``exit_code``; wait_task_stopped, kernel/exit.c), so a thread that the
kernel lets go because its tracer was killed would go on behind the breakpoint, its instruction
skipped. Not taken, the SIGTRAP is delivered to it. Every other stop is taken.

Where no code may be mapped (``code_page``), Python makes the calls one by one.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from typing import Final

from dprobed.arch.x86_64 import python_function
from dprobed.arch.x86_64.python_ptrace import binding
from dprobed.arch.x86_64.registers import RIP
from dprobed.arch.x86_64.siginfo import SIGINFO_SIZE

# The words (eight bytes each) of a request.
#: In: the thread to resume first; 0: none. It is 0 afterwards.
RESUME: Final = 0
#: In: the address at which that thread goes on; 0: where it is.
GO_TO: Final = 1
#: In: the thread to wait for; 0: any.
WAIT_FOR: Final = 2
#: In: options of waitid(2), WNOWAIT among them.
OPTIONS: Final = 3
#: Out: the wait status, as wait4(2) gives it.
STATUS: Final = 4
#: In: the address of a ``struct user_regs_struct``, which is filled at a plain SIGTRAP stop. Its
#: rip is 0 where the thread was killed meanwhile.
REGISTERS: Final = 5
#: Room for the siginfo_t of waitid.
_SIGINFO: Final = 6
#: How many there are.
WORDS: Final = _SIGINFO + SIGINFO_SIZE // 8

#: The wait status of a plain SIGTRAP stop: the one that is not taken.
TRAP_STATUS: Final = 0x057F
#: Added to the id of a thread whose stop, or end, is another, and was taken. No thread has an id
#: that large (PID_MAX_LIMIT, include/linux/threads.h).
TAKEN: Final = 1 << 30

#: The machine code with its listing; jumps lead to offsets. Takes the address of a request, returns
#: the thread that is in a plain SIGTRAP stop, or that has stopped or ended otherwise (``TAKEN``), 0
#: (none did, or it was killed meanwhile) or a negative errno.
#: It alters only registers that a function may (System V ABI). Resuming fails only where the thread
#: was killed, which the wait then tells.
CODE: Final = (
    ("49 89 f9", "mov r9,rdi"),
    ("49 8b 31", "mov rsi,[r9]"),
    ("48 85 f6", "test rsi,rsi"),
    ("74 30", "je 3Bh"),
    ("4d 8b 51 08", "mov r10,[r9+8]"),
    ("4d 85 d2", "test r10,r10"),
    ("74 11", "je 25h"),
    ("bf 06 00 00 00", "mov edi,6"),  # PTRACE_POKEUSER
    ("ba 80 00 00 00", "mov edx,80h"),  # rip
    ("b8 65 00 00 00", "mov eax,65h"),  # ptrace
    ("0f 05", "syscall"),
    ("bf 07 00 00 00", "mov edi,7"),  # 25h: PTRACE_CONT
    ("31 d2", "xor edx,edx"),
    ("45 31 d2", "xor r10d,r10d"),
    ("b8 65 00 00 00", "mov eax,65h"),  # ptrace
    ("0f 05", "syscall"),
    ("31 c0", "xor eax,eax"),
    ("49 89 01", "mov [r9],rax"),
    ("49 8b 71 10", "mov rsi,[r9+10h]"),  # 3Bh
    ("31 ff", "xor edi,edi"),
    ("85 f6", "test esi,esi"),
    ("40 0f 95 c7", "setne dil"),  # P_PID or P_ALL
    ("49 8d 51 30", "lea rdx,[r9+30h]"),  # its siginfo
    ("4d 8b 51 18", "mov r10,[r9+18h]"),
    ("45 31 c0", "xor r8d,r8d"),
    ("b8 f7 00 00 00", "mov eax,0F7h"),  # waitid
    ("0f 05", "syscall"),
    ("85 c0", "test eax,eax"),
    ("75 41", "jne 9Eh"),
    ("41 8b 71 40", "mov esi,[r9+40h]"),  # si_pid
    ("85 f6", "test esi,esi"),
    ("74 39", "je 9Eh"),
    ("41 83 79 38 04", "cmp dword [r9+38h],4"),  # si_code: CLD_TRAPPED
    ("75 33", "jne 9Fh"),
    ("41 83 79 48 05", "cmp dword [r9+48h],5"),  # si_status: SIGTRAP and no event
    ("75 2c", "jne 9Fh"),
    ("b8 7f 05 00 00", "mov eax,57Fh"),
    ("49 89 41 20", "mov [r9+20h],rax"),
    ("bf 0c 00 00 00", "mov edi,0Ch"),  # PTRACE_GETREGS
    ("31 d2", "xor edx,edx"),
    ("4d 8b 51 28", "mov r10,[r9+28h]"),
    ("b8 65 00 00 00", "mov eax,65h"),  # ptrace
    ("0f 05", "syscall"),
    ("48 85 c0", "test rax,rax"),
    ("89 f0", "mov eax,esi"),
    ("74 09", "je 9Eh"),
    ("31 d2", "xor edx,edx"),
    ("49 89 92 80 00 00 00", "mov [r10+80h],rdx"),  # rip
    ("c3", "ret"),  # 9Eh
    ("89 f7", "mov edi,esi"),  # 9Fh: take it
    ("49 8d 71 20", "lea rsi,[r9+20h]"),
    ("ba 01 00 00 40", "mov edx,40000001h"),  # __WALL | WNOHANG
    ("45 31 d2", "xor r10d,r10d"),
    ("b8 3d 00 00 00", "mov eax,3Dh"),  # wait4
    ("0f 05", "syscall"),
    ("85 c0", "test eax,eax"),
    ("7e 05", "jle 0BDh"),
    ("0d 00 00 00 40", "or eax,40000000h"),  # TAKEN
    ("c3", "ret"),  # 0BDh
)

_libc: Final = ctypes.PyDLL(None, use_errno=True)
_ptrace: Final = _libc.ptrace
_ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_ptrace.restype = ctypes.c_long
# Of siginfo_t, for SIGCHLD (include/uapi/asm-generic/siginfo.h).
_SI_CODE: Final = 8
_SI_PID: Final = 16
_SI_STATUS: Final = 24


def mapped(request: int) -> Callable[[], int]:
    """The machine code as a function that carries out the request at this address.

    Raises OSError where nothing executable may be mapped.
    """
    return python_function.made(b"".join(bytes.fromhex(each) for each, _ in CODE), request)


def one_by_one(words: memoryview) -> Callable[[], int]:
    """The same for the request with these words, with a Python function that makes each call."""
    status = ctypes.c_int()
    info = ctypes.create_string_buffer(SIGINFO_SIZE)

    def resume_and_wait() -> int:
        if words[RESUME]:
            if words[GO_TO]:
                _ptrace(binding.PTRACE_POKEUSER, words[RESUME], 8 * RIP, words[GO_TO])
            _ptrace(binding.PTRACE_CONT, words[RESUME], 0, 0)
            words[RESUME] = 0
        which = os.P_PID if words[WAIT_FOR] else os.P_ALL
        if _libc.waitid(which, words[WAIT_FOR], info, words[OPTIONS]) < 0:
            return -ctypes.get_errno()
        code, tid, event = (
            int.from_bytes(info.raw[at : at + 4], "little")
            for at in (_SI_CODE, _SI_PID, _SI_STATUS)
        )
        if not tid:
            return 0
        if code != os.CLD_TRAPPED or event != signal.SIGTRAP:
            options = binding.THREAD_TRACE_FLAGS | os.WNOHANG
            taken: int = _libc.waitpid(tid, ctypes.byref(status), options)
            words[STATUS] = status.value & 0xFFFF_FFFF
            if taken < 0:
                return -ctypes.get_errno()
            return taken and taken | TAKEN
        words[STATUS] = TRAP_STATUS
        registers = words[REGISTERS]
        if _ptrace(binding.PTRACE_GETREGS, tid, 0, registers) < 0:
            ctypes.c_uint64.from_address(registers + 8 * RIP).value = 0
        return tid

    return resume_and_wait
