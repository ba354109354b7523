"""Programs inserted into a target, and the values of their variables."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Self

import msgspec

from dprobed.engine.budget import Account
from dprobed.engine.probe import Probe
from dprobed.program.exec.interface import Executor, KeyedMap
from dprobed.program.exec.variables import ListVariables
from dprobed.program.maps import VALUE, MapContents, MapRoom, is_entry
from dprobed.program.model import Program
from dprobed.wire import protocol
from dprobed.wire.engines import AUTO, TRAP
from dprobed.wire.limits import Limits
from dprobed.wire.protocol import State


class RequestError(Exception):
    """A request that is refused; one line."""


class Chosen(msgspec.Struct, frozen=True):
    """What is to run a program: ``engines`` that its code probes are offered to, in turn;
    ``slower``: why no faster one is among them, empty where none was to be."""

    executor: Executor[ListVariables]
    engines: tuple[str, ...]
    slower: str = ""


class Inserted(msgspec.Struct):
    """A program inserted into one target."""

    number: int
    program: Program
    executor: Executor[ListVariables]
    check_opcode: bool
    #: Which engines its code probes are offered to, in turn (``wire.engines``).
    engines: tuple[str, ...]
    #: Why no faster one is among these; empty: none was to be.
    slower: str = ""
    #: Where all of these refuse, the tracer runs them.
    may_fall_back: bool = False
    label: str = ""
    budget: Limits | None = None
    #: Fork children get it, too.
    follow_forks: bool = False
    #: What no probe's own ``max_hits`` may exceed (0: nothing); None: it is free of that.
    max_hits: int | None = 0
    #: What hits of this program are charged to, besides that of all.
    account: Account | None = None
    #: The same for its probes that are not to sleep with the others.
    own_account: Account | None = None
    probes: list[Probe] = msgspec.field(default_factory=list)
    #: What its local variables were when a ``fork`` made this target.
    inherited: list[int] = msgspec.field(default_factory=list)

    @classmethod
    def of(cls, request: protocol.Insert, program: Program, chosen: Chosen) -> Self:
        """What a request asks for; no probes yet."""
        return cls(
            request.program,
            program,
            chosen.executor,
            request.check_opcode,
            chosen.engines,
            chosen.slower,
            request.engine == AUTO,
            request.label,
            request.budget,
            request.follow_forks,
            request.max_hits,
        )

    def engines_of(self, probe: Probe) -> tuple[str, ...]:
        """Which engines a probe at code is offered to, in turn."""
        return self.engines if probe.native is not None else (TRAP,)

    def cap(self, max_hits: int) -> None:
        """Set what no probe's own ``max_hits`` may exceed, unless it is free of that."""
        if self.max_hits in (None, max_hits):
            return
        self.max_hits = max_hits
        for probe in self.probes:
            probe.cap(max_hits)
            if probe.hits >= probe.last and not probe.over:
                probe.set(State.DISABLED)

    def variables(self) -> protocol.LocalVariables:
        """Its local variables, as the daemon is told."""
        return protocol.LocalVariables(self.number, self.executor.locals.read(), self.inherited)

    def maps(self, reset: str = "", name: str = "") -> list[protocol.MapState]:
        """Its maps, or the one of this name, as the daemon is told; then they are reset as said."""
        states = []
        for number, each in enumerate(self.executor.maps):
            if name not in ("", each.definition.name):
                continue
            states.append(self.map_state(number, each))
            if reset == "clear":
                each.clear()
            elif reset == "zero":
                each.zero()
        return states

    def map_state(self, number: int, one: KeyedMap) -> protocol.MapState:
        """A map of it, or a copy of one, as the daemon is told."""
        contents = one.contents()
        return protocol.MapState(self.number, number, contents.lost, contents.entries)

    def map_use(self) -> list[protocol.MapUse]:
        """How full its maps are."""
        return [
            protocol.MapUse(self.number, number, len(each), each.lost)
            for number, each in enumerate(self.executor.maps)
        ]

    def values(self) -> dict[int, MapContents]:
        """What is in its maps of values, by their numbers."""
        return {
            number: each.contents()
            for number, each in enumerate(self.executor.maps)
            if each.definition.kind == VALUE
        }

    def load_values(self, values: Mapping[int, MapContents]) -> None:
        """Begin with these in its maps of values; in those that are not named, with none."""
        for number, each in enumerate(self.executor.maps):
            if each.definition.kind == VALUE:
                each.load(values.get(number, MapContents(0, [])))

    def count_on(self, former: protocol.Counted, when: int) -> None:
        """Go on from what it had counted here under another tracer, at ``when`` (monotonic ns)."""
        gone = max(0, time.monotonic_ns() - when)
        statuses = {status.probe: status for status in former.probes}
        for probe in self.probes:
            if probe.index in statuses:
                probe.count_on(statuses[probe.index], gone)
        for variables in former.variables:
            self.executor.locals.write(0, variables.words)
            self.inherited = variables.inherited
        for state in former.maps:
            if state.number < len(self.executor.maps):
                held = self.executor.maps[state.number]
                entries = [each for each in state.entries if is_entry(held.definition, each)]
                held.load(MapContents(state.lost, entries))

    def twin(self, variables: ListVariables, room: MapRoom) -> Inserted:
        """The same for a fork child, which has its own global ``variables`` and ``room`` for maps;
        no probes yet."""
        return Inserted(
            self.number,
            self.program,
            self.executor.copy(variables, room),
            self.check_opcode,
            self.engines,
            self.slower,
            self.may_fall_back,
            self.label,
            self.budget,
            self.follow_forks,
            self.max_hits,
        )


class VariableValues(msgspec.Struct, frozen=True):
    """The values of global and local variables, and of maps; ``locals`` and ``maps`` by the number
    of the program."""

    globals: list[int]
    locals: dict[int, list[int]]
    maps: dict[int, dict[int, MapContents]]

    @classmethod
    def of(cls, globals_: ListVariables, inserted: Mapping[int, Inserted]) -> VariableValues:
        """A copy of those that there are now."""
        return cls(
            globals_.read(),
            {number: each.executor.locals.read() for number, each in inserted.items()},
            {number: each.values() for number, each in inserted.items()},
        )
