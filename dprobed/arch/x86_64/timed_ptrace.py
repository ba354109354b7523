"""A ptrace call that ends with EINTR where it takes too long.

PTRACE_SEIZE waits while the process executes a program (``cred_guard_mutex``, fs/exec.c), which may
take without end: for a file of a file system that does not answer, or for the tracer itself to
collect threads that the ``exec`` has ended. A signal wakes it, but the kernel then restarts the
call behind the handler (ERESTARTNOINTR). So the handler is machine code, too, which moves the
interrupted thread from before the system call to behind it. That needs no C extension, as
``resume_and_wait`` does not; where nothing executable may be mapped the call has no limit.
"""

from __future__ import annotations

import ctypes
import signal
from typing import Final

from dprobed.arch.x86_64 import code_page
from dprobed.arch.x86_64.signal_frame import SA_SIGINFO

#: The machine code with its listing; jumps lead to offsets. ``ptrace`` with the arguments of the C
#: function, and from 0Bh a signal handler with SA_SIGINFO: rdx has the ``ucontext_t``.
CODE: Final = (
    ("49 89 ca", "mov r10,rcx"),
    ("b8 65 00 00 00", "mov eax,65h"),  # ptrace
    ("0f 05", "syscall"),  # 8
    ("c3", "ret"),
    ("48 8d 05 f6 ff ff ff", "lea rax,[rel 8]"),  # 0Bh
    ("48 39 82 a8 00 00 00", "cmp [rdx+0A8h],rax"),  # rip
    ("75 13", "jne 2Eh"),
    ("48 83 82 a8 00 00 00 02", "add qword [rdx+0A8h],2"),
    ("48 c7 82 90 00 00 00 fc ff ff ff", "mov qword [rdx+90h],0FFFFFFFFFFFFFFFCh"),  # rax: EINTR
    ("c3", "ret"),  # 2Eh
)
_HANDLER: Final = 0x0B
#: Seconds from the first signal to the next, should the call not have begun at the first.
_AGAIN: Final = 0.02


class _Action(ctypes.Structure):
    """``struct sigaction`` of the C library."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


_libc: Final = ctypes.PyDLL(None, use_errno=True)
_sigaction: Final = _libc.sigaction
_sigaction.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]


class TimedPtrace:
    """Makes ptrace calls that may take so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds: Final = seconds
        self._address = 0

    def call(self, request: int, tid: int, address: int, data: int) -> int:
        """The call's result, or a negative errno; raises OSError where no code can be mapped.

        Takes SIGALRM and its timer for the time of the call.
        """
        if not self._address:
            self._address = code_page.mapped(b"".join(bytes.fromhex(each) for each, _ in CODE))
        code = ctypes.PYFUNCTYPE(ctypes.c_long, *[ctypes.c_long] * 4)(self._address)
        ours, before = _Action(self._address + _HANDLER, flags=SA_SIGINFO), _Action()
        left, interval = signal.getitimer(signal.ITIMER_REAL)
        _sigaction(signal.SIGALRM, ctypes.byref(ours), ctypes.byref(before))
        try:
            signal.setitimer(signal.ITIMER_REAL, self._seconds, _AGAIN)
            return int(code(request, tid, address, data))
        finally:
            # A tick that came meanwhile is lost, and the next one is soon.
            signal.setitimer(signal.ITIMER_REAL, left or interval, interval)
            _sigaction(signal.SIGALRM, ctypes.byref(before), None)
