"""The queue of processes that are to get deployments' programs, and the workers that insert them.

A process that an event reported is served before those found by a scan: it may be gone in a
millisecond. A process that cannot be probed is noted with the reason, and tried again at growing
intervals.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from typing import Final

from dprobed.daemon.client import Refusal
from dprobed.daemon.deploy.deployment import Deployment
from dprobed.daemon.detaching import Detaching
from dprobed.daemon.inserting import Inserting
from dprobed.daemon.target import InsertedProgram
from dprobed.daemon.tasks import Tasks
from dprobed.proc import procfs

#: Processes served at the same time: enough to use every CPU, few enough to leave room for others.
WORKERS: Final = 2 * (os.cpu_count() or 1)
#: Seconds until a process that could not be probed is tried again, the first time.
RETRY: Final = 1.0
#: Seconds for which a worker stays with one process.
_LONGEST: Final = 5.0
#: Jobs by priority: whether it is not fresh, a serial number, the pid.
Jobs = asyncio.PriorityQueue[tuple[bool, int, int]]
#: A job that ends a worker.
_STOP_WORKER: Final = (False, 0, 0)

_log = logging.getLogger("dprobed")


class Queue:
    """Serves processes; ``again`` has one looked at again, after so many seconds at the
    earliest."""

    def __init__(
        self,
        deployments: Mapping[int, Deployment],
        inserting: Inserting,
        detaching: Detaching,
        tasks: Tasks,
        again: Callable[[int, float], None],
    ) -> None:
        self._all: Final = deployments
        self._inserting: Final = inserting
        self._detaching: Final = detaching
        self._tasks: Final = tasks
        self._again: Final = again
        self._jobs: Jobs = asyncio.PriorityQueue()
        #: Processes in the queue, or with a worker.
        self._queued: set[int] = set()
        #: Programs of deployments that are being taken out.
        self._leaving: Final[set[InsertedProgram]] = set()
        self._serial = 0
        self._workers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the workers, unless they run."""
        if not self._workers:
            loop = asyncio.get_running_loop()
            self._workers = [loop.create_task(self._work(self._jobs)) for _ in range(WORKERS)]

    def stop(self) -> None:
        """Stop the workers: there is no deployment any longer."""
        # A worker that is inserting a program finds its deployment removed, and removes the
        # program.
        for _ in self._workers:
            self._jobs.put_nowait(_STOP_WORKER)
        self._workers = []
        self._queued.clear()
        self._jobs = asyncio.PriorityQueue()

    def enqueue(self, pid: int, ready: list[Deployment], *, fresh: bool) -> None:
        """A process is to get these deployments; a ``fresh`` one is served before others."""
        added = False
        for each in ready:
            if pid in each.waiting:
                continue
            if each.is_full:
                each.refuse(pid, f"over the limit ({each.limit})")
                self._again(pid, RETRY)
                continue
            each.waiting.add(pid)
            added = True
        if added and pid not in self._queued:
            self._queued.add(pid)
            self._serial += 1
            self._jobs.put_nowait((not fresh, self._serial, pid))

    def deselect(self, deployment: Deployment, pid: int) -> None:
        """A process is not selected (any longer): it executed another program, for one."""
        deployment.waiting.discard(pid)
        deployment.refusals.pop(pid, None)
        inserted = deployment.instances.get(pid)
        if inserted is not None and inserted not in self._leaving:
            self._tasks.start(self._take_out(deployment, inserted))

    async def _take_out(self, deployment: Deployment, inserted: InsertedProgram) -> None:
        """Take it out of a process, which has it until then, whenever its tracer answers."""
        pid = inserted.target.pid
        self._leaving.add(inserted)

        def done(why: Refusal | None) -> None:
            self._leaving.discard(inserted)
            if why is None and deployment.instances.get(pid) is inserted:
                deployment.leave(pid)
                # It may be selected again by now.
                self._again(pid, 0.0)

        await self._detaching.take_out_in_time(inserted, done)

    # -- workers -------------------------------------------------------------------------------

    async def _work(self, jobs: Jobs) -> None:
        """One worker: a process after the other."""
        while True:
            *_, pid = job = await jobs.get()
            if job == _STOP_WORKER:
                return
            # One that takes long goes on by itself: its tracer may not answer, and others wait.
            await asyncio.wait([self._tasks.start(self._serve(jobs, pid))], timeout=_LONGEST)

    async def _serve(self, jobs: Jobs, pid: int) -> None:
        """Put all deployments into a process that it is to get."""
        tried: set[int] = set()
        # Deployments that are added meanwhile are done here as well: one worker for one process.
        # (After ``stop`` and ``start`` there are other workers, with a queue of their own.)
        while jobs is self._jobs and (each := self._next_for(pid, tried)) is not None:
            tried.add(each.number)
            try:
                await self._put(each, pid)
            except Exception:
                _log.exception("process %d did not get %s", pid, each.upload.label)
                each.refuse(pid, "internal error in the daemon (see its log)")
        if jobs is self._jobs:
            self._queued.discard(pid)
            self._queue_again(pid)

    def _queue_again(self, pid: int) -> None:
        """Look again at a process that was deselected and selected again while it was served."""
        left = [each for each in self._all.values() if pid in each.waiting]
        if left and not procfs.has_ended(pid):
            for each in left:
                each.waiting.discard(pid)
            self._again(pid, 0.0)

    def _next_for(self, pid: int, tried: set[int]) -> Deployment | None:
        return next(
            (
                each
                for each in self._all.values()
                if pid in each.waiting and each.number not in tried
            ),
            None,
        )

    async def _put(self, deployment: Deployment, pid: int) -> None:
        deployment.inserting[pid] = False
        try:
            inserted = await self._inserting.put(deployment, pid, deployment.insertion, deployment)
        except Refusal as refusal:
            if deployment.end_insertion(pid):
                deployment.forget(pid)
                self._again(pid, 0.0)
            elif pid in deployment.waiting and not procfs.has_ended(pid):
                deployment.refuse(pid, str(refusal))
                self._again(pid, RETRY)
            return  # Else it is gone, which is counted when its end is reported.
        except BaseException:
            deployment.end_insertion(pid)
            raise
        meant = pid in deployment.waiting
        deployment.enter(inserted)
        if not meant:
            # Removed, or no longer selected, in the meantime.
            await self._take_out(deployment, inserted)
        if deployment.end_insertion(pid):
            self._again(pid, 0.0)  # Another process may have its pid already.
        # It may have been in for so short a time that it is out again.
        there = inserted.target.programs.get(inserted.number) is inserted
        if inserted.target.finished.is_set() or not there:
            deployment.leave(pid)
