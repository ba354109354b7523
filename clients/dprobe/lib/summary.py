"""The summary of a run: every probe's state and its counters over all processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from dprobed.program.maps import STACK_MARK, MapDefinition
from dprobed.program.values import EXACT
from dprobed.record.log import stack_value
from dprobed.record.maps import merged, values, weight
from dprobed.wire import messages
from dprobed.wire.counters import Counters

_WORD: Final = (1 << 64) - 1


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
    unwound: int = 0
    #: Of ``present_ns``, in which it was in, it slept for so long, over a budget.
    asleep_ns: int = 0
    present_ns: int = 0
    reason: str = ""
    source: str = ""
    dumped: int = 0
    no_dumps: dict[str, int] = {}
    #: For how long threads have stood for it.
    spent_ns: int = 0
    #: Of ``present_ns``, in which dprobed was gone, and came again.
    uncounted_ns: int = 0
    #: Why no faster engine served it, where one would have been taken.
    slower: str = ""


class SummaryVariable(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A local variable, summed over all processes. ``name``: its number where it has none;
    ``text``: the value once more where a double cannot hold it."""

    program: str
    name: str
    value: int
    text: str = ""


class SummaryMap(msgspec.Struct, frozen=True, kw_only=True):
    """A map at the end: of one process (``pid``; maps of values), or merged over all of them.

    ``entries``: by weight, the most first; each has its ``key``, and what is there
    (``record.maps``).
    ``lost``: updates for which there was no room; ``left_out``: keys that could not be merged.
    """

    program: str
    map: str
    kind: str
    arguments: list[int]
    pid: int | None
    processes: int
    size: int
    lost: int
    left_out: int
    entries: list[dict[str, Any]]


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
    variables: list[SummaryVariable] = []
    maps: list[SummaryMap] = []


def summarize(
    probes: Sequence[messages.ProbeInfo],
    overhead_ns: int,
    daemon: str = "",
    ends: Sequence[SummaryEnd] = (),
    variables: Sequence[messages.VariablesInfo] = (),
    maps: Sequence[messages.MapInfo] = (),
) -> Summary:
    """The summary of a run, from the last counters of its probes in every process."""
    same: dict[tuple[int, int], list[messages.ProbeInfo]] = {}
    for probe in probes:
        same.setdefault((probe.number, probe.probe), []).append(probe)
    totals = [_total(each) for each in same.values()]
    return Summary(
        probes=totals,
        overhead_ns=overhead_ns,
        daemon=daemon,
        ends=list(ends),
        variables=[one for each in added(variables) for one in named(each)],
        maps=[shown(each) for each in joined(maps)],
    )


def joined(maps: Sequence[messages.MapInfo]) -> list[messages.MapInfo]:
    """Those of each program together, but for those of one process."""
    same: dict[tuple[object, ...], list[messages.MapInfo]] = {}
    for each in maps:
        key = each.number, each.program, each.pid, definition_of(each)
        same.setdefault(key, []).append(each)
    return [_join(each) for each in same.values()]


def of_programs(maps: Sequence[messages.MapInfo]) -> list[SummaryMap]:
    """As ``joined``, whatever the numbers of the programs: one that was inserted into several
    processes has one for each."""
    return [shown(each) for each in joined([msgspec.structs.replace(m, number=0) for m in maps])]


def _join(maps: list[messages.MapInfo]) -> messages.MapInfo:
    last = maps[-1]
    if len(maps) == 1:
        return last
    # What a process could hold, any number of them have sent: nothing more is to be bounded here.
    cells: dict[tuple[int | str, ...], list[int]] = {}
    for each in maps:
        for entry in each.entries:
            key = tuple(entry.key)
            cells[key] = merged(definition_of(last), cells.get(key, []), entry.cell)
    return msgspec.structs.replace(
        last,
        processes=sum(each.processes for each in maps),
        lost=sum(each.lost for each in maps),
        left_out=sum(each.left_out for each in maps),
        entries=[messages.MapEntry(list(key), cell) for key, cell in cells.items()],
    )


def definition_of(info: messages.MapInfo) -> MapDefinition:
    """A map as its program defines it."""
    arguments = tuple(info.arguments)
    return MapDefinition(info.map, info.kind, arguments, info.keys, info.size, info.signed)


def shown(info: messages.MapInfo) -> SummaryMap:
    """A map as people and programs read it."""
    definition = definition_of(info)
    entries = sorted(info.entries, key=lambda entry: weight(definition, entry.cell), reverse=True)
    return SummaryMap(
        program=info.program,
        map=info.map,
        kind=info.kind,
        arguments=info.arguments,
        pid=info.pid,
        processes=info.processes,
        size=info.size,
        lost=info.lost,
        left_out=info.left_out,
        entries=[
            {"key": [_item(item, info.pid) for item in each.key], **values(definition, each.cell)}
            for each in entries
        ],
    )


def _item(item: int | str, pid: int | None) -> Any:
    """An item of a key: a word, a text, or a stack as records have it, its frames named."""
    mark = STACK_MARK.decode()
    if not isinstance(item, str) or not item.startswith(mark):
        return item
    stack = stack_value(item.removeprefix(mark).encode("latin-1", "replace"))
    if stack is None:
        return item
    # Only here: it reads debug information.
    from dprobe.lib.stacks import shared_names

    shared_names().name_frames([stack], pid or 0)
    return stack


def plain(one: SummaryMap, top: int | None = None) -> dict[str, Any]:
    """A map for JSON: a sum beyond 64 bits is text. ``top``: so many keys at most."""
    return {**msgspec.structs.asdict(one), "entries": [_plain(each) for each in one.entries[:top]]}


def _plain(value: Any) -> Any:
    if isinstance(value, int) and not -(1 << 63) <= value <= _WORD:
        return str(value)
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def added(variables: Sequence[messages.VariablesInfo]) -> list[messages.VariablesInfo]:
    """Those of each program together."""
    sums: dict[int, messages.VariablesInfo] = {}
    for each in variables:
        there = sums.get(each.number)
        if there is not None:
            each = msgspec.structs.replace(
                each,
                processes=there.processes + each.processes,
                words=[(a + b) & _WORD for a, b in zip(there.words, each.words, strict=True)],
            )
        sums[each.number] = each
    return list(sums.values())


def named(variables: messages.VariablesInfo) -> list[SummaryVariable]:
    """Each by its name, or by its number."""
    names = variables.names or [str(index) for index in range(len(variables.words))]
    return [
        SummaryVariable(
            program=variables.program,
            name=name,
            value=word,
            text=str(word) if word > EXACT else "",
        )
        for name, word in zip(names, variables.words, strict=True)
    ]


def not_counted(asleep_ns: int, present_ns: int) -> str:
    """That a probe was not in for a share of its time; empty: it was."""
    if not asleep_ns or not present_ns:
        return ""
    share = 100 * asleep_ns / present_ns
    text = "less than 1" if share < 1 else "more than 99" if share > 99 else f"{share:.0f}"
    return f"not counted for {text} % of the time"


def unwound_text(count: int) -> str:
    """How many calls a return probe has seen begin and not return; empty: none."""
    calls = f"{count} call{'s' if count > 1 else ''}"
    return f"{calls} left without returning (unwound)" if count else ""


def _total(probes: list[messages.ProbeInfo]) -> SummaryProbe:
    """One probe in all processes; its state is that of where it was hit first."""
    shown = next((probe for probe in probes if probe.hits), probes[0])
    counters = Counters.of(*probes).as_dict()
    if not (counters["asleep_ns"] or counters["uncounted_ns"]):
        counters["present_ns"] = 0  # It says something only beside them.
    return SummaryProbe(
        program=shown.program,
        major=shown.major,
        minor=shown.minor,
        place=shown.place,
        state=shown.state,
        engine=shown.engine,
        slower=shown.slower,
        reason=shown.reason,
        source=shown.source,
        no_dumps=_sums(probe.no_dumps for probe in probes),
        **counters,
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
