"""The metrics themselves: a snapshot as families of prometheus_client, and those as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector, CollectorRegistry

from dprobed import __version__
from dprobed.daemon.metrics.snapshot import Snapshot

_BY_PROGRAM: Final = ("program", "process")
#: Counter of a probe → metric, what it is, by how much it is to be divided.
_COUNTERS: Final = {
    "hits": ("dprobed_hits", "Hits of probes.", 1),
    "ran": ("dprobed_runs", "Hits whose program ran.", 1),
    "missed": ("dprobed_missed", "Hits whose program could not run.", 1),
    "dropped": ("dprobed_dropped", "Records that were lost because a reader was slow.", 1),
    "faulted": ("dprobed_faulted", "Records withdrawn: the probed instruction faulted.", 1),
    "unwound": ("dprobed_unwound", "Probed calls that were left without returning.", 1),
    "dumped": ("dprobed_cores", "Cores that were written for probes.", 1),
    "present_ns": ("dprobed_present_seconds", "Time for which probes were in.", 10**9),
    "asleep_ns": ("dprobed_throttled_seconds", "Time for which probes were throttled.", 10**9),
    "spent_ns": ("dprobed_spent_seconds", "Time for which threads stood for probes.", 10**9),
    "uncounted_ns": (
        "dprobed_uncounted_seconds",
        "Time for which probes counted nothing, because dprobed was gone and came again.",
        10**9,
    ),
}
#: Attribute of HandlerCounts → metric, what it is.
_HANDLERS: Final = {
    "reports": ("dprobed_handler_reports", "Reports that a handler took."),
    "drops": ("dprobed_handler_drops", "Reports that a handler had no room for."),
    "timeouts": ("dprobed_handler_timeouts", "Reports that a handler did not answer in time."),
    "failures": ("dprobed_handler_failures", "Times that a handler of this name died."),
}
_HANDLER_GAUGES: Final = {
    "waiting": ("dprobed_handler_queue", "Reports that wait for a handler's answer."),
    "limit": ("dprobed_handler_queue_limit", "Reports that may wait for a handler's answer."),
}
_GAUGES: Final = {
    "targets": ("dprobed_targets", "Processes with probes in them."),
    "kernel": ("dprobed_kernel_probed", "Whether programs are in the kernel."),
    "tracers": ("dprobed_tracers", "Tracer processes that have targets."),
    "unguarded": ("dprobed_unguarded_targets", "Targets that would not outlive their tracer."),
    "held": ("dprobed_held_targets", "Targets with a thread that stands still for a program."),
    "programs": ("dprobed_programs", "Inserted programs."),
    "deployments": ("dprobed_deployments", "Deployments."),
    "clients": ("dprobed_clients", "Connected clients."),
}


def families(snapshot: Snapshot) -> Iterator[Metric]:
    """All metrics of the daemon."""
    build = GaugeMetricFamily("dprobed_build_info", "Always 1.", labels=["version"])
    build.add_metric([__version__], 1)
    yield build
    for what, (name, text) in _GAUGES.items():
        yield GaugeMetricFamily(name, text, value=getattr(snapshot, what))
    probes = GaugeMetricFamily("dprobed_probes", "Probes by state.", labels=["state"])
    for state, number in snapshot.probes.items():
        probes.add_metric([state], number)
    yield probes
    for what, (name, text, divisor) in _COUNTERS.items():
        family = CounterMetricFamily(name, text, labels=_BY_PROGRAM)
        for labels, sums in snapshot.counts.items():
            family.add_metric(labels, sums.get(what, 0) / divisor)
        yield family
    text = "Time for which threads of targets stood still for probes."
    overhead = CounterMetricFamily("dprobed_overhead_seconds", text, labels=["process"])
    for process, spent in snapshot.overhead.items():
        overhead.add_metric([process], spent / 1e9)
    yield overhead
    yield from _handlers(snapshot)
    refusals = CounterMetricFamily("dprobed_refusals", "Refused requests.", labels=["why"])
    for why, number in snapshot.refusals.items():
        refusals.add_metric([why], number)
    yield refusals


def _handlers(snapshot: Snapshot) -> Iterator[Metric]:
    labels = ["handler", "facility"]
    for what, (name, text) in _HANDLERS.items():
        counter = CounterMetricFamily(name, text, labels=labels)
        for each in snapshot.handlers:
            counter.add_metric([each.handler, each.facility], getattr(each, what))
        yield counter
    for what, (name, text) in _HANDLER_GAUGES.items():
        gauge = GaugeMetricFamily(name, text, labels=labels)
        for each in snapshot.handlers:
            gauge.add_metric([each.handler, each.facility], getattr(each, what))
        yield gauge


class _Page(Collector):
    """A snapshot, and what the daemon's own process uses."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot: Final = snapshot

    def collect(self) -> Iterable[Metric]:
        """All families."""
        yield from families(self._snapshot)
        yield from ProcessCollector(registry=None).collect()


def as_text(snapshot: Snapshot, *, open_metrics: bool) -> tuple[bytes, str]:
    """A page in one of the two text formats, and its content type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(snapshot))
    if open_metrics:
        page: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
        return page, openmetrics.CONTENT_TYPE_LATEST
    return generate_latest(registry), CONTENT_TYPE_LATEST
