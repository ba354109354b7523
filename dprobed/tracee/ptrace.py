"""The ptrace(2) calls that dprobed makes, one function each.

Rules:

* The calls go through python-ptrace's binding, which the numbers and structures are from, too. Only
  those that a hit can pay for (GETREGS, SETREGS, POKEUSER, CONT, ``waitpid``) are bare calls of the
  C library: GETREGS takes 1.7 us so, 2.2 through the binding, 2.4 with a new structure each time.
  Those that every hit pays for are made by ``hit_wait``.
* ESRCH means that the tracee died or is not stopped (it was killed between two of our calls). It
  is caught here only, and becomes ``Gone``. Everything else is a ``PtraceError``.
* Buffers are the caller's, and long-lived: ``Registers`` is filled and stored in place.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Final

from dprobed.arch.x86_64 import python_ptrace
from dprobed.arch.x86_64.python_ptrace import binding, structures
from dprobed.arch.x86_64.registers import (
    DEBUGREG_OFFSET,
    NT_X86_XSTATE,
    REGISTERS_SIZE,
    RIP,
    XSTATE_ROOM,
)
from dprobed.arch.x86_64.siginfo import SIGINFO_SIZE
from dprobed.arch.x86_64.syscalls import SYS_TGKILL
from dprobed.arch.x86_64.timed_ptrace import TimedPtrace

PTRACE_CONT: Final[int] = binding.PTRACE_CONT
PTRACE_GETREGS: Final[int] = binding.PTRACE_GETREGS
PTRACE_SETREGS: Final[int] = binding.PTRACE_SETREGS
PTRACE_POKEUSER: Final[int] = binding.PTRACE_POKEUSER
PTRACE_SEIZE: Final = python_ptrace.PTRACE_SEIZE
PTRACE_INTERRUPT: Final = python_ptrace.PTRACE_INTERRUPT
# <linux/ptrace.h>; python-ptrace does not know these either.
PTRACE_LISTEN: Final = 0x4208
PTRACE_GETSIGMASK: Final = 0x420A
PTRACE_SETSIGMASK: Final = 0x420B
PTRACE_SECCOMP_GET_FILTER: Final = 0x420C
PTRACE_GET_RSEQ_CONFIGURATION: Final = 0x420F
PTRACE_O_EXITKILL: Final = 1 << 20
PTRACE_O_SUSPEND_SECCOMP: Final = 1 << 21
#: PTRACE_O_EXITKILL is never among them: our death must not be the target's.
OPTIONS: Final[int] = (
    binding.PTRACE_O_TRACESYSGOOD
    | binding.PTRACE_O_TRACEFORK
    | binding.PTRACE_O_TRACEVFORK
    | binding.PTRACE_O_TRACECLONE
    | binding.PTRACE_O_TRACEEXEC
)

#: Seconds for which a process that executes a program is waited for.
_EXEC: Final = 0.2
_timed: Final = TimedPtrace(_EXEC)

#: ``struct sock_filter``
_INSTRUCTION: Final = struct.Struct("<HBBI")

#: For ``waitpid``: threads as well as processes.
WALL: Final[int] = binding.THREAD_TRACE_FLAGS

_libc = ctypes.PyDLL(None, use_errno=True)


class PtraceError(OSError):
    """A ptrace call failed for another reason than the tracee's end."""


class Executes(PtraceError):
    """The process is in the middle of ``exec``, and stays there."""


class Gone(Exception):
    """The thread is not there any more: killed, or taken away by another thread's ``exec``."""

    def __init__(self, tid: int) -> None:
        super().__init__(f"thread {tid} is gone")
        self.tid = tid


class FixedBuffer:
    """Bytes at a fixed address, to be filled and read by the kernel."""

    __slots__ = ("_anchor", "address", "data")

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self._anchor = (ctypes.c_char * size).from_buffer(self.data)
        self.address: Final[int] = ctypes.addressof(self._anchor)


class Registers(FixedBuffer):
    """A ``struct user_regs_struct``: ``words[RIP]`` reads and writes one register."""

    __slots__ = ("words",)

    def __init__(self) -> None:
        super().__init__(REGISTERS_SIZE)
        self.words = memoryview(self.data).cast("Q")

    def load(self, tid: int) -> memoryview:
        """Read the registers of a stopped thread; raises Gone."""
        call(PTRACE_GETREGS, tid, 0, self.address)
        return self.words

    def store(self, tid: int) -> None:
        """Set the registers of a stopped thread; raises Gone."""
        call(PTRACE_SETREGS, tid, 0, self.address)


# --- bare calls, for what a hit pays for ---

#: -1 on failure (then ``ctypes.get_errno``).
raw_ptrace = _libc.ptrace
raw_ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
raw_ptrace.restype = ctypes.c_long
raw_waitpid = _libc.waitpid
raw_waitpid.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_long]
raw_waitpid.restype = ctypes.c_int


def call(request: int, tid: int, address: int = 0, data: int = 0) -> None:
    """A bare ptrace call; raises Gone and PtraceError. Not for PEEK requests."""
    if raw_ptrace(request, tid, address, data) < 0:
        raise _error(tid, ctypes.get_errno())


def _error(tid: int, number: int) -> Gone | PtraceError:
    """The exception for an errno of a ptrace call."""
    return Gone(tid) if number == errno.ESRCH else PtraceError(number, os.strerror(number))


def cont(tid: int, signal: int = 0) -> None:
    """Let a stopped thread run; ``signal`` is delivered if it stopped for a signal."""
    call(PTRACE_CONT, tid, 0, signal)


def go_to(tid: int, address: int) -> None:
    """Set where a stopped thread goes on: cheaper than to store all registers; raises Gone."""
    call(PTRACE_POKEUSER, tid, 8 * RIP, address)


def poke_debug(tid: int, index: int, value: int) -> None:
    """Set debug register ``index``; raises PtraceError (EINVAL, ENOSPC) when it cannot be."""
    call(PTRACE_POKEUSER, tid, DEBUGREG_OFFSET + 8 * index, value)


# --- calls by way of python-ptrace ---


def bound_call(request: int, tid: int, address: int = 0, data: int = 0, peek: bool = False) -> int:
    """A call through python-ptrace; raises Gone and PtraceError. ``peek``: it returns a word."""
    if peek:
        # The word -1 is told from a failure by errno, which the binding expects to be 0.
        ctypes.set_errno(0)
    try:
        result: int = binding.ptrace(request, tid, address, data, check_errno=peek)
    except binding.PtraceError as error:
        raise _error(tid, error.errno) from None
    return result


def seize(tid: int) -> None:
    """Become the tracer of ``tid`` without stopping it; raises PtraceError (EPERM) and Gone, and
    Executes where it would have to wait."""
    try:
        result = _timed.call(PTRACE_SEIZE, tid, 0, OPTIONS)
    except OSError:  # no code can be mapped: without a limit
        bound_call(PTRACE_SEIZE, tid, 0, OPTIONS)
        return
    if result == -errno.EINTR:
        raise Executes(errno.EINTR, "it executes a program, and does not get on with that")
    if result < 0:
        raise _error(tid, -result)


def interrupt(tid: int) -> None:
    """Make a running thread stop with PTRACE_EVENT_STOP."""
    bound_call(PTRACE_INTERRUPT, tid)


def listen(tid: int) -> None:
    """Leave a thread in its group-stop, but be told when it ends."""
    bound_call(PTRACE_LISTEN, tid)


def step(tid: int, signal: int = 0) -> None:
    """Let a stopped thread execute one instruction (or enter a handler for ``signal``)."""
    bound_call(binding.PTRACE_SINGLESTEP, tid, 0, signal)


def to_syscall(tid: int) -> None:
    """Let a stopped thread run to the entry, or from there to the exit, of a system call."""
    bound_call(binding.PTRACE_SYSCALL, tid)


def detach(tid: int, signal: int = 0) -> None:
    """Cease to be the tracer of a stopped thread, which goes on, with this signal if any."""
    bound_call(binding.PTRACE_DETACH, tid, 0, signal)


def set_options(tid: int, options: int) -> None:
    """Replace the options given at ``seize``."""
    bound_call(binding.PTRACE_SETOPTIONS, tid, 0, options)


_word = FixedBuffer(8)
_mask = FixedBuffer(8)


def event_message(tid: int) -> int:
    """What a PTRACE_EVENT stop is about: the new child, or the former tid at an ``exec``."""
    # The binding's own function has room for four of the eight bytes that the kernel stores.
    bound_call(binding.PTRACE_GETEVENTMSG, tid, 0, _word.address)
    return int.from_bytes(_word.data, "little")


def get_siginfo(tid: int) -> bytes:
    """The siginfo_t of a signal-delivery-stop (128 bytes)."""
    block = FixedBuffer(SIGINFO_SIZE)
    bound_call(binding.PTRACE_GETSIGINFO, tid, 0, block.address)
    return bytes(block.data)


def set_siginfo(tid: int, info: bytes) -> None:
    """Replace the siginfo_t of the signal that is about to be delivered."""
    block = FixedBuffer(SIGINFO_SIZE)
    block.data[:] = info
    bound_call(binding.PTRACE_SETSIGINFO, tid, 0, block.address)


def get_sigmask(tid: int) -> int:
    """The thread's blocked signals: bit n-1 is signal n."""
    bound_call(PTRACE_GETSIGMASK, tid, 8, _mask.address)
    return int.from_bytes(_mask.data, "little")


def set_sigmask(tid: int, mask: int) -> None:
    """Set the thread's blocked signals."""
    _mask.data[:] = mask.to_bytes(8, "little")
    bound_call(PTRACE_SETSIGMASK, tid, 8, _mask.address)


def get_fpregs(tid: int, block: FixedBuffer) -> None:
    """The 512-byte FXSAVE image."""
    bound_call(binding.PTRACE_GETFPREGS, tid, 0, block.address)


def set_fpregs(tid: int, block: FixedBuffer) -> None:
    """Store the 512-byte FXSAVE image."""
    bound_call(binding.PTRACE_SETFPREGS, tid, 0, block.address)


def get_regset(tid: int, note: int, block: FixedBuffer) -> bytes:
    """The register set that an ELF note type names, as the kernel's own core dump has it."""
    vector = structures.iovec_struct(block.address, len(block.data))
    bound_call(binding.PTRACE_GETREGSET, tid, note, ctypes.addressof(vector))
    return bytes(block.data[: vector.len])


def get_xstate(tid: int) -> bytes:
    """The XSAVE area in standard form, as long as this machine's is."""
    return get_regset(tid, NT_X86_XSTATE, FixedBuffer(XSTATE_ROOM))


def set_xstate(tid: int, data: bytes) -> None:
    """Store an XSAVE area that ``get_xstate`` gave."""
    block = FixedBuffer(len(data))
    block.data[:] = data
    vector = structures.iovec_struct(block.address, len(data))
    bound_call(binding.PTRACE_SETREGSET, tid, NT_X86_XSTATE, ctypes.addressof(vector))


def peek_debug(tid: int, index: int) -> int:
    """Debug register ``index`` of a stopped thread."""
    return bound_call(binding.PTRACE_PEEKUSER, tid, DEBUGREG_OFFSET + 8 * index, 0, True)


def rseq_address(tid: int) -> int:
    """Where the thread's ``struct rseq`` lies (its second word is the CPU), 0 if it has none or is
    gone.

    PTRACE_GET_RSEQ_CONFIGURATION, Linux 5.13; glibc registers one from 2.35 on.
    """
    block = FixedBuffer(24)
    try:
        bound_call(PTRACE_GET_RSEQ_CONFIGURATION, tid, 24, block.address)
    except (PtraceError, Gone):
        return 0
    return int.from_bytes(block.data[:8], "little")


def seccomp_filter(tid: int, index: int) -> list[tuple[int, int, int, int]]:
    """A seccomp filter of a stopped thread: code, jumps and operand of each instruction.

    Needs CAP_SYS_ADMIN; raises PtraceError and Gone.
    """
    count = raw_ptrace(PTRACE_SECCOMP_GET_FILTER, tid, index, 0)
    if count < 0:
        raise _error(tid, ctypes.get_errno())
    block = FixedBuffer(count * _INSTRUCTION.size)
    if raw_ptrace(PTRACE_SECCOMP_GET_FILTER, tid, index, block.address) != count:
        raise _error(tid, ctypes.get_errno() or errno.EINVAL)
    return list(_INSTRUCTION.iter_unpack(block.data))


# --- a signal to one thread ---

_syscall = _libc.syscall
_syscall.argtypes = [ctypes.c_long] * 4
_syscall.restype = ctypes.c_long


def send(tgid: int, tid: int, signal: int) -> None:
    """Send a signal to one thread (tgkill); one that is gone does not get it."""
    _syscall(SYS_TGKILL, tgid, tid, signal)
