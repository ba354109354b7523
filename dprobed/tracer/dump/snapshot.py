"""Core dumps of the target: it is stopped, copied by a ``fork`` of its own, and goes on.

The copy is made by an injected ``clone`` without exit signal: no SIGCHLD, no atfork handlers. It
is our tracee and never runs code of the target; a forked process of ours (``handler.dump.dumper``)
reads its memory while the target runs. Then:

* The copy unmaps its memory, so that its end takes no time, and is killed and collected by us.
* As ``clone`` made it, it is then a zombie of the target, which only a ``wait`` with __WALL or
  __WCLONE would see. It never does: we collect it and make the target's own ``wait4`` on it while
  every thread of the target is stopped.
* At once after ``clone`` the copy gives up its descriptors, so that no pipe, lock or port of the
  target stays open because of it. PTRACE_O_EXITKILL ends it with us.

Where the copy cannot be had (a seccomp filter, RLIMIT_NPROC, no memory), the target stands still
until its dump is written, for a limited time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from dprobed.arch.x86_64.paging import PAGE, USER_END
from dprobed.arch.x86_64.registers import NO_SYSCALL, ORIG_RAX, RAX, RDI, RIP, RSI
from dprobed.arch.x86_64.syscalls import SYS_CLONE, SYS_CLOSE_RANGE, SYS_MUNMAP, SYS_WAIT4
from dprobed.corefile import store
from dprobed.corefile.areas import Area, parse_smaps
from dprobed.corefile.store import Limits, StoreError
from dprobed.corefile.writer import Memory, ProcessImage
from dprobed.engine.address_space import AddressSpace
from dprobed.engine.context import Facts
from dprobed.engine.errors import SpaceError
from dprobed.engine.probe import Attachment
from dprobed.proc import procfs
from dprobed.program.exec.log import decode_log
from dprobed.program.exec.outcome import Outcome
from dprobed.tracee import ptrace
from dprobed.tracee.lifecycle import State
from dprobed.tracee.ptrace import WALL, Gone, PtraceError, Registers
from dprobed.tracee.status import Kind, Stop
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup
from dprobed.tracer.dump import dumper, image
from dprobed.tracer.engines import Engines

#: The number of ``exit dump``.
FACILITY: Final = 3
_CLONE_FILES: Final = 0x400
_CLOSE_RANGE_UNSHARE: Final = 2
_ADDRESS_END: Final = USER_END - PAGE
#: MADV_DONTFORK memory is not in the copy; so much of it is read while the target is stopped.
_NOT_COPIED: Final = 64 << 20
_HOUR: Final = 3600.0
#: Seconds between two notices that dumps are refused.
_QUIET: Final = 10.0

_log = logging.getLogger(__name__)


class DumpError(Exception):
    """There will be no dump; one line."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a dump ended; ``error`` is empty when there is a core."""

    error: str
    path: str = ""
    bytes: int = 0
    size: int = 0
    how: str = ""
    pause_ns: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class _Current:
    """The dump that is being written."""

    pid: int
    answer: Callable[[Result], None]
    limits: Limits
    how: str
    began: float
    pause_ns: int = 0
    #: The copy, its number in the target's own pid namespace, and the stops of its last call.
    copy: Thread | None = None
    inner_pid: int = 0
    stops: int = 0
    copy_is_over: bool = False
    #: Held open while the target stands still for its dump.
    hold: ExitStack = field(default_factory=ExitStack)
    writer: int = 0
    pipe: int = -1
    overdue: bool = False
    ended: Stop | None = None
    result: Result | None = None


@dataclass(frozen=True, slots=True)
class _Wanted:
    thread: Thread
    probe: tuple[int, int]
    about: dict[str, Any]


class Dumps:
    """The dumps of one target, one at a time."""

    def __init__(
        self,
        engines: Engines,
        describe: Callable[[int], dict[str, Any]],
        tell: Callable[[str, str, int], None],
    ) -> None:
        """``describe``: what there is to say of a program; ``tell``: kind, text, thread."""
        self._engines: Final = engines
        self._describe: Final = describe
        self._tell: Final = tell
        self._registers: Final = Registers()
        self._images: Final = image.Images(engines)
        self._wanted: list[_Wanted] = []
        self._current: _Current | None = None
        self._recent: dict[tuple[int, int], deque[float]] = {}
        self._refused = 0
        self._quiet_until = 0.0
        self._limits: Limits | None = None

    @property
    def _group(self) -> ThreadGroup:
        return self._engines.group

    @property
    def _space(self) -> AddressSpace:
        return self._engines.space

    @property
    def busy(self) -> bool:
        """Whether a dump is being written, or wanted."""
        return self._current is not None or bool(self._wanted)

    # --- who wants one ---

    def hit(self, thread: Thread, facts: Facts, attachment: Attachment, outcome: Outcome) -> None:
        """A program ended by ``exit dump``: keep its thread there until the dump is begun."""
        probe = attachment.probe
        key = (probe.program, probe.index)
        try:
            self._admit(key)
        except (DumpError, StoreError) as error:
            self._refuse(str(error), thread.tid)
            return
        about = {
            "probe": {
                **self._describe(probe.program),
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
                "time": time.monotonic_ns(),
                "hit": probe.hits,
                "log": decode_log(outcome.log, outcome.raw),
            },
        }
        self._wanted.append(_Wanted(thread, key, about))
        thread.pinned = True
        self._group.want()

    def _admit(self, key: tuple[int, int]) -> None:
        if self.busy:
            raise DumpError("another dump of this process is being written")
        self._limits = limits = store.limits()
        recent = self._recent.get(key, deque())
        while recent and recent[0] < time.monotonic() - _HOUR:
            recent.popleft()
        if len(recent) >= limits.hourly:
            raise DumpError(
                f"this probe had {limits.hourly} dumps in the last hour, which is its limit"
            )

    def _refuse(self, reason: str, tid: int) -> None:
        self._refused += 1
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET
            more = f" ({self._refused} refused so far)" if self._refused > 1 else ""
            self._tell("dump", f"no dump: {reason}{more}", tid)

    def ask(self, pid: int, compress: bool, answer: Callable[[Result], None]) -> None:
        """Dump the target now; raises DumpError, StoreError and Gone. ``answer`` comes later."""
        if self._current is not None and self._current.result is not None:
            self.finish()  # what is left of it takes no time
        if self.busy:
            raise DumpError("another dump of this process is being written; try again after it")
        limits = store.limits()
        if compress:
            limits = replace(limits, zstd=True)
        self._begin(pid, 0, {}, limits, answer)

    # --- the loop ---

    def attend(self) -> None:
        """Do what has become due."""
        while self._wanted:
            wanted = self._wanted.pop(0)
            try:
                self._begin_at_hit(wanted)
            finally:
                if wanted.thread.tid in self._group.threads:
                    self._group.unpin(wanted.thread)
        current = self._current
        if current is None:
            return
        if current.ended is not None and current.result is None:
            self._collect_result(current)
        if current.how == "stopped" and current.ended is None:
            self._limit_stop(current)
        if current.result is not None and (current.copy is None or current.copy_is_over):
            self._close(current)

    def _begin_at_hit(self, wanted: _Wanted) -> None:
        # Its own process: a child that shares the target's memory can be at the probe.
        pid, tid = wanted.thread.tgid, wanted.thread.tid

        def answer(result: Result) -> None:
            if result.error:
                self._tell("dump", f"no dump: {result.error}", tid)
            else:
                self._tell("dump", f"core: {result.path}", tid)

        try:
            if self._current is not None or self._limits is None:
                raise DumpError("another dump of this process is being written")
            self._begin(pid, tid, wanted.about, self._limits, answer)
            self._recent.setdefault(wanted.probe, deque()).append(time.monotonic())
        except (DumpError, StoreError) as error:
            self._refuse(str(error), tid)
        except Gone:
            self._refuse("the process ended", tid)

    def finish(self) -> None:
        """Wait until nothing is being written; the target goes on meanwhile."""
        while self.busy:
            self.attend()
            if self.busy:
                self._group.tracees.wait(self._group)

    def abandon(self, reason: str) -> None:
        """Give up the dump that is being written."""
        current = self._current
        if current is None:
            return
        if current.pipe >= 0:
            os.close(current.pipe)
            current.pipe = -1
            with contextlib.suppress(ProcessLookupError):
                os.kill(current.writer, signal.SIGKILL)
        self._undo(current)
        if current.result is None:
            current.answer(Result(reason))

    # --- stopping and copying ---

    def _begin(
        self,
        pid: int,
        tid: int,
        about: dict[str, Any],
        limits: Limits,
        answer: Callable[[Result], None],
    ) -> None:
        store.admit(limits)
        current = _Current(pid, answer, limits, "snapshot", time.monotonic())
        began = time.monotonic_ns()
        job: dumper.Job | None = None
        try:
            with ExitStack() as stack:
                why = self._enter(stack, pid, current)
                source = current.copy.tid if current.copy is not None else self._any_thread(pid)
                process = self._images.process(pid, tid)
                job = self._job(pid, source, process, current, began)
                if current.copy is None:
                    current.how = "stopped"
                    current.hold = stack.pop_all()
            if current.copy is not None:
                current.pause_ns = time.monotonic_ns() - began
            job.about = {"pid": pid, "time": time.time(), "how": current.how, **about}
            if current.copy is not None:
                job.about["pause_ns"] = current.pause_ns
            if why:
                job.about["why_stopped"] = why
            self._start_writer(job, current)
        except OSError as error:
            self._undo(current)
            raise DumpError(f"the dump could not be begun: {error.strerror or error}") from error
        except BaseException:
            self._undo(current)
            raise
        finally:
            if job is not None:
                for descriptor in (job.memory.mem, job.memory.pagemap, job.smaps):
                    os.close(descriptor)
        self._current = current

    def _enter(self, stack: ExitStack, pid: int, current: _Current) -> str:
        """Stop the target, and copy it; why there is no copy, if there is none."""
        try:
            lender = stack.enter_context(self._group.borrowed(pid))
        except Gone:
            stack.enter_context(self._group.stopped())
            return "no thread could be borrowed"
        try:
            self._copy(lender, current)
        except SpaceError as error:
            return str(error)
        return ""

    def _copy(self, lender: Thread, current: _Current) -> None:
        """Have a stopped thread make a copy of its process; raises SpaceError and Gone."""
        group, space = self._group, self._space
        inner = space.calls.call(group, lender, SYS_CLONE, _CLONE_FILES, 0, 0, 0, 0)
        copy = group.take_born()
        if inner < 0:
            raise SpaceError(f"the process could not be copied: {os.strerror(-inner)}")
        if copy is None:
            raise SpaceError("the copy of the process was killed at once")
        current.copy, current.inner_pid = copy, inner
        try:
            # Linux 5.9. Before, the copy shares the descriptors, which then stay open as long.
            space.calls.call(group, copy, SYS_CLOSE_RANGE, 0, 0xFFFF_FFFF, _CLOSE_RANGE_UNSHARE)
            found = procfs.status(copy.tid)
            options = ptrace.OPTIONS | ptrace.PTRACE_O_EXITKILL
            if found is not None and found.seccomp:
                options |= ptrace.PTRACE_O_SUSPEND_SECCOMP
            ptrace.set_options(copy.tid, options)
        except (Gone, PtraceError) as error:
            self._bury(lender, current)
            raise SpaceError(f"the copy of the process was lost: {error}") from error
        group.tracees.others[copy.tid] = lambda stop: self._copy_stopped(current, stop)

    def _any_thread(self, pid: int) -> int:
        for thread in self._group.threads.values():
            if thread.tgid == pid and thread.state is not State.ENDED:
                return thread.tid
        raise Gone(pid)

    def _job(
        self, pid: int, source: int, process: ProcessImage, current: _Current, began: int
    ) -> dumper.Job:
        space = self._space
        with ExitStack() as undo:

            def opened(name: str) -> int:
                descriptor = os.open(f"/proc/{source}/{name}", os.O_RDONLY | os.O_CLOEXEC)
                undo.callback(os.close, descriptor)
                return descriptor

            memory = Memory(opened("mem"), opened("pagemap"))
            smaps = opened("smaps")
            memory.original = self._engines.trap.breakpoints() | {
                address: original[0] for address, original in space.raw.items()
            }
            extra = (
                self._not_copied(process.threads[0].tid, source, memory)
                if (current.copy is not None)
                else []
            )
            undo.pop_all()
        return dumper.Job(
            pid=pid,
            source=source,
            process=process,
            memory=memory,
            smaps=smaps,
            limits=current.limits,
            omitted=[(area.start, area.end) for area in space.resident.whole()],
            extra=extra,
            about={},
            exe=image.link(pid, "exe"),
            stopped_at=began,
            facts=image.facts(pid),
        )

    def _not_copied(self, tid: int, copy: int, memory: Memory) -> list[Area]:
        """Mappings that ``fork`` leaves out (MADV_DONTFORK), read now."""

        def ranges(pid: int) -> set[bytes]:
            return {line.split(b" ", 1)[0] for line in procfs.mappings(pid).splitlines()}

        missing = ranges(tid) - ranges(copy)
        if not missing:
            return []
        areas = []
        room = _NOT_COPIED
        for area in parse_smaps(Path(f"/proc/{tid}/smaps").read_bytes()):
            if b"%08x-%08x" % (area.start, area.end) not in missing or not area.own:
                continue
            size = area.end - area.start
            if b"dd" in area.flags or b"io" in area.flags or size > room:
                continue
            room -= size
            data = bytearray()
            while len(data) < size:
                part = self._space.memory.peek(area.start + len(data), size - len(data))
                data += part or bytes(PAGE)
            memory.kept.append((area.start, bytes(data)))
            areas.append(area)
        return areas

    def _start_writer(self, job: dumper.Job, current: _Current) -> None:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            # Of a target held for a debugger; the number will be another file's here.
            signal.set_wakeup_fd(-1)
            self._engines.runner.affinity.wander()
            keep = sorted((0, 1, 2, job.memory.mem, job.memory.pagemap, job.smaps, writing))
            for low, high in zip(keep, [*keep[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
                os.closerange(low + 1, high)
            dumper.run(job, writing)
        os.close(writing)
        current.writer, current.pipe = child, reading

        def ended(stop: Stop) -> None:
            if stop.kind in (Kind.EXITED, Kind.KILLED):
                self._group.tracees.others.pop(child, None)
                current.ended = stop
                self._group.want()

        self._group.tracees.others[child] = ended

    # --- the end of a dump ---

    def _collect_result(self, current: _Current) -> None:
        """The writer has ended: let the target, or its copy, go."""
        data = b""
        with contextlib.suppress(OSError):
            data = os.read(current.pipe, 1 << 16)
        os.close(current.pipe)
        current.pipe = -1
        now = time.monotonic()
        try:
            done = msgspec.msgpack.decode(data, type=dumper.Done)
        except msgspec.MsgspecError:
            stop = current.ended
            how = f"signal {stop.value}" if stop and stop.kind is Kind.KILLED else "an error"
            reason = f"its writer was ended by {how}"
            if current.overdue:
                reason = f"the process cannot be copied, and {current.limits.stopped} s are over"
            done = dumper.Done(error=f"no core: {reason}")
            with contextlib.suppress(OSError):
                store.tidy(current.limits.folder)
        if current.how == "stopped":
            current.pause_ns = int((now - current.began) * 1e9)
        current.result = Result(
            error=done.error,
            path=done.path,
            bytes=done.bytes,
            size=done.size,
            how=current.how,
            pause_ns=current.pause_ns,
            seconds=now - current.began,
        )
        current.hold.close()
        if current.copy is not None and not current.copy_is_over:
            self._empty_copy(current, current.copy)
        current.answer(current.result)

    def _limit_stop(self, current: _Current) -> None:
        """A target that stands still does so for a limited time."""
        if time.monotonic() - current.began > current.limits.stopped:
            current.overdue = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(current.writer, signal.SIGKILL)

    def _empty_copy(self, current: _Current, copy: Thread) -> None:
        """Have the copy unmap all of its memory: its end then takes no time.

        It stops before and after the call, and goes on from neither.
        """
        try:
            words = self._registers.load(copy.tid)
            words[RIP] = self._space.calls.gate(copy.tid)
            words[RAX], words[ORIG_RAX] = SYS_MUNMAP, NO_SYSCALL
            words[RDI], words[RSI] = 0, _ADDRESS_END
            self._registers.store(copy.tid)
            ptrace.to_syscall(copy.tid)
        except (Gone, PtraceError, SpaceError):
            current.copy_is_over = True

    def _copy_stopped(self, current: _Current, stop: Stop) -> None:
        """A stop of the copy: of its last system call, or its end."""
        copy = current.copy
        assert copy is not None
        if stop.kind is Kind.SYSCALL and not current.stops:
            current.stops = 1
            with contextlib.suppress(Gone, PtraceError):
                ptrace.to_syscall(copy.tid)
                return
        current.copy_is_over = True
        self._group.want()

    def _close(self, current: _Current) -> None:
        """Bury the copy; later, if no thread can be borrowed for it now."""
        if current.copy is not None:
            with self._group.stopped():
                try:
                    lender = self._group.lender(current.pid)
                except Gone:
                    if self._is_alive(current.pid):
                        return
                    self._bury(None, current)
                else:
                    self._bury(lender, current)
        self._current = None

    def _is_alive(self, pid: int) -> bool:
        return any(
            thread.tgid == pid and thread.state is not State.ENDED
            for thread in self._group.threads.values()
        )

    def _bury(self, lender: Thread | None, current: _Current) -> None:
        """Kill and collect the copy; the target collects it, too, if a thread can be borrowed."""
        copy, current.copy = current.copy, None
        if copy is None:
            return
        self._group.tracees.others.pop(copy.tid, None)
        with contextlib.suppress(ProcessLookupError):
            os.kill(copy.tid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                _, status = os.waitpid(copy.tid, WALL)
                if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                    break
        if lender is not None:
            with contextlib.suppress(Gone, SpaceError):
                self._space.calls.call(
                    self._group, lender, SYS_WAIT4, current.inner_pid, 0, WALL, 0
                )

    def _undo(self, current: _Current) -> None:
        """A dump could not be begun: leave nothing of it."""
        current.hold.close()
        self._close(current)
        self._bury(None, current)
