"""The replies of the daemon: one for each request, with its ``id``."""

# Without `from __future__ import annotations`: msgspec compiles annotations that are strings, each
# one when a decoder is made, which takes four times as long.

import msgspec

from dprobed.wire.messages.common import ReplyMessage
from dprobed.wire.messages.listings import (
    DeploymentInfo,
    DiscoveryInfo,
    EarlierInfo,
    Explanation,
    HandlerInfo,
    KeptInfo,
    MapInfo,
    MapUseInfo,
    PolicyInfo,
    ProbeInfo,
    ProgramInfo,
    TargetInfo,
    TraceInfo,
    VariablesInfo,
)


class Welcome(ReplyMessage, frozen=True):
    """Answers ``hello``. ``facilities``: what ``exit NAME`` of a program can name."""

    protocol: int
    version: str
    pid: int
    uid: int
    facilities: dict[str, int]


class Attached(ReplyMessage, frozen=True):
    """Answers ``attach``."""

    pid: int


class MissingPlace(msgspec.Struct, frozen=True, kw_only=True):
    """A probe whose place is in no file that its module can be.

    ``program``: its index in the request; ``probe``: that in the program; ``source``: the
    ``file:line:column`` of its place, empty where that is not known. ``candidates``: what could be
    meant, as ``hint`` says.
    """

    program: int
    probe: int
    source: str
    message: str
    hint: str = ""
    candidates: list[str] = []


class Checked(ReplyMessage, frozen=True):
    """Answers ``check``."""

    missing: list[MissingPlace]


class Inserted(ReplyMessage, frozen=True):
    """Answers ``insert``."""

    programs: list[ProgramInfo]
    probes: list[ProbeInfo]


class Deployed(ReplyMessage, frozen=True):
    """Answers ``deploy``, before any process was looked at."""

    deployments: list[DeploymentInfo]


class Removed(ReplyMessage, frozen=True):
    """Answers ``remove`` and ``detach``: what was removed, with its last counters. ``stays``: by
    process, why something selected is still in it."""

    probes: list[ProbeInfo]
    overhead_ns: int
    deployments: list[DeploymentInfo] = []
    earlier: list[EarlierInfo] = []
    variables: list[VariablesInfo] = []
    maps: list[MapInfo] = []
    stays: dict[int, str] = {}


class Status(ReplyMessage, frozen=True):
    """Answers ``query``."""

    targets: list[TargetInfo]
    probes: list[ProbeInfo]
    deployments: list[DeploymentInfo] = []
    discovery: DiscoveryInfo | None = None
    kept: list[KeptInfo] = []
    earlier: list[EarlierInfo] = []
    variables: list[VariablesInfo] = []
    map_use: list[MapUseInfo] = []


class Listing(ReplyMessage, frozen=True):
    """Answers ``programs``. Those in ``deployments`` are not in ``programs`` as well, unless one
    process was asked for."""

    programs: list[ProgramInfo]
    deployments: list[DeploymentInfo] = []


class Words(ReplyMessage, frozen=True):
    """Answers ``vars``: 64-bit words, unsigned, from index ``first`` on."""

    first: int
    words: list[int]


class MapListing(ReplyMessage, frozen=True):
    """Answers ``maps``; those of kind ``value`` are of one process each in any case. ``silent``:
    processes whose tracer does not answer, so that what they have is not in there.

    Answers ``setmap``, with no maps: ``processes``: in how many the values are now (0: the program
    is in none, or all have refused); ``silent``: in which nobody knows whether they are;
    ``refused``: why they are not, by process."""

    maps: list[MapInfo]
    silent: list[int] = []
    processes: int = 0
    refused: dict[int, str] = {}


class Logged(ReplyMessage, frozen=True):
    """Answers ``log``, after the records that are kept; ``forgotten``: how many are not."""

    forgotten: int


class Dumped(ReplyMessage, frozen=True):
    """Answers ``dump``: where the core is, its ``bytes`` on disk and its ``size`` with holes.

    ``how``: ``snapshot`` (of a copy of the process) or ``stopped``; ``pause_ns``: how long the
    process stood still for it; ``seconds``: how long all of it took.
    """

    path: str
    bytes: int
    size: int
    how: str
    pause_ns: int
    seconds: float


class Resumed(ReplyMessage, frozen=True):
    """Answers ``resume``: the threads that go on. ``silent``: processes whose tracer does not
    answer, so that what is held there may still be."""

    tids: list[int]
    silent: list[int] = []


class Registered(ReplyMessage, frozen=True):
    """Answers ``register`` and ``deregister``; ``number``: that of the facility."""

    handler: str
    number: int | None = None


class HandlerListing(ReplyMessage, frozen=True):
    """Answers ``handlers``, ``arm`` and ``disarm``: all handlers, facility by facility."""

    handlers: list[HandlerInfo]


class TraceListing(ReplyMessage, frozen=True):
    """Answers ``tracestart``, ``tracestop`` (that session) and ``tracelist`` (all of them)."""

    traces: list[TraceInfo]


class TraceSaved(ReplyMessage, frozen=True):
    """Answers ``tracesave``: how many records are written."""

    records: int


class PolicyListing(ReplyMessage, frozen=True):
    """Answers ``policylist`` and ``policyreload``; ``folder``: where the files are.

    ``problem``: what is wrong with the files; then ``policies`` are those of before. ``protect``:
    the kinds of processes that nobody may touch.
    """

    policies: list[PolicyInfo]
    folder: str
    problem: str
    protect: list[str]


class PolicyExplained(ReplyMessage, frozen=True):
    """Answers ``policyexplain``."""

    explanation: Explanation


class ProcessUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What one process of dprobed uses. ``what``: ``daemon``, ``tracer`` or ``resolver``;
    ``cpu_seconds`` since it began, of user and kernel; ``memory``: resident bytes."""

    pid: int
    what: str
    cpu_seconds: float
    memory: int


class UsageInfo(ReplyMessage, frozen=True):
    """Answers ``usage``: the daemon first."""

    processes: list[ProcessUsage]


class Error(msgspec.Struct, frozen=True, kw_only=True, tag="error"):
    """Answers a request that is not done, nor any part of it. ``id`` is null if none was read."""

    error: str
    id: int | None = None


Reply = (
    Welcome | Attached | Checked | Inserted | Deployed | Removed | Status | Listing | Words
    | MapListing | Logged
    | Dumped | Resumed | Registered | HandlerListing | TraceListing | TraceSaved
    | PolicyListing | PolicyExplained | UsageInfo | Error
)  # fmt: skip
