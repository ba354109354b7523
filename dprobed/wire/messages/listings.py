"""The items of listings in replies: programs, probes, deployments, handlers, traces, policies,
targets."""

# Without `from __future__ import annotations`: msgspec compiles annotations that are strings, each
# one when a decoder is made, which takes four times as long.

from typing import Literal

import msgspec

from dprobed.record.record import TRACER
from dprobed.wire.messages.common import MapEntry
from dprobed.wire.messages.requests import Selection


class ProgramInfo(msgspec.Struct, frozen=True, kw_only=True, tag="program"):
    """A program in one process. ``kept``: it stays when the client that inserted it is gone;
    ``names``: of its local variables, if they have some. ``uid`` to ``end_rule``: as in ``probe``.
    ``ended``: how its process ended; empty while that goes on.
    """

    number: int
    program: str
    program_id: int
    pid: int
    module: str
    major: int
    probes: int
    vars: int
    gvars: int
    kept: bool
    names: list[str] = []
    uid: int = 0
    age_seconds: float = 0.0
    left_seconds: float | None = None
    end_rule: str = ""
    ended: str = ""


class ProbeInfo(msgspec.Struct, frozen=True, kw_only=True, tag="probe"):
    """A probe of a program in one process. ``state``: ``ended``, if that has ended while it was
    in its place, or waited for it.

    ``hits`` counts every hit, ``ran`` those whose program ran, ``missed`` those that could not be
    served, ``dropped`` records that were lost on their way to a reader, ``faulted`` records
    withdrawn because the probed instruction itself faulted. ``reason`` says why a state is what it
    is, where that needs saying. ``handler_drops``: reports that handlers (by name) had no room for.
    ``present_ns``: since it was first in; for ``asleep_ns`` of that it was throttled, and counted
    nothing. ``engine``: which serves it; empty where none does. ``source``: of a probe that does
    not work, where its place is written (``file:line:column``), if that is known. ``doubt``: why
    one that never fired perhaps never will. ``dumped``: cores that were written for it;
    ``no_dumps``: hits that asked for one in vain, by reason. ``unguarded``: why it would end its
    process if the tracer were killed; empty: not. ``uncounted_ns``: for how long of ``present_ns``
    dprobed was gone and came again, and counted nothing. ``uid``: who inserted its program,
    ``age_seconds`` ago; it is taken out in ``left_seconds`` (null: not by itself), and the probe
    disabled after ``max_hits`` (0: any number). ``end_rule``: who says so; empty: the user.
    ``unwound``: of a return probe, calls that were left without returning. ``slower``: why no
    faster engine serves it, where ``auto`` was asked for. ``spent_ns``: for how long threads have
    stood for it.
    """

    program: str
    number: int
    probe: int
    major: int
    minor: int
    group: int
    pid: int
    module: str
    place: str
    state: str
    reason: str
    hits: int
    ran: int
    missed: int
    dropped: int
    faulted: int
    addresses: list[int]
    handler_drops: dict[str, int] = {}
    asleep_ns: int = 0
    present_ns: int = 0
    engine: str = ""
    source: str = ""
    doubt: str = ""
    dumped: int = 0
    no_dumps: dict[str, int] = {}
    unguarded: str = ""
    uid: int = 0
    age_seconds: float = 0.0
    left_seconds: float | None = None
    max_hits: int = 0
    end_rule: str = ""
    uncounted_ns: int = 0
    spent_ns: int = 0
    unwound: int = 0
    slower: str = ""


class KeptInfo(msgspec.Struct, frozen=True, kw_only=True, tag="kept"):
    """A program that a restarted daemon is to put into its process again, and has not yet.

    ``problem``: why it could not, if it was tried; it is tried again at the next start.
    """

    number: int
    program: str
    pid: int
    uid: int
    problem: str


class EarlierInfo(msgspec.Struct, frozen=True, kw_only=True, tag="earlier"):
    """What a program counted in ``processes`` that have ended, and of which nothing else is known
    any longer: sums over its probes, as in ``probe`` (``wire.counters``)."""

    number: int
    program: str
    module: str
    processes: int
    hits: int
    ran: int
    missed: int
    dropped: int
    faulted: int
    asleep_ns: int
    present_ns: int
    dumped: int = 0
    no_dumps: dict[str, int] = {}
    unwound: int = 0
    uncounted_ns: int = 0
    spent_ns: int = 0


class VariablesInfo(msgspec.Struct, frozen=True, kw_only=True, tag="variables"):
    """The local variables of a program, summed over so many ``processes``, ended ones included.

    ``names``: of all of them; empty: they have none. ``words``: 64 bits, unsigned; what a child had
    from its parent at the ``fork`` is the parent's alone.
    """

    number: int
    program: str
    processes: int
    names: list[str]
    words: list[int]


class MapInfo(msgspec.Struct, frozen=True, kw_only=True, tag="map"):
    """A map of a program: ``entries``, at most ``size`` in each process.

    ``pid``: of one process; null: merged over ``processes``, ended ones included. ``arguments``:
    those of its ``kind``; ``keys``: items of a key; ``signed``: of what is added. ``lost``: updates
    for which there was no room; ``left_out``: keys of processes for which the sums had none.
    """

    number: int
    program: str
    pid: int | None
    processes: int
    map: str
    kind: str
    arguments: list[int]
    keys: int
    size: int
    signed: bool
    lost: int
    left_out: int
    entries: list[MapEntry]


class MapUseInfo(msgspec.Struct, frozen=True, kw_only=True, tag="mapuse"):
    """How full a map of a program is in ``processes`` that go on: so many ``entries`` in the
    fullest, of ``size``; ``lost``: updates for which there was no room, in all of them."""

    number: int
    program: str
    processes: int
    map: str
    kind: str
    size: int
    entries: int
    lost: int


class DeploymentInfo(msgspec.Struct, frozen=True, kw_only=True, tag="deployment"):
    """A program that is put into all processes that ``selection`` means.

    ``state``: ``active`` while a probe of it is in its place in some process, else ``pending``.
    ``processes``: how many it is in, ``waiting``: how many are about to get it, ``entered``: how
    many it was ever in. ``missed``: processes that ended before it was in, ``unseen``: processes
    that ended before anybody could tell whether they were meant, ``refused``: those that could not
    be probed, by reason (for those still there ``refusals`` says which). ``hits`` and the rest:
    sums over all of its probes, in processes that ended too, as in ``probe`` (``wire.counters``;
    ``missed_hits`` are the missed hits). ``age_seconds``, ``left_seconds``, ``end_rule``: as in
    ``probe``.
    """

    number: int
    program: str
    program_id: int
    module: str
    major: int
    probes: int
    selection: Selection
    limit: int | None
    kept: bool
    uid: int
    state: str
    processes: int
    waiting: int
    entered: int
    missed: int
    unseen: int
    refused: dict[str, int]
    refusals: dict[int, str]
    hits: int
    ran: int
    missed_hits: int
    dropped: int
    overhead_ns: int
    dumped: int = 0
    no_dumps: dict[str, int] = {}
    age_seconds: float = 0.0
    left_seconds: float | None = None
    end_rule: str = ""
    faulted: int = 0
    unwound: int = 0
    asleep_ns: int = 0
    present_ns: int = 0
    uncounted_ns: int = 0
    spent_ns: int = 0


class DiscoveryInfo(msgspec.Struct, frozen=True, kw_only=True):
    """How the daemon hears of processes: ``source`` (empty: there is no deployment), and ``lost``:
    how often events were lost, and all processes looked at again."""

    source: str
    lost: int


class HandlerInfo(msgspec.Struct, frozen=True, kw_only=True, tag="handler"):
    """A handler of a facility. ``armed``: it gets reports; ``alive`` false: its owner died.

    ``reports`` counts what it took, ``waiting`` how many of those it has not answered yet,
    ``timeouts`` those that it did not answer in time, ``drops`` those that it had no room for,
    ``failures`` how often it died.
    """

    handler: str
    facility: str
    number: int
    owner: str
    order: str
    armed: bool
    alive: bool
    reports: int
    waiting: int
    timeouts: int
    drops: int
    failures: int


class TraceInfo(msgspec.Struct, frozen=True, kw_only=True, tag="trace"):
    """A trace session.

    ``records`` counts what came, ``written`` what is in the chunks written so far, ``held`` what
    a flight recorder keeps in memory, ``overwritten`` what it had no room for any longer,
    ``dropped`` what was lost. ``bytes`` and ``chunks``: what is on disk now. ``problem``: why it
    cannot write at present.
    """

    name: str
    folder: str
    format: str
    everything: bool
    flight_bytes: int | None
    armed: bool
    records: int
    written: int
    held: int
    dropped: int
    overwritten: int
    bytes: int
    chunks: int
    problem: str


class LimitsInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What may be spent: a ``share`` of a process's time (0…1), hits a second; null: no limit.

    ``over``: what becomes of a program that spends more.
    """

    share: float | None
    hits_per_second: float | None
    over: Literal["throttle", "remove"]


class PolicyInfo(msgspec.Struct, frozen=True, kw_only=True, tag="policy"):
    """A policy in force; ``place``: ``file:line``. ``match``: its conditions, as text.

    ``programs`` it puts into processes, for ``seconds``, in so many ``processes`` at most, within
    ``limits``; ``budget``: for all programs in a process. What clients insert stays for
    ``stay_seconds`` and ``max_hits`` at most; null: no limit.
    """

    name: str
    place: str
    match: list[str]
    rights: dict[str, list[str]]
    programs: list[str]
    seconds: float | None
    processes: int | None
    limits: LimitsInfo
    budget: LimitsInfo
    follow_forks: bool
    hold: Literal["thread", "process"]
    unguarded: Literal["allow", "refuse"] = "allow"
    stay_seconds: float | None = None
    max_hits: int | None = None


class PolicyStep(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one policy: its conditions up to the one that decided, as text."""

    policy: str
    place: str
    matches: bool
    tested: list[str]


class Explanation(msgspec.Struct, frozen=True, kw_only=True, tag="explanation"):
    """Which rule decides about a process (``default``: no policy matches), and what follows.

    ``protected``: why nobody may touch it, else empty; ``obstacle``: why it cannot be probed in any
    case. ``rights``: those of each user. ``programs``: those that the policy inserts.
    """

    pid: int
    comm: str
    exe: str
    uid: int
    rule: str
    place: str
    protected: str
    obstacle: str
    steps: list[PolicyStep]
    rights: dict[str, list[str]]
    programs: list[str]
    budget: LimitsInfo
    follow_forks: bool
    hold: Literal["thread", "process"]
    unguarded: Literal["allow", "refuse"] = "allow"
    stay_seconds: float | None = None
    max_hits: int | None = None


class DebuggerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Debugging of a process. ``held``: the threads whose programs ended with ``exit debugger``,
    while the process waits for a debugger; ``seconds``: for how long it has been held, ``limit``:
    after how many it goes on by itself;
    ``socket``: where a debugger connects (GDB remote protocol), empty before the first such end;
    ``attached``: one is there; ``expired``: how often none came in time.
    """

    held: list[int]
    socket: str
    attached: bool
    seconds: float
    expired: int
    limit: float = 0.0


class TargetInfo(msgspec.Struct, frozen=True, kw_only=True, tag="target"):
    """A process with probes. ``suspended``: its threads held by ``suspend``, ``suspended_seconds``:
    for how long the first of them has been.

    ``ended`` is empty while it is traced, then says how that ended. ``overhead_ns``: the time that
    its threads spent stopped for probes. ``backend``: who holds its probes. ``silent_seconds``: for
    how long that has not answered (0: it has); what is shown of the process is from before.
    ``stopped_seconds``: for how long job control (SIGSTOP, Ctrl-Z) has stopped it; ``frozen``: it
    is, with its cgroup.
    """

    pid: int
    comm: str
    ended: str
    overhead_ns: int
    suspended: list[int]
    debugger: DebuggerInfo | None = None
    backend: str = TRACER
    suspended_seconds: float = 0.0
    silent_seconds: float = 0.0
    stopped_seconds: float = 0.0
    frozen: bool = False
