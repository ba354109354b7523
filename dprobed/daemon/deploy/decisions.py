"""Decides at each look at a process which deployments are to be in it.

A deployment is to be in a process that its selection includes and that maps its module, or will map
it in a moment. A process that ends before its programs are inserted is counted as missed, or as
unseen if it ended before that decision.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Container, Mapping
from pathlib import PurePath
from typing import Final

from dprobed.daemon.client import Client
from dprobed.daemon.deploy.deployment import Deployment
from dprobed.daemon.deploy.modules import Modules
from dprobed.daemon.deploy.queue import Queue
from dprobed.daemon.deploy.selection import paths_of
from dprobed.daemon.deploy.watcher import LookResult
from dprobed.daemon.gate import Gate
from dprobed.daemon.resolver_process import Resolvers
from dprobed.proc import processes, procfs
from dprobed.proc.events import EventKind
from dprobed.proc.maps import CrowdedError, MapsError
from dprobed.proc.processes import Process
from dprobed.proc.shared_memory import shares_memory

#: What dprobed itself executes.
_OWN_EXE: Final = os.path.realpath("/proc/self/exe")


class Decisions:
    """``dprobed.daemon.deploy.watcher.Judge`` for all deployments.

    ``tracers``: pids of tracers; ``targets``: pids of targets; ``clients``: the connections, whose
    processes are not probed.
    """

    def __init__(
        self,
        deployments: Mapping[int, Deployment],
        gate: Gate,
        queue: Queue,
        resolvers: Resolvers,
        look_again: Callable[[int], None],
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
        self._modules: Final = Modules(resolvers, look_again)
        #: Fork children that their parent's tracer is about to report, with the deployments they
        #: inherit.
        self._followed: dict[int, list[Deployment]] = {}
        #: Processes that are being created, with the deployments that they are to get.
        self._made: dict[int, list[Deployment]] = {}
        #: Deployments of which it is not known yet whether a process maps their module.
        self._undecided: dict[int, list[Deployment]] = {}

    def forget(self) -> None:
        """Forget all processes: there is no deployment any longer."""
        self._followed.clear()
        self._made.clear()
        self._undecided.clear()

    def stop(self) -> None:
        """Stop asking resolvers."""
        self._modules.stop()

    def look(self, pid: int, kind: EventKind | None, parent: int) -> LookResult:
        """Decide which deployments are to be in a process, and enqueue it for them.

        The cheapest test comes first: many processes live for half a millisecond.
        """
        followed = self._followed_in(pid, kind, parent)
        if kind is not None:
            self._made.pop(pid, None)
        paths = paths_of(pid)
        if not paths:
            return self._look_at_nothing(pid)
        selected = [each for each in self._all.values() if each.selector.may_select(paths)]
        possible = self._meant(pid, selected)
        chosen = self._chosen(pid, paths[0], possible) if possible else []
        if chosen is None:
            return LookResult.GONE
        for each in self._all.values():
            if each not in chosen:
                self._queue.deselect(each, pid)
            elif each.is_over_limit and pid in each.instances:
                # A fork child inherited the program beyond the limit.
                self._queue.deselect(each, pid)
                each.refuse(pid, f"over the limit ({each.limit})")
        wanting = [each for each in chosen if each.wants(pid) and each not in followed]
        verdict = LookResult.SETTLED if len(chosen) == len(self._all) else LookResult.LATER
        if not possible:
            return LookResult.SETTLED if selected else LookResult.OTHER
        if followed and not wanting:
            return LookResult.SOON
        try:
            ready = self._ready(pid, wanting) if wanting else []
        except CrowdedError as error:
            for each in self._allowed(pid, wanting):
                each.refuse(pid, str(error))
            return LookResult.SETTLED  # It would take as long each time.
        except MapsError:
            return self._look_at_nothing(pid)
        if self._modules.is_asking(pid):
            self._undecided[pid] = [each for each in wanting if each not in ready]
        else:
            self._undecided.pop(pid, None)
        if between := bool(wanting) and self._is_in_between(pid, kind):
            self._made.setdefault(pid, ready)
        else:
            self._queue.enqueue(pid, self._allowed(pid, ready), fresh=kind is not None)
        # Less and less can be read of a process that is exiting.
        unsure = len(chosen) < len(possible) or len(ready) < len(wanting)
        if unsure and procfs.has_ended(pid):
            return LookResult.GONE
        if not between:
            self._made.pop(pid, None)
        return LookResult.SOON if between or len(ready) < len(wanting) else verdict

    def _look_at_nothing(self, pid: int) -> LookResult:
        """A process of which nothing can be read: dead, a kernel thread, or not permitted."""
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
            if each.selector.selects(facts) and self._is_meant(each, facts):
                each.refuse(pid, self._why_not(each, facts))
            else:
                each.refusals.pop(pid, None)
        return LookResult.LATER

    def _meant(self, pid: int, selected: list[Deployment]) -> list[Deployment]:
        """Those of the deployments that a process is meant by, if it is selected."""
        if all(self._gate.commands(each) for each in selected):
            return selected
        facts = processes.read(pid)
        if facts is None:
            return selected  # It ended just now.
        return [each for each in selected if self._is_meant(each, facts)]

    def _is_meant(self, deployment: Deployment, facts: Process) -> bool:
        """Whether a process is any business of the deployment's user.

        What others execute and map is not: each process that is counted or refused would tell it.
        """
        if self._gate.commands(deployment) or deployment.uid in facts.uids:
            return True
        # It is in, or was: the process has become another user's.
        if facts.pid in deployment.instances or facts.pid in deployment.refusals:
            return True
        return self._gate.denial(deployment, facts, frozenset()) is None

    def _why_not(self, deployment: Deployment, facts: Process) -> str:
        """Why nothing can be read of a selected process."""
        if denial := self._gate.denial(deployment, facts, frozenset(deployment.needs)):
            return denial.short
        if os.geteuid() != 0:
            return "another user's: what it maps cannot be read"
        return "the kernel does not let us read what it maps"

    def _chosen(self, pid: int, exe: str, possible: list[Deployment]) -> list[Deployment] | None:
        """The possible deployments whose selection includes the process; None: it is gone."""
        if exe != _OWN_EXE and not any(each.selector.needs_facts for each in possible):
            return possible
        facts = processes.read(pid)
        if facts is None:
            return None
        if self._is_ours(facts):
            return []
        return [each for each in possible if each.selector.selects(facts)]

    def _allowed(self, pid: int, ready: list[Deployment]) -> list[Deployment]:
        """The deployments that a policy allows in the process; asked as late as possible."""
        facts = processes.read(pid) if ready else None
        if facts is None:
            return ready  # It ended just now, and is counted as missed.
        allowed = []
        for each in ready:
            denial = self._gate.denial(each, facts, frozenset(each.needs))
            if denial is None:
                allowed.append(each)
            else:
                # The reason of a removal says the same in more words; which comes first is chance.
                reason = each.refusals.get(pid, "")
                each.refuse(pid, reason if reason.startswith(denial.text) else denial.short)
        return allowed

    def ended(self, pid: int, looked_at: bool) -> None:
        """Count the deployments that missed an ended process."""
        followed, made = self._followed.pop(pid, []), self._made.pop(pid, [])
        undecided = self._undecided.pop(pid, [])
        for each in self._all.values():
            if each not in followed and pid not in each.waiting and pid not in each.instances:
                each.unseen += not looked_at or each in undecided
                each.missed += each in made
            each.forget(pid)

    def _followed_in(self, pid: int, kind: EventKind | None, parent: int) -> list[Deployment]:
        """The deployments that a fork child inherits, which its tracer is about to report.

        If the tracer detaches from the child instead, it is a process like any other.
        """
        if kind is EventKind.FORK:
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
        """Whether it belongs to dprobed: a daemon, a tracer or a client."""
        tracers = self._tracers
        if facts.pid == os.getpid() or facts.pid in tracers or facts.parent in tracers:
            return True
        if any(client.pid == facts.pid for client in self._clients):
            return True
        return any(PurePath(word).name in ("dprobe", "dprobed") for word in facts.cmdline[:4])

    def _is_in_between(self, pid: int, kind: EventKind | None) -> bool:
        """Whether the process is being created: it shares its parent's memory (vfork), or the
        parent's tracer is still attached to it."""
        found = procfs.status(pid)
        if found is not None and found.tracer in self._tracers:
            return pid not in self._targets
        return kind is EventKind.FORK and shares_memory(pid, procfs.parent(pid))

    def _ready(self, pid: int, wanting: list[Deployment]) -> list[Deployment]:
        """The deployments whose module the process maps or is about to map; raises MapsError."""
        names = {each.module for each in wanting if not each.selector.takes_unmapped}
        there = self._modules.mapped(procfs.live_thread(pid), names) if names else set()
        if names - there:
            there |= self._modules.expected(pid, names - there)
        return [each for each in wanting if each.selector.takes_unmapped or each.module in there]
