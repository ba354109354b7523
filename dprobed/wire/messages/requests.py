"""The requests of clients, and a handler's answer."""

# Without `from __future__ import annotations`: msgspec compiles annotations that are strings, each
# one when a decoder is made, which takes four times as long.

from typing import Annotated, Literal

import msgspec

from dprobed.wire.limits import Limits
from dprobed.wire.messages.common import (
    Bytes,
    Id,
    Index,
    Label,
    Labels,
    MapEntry,
    Pid,
    PidOrKernel,
    Present,
    Queue,
    RequestMessage,
    Seconds,
)


class Hello(RequestMessage, frozen=True):
    """The first request: which version of this protocol the client speaks."""

    protocol: int


class Attach(RequestMessage, frozen=True):
    """Trace ``pid`` for this connection, until ``detach`` or the end of the connection.

    ``launch``: the process waits at a gate before its ``exec``, and probes go in right after it.
    ``follow_forks``: its children, and theirs, get the same programs as they begin; each is a
    process of its own from then on, told by ``forked``.
    """

    pid: Pid
    launch: bool = False
    follow_forks: bool = False


class Detach(RequestMessage, frozen=True):
    """Remove from ``pid`` what this connection inserted, and detach from it."""

    pid: Pid


class Upload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One program: ``bytecode`` is a ``.dpb`` file, ``label`` the name that its records carry,
    ``budget`` what it may cost each process that it is in (a client names no ``rule`` in it).
    ``engine``: by which engine its probes are to fire; ``auto``: whichever suits each.
    ``seconds``: after how many it is taken out, if it is still in.
    """

    label: Label
    bytecode: bytes
    budget: Limits | None = None
    engine: Annotated[str, msgspec.Meta(max_length=64)] = "trap"
    seconds: Annotated[float, msgspec.Meta(gt=0, le=1e12)] | None = None

    def __post_init__(self) -> None:
        """Refuse what would have its limits look like a policy's."""
        if self.budget is not None and self.budget.rule:
            raise ValueError("`rule` of a budget is for the daemon to say")


class Insert(RequestMessage, frozen=True):
    """Insert programs into ``pid``, and into the processes ``also``: all of them into each, or none
    into any. An ``attach`` of this connection comes first.

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
    also: Annotated[list[Pid], msgspec.Meta(max_length=1000)] = []


class InsertKernel(RequestMessage, frozen=True):
    """Insert programs of ``modtype`` kernel or kmod into the kernel, all of them or none; or such
    of ``modtype`` user whose ``engine`` is ``kernel``: it places them in a file, for every process
    that maps it, now or later.

    ``files``: the path of the file of each program for processes, and an empty text for each other;
    nothing where all are others. The other fields are as in ``insert``. The daemon is root's, and
    so is the client.
    """

    programs: Annotated[list[Upload], msgspec.Meta(min_length=1, max_length=1000)]
    keep: bool = False
    check_opcode: bool = True
    present: Present = "merge"
    files: Annotated[
        list[Annotated[str, msgspec.Meta(max_length=4096)]], msgspec.Meta(max_length=1000)
    ] = []


class Check(RequestMessage, frozen=True):
    """Say whether programs can be put into ``pid``; no process is touched.

    It is refused as ``insert`` would be: for a program that is not well formed, a facility that is
    not there, a right that is denied. ``places``: look also for the place of each probe in the
    files that the process maps, and answer which are in none.
    """

    pid: Pid
    programs: Annotated[list[Upload], msgspec.Meta(min_length=1, max_length=1000)]
    places: bool = True


class Selection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A selection of processes, future ones included: those for which all given conditions hold.

    ``exe``: a glob for the path of the executable; without a slash for its base name. ``user``: a
    name or number. ``unit``: a glob for the systemd unit. ``policy``: those that the policy of that
    name decides about. Nothing given: every process.
    """

    exe: Annotated[str, msgspec.Meta(max_length=4096)] | None = None
    user: Label | None = None
    unit: Label | None = None
    policy: Label | None = None


class Deploy(RequestMessage, frozen=True):
    """Deploy programs to all processes that are selected and map the program's module.

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
    """A selection of programs: those for which all given conditions hold.

    ``number``: the daemon's number of the program; ``label``: the name it was inserted under;
    ``program_id``: the ``id`` of its header; ``module``: the module that it is for, as written in
    its header or as a target maps it (the base name is enough); ``pid``: the process it is in.
    """

    number: int | None = None
    label: str | None = None
    program_id: int | None = None
    module: str | None = None
    pid: int | None = None


class Remove(RequestMessage, frozen=True):
    """Remove programs; with nothing selected, all of them."""

    select: Select = Select()


class Query(RequestMessage, frozen=True):
    """Ask for targets and probes, with states and counters."""

    select: Select = Select()


class Programs(RequestMessage, frozen=True):
    """Ask for the programs that are inserted."""

    select: Select = Select()


class Vars(RequestMessage, frozen=True):
    """Read the locals of program ``number`` (in ``pid``, if it is in several processes), or the
    globals of ``pid``.

    A program that is in several processes has its locals in each. ``count`` words from ``first``
    on are answered (``None``: all there are); ``reset`` sets them
    to 0 after they were read.
    """

    number: int | None = None
    pid: PidOrKernel | None = None
    first: Index = 0
    count: Index | None = None
    reset: bool = False


class Maps(RequestMessage, frozen=True):
    """Read the maps of the selected programs; ``name``: only those of that name.

    They are merged over processes, ended ones included; ``by_process``: each by itself. ``reset``:
    then all keys are forgotten (``clear``), or begin anew (``zero``), with what was lost.
    """

    select: Select = Select()
    name: Label | None = None
    by_process: bool = False
    reset: Literal["", "clear", "zero"] = ""


class SetMap(RequestMessage, frozen=True):
    """Set ``entries`` of a map of program ``number``, which is of kind ``value`` then, and forget
    the keys that are ``gone`` (of any kind), in each process that it is in (``pid``: in that one),
    and in what is kept of ended ones; other keys stay. In each process either all of that is done,
    or nothing."""

    number: int
    name: Label
    entries: list[MapEntry] = []
    gone: list[list[int | str]] = []
    pid: Pid | None = None


class Log(RequestMessage, frozen=True):
    """Ask for the records of all programs: those that are kept, then ``logged``.

    With ``follow`` every later record comes after it, until the connection ends.
    """

    follow: bool = False


class Dump(RequestMessage, frozen=True):
    """Write a core of ``pid``, which this daemon traces; it is answered when that is done."""

    pid: Pid
    zstd: bool = False


class Resume(RequestMessage, frozen=True):
    """Resume threads stopped by ``suspend``: one, those of ``pid``, or all.

    A process that waits for a debugger goes on too, unless another thread of it is meant.
    """

    pid: Pid | None = None
    tid: Pid | None = None


class Register(RequestMessage, frozen=True):
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


class Deregister(RequestMessage, frozen=True):
    """Deregister a handler of this connection."""

    name: Label


class Handlers(RequestMessage, frozen=True):
    """Ask for all handlers."""


class Arm(RequestMessage, frozen=True):
    """Arm these handlers, all of them or none: they get reports from now on."""

    names: Labels


class Disarm(RequestMessage, frozen=True):
    """Disarm these handlers, all of them or none: they get no further reports."""

    names: Labels


class TraceStart(RequestMessage, frozen=True):
    """Start a trace session, which writes records: into ``folder`` (a whole path; None: the
    journal).

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


class TraceStop(RequestMessage, frozen=True):
    """Stop a trace session; the rest is written."""

    name: Label


class TraceSave(RequestMessage, frozen=True):
    """Save a flight recorder."""

    name: Label


class TraceList(RequestMessage, frozen=True):
    """Ask for the trace sessions."""


class PolicyList(RequestMessage, frozen=True):
    """Ask for the policies in force."""


class PolicyExplain(RequestMessage, frozen=True):
    """Ask which policy decides about ``pid``, and why."""

    pid: Pid


class PolicyReload(RequestMessage, frozen=True):
    """Reload the policy files; if one is wrong, the policies in force stay."""


class Usage(RequestMessage, frozen=True):
    """Ask for the CPU time and memory of the daemon's own processes."""


Request = (
    Hello | Attach | Detach | Check | Insert | InsertKernel | Deploy | Remove | Query | Programs
    | Vars | Maps | SetMap | Log | Dump | Resume | Register | Deregister | Handlers | Arm | Disarm
    | TraceStart | TraceStop | TraceSave | TraceList
    | PolicyList | PolicyExplain | PolicyReload | Usage
)  # fmt: skip


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="answer"):
    """A handler's answer to a report; no request, and not replied to."""

    handler: Label
    report: Id
    verdict: Literal["continue", "terminate"]
