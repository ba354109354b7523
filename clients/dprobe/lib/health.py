"""How a daemon is, put together from what it answers."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from dprobe.lib.connection import Connection
from dprobe.lib.orphans import named, orphans
from dprobed.proc import procfs
from dprobed.wire import messages
from dprobed.wire.counters import Counters

#: States of probes that are as they should be; ``throttled`` has a list of its own.
_WELL = frozenset({"active", "pending", "disabled", "removed", "throttled", "ended"})


class Throttled(msgspec.Struct, frozen=True):
    """A probe that rests for a while, because it costs too much.

    Of ``present_ns``, in which it was in, it rested for ``asleep_ns``, and counted nothing.
    """

    program: str
    number: int
    pid: int
    place: str
    reason: str
    asleep_ns: int
    present_ns: int


class Losses(msgspec.Struct, frozen=True, kw_only=True):
    """What did not get where it should: hits whose program could not run (``missed_hits``), records
    (``dropped``, ``handler_drops``, ``handler_timeouts``), processes of deployments that ended
    before their programs were in (``missed_processes``) or that nobody could judge (``unseen``),
    times at which events of processes were lost (``lost_events``), updates of maps that found no
    room (``map_updates``), records that trace sessions lost (``trace_drops``)."""

    missed_hits: int
    dropped: int
    handler_drops: int
    handler_timeouts: int
    missed_processes: int
    unseen: int
    lost_events: int
    map_updates: int
    trace_drops: int


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """A daemon and what it has, as far as the asking user may see it.

    ``socket``: where it listens; ``uptime``: seconds since its start, None where that cannot be
    told; ``programs``: how many are in processes or deployed; ``probes``: by state, ``engines``:
    probes by engine, ``backends``: targets by who holds them; ``standing``: processes of which
    threads are held at a probe; ``stopped``: those that job control has stopped, or that are
    frozen; ``problems``: what is not as it should be.
    """

    version: str
    pid: int
    uid: int
    socket: str
    uptime: float | None
    targets: int
    programs: int
    deployments: int
    probes: dict[str, int]
    engines: dict[str, int]
    backends: dict[str, int]
    tracers: int
    resolvers: int
    cpu_seconds: float
    memory: int
    handlers: int
    hits: int
    losses: Losses
    throttled: list[Throttled]
    problems: list[str]
    standing: list[int]
    stopped: list[int]


def health(daemon: Connection, socket: str) -> Health:
    """Ask a daemon how it is; raises UserError, DaemonGoneError."""
    status = daemon.request(lambda number: messages.Query(id=number), messages.Status)
    handlers = daemon.request(
        lambda number: messages.Handlers(id=number), messages.HandlerListing
    ).handlers
    usage = daemon.request(lambda number: messages.Usage(id=number), messages.UsageInfo)
    policies = daemon.request(lambda number: messages.PolicyList(id=number), messages.PolicyListing)
    traces = daemon.request(
        lambda number: messages.TraceList(id=number), messages.TraceListing
    ).traces
    kinds = Counter(each.what for each in usage.processes)
    live = [target for target in status.targets if not target.ended]
    numbers = {probe.number for probe in status.probes}
    return Health(
        version=daemon.welcome.version,
        pid=daemon.pid,
        uid=daemon.welcome.uid,
        socket=socket,
        uptime=_uptime(daemon.pid),
        targets=len(live),
        programs=len(numbers | {each.number for each in status.deployments}),
        deployments=len(status.deployments),
        probes=dict(Counter(probe.state for probe in status.probes)),
        engines=dict(Counter(probe.engine for probe in status.probes if probe.engine)),
        backends=dict(Counter(target.backend for target in live)),
        tracers=kinds["tracer"],
        resolvers=kinds["resolver"],
        cpu_seconds=sum(each.cpu_seconds for each in usage.processes),
        memory=sum(each.memory for each in usage.processes),
        handlers=sum(each.alive and each.armed for each in handlers),
        hits=_counted(status).hits,
        losses=_losses(status, handlers, traces),
        throttled=[
            Throttled(
                each.program,
                each.number,
                each.pid,
                each.place,
                each.reason,
                each.asleep_ns,
                each.present_ns,
            )
            for each in status.probes
            if each.state == "throttled"
        ],
        problems=[*_problems(status, handlers, policies, traces), *_orphans(socket)],
        standing=[target.pid for target in live if is_held(target)],
        stopped=[target.pid for target in live if stands(target) and not is_held(target)],
    )


def _orphans(socket: str) -> list[str]:
    """What nobody attends, of tracers that were killed."""
    pids = orphans(Path(socket)) if socket else []
    if not pids:
        return []
    remedy = "dprobed undoes it when it is started again, where nobody else traces them"
    return [f"processes {named(pids)} have something left of a tracer that was killed: {remedy}"]


def stands(target: messages.TargetInfo) -> bool:
    """Whether the process stands, or a thread of it."""
    return is_held(target) or bool(target.stopped_seconds) or target.frozen


def is_held(target: messages.TargetInfo) -> bool:
    """Whether a thread of the process is held, by ``exit debugger`` or ``suspend``."""
    found = target.debugger
    return bool(target.suspended or (found is not None and found.held and not found.attached))


def _uptime(pid: int) -> float | None:
    began = procfs.start_time(pid)
    if began is None:
        return None
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began / os.sysconf("SC_CLK_TCK"))


def _counted(status: messages.Status) -> Counters:
    """What all probes have counted, in processes that ended too: of a deployment that is in its own
    sums, with what it counts in those that go on."""
    deployed = {each.number for each in status.deployments}
    counted: list[messages.ProbeInfo | messages.EarlierInfo]
    counted = [*status.probes, *status.earlier]
    sums = Counters.of(*(each for each in counted if each.number not in deployed))
    for deployment in status.deployments:
        # `missed` of a deployment is about processes.
        its = Counters.of(deployment)
        sums += msgspec.structs.replace(its, missed=deployment.missed_hits)
    return sums


def _losses(
    status: messages.Status,
    handlers: Sequence[messages.HandlerInfo],
    traces: Sequence[messages.TraceInfo],
) -> Losses:
    counted = _counted(status)
    return Losses(
        missed_hits=counted.missed,
        dropped=counted.dropped,
        handler_drops=sum(each.drops for each in handlers),
        handler_timeouts=sum(each.timeouts for each in handlers),
        missed_processes=sum(each.missed for each in status.deployments),
        unseen=sum(each.unseen for each in status.deployments),
        lost_events=status.discovery.lost if status.discovery is not None else 0,
        map_updates=sum(each.lost for each in status.map_use),
        trace_drops=sum(each.dropped for each in traces),
    )


def _problems(
    status: messages.Status,
    handlers: Sequence[messages.HandlerInfo],
    policies: messages.PolicyListing,
    traces: Sequence[messages.TraceInfo],
) -> list[str]:
    found = [f"trace session {each.name}: {each.problem}" for each in traces if each.problem]
    if policies.problem:
        found.append(policies.problem)
    for each in handlers:
        if not each.alive:
            died = "died" if each.failures == 1 else f"died {each.failures} times"
            found.append(f"handler {each.handler} of {each.facility} {died}")
    for probe in status.probes:
        if probe.state not in _WELL:
            where = f"{probe.program} {probe.major}.{probe.minor} in process {probe.pid}"
            found.append(f"{where}: {probe.state}" + (f": {probe.reason}" if probe.reason else ""))
    for deployment in status.deployments:
        for reason, count in deployment.refused.items():
            where = "a process" if count == 1 else f"{count} processes"
            found.append(f"{deployment.program}: refused in {where}: {reason}")
    return found
