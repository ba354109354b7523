"""The protocol between the daemon and a tracer.

A connected stream socket; each message is a length and a msgpack body (framing.py). The daemon
sends ``Request``s, the tracer answers each by one ``Reply`` with the same ``seq`` and sends
``Event``s at any time. ``pid`` says which of its targets a message is about. The daemon
closes the socket to end a tracer: it removes its probes from all targets, detaches and exits.
Codec only: nothing here opens a socket.
"""

# Without `from __future__ import annotations`: msgspec compiles annotations that are strings, each
# one when a decoder is made, which takes four times as long.

from enum import StrEnum
from typing import Annotated, Final

import msgspec

from dprobed.wire.engines import TRAP
from dprobed.wire.framing import ProtocolError, frame
from dprobed.wire.limits import Limits
from dprobed.wire.notices import NoticeKind

#: Numbers as they come from a tracer, which may send anything: what is out of range is no message.
#: So whoever packs them may trust their width. (None is above 64 bits in msgpack.)
U32 = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
I32 = Annotated[int, msgspec.Meta(ge=-(1 << 31), le=(1 << 31) - 1)]
U64 = Annotated[int, msgspec.Meta(ge=0)]
#: Runs of words in a log: two numbers each.
_Runs = Annotated[tuple[U64, ...], msgspec.Meta(max_length=(1 << 16) - 2)]


class State(StrEnum):
    """State of one probe in one target (the client shows these words)."""

    PENDING = "pending"
    ACTIVE = "active"
    MISMATCH = "mismatch"
    DISABLED = "disabled"
    REMOVED = "removed"
    INVALID_OFFSET = "invalid offset"
    NO_DEBUG_REGISTER = "no debug register"
    WATCHPOINT_LENGTH = "watchpoint length invalid"
    EXCLUDED = "excluded"
    THROTTLED = "throttled"
    FAILED = "failed"


class Attach(msgspec.Struct, tag=True, frozen=True):
    """Trace ``pid``, besides the targets that the tracer has already.

    ``launch``: the process waits at a gate before its ``exec``; probes go in right after it, before
    the first instruction of the new image. ``hold_limit``: for how many seconds ``exit debugger``
    holds it without a debugger. ``follow_forks``: its children get all programs, and theirs.
    ``hold_thread``: it holds only the thread that hit. ``budget``: for all programs in it.
    ``only_guarded``: the rule that refuses breakpoints where the process would not survive the
    tracer's death; empty: none does.
    """

    seq: int
    pid: int
    launch: bool = False
    hold_limit: float = 600.0
    follow_forks: bool = False
    hold_thread: bool = False
    budget: Limits | None = None
    only_guarded: str = ""


class Adjust(msgspec.Struct, tag=True, frozen=True):
    """Change how a target is treated; the fields are as in ``Attach``, ``max_hits`` is as in
    ``Insert``, for all programs that are not free of it."""

    seq: int
    pid: int
    follow_forks: bool = False
    hold_thread: bool = False
    budget: Limits | None = None
    only_guarded: str = ""
    max_hits: int = 0


class ProbeStatus(msgspec.Struct, frozen=True, array_like=True):
    """One probe of one program in this target.

    ``place`` reads ``symbol+0xN``; ``module`` is the path as the target maps it. ``hits`` counts
    every hit, ``ran`` those whose program ran, ``missed`` those that could not be served,
    ``dropped`` records that were lost on the way to the daemon, ``faulted`` records withdrawn
    because the probed instruction itself faulted. ``addresses``: where the probe is in memory.
    ``engine``: which one serves it (``wire.engines``); empty while it has no place.
    ``present_ns``: since it was first in; for ``asleep_ns`` of that it was throttled. ``dumped``:
    cores that were written for it; ``no_dumps``: hits that asked for one in vain, by reason.
    ``uncounted_ns``: for how long of that dprobed itself was gone, and came again. ``unwound``:
    calls that were left without returning, of a return probe. ``slower``: why no faster engine
    serves it, where one would have been taken. ``spent_ns``: for how long threads have stood for
    it.
    """

    program: U32
    probe: U32
    state: State
    module: str
    place: str
    reason: str
    hits: U64
    ran: U64
    missed: U64
    dropped: U64
    faulted: U64
    addresses: list[U64]
    engine: str = ""
    asleep_ns: U64 = 0
    present_ns: U64 = 0
    dumped: U64 = 0
    no_dumps: dict[str, U64] = {}
    uncounted_ns: U64 = 0
    unwound: U64 = 0
    slower: str = ""
    spent_ns: U64 = 0


class LocalVariables(msgspec.Struct, frozen=True, array_like=True):
    """Those of a program in this target: its words, and what they were when a ``fork`` made it."""

    program: U32
    words: list[U64]
    inherited: list[U64] = []


class MapState(msgspec.Struct, frozen=True, array_like=True):
    """Map ``number`` of a program's header in this target: keys and cells (``program.maps``), and
    the updates that found no room."""

    program: U32
    number: U32
    lost: U64
    entries: list[tuple[list[int | bytes], list[int]]]


class MapUse(msgspec.Struct, frozen=True, array_like=True):
    """How full map ``number`` of a program is in this target."""

    program: U32
    number: U32
    keys: U64
    lost: U64


class Counted(msgspec.Struct, frozen=True, array_like=True):
    """What a target's probes and variables had counted, as its tracer notes it for whoever comes
    after it. ``start``: with ``pid`` it identifies the process. ``globals``: empty where they are
    there already. ``maps``: empty where they are ``large``."""

    pid: U32
    start: U64
    probes: list[ProbeStatus]
    variables: list[LocalVariables]
    globals: list[U64] = []
    maps: list[MapState] = []
    large: bool = False


class FilePlaces(msgspec.Struct, frozen=True):
    """Where a program's probes are in a file: the offset of each, in their order.

    ``identity``: what tells the file from any that may have its ``path`` by now.
    """

    path: str
    identity: tuple[int, int, int, int, int]
    offsets: list[int]


class Insert(msgspec.Struct, tag=True, frozen=True):
    """Insert a program: ``program`` is the daemon's number for it, ``bytecode`` a ``.dpb`` file.

    ``check_opcode`` false skips the comparison with the probe's ``opcode`` key. ``facilities``: as
    in ``Facilities``, as ``acting``. ``label``: its name in notices. ``budget``:
    what it may cost in this target. ``follow_forks``: children of the target get it, and theirs.
    ``engine``: which serves its code probes (``wire.engines``); ``auto``: the cheapest that can.
    ``max_hits``: what no probe's own may exceed (0: nothing); None: this program is free of that.
    ``former``: what it had counted in this target when its tracer was last able to say so, at
    ``former_time`` (monotonic ns): it goes on from there. ``file``: of a program for processes that
    the kernel is to place, and not a tracer.
    """

    seq: int
    pid: int
    program: int
    bytecode: bytes
    check_opcode: bool = True
    facilities: dict[str, int] = {}
    acting: list[int] | None = None
    label: str = ""
    budget: Limits | None = None
    follow_forks: bool = False
    engine: str = TRAP
    max_hits: int | None = 0
    former: Counted | None = None
    former_time: int = 0
    file: FilePlaces | None = None


class Remove(msgspec.Struct, tag=True, frozen=True):
    """Remove a program; ``None``: all."""

    seq: int
    pid: int
    program: int | None = None


class Query(msgspec.Struct, tag=True, frozen=True):
    """Ask for the present state and counters of all probes (the reply's ``probes``)."""

    seq: int
    pid: int


class Vars(msgspec.Struct, tag=True, frozen=True):
    """Read the locals of ``program`` (``None``: the globals), and set them to 0 if ``reset``.

    ``count`` words from ``first`` on (``None``: all there are).
    """

    seq: int
    pid: int
    program: int | None = None
    first: int = 0
    count: int | None = None
    reset: bool = False


class Maps(msgspec.Struct, tag=True, frozen=True):
    """Read the maps of ``program``, or the one of this ``name``. ``reset``: then empty them
    (``clear``), or begin anew at each key (``zero``)."""

    seq: int
    pid: int
    program: int
    reset: str = ""
    name: str = ""


class SetMap(msgspec.Struct, tag=True, frozen=True):
    """Set these keys of a map of ``program``, which is one of values then, and forget those that
    are ``gone``."""

    seq: int
    pid: int
    program: int
    name: str
    entries: list[tuple[list[int | bytes], list[int]]]
    gone: list[list[int | bytes]] = []


class Facilities(msgspec.Struct, tag=True, frozen=True):
    """The facilities that exist now, by name: what ``exit NAME`` can name.

    In inserted programs, ``exit`` to a facility that is gone raises INVALID_OPERAND.
    ``acting``: those for which the tracer does something itself; None: all that it can.
    """

    seq: int
    facilities: dict[str, int]
    acting: list[int] | None = None


class Dump(msgspec.Struct, tag=True, frozen=True):
    """Write a core of the target now; it is answered when that is done. ``zstd``: compressed."""

    seq: int
    pid: int
    zstd: bool = False


class Resume(msgspec.Struct, tag=True, frozen=True):
    """Resume a thread that ``suspend`` stopped; ``None``: all of them."""

    seq: int
    pid: int
    tid: int | None = None


class Recover(msgspec.Struct, tag=True, frozen=True):
    """Undo what a tracer that was killed has left in its targets, as its change journal says, which
    this one was given. Answered when all is done that can be, with those that have another tracer
    as ``tids``; ``TargetEvent``s (``recovered``, ``orphan``) say what became of each."""

    seq: int


class Detach(msgspec.Struct, tag=True, frozen=True):
    """Remove all probes from ``pid``, detach, answer and send ``Ended``."""

    seq: int
    pid: int


Request = (
    Attach | Adjust | Insert | Remove | Query | Vars | Maps | SetMap | Facilities | Dump | Resume
    | Recover | Detach
)  # fmt: skip


#: The reason that stands in ``no_dumps`` for all those that are too many to be counted one by one.
OTHER_REASONS: Final = "other reasons"


class DumpStatus(msgspec.Struct, frozen=True, array_like=True):
    """A core that was written: ``bytes`` on disk, ``size`` with its holes. ``how``: ``snapshot``
    or ``stopped``; ``pause_ns``: how long the target stood still for it."""

    path: str
    bytes: U64
    size: U64
    how: str
    pause_ns: U64
    seconds: float


class DebuggerStatus(msgspec.Struct, frozen=True, array_like=True):
    """``held``: the threads for whose sake the process waits for a debugger; ``socket``: where one
    connects, empty if none was ever invited; ``attached``: one is there; ``seconds``: since when
    the process is held; ``expired``: how often none came in time."""

    held: list[U32]
    socket: str
    attached: bool
    seconds: float
    expired: U64


class Ok(msgspec.Struct, tag=True, frozen=True):
    """The request is done. ``probes``: for Insert, Remove and Query, with the ``variables`` of
    programs that have some (Detach, too); ``maps``: for Maps; ``last_maps``: for Remove and Detach;
    ``map_use``: for Query; ``words``: for Vars;
    ``tids``: for Resume, the threads that go on; ``suspended``: for Query, the threads still held;
    ``debugger``: for Query; ``dump``: for Dump; ``unguarded``: for Query, why a breakpoint would
    end the process if the tracer were killed, empty where none would; ``stopped_ns``: for Query,
    for how long job control has stopped the process, 0 where it has not."""

    seq: int
    probes: list[ProbeStatus] = []
    words: list[U64] = []
    tids: list[U64] = []
    suspended: list[U64] = []
    overhead_ns: U64 = 0
    debugger: DebuggerStatus | None = None
    dump: DumpStatus | None = None
    variables: list[LocalVariables] = []
    maps: list[MapState] = []
    last_maps: list[MapState] = []
    map_use: list[MapUse] = []
    unguarded: str = ""
    stopped_ns: U64 = 0


class Refused(msgspec.Struct, tag=True, frozen=True):
    """The request is not done, and nothing of it is. ``reason``: one line, with what to do."""

    seq: int
    reason: str


Reply = Ok | Refused


class RawRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One hit's result, its log not yet decoded (``record.log.decode_log``).

    ``exit``: 0 plain, n a facility, negative the codes of ``program.exits``. ``hit``: the probe's
    count of hits, from 1. ``time``: monotonic ns. ``cpu`` may be as of 0.1 ms before. ``raw``:
    where in ``log`` words without prefix lie.
    """

    program: U32
    probe: U32
    place: U64
    pid: U32
    tid: U32
    comm: bytes
    uid: U32
    cpu: U32
    time: U64
    hit: U64
    exit: I32
    major: U64
    minor: U64
    log: bytes
    raw: _Runs
    exception: tuple[U64, U64, U64] | None


class Records(msgspec.Struct, tag=True, frozen=True):
    """A batch, in the order of the hits."""

    records: list[RawRecord]


class Place(msgspec.Struct, frozen=True, array_like=True):
    """``pid``: the target, also where the record's own ``pid`` is a child that shares its memory;
    ``module``: a path; ``place`` reads ``symbol+0xN``."""

    pid: U32
    module: str
    place: str


class Places(msgspec.Struct, tag=True, frozen=True):
    """What ``RawRecord.place`` means, sent before the first record that uses it."""

    places: dict[U64, Place]


class Changed(msgspec.Struct, tag=True, frozen=True):
    """Probes whose state changed by itself (library mapped, unmapped, max_hits, rem, exec)."""

    pid: U32
    probes: list[ProbeStatus]


class TargetEvent(msgspec.Struct, tag=True, frozen=True):
    """A notice about the target: one line for people. Of cores and debuggers there are others,
    below."""

    kind: NoticeKind
    pid: U32
    tid: U32
    text: str


class Dumped(msgspec.Struct, tag=True, frozen=True):
    """A core was written, for which a hit of a thread had asked."""

    pid: U32
    tid: U32
    path: str


class NotDumped(msgspec.Struct, tag=True, frozen=True):
    """There is no core, for which a hit of a thread had asked. ``reason``: one line. ``refused``:
    how many there are not, for this reason."""

    pid: U32
    tid: U32
    reason: str
    refused: U64


class NoDebugger(msgspec.Struct, tag=True, frozen=True):
    """A thread does not stand, or no longer, for whose hit a debugger was to come. ``reason``: one
    line."""

    pid: U32
    tid: U32
    reason: str


class DebuggerCame(msgspec.Struct, tag=True, frozen=True):
    """A process, and its user, came to the debugger's socket, and is in or was turned away. Not
    told to clients."""

    pid: U32
    by: U32
    uid: U32
    admitted: bool


class Forked(msgspec.Struct, tag=True, frozen=True):
    """``pid``, a child of the target ``parent``, is a target from now on, with the same programs.

    Sent before anything else about it.
    """

    pid: U32
    parent: U32
    probes: list[ProbeStatus]


class Ended(msgspec.Struct, tag=True, frozen=True):
    """The last message about a target. ``how``: detached, exited, killed, gone, or failed (internal
    error in the tracer). ``status``: code or signal. ``maps``: what was in them, if it was not told
    of already in the answer to Detach."""

    pid: U32
    how: str
    status: I32
    probes: list[ProbeStatus]
    overhead_ns: U64
    variables: list[LocalVariables] = []
    maps: list[MapState] = []


Notice = TargetEvent | Dumped | NotDumped | NoDebugger | DebuggerCame
Event = Records | Places | Changed | Notice | Forked | Ended

_decode_counts = msgspec.msgpack.Decoder(list[Counted]).decode
_encode = msgspec.msgpack.Encoder().encode
_decode_request = msgspec.msgpack.Decoder(Request).decode
_decode_from_tracer = msgspec.msgpack.Decoder(Reply | Event).decode


def pack(message: Request | Reply | Event) -> bytes:
    """The message as it goes over the socket, its length first."""
    return frame(_encode(message))


def pack_counts(counts: list[Counted]) -> bytes:
    """What a tracer's targets have counted, as it notes that (``last_counts``)."""
    return _encode(counts)


def decode_counts(note: bytes) -> list[Counted]:
    """What a tracer has noted; raises ProtocolError."""
    try:
        return _decode_counts(note)
    except msgspec.MsgspecError as error:
        raise ProtocolError(str(error)) from error


def decode_request(body: bytes) -> Request:
    """A message from the daemon; raises ProtocolError."""
    try:
        message: Request = _decode_request(body)
    except msgspec.MsgspecError as error:
        raise ProtocolError(str(error)) from error
    return message


def decode_from_tracer(body: bytes) -> Reply | Event:
    """A message from the tracer; raises ProtocolError."""
    try:
        message: Reply | Event = _decode_from_tracer(body)
    except msgspec.MsgspecError as error:
        raise ProtocolError(str(error)) from error
    return message
