"""Threads, registers and memory of a held target, for a debugger to read and write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dprobed.arch.x86_64.gdb_registers import XSAVE_AVX, Layout
from dprobed.arch.x86_64.registers import FS_BASE
from dprobed.proc import procfs
from dprobed.tracee import ptrace
from dprobed.tracee.ptrace import Gone
from dprobed.tracee.thread import Thread
from dprobed.tracer.debug import rsp
from dprobed.tracer.debug.control import Control
from dprobed.tracer.engines import Engines

OK: Final = b"OK"
ERROR: Final = b"E01"
#: In libc: bits, number and offset of ``l_tls_modid`` in ``struct link_map`` (nptl_db).
_MODID_LAYOUT: Final = b"_thread_db_link_map_l_tls_modid"
_UNALLOCATED: Final = 1 << 63


def hexed(data: bytes) -> bytes:
    """Bytes in hex, as packets have them."""
    return data.hex().encode()


class HeldTarget:
    """Answers one debugger's packets about threads, registers and memory."""

    def __init__(self, pid: int, engines: Engines, control: Control) -> None:
        #: The thread chosen by ``H``, for packets that name none.
        self.tid = pid
        #: Whether thread ids have the process id, too.
        self.multiprocess = False
        self._pid: Final = pid
        self._engines: Final = engines
        self._control: Final = control
        self._layout: Layout | None = None
        self._modid_layout = 0

    # --- threads ---

    def name(self, tid: int) -> bytes:
        """A thread id, as packets have it."""
        return b"p%x.%x" % (self._pid, tid) if self.multiprocess else b"%x" % tid

    def select(self, rest: bytes) -> bytes:
        """``H``: choose the thread for the packets that follow."""
        if rest[:1] == b"c":
            return OK
        wanted = rsp.thread_id(rest[1:])
        if wanted.tid > 0:
            if self._control.thread(wanted.tid) is None:
                return ERROR
            self.tid = wanted.tid
        return OK

    def thread(self) -> Thread:
        """The chosen thread; raises Gone."""
        thread = self._control.thread(self.tid)
        if thread is None:
            raise Gone(self.tid)
        return thread

    def is_alive(self, rest: bytes) -> bytes:
        """``T``."""
        return OK if self._control.thread(rsp.thread_id(rest).tid) is not None else ERROR

    def thread_ids(self, _: bytes) -> bytes:
        """``qfThreadInfo``: all of them."""
        return b"m" + b",".join(self.name(thread.tid) for thread in self._control.threads())

    # --- registers and memory ---

    def table(self, thread: Thread) -> Layout:
        """The numbering of this machine's registers; raises Gone."""
        if self._layout is None:
            self._layout = Layout(avx=len(ptrace.get_xstate(thread.tid)) >= XSAVE_AVX)
        return self._layout

    def registers(self) -> bytes:
        """``g``; raises Gone."""
        thread = self.thread()
        general = bytes(self._control.read_general(thread))
        return hexed(self.table(thread).read_all(general, ptrace.get_xstate(thread.tid)))

    def register(self, rest: bytes) -> bytes:
        """``p``; raises Gone."""
        thread = self.thread()
        general = bytes(self._control.read_general(thread))
        table = self.table(thread)
        return hexed(table.read(rsp.number(rest), general, ptrace.get_xstate(thread.tid)))

    def set_registers(self, rest: bytes) -> bytes:
        """``G``; raises Gone."""
        data = rsp.unhex(rest)
        return self._change(lambda table, blocks: table.write_all(data, *blocks))

    def set_register(self, rest: bytes) -> bytes:
        """``P``; raises Gone."""
        name, _, value = rest.partition(b"=")
        number, data = rsp.number(name), rsp.unhex(value)
        return self._change(lambda table, blocks: table.write(number, data, *blocks))

    def _change(self, change: Callable[[Layout, tuple[bytearray, bytearray]], None]) -> bytes:
        thread = self.thread()
        general = self._control.read_general(thread)
        xsave = bytearray(ptrace.get_xstate(thread.tid))
        before = bytes(xsave)
        change(self.table(thread), (general, xsave))
        self._control.write_general(thread, general)
        if xsave != before:
            ptrace.set_xstate(thread.tid, bytes(xsave))
        return OK

    def read(self, rest: bytes) -> bytes:
        """``m``: memory without our changes."""
        address, length = rsp.numbers(rest, 2)
        data = self._engines.original(address, min(length, rsp.MAX_PACKET // 2))
        return hexed(data) if data or not length else ERROR

    def write_hex(self, rest: bytes) -> bytes:
        """``M``."""
        where, _, data = rest.partition(b":")
        return self._store(where, rsp.unhex(data))

    def write(self, rest: bytes) -> bytes:
        """``X``."""
        where, _, data = rest.partition(b":")
        return self._store(where, data)

    def _store(self, where: bytes, data: bytes) -> bytes:
        address, length = rsp.numbers(where, 2)
        if length != len(data):
            return ERROR
        if self._engines.displaces(address, length):
            # What runs there is our copy: the code of a probe cannot be changed under it.
            return ERROR
        space = self._engines.space
        return OK if not data or space.memory.poke(address, data) else ERROR

    def symbol(self, rest: bytes) -> bytes:
        """``qSymbol``: have the debugger look up where glibc describes its link_map."""
        value, _, name = rest.partition(b":")
        if name == hexed(_MODID_LAYOUT):
            self._modid_layout = rsp.number(value) if value else 0
            return OK
        return b"qSymbol:" + hexed(_MODID_LAYOUT)

    def thread_local(self, rest: bytes) -> bytes:
        """``qGetTLSAddr``: the address of a thread-local variable: thread, offset, link_map."""
        who, _, where = rest.partition(b",")
        offset, link_map = rsp.numbers(where, 2)
        thread = self._control.thread(rsp.thread_id(who).tid)
        if thread is None or not self._modid_layout:
            return ERROR
        words = memoryview(self._control.read_general(thread)).cast("Q")
        layout = self._word(self._modid_layout + 8) & 0xFFFF_FFFF
        module = self._word(link_map + layout)
        # tcbhead_t's second word (nptl's tls.h), an array of dtv_t: a pointer and what to free.
        block = self._word(self._word(words[FS_BASE] + 8) + 16 * module)
        # Not allocated yet: the thread has not used any variable of that module.
        return ERROR if not module or block >= _UNALLOCATED else b"%x" % (block + offset)

    def _word(self, address: int) -> int:
        data = self._engines.space.memory.peek(address, 8)
        if len(data) != 8:
            raise rsp.PacketError(f"no memory at {address:#x}")
        return int.from_bytes(data, "little")

    def threads_xml(self) -> bytes:
        """``qXfer:threads``: with names and CPUs."""
        lines = []
        for thread in self._control.threads():
            name = procfs.comm(thread.tid).decode(errors="replace")
            safe = name.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
            core = procfs.cpu(thread.tid)
            ident = self.name(thread.tid).decode()
            lines.append(f'<thread id="{ident}" core="{core}" name="{safe}"/>')
        return f"<threads>{''.join(lines)}</threads>".encode()
