"""The reports that the daemon sends to a client between replies."""

# Without `from __future__ import annotations`: msgspec compiles annotations that are strings, each
# one when a decoder is made, which takes four times as long.

import msgspec

from dprobed.record.record import Record
from dprobed.wire.messages.listings import MapInfo, ProbeInfo, VariablesInfo
from dprobed.wire.notices import NoticeKind


class StateChange(msgspec.Struct, frozen=True, kw_only=True, tag="state"):
    """Probes of this connection whose state changed by itself."""

    pid: int
    probes: list[ProbeInfo]


class Notice(msgspec.Struct, frozen=True, kw_only=True, tag="notice"):
    """Something of note in a target of this connection. ``program``: what it executes now, of an
    ``exec``; ``core``: where a core is, of a ``dump``."""

    kind: NoticeKind
    pid: int
    tid: int
    text: str
    program: str = ""
    core: str = ""


class Forked(msgspec.Struct, frozen=True, kw_only=True, tag="forked"):
    """``pid``, a child of ``parent``, is a target of this connection as its parent is, with the
    same programs under the same numbers."""

    pid: int
    parent: int


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    """A target of this connection is no longer traced; ``probes`` have their last counters,
    ``variables`` and ``maps`` their last values.

    ``how``: ``detached``, ``exited`` (``status``: exit code), ``killed`` (signal), ``gone`` or
    ``failed`` (``reason``: why the tracer ended).
    """

    pid: int
    how: str
    status: int
    reason: str
    probes: list[ProbeInfo]
    overhead_ns: int
    variables: list[VariablesInfo] = []
    maps: list[MapInfo] = []


class Over(msgspec.Struct, frozen=True, kw_only=True, tag="over"):
    """The time of program ``number`` of this connection is over, and it is out of ``pid``;
    ``probes``, ``variables`` and ``maps`` are as they were at the end. ``text``: one line;
    ``rule``: who said that it ends, empty: this connection."""

    pid: int
    number: int
    text: str
    rule: str
    probes: list[ProbeInfo]
    variables: list[VariablesInfo] = []
    maps: list[MapInfo] = []


class Handling(msgspec.Struct, frozen=True, kw_only=True, tag="report"):
    """A record for ``handler`` of this connection, to be answered by ``answer`` with its number."""

    report: int
    handler: str
    facility: str
    record: msgspec.Raw


Report = Record | StateChange | Notice | Forked | Ended | Over | Handling
