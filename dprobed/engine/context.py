"""What a program reads and alters of the thread that hit: ``program.exec.interface.Context``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from dprobed.arch.x86_64.registers import FPREGS_SIZE
from dprobed.proc import procfs
from dprobed.proc.names import NAMES
from dprobed.program.exec.interface import Reader
from dprobed.program.exec.interface import Registers as Words
from dprobed.program.user_stack import UserStack
from dprobed.tracee import memory, ptrace
from dprobed.tracee.ptrace import FixedBuffer, Registers


class Facts:
    """Cached facts about a thread (user, CPU), so that not every hit reads them.

    ``comm``: of its latest record. ``cpu_address``: where its ``struct rseq`` has the CPU, 0 if it
    has none, -1 until that is known. ``revocable``: the latest hit's records, which a fault of the
    instruction withdraws.
    """

    __slots__ = (
        "comm",
        "cpu",
        "cpu_address",
        "cpu_until",
        "gid",
        "identity_until",
        "revocable",
        "uid",
    )

    def __init__(self) -> None:
        self.comm = b""
        self.uid = 0
        self.gid = 0
        self.identity_until = 0
        self.cpu = -1
        self.cpu_until = 0
        self.cpu_address = -1
        self.revocable: tuple[int, ...] = ()


class HitContext:
    """The context of the hit being served; one object, since hits come one after the other."""

    __slots__ = (
        "_fpregs",
        "_walk",
        "arguments",
        "facts",
        "fp_dirty",
        "has_fpregs",
        "kept",
        "known_cpu",
        "memory",
        "pid",
        "regs",
        "tid",
    )

    def __init__(self, registers: Registers, walk: Callable[[HitContext, int], UserStack]) -> None:
        """``walk``: see ``Listener.user_stack``."""
        #: Of the present address space.
        self.memory = memory.Memory.closed()
        self._walk: Callable[[HitContext, int], UserStack] = walk
        self.regs: Words = registers.words
        # Set at each hit by who serves it, since a call would cost more than all of this.
        #: See Context: the thread that hit, and what is known of it.
        self.pid = self.tid = 0
        self.facts = Facts()
        #: See Context: set by who serves a probe at the return.
        self.kept: list[int] = []
        self.arguments: Sequence[Reader] = ()
        #: The CPU of this hit, once asked for.
        self.known_cpu = -1
        #: Whether ``fpregs`` are those of this hit.
        self.has_fpregs = False
        self.fp_dirty = False
        self._fpregs = FixedBuffer(FPREGS_SIZE)

    def forget_fpregs(self) -> None:
        """A new hit began: the ones that are here are of another."""
        self.has_fpregs = self.fp_dirty = False

    def leave(self) -> None:
        """Store what the program altered besides the general registers; raises Gone."""
        if self.fp_dirty:
            ptrace.set_fpregs(self.tid, self._fpregs)
            self.fp_dirty = False

    @property
    def uid(self) -> int:
        """See Context: read anew, since a decision may depend on it."""
        return self._identify().uid

    @property
    def gid(self) -> int:
        """See Context."""
        return self._identify().gid

    def _identify(self) -> Facts:
        facts = self.facts
        found = procfs.real_ids(self.tid)
        if found is not None:
            facts.uid, facts.gid = found
        return facts

    @property
    def comm(self) -> bytes:
        """See Context."""
        return NAMES.of(self.tid)

    @property
    def cpu(self) -> int:
        """From the thread's ``struct rseq``, which the kernel keeps current; else from /proc."""
        if self.known_cpu < 0:
            self.known_cpu = self._find_cpu()
        return self.known_cpu

    def _find_cpu(self) -> int:
        tid, facts = self.tid, self.facts
        if facts.cpu_address < 0:
            rseq = ptrace.rseq_address(tid)
            facts.cpu_address = rseq + 4 if rseq else 0
        if facts.cpu_address:
            found = int.from_bytes(self.memory.glance(facts.cpu_address, 4), "little")
            # Until the thread first returns to user space the field says "uninitialized" (-1).
            if 0 <= found < 0x8000_0000:
                return found
        return procfs.cpu(tid)

    def fpregs(self) -> bytearray:
        """See Context."""
        if not self.has_fpregs:
            ptrace.get_fpregs(self.tid, self._fpregs)
            self.has_fpregs = True
        return self._fpregs.data

    def now(self) -> int:
        """See Context."""
        return time.monotonic_ns()

    def user_stack(self, depth: int) -> UserStack:
        """See Context."""
        return self._walk(self, depth)

    def read(self, address: int, length: int) -> bytes:
        """See Context."""
        return self.memory.read(self.tid, address, length)

    def read_partial(self, address: int, length: int) -> bytes:
        """See Context."""
        return self.memory.read_partial(self.tid, address, length)

    def write(self, address: int, data: bytes) -> None:
        """See Context."""
        self.memory.write(self.tid, address, data)

    def writable(self, address: int) -> bool:
        """See Context."""
        return memory.writable(self.tid, address)
