"""Probes, and what they belong to, as tables: processes, deployments, processes that ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from dprobe.view.output import complain
from dprobe.view.tables import Listing, show
from dprobed.printable import located
from dprobed.wire import messages

PROBES = Listing(
    "probe",
    (
        ("pid", "pid"),
        ("program", "program"),
        ("no", "number"),
        ("place", "place"),
        ("state", "state"),
        ("hits", "hits"),
        ("missed", "missed"),
        ("dropped", "dropped"),
        ("engine", "engine"),
    ),
    messages.ProbeInfo.__struct_fields__,
)
PROBES_EXTENDED = Listing(
    "probe",
    (
        ("pid", "pid"),
        ("program", "program"),
        ("no", "number"),
        ("major", "major"),
        ("minor", "minor"),
        ("group", "group"),
        ("module", "module"),
        ("place", "place"),
        ("state", "state"),
        ("hits", "hits"),
        ("ran", "ran"),
        ("missed", "missed"),
        ("dropped", "dropped"),
        ("faulted", "faulted"),
        ("passed over", "passed"),
        ("handler drops", "handler_drops"),
        ("engine", "engine"),
        ("addresses", "addresses"),
        ("reason", "reason"),
        ("source", "source"),
    ),
    messages.ProbeInfo.__struct_fields__,
)
TARGETS = Listing(
    "target",
    (
        ("pid", "pid"),
        ("command", "comm"),
        ("time in probes, ns", "overhead_ns"),
        ("suspended", "suspended"),
        ("ended", "ended"),
    ),
    messages.TargetInfo.__struct_fields__,
)
DEPLOYMENTS = Listing(
    "deployment",
    (
        ("no", "number"),
        ("program", "program"),
        ("module", "module"),
        ("processes", "selection"),
        ("state", "state"),
        ("in", "processes"),
        ("ever", "entered"),
        ("missed", "missed"),
        ("unseen", "unseen"),
        ("refused", "refused"),
        ("hits", "hits"),
        ("dropped", "dropped"),
    ),
    messages.DeploymentInfo.__struct_fields__,
)
EARLIER = Listing(
    "earlier",
    (
        ("ended earlier", "processes"),
        ("program", "program"),
        ("no", "number"),
        ("hits", "hits"),
        ("missed", "missed"),
        ("dropped", "dropped"),
    ),
    messages.EarlierInfo.__struct_fields__,
)
NOTHING = "nothing is inserted"


def show_probes(probes: Sequence[messages.ProbeInfo], *, json: bool) -> None:
    """Probes with their states and counters."""
    show(probes, PROBES, json=json, empty=NOTHING)


def show_deployments(
    deployments: Sequence[messages.DeploymentInfo], *, json: bool, only: Sequence[str] = ()
) -> None:
    """Deployments: programs with the selection of processes that they are for."""
    rows: list[dict[str, object]] = []
    for each in deployments:
        row = msgspec.to_builtins(each)
        if not json:
            row["selection"] = selection_text(each.selection, each.limit)
            row["refused"] = sum(each.refused.values())
        rows.append(row)
    show(rows, DEPLOYMENTS, json=json, empty=NOTHING, only=only)


def selection_text(selection: messages.Selection, limit: int | None) -> str:
    """A selection as it is written on the command line."""
    given = {
        "exe": selection.exe,
        "user": selection.user,
        "unit": selection.unit,
        "policy": selection.policy,
        "limit": limit,
    }
    words = [f"--{name} {value}" for name, value in given.items() if value is not None]
    if selection == messages.Selection():
        words.insert(0, "--all")
    return " ".join(words)


def explain_probes(probes: Sequence[messages.ProbeInfo]) -> None:
    """Say why a probe's state is what it is, where that needs saying."""
    for probe in probes:
        if probe.reason:
            name = f"{probe.program} {probe.major}.{probe.minor} at {probe.place}"
            passed = f"; at least {probe.passed} hits passed over" if probe.passed else ""
            complain(located(probe.source, f"{name}: {probe.state}: {probe.reason}{passed}"))
    for line in doubted(probes):
        complain(line)


def doubted(probes: Sequence[messages.ProbeInfo]) -> Iterator[str]:
    """Why probes that never fired perhaps never will: a line for each program and reason."""
    places: dict[tuple[str, str, str], list[messages.ProbeInfo]] = {}
    for probe in probes:
        if probe.doubt:
            places.setdefault((probe.program, probe.state, probe.doubt), []).append(probe)
    for (program, state, doubt), alike in places.items():
        where = ", ".join(dict.fromkeys(probe.place for probe in alike))
        pids = sorted({probe.pid for probe in alike})
        inside = f"process {pids[0]}" if len(pids) == 1 else f"{len(pids)} processes"
        yield f"{program} at {where}: {state} in {inside}, and has not fired: {doubt}"


def show_all(
    deployments: Sequence[messages.DeploymentInfo],
    probes: Sequence[messages.ProbeInfo],
    earlier: Sequence[messages.EarlierInfo],
    *,
    json: bool,
    extended: bool = False,
    empty: str = NOTHING,
    only: Sequence[str] = (),
) -> None:
    """Deployments, probes process by process, and sums over processes that ended long ago."""
    if deployments:
        show_deployments(deployments, json=json, only=only)
    if deployments and probes and not json:
        print()
    if probes or not deployments:
        listing = PROBES_EXTENDED if extended else PROBES
        show(probes, listing, json=json, empty=empty, only=only)
    if earlier:
        if not json:
            print()
        show(earlier, EARLIER, json=json, empty="", only=only)


def show_status(
    answer: messages.Status,
    *,
    extended: bool,
    everything: bool,
    json: bool,
    only: Sequence[str] = (),
) -> None:
    """The answer to a query; ``extended``: with the processes, and all columns."""
    if extended:
        show(answer.targets, TARGETS, json=json, empty="no process is traced", only=only)
        if not json and answer.targets:
            print()
    empty = NOTHING if everything else "no such program is inserted"
    show_all(
        answer.deployments,
        answer.probes,
        answer.earlier,
        json=json,
        extended=extended,
        empty=empty,
        only=only,
    )
    for line in doubted(answer.probes):
        complain(line)
    if not json:
        _explain_deployments(answer, extended=extended)


def _explain_deployments(answer: messages.Status, *, extended: bool) -> None:
    """Say why deployments are not in processes that they are meant for."""
    for each in answer.deployments:
        for reason, count in each.refused.items():
            complain(
                f"{each.program}: refused in {count} process{'es' if count > 1 else ''}: {reason}"
            )
        for pid, reason in each.refusals.items() if extended else ():
            complain(f"{each.program}: process {pid}: {reason}")
    discovery = answer.discovery
    if answer.deployments and discovery is not None and discovery.lost:
        complain(
            f"events of processes were lost {discovery.lost} time{'s' * (discovery.lost > 1)}; "
            "short processes may have been missed without being counted"
        )
