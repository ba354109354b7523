"""Which deployments are to be in a process: decided at each look at it.

Those whose selection means the process and whose module it maps, or surely will in a moment. What
ends before its programs are in is counted as missed, or as unseen where nobody had the time to find
out whether it was meant.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Container, Mapping
from pathlib import PurePath
from typing import Final

from dprobed.binary.errors import CrowdedError, LocationError
from dprobed.daemon.client import Client
from dprobed.daemon.deploy.deployment import Deployment
from dprobed.daemon.deploy.modules import Modules
from dprobed.daemon.deploy.queue import Queue
from dprobed.daemon.deploy.selection import paths_of
from dprobed.daemon.deploy.watcher import LookResult
from dprobed.daemon.gate import Gate
from dprobed.proc import processes, procfs
from dprobed.proc.events import Kind
from dprobed.proc.processes import Process

#: What dprobed itself executes.
_OWN_EXE: Final = os.path.realpath("/proc/self/exe")


class Decisions:
    """``dprobed.daemon.deploy.watcher.Judge`` for all deployments.

    ``tracers``: the processes of tracers; ``targets``: those that are traced; ``clients``: the
    connections, whose processes are not to be probed for what they show.
    """

    def __init__(
        self,
        deployments: Mapping[int, Deployment],
        gate: Gate,
        queue: Queue,
        *,
        tracers: Container[int],
        targets: Container[int],
        clients: Collection[Client],
    ) -> None:
        self._all: Final = deployments
        self._gate: Final = gate
        self._queue: Final = queue
        self._tracers: Final = tracers
        self._targets: Final = targets
        self._clients: Final = clients
        self._modules: Final = Modules()
        #: New processes that their parent's tracer is about to tell of, for these.
        self._followed: dict[int, list[Deployment]] = {}
        #: Processes that are just being made, and are to get these.
        self._made: dict[int, list[Deployment]] = {}

    def forget(self) -> None:
        """There is no deployment any longer."""
        self._followed.clear()
        self._made.clear()

    def look(self, pid: int, kind: Kind | None, parent: int) -> LookResult:
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
            return LookResult.GONE
        for each in self._all.values():
            if each not in chosen:
                self._queue.deselect(each, pid)
            elif each.has_too_many and pid in each.instances:
                # A child that began with the program is one too many.
                self._queue.deselect(each, pid)
                each.refuse(pid, f"over the limit ({each.limit})")
        wanting = [each for each in chosen if each.wants(pid) and each not in followed]
        verdict = LookResult.SETTLED if len(chosen) == len(self._all) else LookResult.LATER
        if not possible:
            return LookResult.OTHER
        if followed and not wanting:
            return LookResult.SOON
        try:
            ready = self._ready(pid, wanting) if wanting else []
        except CrowdedError as error:
            for each in self._allowed(pid, wanting):
                each.refuse(pid, error.message)
            return LookResult.SETTLED  # It would take as long each time.
        except LocationError:
            return self._look_at_nothing(pid)
        if between := bool(wanting) and self._is_in_between(pid, kind):
            self._made.setdefault(pid, ready)
        else:
            self._queue.line_up(pid, self._allowed(pid, ready), fresh=kind is not None)
        # A process that is on its way out shows less and less of what it was.
        unsure = len(chosen) < len(possible) or len(ready) < len(wanting)
        if unsure and procfs.has_ended(pid):
            return LookResult.GONE
        if not between:
            self._made.pop(pid, None)
        return LookResult.SOON if between or len(ready) < len(wanting) else verdict

    def _look_at_nothing(self, pid: int) -> LookResult:
        """A process of which nothing can be read: dead, the kernel's own, or kept from us."""
        if procfs.has_ended(pid):
            return LookResult.GONE
        if procfs.is_kernel_thread(pid):
            return LookResult.SETTLED
        facts = processes.read(pid)
        if facts is None:
            return LookResult.GONE
        for each in self._all.values():
            if not each.wants(pid) or each.selector.selection.exe is not None:
                continue
            if each.selector.selects(facts):
                each.refuse(pid, self._why_not(each, facts))
            else:
                each.refusals.pop(pid, None)
        return LookResult.LATER

    def _why_not(self, deployment: Deployment, facts: Process) -> str:
        """Why nothing can be read of a process that is meant."""
        if denial := self._gate.denial(deployment, facts, frozenset(deployment.needs)):
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
            denial = self._gate.denial(each, facts, frozenset(each.needs))
            if denial is None:
                allowed.append(each)
            else:
                each.refuse(pid, denial.short)
        return allowed

    def ended(self, pid: int, looked_at: bool) -> None:
        """Count what the process has missed."""
        followed, made = self._followed.pop(pid, []), self._made.pop(pid, [])
        for each in self._all.values():
            if each not in followed and pid not in each.waiting and pid not in each.instances:
                each.unseen += not looked_at
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
            held = found is None or found.tracer in self._tracers
            if not held or pid in self._targets:
                del self._followed[pid]
        return self._followed.get(pid, [])

    def _is_ours(self, facts: Process) -> bool:
        """Whether it is dprobed itself, this or another one, or shows what dprobed found."""
        tracers = self._tracers
        if facts.pid == os.getpid() or facts.pid in tracers or facts.parent in tracers:
            return True
        if any(client.pid == facts.pid for client in self._clients):
            return True
        return any(PurePath(word).name in ("dprobe", "dprobed") for word in facts.cmdline[:4])

    def _is_in_between(self, pid: int, kind: Kind | None) -> bool:
        """Whether the process is just being made: it shares its parent's memory (vfork), or our
        tracer still has hold of it because it traces the parent."""
        found = procfs.status(pid)
        if found is not None and found.tracer in self._tracers:
            return pid not in self._targets
        return kind is Kind.FORK and procfs.shares_memory(pid, procfs.parent(pid))

    def _ready(self, pid: int, wanting: list[Deployment]) -> list[Deployment]:
        """Those whose module the process maps or is about to map; raises LocationError."""
        names = {each.module for each in wanting if not each.selector.takes_unmapped}
        there = self._modules.mapped(procfs.live_thread(pid), names) if names else set()
        if names - there:
            there |= self._modules.expected(pid, names - there)
        return [each for each in wanting if each.selector.takes_unmapped or each.module in there]
