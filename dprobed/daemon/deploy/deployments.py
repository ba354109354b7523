"""The deployments of the daemon (global probepoints), and the requests that change them.

The watcher says when to look at a process; a look (decisions.py) decides which deployments are to
be in it. The process is then queued (queue.py) for one of a few workers, which insert the programs
as for any client.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Container, Iterator, Sequence
from typing import Final

import msgspec

from dprobed.daemon.client import Client, Forbidden, NoAnswer, Refusal
from dprobed.daemon.deploy.decisions import Decisions
from dprobed.daemon.deploy.deployment import Deployment
from dprobed.daemon.deploy.ending import DeploymentEnds, note_deployed
from dprobed.daemon.deploy.keeping import Keeping
from dprobed.daemon.deploy.queue import Queue
from dprobed.daemon.deploy.selection import SelectionError, Selector
from dprobed.daemon.deploy.watcher import Watcher
from dprobed.daemon.detaching import Detaching
from dprobed.daemon.ends import Ends
from dprobed.daemon.gate import Gate
from dprobed.daemon.inserting import Inserting
from dprobed.daemon.insertion import Insertion
from dprobed.daemon.kept import KeptDeployment, insertion_of
from dprobed.daemon.programs import Programs
from dprobed.daemon.quota import Quota
from dprobed.daemon.removal import Removal
from dprobed.daemon.resolver_process import Resolvers
from dprobed.daemon.targets import Targets
from dprobed.daemon.tasks import Tasks
from dprobed.daemon.terms import Terms
from dprobed.daemon.tracer_pool import TracerPool
from dprobed.proc.processes import Process
from dprobed.wire import messages

_log = logging.getLogger("dprobed")


class Deployments:
    """All deployments of this daemon, and the requests that change them; they raise Refusal.

    ``tracers``: pids of tracers; ``clients``: the connections.
    """

    def __init__(
        self,
        gate: Gate,
        targets: Targets,
        quota: Quota,
        programs: Programs,
        pool: TracerPool,
        inserting: Inserting,
        detaching: Detaching,
        removal: Removal,
        ends: Ends,
        tasks: Tasks,
        resolvers: Resolvers,
        *,
        tracers: Container[int],
        clients: Collection[Client],
    ) -> None:
        self._gate: Final = gate
        self._targets: Final = targets
        self._quota: Final = quota
        self._programs: Final = programs
        self._pool: Final = pool
        self._detaching: Final = detaching
        self._removal: Final = removal
        self._terms: Final = Terms(gate)
        self._all: dict[int, Deployment] = {}
        self._ends: Final = DeploymentEnds(self._all, ends, tasks, self._take_out)
        self.keeping: Final = Keeping(targets.kept, self._all)
        self._queue: Final = Queue(self._all, inserting, detaching, tasks, self._look_again_at)
        self._decisions: Final = Decisions(
            self._all,
            gate,
            self._queue,
            resolvers,
            self._look_again_at,
            tracers=tracers,
            targets=targets,
            clients=clients,
        )
        self._watcher: Final = Watcher(self._decisions)

    # -- requests ------------------------------------------------------------------------------

    async def deploy(self, client: Client, request: messages.Deploy) -> messages.Deployed:
        """Deploy programs to the selected processes, future ones included."""
        made = await self.begin(client, request)
        return messages.Deployed(id=request.id, deployments=[each.info() for each in made])

    async def begin(
        self,
        client: Client,
        request: messages.Deploy,
        *,
        policy: str = "",
        seconds: float | None = None,
    ) -> list[Deployment]:
        """Begin those of a request; of a ``policy`` they stay in each process for ``seconds``."""
        programs = await self._programs.decode_all(request.programs)
        own = len(self.select(client, messages.Select())) + len(programs)
        self._quota.check_deployments(client, own)
        try:
            selector = Selector(request.selection, self._rule)
        except SelectionError as error:
            raise Refusal(str(error)) from None
        for upload, program in programs:
            await self._make_way(client, request, upload.label, program.header.name)
        made = []
        for asked, decoded in programs:
            upload, program, term = self._terms.of(client, asked, decoded, keep=request.keep)
            former = self.keeping.expected(client, request.selection, upload)
            number = former.inserted.number if former is not None else self._programs.next_number()
            insertion = Insertion(
                number,
                upload,
                program,
                check_opcode=request.check_opcode,
                # For auto-inserted programs the policy says so.
                follow_forks=request.selection.policy is None,
                deployed=True,
                term=term,
                policy=policy,
                seconds=seconds,
            )
            deployment = self._add(
                insertion,
                selector,
                client,
                keep=request.keep,
                limit=request.limit,
                former=former,
            )
            made.append(deployment)
        note_deployed(self._gate.history, client, request, made)
        self._start()
        return made

    def _add(
        self,
        insertion: Insertion,
        selector: Selector,
        client: Client,
        *,
        keep: bool,
        limit: int | None,
        former: KeptDeployment | None,
    ) -> Deployment:
        deployment = Deployment(
            insertion,
            selector,
            client,
            keep=keep,
            limit=limit,
            program_in=self._targets.program,
            on_left=self._look_again_at,
            ended_maps=self._targets.ended_maps,
        )
        if former is not None:
            deployment.go_on(former)
        self._all[deployment.number] = deployment
        self.keeping.keep(deployment)
        self._ends.due(deployment)
        return deployment

    def _start(self) -> None:
        self._queue.start()
        self._pool.keep_warm(True)
        self._watcher.start()
        self.keeping.start()

    # -- a restart of the daemon -----------------------------------------------------------------

    def take_over(self, former: KeptDeployment, client: Client) -> None:
        """Go on with a deployment of the daemon before this one, for its ``client``; with one of a
        policy where that makes it again."""
        inserted = former.inserted
        insertion = insertion_of(former)
        if former.by_policy:
            self.keeping.of_policies.append(former)
            return
        name = f"program {inserted.number} ({inserted.upload.label}) of user {inserted.uid}"
        try:
            if insertion is None:
                raise SelectionError("this version does not take it")
            selector = Selector(former.selection, self._rule)
        except SelectionError as error:
            _log.warning("%s is not deployed again after a restart: %s", name, error)
            self._targets.kept.drop_deployment(inserted.number)
            return
        self._add(
            insertion,
            selector,
            client,
            keep=True,
            limit=former.limit,
            former=former,
        )
        _log.info("%s is deployed again after a restart", name)
        self._start()

    def _drop(self, deployment: Deployment) -> None:
        """One is removed."""
        deployment.is_removed = True
        deployment.waiting.clear()
        del self._all[deployment.number]
        self.keeping.drop(deployment.number)

    def _look_again_at(self, pid: int, seconds: float = 0.0) -> None:
        self._watcher.again(pid, seconds)

    def _rule(self, facts: Process) -> str:
        """The policy that decides about a process; empty: the process is protected."""
        decision = self._gate.policies.decide(facts)
        return decision.rule if not decision.protected else ""

    def look_again(self) -> None:
        """Look at every process again, after the policies changed."""
        if self._all:
            self._watcher.start()

    async def _make_way(
        self, client: Client, request: messages.Deploy, label: str, module: str
    ) -> None:
        """Refuse or replace deployments for the same module and selection (``request.present``)."""
        there = [
            each
            for each in self.select(client, messages.Select())
            if each.selector.selection == request.selection and each.module == module and each.kept
        ]
        if request.present == "refuse":
            same = next((each for each in there if each.upload.label == label), None)
            if same is not None:
                raise _is_there(same)
        elif request.present == "replace":
            for each in there:
                await self.take_out(client, messages.Select(number=each.number))

    async def remove(
        self, client: Client, request: messages.Remove, *, asked: bool = True
    ) -> messages.Removed:
        """Remove programs and deployments, from every process or from one (``asked``: see
        Removal)."""
        select = request.select
        chosen = [] if select.pid is not None else self.select(client, select)
        there = dict(self._all)
        for each in chosen:
            self._drop(each)
        programs = self._targets.select(client, select)
        instances = [
            (deployment, inserted)
            for inserted in programs
            if inserted.insertion.deployed
            and (deployment := there.get(inserted.number)) is not None
        ]
        for deployment, inserted in instances:
            if not deployment.is_removed:
                deployment.excluded.add(inserted.target.pid)
        removed, partly = messages.Removed(id=request.id, probes=[], overhead_ns=0), bool(chosen)
        if programs or not chosen:
            others = any(each.matches(select) for each in self._all.values())
            with _forbidden(select.pid) if others else contextlib.nullcontext():
                removed = await self._removal.remove(client, request, asked=asked, partly=partly)
        for deployment, inserted in instances:
            if not inserted.is_in:
                deployment.leave(inserted.target.pid)
        for each in chosen:
            await each.settled()
        self._stop_if_idle()
        variables = _summed_variables(chosen, removed.variables)
        maps = self._targets.ended_maps.taken_out({each.number for each in chosen}, removed.maps)
        infos = [each.info() for each in chosen]
        return msgspec.structs.replace(removed, deployments=infos, variables=variables, maps=maps)

    async def _take_out(self, deployment: Deployment) -> int:
        """Take one out whose time is over; in how many processes it is still."""
        request = messages.Remove(id=0, select=messages.Select(number=deployment.number))
        return len((await self.remove(deployment, request, asked=False)).stays)

    async def take_out(self, client: Client, select: messages.Select) -> None:
        """As ``remove``, for the daemon itself."""
        await self.remove(client, messages.Remove(id=0, select=select))

    def select(self, client: Client, select: messages.Select) -> list[Deployment]:
        """The selected ones that the client may see; with ``pid``, in or refused there."""
        return [
            each
            for each in self._all.values()
            if self._gate.sees(client, each.uid)
            and each.matches(select)
            and (select.pid is None or select.pid in each.instances or select.pid in each.refusals)
        ]

    def infos(self, client: Client, select: messages.Select) -> list[messages.DeploymentInfo]:
        """The selected ones, as ``dprobe query`` lists them."""
        return [each.info() for each in self.select(client, select)]

    def variables(self, client: Client, select: messages.Select) -> list[messages.VariablesInfo]:
        """Those of the selected ones that have some."""
        found = [each.variables() for each in self.select(client, select)]
        return [each for each in found if each is not None]

    def __len__(self) -> int:
        """How many there are, of all users."""
        return len(self._all)

    def discovery(self) -> messages.DiscoveryInfo:
        """How the daemon learns of new processes."""
        return messages.DiscoveryInfo(source=self._watcher.source, lost=self._watcher.lost)

    def release(self, client: Client) -> None:
        """A client is gone: remove its deployments that it did not ask to keep."""
        for each in [each for each in self._all.values() if each.owner is client]:
            self._drop(each)
            each.abandon()
            self._detaching.release(each)
        self._stop_if_idle()

    def stop(self) -> None:
        """Stop all insertion."""
        self._all.clear()
        self._decisions.stop()
        self._stop_if_idle()

    def _stop_if_idle(self) -> None:
        """Stop watching processes if there is no deployment left."""
        if not self._all:
            self._watcher.stop()
            self.keeping.stop()
            self._pool.keep_warm(False)
            self._queue.stop()
            self._decisions.forget()


@contextlib.contextmanager
def _forbidden(pid: int | None) -> Iterator[None]:
    """What is refused in here is so because it is another user's."""
    try:
        yield
    except NoAnswer:
        raise
    except Refusal as refusal:
        raise Forbidden(str(refusal), "another user's program", pid) from None


def _is_there(deployment: Deployment) -> Refusal:
    """The refusal of a program of the same name."""
    return Refusal(
        f"{deployment.upload.label}: a program of that name for {deployment.module} is inserted "
        f"already (number {deployment.number}) for the same processes; --merge inserts it as well, "
        "--replace removes those for that module first"
    )


def _summed_variables(
    removed: Sequence[Deployment], last: Sequence[messages.VariablesInfo]
) -> list[messages.VariablesInfo]:
    """The variables of these summed over all their processes, not only those that they were in at
    the end; and the ``last`` ones of others."""
    variables = [info for each in removed if (info := each.variables()) is not None]
    numbers = {info.number for info in variables}
    return variables + [info for info in last if info.number not in numbers]
