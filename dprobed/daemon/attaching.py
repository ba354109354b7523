"""Attaches to processes: each becomes a target, in a tracer that runs as the right user."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from typing import Final

from dprobed.backend import LONG_PATIENCE, Backends
from dprobed.daemon.client import Client, Forbidden, NoAnswer, Refusal
from dprobed.daemon.detaching import Detaching
from dprobed.daemon.gate import Admission, Gate
from dprobed.daemon.quota import Quota
from dprobed.daemon.target import Target
from dprobed.daemon.targets import Targets
from dprobed.daemon.tracer_pool import TracerPool
from dprobed.proc import refusals
from dprobed.wire import messages, protocol

#: Seconds between two looks at whether what killed tracers have left is undone.
_LOOK: Final = 1.0


class Attaching:
    """Attaches for clients.

    ``hold_limit``: seconds that ``exit debugger`` holds a process without a debugger.
    """

    def __init__(
        self,
        backends: Backends,
        gate: Gate,
        targets: Targets,
        pool: TracerPool,
        quota: Quota,
        detaching: Detaching,
        *,
        hold_limit: float,
    ) -> None:
        self._backends: Final = backends
        self._gate: Final = gate
        self._targets: Final = targets
        self._pool: Final = pool
        self._quota: Final = quota
        self._detaching: Final = detaching
        self._hold_limit: Final = hold_limit

    async def attach(self, client: Client, request: messages.Attach) -> messages.Attached:
        """Attach to a process for ``client``; targets are shared by clients."""
        await self.hold(
            client, request.pid, launch=request.launch, follow_forks=request.follow_forks
        )
        return messages.Attached(id=request.id, pid=request.pid)

    async def hold(
        self,
        client: Client,
        pid: int,
        *,
        launch: bool = False,
        follow_forks: bool = False,
        shared: bool = False,
    ) -> None:
        """Add ``client`` to the holders of a target, and attach if need be; raises Refusal.

        ``follow_forks``: fork children inherit this client's programs, and are held by it.
        ``shared``: use a tracer that has other targets of the client's user, too.
        """
        self.check_not_ours(client, pid)
        while True:
            # Each time: while we waited for a target to end, its number may have got another owner.
            admission = self._gate.admit(client, pid)
            if await self._waited(pid, admission, shared=shared):
                continue
            target = self._targets.by_pid.setdefault(pid, Target(pid))
            async with target.lock:
                if target.finished.is_set():
                    continue  # It has just ended, or was detached from: begin anew.
                if target.attached:
                    self._gate.join(client, target, admission)
                target.holders.add(client)
                if follow_forks:
                    target.followers.add(client)
                if not target.attached:
                    await self._begin(target, client, launch, shared, admission)
                return

    async def _waited(self, pid: int, admission: Admission, *, shared: bool) -> bool:
        """Whether we had to wait, for a while, because what a killed tracer may have left in the
        process is being undone: another tracer would take its breakpoints for the process's own.
        With ``shared`` that is a Refusal: others wait behind this one."""
        target = self._targets.by_pid.get(pid)
        process = admission.decision.process
        if target is not None and target.attached:
            return False
        recoveries = self._backends.recoveries(process.uids[0])
        if recoveries and shared:
            raise Refusal(
                f"process {pid} ({process.comm}) may have something left of a tracer that was "
                "killed, which is being undone; try again in a moment"
            )
        if recoveries:
            await asyncio.wait(recoveries, timeout=_LOOK)
        return bool(recoveries)

    def check_not_ours(self, client: Client, pid: int) -> None:
        """That a process is neither the client nor of the daemon; raises Refusal."""
        if pid in (os.getpid(), client.pid) or pid in self._backends.pids:
            raise Forbidden(
                f"process {pid} is part of dprobed itself, and cannot be probed by it",
                "dprobed itself",
                pid,
            )

    async def _begin(
        self, target: Target, client: Client, launch: bool, shared: bool, admission: Admission
    ) -> None:
        try:
            if not shared:
                self._quota.check_tracers(client)
            target.uid, target.decision = admission.uid, admission.decision
            owner = admission.decision.process.uids[0]
            user = admission.uid, admission.gid
            await self._pool.place(target, user, owner, shared=shared)
        except (OSError, Refusal) as error:
            target.dismiss(client)
            self._targets.finish(target, None, "")
            if isinstance(error, Refusal):
                raise
            raise Refusal(f"no tracer could be started: {error.strerror}") from None
        target.asked_for, target.launched = not shared, launch
        target.hold_limit = self._hold_limit
        try:
            await self._ask(target, lambda seq: self._request(seq, target.pid, launch, admission))
        except Refusal as refusal:
            target.dismiss(client)
            if not target.finished.is_set():
                self._targets.finish(target, None, "")
            await self._detaching.tracer_ended(target)
            if str(refusal).startswith(refusals.NOT_PERMITTED):
                raise Forbidden(str(refusal), "kernel", target.pid) from None
            raise
        try:
            if not self._gate.admit(client, target.pid).same_as(admission):
                raise Refusal(f"process {target.pid} is another one by now; try again")
        except Refusal:
            # A tracer that has other targets would keep it for ever.
            target.dismiss(client)
            await self._detaching.try_empty(target, ())
            raise
        target.attached = True

    async def _ask(self, target: Target, make: Callable[[int], protocol.Request]) -> None:
        """Have its tracer attach; raises Refusal."""
        assert target.tracer is not None
        in_doubt = target.tracer.in_doubt
        in_doubt.add(target.pid)
        is_settled = True
        try:
            late = partial(self._detaching.attached_late, target)
            await target.ask(make, LONG_PATIENCE, late)
        except NoAnswer as refusal:
            is_settled = not refusal.asked
            raise
        finally:
            if is_settled:
                in_doubt.discard(target.pid)

    def _request(self, seq: int, pid: int, launch: bool, admission: Admission) -> protocol.Attach:
        decision = admission.decision
        return protocol.Attach(
            seq=seq,
            pid=pid,
            launch=launch,
            hold_limit=self._hold_limit,
            follow_forks=decision.follow_forks,
            hold_thread=decision.hold == "thread",
            budget=decision.limits,
            only_guarded=decision.only_guarded,
        )
