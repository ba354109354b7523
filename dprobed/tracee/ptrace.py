"""The ptrace(2) calls that dprobed makes, one function each.

Rules:

* python-ptrace gives the numbers; the calls go through ``ctypes.PyDLL`` because none of them blocks
  and a hit pays for each: its own wrapper builds new structures at every call.
* ESRCH means that the tracee died or is not stopped (it was killed between two of our calls). It
  is caught here only, and becomes ``Gone``. Everything else is a ``PtraceError``.
* Buffers are the caller's, and long-lived: ``Registers`` is filled and stored in place.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

from ptrace.binding.func import (
    PTRACE_CONT,
    PTRACE_DETACH,
    PTRACE_GETEVENTMSG,
    PTRACE_GETFPREGS,
    PTRACE_GETREGS,
    PTRACE_GETSIGINFO,
    PTRACE_O_TRACECLONE,
    PTRACE_O_TRACEEXEC,
    PTRACE_O_TRACEFORK,
    PTRACE_O_TRACESYSGOOD,
    PTRACE_O_TRACEVFORK,
    PTRACE_POKEUSER,
    PTRACE_SETFPREGS,
    PTRACE_SETOPTIONS,
    PTRACE_SETREGS,
    PTRACE_SETSIGINFO,
    PTRACE_SINGLESTEP,
    PTRACE_SYSCALL,
)

from dprobed.program.registers import USER_REGS

# <linux/ptrace.h>; python-ptrace does not know those that came with PTRACE_SEIZE (Linux 3.4).
PTRACE_SEIZE: Final = 0x4206
PTRACE_INTERRUPT: Final = 0x4207
PTRACE_LISTEN: Final = 0x4208
PTRACE_GETSIGMASK: Final = 0x420A
PTRACE_SETSIGMASK: Final = 0x420B
PTRACE_GETREGSET: Final = 0x4204
PTRACE_GET_RSEQ_CONFIGURATION: Final = 0x420F
PTRACE_O_EXITKILL: Final = 1 << 20
PTRACE_O_SUSPEND_SECCOMP: Final = 1 << 21
#: PTRACE_O_EXITKILL is never among them: our death must not be the target's.
OPTIONS: Final[int] = (
    PTRACE_O_TRACESYSGOOD
    | PTRACE_O_TRACEFORK
    | PTRACE_O_TRACEVFORK
    | PTRACE_O_TRACECLONE
    | PTRACE_O_TRACEEXEC
)

WALL: Final = 0x40000000
WNOHANG: Final = os.WNOHANG
#: Offset of ``u_debugreg`` in ``struct user`` (arch/x86/include/asm/user_64.h).
DEBUGREG_OFFSET: Final = 848

RIP: Final = USER_REGS.index("rip")
RSP: Final = USER_REGS.index("rsp")
RAX: Final = USER_REGS.index("rax")
RCX: Final = USER_REGS.index("rcx")
RDI: Final = USER_REGS.index("rdi")
RSI: Final = USER_REGS.index("rsi")
RDX: Final = USER_REGS.index("rdx")
R10: Final = USER_REGS.index("r10")
R8: Final = USER_REGS.index("r8")
R9: Final = USER_REGS.index("r9")
CS: Final = USER_REGS.index("cs")
EFLAGS: Final = USER_REGS.index("eflags")
ORIG_RAX: Final = USER_REGS.index("orig_rax")
FS_BASE: Final = USER_REGS.index("fs_base")

REGS_SIZE: Final = 8 * len(USER_REGS)
FPREGS_SIZE: Final = 512
SIGINFO_SIZE: Final = 128

_libc = ctypes.PyDLL(None, use_errno=True)
_ptrace = _libc.ptrace
_ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_ptrace.restype = ctypes.c_long


class PtraceError(OSError):
    """A ptrace call failed for another reason than the tracee's end."""


class Gone(Exception):
    """The thread is not there any more: killed, or taken away by another thread's ``exec``."""

    def __init__(self, tid: int) -> None:
        super().__init__(f"thread {tid} is gone")
        self.tid = tid


class Block:
    """Bytes at a fixed address, to be filled and read by the kernel."""

    __slots__ = ("_anchor", "address", "data")

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self._anchor = (ctypes.c_char * size).from_buffer(self.data)
        self.address: Final[int] = ctypes.addressof(self._anchor)


class Registers(Block):
    """A ``struct user_regs_struct``: ``words[RIP]`` reads and writes one register."""

    __slots__ = ("words",)

    def __init__(self) -> None:
        super().__init__(REGS_SIZE)
        self.words = memoryview(self.data).cast("Q")

    def load(self, tid: int) -> memoryview:
        """Fetch the registers of a stopped thread; raises Gone."""
        call(PTRACE_GETREGS, tid, 0, self.address)
        return self.words

    def store(self, tid: int) -> None:
        """Give them to a stopped thread; raises Gone."""
        call(PTRACE_SETREGS, tid, 0, self.address)


def call(request: int, tid: int, address: int = 0, data: int = 0) -> int:
    """One ptrace call; raises Gone and PtraceError. Not for PEEK requests."""
    result: int = _ptrace(request, tid, address, data)
    if result < 0:
        fail(tid)
    return result


def fail(tid: int) -> None:
    """Raise what the errno of the ptrace call just made says."""
    number = ctypes.get_errno()
    if number == errno.ESRCH:
        raise Gone(tid)
    raise PtraceError(number, os.strerror(number))


#: For the trap engine's loop: the bare calls, -1 on failure (then ``ctypes.get_errno``).
raw_ptrace = _ptrace
raw_waitpid = _libc.waitpid
raw_waitpid.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_long]
raw_waitpid.restype = ctypes.c_int


def seize(tid: int) -> None:
    """Become the tracer of ``tid`` without stopping it; raises PtraceError (EPERM) and Gone."""
    call(PTRACE_SEIZE, tid, 0, OPTIONS)


def interrupt(tid: int) -> None:
    """Make a running thread stop with PTRACE_EVENT_STOP."""
    call(PTRACE_INTERRUPT, tid)


def cont(tid: int, signal: int = 0) -> None:
    """Let a stopped thread run; ``signal`` is delivered if it stopped for a signal."""
    call(PTRACE_CONT, tid, 0, signal)


def listen(tid: int) -> None:
    """Leave a thread in its group-stop, but be told when it ends."""
    call(PTRACE_LISTEN, tid)


def step(tid: int, signal: int = 0) -> None:
    """Let a stopped thread execute one instruction (or enter a handler for ``signal``)."""
    call(PTRACE_SINGLESTEP, tid, 0, signal)


def to_syscall(tid: int) -> None:
    """Let a stopped thread run to the entry, or from there to the exit, of a system call."""
    call(PTRACE_SYSCALL, tid)


def detach(tid: int, signal: int = 0) -> None:
    """Let go of a stopped thread for good."""
    call(PTRACE_DETACH, tid, 0, signal)


def set_options(tid: int, options: int) -> None:
    """Replace the options given at ``seize``."""
    call(PTRACE_SETOPTIONS, tid, 0, options)


_word = Block(8)
_mask = Block(8)


def event_message(tid: int) -> int:
    """What a PTRACE_EVENT stop is about: the new child, or the former tid at an ``exec``."""
    call(PTRACE_GETEVENTMSG, tid, 0, _word.address)
    return int.from_bytes(_word.data, "little")


def get_siginfo(tid: int) -> bytes:
    """The siginfo_t of a signal-delivery-stop (128 bytes)."""
    block = Block(SIGINFO_SIZE)
    call(PTRACE_GETSIGINFO, tid, 0, block.address)
    return bytes(block.data)


def set_siginfo(tid: int, info: bytes) -> None:
    """Replace the siginfo_t of the signal that is about to be delivered."""
    block = Block(SIGINFO_SIZE)
    block.data[:] = info
    call(PTRACE_SETSIGINFO, tid, 0, block.address)


def get_sigmask(tid: int) -> int:
    """The thread's blocked signals: bit n-1 is signal n."""
    call(PTRACE_GETSIGMASK, tid, 8, _mask.address)
    return int.from_bytes(_mask.data, "little")


def set_sigmask(tid: int, mask: int) -> None:
    """Set the thread's blocked signals."""
    _mask.data[:] = mask.to_bytes(8, "little")
    call(PTRACE_SETSIGMASK, tid, 8, _mask.address)


def get_fpregs(tid: int, block: Block) -> None:
    """The 512-byte FXSAVE image."""
    call(PTRACE_GETFPREGS, tid, 0, block.address)


def set_fpregs(tid: int, block: Block) -> None:
    """Store the 512-byte FXSAVE image."""
    call(PTRACE_SETFPREGS, tid, 0, block.address)


def get_regset(tid: int, note: int, block: Block) -> bytes:
    """The register set that an ELF note type names, as the kernel's own core dump has it."""
    vector = Block(16)
    vector.data[:] = block.address.to_bytes(8, "little") + len(block.data).to_bytes(8, "little")
    call(PTRACE_GETREGSET, tid, note, vector.address)
    return bytes(block.data[: int.from_bytes(vector.data[8:], "little")])


def peek_debug(tid: int, index: int) -> int:
    """Debug register ``index`` of a stopped thread."""
    # The raw system call stores the word at *data; glibc's wrapper returns it instead, so that -1
    # is ambiguous (ptrace(2), "C library/kernel differences").
    if _syscall(101, 3, tid, DEBUGREG_OFFSET + 8 * index, _word.address) < 0:
        fail(tid)
    return int.from_bytes(_word.data, "little")


def poke_debug(tid: int, index: int, value: int) -> None:
    """Set debug register ``index``; raises PtraceError (EINVAL, ENOSPC) when it cannot be."""
    call(PTRACE_POKEUSER, tid, DEBUGREG_OFFSET + 8 * index, value)


_syscall = _libc.syscall
_syscall.argtypes = [ctypes.c_long] * 5
_syscall.restype = ctypes.c_long


def rseq_address(tid: int) -> int:
    """Where the thread's ``struct rseq`` lies (its second word is the CPU), 0 if it has none or is
    gone.

    PTRACE_GET_RSEQ_CONFIGURATION, Linux 5.13; glibc registers one from 2.35 on.
    """
    block = Block(24)
    try:
        call(PTRACE_GET_RSEQ_CONFIGURATION, tid, 24, block.address)
    except (PtraceError, Gone):
        return 0
    return int.from_bytes(block.data[:8], "little")


#: NT_X86_XSTATE (include/uapi/linux/elf.h): the XSAVE area.
_XSTATE: Final = 0x202
_PTRACE_GETREGSET: Final = 0x4204
_PTRACE_SETREGSET: Final = 0x4205
_XSTATE_ROOM: Final = 16384


def get_xstate(tid: int) -> bytes:
    """The XSAVE area in standard form, as long as this machine's is."""
    block, vector = Block(_XSTATE_ROOM), Block(16)
    vector.data[:] = block.address.to_bytes(8, "little") + _XSTATE_ROOM.to_bytes(8, "little")
    call(_PTRACE_GETREGSET, tid, _XSTATE, vector.address)
    return bytes(block.data[: int.from_bytes(vector.data[8:], "little")])


def set_xstate(tid: int, data: bytes) -> None:
    """Store an XSAVE area that ``get_xstate`` gave."""
    block, vector = Block(len(data)), Block(16)
    block.data[:] = data
    vector.data[:] = block.address.to_bytes(8, "little") + len(data).to_bytes(8, "little")
    call(_PTRACE_SETREGSET, tid, _XSTATE, vector.address)


def send(tgid: int, tid: int, signal: int) -> None:
    """Send a signal to one thread (tgkill); one that is gone does not get it."""
    _syscall(234, tgid, tid, signal, 0)
