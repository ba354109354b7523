"""The parts of a tracer process that all its targets share."""

from __future__ import annotations

import msgspec

from dprobed.change_journal import ChangeJournal
from dprobed.engine.affinity import Affinity
from dprobed.resolver.client import Resolver
from dprobed.tracee.ptrace import Registers
from dprobed.tracee.tracees import Tracees
from dprobed.tracer.inheritance import ChildTargets
from dprobed.tracer.reporter import Reporter
from dprobed.tracer.stacks.tables import Tables


class TracerContext(msgspec.Struct):
    """The tracer's own parts, which its targets use."""

    tracees: Tracees
    registers: Registers
    affinity: Affinity
    reporter: Reporter
    resolver: Resolver
    child_targets: ChildTargets
    journal: ChangeJournal
    #: How callers are found, in each file that any of the targets has.
    tables: Tables
    #: Number by name. One dictionary for all executors, which look it up at each hit.
    facilities: dict[str, int] = msgspec.field(default_factory=dict)
    #: Facilities that the tracer carries out at the hit (dump, debugger); None: all of them.
    acting: list[int] | None = None
