"""Handles events from tracers: records, places, changes, fork children, ends, their own end.

A target is traced as long as a client holds it or a program is in it. A fork child that is followed
inherits the parent's programs that follow forks, under the same numbers, and the holders that
follow forks. A client is told of its own programs, and of the ends of targets that it holds.

A tracer is trusted about its own targets only: it runs with the rights of the user who asked, and
may send anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from dprobed.backend import Backends
from dprobed.daemon import told
from dprobed.daemon.client import Client
from dprobed.daemon.detaching import Detaching
from dprobed.daemon.ends import Ends
from dprobed.daemon.enforcement import Enforcement
from dprobed.daemon.gate import Gate
from dprobed.daemon.target import Target, TargetsTracer
from dprobed.daemon.targets import Targets
from dprobed.daemon.tasks import Tasks
from dprobed.printable import printable, readable
from dprobed.proc import executables, procfs
from dprobed.wire import messages, protocol
from dprobed.wire.notices import NoticeKind

#: Notices that are logged.
_NOTED: Final = frozenset(
    {
        NoticeKind.ASLEEP,
        NoticeKind.DEBUGGER,
        NoticeKind.LOADER,
        NoticeKind.LOST,
        NoticeKind.UNPROBED,
    }
)

#: What is logged of those for which nothing was done.
_IN_VAIN: Final = {NoticeKind.DUMP: "dump in vain", NoticeKind.DEBUGGER: "debugger in vain"}

_log = logging.getLogger("dprobed")


class TracerEvents:
    """Handles tracers' events; ``deliver``: routes records; ``followers``: of the log."""

    def __init__(
        self,
        backends: Backends,
        gate: Gate,
        targets: Targets,
        detaching: Detaching,
        enforcement: Enforcement,
        ends: Ends,
        tasks: Tasks,
        deliver: Callable[[TargetsTracer, list[protocol.RawRecord]], None],
        followers: Callable[[], Iterable[Client]],
    ) -> None:
        self._backends: Final = backends
        self._gate: Final = gate
        self._targets: Final = targets
        self._detaching: Final = detaching
        self._enforcement: Final = enforcement
        self._ends: Final = ends
        self._tasks: Final = tasks
        self._deliver: Final = deliver
        self._followers: Final = followers

    def on_event(self, tracer: TargetsTracer, event: protocol.Event) -> None:
        """An event from a tracer."""
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
                elif isinstance(event, protocol.Ended):
                    tracer.in_doubt.discard(event.pid)

    def _target_event(
        self, target: Target, event: protocol.Changed | protocol.Notice | protocol.Ended
    ) -> None:
        match event:
            case protocol.Changed():
                self._changed(target, target.take(event.probes))
            case protocol.TargetEvent():
                text = told.line(event.text)
                self._noticed(target, msgspec.structs.replace(event, text=text))
            case protocol.Dumped():
                path = told.line(event.path, told.LONGEST_NAME)
                self._tell(target, event.tid, NoticeKind.DUMP, f"core: {path}", "dumped", core=path)
            case protocol.NotDumped():
                more = f" ({event.refused} refused so far)" if event.refused > 1 else ""
                text = f"no dump: {told.line(event.reason)}{more}"
                self._tell(target, event.tid, NoticeKind.DUMP, text, _IN_VAIN[NoticeKind.DUMP])
            case protocol.NoDebugger():
                text = f"no debugger: {told.line(event.reason)}"
                cause = _IN_VAIN[NoticeKind.DEBUGGER]
                self._tell(target, event.tid, NoticeKind.DEBUGGER, text, cause)
            case protocol.DebuggerCame():
                self._debugger_came(target, event)
            case protocol.Ended():
                target.take_end(event)
                # Later, so that whoever waits for a reply that came before it gets that first.
                asyncio.get_running_loop().call_soon(self._targets.finish, target, target.ended, "")

    def _changed(self, target: Target, infos: list[messages.ProbeInfo]) -> None:
        for client in target.clients():
            numbers = {inserted.number for inserted in target.owned_by(client)}
            own = [info for info in infos if info.number in numbers]
            if own:
                client.tell(messages.StateChange(pid=target.pid, probes=own))
        self._ends.changed(target, {info.number for info in infos})

    def _noticed(self, target: Target, event: protocol.TargetEvent) -> None:
        match event.kind:
            case NoticeKind.EXEC:
                self._executed(target, event.tid)
                return
            case NoticeKind.ASLEEP:
                target.asleep = True
            case NoticeKind.SUSPEND:
                target.suspend(event.tid)
        cause = ""
        if event.kind in _NOTED:
            cause = "held" if event.kind is NoticeKind.DEBUGGER else event.kind
        self._tell(target, event.tid, event.kind, event.text, cause)

    def _executed(self, target: Target, tid: int) -> None:
        self._enforcement.target_changed(target)
        target.take_name()
        program = _program_of(target.pid)
        text = f"process {target.pid} executed {program}"
        if target.asked_for and not target.launched:
            self._gate.history.note(target.uid, text, NoticeKind.EXEC)
        target.launched = False  # That was its own program.
        self._send(
            target,
            messages.Notice(
                kind=NoticeKind.EXEC, pid=target.pid, tid=tid, text=text, program=program
            ),
        )

    def _tell(
        self, target: Target, tid: int, kind: NoticeKind, text: str, cause: str, core: str = ""
    ) -> None:
        """Tell clients, and log it unless ``cause`` is empty: what the line competes with there,
        so that no core, and nothing held, is hidden by what was refused."""
        if cause:
            line = f"process {target.pid}: {text}"
            self._gate.history.note(target.uid, line, cause, pid=target.pid, tid=tid, core=core)
        notice = messages.Notice(kind=kind, pid=target.pid, tid=tid, text=text, core=core)
        self._send(target, notice)

    def _send(self, target: Target, notice: messages.Notice) -> None:
        """To who has something in the target; that it stands, to who follows the log, too."""
        clients = target.clients()
        if notice.kind in (NoticeKind.SUSPEND, NoticeKind.DEBUGGER):
            uids = {inserted.uid for inserted in target.programs.values()}
            clients |= {
                each
                for each in self._followers()
                if any(self._gate.sees(each, uid) for uid in uids)
            }
        for client in clients:
            client.tell(notice)

    def _debugger_came(self, target: Target, event: protocol.DebuggerCame) -> None:
        """Note who came to a debugger's socket, as the tracer says."""
        who, cause = f"process {event.by} of user {event.uid}", "debugged"
        text = f"{target.what}: {who} is in, as a debugger"
        if not event.admitted:
            text, cause = f"refused: {who} may not debug {target.what}", "refused"
            self._gate.audit.refusals["debugger"] += 1
        # Under the name of the tracer's user: who else came is what it says.
        by = str(event.by)
        self._gate.history.note(
            target.uid, text, cause, pid=target.pid, by_pid=by, why="debugger", request="debugger"
        )

    # -- fork children -------------------------------------------------------------------------

    def _forked(self, tracer: TargetsTracer, event: protocol.Forked) -> None:
        """A fork child of a target becomes a target, for the clients that follow forks."""
        there = self._targets.by_pid.get(event.pid)
        if there is not None and there.attached and there.ended is None:
            self._reject_fork(tracer, event, there)
            return
        if tracer.is_full:
            self._tasks.start(self._detaching.detach_from(tracer, event.pid))
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
        if not clients and not target.programs:
            self._detaching.detach_unneeded(target)
        elif self._gate.policies.policies:
            # Another policy may decide about it: it has another parent, for one.
            self._enforcement.target_changed(target)

    def _inherit(self, target: Target, parent: Target, numbers: set[int]) -> None:
        target.uid, target.decision = parent.uid, parent.decision
        target.hold_limit = parent.hold_limit
        target.followers |= parent.followers
        target.holders |= parent.followers
        if target.decision is not None and target.decision.follow_forks:
            target.holders |= parent.holders
        for inserted in parent.programs.values():
            if inserted.number in numbers:
                target.programs[inserted.number] = child = inserted.in_child(target)
                self._targets.kept.keep(child)

    def _reject_fork(self, tracer: TargetsTracer, event: protocol.Forked, there: Target) -> None:
        """A tracer reports a process as a new child that is a target already: that target stays as
        it is, and if it is another tracer's, this tracer has to detach from the process."""
        _log.error(
            "protocol error from the tracer: process %d is no new child of %d but a target already",
            event.pid,
            event.parent,
        )
        if there.tracer is not tracer:
            self._tasks.start(self._detaching.detach_from(tracer, event.pid))

    # -- the end of a tracer ---------------------------------------------------------------------

    def on_gone(self, tracer: TargetsTracer, failure: str) -> None:
        """A tracer is gone: recover the targets that it still had."""
        self._tasks.start(self._recover(tracer, failure or "the tracer exited unexpectedly"))

    async def _recover(self, tracer: TargetsTracer, failure: str) -> None:
        try:
            await tracer.backend.recover()
        finally:
            # Not before: whoever is told of it may come again, with another tracer.
            for target in list(tracer.targets.values()):
                self._targets.finish(target, None, failure)


def _program_of(pid: int) -> str:
    """What a process runs."""
    path = executables.path(procfs.live_thread(pid))
    return printable(readable(path)) if path else "another program"
