"""The messages of the control socket; ``docs/protocol.md`` is the same for people.

JSON, one object a line, UTF-8. ``type`` says which message it is. The client speaks first
(``hello``) and numbers its requests by ``id``; each is answered by exactly one reply with the same
``id``, in the order of the requests; between replies come reports (``record``, ``state``,
``notice``, ``forked``, ``ended``, ``report``). The one message of a client that is no request is
``answer``. Bytes are base64. Codec only: nothing here opens a socket.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

# Both are messages of this protocol, too.
from dprobed.record.record import TRACER as TRACER
from dprobed.record.record import Raised as Raised
from dprobed.record.record import Record as Record
from dprobed.wire.limits import Limits

#: Changes only when an old client could misunderstand a new daemon, or the reverse.
PROTOCOL: Final = 1
#: Longest line that is accepted, in bytes; a program of the largest size fits several times.
MAX_LINE: Final = 16 << 20

Id = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
#: PID_MAX_LIMIT of the kernel (include/linux/threads.h).
Pid = Annotated[int, msgspec.Meta(ge=1, le=1 << 22)]

Index = Annotated[int, msgspec.Meta(ge=0, le=1 << 16)]
Label = Annotated[str, msgspec.Meta(max_length=255)]
Seconds = Annotated[float, msgspec.Meta(ge=0.001, le=3600)]
Queue = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
Bytes = Annotated[int, msgspec.Meta(ge=1, lt=1 << 53)]
Present = Literal["merge", "replace", "refuse"]
Labels = Annotated[list[Label], msgspec.Meta(min_length=1, max_length=1024)]


class _Request(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=str.lower
):
    id: Id


class _Reply(msgspec.Struct, frozen=True, kw_only=True, tag=str.lower):
    id: Id


class Hello(_Request, frozen=True):
    """The first request: which version of this protocol the client speaks."""

    protocol: int


class Attach(_Request, frozen=True):
    """Trace ``pid`` for this connection, until ``detach`` or the end of the connection.

    ``launch``: the process waits at a gate before its ``exec``, and probes go in right after it.
    ``follow_forks``: its children, and theirs, get the same programs as they begin; each is a
    process of its own from then on, told by ``forked``.
    """

    pid: Pid
    launch: bool = False
    follow_forks: bool = False


class Detach(_Request, frozen=True):
    """Take out of ``pid`` what this connection put in, and detach from it."""

    pid: Pid


class Upload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One program: ``bytecode`` is a ``.dpb`` file, ``label`` the name that its records carry,
    ``budget`` what it may cost each process that it is in (a client names no ``rule`` in it).
    ``engine``: by which engine its probes are to fire; ``auto``: whichever suits each.
    """

    label: Label
    bytecode: bytes
    budget: Limits | None = None
    engine: Annotated[str, msgspec.Meta(max_length=64)] = "auto"

    def __post_init__(self) -> None:
        """Refuse what would have its limits look like a policy's."""
        if self.budget is not None and self.budget.rule:
            raise ValueError("`rule` of a budget is for the daemon to say")


class Insert(_Request, frozen=True):
    """Put programs into ``pid``, all of them or none; an ``attach`` of this connection comes first.

    ``keep`` leaves them in when the connection ends, until they are removed. Without
    ``check_opcode`` the byte at a probe's place is not compared with its ``opcode``. ``present``:
    what to do about programs that are kept in ``pid`` already: put these in besides (``merge``),
    take those for the same modules out first (``replace``), or refuse a program of the same name
    for the same module.
    """

    pid: Pid
    programs: Annotated[list[Upload], msgspec.Meta(min_length=1, max_length=1000)]
    keep: bool = False
    check_opcode: bool = True
    present: Present = "merge"


class Selection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which processes are meant, those to come included: all for which all that is given holds.

    ``exe``: a glob for the path of the executable; without a slash for its base name. ``user``: a
    name or number. ``unit``: a glob for the systemd unit. ``policy``: those that the policy of that
    name decides about. Nothing given: every process.
    """

    exe: Annotated[str, msgspec.Meta(max_length=4096)] | None = None
    user: Label | None = None
    unit: Label | None = None
    policy: Label | None = None


class Deploy(_Request, frozen=True):
    """Put programs into all processes that ``selection`` means and that map the program's module.

    With ``exe`` those that do not map it yet are taken too. ``limit``: into so many at a time at
    most. ``keep`` and ``check_opcode`` as in ``insert``; ``present`` is about programs that are
    kept for the same selection.
    """

    programs: Annotated[list[Upload], msgspec.Meta(min_length=1, max_length=1000)]
    selection: Selection
    limit: Annotated[int, msgspec.Meta(ge=1, le=1 << 22)] | None = None
    keep: bool = False
    check_opcode: bool = True
    present: Present = "merge"


class Select(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which programs are meant: those for which everything that is given holds.

    ``number``: the daemon's number of the program; ``label``: the name it was inserted under;
    ``program_id``: the ``id`` of its header; ``module``: the module that it is for, as written in
    its header or as a target maps it (the base name is enough); ``pid``: the process it is in.
    """

    number: int | None = None
    label: str | None = None
    program_id: int | None = None
    module: str | None = None
    pid: int | None = None


class Remove(_Request, frozen=True):
    """Take programs out; with nothing selected, all of them."""

    select: Select = Select()


class Query(_Request, frozen=True):
    """Ask for targets and probes, with states and counters."""

    select: Select = Select()


class Programs(_Request, frozen=True):
    """Ask for the programs that are inserted."""

    select: Select = Select()


class Vars(_Request, frozen=True):
    """Read the locals of program ``number`` (in ``pid``, if it is in several processes), or the
    globals of ``pid``.

    A program that is in several processes has its locals in each. ``count`` words from ``first``
    on are answered (``None``: all there are); ``reset`` sets them
    to 0 after they were read.
    """

    number: int | None = None
    pid: Pid | None = None
    first: Index = 0
    count: Index | None = None
    reset: bool = False


class Log(_Request, frozen=True):
    """Ask for the records of all programs: those that are kept, then ``logged``.

    With ``follow`` every later record comes after it, until the connection ends.
    """

    follow: bool = False


class Dump(_Request, frozen=True):
    """Write a core of ``pid``, which this daemon traces; it is answered when that is done."""

    pid: Pid
    zstd: bool = False


class Resume(_Request, frozen=True):
    """Let threads go on that ``suspend`` holds: one, those of ``pid``, or all.

    A process that waits for a debugger goes on too, unless another thread of it is meant.
    """

    pid: Pid | None = None
    tid: Pid | None = None


class Register(_Request, frozen=True):
    """Become a handler of a facility, until ``deregister`` or the end of the connection.

    Reports come as ``report``; at most ``queue`` of them are sent ahead of their answers. One that
    is not answered goes on to the next handler ``timeout`` seconds later.
    """

    name: Label
    facility: Label
    order: Literal["first", "lifo", "default", "last"] = "default"
    armed: bool = True
    timeout: Seconds = 1.0
    queue: Queue = 8192


class Deregister(_Request, frozen=True):
    """Take a handler of this connection off."""

    name: Label


class Handlers(_Request, frozen=True):
    """Ask for all handlers."""


class Arm(_Request, frozen=True):
    """Let these handlers get reports from now on: all of them, or none."""

    names: Labels


class Disarm(_Request, frozen=True):
    """Let these handlers get no further reports: all of them, or none."""

    names: Labels


class TraceStart(_Request, frozen=True):
    """Begin to write records: into ``folder`` (a whole path; None: the journal).

    Those of programs that end by ``exit trace``; ``everything``: all records. ``flight_bytes``:
    keep that much in memory, and write it when asked for, or when a program ends by ``exit dump``.
    ``max_bytes``, ``max_seconds``: remove the oldest chunks beyond it. ``rotate_bytes``,
    ``rotate_seconds``: begin a new chunk after it. ``namespace``: that of the journal.
    """

    name: Label
    folder: str | None = None
    format: Literal["ctf", "json", "text", "chrome", "journal"] = "ctf"
    everything: bool = False
    flight_bytes: Bytes | None = None
    max_bytes: Bytes | None = None
    max_seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None
    rotate_bytes: Bytes | None = None
    rotate_seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None
    namespace: Annotated[str, msgspec.Meta(pattern=r"\A[\w.-]*\Z", max_length=64)] = ""


class TraceStop(_Request, frozen=True):
    """End a trace session: the rest is written."""

    name: Label


class TraceSave(_Request, frozen=True):
    """Have written what a flight recorder keeps."""

    name: Label


class TraceList(_Request, frozen=True):
    """Ask for the trace sessions."""


class PolicyList(_Request, frozen=True):
    """Ask for the policies in force."""


class PolicyExplain(_Request, frozen=True):
    """Ask which policy decides about ``pid``, and why."""

    pid: Pid


class PolicyReload(_Request, frozen=True):
    """Read the policy files anew; where one is wrong, those in force stay."""


class Usage(_Request, frozen=True):
    """Ask what the daemon's own processes use."""


Request = (
    Hello | Attach | Detach | Insert | Deploy | Remove | Query | Programs | Vars | Log | Dump
    | Resume | Register | Deregister | Handlers | Arm | Disarm
    | TraceStart | TraceStop | TraceSave | TraceList
    | PolicyList | PolicyExplain | PolicyReload | Usage
)  # fmt: skip


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="answer"):
    """What ``handler`` says to a report; no request, and not replied to."""

    handler: Label
    report: Id
    verdict: Literal["continue", "terminate"]


class ProgramInfo(msgspec.Struct, frozen=True, kw_only=True, tag="program"):
    """A program in one process. ``kept``: it stays when the client that inserted it is gone."""

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


class ProbeInfo(msgspec.Struct, frozen=True, kw_only=True, tag="probe"):
    """A probe of a program in one process.

    ``hits`` counts every hit, ``ran`` those whose program ran, ``missed`` those that could not be
    served, ``dropped`` records that were lost on their way to a reader, ``faulted`` records
    withdrawn because the probed instruction itself faulted. ``reason`` says why a state is what it
    is, where that needs saying. ``handler_drops``: reports that handlers (by name) had no room for.
    ``passed``: hits while the probe was throttled, at least so many. ``engine``: which serves it;
    empty where none does.
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
    passed: int = 0
    engine: str = ""


class EarlierInfo(msgspec.Struct, frozen=True, kw_only=True, tag="earlier"):
    """What a program counted in ``processes`` that have ended, and of which nothing else is known
    any longer: sums over its probes, as in ``probe``."""

    number: int
    program: str
    module: str
    processes: int
    hits: int
    ran: int
    missed: int
    dropped: int
    faulted: int
    passed: int


class DeploymentInfo(msgspec.Struct, frozen=True, kw_only=True, tag="deployment"):
    """A program that is put into all processes that ``selection`` means.

    ``state``: ``pending`` (in no process yet) or ``active``. ``processes``: how many it is in,
    ``waiting``: how many are about to get it, ``entered``: how many it was ever in. ``missed``:
    processes that ended before it was in, ``unseen``: processes that ended before anybody could
    tell whether they were meant, ``refused``: those that could not be probed, by reason (for those
    still there ``refusals`` says which). ``hits`` and the rest: sums over all of its probes, in
    processes that ended too.
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
    ``limits``; ``budget``: for all programs in a process.
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


class PolicyStep(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one policy: its conditions up to the one that decided, as text."""

    policy: str
    place: str
    matches: bool
    tested: list[str]


class Explanation(msgspec.Struct, frozen=True, kw_only=True, tag="explanation"):
    """Which rule decides about a process (``default``: no policy matches), and what follows.

    ``protected``: why nobody may touch it, else empty; ``obstacle``: why it cannot be probed in any
    case. ``rights``: who may do what. ``programs``: what the policy puts in.
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


class DebuggerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Debugging of a process. ``held``: the threads whose programs ended with ``exit debugger``,
    while the process waits for a debugger; ``seconds``: for how long it has been held;
    ``socket``: where a debugger connects (GDB remote protocol), empty before the first such end;
    ``attached``: one is there; ``expired``: how often none came in time.
    """

    held: list[int]
    socket: str
    attached: bool
    seconds: float
    expired: int


class TargetInfo(msgspec.Struct, frozen=True, kw_only=True, tag="target"):
    """A process with probes. ``suspended``: its threads held by ``suspend``.

    ``ended`` is empty while it is traced, then says how that ended. ``overhead_ns``: the time that
    its threads spent stopped for probes. ``backend``: who holds its probes.
    """

    pid: int
    comm: str
    ended: str
    overhead_ns: int
    suspended: list[int]
    debugger: DebuggerInfo | None = None
    backend: str = TRACER


class Welcome(_Reply, frozen=True):
    """Answers ``hello``. ``facilities``: what ``exit NAME`` of a program can name."""

    protocol: int
    version: str
    pid: int
    uid: int
    facilities: dict[str, int]


class Attached(_Reply, frozen=True):
    """Answers ``attach``."""

    pid: int


class Inserted(_Reply, frozen=True):
    """Answers ``insert``."""

    programs: list[ProgramInfo]
    probes: list[ProbeInfo]


class Deployed(_Reply, frozen=True):
    """Answers ``deploy``, before any process was looked at."""

    deployments: list[DeploymentInfo]


class Removed(_Reply, frozen=True):
    """Answers ``remove`` and ``detach``: what was taken out, with its last counters."""

    probes: list[ProbeInfo]
    overhead_ns: int
    deployments: list[DeploymentInfo] = []
    earlier: list[EarlierInfo] = []


class Status(_Reply, frozen=True):
    """Answers ``query``."""

    targets: list[TargetInfo]
    probes: list[ProbeInfo]
    deployments: list[DeploymentInfo] = []
    discovery: DiscoveryInfo | None = None
    earlier: list[EarlierInfo] = []


class Listing(_Reply, frozen=True):
    """Answers ``programs``. Those in ``deployments`` are not in ``programs`` as well, unless one
    process was asked for."""

    programs: list[ProgramInfo]
    deployments: list[DeploymentInfo] = []


class Words(_Reply, frozen=True):
    """Answers ``vars``: 64-bit words, unsigned, from index ``first`` on."""

    first: int
    words: list[int]


class Logged(_Reply, frozen=True):
    """Answers ``log``, after the records that are kept; ``forgotten``: how many are not."""

    forgotten: int


class Dumped(_Reply, frozen=True):
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


class Resumed(_Reply, frozen=True):
    """Answers ``resume``: the threads that go on."""

    tids: list[int]


class Registered(_Reply, frozen=True):
    """Answers ``register`` and ``deregister``; ``number``: that of the facility."""

    handler: str
    number: int | None = None


class HandlerListing(_Reply, frozen=True):
    """Answers ``handlers``, ``arm`` and ``disarm``: all handlers, facility by facility."""

    handlers: list[HandlerInfo]


class TraceListing(_Reply, frozen=True):
    """Answers ``tracestart``, ``tracestop`` (that session) and ``tracelist`` (all of them)."""

    traces: list[TraceInfo]


class TraceSaved(_Reply, frozen=True):
    """Answers ``tracesave``: how many records are written."""

    records: int


class PolicyListing(_Reply, frozen=True):
    """Answers ``policylist`` and ``policyreload``; ``folder``: where the files are.

    ``problem``: what is wrong with the files; then ``policies`` are those of before. ``protect``:
    the kinds of processes that nobody may touch.
    """

    policies: list[PolicyInfo]
    folder: str
    problem: str
    protect: list[str]


class PolicyExplained(_Reply, frozen=True):
    """Answers ``policyexplain``."""

    explanation: Explanation


class ProcessUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What one process of dprobed uses. ``what``: ``daemon``, ``tracer`` or ``resolver``;
    ``cpu_seconds`` since it began, of user and kernel; ``memory``: resident bytes."""

    pid: int
    what: str
    cpu_seconds: float
    memory: int


class UsageInfo(_Reply, frozen=True):
    """Answers ``usage``: the daemon first."""

    processes: list[ProcessUsage]


class Error(msgspec.Struct, frozen=True, kw_only=True, tag="error"):
    """Answers a request that is not done, nor any part of it. ``id`` is null if none was read."""

    error: str
    id: int | None = None


class StateChange(msgspec.Struct, frozen=True, kw_only=True, tag="state"):
    """Probes of this connection whose state changed by itself."""

    pid: int
    probes: list[ProbeInfo]


class Notice(msgspec.Struct, frozen=True, kw_only=True, tag="notice"):
    """Something of note in a target of this connection: ``exec``, ``fork``, ``suspend``…"""

    kind: str
    pid: int
    tid: int
    text: str


class Forked(msgspec.Struct, frozen=True, kw_only=True, tag="forked"):
    """``pid``, a child of ``parent``, is a target of this connection as its parent is, with the
    same programs under the same numbers."""

    pid: int
    parent: int


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    """A target of this connection is no longer traced; ``probes`` have their last counters.

    ``how``: ``detached``, ``exited`` (``status``: exit code), ``killed`` (signal), ``gone`` or
    ``failed`` (``reason``: why the tracer ended).
    """

    pid: int
    how: str
    status: int
    reason: str
    probes: list[ProbeInfo]
    overhead_ns: int


class Handling(msgspec.Struct, frozen=True, kw_only=True, tag="report"):
    """A record for ``handler`` of this connection, to be answered by ``answer`` with its number."""

    report: int
    handler: str
    facility: str
    record: msgspec.Raw


Report = Record | StateChange | Notice | Forked | Ended | Handling
Reply = (
    Welcome | Attached | Inserted | Deployed | Removed | Status | Listing | Words | Logged
    | Dumped | Resumed | Registered | HandlerListing | TraceListing | TraceSaved
    | PolicyListing | PolicyExplained | UsageInfo | Error
)  # fmt: skip


class MessageError(Exception):
    """The peer sent something that is not a message. ``id`` is the request's, where it has one."""

    def __init__(self, text: str, request_id: int | None = None) -> None:
        super().__init__(text)
        self.id = request_id


class _Envelope(msgspec.Struct):
    id: Id | None = None


_encoder = msgspec.json.Encoder()
_request: msgspec.json.Decoder[Request | Answer] = msgspec.json.Decoder(Request | Answer)
_from_daemon: msgspec.json.Decoder[Reply | Report] = msgspec.json.Decoder(Reply | Report)
_envelope = msgspec.json.Decoder(_Envelope)


def encode(message: Request | Reply | Report) -> bytes:
    """The message as one line, newline included."""
    return _encoder.encode(message) + b"\n"


def decode_request(line: bytes) -> Request | Answer:
    """What a client said; raises MessageError."""
    try:
        return _request.decode(line)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise MessageError(_explain(error), _id_of(line)) from None


def decode_from_daemon(line: bytes) -> Reply | Report:
    """What the daemon said; raises MessageError."""
    try:
        return _from_daemon.decode(line)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise MessageError(_explain(error), _id_of(line)) from None


def _explain(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"not a message: {text}" if text else "not a message: nested too deeply"


def _id_of(line: bytes) -> int | None:
    """The id of a message that is wrong elsewhere, so that the answer can be matched to it."""
    try:
        return _envelope.decode(line).id
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


def default_socket(uid: int, environ: Mapping[str, str] = os.environ) -> Path:
    """Where the daemon of the user ``uid`` listens.

    ``/run/dprobed`` for root, else under ``XDG_RUNTIME_DIR``, else (no login session) in a folder
    of the user's own in ``/tmp``, whose ownership both sides check.
    """
    if uid == 0:
        return Path("/run/dprobed/control.sock")
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        return Path(runtime) / "dprobed" / "control.sock"
    return Path(f"/tmp/dprobed-{uid}") / "control.sock"
