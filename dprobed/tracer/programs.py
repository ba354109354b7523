"""The programs of one target: put into its address space, found again in a new one, taken out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

from dprobed.binary.errors import LocationError
from dprobed.engine.address_space import AddressSpace, Site, SpaceError
from dprobed.engine.budget import Account
from dprobed.engine.probe import Attachment, Probe
from dprobed.engine.trap.engine import TrapEngine
from dprobed.proc import procfs
from dprobed.program.bytecode import decode
from dprobed.program.exec.python import Executor
from dprobed.program.model import Program, ProgramError
from dprobed.tracee.lifecycle import State
from dprobed.tracee.memory import Memory
from dprobed.tracee.ptrace import Gone, PtraceError
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup
from dprobed.tracer.internal_breakpoints import InternalBreakpoints
from dprobed.tracer.placement import Loaded, Placement, Spot, Unplaced
from dprobed.tracer.reporter import Reporter
from dprobed.wire import protocol
from dprobed.wire.protocol import State as ProbeState

_log = logging.getLogger(__name__)

#: A program that goes into many targets is read and verified once.
_decode = lru_cache(maxsize=64)(decode)


class RequestError(Exception):
    """A request that is refused; one line."""


@dataclass
class Inserted:
    """A program that is in."""

    number: int
    program: Program
    executor: Executor
    check_opcode: bool
    label: str = ""
    budget: protocol.Limits | None = None
    #: Children get it, too.
    follow_forks: bool = False
    #: What hits of this program are charged to, besides that of all.
    account: Account | None = None
    probes: list[Probe] = field(default_factory=list)


def _why_unwatched(tid: int, error: PtraceError) -> str:
    return f"not in thread {tid}: {error.strerror}; perf may be using its debug registers"


class Variables(NamedTuple):
    """``locals`` by the number of the program."""

    globals: list[int]
    locals: dict[int, list[int]]


class Programs:
    """Those of one target. ``tell`` the daemon: kind, text."""

    def __init__(
        self,
        pid: int,
        group: ThreadGroup,
        engine: TrapEngine,
        reporter: Reporter,
        tell: Callable[[str, str], None],
    ) -> None:
        self.inserted: dict[int, Inserted] = {}
        self.globals: list[int] = []
        #: Children get all of them, whatever each says.
        self.follows_forks = False
        #: Nothing is placed before the target's ``exec``.
        self.launching = False
        #: What hits of all programs are charged to.
        self._account: Account | None = None
        self._pid: Final = pid
        self._group: Final = group
        self._engine: Final = engine
        self._reporter: Final = reporter
        self._tell: Final = tell
        self._placement: Placement
        self._internal: InternalBreakpoints
        self._places: dict[tuple[str, str], int] = {}
        self._prepared = False
        self._unwatched: set[int] = set()

    def probes(self) -> Iterable[Probe]:
        """All probes of all programs."""
        return (probe for inserted in self.inserted.values() for probe in inserted.probes)

    def statuses(self) -> list[protocol.ProbeStatus]:
        """Their states and counters."""
        return [probe.status() for probe in self.probes()]

    def tell_changed(self, probes: Iterable[Probe]) -> None:
        """Tell the daemon the states of these."""
        statuses = [probe.status() for probe in probes]
        if statuses:
            self._reporter.send(protocol.Changed(self._pid, statuses))

    # --- address spaces ---

    def use_space(self, space: AddressSpace) -> None:
        """Begin with an address space in which nothing is yet."""
        engine = self._engine
        engine.space = space
        self._placement = Placement(self._pid, space)
        self._prepared = False
        self._internal = InternalBreakpoints(
            self._group, engine, self._placement, self._modules_changed
        )

    def prepare(self) -> None:
        """Before the first probe of an address space: its modules, and to hear of new ones."""
        if self._prepared:
            return
        engine, group = self._engine, self._group
        with group.borrowed(self._pid) as lender:
            self._placement.refresh(lender.tid)
            engine.sigtrap.observe_process(lender)
            for thread in list(group.threads.values()):
                if thread.state in (State.STOPPED, State.HELD):
                    engine.sigtrap.observe_thread(thread)
        self._prepared = True
        trouble = self._internal.hook_loader()
        if trouble is not None:
            self._tell_trouble(f"later modules get no probes: {trouble}")
        self._internal.hook_signals(list(self._placement.loaded.values()))

    def _modules_changed(self, thread: Thread) -> None:
        """The loader's notification: follow what was mapped and unmapped since the last look."""
        try:
            new, gone = self._placement.refresh(thread.tid)
            if gone:
                self._lose(gone)
            if new:
                self._internal.hook_signals(new)
                self.tell_changed(self._place(self.inserted.values(), new))
        except (SpaceError, LocationError) as error:
            self._tell_trouble(f"a new module got no probes: {' '.join(str(error).split())}")

    def _tell_trouble(self, text: str) -> None:
        """Modules are not probed; of a process that is on its way out that is nobody's concern."""
        if not procfs.has_ended(self._pid):
            self._tell("loader", text)

    def forget_places(self) -> None:
        """The address space is gone: all probes wait for their module."""
        for probe in self.probes():
            probe.attachments.clear()
            if not probe.over:
                probe.set(ProbeState.PENDING, "no mapped module of that name yet")
        self._engine.watch.clear()

    def enter_image(self, thread: Thread) -> None:
        """Put the programs into the new image after ``exec``; raises Gone."""
        self.launching = False
        try:
            self.use_space(AddressSpace(self._pid, Memory(self._pid)))
            self._engine.sigtrap.new_image(thread)
            if procfs.elf_class(self._pid) == 32:
                self._exclude("the new program is a 32-bit one")
            elif self.inserted:
                self.prepare()
                self._place(self.inserted.values(), list(self._placement.loaded.values()))
        except (OSError, SpaceError, LocationError) as error:
            self._exclude(" ".join(str(error).split()))

    def _exclude(self, reason: str) -> None:
        """No program can be put into this image."""
        for probe in self.probes():
            if not probe.attachments and not probe.over:
                probe.set(ProbeState.EXCLUDED, reason)

    # --- in ---

    def insert(
        self, request: protocol.Insert, facilities: dict[str, int]
    ) -> list[protocol.ProbeStatus]:
        """Put a program in, all of it or nothing.

        Raises RequestError, SpaceError, LocationError, Gone.
        """
        if request.program in self.inserted:
            raise RequestError(f"program {request.program} is in already")
        if request.engine not in protocol.ENGINES:
            known = ", ".join(protocol.ENGINES)
            raise RequestError(f"there is no engine {request.engine!r}; there are: {known}")
        try:
            program = _decode(request.bytecode)
            if program.header.kernel:
                raise RequestError(
                    f"{program.header.name}: a program with modtype {program.header.modtype} goes "
                    "into the kernel, not into a process"
                )
            executor = Executor(program, self.globals, facilities)
        except ProgramError as error:
            raise RequestError(str(error)) from error
        inserted = Inserted(
            request.program,
            program,
            executor,
            request.check_opcode,
            request.label,
            request.budget,
            request.follow_forks,
        )
        inserted.probes = self._probes_of(inserted)
        self._charge(inserted)
        self.inserted[request.program] = inserted
        if not self.launching:
            try:
                self.prepare()
                self._place([inserted], list(self._placement.loaded.values()))
            except (SpaceError, LocationError, Gone):
                self.detach([*inserted.probes])
                del self.inserted[request.program]
                raise
        return [probe.status() for probe in inserted.probes]

    def retry_pending(self) -> None:
        """Variants that the loader had not chosen when their module was mapped."""
        waiting = [
            inserted
            for inserted in self.inserted.values()
            if any(probe.state is ProbeState.PENDING and probe.retry for probe in inserted.probes)
        ]
        if waiting:
            self.tell_changed(self._place_again(waiting))

    def place_again(self, probes: Iterable[Probe]) -> None:
        """Put probes in that were taken out for a while; the daemon hears of those that fail."""
        numbers = dict.fromkeys(probe.program for probe in probes)
        again = [self.inserted[each] for each in numbers if each in self.inserted]
        placed = self._place_again(again)
        self.tell_changed(probe for probe in placed if probe.state is not ProbeState.ACTIVE)

    def _place_again(self, programs: Iterable[Inserted]) -> list[Probe]:
        if not self._prepared:
            return []
        try:
            return self._place(programs, list(self._placement.loaded.values()))
        except (SpaceError, LocationError, Gone) as error:
            _log.warning("process %d: %s", self._pid, error)
            return []

    def _place(self, programs: Iterable[Inserted], among: list[Loaded]) -> list[Probe]:
        """Put probes of these programs into these modules; those whose state changed.

        Raises SpaceError and Gone when the target has no room for slots; nothing is changed then.
        """
        found: list[tuple[Inserted, Probe, list[Spot]]] = []
        changed: list[Probe] = []
        for inserted in programs:
            for probe in inserted.probes:
                if probe.over or probe.state in (ProbeState.FAILED, ProbeState.THROTTLED):
                    continue
                have = {attachment.address for attachment in probe.attachments}
                spots, trouble = self._placement.find(
                    inserted.program.header, probe.definition, among
                )
                fresh = {spot.address: spot for spot in spots if spot.address not in have}
                spots = list(fresh.values())
                if trouble is not None and not spots and not have:
                    self._excuse(probe, trouble)
                    changed.append(probe)
                if spots:
                    found.append((inserted, probe, spots))
        wanted = [
            spot.address
            for _, probe, spots in found
            if probe.definition.watchpoint is None
            for spot in spots
        ]
        space = self._engine.space
        before = set(self._engine.watch.attachments())
        if wanted:
            space.reserve(self._group, wanted)
        try:
            ready = [
                (probe, spot, self._ready(inserted, probe, spot))
                for inserted, probe, spots in found
                for spot in spots
            ]
            with self._group.stopped() as late:
                for probe, spot, site in ready:
                    self._connect(probe, spot, site)
                sites = [site for _, _, site in ready if site is not None]
                self._engine.take_in(site for site in sites if site.trap in space.by_trap)
                watching = [probe for probe, spot, _ in ready if spot.length]
                if watching:
                    unwatched = self._apply_watches(late)
                    if unwatched:
                        self._give_up_watches(watching, before, unwatched)
                        unwatched = self._apply_watches(late)
                    self._note_unwatched(unwatched)
                self._engine.classify()
        finally:
            space.discard_unarmed()
        return changed + [probe for _, probe, _ in found]

    @staticmethod
    def _excuse(probe: Probe, trouble: Unplaced) -> None:
        probe.set(trouble.state, trouble.reason)
        probe.retry = trouble.state is ProbeState.PENDING

    def _ready(self, inserted: Inserted, probe: Probe, spot: Spot) -> Site | None:
        """A site with its slot, not armed yet; the probe says why if there is none."""
        if spot.length:
            return None
        space = self._engine.space
        opcode = probe.definition.opcode
        if opcode and inserted.check_opcode:
            actual = space.text(spot.address, len(opcode))
            if actual != opcode:
                probe.set(
                    ProbeState.MISMATCH,
                    f"expected {opcode.hex(' ')}, found {actual.hex(' ') or 'nothing'}",
                )
                return None
        try:
            return space.make_site(spot.address)
        except SpaceError as error:
            probe.set(ProbeState.FAILED, str(error))
            return None

    def _connect(self, probe: Probe, spot: Spot, site: Site | None) -> None:
        index = -1
        if spot.length:
            kind = probe.definition.watchpoint or "w"
            register = self._engine.watch.add(kind, spot.address, spot.length)
            if register is None:
                if not probe.attachments:
                    probe.set(
                        ProbeState.NO_DEBUG_REGISTER,
                        "all four debug registers are in use: remove another watchpoint first",
                    )
                return
            index = register
        elif site is None:
            return
        elif not self._engine.space.arm(site):
            if not probe.attachments:
                probe.set(ProbeState.FAILED, f"the code at {spot.address:#x} changed meanwhile")
            return
        attachment = Attachment(
            probe,
            self._place_number(spot.module, spot.place),
            spot.place,
            spot.address,
            spot.key,
            site,
            index,
        )
        if site is not None:
            site.attachments.append(attachment)
        else:
            self._engine.watch.attach(index, attachment)
        probe.attachments.append(attachment)
        probe.engine = "watch" if site is None else "trap"
        probe.module, probe.place = spot.module, spot.place
        probe.set(ProbeState.ACTIVE)
        probe.retry = False

    def _place_number(self, module: str, place: str) -> int:
        number = self._places.get((module, place))
        if number is None:
            number = self._reporter.place(protocol.Place(self._pid, module, place))
            self._places[module, place] = number
        return number

    def _give_up_watches(
        self, probes: Iterable[Probe], before: set[Attachment], trouble: str
    ) -> None:
        """Watchpoints that not all threads can have are in none; ``before``: those that were in."""
        for probe in probes:
            for attachment in probe.attachments:
                if attachment.site is None and attachment not in before:
                    self._engine.watch.detach(attachment)
            probe.attachments = [
                each for each in probe.attachments if each.site is not None or each in before
            ]
            if not probe.attachments:
                probe.set(ProbeState.NO_DEBUG_REGISTER, trouble)

    def apply_watches(self) -> str:
        """Give every thread the debug registers as they are now; why not all could get them."""
        with self._group.stopped() as late:
            return self._apply_watches(late)

    def _apply_watches(self, late: list[Thread]) -> str:
        """Those that could not be stopped get them later."""
        self._unwatched = {thread.tid for thread in late}
        trouble = ""
        for thread in self._group.threads.values():
            if thread.state in (State.STOPPED, State.HELD):
                try:
                    self._engine.watch.apply(thread.tid)
                except Gone:
                    continue
                except PtraceError as error:
                    trouble = _why_unwatched(thread.tid, error)
        return trouble

    def unwatched(self, tid: int, error: PtraceError) -> None:
        """A thread that has just begun could not be given all watchpoints."""
        self._note_unwatched(_why_unwatched(tid, error))

    def _note_unwatched(self, trouble: str) -> None:
        """Watchpoints are not in all threads; empty: they are."""
        watching = {each.probe for each in self._engine.watch.attachments()}
        changed = [
            probe for probe in self.probes() if probe in watching and probe.reason != trouble
        ]
        for probe in changed:
            probe.set(probe.state, trouble)
        self.tell_changed(changed)

    def watch_late(self) -> None:
        """Threads that were asleep in the kernel when the watchpoints changed."""
        if self._unwatched & self._group.threads.keys():
            self._note_unwatched(self.apply_watches())

    # --- a child ---

    def that_follow(self) -> list[Inserted]:
        """Those that children get, too."""
        return [each for each in self.inserted.values() if self.follows_forks or each.follow_forks]

    def variables_now(self) -> Variables:
        """A copy of the variables."""
        locals_ = {each.number: list(each.executor.locals) for each in self.inserted.values()}
        return Variables(list(self.globals), locals_)

    def take_over(self, other: Programs, variables: Variables) -> None:
        """Begin with what follows from the parent; ``variables``: what it had at the fork.

        They are nowhere yet: ``take_over_space`` or ``enter_image`` comes next.
        """
        self.globals[:] = variables.globals
        # A program may have come since, with more.
        self.globals += other.globals[len(self.globals) :]
        self.launching = other.launching
        for inserted in other.that_follow():
            twin = Inserted(
                inserted.number,
                inserted.program,
                inserted.executor.copy(self.globals),
                inserted.check_opcode,
                inserted.label,
                inserted.budget,
                inserted.follow_forks,
            )
            if inserted.number in variables.locals:
                twin.executor.locals[:] = variables.locals[inserted.number]
            twin.probes = self._probes_of(twin)
            self._charge(twin)
            for old, new in zip(inserted.probes, twin.probes, strict=True):
                new.module, new.place, new.retry = old.module, old.place, old.retry
                new.set(old.state, old.reason)
                if old.state is ProbeState.THROTTLED:
                    new.set(ProbeState.PENDING, "its parent's is throttled")
            self.inserted[twin.number] = twin

    def take_over_space(self, other: Programs, space: AddressSpace) -> None:
        """``space`` is a copy of the parent's: there the probes are as they are in the parent."""
        self.use_space(space)
        self._placement.take_over(other._placement)
        self._prepared = other._prepared
        self._internal.take_over(other._internal)
        engine = self._engine
        twins = {
            old: new
            for twin in self.inserted.values()
            for old, new in zip(other.inserted[twin.number].probes, twin.probes, strict=True)
        }
        attachments: dict[Attachment, Attachment] = {}
        hung = [old for site in other._engine.space.sites() for old in site.attachments]
        for old in [*hung, *other._engine.watch.attachments()]:
            probe = twins.get(old.probe)  # none: it does not follow, or is a debugger's
            site = None if old.site is None else space.by_trap.get(old.site.trap)
            if probe is None or (site is None and old.site is not None):
                continue
            module = probe.module
            number = self._place_number(module, old.place)
            new = Attachment(probe, number, old.place, old.address, old.module_key, site, old.index)
            attachments[old] = new
            if site is not None:
                site.attachments.append(new)
            probe.attachments.append(new)
            probe.engine = old.probe.engine
        engine.watch.take_over(other._engine.watch, attachments)
        for new_probe in twins.values():
            if new_probe.state is ProbeState.ACTIVE and not new_probe.attachments:
                new_probe.set(ProbeState.PENDING, "not yet placed in this process")

    def complete(self) -> None:
        """Place what could not be taken over, because it came into the parent after the fork."""
        self.tell_changed(self._place_again(list(self.inserted.values())))

    # --- out ---

    def remove(self, number: int | None) -> list[protocol.ProbeStatus]:
        """Take a program out, or all; raises RequestError."""
        if number is not None and number not in self.inserted:
            raise RequestError(f"program {number} is not in")
        chosen = list(self.inserted.values()) if number is None else [self.inserted[number]]
        probes = [probe for inserted in chosen for probe in inserted.probes]
        self.detach(probes)
        for inserted in chosen:
            del self.inserted[inserted.number]
        return [probe.status() for probe in probes]

    def take_out_retired(self) -> None:
        """Probes that are through: ``rem``, max_hits, or a defect of ours."""
        done = [
            probe
            for probe in self.probes()
            if probe.attachments and (probe.over or probe.state is ProbeState.FAILED)
        ]
        if done:
            self.detach(done)
            self.tell_changed(done)

    def detach(self, probes: list[Probe]) -> None:
        """Take probes off their sites and registers, and sites without probes out of the text."""
        sites: dict[int, Site] = {}
        watched = False
        for probe in probes:
            for attachment in probe.attachments:
                if attachment.site is not None:
                    attachment.site.attachments.remove(attachment)
                    sites[attachment.site.address] = attachment.site
                else:
                    self._engine.watch.detach(attachment)
                    watched = True
            probe.attachments.clear()
        empty = [site for site in sites.values() if not site.attachments and site.callback is None]
        if empty or watched:
            trouble = ""
            with self._group.stopped() as late:
                self._engine.remove(empty, late)
                if watched:
                    trouble = self._apply_watches(late)
            if watched:
                self._note_unwatched(trouble)

    def _lose(self, keys: set[Hashable]) -> None:
        """Modules that are not mapped any more: their sites are not ours to touch."""
        lost: list[Probe] = [
            probe
            for probe in self.probes()
            if any(each.module_key in keys for each in probe.attachments)
        ]
        kept: list[tuple[Probe, list[Attachment]]] = []
        for probe in lost:
            kept.append((probe, [e for e in probe.attachments if e.module_key not in keys]))
            probe.attachments = [e for e in probe.attachments if e.module_key in keys]
            for attachment in probe.attachments:
                if attachment.site is not None:
                    attachment.site.gone = True
        self.detach(lost)
        for probe, rest in kept:
            probe.attachments = rest
            if not rest and not probe.over:
                probe.set(ProbeState.PENDING, "its module was unmapped")
        self.tell_changed(lost)

    def give_up(self, sites: list[Site], reason: str) -> None:
        """Places at which no probe can be any more in this address space."""
        there = set(self._engine.space.sites())
        sites = [site for site in sites if site in there]
        probes = {each.probe for site in sites for each in site.attachments}
        for site in sites:
            for attachment in site.attachments:
                attachment.probe.attachments.remove(attachment)
            site.attachments.clear()
        for probe in probes:
            if not probe.attachments and not probe.over:
                probe.set(ProbeState.FAILED, reason)
        if any(site.callback is not None for site in sites):
            self._tell_trouble(f"later modules get no probes: {reason}")
        with self._group.stopped() as late:
            self._engine.remove(sites, late)
        self.tell_changed(probe for probe in self.probes() if probe in probes)

    def give_up_overwritten(self) -> None:
        """Places whose breakpoints are there no more, because the target changed its code."""
        if not self._prepared:
            return
        space = self._engine.space
        sites = {a.site for probe in self.probes() for a in probe.attachments if a.site is not None}
        overwritten = [
            site for site in sites if not space.stands(site) and space.memory.peek(site.address, 1)
        ]
        if overwritten:
            self.give_up(overwritten, "the target changed its code there")

    def set_budget(self, limits: protocol.Limits | None) -> None:
        """What all programs together may cost the target from now on."""
        now = time.monotonic_ns()
        self._account = Account(limits, f"process {self._pid}", now) if limits else None
        for inserted in self.inserted.values():
            self._charge(inserted)

    def _charge(self, inserted: Inserted) -> None:
        accounts = tuple(each for each in (self._account, inserted.account) if each is not None)
        self._engine.metered = self._engine.metered or bool(accounts)
        for probe in inserted.probes:
            probe.accounts = accounts

    def _probes_of(self, inserted: Inserted) -> list[Probe]:
        program = inserted.program
        if inserted.budget is not None:
            owner = inserted.label or program.header.name
            inserted.account = Account(inserted.budget, owner, time.monotonic_ns())
        return [
            Probe(
                inserted.number, probe, inserted.executor.entries[probe.index], program.header.name
            )
            for probe in program.probes
        ]

    # --- variables ---

    def variables(self, request: protocol.Vars) -> list[int]:
        """Read them, and reset them if asked to; raises RequestError."""
        if request.program is None:
            words = self.globals
        elif request.program in self.inserted:
            words = self.inserted[request.program].executor.locals
        else:
            raise RequestError(f"program {request.program} is not in")
        end = None if request.count is None else request.first + request.count
        values = list(words[request.first : end])
        if request.reset:
            words[request.first : request.first + len(values)] = [0] * len(values)
        return values
