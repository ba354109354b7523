"""Core dumps of a live target: it is stopped, copied by a ``clone`` of its own, and resumed.

A forked process of ours (``dumper``) reads the copy's memory (``copied``) while the target runs.
Where there can be no copy (a seccomp filter, RLIMIT_NPROC, no memory), the target stays stopped
until its dump is written, for a limited time.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

import msgspec

from dprobed.corefile import store
from dprobed.corefile.store import StoreError, StoreLimits
from dprobed.engine.address_space import AddressSpace
from dprobed.engine.context import Facts
from dprobed.engine.errors import SpaceError
from dprobed.engine.probe import Attachment
from dprobed.program.exec.interface import Outcome
from dprobed.tracee.lifecycle import State
from dprobed.tracee.ptrace import Gone
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup
from dprobed.tracer.dump import dumper, image
from dprobed.tracer.dump.admission import DumpError, look, tidy
from dprobed.tracer.dump.at_hits import HitDumps, Result
from dprobed.tracer.dump.copied import CopiedProcess
from dprobed.tracer.dump.jobs import job_for
from dprobed.tracer.dump.writer_process import WriterProcess
from dprobed.tracer.engines import Engines
from dprobed.tracer.programs import Programs
from dprobed.tracer.reporter import Reporter


class _Current(msgspec.Struct):
    """The dump that is being written."""

    pid: int
    answer: Callable[[Result], None]
    limits: StoreLimits
    how: str
    began: float
    pause_ns: int = 0
    copy: CopiedProcess | None = None
    #: Held open while the target stays stopped for its dump.
    hold: ExitStack = msgspec.field(default_factory=ExitStack)
    writer: WriterProcess | None = None
    overdue: bool = False
    result: Result | None = None


class Dumps:
    """The dumps of one target, one at a time."""

    def __init__(
        self,
        engines: Engines,
        programs: Programs,
        reporter: Reporter,
        pid: int,
    ) -> None:
        """``programs``: those inserted. ``reporter``: has the records of hits. ``pid``: the
        target's."""
        self._engines: Final = engines
        self._at_hits: Final = HitDumps(engines.group, programs, reporter, pid)
        self._images: Final = image.Images(engines)
        self._current: _Current | None = None

    @property
    def _group(self) -> ThreadGroup:
        return self._engines.group

    @property
    def _space(self) -> AddressSpace:
        return self._engines.space

    @property
    def busy(self) -> bool:
        """Whether a dump is being written, or requested."""
        return self._current is not None or self._at_hits.are_waiting

    # --- requests ---

    def hit(
        self,
        thread: Thread,
        facts: Facts,
        attachment: Attachment,
        outcome: Outcome,
        *,
        is_armed: bool,
    ) -> bool:
        """See HitDumps."""
        return self._at_hits.hit(
            thread, facts, attachment, outcome, is_armed=is_armed, is_busy=self.busy
        )

    def request(self, pid: int, compress: bool, answer: Callable[[Result], None]) -> None:
        """Dump the target now; raises DumpError, StoreError and Gone. ``answer`` comes later."""
        if self._current is not None and self._current.result is not None:
            self.finish()  # what is left of it takes no time
        if self.busy:
            raise DumpError("another dump of this process is being written; try again after it")
        limits = store.limits()
        look(limits)
        if compress:
            limits = msgspec.structs.replace(limits, zstd=True)
        self._begin(pid, 0, {}, limits, answer, "")

    # --- the loop ---

    def attend(self) -> None:
        """Begin, limit and end dumps; called by the main loop."""
        self._at_hits.attend(self._begin, lambda: self._current is not None)
        current = self._current
        if current is None:
            return
        writer = current.writer
        if writer is not None and writer.ended is not None and current.result is None:
            self._collect_result(current, writer)
        if writer is not None and current.how == "stopped" and writer.ended is None:
            self._limit_stop(current, writer)
        if current.result is not None and (current.copy is None or current.copy.is_over):
            self._close(current)

    def finish(self) -> None:
        """Wait until no dump is being written; the target runs meanwhile."""
        while self.busy:
            self.attend()
            if self.busy:
                self._group.tracees.wait(self._group)

    def abandon(self, reason: str, cause: str = "internal error") -> None:
        """Abort the dump that is being written."""
        self._at_hits.abandon()
        current = self._current
        if current is None:
            return
        if current.writer is not None:
            current.writer.abandon()
        self._undo(current)
        if current.result is None:
            current.answer(Result(reason, cause))

    # --- stopping and copying ---

    def _begin(
        self,
        pid: int,
        tid: int,
        about: dict[str, Any],
        limits: StoreLimits,
        answer: Callable[[Result], None],
        probe: str,
    ) -> None:
        """``probe``: what names the one that asks for it in the store; empty: none."""
        current = _Current(pid, answer, limits, "snapshot", time.monotonic())
        began = time.monotonic_ns()
        job: dumper.Job | None = None
        try:
            with ExitStack() as stack:
                why = self._enter(stack, pid, current)
                source = current.copy.tid if current.copy is not None else self._any_thread(pid)
                process = self._images.process(pid, tid)
                copied = current.copy is not None
                job = job_for(self._engines, pid, source, process, limits, began, copied=copied)
                if current.copy is None:
                    current.how = "stopped"
                    current.hold = stack.pop_all()
            if current.copy is not None:
                current.pause_ns = time.monotonic_ns() - began
            job.probe = probe
            job.about = {"pid": pid, "time": time.time(), "how": current.how, **about}
            job.about |= image.surroundings(pid)
            if current.copy is not None:
                job.about["pause_ns"] = current.pause_ns
            if why:
                job.about["why_stopped"] = why
            current.writer = WriterProcess.start(job, self._group, self._engines.runner.affinity)
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
        """Stop the target and copy it; returns why there is no copy, or an empty string."""
        try:
            lender = stack.enter_context(self._group.borrower.borrowed(pid))
        except Gone:
            stack.enter_context(self._group.stopped())
            return "no thread could be borrowed"
        try:
            current.copy = CopiedProcess.make(self._group, self._space, lender)
        except SpaceError as error:
            return str(error)
        return ""

    def _any_thread(self, pid: int) -> int:
        for thread in self._group.threads.values():
            if thread.tgid == pid and thread.state is not State.ENDED:
                return thread.tid
        raise Gone(pid)

    # --- the end of a dump ---

    def _collect_result(self, current: _Current, writer: WriterProcess) -> None:
        """The writer has ended: resume the target, or end its copy, and answer."""
        done = writer.result()
        now = time.monotonic()
        if done is None:
            reason = cause = f"its writer was ended by {writer.how_it_ended()}"
            if current.overdue:
                cause = f"stopped for {current.limits.stopped} s"
                reason = f"the process cannot be copied, and {current.limits.stopped} s are over"
            done = dumper.Done(reason, cause)
            with contextlib.suppress(OSError, StoreError):
                tidy(current.limits)
        if current.how == "stopped":
            current.pause_ns = int((now - current.began) * 1e9)
        current.result = Result(
            error=done.error,
            cause=done.cause,
            path=done.path,
            bytes=done.bytes,
            size=done.size,
            how=current.how,
            pause_ns=current.pause_ns,
            seconds=now - current.began,
        )
        current.hold.close()
        if current.copy is not None:
            current.copy.unmap_memory()
        current.answer(current.result)

    @staticmethod
    def _limit_stop(current: _Current, writer: WriterProcess) -> None:
        """Kill the writer of a target that has been stopped for its dump for too long."""
        if time.monotonic() - current.began > current.limits.stopped:
            current.overdue = True
            writer.kill()

    def _close(self, current: _Current) -> None:
        """Reap the copy; later, if no thread can be borrowed for it now."""
        if current.copy is not None:
            with self._group.stopped():
                try:
                    lender = self._group.borrower.lender(current.pid)
                except Gone:
                    if self._is_alive(current.pid):
                        return
                    self._reap(None, current)
                else:
                    self._reap(lender, current)
        self._current = None

    def _is_alive(self, pid: int) -> bool:
        return any(
            thread.tgid == pid and thread.state is not State.ENDED
            for thread in self._group.threads.values()
        )

    def _reap(self, lender: Thread | None, current: _Current) -> None:
        copy, current.copy = current.copy, None
        if copy is not None:
            copy.reap(lender)

    def _undo(self, current: _Current) -> None:
        """Undo what was done for a dump that could not be begun."""
        current.hold.close()
        self._close(current)
        self._reap(None, current)
