"""The record of one hit, as clients and handlers get it."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from dprobed.program.exceptions import ExCode

#: The backend that records and targets are from where nothing else is said: a tracer process.
TRACER: Final = "tracer"
#: Of JSON that is printed or kept: changes where a field gets another meaning, or goes.
SCHEMA: Final = 1
_TAG: Final = b'{"type":"record",'
_TAG_SCHEMA: Final = b'{"type":"record","schema":%d,' % SCHEMA


class Raised(msgspec.Struct, frozen=True, kw_only=True):
    """The exception that ended a program: its ``code``, the code's ``name`` and two parameters."""

    code: int
    name: str
    parm1: int
    parm2: int


class Record(msgspec.Struct, frozen=True, kw_only=True, tag="record", omit_defaults=True):
    """What one hit of one probe reported.

    ``time``: monotonic, in ns. ``hit``: the probe's count of hits, from 1. ``exit``: ``exit``, the
    facility that the program chose, ``rem``, ``budget`` or ``exception``. ``log``: what was logged,
    in order: ``value`` with its ``kind`` and ``name``, ``words``, ``string``, ``memory`` (hex) with
    its ``address``, ``fault``, ``stack``… ``backend``: who held the probe; left out where it was a
    tracer.
    """

    program: str
    major: int
    minor: int
    module: str
    place: str
    pid: int
    tid: int
    comm: str
    uid: int
    cpu: int
    time: int
    hit: int
    exit: str
    log: list[dict[str, Any]]
    exception: Raised | None = None
    backend: str = TRACER


def raised(triple: tuple[int, int, int]) -> Raised:
    """The exception that ended a program, by name."""
    code, parm1, parm2 = triple
    name = ExCode(code).name if code in ExCode._value2member_map_ else ExCode.USER.name
    return Raised(code=code, name=name, parm1=parm1, parm2=parm2)


def published(line: bytes) -> bytes:
    """A record as it is printed and kept: the daemon's line, with the version of its form."""
    return _TAG_SCHEMA + line.removeprefix(_TAG)
