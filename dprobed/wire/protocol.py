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
from typing import Final

import msgspec

from dprobed.wire.engines import TRAP
from dprobed.wire.framing import ProtocolError, frame
from dprobed.wire.limits import Limits
from dprobed.wire.notices import NoticeKind


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
    serves it, where one would have been taken.
    """

    program: int
    probe: int
    state: State
    module: str
    place: str
    reason: str
    hits: int
    ran: int
    missed: int
    dropped: int
    faulted: int
    addresses: list[int]
    engine: str = ""
    asleep_ns: int = 0
    present_ns: int = 0
    dumped: int = 0
    no_dumps: dict[str, int] = {}
    uncounted_ns: int = 0
    unwound: int = 0
    slower: str = ""


class LocalVariables(msgspec.Struct, frozen=True, array_like=True):
    """Those of a program in this target: its words, and what they were when a ``fork`` made it."""

    program: int
    words: list[int]
    inherited: list[int] = []


class MapState(msgspec.Struct, frozen=True, array_like=True):
    """Map ``number`` of a program's header in this target: keys and cells (``program.maps``), and
    the updates that found no room."""

    program: int
    number: int
    lost: int
    entries: list[tuple[list[int | bytes], list[int]]]


class MapUse(msgspec.Struct, frozen=True, array_like=True):
    """How full map ``number`` of a program is in this target."""

    program: int
    number: int
    keys: int
    lost: int


class Counted(msgspec.Struct, frozen=True, array_like=True):
    """What a target's probes and variables had counted, as its tracer notes it for whoever comes
    after it. ``start``: with ``pid`` it identifies the process. ``globals``: empty where they are
    there already. ``maps``: empty where they are ``large``."""

    pid: int
    start: int
    probes: list[ProbeStatus]
    variables: list[LocalVariables]
    globals: list[int] = []
    maps: list[MapState] = []
    large: bool = False


class Insert(msgspec.Struct, tag=True, frozen=True):
    """Insert a program: ``program`` is the daemon's number for it, ``bytecode`` a ``.dpb`` file.

    ``check_opcode`` false skips the comparison with the probe's ``opcode`` key. ``facilities``: as
    in ``Facilities``, as ``acting``. ``label``: its name in notices. ``budget``:
    what it may cost in this target. ``follow_forks``: children of the target get it, and theirs.
    ``engine``: which serves its code probes (``wire.engines``); ``auto``: the cheapest that can.
    ``max_hits``: what no probe's own may exceed (0: nothing); None: this program is free of that.
    ``former``: what it had counted in this target when its tracer was last able to say so, at
    ``former_time`` (monotonic ns): it goes on from there.
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
    bytes: int
    size: int
    how: str
    pause_ns: int
    seconds: float


class DebuggerStatus(msgspec.Struct, frozen=True, array_like=True):
    """``held``: the threads for whose sake the process waits for a debugger; ``socket``: where one
    connects, empty if none was ever invited; ``attached``: one is there; ``seconds``: since when
    the process is held; ``expired``: how often none came in time."""

    held: list[int]
    socket: str
    attached: bool
    seconds: float
    expired: int


class Ok(msgspec.Struct, tag=True, frozen=True):
    """The request is done. ``probes``: for Insert, Remove and Query, with the ``variables`` of
    programs that have some (Detach, too); ``maps``: for Maps; ``last_maps``: for Remove and Detach;
    ``map_use``: for Query; ``words``: for Vars;
    ``tids``: for Resume, the threads that go on; ``suspended``: for Query, the threads still held;
    ``debugger``: for Query; ``dump``: for Dump; ``unguarded``: for Query, why a breakpoint would
    end the process if the tracer were killed, empty where none would."""

    seq: int
    probes: list[ProbeStatus] = []
    words: list[int] = []
    tids: list[int] = []
    suspended: list[int] = []
    overhead_ns: int = 0
    debugger: DebuggerStatus | None = None
    dump: DumpStatus | None = None
    variables: list[LocalVariables] = []
    maps: list[MapState] = []
    last_maps: list[MapState] = []
    map_use: list[MapUse] = []
    unguarded: str = ""


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

    program: int
    probe: int
    place: int
    pid: int
    tid: int
    comm: bytes
    uid: int
    cpu: int
    time: int
    hit: int
    exit: int
    major: int
    minor: int
    log: bytes
    raw: tuple[int, ...]
    exception: tuple[int, int, int] | None


class Records(msgspec.Struct, tag=True, frozen=True):
    """A batch, in the order of the hits."""

    records: list[RawRecord]


class Place(msgspec.Struct, frozen=True, array_like=True):
    """``pid``: the target, also where the record's own ``pid`` is a child that shares its memory;
    ``module``: a path; ``place`` reads ``symbol+0xN``."""

    pid: int
    module: str
    place: str


class Places(msgspec.Struct, tag=True, frozen=True):
    """What ``RawRecord.place`` means, sent before the first record that uses it."""

    places: dict[int, Place]


class Changed(msgspec.Struct, tag=True, frozen=True):
    """Probes whose state changed by itself (library mapped, unmapped, max_hits, rem, exec)."""

    pid: int
    probes: list[ProbeStatus]


class TargetEvent(msgspec.Struct, tag=True, frozen=True):
    """A notice about the target: one line for people. Of cores and debuggers there are others,
    below."""

    kind: NoticeKind
    pid: int
    tid: int
    text: str


class Dumped(msgspec.Struct, tag=True, frozen=True):
    """A core was written, for which a hit of a thread had asked."""

    pid: int
    tid: int
    path: str


class NotDumped(msgspec.Struct, tag=True, frozen=True):
    """There is no core, for which a hit of a thread had asked. ``reason``: one line. ``refused``:
    how many there are not, for this reason."""

    pid: int
    tid: int
    reason: str
    refused: int


class NoDebugger(msgspec.Struct, tag=True, frozen=True):
    """A thread does not stand, or no longer, for whose hit a debugger was to come. ``reason``: one
    line."""

    pid: int
    tid: int
    reason: str


class DebuggerCame(msgspec.Struct, tag=True, frozen=True):
    """A process, and its user, came to the debugger's socket, and is in or was turned away. Not
    told to clients."""

    pid: int
    by: int
    uid: int
    admitted: bool


class Forked(msgspec.Struct, tag=True, frozen=True):
    """``pid``, a child of the target ``parent``, is a target from now on, with the same programs.

    Sent before anything else about it.
    """

    pid: int
    parent: int
    probes: list[ProbeStatus]


class Ended(msgspec.Struct, tag=True, frozen=True):
    """The last message about a target. ``how``: detached, exited, killed, gone, or failed (internal
    error in the tracer). ``status``: code or signal. ``maps``: what was in them, if it was not told
    of already in the answer to Detach."""

    pid: int
    how: str
    status: int
    probes: list[ProbeStatus]
    overhead_ns: int
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
