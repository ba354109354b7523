"""The summary of a run: every probe's state and its counters over all processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from dprobed.wire import messages


class SummaryProbe(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One probe in the summary; what comes behind ``dropped`` is there where it says something.

    ``dumped``: cores written; ``no_dumps``: hits that asked for one in vain, by reason.
    """

    program: str
    major: int
    minor: int
    place: str
    state: str
    engine: str
    hits: int
    ran: int
    missed: int
    dropped: int
    faulted: int = 0
    passed: int = 0
    reason: str = ""
    source: str = ""
    dumped: int = 0
    no_dumps: dict[str, int] = {}


class SummaryEnd(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The process ended, or executed another program, meanwhile (its children are not told of).

    ``how``: ``exited`` (``status``: exit code), ``killed`` (signal), ``executed`` (``program``),
    ``gone`` or ``failed`` (``reason``). ``time``: as a record's, when it was heard of.
    """

    pid: int
    how: str
    time: int
    status: int = 0
    program: str = ""
    reason: str = ""


class Summary(msgspec.Struct, frozen=True, kw_only=True, tag="summary"):
    """The last line: every probe's state and counters, those of all processes together."""

    probes: list[SummaryProbe]
    overhead_ns: int
    #: Through which daemon, in words.
    daemon: str = ""
    ends: list[SummaryEnd] = []


def summarize(
    probes: Sequence[messages.ProbeInfo],
    overhead_ns: int,
    daemon: str = "",
    ends: Sequence[SummaryEnd] = (),
) -> Summary:
    """The summary of a run, from the last counters of its probes in every process."""
    same: dict[tuple[int, int], list[messages.ProbeInfo]] = {}
    for probe in probes:
        same.setdefault((probe.number, probe.probe), []).append(probe)
    totals = [_total(each) for each in same.values()]
    return Summary(probes=totals, overhead_ns=overhead_ns, daemon=daemon, ends=list(ends))


def _total(probes: list[messages.ProbeInfo]) -> SummaryProbe:
    """One probe in all processes; its state is that of where it was hit first."""
    shown = next((probe for probe in probes if probe.hits), probes[0])
    return SummaryProbe(
        program=shown.program,
        major=shown.major,
        minor=shown.minor,
        place=shown.place,
        state=shown.state,
        engine=shown.engine,
        hits=sum(probe.hits for probe in probes),
        ran=sum(probe.ran for probe in probes),
        missed=sum(probe.missed for probe in probes),
        dropped=sum(probe.dropped for probe in probes),
        faulted=sum(probe.faulted for probe in probes),
        passed=sum(probe.passed for probe in probes),
        reason=shown.reason,
        source=shown.source,
        dumped=sum(probe.dumped for probe in probes),
        no_dumps=_sums(probe.no_dumps for probe in probes),
    )


def _sums(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """By name, the most first."""
    sums: Counter[str] = Counter()
    for each in counts:
        sums.update(each)
    return dict(sums.most_common())


def dumps_text(dumped: int, refused: Mapping[str, int]) -> str:
    """How many cores there are, and how many there are not, and why; empty where none was asked
    for."""
    if not dumped and not refused:
        return ""
    if not refused:
        return f"dumped {dumped:,}"
    reasons = list(refused)
    if len(reasons) > 1:
        reasons = [f"{reason} ({count:,})" for reason, count in refused.items()]
    total = sum(refused.values())
    return f"dumped {dumped:,}, refused {total:,}: {', '.join(reasons)}"
