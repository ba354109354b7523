"""What a running probe program can see and alter of the thread that hit the probe.

The executors know nothing of ptrace: they are given an object of this shape. The trap engine
implements it on a stopped thread; the case files of the tests implement it on a table of memory.
"""

from __future__ import annotations

from typing import Final, Protocol

#: Names of ``struct user_regs_struct`` in the kernel's order (arch/x86/include/asm/user_64.h); the
#: index of a name is its index in ``Context.regs``.
USER_REGS: Final[tuple[str, ...]] = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx",
    "rsi", "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds",
    "es", "fs", "gs",
)  # fmt: skip


class MemoryFault(Exception):
    """An access to memory of the target that is not mapped, or not permitted.

    ``address`` is the first byte that could not be accessed.
    """

    def __init__(self, address: int) -> None:
        super().__init__(f"cannot access memory at {address:#x}")
        self.address = address


class Registers(Protocol):
    """27 words of 64 bits, unsigned, in the order of ``USER_REGS`` (a memoryview cast to ``Q``)."""

    def __getitem__(self, index: int, /) -> int: ...
    def __setitem__(self, index: int, value: int, /) -> None: ...


class Context(Protocol):
    """One hit of one probe, as the executor of its program sees it.

    ``regs[USER_REGS.index("rip")]`` is the address of the probed instruction; a program that
    stores another value there makes the thread go on at that address. ``fpregs()`` is the
    512-byte FXSAVE image (Intel SDM vol. 1, table 10-2); who alters it sets ``fp_dirty``.
    """

    regs: Registers
    fp_dirty: bool

    @property
    def pid(self) -> int:
        """The process (thread group) of the thread."""
        ...

    @property
    def tid(self) -> int:
        """The thread."""
        ...

    @property
    def uid(self) -> int:
        """The thread's real user id."""
        ...

    @property
    def gid(self) -> int:
        """The thread's real group id."""
        ...

    @property
    def cpu(self) -> int:
        """The CPU on which the thread hit the probe."""
        ...

    @property
    def comm(self) -> bytes:
        """The thread's name (at most 15 bytes)."""
        ...

    def fpregs(self) -> bytearray:
        """The thread's x87 and SSE state; the same object for the whole hit."""
        ...

    def now(self) -> int:
        """Monotonic time in nanoseconds."""
        ...

    def read(self, address: int, length: int) -> bytes:
        """Exactly ``length`` bytes of the target; raises MemoryFault."""
        ...

    def read_partial(self, address: int, length: int) -> bytes:
        """As many bytes as are readable from ``address`` on: at most ``length``, maybe none."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Write to writable memory of the target; nothing is written when MemoryFault is raised."""
        ...

    def writable(self, address: int) -> bool:
        """Whether the byte at ``address`` may be written by the target itself."""
        ...
