"""The child process that writes one core (``dumper``): started, watched and killed."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Final

import msgspec

from dprobed.engine.affinity import Affinity
from dprobed.tracee.status import Kind, Stop
from dprobed.tracee.thread_group import ThreadGroup
from dprobed.tracer.dump import dumper

#: The kernel's penalty when memory is short (proc(5), oom_score_adj).
_EXPENDABLE: Final = "500"


class WriterProcess:
    """One writer, and the pipe on which it says how the dump went."""

    def __init__(self, group: ThreadGroup, pid: int, pipe: int) -> None:
        self.ended: Stop | None = None
        self._group: Final = group
        self._pid: Final = pid
        self._pipe = pipe
        group.tracees.others[pid] = self._stopped

    @classmethod
    def start(cls, job: dumper.Job, group: ThreadGroup, affinity: Affinity) -> WriterProcess:
        """Fork the writer, with no descriptors but those that it needs; raises OSError."""
        reading, writing = os.pipe()
        try:
            child = os.fork()
        except OSError:
            os.close(reading)
            os.close(writing)
            raise
        if child == 0:
            # Of a target held for a debugger; the number will be another file's here.
            signal.set_wakeup_fd(-1)
            affinity.release_cpu()
            with contextlib.suppress(OSError):
                # Its tracer may be among the last to be killed for want of memory; a core is not
                # worth that.
                Path("/proc/self/oom_score_adj").write_text(_EXPENDABLE)
            keep = sorted((0, 1, 2, job.memory.mem, job.memory.pagemap, job.smaps, writing))
            for low, high in zip(keep, [*keep[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
                os.closerange(low + 1, high)
            dumper.run(job, writing)
        os.close(writing)
        return cls(group, child, reading)

    def _stopped(self, stop: Stop) -> None:
        if stop.kind in (Kind.EXITED, Kind.KILLED):
            self._group.tracees.others.pop(self._pid, None)
            self.ended = stop
            self._group.request_attention()

    def result(self) -> dumper.Done | None:
        """The result of a writer that has ended; None: it sent none."""
        data = b""
        with contextlib.suppress(OSError):
            data = os.read(self._pipe, 1 << 16)
        self._close()
        try:
            return msgspec.msgpack.decode(data, type=dumper.Done)
        except msgspec.MsgspecError:
            return None

    def how_it_ended(self) -> str:
        """For a message: the signal that killed it, or an error of its own."""
        stop = self.ended
        return f"signal {stop.value}" if stop and stop.kind is Kind.KILLED else "an error"

    def kill(self) -> None:
        """Kill it; its end is waited for as any other."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def abandon(self) -> None:
        """Kill it, unless its result was read already."""
        if self._pipe >= 0:
            self._close()
            self.kill()

    def _close(self) -> None:
        os.close(self._pipe)
        self._pipe = -1
