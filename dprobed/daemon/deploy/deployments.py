"""Global probepoints: programs that follow a selection of processes, those to come included.

``discovery`` says when to look at a process; a look here decides which deployments are to be in it:
those whose selection means it and whose module it maps, or surely will in a moment. It then waits
in a queue for one of a few workers, which put the programs in by the registry, as for any client.

A process that comes by an event is served before those that were there already: it may be gone in
a millisecond. What ends before its programs are in is counted as missed, or as unseen where nobody
had the time to find out whether it was meant. What cannot be probed is remembered with the reason,
and tried again ever more rarely.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable
from pathlib import PurePath
from typing import Final

import msgspec

from dprobed.daemon.deploy.deployment import Deployment
from dprobed.daemon.deploy.modules import Modules
from dprobed.daemon.deploy.selection import SelectionError, Selector, paths_of
from dprobed.daemon.deploy.watcher import Verdict, Watcher
from dprobed.daemon.history import some
from dprobed.daemon.requests import Registry
from dprobed.daemon.target import Client, Entry, Refusal
from dprobed.proc import processes, procfs
from dprobed.proc.events import Kind
from dprobed.proc.maps import CrowdedError, MapsError
from dprobed.proc.processes import Process
from dprobed.proc.shared_memory import shares_memory
from dprobed.wire import messages

#: Processes that get their programs at the same time: enough to keep every CPU at it, few enough
#: to leave the machine to others.
WORKERS: Final = 2 * (os.cpu_count() or 1)
#: Seconds until a process that could not be probed is tried again, the first time.
RETRY: Final = 1.0
#: What dprobed itself executes.
_OWN_EXE: Final = os.path.realpath("/proc/self/exe")
#: Jobs: whether there is time, a serial number, the process.
Queue = asyncio.PriorityQueue[tuple[bool, int, int]]
#: In the queue: what ends a worker.
_ENOUGH: Final = (False, 0, 0)

_log = logging.getLogger("dprobed")


class Deployments:
    """All deployments of this daemon, and the requests that change them; they raise Refusal."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._watcher = Watcher(self)
        self._modules = Modules(registry.resolvers, self._watcher.again)
        self._all: dict[int, Deployment] = {}
        self._queue: Queue = asyncio.PriorityQueue()
        #: Processes in the queue, or with a worker.
        self._queued: set[int] = set()
        self._serial = 0
        self._workers: list[asyncio.Task[None]] = []
        #: New processes that their parent's tracer is about to tell of, for these.
        self._followed: dict[int, list[Deployment]] = {}
        #: Processes that are just being made, and are to get these.
        self._made: dict[int, list[Deployment]] = {}
        #: Of which it is not known yet whether a process maps their module.
        self._undecided: dict[int, list[Deployment]] = {}
        #: Connections, whose processes are not to be probed for what they show.
        self.clients: set[Client] = set()

    # -- requests ------------------------------------------------------------------------------

    async def deploy(
        self, client: Client, request: messages.Deploy, seconds: float | None = None
    ) -> list[Deployment]:
        """Put programs into the selected processes, from now on; for ``seconds`` in each."""
        programs = [(upload, await self._registry.decode(upload)) for upload in request.programs]
        own = len(self.select(client, messages.Select())) + len(programs)
        self._registry.quota.check_deployments(client, own)
        try:
            selector = Selector(request.selection, self._rule)
        except SelectionError as error:
            raise Refusal(str(error)) from None
        for upload, program in programs:
            await self._make_way(client, request, upload.label, program.header.name)
        made = []
        for upload, program in programs:
            number = self._registry.next_number()
            made.append(
                Deployment(
                    number,
                    upload,
                    program,
                    selector,
                    client,
                    request,
                    self._registry.entry,
                    self._watcher.again,
                )
            )
            made[-1].seconds = seconds
            self._all[number] = made[-1]
        labels = some(upload.label for upload, _ in programs)
        numbers = f"{made[0].number}" + (f" to {made[-1].number}" if len(made) > 1 else "")
        self._registry.gate.history.note(
            client.uid, f"user {client.uid} deployed {labels} as {numbers}"
        )
        if not self._workers:
            loop = asyncio.get_running_loop()
            self._workers = [loop.create_task(self._work(self._queue)) for _ in range(WORKERS)]
        self._registry.keep_warm(True)
        self._watcher.start()
        return made

    def _rule(self, facts: Process) -> str:
        """The policy that decides about a process that can be touched at all."""
        decision = self._registry.gate.policies.decide(facts)
        return decision.rule if not decision.protected else ""

    def look_again(self) -> None:
        """The policies are others: look at every process anew."""
        if self._all:
            self._watcher.start()

    async def _make_way(
        self, client: Client, request: messages.Deploy, label: str, module: str
    ) -> None:
        """What is to be done about programs for the same module and the same processes."""
        there = [
            each
            for each in self.select(client, messages.Select())
            if each.selector.selection == request.selection and each.module == module and each.kept
        ]
        if request.present == "refuse":
            same = next((each for each in there if each.upload.label == label), None)
            if same is not None:
                raise Refusal(
                    f"{label}: a program of that name for {module} is in already (number "
                    f"{same.number}) for the same processes; --merge puts it in besides, "
                    "--replace takes those for that module out first"
                )
        elif request.present == "replace":
            for each in there:
                await self.remove(client, messages.Select(number=each.number))

    async def remove(self, client: Client, select: messages.Select) -> messages.Removed:
        """Take programs out, of every process or of one; see ``Registry.remove``."""
        chosen = [] if select.pid is not None else self.select(client, select)
        for each in chosen:
            each.over = True
            each.waiting.clear()
            del self._all[each.number]
        entries = self._registry.targets.select(client, select)
        instances = [(entry.owner, entry.target.pid) for entry in entries]
        for owner, pid in instances:
            if isinstance(owner, Deployment) and not owner.over:
                owner.excluded.add(pid)
        removed = messages.Removed(id=0, probes=[], overhead_ns=0)
        if entries or not chosen:
            removed = await self._registry.remove(client, select)
        for owner, pid in instances:
            if isinstance(owner, Deployment):
                owner.leave(pid)
        for each in chosen:
            await each.settled()
        self._rest()
        return msgspec.structs.replace(removed, deployments=listed(chosen))

    def select(self, client: Client, select: messages.Select) -> list[Deployment]:
        """The deployments of ``client``'s user that are meant; with ``pid``, those that have to do
        with that process."""
        return [
            each
            for each in self._all.values()
            if self._registry.gate.sees(client, each.uid)
            and each.matches(select)
            and (select.pid is None or select.pid in each.instances or select.pid in each.refusals)
        ]

    def discovery(self) -> messages.DiscoveryInfo:
        """How the daemon hears of processes."""
        return messages.DiscoveryInfo(source=self._watcher.source, lost=self._watcher.lost)

    def release(self, client: Client) -> None:
        """The connection has ended: what it did not ask to keep goes out of all processes."""
        self.clients.discard(client)
        for each in [each for each in self._all.values() if each.owner is client]:
            each.over = True
            each.waiting.clear()
            del self._all[each.number]
            self._registry.release(each)
        self._rest()

    def stop(self) -> None:
        """Put nothing into any further process."""
        self._all.clear()
        self._modules.stop()
        self._rest()

    def _rest(self) -> None:
        """Without any deployment nothing is looked at."""
        if not self._all:
            self._watcher.stop()
            self._registry.keep_warm(False)
            # A worker that is putting something in finds that it is over, and takes it out.
            for _ in self._workers:
                self._queue.put_nowait(_ENOUGH)
            self._workers = []
            self._queued.clear()
            self._followed.clear()
            self._made.clear()
            self._undecided.clear()
            self._queue = asyncio.PriorityQueue()

    # -- discovery.watch.Judge -----------------------------------------------------------------

    def look(self, pid: int, kind: Kind | None, parent: int) -> Verdict:
        """Which deployments are to be in this process; it is put on the way to them.

        The cheapest question comes first: many a process has half a millisecond to live.
        """
        followed = self._followed_in(pid, kind, parent)
        if kind is not None:
            self._made.pop(pid, None)
        paths = paths_of(pid)
        if not paths:
            return self._look_at_nothing(pid)
        possible = [each for each in self._all.values() if each.selector.may_select(paths)]
        chosen = self._chosen(pid, paths[0], possible) if possible else []
        if chosen is None:
            return Verdict.GONE
        for each in self._all.values():
            if each not in chosen:
                self._deselect(each, pid)
            elif each.has_too_many and pid in each.instances:
                # A child that began with the program is one too many.
                self._deselect(each, pid)
                each.refuse(pid, f"over the limit ({each.limit})")
        wanting = [each for each in chosen if each.wants(pid) and each not in followed]
        verdict = Verdict.SETTLED if len(chosen) == len(self._all) else Verdict.LATER
        if not possible:
            return Verdict.OTHER
        if followed and not wanting:
            return Verdict.SOON
        try:
            ready = self._ready(pid, wanting) if wanting else []
        except CrowdedError as error:
            for each in self._allowed(pid, wanting):
                each.refuse(pid, str(error))
            return Verdict.SETTLED  # It would take as long each time.
        except MapsError:
            return self._look_at_nothing(pid)
        if self._modules.is_asking(pid):
            self._undecided[pid] = [each for each in wanting if each not in ready]
        else:
            self._undecided.pop(pid, None)
        if between := bool(wanting) and self._is_in_between(pid, kind):
            self._made.setdefault(pid, ready)
        else:
            self._line_up(pid, self._allowed(pid, ready), fresh=kind is not None)
        # A process that is on its way out shows less and less of what it was.
        unsure = len(chosen) < len(possible) or len(ready) < len(wanting)
        if unsure and procfs.has_ended(pid):
            return Verdict.GONE
        if not between:
            self._made.pop(pid, None)
        return Verdict.SOON if between or len(ready) < len(wanting) else verdict

    def _look_at_nothing(self, pid: int) -> Verdict:
        """A process of which nothing can be read: dead, the kernel's own, or kept from us."""
        if procfs.has_ended(pid):
            return Verdict.GONE
        if procfs.is_kernel_thread(pid):
            return Verdict.SETTLED
        facts = processes.read(pid)
        if facts is None:
            return Verdict.GONE
        for each in self._all.values():
            if not each.wants(pid) or each.selector.selection.exe is not None:
                continue
            if each.selector.selects(facts):
                each.refuse(pid, self._why_not(each, facts))
            else:
                each.refusals.pop(pid, None)
        return Verdict.LATER

    def _why_not(self, deployment: Deployment, facts: Process) -> str:
        """Why nothing can be read of a process that is meant."""
        if denial := self._registry.gate.denial(deployment, facts, frozenset(deployment.needs)):
            return denial.short
        if os.geteuid() != 0:
            return "another user's: what it maps cannot be read"
        return "the kernel does not let us read what it maps"

    def _chosen(self, pid: int, exe: str, possible: list[Deployment]) -> list[Deployment] | None:
        """Those of the possible ones that mean the process; None: it is gone."""
        if exe != _OWN_EXE and not any(each.selector.needs_facts for each in possible):
            return possible
        facts = processes.read(pid)
        if facts is None:
            return None
        if self._is_ours(facts):
            return []
        return [each for each in possible if each.selector.selects(facts)]

    def _allowed(self, pid: int, ready: list[Deployment]) -> list[Deployment]:
        """Those that a policy lets into the process; that is not asked before it need be."""
        facts = processes.read(pid) if ready else None
        if facts is None:
            return ready  # It ended just now, and is counted as one that missed them.
        allowed = []
        for each in ready:
            denial = self._registry.gate.denial(each, facts, frozenset(each.needs))
            if denial is None:
                allowed.append(each)
            else:
                # Why it was taken out says the same with more words; whether this look comes before
                # or after that is chance.
                reason = each.refusals.get(pid, "")
                each.refuse(pid, reason if reason.startswith(denial.text) else denial.short)
        return allowed

    def ended(self, pid: int, looked_at: bool) -> None:
        """Count what the process has missed."""
        followed, made = self._followed.pop(pid, []), self._made.pop(pid, [])
        undecided = self._undecided.pop(pid, [])
        for each in self._all.values():
            if each not in followed and pid not in each.waiting and pid not in each.instances:
                each.unseen += not looked_at or each in undecided
                each.missed += each in made
            each.forget(pid)

    def _followed_in(self, pid: int, kind: Kind | None, parent: int) -> list[Deployment]:
        """Those that the tracer is about to tell of in this process, whatever is seen of it.

        It may let go of the child instead: then it is a process like any other.
        """
        if kind is Kind.FORK:
            self._followed.pop(pid, None)
            if followed := [each for each in self._all.values() if each.follows(parent)]:
                self._followed[pid] = followed
        elif pid in self._followed:
            found = procfs.status(pid)
            held = found is None or found.tracer in self._registry.tracers
            if not held or self._registry.is_target(pid):
                del self._followed[pid]
        return self._followed.get(pid, [])

    def _is_ours(self, facts: Process) -> bool:
        """Whether it is dprobed itself, this or another one, or shows what dprobed found."""
        tracers = self._registry.tracers
        if facts.pid == os.getpid() or facts.pid in tracers or facts.parent in tracers:
            return True
        if any(client.pid == facts.pid for client in self.clients):
            return True
        return any(PurePath(word).name in ("dprobe", "dprobed") for word in facts.cmdline[:4])

    def _is_in_between(self, pid: int, kind: Kind | None) -> bool:
        """Whether the process is just being made: it shares its parent's memory (vfork), or our
        tracer still has hold of it because it traces the parent."""
        found = procfs.status(pid)
        if found is not None and found.tracer in self._registry.tracers:
            return not self._registry.is_target(pid)
        return kind is Kind.FORK and shares_memory(pid, procfs.parent(pid))

    def _ready(self, pid: int, wanting: list[Deployment]) -> list[Deployment]:
        """Those whose module the process maps or is about to map; raises MapsError."""
        names = {each.module for each in wanting if not each.selector.takes_unmapped}
        there = self._modules.mapped(procfs.live_thread(pid), names) if names else set()
        if names - there:
            there |= self._modules.expected(pid, names - there)
        return [each for each in wanting if each.selector.takes_unmapped or each.module in there]

    def _line_up(self, pid: int, ready: list[Deployment], fresh: bool) -> None:
        added = False
        for each in ready:
            if pid in each.waiting:
                continue
            if each.is_full:
                each.refuse(pid, f"over the limit ({each.limit})")
                self._watcher.again(pid, RETRY)
                continue
            each.waiting.add(pid)
            added = True
        if added and pid not in self._queued:
            self._queued.add(pid)
            self._serial += 1
            self._queue.put_nowait((not fresh, self._serial, pid))

    def _deselect(self, deployment: Deployment, pid: int) -> None:
        """The process is not meant, or no longer: it executed another program, for one."""
        deployment.waiting.discard(pid)
        deployment.refusals.pop(pid, None)
        if pid in deployment.instances:
            self._registry.targets.later(self._take_out(deployment, pid))

    async def _take_out(self, deployment: Deployment, pid: int) -> None:
        try:
            await self._registry.take_out(deployment, pid)
        except Refusal as refusal:
            _log.warning("process %d: %s", pid, refusal)
        deployment.leave(pid)

    # -- programs into processes --------------------------------------------------------------

    async def _work(self, queue: Queue) -> None:
        """One worker: a process after the other."""
        while True:
            *_, pid = job = await queue.get()
            if job == _ENOUGH:
                return
            tried: set[int] = set()
            # What comes for it meanwhile is done here as well: one worker for one process.
            # (After a rest others are at work, and what is in their queue is theirs.)
            while queue is self._queue and (each := self._next_for(pid, tried)) is not None:
                tried.add(each.number)
                try:
                    await self._put(each, pid)
                except Exception:
                    _log.exception("process %d did not get %s", pid, each.upload.label)
                    each.refuse(pid, "the daemon failed; its log says how")
            if queue is self._queue:
                self._queued.discard(pid)
                self._queue_again(pid)

    def _queue_again(self, pid: int) -> None:
        """Where the process became another one, and back, while it was served."""
        left = [each for each in self._all.values() if pid in each.waiting]
        if left and not procfs.has_ended(pid):
            for each in left:
                each.waiting.discard(pid)
            self._watcher.again(pid)

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
        deployment.arriving[pid] = False
        try:
            entry = await self._registry.put(
                deployment,
                pid,
                deployment.upload,
                deployment.program,
                deployment.number,
                check_opcode=deployment.check_opcode,
                # Of what a policy puts in the policy says so.
                follow_forks=deployment.selector.selection.policy is None,
            )
        except Refusal as refusal:
            if deployment.arrive(pid):
                deployment.forget(pid)
                self._watcher.again(pid)
            elif pid in deployment.waiting and not procfs.has_ended(pid):
                deployment.refuse(pid, str(refusal))
                self._watcher.again(pid, RETRY)
            return  # Else it is gone, and that is counted when its end is told.
        except BaseException:
            deployment.arrive(pid)
            raise
        meant = pid in deployment.waiting
        deployment.enter(entry)
        if not meant:
            # Taken out, or no longer meant, in the meantime.
            await self._take_out(deployment, pid)
        if deployment.arrive(pid):
            self._watcher.again(pid)  # Another process may have its number already.
        if entry.target.finished.is_set():
            deployment.leave(pid)
        elif deployment.seconds is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(deployment.seconds, self._expire, deployment, pid, entry)

    def _expire(self, deployment: Deployment, pid: int, entry: Entry) -> None:
        """The time that a program may be in a process is over."""
        if deployment.instances.get(pid) is entry:
            deployment.excluded.add(pid)
            self._registry.targets.later(self._take_out(deployment, pid))


def listed(deployments: Iterable[Deployment]) -> list[messages.DeploymentInfo]:
    """Deployments as messages."""
    return [each.info() for each in deployments]
