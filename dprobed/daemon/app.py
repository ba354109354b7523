"""The composition root of the daemon: makes every part, and gives it what it needs.

Two daemons are built of the same parts. A *private* one serves one command (``dprobe run``,
``dprobe attach``) and ends with it; it does what that command asks for, and does not even import
the rest: deployments, handlers of others, trace sessions, the log, requests about policies. A
*public* one listens, and does all of it.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from dprobed.backend import Backends
from dprobed.daemon.announcer import Announcer
from dprobed.daemon.attaching import Attaching
from dprobed.daemon.change_journals import ChangeJournalFiles
from dprobed.daemon.checking import Checking
from dprobed.daemon.client import Client
from dprobed.daemon.deploying import DeploymentsOnDemand
from dprobed.daemon.detaching import Detaching
from dprobed.daemon.doubts import Doubts
from dprobed.daemon.ends import Ends
from dprobed.daemon.enforcement import Enforcement
from dprobed.daemon.gate import Gate
from dprobed.daemon.inquiry import DeploymentList, Inquiry
from dprobed.daemon.inserting import Inserting
from dprobed.daemon.kept import Kept
from dprobed.daemon.map_reading import MapReading
from dprobed.daemon.programs import Programs
from dprobed.daemon.quota import Quota
from dprobed.daemon.records.dispatcher import AtHit, Dispatcher
from dprobed.daemon.records.routing import Routing, Watch
from dprobed.daemon.removal import Removal
from dprobed.daemon.resolver_process import Resolvers
from dprobed.daemon.server import Server
from dprobed.daemon.service import ServiceManager
from dprobed.daemon.table import RequestTable
from dprobed.daemon.targets import Targets
from dprobed.daemon.tasks import Tasks
from dprobed.daemon.tracer_child import TracerAhead, TracerMain
from dprobed.daemon.tracer_events import TracerEvents
from dprobed.daemon.tracer_pool import TracerPool
from dprobed.daemon.tracer_process import TracerProcesses
from dprobed.daemon.untaken import tell_untaken
from dprobed.policy import config as configuration
from dprobed.policy.store import PolicyStore
from dprobed.wire import messages

if TYPE_CHECKING:
    from dprobed.daemon.adopting import Adopting
    from dprobed.daemon.connection import TakeAnswer
    from dprobed.daemon.deploy.deployments import Deployments
    from dprobed.daemon.identity import IdentityChanges
    from dprobed.daemon.metrics.service import Metrics
    from dprobed.daemon.overview import Overview
    from dprobed.daemon.policy_reload import PolicyReload
    from dprobed.daemon.policy_requests import PolicyRequests
    from dprobed.daemon.records.alarm import Alarm
    from dprobed.daemon.records.external import ExternalHandlers
    from dprobed.daemon.records.log import RecordLog
    from dprobed.daemon.records.trace_sessions import TraceSessions
    from dprobed.daemon.usage import OwnUsage

#: Seconds that the daemon's start waits for what killed tracers have left to be undone.
_ORPHANS: Final = 2.0
#: Seconds that a process is held without a debugger.
HOLD_LIMIT: Final = 600.0
#: Refusals of requests that a daemon does not do.
_NOT_PRIVATE: Final = "the dprobed of a single command does not do that; start one: dprobed &"
_UNKNOWN: Final = "this dprobed does not know that request"
#: Refusals of requests that concern all users of root's daemon, and are for root.
_REGISTER: Final = (
    "only root may register handlers with root's dprobed: they get the records of all users; start "
    "a dprobed of your own"
)
_ARM: Final = "only root may arm handlers of root's dprobed"
_DISARM: Final = "only root may disarm handlers of root's dprobed"
_TRACE: Final = (
    "only root may start traces in root's dprobed: they are written as root; use `dprobe run "
    "--format json -o FILE`, or a dprobed of your own"
)
_TRACES: Final = "the traces of root's dprobed are root's"
_RELOAD: Final = "only root may reload the policies of root's dprobed"

_log = logging.getLogger("dprobed")


def _nothing() -> None:
    pass


class Core:
    """The parts that both daemons have: from clients' requests to tracers, and from records to
    clients."""

    def __init__(
        self,
        backends: Backends,
        gate: Gate,
        *,
        hold_limit: float,
        alarm: Alarm | None = None,
        kept: Kept | None = None,
        kernel: Backends | None = None,
        log: RecordLog | None = None,
    ) -> None:
        """``kernel``, ``log``: None in a private daemon, which has nothing to do with the kernel,
        and keeps no records."""
        self.backends: Final = backends
        self.kernel: Final = kernel
        self.gate: Final = gate
        self.tasks: Final = Tasks()
        self.clients: Final[set[Client]] = set()
        self.log: Final = log
        self.targets: Final = Targets(gate, kept, self._followers)
        self.quota: Final = Quota(gate, self.targets)
        self.announcer: Final = Announcer(self.targets, self.tasks)
        self.dispatcher: Final = _dispatcher(
            self.announcer, alarm, log, partial(tell_untaken, gate, self.targets, self._followers)
        )
        self.programs: Final = Programs(self.dispatcher)
        self.detaching: Final = Detaching(self.targets, self.tasks, gate.history)
        self.ends: Final = Ends(gate, self.targets, self.detaching, self.tasks, self._followers)
        self.enforcement: Final = Enforcement(
            gate, self.targets, self.detaching, self.ends, self.tasks
        )
        self.removal: Final = Removal(gate, self.targets, self.detaching)
        self._hold_limit: Final = hold_limit

    def _followers(self) -> Iterable[Client]:
        """Clients that follow the log."""
        return self.log.followers if self.log is not None else ()

    def connect(self, watch: Watch | None, resolvers: Resolvers) -> Traced:
        """Make the parts that start tracers; records also go to the log and ``watch``."""
        doubts = Doubts(resolvers)
        routing = Routing(self.gate, self.dispatcher, self.log, watch)
        events = TracerEvents(
            self.backends,
            self.gate,
            self.targets,
            self.detaching,
            self.enforcement,
            self.ends,
            self.tasks,
            routing.take,
            self._followers,
        )
        pool = TracerPool(self.backends, events.on_event, events.on_gone)
        attaching = Attaching(
            self.backends,
            self.gate,
            self.targets,
            pool,
            self.quota,
            self.detaching,
            hold_limit=self._hold_limit,
        )
        kernel = None
        if self.kernel is not None:
            from dprobed.daemon.kernel_files import KernelFiles
            from dprobed.daemon.kernel_target import KernelTarget

            device = TracerPool(self.kernel, events.on_event, events.on_gone)
            kernel = KernelTarget(self.targets, device, KernelFiles(resolvers))
        inserting = Inserting(
            self.gate,
            self.targets,
            self.quota,
            self.programs,
            self.dispatcher,
            attaching,
            self.detaching,
            doubts,
            self.ends,
            kernel,
        )
        return Traced(pool, attaching, inserting, doubts)


class Traced(msgspec.Struct, frozen=True):
    """The parts that start tracers and insert programs into their targets."""

    pool: TracerPool
    attaching: Attaching
    inserting: Inserting
    doubts: Doubts


def _dispatcher(
    announcer: Announcer,
    alarm: Alarm | None,
    log: RecordLog | None,
    untaken: Callable[[str, int], None],
) -> Dispatcher:
    """A dispatcher with the built-in facilities: ``trace``, and the tracers' actions at a hit."""
    if alarm is None or log is None:
        dispatcher = Dispatcher(announcer.announce)
    else:
        dispatcher = Dispatcher(
            announcer.announce, alarm.set, on_death=log.tell_death, on_untaken=untaken
        )
    dispatcher.declare("trace")
    dispatcher.register(AtHit("dump"))
    dispatcher.register(AtHit("debugger"))
    dispatcher.arm(["dump", "debugger"])
    return dispatcher


def _probing(
    table: RequestTable,
    core: Core,
    traced: Traced,
    resolvers: Resolvers,
    deployments: DeploymentList | None,
) -> None:
    """Register the requests that every daemon does."""
    inquiry = Inquiry(core.gate, core.targets, core.detaching, deployments, traced.doubts)
    checking = Checking(core.gate, core.quota, core.programs, traced.attaching, resolvers)
    table.add(messages.Check, checking.check)
    table.add(messages.Attach, traced.attaching.attach)
    table.add(messages.Detach, core.detaching.detach)
    table.add(messages.Insert, traced.inserting.insert)
    table.add(messages.Query, inquiry.query)
    table.add(messages.Programs, inquiry.programs)
    table.add(messages.Vars, inquiry.variables)
    maps = MapReading(core.targets)
    table.add(messages.Maps, maps.read)
    table.add(messages.SetMap, maps.write)
    table.add(messages.Dump, inquiry.dump)
    table.add(messages.Resume, inquiry.resume)


class App:
    """A daemon. ``public``: the parts that only one that listens has; ``stop_inserting``: stops
    what goes on by itself in one that does not."""

    def __init__(
        self,
        core: Core,
        traced: Traced,
        table: RequestTable,
        server: Server,
        public: Public | None = None,
        stop_inserting: Callable[[], None] = _nothing,
    ) -> None:
        self._stop_inserting: Final = stop_inserting
        self.core: Final = core
        self.traced: Final = traced
        self.table: Final = table
        self.server: Final = server
        self.public: Final = public

    async def serve_one(self, sock: socket.socket) -> None:
        """Serve a socket that is connected already."""
        await self.server.serve_one(sock)

    async def listen(self, sock: socket.socket) -> None:
        """Accept connections on a listening socket, and insert the policies' programs."""
        await self.core.backends.recover_orphans(_ORPHANS)
        if self.public is not None:
            await self.public.adopting.begin(_ORPHANS)
        self.server.listen(sock)
        if self.public is not None:
            await self.public.begin()
            self.public.service.ready(self.public.overview.line())
            watch = self.public.service.watch(self.server, self.public.overview.line)
            self.core.tasks.start(watch)

    def reload(self) -> None:
        """Reload the policies (SIGHUP)."""
        if self.public is not None:
            self.core.tasks.start(self.public.reload.reload())

    async def stop(self, patience: float) -> None:
        """Remove everything from every target; waits at most ``patience`` seconds."""
        self.core.targets.kept.close()
        self._stop_inserting()
        if self.public is not None:
            self.public.stop()
        self.server.stop()
        if self.core.kernel is not None:
            await self.core.kernel.stop(patience)
        left = await self.core.backends.stop(patience)
        if self.public is not None:
            self.public.traces.close()
        if left:
            _log.warning(
                "%d tracers are still waiting for their target to stop; they go on by themselves",
                left,
            )


class Public(msgspec.Struct, frozen=True):
    """The parts that only a daemon that listens starts and stops."""

    reload: PolicyReload
    identities: IdentityChanges
    traces: TraceSessions
    deployments: Deployments
    service: ServiceManager
    overview: Overview
    adopting: Adopting
    metrics: Metrics | None = None

    async def begin(self) -> None:
        """Insert the policies' auto-inserted programs, and start enforcing the policies."""
        if os.geteuid() == 0:  # Others do not serve several users.
            self.identities.start()
        await self.reload.begin()
        if self.metrics is not None:
            await self.metrics.begin()

    def stop(self) -> None:
        """Stop all insertion."""
        self.service.stopping()
        if self.metrics is not None:
            self.metrics.stop()
        self.deployments.stop()
        self.identities.stop()


def begin(
    main: TracerMain,
    config: Path | None,
    ahead: TracerAhead | None = None,
    journals: ChangeJournalFiles | None = None,
) -> tuple[TracerProcesses, Gate]:
    """The first parts of a daemon: tracer processes, which run ``main``, and the policies.

    ``config``: the configuration file; None: that at its usual place. ``ahead``: a tracer that was
    forked already. ``journals``: see TracerProcesses. Raises PolicyError with all that is wrong.
    """
    uid = os.geteuid()
    tracers = TracerProcesses(main, ahead, journals)
    store = PolicyStore(
        configuration.load(config, uid),
        uid,
        lambda pid: pid == os.getpid() or pid in tracers.pids,
    )
    return tracers, Gate(store)


def build_private(
    backends: Backends,
    gate: Gate,
    resolvers: Resolvers,
    *,
    on_last_gone: Callable[[], None] = _nothing,
) -> App:
    """The daemon of a single command."""
    core = Core(backends, gate, hold_limit=HOLD_LIMIT)
    table = RequestTable(gate.commands, _NOT_PRIVATE)
    traced = core.connect(None, resolvers)
    deployments = DeploymentsOnDemand(
        lambda: _deployments(core, traced, resolvers, backends), core.removal
    )
    _probing(table, core, traced, resolvers, deployments)
    table.add(messages.Deploy, deployments.deploy)
    table.add(messages.Remove, deployments.remove)
    server = _server(core, table, None, (deployments.release,), on_last_gone)
    return App(core, traced, table, server, stop_inserting=deployments.stop)


def _deployments(
    core: Core, traced: Traced, resolvers: Resolvers, backends: Backends
) -> Deployments:
    # Here, because a private daemon mostly needs none.
    from dprobed.daemon.deploy.deployments import Deployments

    return Deployments(
        core.gate,
        core.targets,
        core.quota,
        core.programs,
        traced.pool,
        traced.inserting,
        core.detaching,
        core.removal,
        core.ends,
        core.tasks,
        resolvers,
        tracers=backends.pids,
        clients=core.clients,
    )


def build_public(
    backends: Backends,
    gate: Gate,
    resolvers: Resolvers,
    *,
    service: ServiceManager | None = None,
    kept: Kept | None = None,
    hold_limit: float = HOLD_LIMIT,
    kernel: Backends | None = None,
    metrics: socket.socket | None = None,
) -> App:
    """The daemon that listens; ``service``: what systemd gave it and is told (None: nothing).

    ``kept``: what it goes on with after a restart, and the next one after it. ``kernel``: None:
    that of this machine. ``metrics``: the listening socket where they are served, if they are.
    """
    # Here, because a private daemon needs none of it, and is to be ready at once. The last for the
    # day on which a tracer dies: then its targets cannot wait.
    import dprobed.daemon.recovery  # noqa: F401
    from dprobed.daemon.adopting import Adopting
    from dprobed.daemon.deploy.auto_insert import AutoInsert
    from dprobed.daemon.identity import IdentityChanges
    from dprobed.daemon.overview import Overview
    from dprobed.daemon.policy_reload import PolicyReload
    from dprobed.daemon.policy_requests import PolicyRequests
    from dprobed.daemon.records.alarm import Alarm
    from dprobed.daemon.records.external import ExternalHandlers
    from dprobed.daemon.records.log import RecordLog
    from dprobed.daemon.records.recent import exit_names
    from dprobed.daemon.records.trace_sessions import TraceSessions
    from dprobed.daemon.usage import OwnUsage
    from dprobed.kernel.backend import KernelBackends
    from dprobed.wire.messages.codec import request_decoder

    request_decoder()  # or the first request would wait for it
    if kernel is None:
        kernel = KernelBackends(load=gate.store.config.load_kernel_module)
    log = RecordLog(gate)
    core = Core(
        backends, gate, hold_limit=hold_limit, alarm=Alarm(), kernel=kernel, kept=kept, log=log
    )
    traces = TraceSessions(core.dispatcher, lambda: exit_names(core.dispatcher))
    handlers = ExternalHandlers(core.dispatcher, core.announcer.heard)
    traced = core.connect(traces.see, resolvers)
    deployments = _deployments(core, traced, resolvers, backends)
    enforcement, store = core.enforcement, gate.store
    service = ServiceManager({}) if service is None else service
    overview = Overview(core.targets, deployments, core.clients)
    auto_insert = AutoInsert(deployments, store)
    reload = PolicyReload(store, enforcement, auto_insert, deployments, service)
    core.announcer.listen(reload.facilities_changed)
    identities = IdentityChanges(enforcement.process_changed, enforcement.any_may_have_changed)
    policies = PolicyRequests(gate, store, reload.reload)
    usage = OwnUsage(resolvers.processes)

    table = RequestTable(gate.commands, _UNKNOWN, gate.audit.refuse)
    _probing(table, core, traced, resolvers, deployments)
    table.add(messages.InsertKernel, traced.inserting.insert_kernel)
    _managing(table, deployments, log, handlers, traces, policies, usage)
    releases = (deployments.release, log.release, handlers.release)
    server = _server(core, table, handlers.answer, releases, _nothing)
    adopting = Adopting(
        core.targets,
        core.programs,
        traced.inserting,
        core.removal,
        deployments,
        core.tasks,
    )
    public = Public(
        reload,
        identities,
        traces,
        deployments,
        service,
        overview,
        adopting,
        None if metrics is None else _metrics(metrics, core, deployments),
    )
    return App(core, traced, table, server, public)


def _metrics(sock: socket.socket, core: Core, deployments: Deployments) -> Metrics:
    """What serves metrics at a socket, and counts what they are about."""
    from dprobed.daemon.metrics.service import Metrics
    from dprobed.daemon.metrics.snapshot import Counts

    counts = Counts(
        core.targets, core.dispatcher, deployments, core.clients, core.gate.audit.refusals
    )
    core.targets.counts = counts
    return Metrics(sock, counts, core.targets, core.detaching, core.tasks)


def _managing(
    table: RequestTable,
    deployments: Deployments,
    log: RecordLog,
    handlers: ExternalHandlers,
    traces: TraceSessions,
    policies: PolicyRequests,
    usage: OwnUsage,
) -> None:
    """Register the requests that only a daemon that listens does."""
    table.add(messages.Deploy, deployments.deploy)
    table.add(messages.Remove, deployments.remove)
    table.add(messages.Log, log.log)
    table.add(messages.Register, handlers.register, for_root=_REGISTER)
    table.add(messages.Deregister, handlers.deregister)
    table.add(messages.Handlers, handlers.list_all)
    table.add(messages.Arm, handlers.arm, for_root=_ARM)
    table.add(messages.Disarm, handlers.disarm, for_root=_DISARM)
    table.add(messages.TraceStart, traces.start_requested, for_root=_TRACE)
    table.add(messages.TraceStop, traces.stop_requested, for_root=_TRACES)
    table.add(messages.TraceSave, traces.save_requested, for_root=_TRACES)
    table.add(messages.TraceList, traces.list_requested, for_root=_TRACES)
    table.add(messages.PolicyExplain, policies.explain)
    table.add(messages.PolicyList, policies.list_all)
    table.add(messages.PolicyReload, policies.reload, for_root=_RELOAD)
    table.add(messages.Usage, usage.usage)


def _server(
    core: Core,
    table: RequestTable,
    take_answer: TakeAnswer | None,
    releases: tuple[Callable[[Client], None], ...],
    on_last_gone: Callable[[], None],
) -> Server:
    return Server(
        core.gate,
        table,
        core.tasks,
        clients=core.clients,
        facilities=lambda: core.dispatcher.facilities,
        take_answer=take_answer,
        on_release=(*releases, core.detaching.release),
        on_last_gone=on_last_gone,
    )
