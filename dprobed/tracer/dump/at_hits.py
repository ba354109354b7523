"""The core dumps that probes ask for: admitted at the hit, begun by the main loop.

The thread stays at its probe in between. Where no core comes of it, the hit's record, which says
``exit dump``, is changed, or followed by another that says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from dprobed.corefile.store import StoreError, StoreLimits
from dprobed.engine.context import Facts
from dprobed.engine.probe import Attachment, Probe
from dprobed.program.exec.interface import Outcome
from dprobed.program.exits import DUMP_ONCE, NO_DUMP
from dprobed.program.items import string_item
from dprobed.tracee.ptrace import Gone
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup
from dprobed.tracer.dump import image
from dprobed.tracer.dump.admission import Admission, DumpError, identity
from dprobed.tracer.programs import Programs
from dprobed.tracer.reporter import Reporter
from dprobed.wire.protocol import Dumped, NotDumped, RawRecord

#: Why there is no dump, in a few words.
_BUSY: Final = "another being written"
_ENDED: Final = "the process ended"
#: Bytes of it in a record at most.
_MOST_REASON: Final = 1000
_OFF: Final = "dumps are switched off; `dprobe handlers arm dump` switches them on"


class Result(msgspec.Struct, frozen=True):
    """How a dump ended; ``error`` is empty when there is a core; ``cause``: why there is none, in a
    few words."""

    error: str
    cause: str = ""
    path: str = ""
    bytes: int = 0
    size: int = 0
    how: str = ""
    pause_ns: int = 0
    seconds: float = 0.0


#: Begins a dump: process, thread, what its JSON file says, limits, what is called with its result,
#: what names its probe in the store. Raises StoreError and Gone.
Begin = Callable[[int, int, dict[str, Any], StoreLimits, Callable[[Result], None], str], None]


class _Requested(msgspec.Struct, frozen=True):
    """A dump that a hit asked for; ``corrected``: its record if there is no core."""

    thread: Thread
    probe: Probe
    about: dict[str, Any]
    corrected: RawRecord


class HitDumps:
    """The dumps that hits in one target ask for."""

    def __init__(
        self,
        group: ThreadGroup,
        programs: Programs,
        reporter: Reporter,
        pid: int,
    ) -> None:
        """See ``Dumps``."""
        self._group: Final = group
        self._programs: Final = programs
        self._reporter: Final = reporter
        self._pid: Final = pid
        self._admission: Final = Admission(self._tell_refused, self._identify)
        self._requested: list[_Requested] = []
        self._limits: StoreLimits | None = None

    @property
    def are_waiting(self) -> bool:
        """Whether one is to be begun."""
        return bool(self._requested)

    def hit(
        self,
        thread: Thread,
        facts: Facts,
        attachment: Attachment,
        outcome: Outcome,
        *,
        is_armed: bool,
        is_busy: bool,
    ) -> bool:
        """A program ended by ``exit dump``: whether a dump is to be begun.

        Then its thread is pinned until it is. ``is_armed``: dumps are not switched off;
        ``is_busy``: another is being written, or requested.
        """
        probe = attachment.probe
        try:
            if not is_armed:
                raise DumpError(_OFF, "switched off")
            if outcome.exit == DUMP_ONCE and probe.cores.written:
                raise DumpError("this probe has its core, and `exit dump once` asks for no other",
                                "once")  # fmt: skip
            if is_busy or (outcome.exit == DUMP_ONCE and probe.cores.writing):
                raise DumpError("another dump of this process is being written", _BUSY)
            self._limits = self._admission.admit(probe)
        except StoreError as error:
            self._refuse(probe, error, thread.tid)
            return False
        now = time.monotonic_ns()
        program = self._programs.describe(probe.program)
        about = image.at_hit(program, thread, facts, attachment, outcome, now)
        corrected = RawRecord(
            probe.program, probe.index, attachment.number, thread.tgid, thread.tid, facts.comm,
            facts.uid, facts.cpu, now, probe.hits, NO_DUMP, outcome.major, outcome.minor,
            b"", (), None,
        )  # fmt: skip
        self._requested.append(_Requested(thread, probe, about, corrected))
        probe.cores.writing += 1
        thread.pinned = True
        self._group.request_attention()
        return True

    def _identify(self, probe: Probe) -> str:
        """What names a probe in the store."""
        return identity(self._programs.inserted[probe.program].program, probe.index)

    def _tell_refused(self, reason: str, count: int, tid: int) -> None:
        self._reporter.send(NotDumped(self._pid, tid, reason, count))

    def _refuse(self, probe: Probe, error: StoreError, tid: int) -> None:
        if self._admission.refuse(probe, error, tid):
            # Told later: its record goes first.
            self._group.request_attention()

    def attend(self, begin: Begin, is_busy: Callable[[], bool]) -> None:
        """Begin those that were admitted, and tell of those that were not."""
        self._admission.tell()
        while self._requested:
            requested = self._requested.pop(0)
            try:
                self._begin(requested, begin, is_busy())
            finally:
                if requested.thread.tid in self._group.threads:
                    self._group.unpin(requested.thread)

    def _begin(self, requested: _Requested, begin: Begin, is_busy: bool) -> None:
        # Its own process: a child that shares the target's memory can be at the probe.
        pid, tid, probe = requested.thread.tgid, requested.thread.tid, requested.probe

        def fail(error: StoreError) -> None:
            probe.cores.writing -= 1
            self._correct_record(requested, error)
            self._admission.failed(probe, error)
            self._admission.refuse(probe, error, tid)
            self._admission.tell()

        def answer(result: Result) -> None:
            if result.error:
                fail(StoreError(result.error, result.cause))
                return
            probe.cores.writing -= 1
            probe.cores.written += 1
            probe.dumped += 1
            self._admission.succeeded(probe)
            self._reporter.send(Dumped(self._pid, tid, result.path))

        name = self._admission.name_of(probe)
        try:
            if is_busy or self._limits is None:
                raise DumpError("another dump of this process is being written", _BUSY)
            begin(pid, tid, requested.about, self._limits, answer, name)
        except (StoreError, Gone) as error:
            fail(error if isinstance(error, StoreError) else DumpError(_ENDED))

    def _correct_record(self, requested: _Requested, error: StoreError) -> None:
        """Have the hit's record say that there is no core; one that is on its way is followed by
        another, which says why."""
        probe, record = requested.probe, requested.corrected
        if self._reporter.amend(probe, record.hit, NO_DUMP):
            return
        if record.program in self._programs.inserted:
            why = str(error).encode(errors="replace")
            self._reporter.add(
                probe,
                msgspec.structs.replace(
                    record, time=time.monotonic_ns(), log=string_item(why[:_MOST_REASON])
                ),
            )

    def abandon(self) -> None:
        """Begin none of them."""
        for requested in self._requested:
            requested.probe.cores.writing -= 1
