"""The tracer of one target: what the daemon asks of it, and the target's own great events.

One blocking loop. It waits for the tracees only; the socket and the clock end a wait by a signal
(SIGIO, SIGALRM), whose handlers set ``attention``. A signal that arrives in the instant between
the look at ``attention`` and the wait is noticed at the next stop or tick, so a tick never is
further away than ``_IDLE`` seconds.

However the loop ends (asked to, the daemon is gone, a defect of ours), ``_withdraw`` takes every
change back and lets the target go.
"""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Final

from dprobed.debugger.invitation import FACILITY as DEBUGGER
from dprobed.debugger.invitation import TICK as DEBUGGER_TICK
from dprobed.debugger.invitation import Debugger, Host
from dprobed.engine import protocol
from dprobed.engine.follow import Follower, become_group
from dprobed.engine.hooks import Hooks
from dprobed.engine.placement import Loaded, Placement, Spot, Unplaced
from dprobed.engine.probe import Attachment, Probe
from dprobed.engine.protocol import State as ProbeState
from dprobed.engine.reporter import FLUSH, Reporter
from dprobed.engine.snapshot import FACILITY as DUMP
from dprobed.engine.snapshot import DumpError, Dumps, Result
from dprobed.engine.space import Site, Space, SpaceError
from dprobed.engine.trap import TrapEngine
from dprobed.handler.dump.store import StoreError
from dprobed.location import LocationError
from dprobed.program import Executor, Outcome, Program, ProgramError, decode
from dprobed.target import procfs
from dprobed.target.lifecycle import State
from dprobed.target.ptrace import Gone, PtraceError
from dprobed.target.status import Kind, Stop
from dprobed.target.thread import Thread
from dprobed.target.world import World

_IDLE: Final = 5.0
#: What is answered when the target has ended already, and we have not.
_OF_AN_ENDED: Final = (protocol.Query, protocol.Detach, protocol.Facilities)

_log = logging.getLogger(__name__)


class TracerError(Exception):
    """A request that is refused; one line."""


@dataclass
class Inserted:
    """A program that is in."""

    number: int
    program: Program
    executor: Executor
    check_opcode: bool
    label: str = ""
    probes: list[Probe] = field(default_factory=list)


class Tracer:
    """Serves one target until it ends or is let go."""

    def __init__(self, sock: socket.socket, follower: Follower) -> None:
        self._sock = sock
        self._unpacker = protocol.Unpacker()
        self._reporter = Reporter(sock, self._arm)
        self._engine = TrapEngine(self._reporter, follower)
        self._world = World(self)
        self._engine.world = self._world
        self._engine.retire = self._note_retired
        self._engine.resume = self._note_resume
        self._engine.suspended = self._tell_suspended
        self._engine.facility = self._act
        self._dumps = Dumps(self._engine, self._describe, self._tell)
        self._debugger: Debugger
        self._placement: Placement
        self._hooks: Hooks
        self._pid = 0
        self._programs: dict[int, Inserted] = {}
        self._globals: list[int] = []
        #: One dictionary for all executors, which ask it again at each hit.
        self._facilities: dict[str, int] = {}
        #: For which of them something is done at the hit; None: for all.
        self._acting: list[int] | None = None
        self._places: dict[tuple[str, str], int] = {}
        self._prepared = False
        self._launching = False
        self._retired = False
        self._resume = False
        self._tick = False
        self._unwatched: set[int] = set()
        self._served = 0
        self._end: tuple[str, int] | None = None
        self._end_status = ("gone", 0)
        self._closing = False

    # --- the loop ---

    def run(self) -> None:
        """Until the target has ended or is let go; the target is whole afterwards."""
        self._hear_signals()
        try:
            while self._end is None and not self._closing:
                self._world.attention = False
                self._attend()
                if self._end is None and not self._closing:
                    if self._world.threads:
                        if self._debugger.is_waiting:
                            self._debugger.wait()
                        else:
                            self._engine.run()
                    elif self._pid:
                        self._end = self._end or ("gone", 0)
                    else:
                        select.select([self._sock], [], [], _IDLE)
            self._await_core()
        finally:
            if self._end is not None:
                self._debugger.ended(*self._end)
            self._leave()
            if self._pid:
                how, status = self._end or ("detached", 0)
                self._reporter.send(
                    protocol.Ended(how, status, self._statuses(), self._engine.overhead_ns)
                )
            self._reporter.finish()

    def _await_core(self) -> None:
        """The target has ended while its core is being written: its copy would end with us."""
        if self._dumps.busy and not self._closing:
            self._tell("dumping", "the process has ended; its core is being written")
        while self._dumps.busy and not self._closing:
            self._reporter.flush()
            self._dumps.attend()
            self._listen()
            if self._dumps.busy and not self._closing:
                self._world.wait()

    def _hear_signals(self) -> None:
        def attention(number: int, frame: object) -> None:
            self._world.attention = True
            if number == signal.SIGALRM:
                self._tick = True

        signal.signal(signal.SIGIO, attention)
        signal.signal(signal.SIGALRM, attention)
        signal.setitimer(signal.ITIMER_REAL, _IDLE, _IDLE)
        self._sock.setblocking(False)
        fcntl.fcntl(self._sock, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(self._sock, fcntl.F_GETFL)
        fcntl.fcntl(self._sock, fcntl.F_SETFL, flags | os.O_ASYNC)

    def _arm(self) -> None:
        """Something waits to be sent: tick soon."""
        signal.setitimer(signal.ITIMER_REAL, FLUSH, FLUSH)

    def _attend(self) -> None:
        if self._tick:
            self._tick = False
            self._reporter.flush()
            if self._engine.served == self._served:
                idle = DEBUGGER_TICK if self._pid and self._debugger.is_attached else _IDLE
                signal.setitimer(signal.ITIMER_REAL, idle, idle)
                self._engine.follower.wander()
            self._served = self._engine.served
            self._retry_pending()
            self._watch_late()
        self._dumps.attend()
        if self._resume:
            self._resume = False
            self._release(None)
        if self._retired:
            self._retired = False
            self._take_out_retired()
        self._listen()
        if self._pid and self._end is None and not self._closing:
            self._debugger.attend()

    def _listen(self) -> None:
        while True:
            try:
                data = self._sock.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self._closing = True
                break
            self._unpacker.feed(data)
        while (body := self._unpacker.next()) is not None:
            self._serve(protocol.decode_request(body))
            # Who got an answer often asks again at once, and its signal may come just before we
            # wait: then the next tick, soon, is what we hear it by.
            self._arm()

    def _serve(self, request: protocol.Request) -> None:
        try:
            if self._end is not None and not isinstance(request, _OF_AN_ENDED):
                raise Gone(self._pid)
            match request:
                case protocol.Attach():
                    self._attach(request.pid, request.launch, request.hold_limit)
                    answer = protocol.Ok(request.seq)
                case protocol.Insert():
                    answer = protocol.Ok(request.seq, probes=self._insert(request))
                case protocol.Remove():
                    answer = protocol.Ok(request.seq, probes=self._remove(request.program))
                case protocol.Query():
                    answer = protocol.Ok(
                        request.seq,
                        probes=self._statuses(),
                        suspended=[thread.tid for thread in self._suspended()],
                        overhead_ns=self._engine.overhead_ns,
                        debugger=self._debugger.status() if self._pid else None,
                    )
                case protocol.Vars():
                    answer = protocol.Ok(request.seq, words=self._vars(request))
                case protocol.Facilities():
                    self._use_facilities(request.facilities, request.acting)
                    answer = protocol.Ok(request.seq)
                case protocol.Dump():
                    self._dump(request)
                    return
                case protocol.Resume():
                    answer = protocol.Ok(request.seq, tids=self._let_on(request.tid))
                case protocol.Detach():
                    self._dumps.finish()
                    self._withdraw()
                    self._end = self._end or ("detached", 0)
                    answer = protocol.Ok(
                        request.seq,
                        probes=self._statuses(),
                        overhead_ns=self._engine.overhead_ns,
                    )
        except (TracerError, SpaceError, LocationError, DumpError, StoreError) as error:
            self._reporter.send(protocol.Refused(request.seq, " ".join(str(error).split())))
        except Gone:
            self._reporter.send(protocol.Refused(request.seq, f"process {self._pid} is gone"))
        else:
            self._reporter.send(answer)

    # --- attaching ---

    def _attach(self, pid: int, launch: bool, hold_limit: float) -> None:
        if self._pid:
            raise TracerError(f"this tracer has a target already (process {self._pid})")
        reason = procfs.refusal(pid)
        if reason is not None:
            raise TracerError(reason)
        # Looked at again when no more children can come; here because it refuses at once, and a
        # parent in vfork could not be let go before it wakes.
        self._check_alone(pid)
        self._debugger = Debugger(
            self._world, self._engine, pid, self._sock.fileno(), self._debugger_host()
        )
        self._debugger.limit = hold_limit
        try:
            self._world.seize(pid)
            # Not before: an ``exec`` in between would leave us with the memory that it gave up.
            self._use_space(pid)
        except (Gone, OSError) as error:
            # It may have ended, or got another tracer, since the look.
            _log.info("process %d: %s", pid, error)
            reason = procfs.refusal(pid) or procfs.denial(pid)
            with self._world.stopped():
                self._world.let_go()
            raise TracerError(reason) from error
        self._pid = pid
        self._launching = launch
        try:
            self._check_alone(pid)
        except TracerError:
            self._withdraw()
            self._pid = 0
            raise

    def _check_alone(self, pid: int) -> None:
        """A process that shares the memory but is not traced would die of our breakpoints."""
        parent = procfs.parent(pid)
        for other in [parent, *procfs.children(pid)]:
            found = procfs.status(other)
            if found is None or found.tracer == os.getpid():
                continue
            if procfs.shares_memory(pid, other):
                raise TracerError(
                    f"its {'parent' if other == parent else 'child'} {other} "
                    f"({found.name.decode(errors='replace')}) shares its memory "
                    "(vfork or CLONE_VM) and would run into the probes; try again when that ended"
                )

    def _use_space(self, pid: int) -> None:
        self._engine.space = Space(pid, pid)
        self._placement = Placement(pid, self._engine.space)
        self._prepared = False
        self._hooks = Hooks(self._world, self._engine, self._placement)

    # --- programs in and out ---

    def _insert(self, request: protocol.Insert) -> list[protocol.ProbeStatus]:
        if not self._pid:
            raise TracerError("attach to a process first")
        if request.program in self._programs:
            raise TracerError(f"program {request.program} is in already")
        try:
            program = decode(request.bytecode)
            if program.header.kernel:
                raise TracerError(
                    f"{program.header.name}: a program with modtype {program.header.modtype} goes "
                    "into the kernel, not into a process"
                )
            self._use_facilities(request.facilities, request.acting)
            executor = Executor(program, self._globals, self._facilities)
        except ProgramError as error:
            raise TracerError(str(error)) from error
        inserted = Inserted(request.program, program, executor, request.check_opcode, request.label)
        inserted.probes = [
            Probe(request.program, probe, executor.entries[probe.index], program.header.name)
            for probe in program.probes
        ]
        self._programs[request.program] = inserted
        if not self._launching:
            try:
                self._prepare()
                self._place([inserted], list(self._placement.loaded.values()))
            except (SpaceError, LocationError, Gone):
                self._take_out([inserted])
                del self._programs[request.program]
                raise
        return [probe.status() for probe in inserted.probes]

    def _use_facilities(self, facilities: dict[str, int], acting: list[int] | None) -> None:
        self._acting = acting
        self._facilities.clear()
        self._facilities.update(facilities)

    def _prepare(self) -> None:
        """Before the first probe of an address space: its modules, and to hear of new ones."""
        if self._prepared:
            return
        engine, world = self._engine, self._world
        with world.borrowed(self._pid) as lender:
            self._placement.refresh(lender.tid)
            engine.sigtrap.observe_process(lender)
            for thread in list(world.threads.values()):
                if thread.state in (State.STOPPED, State.HELD):
                    engine.sigtrap.observe_thread(thread)
        self._prepared = True
        trouble = self._hooks.hook_loader(self._modules_changed)
        if trouble is not None:
            self._tell("loader", f"later modules get no probes: {trouble}")
        self._hooks.hook_signals(list(self._placement.loaded.values()))

    def _modules_changed(self, thread: Thread) -> None:
        """The loader's notification: follow what was mapped and unmapped since the last look."""
        try:
            new, gone = self._placement.refresh(thread.tid)
            if gone:
                self._lose(gone)
            if new:
                self._hooks.hook_signals(new)
                changed = self._place(list(self._programs.values()), new)
                if changed:
                    self._reporter.send(protocol.Changed([probe.status() for probe in changed]))
        except (SpaceError, LocationError) as error:
            _log.warning("modules of process %d: %s", self._pid, error)
            self._tell("loader", f"a new module got no probes: {' '.join(str(error).split())}")

    def _retry_pending(self) -> None:
        """Variants that the loader had not chosen when their module was mapped."""
        waiting = [
            inserted
            for inserted in self._programs.values()
            if any(probe.state is ProbeState.PENDING and probe.retry for probe in inserted.probes)
        ]
        if waiting and self._prepared:
            try:
                changed = self._place(waiting, list(self._placement.loaded.values()))
            except (SpaceError, LocationError, Gone) as error:
                _log.warning("process %d: %s", self._pid, error)
                return
            if changed:
                self._reporter.send(protocol.Changed([probe.status() for probe in changed]))

    def _place(self, programs: Iterable[Inserted], among: list[Loaded]) -> list[Probe]:
        """Put probes of these programs into these modules; those whose state changed.

        Raises SpaceError and Gone when the target has no room for slots; nothing is changed then.
        """
        found: list[tuple[Inserted, Probe, list[Spot]]] = []
        changed: list[Probe] = []
        for inserted in programs:
            for probe in inserted.probes:
                if probe.over or probe.state is ProbeState.FAILED:
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
        if wanted:
            space.reserve(self._world, wanted)
        try:
            ready = [
                (probe, spot, self._ready(inserted, probe, spot))
                for inserted, probe, spots in found
                for spot in spots
            ]
            with self._world.stopped() as late:
                for probe, spot, site in ready:
                    self._connect(probe, spot, site)
                sites = [site for _, _, site in ready if site is not None]
                self._engine.take_in(site for site in sites if site.trap in space.by_trap)
                if any(spot.length for _, spot, _ in ready):
                    self._apply_watches(late)
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
            self._place_number(spot),
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
        probe.module, probe.place = spot.module, spot.place
        probe.set(ProbeState.ACTIVE)
        probe.retry = False

    def _place_number(self, spot: Spot) -> int:
        name = (spot.module, spot.place)
        number = self._places.get(name)
        if number is None:
            number = self._places[name] = len(self._places)
            self._reporter.place(number, *name)
        return number

    def _apply_watches(self, late: list[Thread]) -> None:
        """Give every thread the debug registers; those that could not be stopped get them later."""
        self._unwatched = {thread.tid for thread in late}
        for thread in self._world.threads.values():
            if thread.state in (State.STOPPED, State.HELD):
                try:
                    self._engine.watch.apply(thread.tid)
                except (Gone, PtraceError) as error:
                    _log.warning("thread %d has no watchpoints: %s", thread.tid, error)

    def _remove(self, number: int | None) -> list[protocol.ProbeStatus]:
        if number is not None and number not in self._programs:
            raise TracerError(f"program {number} is not in")
        chosen = list(self._programs.values()) if number is None else [self._programs[number]]
        self._take_out(chosen)
        for inserted in chosen:
            del self._programs[inserted.number]
        return [probe.status() for inserted in chosen for probe in inserted.probes]

    def _take_out(self, programs: list[Inserted]) -> None:
        self._detach_probes([probe for inserted in programs for probe in inserted.probes])

    def _take_out_retired(self) -> None:
        """Probes that are through: ``rem``, max_hits, or a defect of ours."""
        done = [
            probe
            for inserted in self._programs.values()
            for probe in inserted.probes
            if probe.attachments and (probe.over or probe.state is ProbeState.FAILED)
        ]
        if done:
            self._detach_probes(done)
            self._reporter.send(protocol.Changed([probe.status() for probe in done]))

    def _detach_probes(self, probes: list[Probe]) -> None:
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
            with self._world.stopped() as late:
                self._engine.remove(empty, late)
                if watched:
                    self._apply_watches(late)

    def _watch_late(self) -> None:
        """Threads that were asleep in the kernel when the watchpoints changed."""
        if self._unwatched & self._world.threads.keys():
            with self._world.stopped() as late:
                self._apply_watches(late)

    def _lose(self, keys: set[Hashable]) -> None:
        """Modules that are not mapped any more: their sites are not ours to touch."""
        lost: list[Probe] = []
        for inserted in self._programs.values():
            for probe in inserted.probes:
                if any(each.module_key in keys for each in probe.attachments):
                    lost.append(probe)
        kept: list[tuple[Probe, list[Attachment]]] = []
        for probe in lost:
            kept.append((probe, [e for e in probe.attachments if e.module_key not in keys]))
            probe.attachments = [e for e in probe.attachments if e.module_key in keys]
            for attachment in probe.attachments:
                if attachment.site is not None:
                    attachment.site.gone = True
        self._detach_probes(lost)
        for probe, rest in kept:
            probe.attachments = rest
            if not rest and not probe.over:
                probe.set(ProbeState.PENDING, "its module was unmapped")
        if lost:
            self._reporter.send(protocol.Changed([probe.status() for probe in lost]))

    # --- what is asked besides ---

    def _statuses(self) -> list[protocol.ProbeStatus]:
        return [probe.status() for inserted in self._programs.values() for probe in inserted.probes]

    def _vars(self, request: protocol.Vars) -> list[int]:
        if request.program is None:
            words = self._globals
        elif request.program in self._programs:
            words = self._programs[request.program].executor.locals
        else:
            raise TracerError(f"program {request.program} is not in")
        end = None if request.count is None else request.first + request.count
        values = list(words[request.first : end])
        if request.reset:
            words[request.first : request.first + len(values)] = [0] * len(values)
        return values

    def _suspended(self) -> list[Thread]:
        """Threads that a program's ``suspend`` holds."""
        return [
            thread
            for thread in self._world.threads.values()
            if thread.held and not self._debugger.control.owns(thread.tid)
        ]

    def _release(self, tid: int | None) -> list[int]:
        held = [thread for thread in self._suspended() if tid in (None, thread.tid)]
        for thread in held:
            self._world.release(thread)
        return [thread.tid for thread in held]

    def _let_on(self, tid: int | None) -> list[int]:
        """What ``resume`` of a client lets go: suspended threads, and who waits for a debugger."""
        tids = self._release(tid)
        if tid is None or tid in self._debugger.held:
            tids += self._debugger.release()
        if tid is not None and not tids:
            raise TracerError(f"thread {tid} is not held")
        return tids

    def _act(self, thread: Thread, attachment: Attachment, outcome: Outcome) -> None:
        """A facility that acts while the thread stands at its hit."""
        if self._acting is not None and outcome.exit not in self._acting:
            return
        if outcome.exit == DEBUGGER:
            self._debugger.hit(thread)
        elif outcome.exit == DUMP:
            self._dumps.hit(thread, attachment, outcome)

    def _describe(self, number: int) -> dict[str, object]:
        """A program, for the file beside a core."""
        inserted = self._programs.get(number)
        if inserted is None:
            return {}
        return {"program": inserted.label, "id": inserted.program.header.id}

    def _dump(self, request: protocol.Dump) -> None:
        if not self._pid:
            raise TracerError("attach to a process first")

        def answer(result: Result) -> None:
            if result.error:
                self._reporter.send(protocol.Refused(request.seq, result.error))
                return
            status = protocol.DumpStatus(
                result.path,
                result.bytes,
                result.size,
                result.how,
                result.pause_ns,
                result.seconds,
            )
            self._reporter.send(protocol.Ok(request.seq, dump=status))

        self._dumps.ask(self._pid, request.zstd, answer)

    def _debugger_host(self) -> Host:
        def apply_watches() -> None:
            with self._world.stopped() as late:
                self._apply_watches(late)

        return Host(self._tell, self._detach_probes, apply_watches)

    def _note_retired(self) -> None:
        self._retired = self._world.attention = True

    def _note_resume(self) -> None:
        self._resume = self._world.attention = True

    def _tell_suspended(self, thread: Thread) -> None:
        self._tell(
            "suspend", f"thread {thread.tid} is held; 'dprobe resume' lets it go", thread.tid
        )

    def _tell(self, kind: str, text: str, tid: int = 0) -> None:
        self._reporter.send(protocol.TargetEvent(kind, self._pid, tid or self._pid, text))

    # --- the target's life (world.Engine) ---

    def serve_trap(self, thread: Thread) -> None:
        """See TrapEngine; a debugger may be stepping the thread."""
        if not self._debugger.serve_trap(thread):
            self._engine.serve_trap(thread)
        if thread.signal:
            self._debugger.signalled(thread)

    def abandon(self, thread: Thread) -> None:
        """See TrapEngine."""
        self._engine.abandon(thread)

    def deliver(self, thread: Thread) -> None:
        """See TrapEngine; a debugger is asked first."""
        self._engine.deliver(thread)
        self._debugger.signalled(thread)

    def begin(self, thread: Thread, shares_memory: bool) -> None:
        """A new thread joins; a forked process is let go, without our changes."""
        self._engine.begin(thread, shares_memory)
        if not shares_memory:
            self._tell("fork", "a child was let go without probes", thread.tid)

    def new_image(self, thread: Thread) -> None:
        """``exec`` took the old address space away: put the probes into the new one."""
        if thread.tgid != self._pid:
            self._world.detach(thread)  # a vfork child: it does not share our memory any more
            return
        self._debugger.new_image(thread)
        self._leave_space()
        for inserted in self._programs.values():
            for probe in inserted.probes:
                probe.attachments.clear()
                if not probe.over:
                    probe.set(ProbeState.PENDING, "no mapped module of that name yet")
        self._launching = False
        try:
            self._use_space(self._pid)
            self._engine.sigtrap.new_image(thread)
            if procfs.elf_class(self._pid) == 32:
                self._exclude("the new program is a 32-bit one")
            elif self._programs:
                self._prepare()
                self._place(list(self._programs.values()), list(self._placement.loaded.values()))
        except (OSError, SpaceError, LocationError) as error:
            self._exclude(" ".join(str(error).split()))
        except Gone:
            return
        self._tell("exec", f"process {self._pid} runs a new program")
        self._reporter.send(protocol.Changed(self._statuses()))

    def _exclude(self, reason: str) -> None:
        for inserted in self._programs.values():
            for probe in inserted.probes:
                if not probe.attachments and not probe.over:
                    probe.set(ProbeState.EXCLUDED, reason)

    def _leave_space(self) -> None:
        """The old address space is gone, unless a CLONE_VM child still uses it."""
        engine = self._engine
        engine.watch.clear()
        heirs = [t for t in self._world.threads.values() if t.tgid != self._pid]
        if heirs:
            with self._world.stopped() as late:
                engine.remove(engine.space.sites(), late)
                for thread in heirs:
                    if thread.state in (State.STOPPED, State.HELD):
                        self._world.detach(thread)
        engine.space.close()

    def forgotten(self, thread: Thread, stop: Stop) -> None:
        """A thread ended; with the last one, the target."""
        self._debugger.forgotten(thread)
        if thread.tid == self._pid:
            self._end_status = ("exited" if stop.kind is Kind.EXITED else "killed", stop.value)
        if not any(t.tgid == self._pid for t in self._world.threads.values()):
            self._end = self._end_status
            self._world.attention = True

    # --- leaving ---

    def _leave(self) -> None:
        """Withdraw even if a defect of ours gets in the way once."""
        try:
            self._withdraw()
        except Exception:
            _log.exception("leaving process %d failed; once more", self._pid)
            self._withdraw()
            raise

    def _withdraw(self) -> None:
        """Take every change back and let every thread go."""
        engine, world = self._engine, self._world
        if self._pid:
            self._debugger.leave()
        for inserted in self._programs.values():
            for probe in inserted.probes:
                probe.attachments.clear()
        engine.watch.clear()
        while world.threads:
            with world.stopped() as late:
                self._withdraw_from_stopped(late)
            if late:
                # They sleep in the kernel and keep their slots; each is let go when it wakes.
                time.sleep(0.05)
        if self._pid:
            world.await_orphans()
            engine.space.close()

    def _withdraw_from_stopped(self, late: list[Thread]) -> None:
        engine, world = self._engine, self._world
        space = engine.space
        every = space.sites()
        try:
            engine.remove(every, late)
            if not late and space.areas:
                lender = world.lender(space.tgid)
                engine.sigtrap.restore(lender)
                space.unmap_areas(world, lender)
                space.areas.clear()
        except (Gone, SpaceError) as error:
            _log.warning("process %d keeps pages of ours: %s", self._pid, error)
        for thread in list(world.threads.values()):
            if thread.state in (State.STOPPED, State.HELD):
                try:
                    engine.watch.apply(thread.tid)
                except (Gone, PtraceError):
                    continue
        world.let_go()


def main(sock: socket.socket) -> None:
    """Run a tracer that speaks ``protocol`` on ``sock``; returns when its work is done."""
    gc.disable()
    Tracer(sock, Follower(become_group())).run()
