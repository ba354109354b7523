"""Runs the programs of the probes that a thread hit, and reports: the same for every engine."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Final

from dprobed.arch.x86_64.registers import RIP
from dprobed.engine.affinity import Affinity
from dprobed.engine.budget import STOP_NS
from dprobed.engine.context import Facts, HitContext
from dprobed.engine.interface import Listener
from dprobed.engine.probe import Attachment, Probe
from dprobed.proc import procfs
from dprobed.proc.names import NAMES
from dprobed.program.exec.interface import Outcome
from dprobed.program.exits import ABORT, DEBUGGER, DUMP, DUMP_ONCE, EXIT, REM
from dprobed.program.isa import KEPT_WORDS
from dprobed.tracee.memory import Memory
from dprobed.tracee.ptrace import Gone, Registers
from dprobed.tracee.thread import Thread
from dprobed.wire.protocol import RawRecord, State

#: How long a thread's user id, once read, is taken for true.
_IDENTITY_NS: Final = 100_000_000
_clock: Final = time.monotonic_ns
#: For how long a record may repeat the CPU of the thread's record before it: to ask costs a tenth
#: of a hit.
_CPU_NS: Final = 100_000
#: Hits between two looks at where the tracer runs.
_REVIEW: Final = 32

_AT_HIT: Final = frozenset((DUMP, DUMP_ONCE, DEBUGGER))

#: Looked up once, since each hit calls it.
_name_of: Final = NAMES.of

#: What a return probe without an entry part has kept.
NOTHING_KEPT: Final = [0] * KEPT_WORDS

_log = logging.getLogger(__name__)


class ProgramRunner:
    """Runs the programs of one target's probes.

    A record is made as what goes over the wire: a ``RawRecord`` takes 0.16 µs, a tuple 0.11, a
    NamedTuple 0.8 (of a hit's 17).
    """

    def __init__(self, listener: Listener, registers: Registers, affinity: Affinity) -> None:
        """``registers`` and ``affinity`` are those of all targets of this tracer."""
        self.registers: Final = registers
        self.affinity: Final = affinity
        self.context: Final = HitContext(registers, listener.user_stack)
        #: Hits whose programs ran.
        self.served = 0
        #: Whether any probe has a budget.
        self.metered = False
        #: By thread, what is known of it.
        self.facts: Final[dict[int, Facts]] = {}
        self._listener: Final = listener
        #: Until when the time of threads that stand for probes is counted (monotonic ns).
        self._spent_until = 0
        self._add: Final = listener.records.add
        self._latest: Final = listener.records.latest

    def use(self, memory: Memory) -> None:
        """Serve hits in another address space, whose threads are others, too."""
        self.context.memory = memory
        self.facts.clear()

    def facts_of(self, thread: Thread) -> Facts:
        """The cached facts about a thread."""
        found = self.facts.get(thread.tid)
        if found is None:
            found = self.facts[thread.tid] = Facts()
        return found

    def forget(self, tid: int) -> None:
        """Drop the facts about a thread that has ended, or begins."""
        self.facts.pop(tid, None)
        NAMES.forget(tid)

    def run(
        self, thread: Thread, attachments: Iterable[Attachment], may_fault: bool, now: int
    ) -> bool:
        """Run the programs for a thread whose registers are loaded; raises Gone.

        ``may_fault``: the instruction itself may, which withdraws the records. Whether a program
        that can alter registers ran. One long function, since it is most of a hit: each further
        call would cost 0.06 µs or more of a hit's 17. Functions that are kept in attributes are
        called by local names: the interpreter specializes the call of a method, and the load of
        an attribute, but not the call of an attribute as if it were a method.
        """
        context = self.context
        affinity = self.affinity
        add = self._add
        tid = thread.tid
        try:
            facts = self.facts[tid]
        except KeyError:
            facts = self.facts_of(thread)
        if now > facts.identity_until:
            # Before the context is this hit's: hits of others may be served meanwhile.
            self._identify(thread, facts, now)
        context.pid = thread.tgid
        context.tid = tid
        context.facts = facts
        context.known_cpu = -1
        if context.has_fpregs:
            context.forget_fpregs()
        altered = False
        if may_fault:
            facts.revocable = ()
        begin = now if now > self._spent_until else self._spent_until
        for attachment in attachments:
            probe = attachment.probe
            probe.hits = hits = probe.hits + 1
            if hits <= probe.pass_count or probe.over:
                self._spend(probe, begin)
                begin = self._spent_until
                continue
            entry = probe.entry
            context.arguments = attachment.readers
            try:
                outcome = entry(context)
            except Gone:
                probe.missed += 1
                return False
            except Exception as error:
                self._defect(thread, attachment, error)
                continue
            probe.ran += 1
            if probe.alters:
                altered = True
            ended = outcome.exit
            if ended != ABORT:
                if now > facts.cpu_until:
                    facts.cpu = context.cpu
                    facts.cpu_until = now + _CPU_NS
                cpu = facts.cpu
                facts.comm = _name_of(tid)
                if cpu != affinity.cpu or affinity.elsewhere:
                    affinity.hit(cpu)
                if ended and ended in _AT_HIT:
                    ended = self._listener.at_hit(thread, attachment, outcome)
                add(probe, RawRecord(
                    probe.program, probe.index, attachment.number, thread.tgid, tid, facts.comm,
                    facts.uid, cpu, now, hits, ended, outcome.major, outcome.minor,
                    outcome.log, outcome.raw, outcome.exception,
                ))  # fmt: skip
                if may_fault and probe.revocable:
                    facts.revocable += self._latest()
            if hits >= probe.last or outcome.suspend or outcome.resume or ended == REM:
                self._follow(thread, probe, outcome)
            after = _clock()
            probe.spent_ns += after - begin
            begin = after
        self._spent_until = begin
        if context.fp_dirty:
            context.leave()
        if self.metered:
            self.charge(attachments, now)
        self.served = served = self.served + 1
        if not served % _REVIEW:
            cpu = context.cpu
            affinity.review(thread, cpu, _REVIEW, now)
            affinity.hit(cpu)
        return altered

    def led_on(self, thread: Thread, now: int) -> None:
        """A thread is at a breakpoint that leads to native programs in the target alone."""
        context, affinity = self.context, self.affinity
        context.pid, context.tid = thread.tgid, thread.tid
        context.facts, context.known_cpu = self.facts_of(thread), -1
        self.served = served = self.served + 1
        if not served % _REVIEW:
            cpu = context.cpu
            affinity.review(thread, cpu, _REVIEW, now)
            affinity.hit(cpu)

    def enter(self, thread: Thread, attachment: Attachment, now: int) -> list[int]:
        """Run the entry part of a return probe for a thread whose registers are loaded; the words
        that it has kept, empty where the call is to be passed over. Raises Gone."""
        context, probe = self.context, attachment.probe
        assert probe.entry_part is not None
        facts = self.facts_of(thread)
        if now > facts.identity_until:
            self._identify(thread, facts, now)
        context.pid, context.tid = thread.tgid, thread.tid
        context.facts, context.known_cpu = facts, -1
        context.forget_fpregs()
        kept = context.kept = [0] * KEPT_WORDS
        try:
            outcome = probe.entry_part(context)
        except Gone:
            raise
        except Exception as error:
            self._defect(thread, attachment, error)
            return []
        if context.fp_dirty:
            context.leave()
        if outcome.exit == EXIT:
            return kept
        if outcome.exit != ABORT:
            probe.missed += 1
            self._add(probe, RawRecord(
                probe.program, probe.index, attachment.number, thread.tgid, thread.tid,
                _name_of(thread.tid), facts.uid, context.cpu, now, probe.hits, outcome.exit,
                outcome.major, outcome.minor, outcome.log, outcome.raw, outcome.exception,
            ))  # fmt: skip
        return []

    def _follow(self, thread: Thread, probe: Probe, outcome: Outcome) -> None:
        """Do what seldom follows a hit: the probe is over, threads are held or resumed."""
        if probe.hits >= probe.last or outcome.exit == REM:
            probe.set(State.REMOVED if outcome.exit == REM else State.DISABLED)
            self._listener.retired()
        if outcome.suspend:
            thread.held = True
            self._listener.suspended(thread)
        if outcome.resume:
            self._listener.resume()

    def withdraw(self, thread: Thread) -> None:
        """The probed instruction faulted: its hit's records are taken back, and counted."""
        for handle in self.facts_of(thread).revocable:
            probe = self._listener.records.withdraw(handle)
            if probe is not None:
                probe.faulted += 1

    def _spend(self, probe: Probe, since: int) -> None:
        """A thread has stood for a probe since then, or since that was counted last."""
        self._spent_until, since = _clock(), max(since, self._spent_until)
        probe.spent_ns += self._spent_until - since

    def passed(self, attachments: Iterable[Attachment], now: int) -> None:
        """A thread stood at a place of theirs, and no program ran for that."""
        for attachment in attachments:
            self._spend(attachment.probe, now)
            break  # of others of the same place none can be told apart
        if self.metered:
            self.charge(attachments, now)

    def charge(self, attachments: Iterable[Attachment], now: int) -> None:
        """Charge the cost of this hit to the accounts of its probes."""
        after = time.monotonic_ns()
        for account in {each for hit in attachments for each in hit.probe.accounts}:
            if account.charge(after - now + STOP_NS, after) and not account.noted:
                account.noted = True
                self._listener.overdrawn(account)

    def _identify(self, thread: Thread, facts: Facts, now: int) -> None:
        """Read again what changes seldom: user, SIGTRAP's disposition."""
        facts.identity_until = now + _IDENTITY_NS
        found = procfs.status(thread.tid)
        if found is None:
            return
        facts.uid, facts.gid = found.uids[0], found.gids[0]
        self._listener.identified(thread, found)

    def _defect(self, thread: Thread, attachment: Attachment, error: Exception) -> None:
        """Internal error in a program's executor: the thread goes on unaltered, the probe fails."""
        _log.error("the program of %s failed", attachment.place, exc_info=error)
        probe = attachment.probe
        probe.missed += 1
        words = self.registers.words
        address = words[RIP]
        try:
            self.registers.load(thread.tid)
        except Gone:
            return
        words[RIP] = address
        self.context.fp_dirty = False
        probe.set(State.FAILED, f"internal error: {type(error).__name__}: {error}")
        self._listener.retired()
