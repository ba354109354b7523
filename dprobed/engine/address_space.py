"""One address space of a target: what all its engines share.

Its memory, remote system calls, our resident areas, and a debugger's plain breakpoints. What an
engine changes besides, that engine keeps and undoes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dprobed.arch.x86_64.breakpoint import INT3, SYSCALL
from dprobed.arch.x86_64.registers import RIP
from dprobed.arch.x86_64.syscalls import SYS_PRCTL
from dprobed.change_journal import Changes, Kind
from dprobed.engine.errors import SpaceError
from dprobed.engine.remote_calls import RemoteCalls, mappings, note
from dprobed.engine.resident_area import ResidentArea
from dprobed.engine.semaphores import Semaphores
from dprobed.proc import procfs
from dprobed.tracee.memory import Memory
from dprobed.tracee.ptrace import Registers
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup

_PR_SET_DUMPABLE: Final = 4
#: Bytes of text that an engine has for itself at one place, at most.
_LONGEST_OWNED: Final = 32


class AddressSpace:
    """A target's address space; after its ``exec`` a CLONE_VM child may go on in the old one."""

    def __init__(
        self,
        tgid: int,
        memory: Memory,
        calls: RemoteCalls | None = None,
        changes: Changes | None = None,
    ) -> None:
        """``memory`` is closed with it. ``changes``: where they are noted; None: nowhere."""
        self.tgid: Final = tgid
        self.memory: Final = memory
        self.changes: Final = changes or Changes(None, tgid, 0)
        self.calls: Final = calls or RemoteCalls(memory, self.changes)
        self.resident: Final = ResidentArea(tgid, memory, self.calls, self.changes)
        #: A debugger's plain breakpoints, where no site can be (a return to the stack): original
        #: byte by address.
        self.raw: Final[dict[int, bytes]] = {}
        #: Text in which only the engine that has it may change a byte: end by start.
        self.owned: Final[dict[int, int]] = {}
        self.semaphores: Final = Semaphores(memory, self.changes)
        #: Our changes cannot be undone: its memory is closed to us.
        self.sealed = False

    @classmethod
    def unopened(cls, tgid: int) -> AddressSpace:
        """A placeholder while the address space is unknown: nothing can be read there."""
        return cls(tgid, Memory.closed())

    def copy(self, group: ThreadGroup, thread: Thread) -> AddressSpace:
        """The address space of a ``fork`` child, with none of our changes noted in it.

        Raises OSError when the child is gone, SpaceError and Gone.
        """
        memory = self.open_copy(group, thread)
        changes = self.changes.of_child(thread.tgid, procfs.start_time(thread.tgid) or 0)
        return AddressSpace(thread.tgid, memory, self.calls.of_copy(memory, changes), changes)

    def open_copy(self, group: ThreadGroup, thread: Thread) -> Memory:
        """The memory of a ``fork`` child in its first stop.

        Raises OSError when the child is gone, SpaceError and Gone.
        """
        try:
            return Memory(thread.tid)
        except PermissionError:
            # Not dumpable, which it has from its parent, and we are not root: its memory is closed
            # to us, but not its registers. So it opens it itself for that moment. It has just come
            # out of the system call that made it, whose instruction is the way in again: of the
            # parent's memory, in which others are known, nothing may be left.
            gate = Registers().load(thread.tid)[RIP] - len(SYSCALL)
            self.calls.call_at(gate, group, thread, SYS_PRCTL, (_PR_SET_DUMPABLE, 1))
            try:
                return Memory(thread.tid)
            finally:
                self.calls.call_at(gate, group, thread, SYS_PRCTL, (_PR_SET_DUMPABLE, 0))

    def owner_of(self, address: int, length: int) -> int | None:
        """Where text begins that an engine has for itself and that is in a range; None: none is."""
        for at in range(address - _LONGEST_OWNED, address + length):
            end = self.owned.get(at)
            if end is not None and address < end:
                return at
        return None

    def in_shared(self, addresses: Iterable[int]) -> dict[int, str]:
        """Those of these addresses that are in a shared mapping (MAP_SHARED), and why no breakpoint
        can be there: who may write there would write into the file, and who may not, could not
        either through ``/proc/PID/mem`` (FOLL_FORCE is for private mappings only).

        Raises SpaceError and Gone.
        """
        found: dict[int, str] = {}
        lines = iter(mappings(procfs.live_thread(self.tgid)))
        line = next(lines, None)
        for address in sorted(addresses):
            while line is not None and line.end <= address:
                line = next(lines, None)
            if line is not None and line.start <= address and line.perms.endswith(b"s"):
                found[address] = _shared(address)
        return found

    def why_no_code(self, address: int) -> str:
        """Why no breakpoint can be at an address that is perhaps no code; empty: it can.

        Raises SpaceError and Gone.
        """
        for line in mappings(procfs.live_thread(self.tgid)):
            if line.start <= address < line.end:
                if line.perms[2:3] != b"x" or line.name == b"[vsyscall]":
                    break
                return _shared(address) if line.perms.endswith(b"s") else ""
        return f"{address:#x} is no code"

    def write_raw(self, address: int, original: bytes) -> None:
        """Write a debugger's breakpoint where this byte is; raises SpaceError."""
        note(self.changes, Kind.RAW, address, original)
        if not self.memory.poke(address, INT3):
            self.changes.forget(Kind.RAW, address)
            raise SpaceError(f"no memory at {address:#x}")
        self.raw[address] = original

    def remove_raw(self, address: int) -> bool:
        """Take a debugger's breakpoint out, if it is there still; false: it is none."""
        original = self.raw.pop(address, None)
        if original is None:
            return False
        if self.memory.peek(address, 1) == INT3:
            self.memory.poke(address, original)
        self.changes.forget(Kind.RAW, address)
        return True

    def original(self, address: int, data: bytearray) -> None:
        """Undo what no engine changes, in bytes that were read from memory."""
        self.semaphores.original(address, data)
        for where, original in self.raw.items():
            if 0 <= where - address < len(data):
                data[where - address] = original[0]

    def undo_raw(self, memory: Memory) -> None:
        """Take a debugger's breakpoints out of a copy of this space."""
        for address, original in self.raw.items():
            if memory.peek(address, 1) == INT3:
                memory.poke(address, original)

    def close(self) -> None:
        """Forget everything; what is in the target stays."""
        self.memory.close()
        self.changes.clear()
        self.raw.clear()
        self.semaphores.clear()
        self.resident.areas.clear()


def _shared(address: int) -> str:
    return (
        f"the code at {address:#x} is mapped MAP_SHARED: a breakpoint would be written into the "
        "file, for all who map it"
    )
