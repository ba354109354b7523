"""Programs inserted into a target, and the values of their variables."""

from __future__ import annotations

import time

import msgspec

from dprobed.engine.budget import Account
from dprobed.engine.probe import Probe
from dprobed.program.exec.interface import Executor
from dprobed.program.exec.variables import ListVariables
from dprobed.program.model import Program
from dprobed.wire import protocol
from dprobed.wire.limits import Limits


class RequestError(Exception):
    """A request that is refused; one line."""


class Inserted(msgspec.Struct):
    """A program inserted into one target."""

    number: int
    program: Program
    executor: Executor[ListVariables]
    check_opcode: bool
    #: Which engine serves its code probes (``wire.engines``).
    engine: str
    label: str = ""
    budget: Limits | None = None
    #: Fork children get it, too.
    follow_forks: bool = False
    #: What hits of this program are charged to, besides that of all.
    account: Account | None = None
    #: The same for its probes that are not to sleep with the others.
    own_account: Account | None = None
    probes: list[Probe] = msgspec.field(default_factory=list)
    #: What its local variables were when a ``fork`` made this target.
    inherited: list[int] = msgspec.field(default_factory=list)

    def variables(self) -> protocol.LocalVariables:
        """Its local variables, as the daemon is told."""
        return protocol.LocalVariables(self.number, self.executor.locals.read(), self.inherited)

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

    def twin(self, variables: ListVariables) -> Inserted:
        """The same for a fork child, which has its own global ``variables``; no probes yet."""
        return Inserted(
            self.number,
            self.program,
            self.executor.copy(variables),
            self.check_opcode,
            self.engine,
            self.label,
            self.budget,
            self.follow_forks,
        )


class VariableValues(msgspec.Struct, frozen=True):
    """The values of global and local variables; ``locals`` by the number of the program."""

    globals: list[int]
    locals: dict[int, list[int]]
