"""A restarted daemon goes on with what was inserted under the one before it.

By then what that one's tracers had changed is undone (recovery.py). So every kept program is put in
again as if its owner asked for it anew, with the rights that the owner has now, under the same
number, and its counters and variables go on from where its tracer last noted them. What is not
allowed any more, or whose process is another one, is told in the log, and ended. Where a tracer
does not answer in time, that says nothing of the program: it is put in when the process can be had.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from typing import Final

from dprobed import systemd_journal
from dprobed.change_journal import boot
from dprobed.daemon.client import NoAnswer, Refusal
from dprobed.daemon.deploy.deployments import Deployments
from dprobed.daemon.inserting import Inserting
from dprobed.daemon.kept import MOST_TRIES, KeptProgram, insertion_of
from dprobed.daemon.programs import Programs
from dprobed.daemon.removal import Removal
from dprobed.daemon.target import InsertedProgram
from dprobed.daemon.targets import Targets
from dprobed.daemon.tasks import Tasks
from dprobed.proc import procfs
from dprobed.wire import messages

#: Processes into which programs are put at the same time.
_AT_ONCE: Final = 16
#: Seconds for which a process is waited for whose former tracer still has it, and between looks.
_PATIENCE: Final = 30.0
_LOOK: Final = 0.2
#: Seconds from one look at a process whose tracer has not answered to the next.
_AGAIN: Final = 1.0
#: Seconds after which a daemon has lived on with what it has taken over.
_WELL: Final = 10.0

_log = logging.getLogger("dprobed")


class FormerClient:
    """The user who inserted a program that was kept; the connection is long gone."""

    kept = True
    pid = 0

    def __init__(self, uid: int, gid: int) -> None:
        self.uid, self.gid = uid, gid

    def offer(self, lines: bytes) -> bool:
        """Records are in the log."""
        return True

    def tell(self, message: messages.Report) -> None:
        """States are in ``query``."""


class Adopting:
    """Puts in again what is kept."""

    def __init__(
        self,
        targets: Targets,
        programs: Programs,
        inserting: Inserting,
        removal: Removal,
        deployments: Deployments,
        tasks: Tasks,
    ) -> None:
        self._targets: Final = targets
        self._kept: Final = targets.kept
        self._programs: Final = programs
        self._inserting: Final = inserting
        self._removal: Final = removal
        self._deployments: Final = deployments
        self._tasks: Final = tasks
        #: Those of which it was told that nobody has answered.
        self._waiting: Final[list[KeptProgram]] = []

    async def begin(self, patience: float) -> None:
        """Begin with all of it, and wait ``patience`` seconds; the rest is done later."""
        programs, deployments = self._kept.programs(), self._kept.deployments()
        for inserted in [each.inserted for each in programs] + [
            each.inserted for each in deployments
        ]:
            self._programs.reserve(inserted.number)
            self._kept.former.programs.add(inserted.number)
        if not programs and not deployments:
            return
        if not self._kept.begin():
            _log.error(
                "%d daemons died, one after the other, with the programs that were kept: none is "
                "put in again",
                MOST_TRIES,
            )
            return
        asyncio.get_running_loop().call_later(_WELL, self._kept.is_well)
        for deployment in deployments:
            by = FormerClient(deployment.inserted.uid, deployment.inserted.gid)
            self._deployments.take_over(deployment, by)
        by_pid: defaultdict[int, list[KeptProgram]] = defaultdict(list)
        for program in programs:
            by_pid[program.pid].append(program)
            self._kept.waiting[program.inserted.number, program.pid] = program
        if by_pid:
            task = asyncio.ensure_future(self._all(list(by_pid.values())))
            self._tasks.start(_finished(task))
            await asyncio.wait({task}, timeout=patience)

    async def _all(self, processes: list[list[KeptProgram]]) -> None:
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(programs: list[KeptProgram]) -> None:
            for each in sorted(programs, key=lambda kept: kept.inserted.number):
                while not await attempt(each):
                    await self._can_be_had(each)

        async def attempt(kept: KeptProgram) -> bool:
            async with turns:
                try:
                    return await self._adopt(kept)
                except Exception:
                    # The others are not concerned; it stays for the next start.
                    name = kept.inserted.upload.label
                    self._kept.waiting.pop((kept.inserted.number, kept.pid), None)
                    self._kept.failed[kept.inserted.number, kept.pid] = kept
                    _log.exception("process %d: %s is not put in again", kept.pid, name)
                    return True

        await asyncio.gather(*map(one, processes))

    async def _adopt(self, kept: KeptProgram) -> bool:
        """Put one program into its process again; False: nobody has answered, and it is still to be
        put in."""
        inserted, pid = kept.inserted, kept.pid
        name = f"program {inserted.number} ({inserted.upload.label}) of user {inserted.uid}"
        where = "the kernel" if pid == messages.KERNEL else f"process {pid}"
        try:
            entry = await self._put(kept)
        except NoAnswer as refusal:
            if kept not in self._waiting:
                self._waiting.append(kept)
                _log.warning("%s; %s is put in again when it can be", refusal, name)
            return False
        except Refusal as refusal:
            self._kept.drop_program(inserted.number, pid)
            _log.warning("%s: %s is not put in again after a restart: %s", where, name, refusal)
            entry = None
        self._kept.waiting.pop((inserted.number, pid), None)
        if entry is not None:
            self._tell(name, entry)
        return True

    async def _put(self, kept: KeptProgram) -> InsertedProgram | None:
        """As ``_adopt``; None: nobody wants it any more. Raises Refusal."""
        inserted, pid = kept.inserted, kept.pid
        insertion = insertion_of(kept)
        client = FormerClient(inserted.uid, inserted.gid)
        if pid == messages.KERNEL:
            raise Refusal("what is in the kernel ends with the daemon that put it there")
        await self._released(kept)
        if not self._is_wanted(kept):
            return None
        if insertion is None:
            raise Refusal("this version does not take it")
        entry = await self._inserting.put(client, pid, insertion, None, start=kept.start)
        if self._is_wanted(kept):
            return entry
        select = messages.Select(number=inserted.number, pid=pid)
        await self._removal.remove(client, messages.Remove(id=0, select=select))
        return None

    @staticmethod
    def _tell(name: str, entry: InsertedProgram) -> None:
        """That a program is in again, and what its counters say."""
        gone = max((each.uncounted_ns for each in entry.probe_infos()), default=0) / 1e9
        counted = f"not counted for {gone:.1f} s" if entry.goes_on else "its counters begin anew"
        counted += "; its maps, which were large, begin anew" if entry.maps_anew else ""
        text = f"{entry.target.what}: {name} taken over after a restart; {counted}"
        about = systemd_journal.about(
            "inserted",
            uid=entry.uid,
            pid=entry.target.pid,
            program=entry.label,
            probes=len(entry.probes),
        )
        _log.info("%s", text, extra=about)

    def _is_wanted(self, kept: KeptProgram) -> bool:
        """Whether nobody has removed it meanwhile."""
        return (kept.inserted.number, kept.pid) in self._kept.waiting

    async def _can_be_had(self, kept: KeptProgram) -> None:
        """Wait until the tracer that has not answered has let a process go, or answers and keeps
        it for others; or until nobody wants the program there any more."""
        while True:
            await asyncio.sleep(_AGAIN)
            target = self._targets.by_pid.get(kept.pid)
            if target is not None and target.attached and target.tracer is not None:
                is_free = not target.tracer.backend.is_silent and not target.in_doubt
            else:
                found = procfs.status(procfs.live_thread(kept.pid))
                is_free = found is None or not found.tracer
            if is_free or not self._is_wanted(kept):
                return

    async def _released(self, kept: KeptProgram) -> None:
        """Wait until the process's former tracer has let it go; raises Refusal where the process
        is not the one any more."""
        end = time.monotonic() + _PATIENCE
        while True:
            is_same = procfs.start_time(kept.pid) == kept.start and kept.boot == boot()
            if not is_same or procfs.has_ended(kept.pid):
                raise Refusal("it has ended")
            found = procfs.status(procfs.live_thread(kept.pid))
            if found is None or not found.tracer or time.monotonic() > end:
                return  # Who has it then is told by the refusal.
            await asyncio.sleep(_LOOK)


async def _finished(task: asyncio.Future[None]) -> None:
    await task
