"""What tracers tell: records, places, changes, followed children, ends, and their own end.

A target lives as long as a client holds it or a program is in it. A followed child of a target
begins with those of the parent's programs that follow, under the same numbers, and with the holders
who want it. A client hears of its own programs, and of the ends of what it holds.

A tracer is believed about its own targets and nothing else: it runs with the rights of the user who
asked, and what it sends may be anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from dprobed.backend import BackendGone, BackendRefused, Backends
from dprobed.daemon.detaching import Detaching
from dprobed.daemon.enforcement import Enforcement
from dprobed.daemon.gate import Gate
from dprobed.daemon.target import Target, TargetsTracer
from dprobed.daemon.targets import Targets
from dprobed.daemon.tasks import Tasks
from dprobed.wire import messages, protocol

#: Kinds of notices that are written down as well.
_NOTED: Final = ("dump", "debugger", "loader", "unprobed")

_log = logging.getLogger("dprobed")


class TracerEvents:
    """Does what follows from an event. ``deliver``: what is done with records."""

    def __init__(
        self,
        backends: Backends,
        gate: Gate,
        targets: Targets,
        detaching: Detaching,
        enforcement: Enforcement,
        tasks: Tasks,
        deliver: Callable[[TargetsTracer, list[protocol.RawRecord]], None],
    ) -> None:
        self._backends: Final = backends
        self._gate: Final = gate
        self._targets: Final = targets
        self._detaching: Final = detaching
        self._enforcement: Final = enforcement
        self._tasks: Final = tasks
        self._deliver: Final = deliver

    def on_event(self, tracer: TargetsTracer, event: protocol.Event) -> None:
        """A tracer tells something."""
        match event:
            case protocol.Records():
                self._deliver(tracer, event.records)
            case protocol.Places():
                for number, place in event.places.items():
                    tracer.place(number, place)
            case protocol.Forked():
                self._forked(tracer, event)
            case _:
                target = tracer.targets.get(event.pid)
                if target is not None:
                    self._target_event(target, event)

    def _target_event(
        self, target: Target, event: protocol.Changed | protocol.TargetEvent | protocol.Ended
    ) -> None:
        match event:
            case protocol.Changed():
                self._changed(target, target.take(event.probes))
            case protocol.TargetEvent():
                self._noticed(target, event)
            case protocol.Ended():
                target.take(event.probes)
                target.spent(event.overhead_ns)
                target.ended = event
                # Who waits for an answer that came before it has it first.
                asyncio.get_running_loop().call_soon(self._targets.finish, target, event, "")

    def _changed(self, target: Target, infos: list[messages.ProbeInfo]) -> None:
        for client in target.clients():
            numbers = {entry.number for entry in target.owned_by(client)}
            own = [info for info in infos if info.number in numbers]
            if own:
                client.tell(messages.StateChange(pid=target.pid, probes=own))

    def _noticed(self, target: Target, event: protocol.TargetEvent) -> None:
        if event.kind in _NOTED:
            self._gate.history.note(target.uid, f"process {event.pid}: {event.text}")
        if event.kind == "exec":
            self._enforcement.target_changed(target)
        notice = messages.Notice(kind=event.kind, pid=event.pid, tid=event.tid, text=event.text)
        for client in target.clients():
            client.tell(notice)

    # -- followed children ---------------------------------------------------------------------

    def _forked(self, tracer: TargetsTracer, event: protocol.Forked) -> None:
        """A child of a target is one as well, for those who want its parent's children."""
        there = self._targets.by_pid.get(event.pid)
        if there is not None and there.attached and there.ended is None:
            self._disbelieve(tracer, event, there)
            return
        target = Target(event.pid)
        target.attached = True
        tracer.add(target)
        self._targets.by_pid[event.pid] = target
        parent = tracer.parent(event.parent)
        if parent is not None:
            self._inherit(target, parent, {status.program for status in event.probes})
            target.take(event.probes)
        clients = target.clients()
        gone = {client for client in clients if self._detaching.has_gone(client)}
        for client in clients - gone:
            client.tell(messages.Forked(pid=event.pid, parent=event.parent))
        self._detaching.release_child(target, gone)
        if not clients and not target.entries:
            self._detaching.detach_unneeded(target)
        elif self._gate.policies.policies:
            # It has another parent, for one: another policy may be the one that decides.
            self._enforcement.target_changed(target)

    @staticmethod
    def _inherit(target: Target, parent: Target, numbers: set[int]) -> None:
        target.uid, target.decision = parent.uid, parent.decision
        target.followers |= parent.followers
        target.holders |= parent.followers
        if target.decision is not None and target.decision.follow_forks:
            target.holders |= parent.holders
        for entry in parent.entries.values():
            if entry.number in numbers:
                target.entries[entry.number] = entry.in_child(target)

    def _disbelieve(self, tracer: TargetsTracer, event: protocol.Forked, there: Target) -> None:
        """A tracer calls a process its own that is a target already, with its clients and programs:
        that stays as it is. Where it is another tracer's, this one is to detach from it."""
        _log.error(
            "protocol error from the tracer: process %d is no new child of %d but a target already",
            event.pid,
            event.parent,
        )
        if there.tracer is not tracer:
            self._tasks.start(self._send_away(tracer, event.pid))

    @staticmethod
    async def _send_away(tracer: TargetsTracer, pid: int) -> None:
        try:
            await tracer.backend.request(lambda seq: protocol.Detach(seq=seq, pid=pid))
        except (BackendRefused, BackendGone) as error:
            _log.warning("process %d: %s", pid, error)

    # -- the end of a tracer ---------------------------------------------------------------------

    def on_gone(self, tracer: TargetsTracer, failure: str) -> None:
        """A tracer is gone, and with it the targets that it still had."""
        targets = list(tracer.targets.values())
        if not targets:
            return
        # Here: in a private daemon few ever need it. (Another has it loaded from the beginning.)
        from dprobed.daemon.recovery import rescue

        failure = failure or "its tracer ended without a word"
        for target in targets:
            rescue(target.pid)  # At once, all of them: each may run into a breakpoint any moment.
        for target in targets:
            probes = (probe for entry in target.entries.values() for probe in entry.program.probes)
            if any(probe.watchpoint for probe in probes):
                self._tasks.start(self._clear_watchpoints(tracer, target, failure))
            else:
                self._targets.finish(target, None, failure)

    async def _clear_watchpoints(self, tracer: TargetsTracer, target: Target, failure: str) -> None:
        from dprobed.daemon.recovery import clear_watchpoints

        try:
            await clear_watchpoints(self._backends, target.pid, *tracer.user)
        finally:
            self._targets.finish(target, None, failure)
