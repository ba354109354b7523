"""The quota of each user of root's daemon: programs, probes, tracers and deployments.

No user can fill the daemon or keep others out. Root and the daemon's own user have no quota. What
is being inserted counts as inserted, so that many requests at once cannot exceed it.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Final

from dprobed.daemon.client import Client, Forbidden
from dprobed.daemon.gate import Gate
from dprobed.daemon.targets import Targets
from dprobed.program.model import Program
from dprobed.wire import messages

#: Inserted programs, and probes in all of them.
PROGRAMS: Final = 1000
PROBES: Final = 20_000
#: Tracers of attached processes.
TRACERS: Final = 100
#: Programs for selections of processes.
DEPLOYMENTS: Final = 64

_ELSE: Final = "remove some, or start a dprobed of your own"


class Quota:
    """Counts what each user has inserted; what exceeds the quota raises Refusal."""

    def __init__(self, gate: Gate, targets: Targets) -> None:
        self._gate = gate
        self._targets = targets
        #: By user: programs that are being inserted, and their probes.
        self._programs: Counter[int] = Counter()
        self._probes: Counter[int] = Counter()

    @contextlib.contextmanager
    def room_for(self, client: Client, programs: Collection[Program]) -> Iterator[None]:
        """Reserve quota while programs of a client are inserted, or fail to be."""
        uid = client.uid
        if not self._gate.commands(client):
            own = len(self._targets.select(client, messages.Select())) + self._programs[uid]
            if own + len(programs) > PROGRAMS:
                text = (
                    f"user {uid} has {_count(own, 'program')} inserted (limit {PROGRAMS}); {_ELSE}"
                )
                raise Forbidden(text, "quota")
        with self.room_for_probes(client, programs):
            self._programs[uid] += len(programs)
            try:
                yield
            finally:
                self._programs[uid] -= len(programs)

    @contextlib.contextmanager
    def room_for_probes(self, client: Client, programs: Collection[Program]) -> Iterator[None]:
        """Reserve quota for probes only: a deployment's program may be in many processes."""
        uid = client.uid
        probes = sum(len(program.probes) for program in programs)
        if not self._gate.commands(client):
            own_programs = self._targets.select(client, messages.Select())
            own = sum(len(inserted.probes) for inserted in own_programs) + self._probes[uid]
            if own + probes > PROBES:
                text = f"user {uid} has {_count(own, 'probe')} inserted (limit {PROBES}); {_ELSE}"
                raise Forbidden(text, "quota")
        self._probes[uid] += probes
        try:
            yield
        finally:
            self._probes[uid] -= probes

    def check_tracers(self, client: Client) -> None:
        """Check that the client's user may have one more process traced."""
        if self._gate.commands(client):
            return
        tracers = [
            target.tracer
            for target in self._targets.by_pid.values()
            if (target.tracer is None or not target.tracer.shared)
            and client.uid
            in {each.uid for each in target.holders}.union(
                inserted.uid for inserted in target.programs.values()
            )
        ]
        # Those without one are about to get it.
        if len(set(tracers) - {None}) + tracers.count(None) > TRACERS:
            raise Forbidden(
                f"user {client.uid} has {TRACERS} processes traced (limit {TRACERS}); detach from "
                "some, deploy the program to a selection of processes, or start a dprobed of your "
                "own",
                "quota",
            )

    def check_deployments(self, client: Client, wanted: int) -> None:
        """Check that the client's user may have that many deployments."""
        if wanted > DEPLOYMENTS and not self._gate.commands(client):
            text = (
                f"user {client.uid} would have {wanted} deployments (limit {DEPLOYMENTS}); {_ELSE}"
            )
            raise Forbidden(text, "quota")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
