"""A target (a traced process), its tracer, and the programs inserted into it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from dprobed.backend import PATIENCE, Backend, BackendGone, BackendRefused, BackendSilent, Late
from dprobed.daemon import told
from dprobed.daemon.client import Client, NoAnswer, Refusal, User
from dprobed.daemon.insertion import Insertion, left
from dprobed.policy.model import Decision
from dprobed.printable import printable
from dprobed.proc import procfs
from dprobed.proc.frozen import is_frozen
from dprobed.program.isa import WORD_MASK
from dprobed.program.maps import PROGRAM_BYTES
from dprobed.program.model import ProbeDefinition, least
from dprobed.wire import messages, protocol
from dprobed.wire.counters import Counters
from dprobed.wire.engines import SIGNAL, TRAP
from dprobed.wire.limits import Limits

#: Ended targets of a tracer that are remembered: a fork child of theirs may still be reported.
_ENDED: Final = 64
#: Processes that a tracer may name in places before it reports them as targets.
_EARLY: Final = 1024
#: Targets of a tracer, which itself has 1000 at most; that some have ended is seen a moment later.
MOST: Final = 2048
#: Threads of a target of which it is known when they were suspended.
_SUSPENDED: Final = 4096
#: Seconds for which who asks a tracer that has ended waits until what it left is undone.
_UNDONE: Final = PATIENCE
#: What a debugger's socket can be called: nothing in it is syntax for gdb or a shell.
SOCKET_PATH: Final = re.compile(r"/[\w./+:@-]{1,107}", re.ASCII)


class InsertedProgram:
    """One program inserted into one process.

    ``owner``: the client with whose end it is removed; None: it is kept. ``uid``, ``gid``: the user
    who inserted it, also when it is kept.
    """

    def __init__(
        self, insertion: Insertion, target: Target, owner: Client | None, by: User
    ) -> None:
        self.insertion: Final = insertion
        self.number: Final = insertion.number
        self.label: Final = insertion.upload.label
        self.program: Final = insertion.program
        self.target: Final = target
        self.owner: Final = owner
        self.uid, self.gid = by.uid, by.gid
        #: Since when it is in this process (monotonic).
        self.since = time.monotonic() if insertion.deployed else insertion.term.since
        #: It is being taken out: its time is over, or its tracer did not answer who asked for it.
        self.leaves = False
        #: None of its probes will fire any more.
        self.spent = False
        #: It counts on from what it had counted before a restart.
        self.goes_on = False
        #: What was in its maps then was too large to be noted.
        self.maps_anew = False
        self.probes: Final = {probe.index: probe for probe in self.program.probes}
        self.dropped: Final = dict.fromkeys(self.probes, 0)
        #: Probe → handler → reports that the handler had no room for.
        self.handler_drops: Final[dict[int, dict[str, int]]] = {}
        self.statuses: Final[dict[int, list[protocol.ProbeStatus]]] = {}
        #: Bytes that these take, by probe.
        self._sizes: Final[dict[int, int]] = {}
        #: Probes of which nothing was told since its process executed another program; and their
        #: hits before that.
        self._left_behind: set[int] = set()
        self._former_hits: Final[dict[int, int]] = {}
        #: What its local variables gained in this process.
        self.variables: list[int] = [0] * self.program.header.vars
        #: What was in its maps when it was taken out, or its process ended; and how many requests
        #: may still want to see that.
        self.maps: list[protocol.MapState] = []
        self._map_bytes = 0
        self.readers = 0
        #: How full they were when that was last asked.
        self.map_use: dict[int, protocol.MapUse] = {}

    def in_child(self, child: Target) -> InsertedProgram:
        """The same program in a fork child, which inherited it."""
        inherited = InsertedProgram(self.insertion, child, self.owner, self)
        inherited.since = self.since
        return inherited

    @property
    def _end(self) -> tuple[float | None, str]:
        """When it ends by itself, and who says so."""
        insertion, decision = self.insertion, self.target.decision
        ends = [] if insertion.term.until is None else [(insertion.term.until, insertion.term.rule)]
        if insertion.seconds is not None:
            ends.append((self.since + insertion.seconds, f"policy {insertion.policy}"))
        if decision is not None and decision.stay.seconds is not None and not insertion.policy:
            ends.append((self.since + decision.stay.seconds, decision.rule_text))
        return min(ends, default=(None, ""))

    @property
    def until(self) -> float | None:
        """When it is taken out of this process (monotonic); None: not by itself."""
        return self._end[0]

    @property
    def end_rule(self) -> str:
        """Who says that it ends then; empty: the user who inserted it."""
        return self._end[1]

    @property
    def is_over(self) -> bool:
        """Whether its time in this process is over."""
        until = self.until
        return until is not None and until <= time.monotonic()

    @property
    def most_hits(self) -> int | None:
        """What a policy allows each probe at most (0: any number); None: it is the policy's own."""
        if self.insertion.policy:
            return None
        return (self.target.decision.stay.max_hits if self.target.decision else None) or 0

    @property
    def budget(self) -> Limits | None:
        """Its rate limit: what it may cost the process."""
        return self.insertion.upload.budget

    @property
    def is_settled(self) -> bool:
        """Whether its process is traced, and goes on."""
        return self.target.attached and not self.target.finished.is_set()

    @property
    def is_in(self) -> bool:
        """Whether it is in its process, which goes on."""
        target = self.target
        return not target.finished.is_set() and target.programs.get(self.number) is self

    @property
    def follows(self) -> bool:
        """Whether fork children of the process inherit it."""
        decision = self.target.decision
        return self.insertion.follow_forks or (decision is not None and decision.follow_forks)

    def info(self) -> messages.ProgramInfo:
        """The program as ``dprobe programs`` lists it."""
        header = self.program.header
        return messages.ProgramInfo(
            number=self.number,
            program=self.label,
            program_id=header.id,
            pid=self.target.pid,
            module=header.name,
            major=header.major,
            probes=len(self.probes),
            vars=header.vars,
            names=list(header.names),
            gvars=header.gvars,
            kept=self.owner is None or self.owner.kept,
            uid=self.uid,
            age_seconds=time.monotonic() - self.since,
            left_seconds=left(self.until),
            end_rule=self.end_rule,
            ended=self.ended,
        )

    @property
    def ended(self) -> str:
        """How its process ended, of one that stays: nobody may take it for one that waits."""
        target = self.target
        if self.owner is not None or not target.finished.is_set() or target.is_detached:
            return ""
        return target.reason or target.end

    def probe_infos(self) -> Iterator[messages.ProbeInfo]:
        """Its probes, in the order of the source."""
        for index in sorted(self.statuses):
            for status in self.statuses[index]:
                yield self.probe_info(status)

    def probe_info(self, status: protocol.ProbeStatus) -> messages.ProbeInfo:
        """One probe at one place: its definition, the tracer's status, and, with the first place,
        what was dropped in the daemon: that is known of the probe alone."""
        probe = self.probes[status.probe]
        until, rule = self._end
        is_first = status is self.statuses[status.probe][0]
        counters = Counters.of(status)
        if is_first:
            counters += Counters(dropped=self.dropped[status.probe])
        ended = self.ended if status.state in told.MAY_FIRE else ""
        return messages.ProbeInfo(
            program=self.label,
            number=self.number,
            probe=status.probe,
            major=self.program.header.major,
            minor=probe.minor,
            group=probe.group,
            pid=self.target.pid,
            module=status.module or self.program.header.name,
            place=status.place or probe.offset or probe.address or "",
            state=messages.ENDED if ended else str(status.state),
            reason=f"its process has ended: {ended}" if ended else status.reason,
            addresses=status.addresses,
            handler_drops=self.handler_drops.get(status.probe, {}) if is_first else {},
            engine=status.engine,
            slower=status.slower,
            no_dumps=status.no_dumps,
            source=self._source(probe, status),
            unguarded=self.target.unguarded if status.engine in (TRAP, SIGNAL) else "",
            uid=self.uid,
            age_seconds=time.monotonic() - self.since,
            left_seconds=left(until),
            max_hits=least(probe.max_hits, self.most_hits or 0),
            end_rule=rule,
            doubt="",
            **counters.as_dict(),
        )

    def _source(self, probe: ProbeDefinition, status: protocol.ProbeStatus) -> str:
        """Where the place of a probe that does not work is written."""
        place = None if status.state in told.WORKING else self.program.probe_place(probe)
        return "" if place is None else str(place)

    def note(self, probe: int, statuses: list[protocol.ProbeStatus]) -> None:
        """Take over the tracer's statuses of a probe, which may be at several places.

        Counters never fall: where a tracer reports less than before, the earlier count holds.
        """
        size, kept = sum(map(told.status_size, statuses)), self._sizes.get(probe, 0)
        if not self.target.share.change("probes", size - kept):
            return
        self._sizes[probe] = size
        before = Counters.of(*self.statuses.get(probe, ()))
        self.statuses[probe] = told.not_below(before, statuses)
        if probe in self._left_behind:
            # Told right behind the exec: nothing of what is executed now has run yet.
            self._left_behind.discard(probe)
            self._former_hits[probe] = sum(each.hits for each in self.statuses[probe])

    def give_back(self) -> None:
        """What is kept of its probes takes no room of its user's any more."""
        self.target.share.change("probes", -sum(self._sizes.values()))
        self._sizes.clear()

    def in_another_image(self) -> None:
        """Its process has executed another program: hits so far say nothing of that."""
        self._left_behind = set(self.probes)

    def has_fired(self, info: messages.ProbeInfo) -> bool:
        """Whether a probe has fired in the program that its process executes now."""
        hits = sum(each.hits for each in self.statuses.get(info.probe, ()))
        return info.probe not in self._left_behind and hits > self._former_hits.get(info.probe, 0)

    def take_map(self, state: protocol.MapState) -> None:
        """Take over what was in a map at last, of which its tracer tells once."""
        if state.number >= len(self.program.header.map):
            return
        size = told.map_size(state)
        if self._map_bytes + size > PROGRAM_BYTES + told.map_size() * len(self.program.header.map):
            self.target.share.room.drop("maps", f"{size} bytes in a map of a program")
            if any(each.number == state.number for each in self.maps):
                return
            state, size = told.without_entries(state), 0
        self._map_bytes += size
        self.maps.append(state)

    def gain(self, variables: protocol.LocalVariables) -> None:
        """Take over the values of its local variables, without what a ``fork`` brought along: that
        is the parent's."""
        inherited = variables.inherited or [0] * len(variables.words)
        self.variables = [
            (word - before) & WORD_MASK
            for word, before in zip(variables.words, inherited, strict=True)
        ]

    def held_maps(self, name: str | None, *, reset: bool) -> list[protocol.MapState]:
        """What came of the map of this name (None: of all) when nobody waited for it any more;
        ``reset``: it is held elsewhere now."""
        definitions = self.program.header.map
        held = [each for each in self.maps if name in (None, definitions[each.number].name)]
        if reset and held:
            self.maps = [each for each in self.maps if each not in held]
            self._map_bytes = sum(map(told.map_size, self.maps))
        return held

    def drop_maps(self) -> None:
        """What was counted in its maps is held elsewhere now; values are of its process alone."""
        if not self.readers:
            definitions = self.program.header.map
            self.maps = [each for each in self.maps if definitions[each.number].is_own]
            self._map_bytes = sum(map(told.map_size, self.maps))

    def count_handler_drop(self, probe: int, handler: str) -> None:
        """Count a report of this probe that a handler had no room for."""
        drops = self.handler_drops.setdefault(probe, {})
        drops[handler] = drops.get(handler, 0) + 1

    def end(self, state: protocol.State, reason: str) -> None:
        """Set the final state of all its probes; they keep their last counters."""
        for probe, statuses in self.statuses.items():
            self.statuses[probe] = [
                msgspec.structs.replace(status, state=state, reason=reason) for status in statuses
            ]

    def matches(self, select: messages.Select) -> bool:
        """Whether the program is selected."""
        header = self.program.header
        modules = {header.name} | {s.module for each in self.statuses.values() for s in each}
        return (
            select.number in (None, self.number)
            and select.label in (None, self.label)
            and select.program_id in (None, header.id)
            and select.pid in (None, self.target.pid)
            and (
                select.module is None
                or select.module in modules
                or select.module in {Path(module).name for module in modules}
            )
        )


class Target:
    """One traced process; its ``lock`` is held to change it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        #: Its name, for messages and the log: what does not show is escaped.
        self.comm = "?"
        self.programs: dict[int, InsertedProgram] = {}
        #: Programs of which the tracer has not said whether they are in. Who inserts one may have
        #: been told that nobody answers: it is taken out when it turns out to be in.
        self.in_doubt: Final[dict[int, InsertedProgram]] = {}
        self.take_name()
        self.lock = asyncio.Lock()
        #: Its tracer, and the user as whom that runs.
        self.tracer: TargetsTracer | None = None
        self.uid = -1
        self.decision: Decision | None = None
        self.attached = False
        #: Somebody attached to it (it is no followed fork child); ``launched``: before it executed
        #: its own program (``run``).
        self.asked_for = False
        self.launched = False
        self.holders: set[Client] = set()
        #: The holders that follow its forks.
        self.followers: set[Client] = set()
        self.places: dict[int, tuple[str, str]] = {}
        #: What it takes of what may be kept of its tracer's messages.
        self.share = told.Share(told.Room(-1, None))
        self.suspended: list[int] = []
        #: When threads were suspended.
        self.suspended_at: dict[int, float] = {}
        #: Seconds for which it is held without a debugger.
        self.hold_limit = 0.0
        self.debugger: protocol.DebuggerStatus | None = None
        #: Why a breakpoint would end it if its tracer were killed; empty: none would.
        self.unguarded = ""
        #: When job control stopped it, as it was last asked.
        self.stopped_at: float | None = None
        self.overhead_ns = 0
        self.ended: protocol.Ended | None = None
        #: Programs of which its tracer told as it ended.
        self._told_last: frozenset[int] = frozenset()
        self.reason = ""
        self.finished = asyncio.Event()
        #: Its tracer is to detach, and cannot before a thread wakes.
        self.asleep = False
        #: Its tracer did not answer when it was last asked for its counters.
        self.is_stale = False

    def take_name(self) -> None:
        """Learn its name: at first, and when it executes another program."""
        self.comm = printable(procfs.comm(self.pid).decode(errors="replace")) or self.comm
        for inserted in self.programs.values():
            inserted.in_another_image()

    @property
    def owner(self) -> int:
        """Whose process it is, for its tracer and resolver."""
        return self.tracer.owner if self.tracer is not None else self.uid

    @property
    def what(self) -> str:
        """What it is, as messages call it."""
        return f"process {self.pid}" if self.pid != messages.KERNEL else "the kernel"

    def release(self, number: int) -> bool:
        """A program is in it no longer; whether it was. What is known of it takes no room then."""
        inserted = self.programs.pop(number, None)
        if inserted is not None:
            inserted.give_back()
        return inserted is not None

    def take(self, statuses: Iterable[protocol.ProbeStatus]) -> list[messages.ProbeInfo]:
        """Take over statuses of probes from the tracer; returns the probes that changed."""
        fresh: dict[tuple[int, int], list[protocol.ProbeStatus]] = {}
        for status in statuses:
            fresh.setdefault((status.program, status.probe), []).append(status)
        infos = []
        for (number, probe), its_statuses in fresh.items():
            inserted = self.programs.get(number)
            if inserted is not None and probe in inserted.probes:
                inserted.note(probe, its_statuses)
                # None, where there was no room for it.
                kept = inserted.statuses.get(probe, [])
                infos += [inserted.probe_info(status) for status in kept]
        return infos

    def take_variables(self, variables: Iterable[protocol.LocalVariables]) -> None:
        """Take over the values of local variables from the tracer."""
        for each in variables:
            inserted = self.programs.get(each.program)
            if inserted is not None and (
                len(each.words) == inserted.program.header.vars
                and len(each.inherited) in (0, len(each.words))
            ):
                inserted.gain(each)

    def take_maps(self, maps: Iterable[protocol.MapState]) -> None:
        """Take over the last contents of maps from the tracer, which tells of them once."""
        for state in maps:
            inserted = self.programs.get(state.program)
            if inserted is not None:
                inserted.take_map(state)

    def take_map_use(self, uses: Iterable[protocol.MapUse]) -> None:
        """Take over how full maps are."""
        for use in uses:
            inserted = self.programs.get(use.program)
            if inserted is not None and use.number < len(inserted.program.header.map):
                inserted.map_use[use.number] = use

    def take_end(self, ended: protocol.Ended) -> None:
        """Take over what its tracer says as it ends."""
        self.take(ended.probes)
        self.take_variables(ended.variables)
        self.take_maps(ended.maps)
        self.spent(ended.overhead_ns)
        self._told_last = frozenset(status.program for status in ended.probes) & set(self.programs)
        how = told.line(ended.how)
        self.ended = msgspec.structs.replace(ended, how=how, probes=[], variables=[], maps=[])

    def suspend(self, tid: int) -> None:
        """A thread of it is suspended from now on."""
        self.suspended_at.pop(tid, None)
        self.suspended_at[tid] = time.monotonic()
        if len(self.suspended_at) > _SUSPENDED:
            del self.suspended_at[next(iter(self.suspended_at))]

    def take_state(self, answer: protocol.Ok) -> None:
        """Take over what its tracer says of it besides counters."""
        room = self.share.room
        self.suspended = told.threads(answer.suspended, room)
        self.debugger = told.debugger(answer.debugger, room)
        self.unguarded = told.line(answer.unguarded)
        self.stopped_at = time.monotonic() - answer.stopped_ns / 1e9 if answer.stopped_ns else None
        self.is_stale = False

    async def ask(
        self,
        make: Callable[[int], protocol.Request],
        patience: float | None = PATIENCE,
        late: Late | None = None,
    ) -> protocol.Ok:
        """Send a request to the tracer, and take over what it answers, also if that comes late;
        raises Refusal, which is NoAnswer where it does not come in time (see
        ``Backend.request``)."""
        if self.tracer is None or self.finished.is_set():
            # Its tracer may have another process of that number by now.
            raise Refusal(self.reason or f"{self.what}: {self.end or 'not traced'}")

        def taken(answer: protocol.Ok | None) -> None:
            if answer is not None:
                self._take_answer(answer)
            if late is not None:
                late(answer)

        try:
            answer = await self.tracer.backend.request(make, patience, taken)
        except BackendSilent as error:
            raise NoAnswer(f"{self.what}: its tracer {error}", asked=error.asked) from None
        except (BackendRefused, BackendGone) as error:
            if isinstance(error, BackendGone):
                await self._undone()
            ended = f"{self.what}: {self.end}" if self.ended is not None else str(error)
            raise Refusal(self.reason or ended) from None
        self._take_answer(answer)
        return answer

    def _take_answer(self, answer: protocol.Ok) -> None:
        """Take over the counts in an answer, whoever waits for it."""
        # What it said at its end, which may have come with the answer, is newer.
        self.take(status for status in answer.probes if status.program not in self._told_last)
        if self.ended is None:
            self.take_variables(answer.variables)
        self.take_maps(answer.last_maps)
        self.take_map_use(answer.map_use)
        self.spent(answer.overhead_ns)

    async def _undone(self) -> None:
        """Wait until nothing of a tracer that has ended is left; raises Refusal where that takes
        long: who undoes it may have to wait for a thread that sleeps in the kernel."""
        try:
            await asyncio.wait_for(self.finished.wait(), _UNDONE)
        except TimeoutError:
            text = "its tracer has ended, and what that left is being undone; try again later"
            raise Refusal(f"{self.what}: {text}") from None

    def spent(self, overhead_ns: int) -> None:
        """Take over the total time that its threads were stopped for probes."""
        self.overhead_ns = max(self.overhead_ns, overhead_ns)

    @property
    def is_detached(self) -> bool:
        """Whether it has ended as a target because its tracer detached."""
        return self.ended is not None and self.ended.how == "detached"

    def settle(self, inserted: InsertedProgram) -> None:
        """It is known whether a program is in."""
        if self.in_doubt.get(inserted.number) is inserted:
            del self.in_doubt[inserted.number]

    @property
    def end(self) -> str:
        """How it ended, in a few words; empty while no tracer has reported that."""
        return told.describe_end(self.ended) if self.ended is not None else ""

    def dismiss(self, client: Client) -> None:
        """Remove a client from its holders."""
        self.holders.discard(client)
        self.followers.discard(client)

    def clients(self) -> set[Client]:
        """The clients that hold it, or own a program in it."""
        owners = {
            inserted.owner for inserted in self.programs.values() if inserted.owner is not None
        }
        return self.holders | owners

    def owned_by(self, client: Client) -> list[InsertedProgram]:
        """The programs in it that a client owns."""
        return [inserted for inserted in self.programs.values() if inserted.owner is client]

    def fail(self, reason: str) -> None:
        """The tracer died: all probes have failed, with their last counters."""
        self.reason = reason
        for inserted in self.programs.values():
            inserted.end(protocol.State.FAILED, reason)

    def info(self) -> messages.TargetInfo:
        """The process as ``dprobe query`` lists it."""
        ended = (self.reason or self.end) if self.finished.is_set() else ""
        # What was suspended when it ended is not any more.
        suspended = self.suspended if not ended else []
        backend = self.tracer.backend if self.tracer is not None else None
        since = [self.suspended_at[tid] for tid in suspended if tid in self.suspended_at]
        stopped_for = time.monotonic() - self.stopped_at if self.stopped_at is not None else 0.0
        return messages.TargetInfo(
            pid=self.pid,
            comm=self.comm,
            ended=ended,
            overhead_ns=self.overhead_ns,
            suspended=suspended,
            debugger=self._debugger_info() if not ended else None,
            backend=backend.name if backend is not None else "",
            suspended_seconds=time.monotonic() - min(since) if since else 0.0,
            silent_seconds=backend.waits if backend and self.is_stale and not ended else 0.0,
            stopped_seconds=stopped_for if not ended else 0.0,
            frozen=not ended and self.pid != messages.KERNEL and is_frozen(self.pid),
        )

    def _debugger_info(self) -> messages.DebuggerInfo | None:
        found = self.debugger
        if found is None:
            return None
        # It comes from the tracer, which runs as who asked for it, and others give it to gdb, for
        # which `| command` is a place to connect to.
        return messages.DebuggerInfo(
            held=found.held,
            socket=found.socket if SOCKET_PATH.fullmatch(found.socket) else "",
            attached=found.attached,
            seconds=found.seconds,
            expired=found.expired,
            limit=self.hold_limit,
        )


class TargetsTracer:
    """A tracer and its targets. ``user``: uid and gid as whom it runs; ``owner``: whose processes
    they are.

    ``shared``: it may take further targets. ``warm``: it is kept for the next target when its last
    one is gone.
    """

    def __init__(
        self,
        backend: Backend,
        user: tuple[int, int],
        owner: int,
        room: told.Room,
        *,
        shared: bool,
        warm: bool,
    ) -> None:
        """``room``: for what is kept of its messages."""
        self.backend: Final = backend
        self.user: Final = user
        self.owner: Final = owner
        self.shared: Final = shared
        self.warm = warm and shared
        self.targets: dict[int, Target] = {}
        #: By place number: the target that the place is in.
        self.by_place: dict[int, Target] = {}
        #: Places in fork children that the tracer has not reported yet, by pid.
        self._early: dict[int, dict[int, protocol.Place]] = {}
        #: Processes of which it has not said whether it attached. Who asked may have been told that
        #: nobody answers: when it turns out that it did, it detaches; it is not asked again before.
        self.in_doubt: Final[set[int]] = set()
        self._room: Final = room
        self._share: Final = told.Share(room)
        self._ended: dict[int, Target] = {}

    def add(self, target: Target) -> None:
        """Add a target to this tracer."""
        self.targets[target.pid] = target
        target.tracer = self
        target.share = told.Share(self._room)
        for number, place in self._forget_early(target.pid).items():
            self.place(number, place)

    def place(self, number: int, place: protocol.Place) -> None:
        """Note the place that records mean by this number."""
        text = told.place(place)
        target = self.targets.get(place.pid)
        if target is not None:
            known = target.places.get(number)
            more = told.place_size(text) - (told.place_size(known) if known is not None else 0)
            if target.share.change("places", more):
                target.places[number] = text
                self.by_place[number] = target
            return
        if not self._share.change("places", told.place_size(text)):
            return
        early = self._early.setdefault(place.pid, {})
        if number in early:
            self._share.change("places", -told.place_size(told.place(early[number])))
        early[number] = protocol.Place(place.pid, *text)
        if len(self._early) > _EARLY:
            pid = next(reversed(self._early))
            self._forget_early(pid)
            self._room.drop("processes", f"places in process {pid}, which is no target of its")

    def _forget_early(self, pid: int) -> dict[int, protocol.Place]:
        """Places in a process, which are held elsewhere from now on, or not at all."""
        early = self._early.pop(pid, {})
        for each in early.values():
            self._share.change("places", -told.place_size(told.place(each)))
        return early

    @property
    def is_full(self) -> bool:
        """Whether it has more targets than it can have; that is counted."""
        full = len(self.targets) >= MOST
        if full:
            self._room.drop("processes", f"more than {MOST} targets")
        return full

    def drop(self, target: Target) -> None:
        """Remove a target that has ended; with the last one the tracer is closed."""
        if self.targets.get(target.pid) is target:
            del self.targets[target.pid]
        self._ended[target.pid] = target
        while len(self._ended) > _ENDED:
            del self._ended[next(iter(self._ended))]
        for number in target.places:
            if self.by_place.get(number) is target:
                del self.by_place[number]
        if self.is_over:
            self.backend.close()

    @property
    def is_over(self) -> bool:
        """Whether it has no target, and is not kept for another."""
        return not self.targets and not self.warm

    def parent(self, pid: int) -> Target | None:
        """A target of this tracer, also one that ended a short time ago."""
        return self.targets.get(pid) or self._ended.get(pid)
