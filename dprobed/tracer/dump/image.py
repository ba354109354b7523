"""Registers, signals and ids of a process for its core, as they would be without probes.

A thread in a slot is shown at the original place, one that has just executed a breakpoint before
it; one in uninterruptible sleep as /proc tells it.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any, Final

from dprobed.arch.x86_64.breakpoint import TRAP_BRKPT
from dprobed.arch.x86_64.core_notes import NT_PRFPREG
from dprobed.arch.x86_64.paging import WORD
from dprobed.arch.x86_64.registers import (
    NT_X86_XSTATE,
    ORIG_RAX,
    RIP,
    RSP,
    SYSCALL_ARGUMENTS,
    XSTATE_ROOM,
)
from dprobed.corefile.writer import ProcessImage, ThreadImage
from dprobed.engine.context import Facts
from dprobed.engine.probe import Attachment
from dprobed.proc import procfs
from dprobed.program.exec.interface import Outcome
from dprobed.record.log import decode_log
from dprobed.tracee import ptrace
from dprobed.tracee.lifecycle import State
from dprobed.tracee.ptrace import FixedBuffer, Gone, PtraceError, Registers
from dprobed.tracee.signals import trap_is_pending
from dprobed.tracee.thread import Thread
from dprobed.tracer.engines import Engines


class Images:
    """Reads the images of one target's processes and threads; all threads are stopped."""

    def __init__(self, engines: Engines) -> None:
        self._engines: Final = engines
        self._registers: Final = Registers()
        self._xstate: Final = FixedBuffer(XSTATE_ROOM)

    def process(self, pid: int, tid: int) -> ProcessImage:
        """The stopped process; its first thread is ``tid``, or the leading one."""
        current = tid or pid
        images = []
        for thread in list(self._engines.group.threads.values()):
            if thread.tgid != pid or thread.state is State.ENDED:
                continue
            image = self._thread(thread)
            if image is not None:
                if tid == thread.tid and not image.signal:
                    image.signal = signal.SIGTRAP
                    image.siginfo = _breakpoint_info(image.registers)
                images.append(image)
        if not images:
            raise Gone(pid)
        images.sort(key=lambda image: (image.tid != current, image.tid))
        stat = procfs.stat_fields(pid)
        found = procfs.status(pid)
        arguments = b""
        # As many as a core has room for: a process may say that it has gigabytes of them.
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            arguments = file.read(80).rstrip(b"\0")
        auxv = b""
        with contextlib.suppress(OSError):
            auxv = Path(f"/proc/{pid}/auxv").read_bytes()
        return ProcessImage(
            threads=images,
            state="R",
            nice=int(stat[16]) if stat else 0,
            flags=int(stat[6]) if stat else 0,
            uid=found.uids[0] if found is not None else 0,
            gid=found.gids[0] if found is not None else 0,
            ids=_ids(pid, stat),
            name=procfs.comm(pid),
            arguments=arguments.replace(b"\0", b" "),
            auxv=auxv,
        )

    def _thread(self, thread: Thread) -> ThreadImage | None:
        tid = thread.tid
        stat = procfs.stat_fields(tid)
        if not stat:
            return None
        try:
            image = ThreadImage(tid, self._shown(tid))
            image.fpregs = ptrace.get_regset(tid, NT_PRFPREG, self._xstate)
            with contextlib.suppress(PtraceError):  # a machine without XSAVE
                image.xstate = ptrace.get_regset(tid, NT_X86_XSTATE, self._xstate)
            image.blocked = ptrace.get_sigmask(tid)
            if thread.signal:
                image.signal = thread.signal
                image.siginfo = thread.siginfo or ptrace.get_siginfo(tid)
        except (Gone, PtraceError):
            words = _sleeping(tid)
            if words is None:
                return None
            image = ThreadImage(tid, words)
        image.ids = _ids(tid, stat)
        found = procfs.status(tid)
        image.pending = found.pending if found is not None else 0
        hertz = os.sysconf("SC_CLK_TCK")
        ticks = [int(field) for field in stat[11:15]]
        image.times = tuple(
            part for each in ticks for part in (each // hertz, each % hertz * 1_000_000 // hertz)
        )
        return image

    def _shown(self, tid: int) -> bytes:
        """A stopped thread's registers as they would be without us; raises Gone."""
        self._registers.load(tid)
        if not self._engines.leave(self._registers):
            view = self._engines.view
            if view.may_have_hit(self._registers) and trap_is_pending(tid):
                self._registers.words[RIP] -= 1
        return bytes(self._registers.data)


def _ids(tid: int, stat: list[bytes] | None) -> tuple[int, int, int, int]:
    """Thread, parent, process group and session, as a core has them."""
    return (tid, *(int(each) for each in stat[1:4])) if stat else (tid, 0, 0, 0)  # type: ignore[return-value]


def _breakpoint_info(registers: bytes) -> bytes:
    """The siginfo_t of a breakpoint at the thread's place."""
    address = registers[8 * RIP : 8 * RIP + 8]
    head = b"".join(number.to_bytes(4, "little") for number in (signal.SIGTRAP, 0, TRAP_BRKPT, 0))
    return (head + address).ljust(128, b"\0")


def _sleeping(tid: int) -> bytes | None:
    """The registers of an unstoppable thread, as far as /proc shows them."""
    try:
        fields = Path(f"/proc/{tid}/syscall").read_text().split()
    except OSError:
        return None
    if len(fields) < 3:
        return None
    registers = Registers()
    order = (ORIG_RAX, *SYSCALL_ARGUMENTS)
    for index, text in zip(order, fields[:-2], strict=False):
        registers.words[index] = int(text, 0) & WORD
    registers.words[RSP], registers.words[RIP] = (int(text, 16) for text in fields[-2:])
    return bytes(registers.data)


def link(pid: int, name: str) -> str:
    """Where a link of /proc/PID leads; empty when it is gone."""
    try:
        return str(Path(f"/proc/{pid}/{name}").readlink())
    except OSError:
        return ""


def surroundings(pid: int) -> dict[str, str | int]:
    """Which process it is, and where its files are: its beginning (clock ticks since boot), root
    and mount namespace."""
    found: dict[str, str | int] = {"root": link(pid, "root")}
    start = procfs.start_time(pid)
    if start is not None:
        found["start"] = start
    with contextlib.suppress(OSError):
        found["mount_namespace"] = Path(f"/proc/{pid}/ns/mnt").stat().st_ino
    return found


def at_hit(
    program: dict[str, object],
    thread: Thread,
    facts: Facts,
    attachment: Attachment,
    outcome: Outcome,
    now: int,
) -> dict[str, Any]:
    """Which probe of the described program asks for a core, and the record of that hit."""
    probe = attachment.probe
    return {
        "probe": {
            **program,
            "probe": probe.index,
            "minor": outcome.minor,
            "major": outcome.major,
            "module": probe.module,
            "place": attachment.place,
            "address": attachment.address,
        },
        "record": {
            "pid": thread.tgid,
            "tid": thread.tid,
            "comm": facts.comm.decode(errors="replace"),
            "uid": facts.uid,
            "time": now,
            "hit": probe.hits,
            "log": decode_log(outcome.log, outcome.raw),
        },
    }


def facts(pid: int) -> dict[str, bytes]:
    """Working directory, root and cgroup, for the journal's entry."""
    facts = {
        "COREDUMP_CWD": os.fsencode(link(pid, "cwd")),
        "COREDUMP_ROOT": os.fsencode(link(pid, "root")),
    }
    with contextlib.suppress(OSError):
        groups = Path(f"/proc/{pid}/cgroup").read_bytes().splitlines()
        facts["COREDUMP_CGROUP"] = groups[-1].split(b":", 2)[2]
    return facts
