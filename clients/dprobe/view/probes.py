"""Probes, and what they belong to, as tables: processes, deployments, processes that ended."""

from __future__ import annotations

import pwd
import time
from collections.abc import Iterator, Sequence

import msgspec

from dprobe.lib.health import stands
from dprobe.lib.summary import added, dumps_text, named, not_counted, unwound_text
from dprobe.view.output import complain
from dprobe.view.tables import Listing, between_words, show, width_of
from dprobed.durations import text
from dprobed.printable import located, printable
from dprobed.program.model import least
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
        ("unwound", "unwound"),
        ("asleep", "asleep_ns"),
        ("time", "spent_ns"),
        ("handler drops", "handler_drops"),
        ("engine", "engine"),
        ("no faster", "slower"),
        ("addresses", "addresses"),
        ("reason", "reason"),
        ("source", "source"),
        ("unguarded", "unguarded"),
        ("not counted", "uncounted_ns"),
    ),
    messages.ProbeInfo.__struct_fields__,
)
TARGETS = Listing(
    "target",
    (
        ("pid", "pid"),
        ("command", "comm"),
        ("time in probes", "overhead_ns"),
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
KEPT = Listing(
    "kept",
    (
        ("pid", "pid"),
        ("program", "program"),
        ("no", "number"),
        ("problem", "problem"),
    ),
    messages.KeptInfo.__struct_fields__,
)
VARIABLES = Listing(
    "variable",
    (
        ("program", "program"),
        ("no", "number"),
        ("variable", "name"),
        ("value", "value"),
        ("processes", "processes"),
    ),
)
MAPS = Listing(
    "mapuse",
    (
        ("program", "program"),
        ("no", "number"),
        ("map", "map"),
        ("kind", "kind"),
        ("keys", "entries"),
        ("size", "size"),
        ("lost", "lost"),
        ("processes", "processes"),
    ),
)
TERMS = Listing(
    "term",
    (
        ("program", "program"),
        ("no", "number"),
        ("user", "user"),
        ("age", "age"),
        ("ends", "ends"),
        ("max hits", "max_hits"),
        ("time spent", "share"),
    ),
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
        # One message for one probe: a doubt says more.
        if probe.reason and not probe.doubt:
            name = f"{probe.program} {probe.major}.{probe.minor} at {probe.place}"
            complain(located(probe.source, f"{name}: {probe.state}: {probe.reason}"))
    for line in (*doubted(probes), *dumped(probes)):
        complain(line)


def dumped(probes: Sequence[messages.ProbeInfo]) -> Iterator[str]:
    """What became of the dumps that probes asked for."""
    for probe in probes:
        text = dumps_text(probe.dumped, probe.no_dumps)
        if text:
            name = f"{probe.program} {probe.major}.{probe.minor} at {probe.place}"
            yield f"{name}: process {probe.pid}: {text}"


def dumped_in_all(
    deployments: Sequence[messages.DeploymentInfo], earlier: Sequence[messages.EarlierInfo]
) -> Iterator[str]:
    """The same of all processes of a deployment, and of those that ended long ago."""
    for each in deployments:
        text = dumps_text(each.dumped, each.no_dumps)
        if text:
            yield f"{each.program}: in {each.entered} process{'es' * (each.entered != 1)}: {text}"
    for one in earlier:
        text = dumps_text(one.dumped, one.no_dumps)
        if text:
            yield f"{one.program}: in processes that ended earlier: {text}"


def standing(targets: Sequence[messages.TargetInfo]) -> Iterator[str]:
    """A line for each process that stands: for how long, until when, and how it goes on."""
    for target in targets:
        name = f"process {target.pid} ({target.comm})"
        if target.silent_seconds:
            yield (
                f"{name}: its tracer does not answer, for {target.silent_seconds:.0f} s; what is "
                "shown of it is from before"
            )
        found = target.debugger
        if found is not None and found.held and not found.attached:
            threads = ", ".join(map(str, found.held))
            left = max(0.0, found.limit - found.seconds)
            until = time.strftime("%H:%M:%S", time.localtime(time.time() + left))
            yield (
                f"{name} is HELD at a probe (thread {threads}) for {found.seconds:.0f} s, until "
                f"{until}: dprobe debug {target.pid}, or dprobe resume {target.pid}"
            )
        if target.stopped_seconds:
            yield (
                f"{name} is STOPPED (by SIGSTOP, or Ctrl-Z) for {target.stopped_seconds:.0f} s: "
                f"nothing fires in it until kill -CONT {target.pid}"
            )
        if target.frozen:
            yield f"{name} is FROZEN with its cgroup: nothing fires in it until that is thawed"
        if target.suspended:
            threads = ", ".join(map(str, target.suspended))
            since = f" for {target.suspended_seconds:.0f} s" if target.suspended_seconds else ""
            yield (
                f"{name}: thread {threads} is SUSPENDED{since}, until dprobe resume {target.pid}"
            )


def show_standing(
    targets: Sequence[messages.TargetInfo], *, json: bool, apart: bool = False, rows: bool = True
) -> None:
    """Say first which processes stand.

    ``apart``: on standard error, because the output is a script's. In JSON they are targets, if
    ``rows``: if no others will be shown.
    """
    for line in standing(targets):
        if json or apart:
            complain(line)
        else:
            print(between_words(printable(line), width_of(1)))
    if json and rows and not apart:
        show([each for each in targets if stands(each)], TARGETS, json=True, empty="")


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


def asleep(probes: Sequence[messages.ProbeInfo]) -> Iterator[str]:
    """For which share of the time probes were asleep: a line for each place of a program."""
    places: dict[tuple[str, str], list[messages.ProbeInfo]] = {}
    for probe in probes:
        if probe.asleep_ns:
            places.setdefault((probe.program, probe.place), []).append(probe)
    for (program, place), alike in places.items():
        passed = not_counted(
            sum(probe.asleep_ns for probe in alike), sum(probe.present_ns for probe in alike)
        )
        where = f"in process {alike[0].pid}" if len(alike) == 1 else f"in {len(alike)} processes"
        yield f"{program} at {place}: {passed} {where}: over the budget"


def awaited(kept: Sequence[messages.KeptInfo]) -> Iterator[str]:
    """What is to be put in again after a restart, and is not in yet."""
    for each in kept:
        what = f"{each.program} (no {each.number}) in process {each.pid}"
        if each.problem:
            yield (
                f"{what}: not put in again after a restart of dprobed: {each.problem}; tried again "
                f"at the next start, or not, after: dprobe remove {each.number}"
            )
        else:
            yield f"{what}: about to be put in again after a restart of dprobed"


def unwound(probes: Sequence[messages.ProbeInfo]) -> Iterator[str]:
    """How many calls were left without returning: a line for each place of a program."""
    places: dict[tuple[str, str], int] = {}
    for probe in probes:
        if probe.unwound:
            key = probe.program, probe.place
            places[key] = places.get(key, 0) + probe.unwound
    for (program, place), count in places.items():
        yield f"{program} at {place}: {unwound_text(count)}"


def taken_over(probes: Sequence[messages.ProbeInfo]) -> Iterator[str]:
    """Which probes a restarted daemon has taken over: a line for each process and program."""
    gone: dict[tuple[int, str], int] = {}
    for probe in probes:
        if probe.uncounted_ns:
            key = probe.pid, probe.program
            gone[key] = max(gone.get(key, 0), probe.uncounted_ns)
    for (pid, program), uncounted in gone.items():
        yield (
            f"{program} in process {pid}: taken over after a restart of dprobed; not counted for "
            f"{uncounted / 1e9:.1f} s"
        )


def unguarded(probes: Sequence[messages.ProbeInfo]) -> Iterator[str]:
    """Which processes would not survive their tracer's death."""
    for pid, reason in dict.fromkeys((probe.pid, probe.unguarded) for probe in probes):
        if reason:
            yield f"process {pid} is unguarded: {reason}; if its tracer is killed, so is it"


def show_all(
    deployments: Sequence[messages.DeploymentInfo],
    probes: Sequence[messages.ProbeInfo],
    earlier: Sequence[messages.EarlierInfo],
    variables: Sequence[messages.VariablesInfo] = (),
    *,
    json: bool,
    extended: bool = False,
    empty: str = NOTHING,
    only: Sequence[str] = (),
    terms: messages.Status | None = None,
) -> None:
    """Deployments, probes process by process, and sums over processes that ended long ago.

    ``terms``: whose programs the probes are, and until when, is shown as well.
    """
    if deployments:
        show_deployments(deployments, json=json, only=only)
    if deployments and probes and not json:
        print()
    if probes or not deployments:
        listing = PROBES_EXTENDED if extended else PROBES
        rows = probes if json else [_with_units(msgspec.to_builtins(each)) for each in probes]
        show(rows, listing, json=json, empty=empty, only=only)
    if terms is not None and not json and not only:
        show_terms(terms)
    if earlier:
        if not json:
            print()
        show(earlier, EARLIER, json=json, empty="", only=only)
    show_variables(variables, json=json, only=only)


def _with_units(row: dict[str, object]) -> dict[str, object]:
    """A row whose nanoseconds are what people read; 0 stays what it is."""
    for name, value in row.items():
        if name.endswith("_ns") and isinstance(value, int) and value:
            row[name] = nanoseconds(value)
    return row


def nanoseconds(number: int) -> str:
    """A time with its unit: ``812 ns``, ``12.3 µs``, ``4.56 ms``, ``78.9 s``."""
    for unit, size in (("s", 10**9), ("ms", 10**6), ("µs", 10**3)):
        if number >= size:
            digits = str(number // size) if number >= 100 * size else f"{number / size:.3g}"
            return f"{digits} {unit}"
    return f"{number} ns"


def show_terms(answer: messages.Status) -> None:
    """Whose each program is, for how long it has been in, and when it ends by itself."""
    found: dict[int, list[messages.ProbeInfo | messages.DeploymentInfo]] = {}
    both: list[messages.ProbeInfo | messages.DeploymentInfo]
    both = [*answer.deployments, *answer.probes]
    for each in both:
        found.setdefault(each.number, []).append(each)
    rows = []
    for number, alike in found.items():
        left = [each for each in alike if each.left_seconds is not None]
        first = min(left, key=lambda each: each.left_seconds or 0.0, default=None)
        ends = "" if first is None else f"in {text(first.left_seconds or 0.0)}"
        if first is not None and first.end_rule:
            ends += f" (by {first.end_rule})"
        hits = [each.max_hits for each in alike if isinstance(each, messages.ProbeInfo)]
        rows.append(
            {
                "program": alike[0].program,
                "number": number,
                "user": user_name(alike[0].uid),
                "age": text(max(each.age_seconds for each in alike)),
                "ends": ends,
                "max_hits": least(*hits) or "",
                "share": share_text(*_spent(alike)),
            }
        )
    if rows:
        print()
        show(rows, TERMS, json=False, empty="")


def _spent(
    alike: Sequence[messages.ProbeInfo | messages.DeploymentInfo],
) -> tuple[int, float]:
    """For how long threads have stood for a program, and for how long that was in its processes."""
    for each in alike:
        if isinstance(each, messages.DeploymentInfo):
            return each.spent_ns, each.present_ns / max(1, each.probes)
    present: dict[int, int] = {}
    for each in alike:
        if isinstance(each, messages.ProbeInfo):
            present[each.pid] = max(present.get(each.pid, 0), each.present_ns)
    return sum(each.spent_ns for each in alike), sum(present.values())


def share_text(spent_ns: int, present_ns: float) -> str:
    """For which share of the time threads stood; empty: not at all."""
    if not spent_ns or not present_ns:
        return ""
    percent = 100 * spent_ns / present_ns
    if percent < 0.01:
        return "< 0.01 %"
    return f"{percent:.2f} %" if percent < 10 else f"{percent:.0f} %"


def user_name(uid: int) -> str:
    """A user's name, or the number of one without."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def show_variables(
    variables: Sequence[messages.VariablesInfo], *, json: bool, only: Sequence[str] = ()
) -> None:
    """Variables of programs, summed over processes; of those without names only what is not 0."""
    rows = [
        {
            "number": each.number,
            "processes": each.processes,
            **msgspec.to_builtins(one),
        }
        for each in added(variables)
        for one in named(each)
        if json or each.names or one.value
    ]
    if rows and (not only or VARIABLES.chosen(only)):
        if not json:
            print()
        show(rows, VARIABLES, json=json, empty="", only=only)


def show_maps(uses: Sequence[messages.MapUseInfo], *, json: bool, only: Sequence[str] = ()) -> None:
    """How full maps are, each in the process where it is fullest, and what they lost in all."""
    if uses and (not only or MAPS.chosen(only)):
        if not json:
            print()
        show(uses, MAPS, json=json, empty="", only=only)


def show_status(
    answer: messages.Status,
    *,
    extended: bool,
    everything: bool,
    json: bool,
    only: Sequence[str] = (),
) -> None:
    """The answer to a query; ``extended``: with the processes, and all columns."""
    show_standing(answer.targets, json=json, apart=bool(only), rows=not extended)
    if extended:
        targets: list[dict[str, object]] = [msgspec.to_builtins(each) for each in answer.targets]
        if not json:
            for row, target in zip(targets, answer.targets, strict=True):
                row["suspended"] = " ".join(map(str, target.suspended))  # decimal, as tids are
                _with_units(row)
        show(targets, TARGETS, json=json, empty="no process is traced", only=only)
        if not json and answer.targets:
            print()
    empty = NOTHING if everything else "no such program is inserted"
    show_all(
        answer.deployments,
        answer.probes,
        answer.earlier,
        answer.variables,
        json=json,
        extended=extended,
        empty=empty,
        only=only,
        terms=answer,
    )
    show_maps(answer.map_use, json=json, only=only)
    for line in (
        *doubted(answer.probes),
        *dumped(answer.probes),
        *dumped_in_all(answer.deployments, answer.earlier),
        *asleep(answer.probes),
        *unwound(answer.probes),
        *taken_over(answer.probes),
        *awaited(answer.kept),
        *unguarded(answer.probes),
    ):
        complain(line)
    if json:
        show(answer.kept, KEPT, json=True, empty="", only=only)
    else:
        _explain_deployments(answer, extended=extended)


def dead(handlers: Sequence[messages.HandlerInfo]) -> Iterator[str]:
    """Which handlers have died, and what that means for programs that report to them."""
    alive = {each.facility for each in handlers if each.alive and each.armed}
    for each in handlers:
        if not each.alive:
            then = "the next one has its reports"
            if each.facility not in alive:
                then = f"`exit {each.facility}` is an exception (INVALID_OPERAND) until one comes"
            yield f"handler {each.handler} of {each.facility} has died: {then}"


def explain_deployed(answer: messages.Status) -> None:
    """Say what does not go well with deployments that have just begun."""
    for line in doubted(answer.probes):
        complain(line)
    _explain_deployments(answer, extended=False)


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
