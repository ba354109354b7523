"""The structures of ``kernel_bridge/uapi/dprobes.h``, and a program as the kernel takes it.

A test compares sizes and offsets with the header.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from dprobed.program.isa import ModType, Operand, decode_at
from dprobed.program.maps import KIND_NUMBERS, MapDefinition
from dprobed.program.model import Program

ABI: Final = 4
AUTOSTACKTRACE: Final = 1
SIGNED: Final = 1

_u8, _u16, _u32, _u64 = ctypes.c_uint8, ctypes.c_uint16, ctypes.c_uint32, ctypes.c_uint64
_s32, _s64 = ctypes.c_int32, ctypes.c_int64


class Version(ctypes.Structure):
    """``struct dprobes_version``."""

    _fields_ = (("abi", _u32), ("isa", _u32))


class Probe(ctypes.Structure):
    """``struct dprobes_probe``."""

    _fields_ = (
        ("entry", _u32),
        ("end", _u32),
        ("heap", _u32),
        ("pass_count", _u32),
        ("max_hits", _u32),
        ("minor", _u16),
        ("ex_mask", _u16),
        ("split", _u32),
    )


class Name(ctypes.Structure):
    """``struct dprobes_name``."""

    _fields_ = (("size", _u8), ("text", _u8 * 63))


class Map(ctypes.Structure):
    """``struct dprobes_map``."""

    _fields_ = (
        ("kind", _u32),
        ("keys", _u32),
        ("size", _u32),
        ("flags", _u32),
        ("arguments", _s64 * 3),
    )


class Load(ctypes.Structure):
    """``struct dprobes_load``."""

    _fields_ = (
        ("modtype", _u32),
        ("flags", _u32),
        ("major", _u32),
        ("vars", _u32),
        ("gvars", _u32),
        ("jmpmax", _u32),
        ("logmax", _u32),
        ("ex_logmax", _u32),
        ("code_size", _u32),
        ("probe_count", _u32),
        ("facility_count", _u32),
        ("name_count", _u32),
        ("ring", _u32),
        ("map_count", _u32),
        ("code", _u64),
        ("probes", _u64),
        ("facilities", _u64),
        ("names", _u64),
        ("symbols", _u64),
        ("maps", _u64),
        ("refused", _u32),
        ("where", _u32),
    )


class Attach(ctypes.Structure):
    """``struct dprobes_attach``."""

    _fields_ = (
        ("probe", _u32),
        ("kind", _u32),
        ("offset", _u64),
        ("address", _u64),
        ("length", _u32),
        ("pad", _u32),
        ("symbol", _u8 * 128),
    )


class Query(ctypes.Structure):
    """``struct dprobes_query``."""

    _fields_ = (
        ("probe", _u32),
        ("state", _u32),
        ("error", _u32),
        ("pad", _u32),
        ("address", _u64),
        ("hits", _u64),
        ("runs", _u64),
        ("recursed", _u64),
        ("missed", _u64),
    )


class Vars(ctypes.Structure):
    """``struct dprobes_vars``."""

    _fields_ = (
        ("global_", _u32),
        ("first", _u32),
        ("count", _u32),
        ("pad", _u32),
        ("words", _u64),
    )


class Stats(ctypes.Structure):
    """``struct dprobes_stats``."""

    _fields_ = (("written", _u64), ("lost", _u64))


class Contents(ctypes.Structure):
    """``struct dprobes_contents``."""

    _fields_ = (
        ("map", _u32),
        ("reset", _u32),
        ("data", _u64),
        ("room", _u64),
        ("size", _u64),
        ("lost", _u64),
        ("keys", _u32),
        ("pad", _u32),
    )


class Entry(ctypes.Structure):
    """``struct dprobes_entry``."""

    _fields_ = (("key_size", _u32), ("words", _u32))


class Record(ctypes.Structure):
    """``struct dprobes_record``."""

    _fields_ = (
        ("size", _u32),
        ("probe", _u32),
        ("time", _u64),
        ("address", _u64),
        ("hit", _u64),
        ("exit", _s32),
        ("major", _u16),
        ("minor", _u16),
        ("pid", _u32),
        ("tid", _u32),
        ("uid", _u32),
        ("cpu", _u32),
        ("log_size", _u32),
        ("raw_count", _u32),
        ("exception", _u64 * 3),
        ("comm", _u8 * 16),
    )


class Raw(ctypes.Structure):
    """``struct dprobes_raw``."""

    _fields_ = (("offset", _u16), ("words", _u16))


#: Structure in the header → its mirror.
STRUCTURES: Final[dict[str, type[ctypes.Structure]]] = {
    "dprobes_version": Version,
    "dprobes_probe": Probe,
    "dprobes_name": Name,
    "dprobes_map": Map,
    "dprobes_load": Load,
    "dprobes_attach": Attach,
    "dprobes_query": Query,
    "dprobes_vars": Vars,
    "dprobes_stats": Stats,
    "dprobes_contents": Contents,
    "dprobes_entry": Entry,
    "dprobes_record": Record,
    "dprobes_raw": Raw,
}


class Refusal(IntEnum):
    """``enum dprobes_refusal``: why the module refuses a program."""

    OK = 0
    BAD_MODTYPE = 1
    BAD_HEADER = 2
    BAD_PROBE = 3
    BAD_FACILITY = 4
    BAD_NAME = 5
    BAD_MAP = 6
    UNKNOWN_OPCODE = 7
    CUT_SHORT = 8
    BAD_OPERAND = 9
    BAD_JUMP = 10
    RUNS_PAST_END = 11
    BAD_KEY = 12
    TOO_MANY_BLOCKS = 13
    NO_FPU = 14
    NO_HOLD = 15
    NO_TLS = 16
    NO_WRITE_CHECK = 17
    NOT_KERNEL = 18
    NO_USTACK = 19
    NOT_YET = 20
    NO_ALTER = 21


class Kind(IntEnum):
    """``enum dprobes_kind``: what a probe is placed on."""

    CODE = 0
    WATCH_X = 1
    WATCH_W = 2
    WATCH_RW = 3
    TRACEPOINT = 4
    HOOK = 5
    FILE = 6
    LEAVE = 7


class Reset(IntEnum):
    """``enum dprobes_reset``: what becomes of a map when it was read."""

    KEEP = 0
    CLEAR = 1
    ZERO = 2


class State(IntEnum):
    """``enum dprobes_state``."""

    COMPILED = 0
    ACTIVE = 1
    DISABLED = 2
    REMOVED = 3
    PENDING = 4
    FAILED = 5


def _ioc(direction: int, number: int, kind: type[ctypes.Structure]) -> int:
    return direction << 30 | ctypes.sizeof(kind) << 16 | 0xDB << 8 | number


_WRITE, _READ = 1, 2

#: Name in the header → number of the request.
REQUESTS: Final = {
    "DPROBES_VERSION": _ioc(_READ, 0, Version),
    "DPROBES_LOAD": _ioc(_READ | _WRITE, 1, Load),
    "DPROBES_ATTACH": _ioc(_WRITE, 2, Attach),
    "DPROBES_QUERY": _ioc(_READ | _WRITE, 3, Query),
    "DPROBES_GETVARS": _ioc(_WRITE, 4, Vars),
    "DPROBES_SETVARS": _ioc(_WRITE, 5, Vars),
    "DPROBES_STATS": _ioc(_READ, 6, Stats),
    "DPROBES_CONTENTS": _ioc(_READ | _WRITE, 7, Contents),
    "DPROBES_DETACH": 0xDB << 8 | 8,
}


#: The fields of ``Load`` that are addresses, in the order of ``load_arrays``.
ARRAYS: Final = ("code", "probes", "facilities", "names", "symbols", "maps")


def load_header(program: Program, ring: int = 0) -> Load:
    """The fixed part of a program; its addresses are 0. One for processes is the kernel's there: it
    has the same that no kernel program has, and what it finds at a hit is the process's."""
    header = program.header
    return Load(
        modtype=ModType[header.modtype.upper()] if header.kernel else ModType.KERNEL,
        flags=AUTOSTACKTRACE * header.autostacktrace,
        major=header.major,
        vars=header.vars,
        gvars=header.gvars,
        jmpmax=header.jmpmax,
        logmax=header.logmax,
        ex_logmax=header.ex_logmax,
        code_size=len(program.code),
        probe_count=len(program.probes),
        facility_count=len(program.facilities),
        name_count=len(program.names),
        ring=ring,
        map_count=len(header.map),
    )


def load_arrays(
    program: Program, facilities: Sequence[int], symbols: Sequence[int]
) -> tuple[bytes, ...]:
    """What the addresses point at, in the order of ``ARRAYS``."""
    probes = b"".join(
        bytes(
            Probe(
                entry=probe.entry,
                end=probe.end,
                heap=probe.heap,
                pass_count=probe.pass_count,
                max_hits=probe.max_hits,
                minor=probe.minor,
                ex_mask=probe.ex_mask,
                split=probe.split,
            )
        )
        for probe in program.probes
    )
    values = _value_names(program)
    names = b"".join(_name(text if n in values else "") for n, text in enumerate(program.names))
    numbers = bytes((_u16 * len(facilities))(*facilities))
    values_of_symbols = bytes((_u64 * len(symbols))(*symbols))
    maps = b"".join(map(_map, program.header.map))
    return program.code, probes, numbers, names, values_of_symbols, maps


def _map(one: MapDefinition) -> bytes:
    return bytes(
        Map(
            kind=KIND_NUMBERS[one.kind],
            keys=one.keys,
            size=one.size,
            flags=SIGNED * one.signed,
            arguments=(_s64 * 3)(*one.arguments),
        )
    )


def _value_names(program: Program) -> frozenset[int]:
    """Which of a program's names are those of values; a symbol's may be longer than they can be."""
    found = set()
    offset = 0
    while offset < len(program.code):
        instruction, operands, offset = decode_at(program.code, offset)
        if Operand.NAME in instruction.operands:
            found.add(operands[0])
    return frozenset(found)


def _name(text: str) -> bytes:
    data = text.encode()
    return bytes((len(data),)) + data.ljust(63, b"\0")
