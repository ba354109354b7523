"""The programs inserted into one target: insertion, removal, variables, budgets."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

from dprobed.engine.address_space import AddressSpace
from dprobed.engine.budget import Account
from dprobed.engine.errors import SpaceError
from dprobed.engine.probe import Probe
from dprobed.proc import files, procfs
from dprobed.proc.maps import MapsError
from dprobed.program.bytecode import decode
from dprobed.program.exec.interface import Variables
from dprobed.program.exec.python import PythonExecutor
from dprobed.program.exec.variables import ListVariables
from dprobed.program.model import Program, ProgramError
from dprobed.resolver.client import Resolver
from dprobed.resolver.errors import LocationError
from dprobed.tracee.memory import Memory
from dprobed.tracee.ptrace import Gone
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup
from dprobed.tracer.engines import Engines
from dprobed.tracer.inserted import Inserted, RequestError, VariableValues
from dprobed.tracer.maps import TargetMaps
from dprobed.tracer.native import NO_COMPILER, chosen, probes_of
from dprobed.tracer.places import Places
from dprobed.tracer.reporter import Reporter
from dprobed.tracer.stacks.target_stacks import TargetStacks
from dprobed.wire import protocol
from dprobed.wire.engines import ENGINES
from dprobed.wire.limits import Limits
from dprobed.wire.notices import NoticeKind
from dprobed.wire.protocol import State as ProbeState

_log = logging.getLogger(__name__)

#: A program that goes into many targets is read and verified once.
_decode = lru_cache(maxsize=64)(decode)


class Programs:
    """The programs inserted into one target. ``tell`` sends a notice to the daemon: kind, text."""

    def __init__(
        self,
        pid: int,
        group: ThreadGroup,
        engines: Engines,
        reporter: Reporter,
        resolver: Resolver,
        stacks: TargetStacks,
        tell: Callable[[NoticeKind, str], None],
    ) -> None:
        self.inserted: Final[dict[int, Inserted]] = {}
        self.globals: Final = ListVariables()
        self.maps: Final = TargetMaps(self.inserted, engines.quiet)
        self.places: Final = Places(
            pid, group, engines, reporter, resolver, stacks, self.inserted, tell
        )
        #: Fork children get all of them, whatever each says.
        self.follows_forks = False
        #: Nothing is placed before the target's ``exec``.
        self.launching = False
        #: What hits of all programs are charged to; those of probes that are always in, as well.
        self._account: Account | None = None
        self._own_account: Account | None = None
        self._pid: Final = pid
        self._engines: Final = engines
        self._tell: Final = tell
        self._has_told_of_compiler = False

    def probes(self) -> Iterable[Probe]:
        """All probes of all programs."""
        return self.places.probes()

    def statuses(self) -> list[protocol.ProbeStatus]:
        """The states and counters of all probes."""
        self._engines.sync()
        return [probe.status() for probe in self.probes()]

    def local_variables(self) -> list[protocol.LocalVariables]:
        """Those of the programs that have some."""
        return [each.variables() for each in self.inserted.values() if each.program.header.vars]

    def counted(self) -> protocol.Counted:
        """What all of them have counted."""
        return protocol.Counted(
            self._pid,
            procfs.start_time(self._pid) or 0,
            self.statuses(),
            self.local_variables(),
            self.globals.read(),
            *self.maps.noted(),
        )

    def sums(self) -> tuple[int, int, int]:
        """What changes whenever something is counted, a variable is set, or a program comes."""
        self._engines.sync()
        words = [sum(each.executor.locals.read()) for each in self.inserted.values()]
        hits = sum(probe.hits for probe in self.probes())
        return len(words), hits, sum(words) + sum(self.globals.read())

    def describe(self, number: int) -> dict[str, object]:
        """Facts about a program, for the JSON file beside a core."""
        found = self.inserted.get(number)
        return {"program": found.label, "id": found.program.header.id} if found else {}

    # --- address spaces ---

    def use_space(self, space: AddressSpace) -> None:
        """Start in an address space that has none of our changes."""
        self._engines.use(space)
        self.places.begin()

    def enter_image(self, thread: Thread) -> None:
        """Insert the programs into the new image after ``exec``; raises Gone."""
        launched, self.launching = self.launching, False
        if not launched:  # what it was given to begin with is for the image that it begins as
            self.maps.new_image()
        places = self.places
        try:
            changes = self._engines.space.changes.of_child(
                self._pid, procfs.start_time(self._pid) or 0
            )
            self.use_space(AddressSpace(self._pid, Memory(self._pid), changes=changes))
            self._engines.sigtrap.new_image(thread)
            if files.elf_class(self._pid) == 32:
                places.exclude("the new program is a 32-bit one")
            elif self.inserted:
                places.prepare()
                places.place(self.inserted.values(), places.modules())
        except (OSError, SpaceError, MapsError, LocationError) as error:
            places.exclude(" ".join(str(error).split()))

    # --- inserting ---

    def insert(
        self, request: protocol.Insert, facilities: dict[str, int]
    ) -> list[protocol.ProbeStatus]:
        """Insert a program, all of it or nothing.

        Raises RequestError, SpaceError, MapsError, LocationError, Gone.
        """
        if request.program in self.inserted:
            raise RequestError(f"program {request.program} is inserted already")
        if request.engine not in ENGINES:
            known = ", ".join(ENGINES)
            raise RequestError(f"there is no engine {request.engine!r}; there are: {known}")
        program, python = self._read(request.bytecode, facilities)
        inserted = Inserted.of(request, program, chosen(python, request.engine))
        inserted.probes = self._probes_of(inserted)
        if request.former is not None:
            inserted.count_on(request.former, request.former_time)
            self.globals.grow(len(request.former.globals))
            self.globals.write(0, request.former.globals)
        self._charge(inserted)
        if inserted.slower == NO_COMPILER and not self._has_told_of_compiler:
            self._has_told_of_compiler = True
            self._tell(NoticeKind.ENGINE, f"{NO_COMPILER}: `auto` means `trap` here")
        self.inserted[request.program] = inserted
        if not self.launching:
            try:
                self.places.prepare()
                self.places.place([inserted], self.places.modules())
            except (SpaceError, MapsError, LocationError, Gone):
                self.places.remove(inserted.probes)
                del self.inserted[request.program]
                inserted.maps("clear")
                raise
        return [probe.status() for probe in inserted.probes]

    def _read(self, bytecode: bytes, facilities: dict[str, int]) -> tuple[Program, PythonExecutor]:
        """Decode and verify a program; returns it with its executor. Raises RequestError."""
        try:
            program = _decode(bytecode)
            if program.header.kernel:
                raise RequestError(
                    f"{program.header.name}: a program with modtype {program.header.modtype} goes "
                    "into the kernel, not into a process"
                )
            return program, PythonExecutor(program, self.globals, facilities, room=self.maps.room)
        except ProgramError as error:
            raise RequestError(str(error)) from error

    def retry_pending(self) -> None:
        """Place IFUNCs whose variant the loader had not chosen when their module was mapped."""
        waiting = [
            inserted
            for inserted in self.inserted.values()
            if any(probe.state is ProbeState.PENDING and probe.retry for probe in inserted.probes)
        ]
        if waiting:
            self.places.tell_changed(self.places.place_again(waiting))

    def place_again(self, probes: Iterable[Probe]) -> None:
        """Insert throttled probes again; reports those that fail to the daemon."""
        numbers = dict.fromkeys(probe.program for probe in probes)
        again = [self.inserted[each] for each in numbers if each in self.inserted]
        placed = self.places.place_again(again)
        self.places.tell_changed(probe for probe in placed if probe.state is not ProbeState.ACTIVE)

    # --- a fork child ---

    def that_follow(self) -> list[Inserted]:
        """The programs that fork children get, too."""
        return [each for each in self.inserted.values() if self.follows_forks or each.follow_forks]

    def variables_now(self) -> VariableValues:
        """A copy of the variables."""
        return VariableValues.of(self.globals, self.inserted)

    def take_over(self, other: Programs, variables: VariableValues) -> None:
        """Inherit the programs of the parent that follow, with its ``variables`` at the fork; they
        have no places yet: ``take_over_places`` or ``enter_image`` comes next."""
        self.globals.grow(len(other.globals))
        # A program may have come since, with more.
        self.globals.write(0, other.globals.read())
        self.globals.write(0, variables.globals)
        self.launching = other.launching
        for inserted in other.that_follow():
            twin = inserted.twin(self.globals, self.maps.room)
            twin.load_values(variables.maps.get(inserted.number, {}))
            if inserted.number in variables.locals:
                twin.executor.locals.write(0, variables.locals[inserted.number])
            twin.inherited = twin.executor.locals.read()
            twin.probes = self._probes_of(twin)
            self._charge(twin)
            for old, new in zip(inserted.probes, twin.probes, strict=True):
                new.slower = old.slower
                new.native = new.native if old.native is not None else None
                new.module, new.place, new.retry = old.module, old.place, old.retry
                new.cores = old.cores
                new.set(old.state, old.reason)
                if old.state is ProbeState.THROTTLED:
                    new.set(ProbeState.PENDING, "its parent's is throttled")
            self.inserted[twin.number] = twin

    def take_over_places(self, other: Programs) -> None:
        """Take over the parent's places in a copy of its address space."""
        twins = {
            old: new
            for twin in self.inserted.values()
            for old, new in zip(other.inserted[twin.number].probes, twin.probes, strict=True)
        }
        self.places.take_over(other.places, twins)

    def complete(self) -> None:
        """Place what could not be taken over, because it came into the parent after the fork, or
        just then, when the parent's address space was being prepared for it."""
        if self.launching or all(each.state is not ProbeState.PENDING for each in self.probes()):
            return
        try:
            self.places.prepare()
        except (SpaceError, MapsError, LocationError, Gone) as error:
            _log.warning("process %d: %s", self._pid, error)
        self.places.tell_changed(self.places.place_again(list(self.inserted.values())))

    # --- removing ---

    def remove(self, number: int | None) -> list[Inserted]:
        """Remove a program, or all; what was removed. Raises RequestError."""
        if number is not None and number not in self.inserted:
            raise RequestError(f"program {number} is not inserted")
        chosen = list(self.inserted.values()) if number is None else [self.inserted[number]]
        self.places.remove([probe for inserted in chosen for probe in inserted.probes])
        for inserted in chosen:
            del self.inserted[inserted.number]
        return chosen

    def remove_retired(self) -> None:
        """Remove finished probes: ``rem``, max_hits, or an internal error."""
        done = [
            probe
            for probe in self.probes()
            if probe.attachments and (probe.over or probe.state is ProbeState.FAILED)
        ]
        if done:
            self.places.remove(done)
            self.places.tell_changed(done)

    def set_budget(self, limits: Limits | None) -> None:
        """Set the budget of all programs together."""
        now = time.monotonic_ns()
        owner = f"process {self._pid}"
        self._account = Account(limits, owner, now) if limits else None
        self._own_account = Account(limits, owner, now) if limits else None
        for inserted in self.inserted.values():
            self._charge(inserted)

    def _charge(self, inserted: Inserted) -> None:
        common = (self._account, inserted.account)
        own = (self._own_account, inserted.own_account)
        runner = self._engines.runner
        for probe in inserted.probes:
            always = probe.definition.always
            charged = common + own if always else common
            probe.accounts = tuple(each for each in charged if each is not None)
            # An account of the same limits of their own holds those that are always in, so that
            # all together never cost more.
            governors = own if always else common
            probe.governors = tuple(each for each in governors if each is not None)
            runner.metered = runner.metered or bool(probe.accounts)
            for account in probe.governors:
                # Overdrawn already and reported, it would let this one hit until the next tick.
                account.noted = False

    def _probes_of(self, inserted: Inserted) -> list[Probe]:
        program = inserted.program
        if inserted.budget is not None:
            owner = inserted.label or program.header.name
            now = time.monotonic_ns()
            inserted.account = Account(inserted.budget, owner, now)
            inserted.own_account = Account(inserted.budget, owner, now)
        return probes_of(inserted)

    # --- variables ---

    def variables(self, request: protocol.Vars) -> list[int]:
        """Read them, and reset them if asked to; raises RequestError."""
        words: Variables
        if request.program is None:
            words = self.globals
        elif request.program in self.inserted:
            words = self.inserted[request.program].executor.locals
        else:
            raise RequestError(f"program {request.program} is not inserted")
        values = words.read(request.first, request.count)
        if request.reset:
            words.reset(request.first, request.count)
            if request.program is not None:
                inherited = ListVariables()
                inherited.words = self.inserted[request.program].inherited
                inherited.reset(request.first, request.count)
        return values
