"""Writes records that were read back (from any format) as a CTF trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from struct import pack
from typing import Any, Final

from dprobed.program.exits import EXIT_NAMES, FACILITIES
from dprobed.program.isa import WORD_MASK
from dprobed.program.items import (
    MAX_COUNT,
    NONE,
    ItemToken,
    fault_item,
    frame_body,
    memory_item,
    string_item,
    trace_item,
    user_stack_item,
    value_item,
    word_packer,
    words_item,
)
from dprobed.program.user_stack import (
    MOST_FRAMES,
    MOST_MODULES,
    REASONS,
    StackEnd,
    UserStack,
    frame_word,
    module_bytes,
)
from dprobed.program.values import KIND_NUMBERS
from dprobed.record.record import Record
from dprobed.trace.ctf import Stream, Trace
from dprobed.trace.store import CtfChunk
from dprobed.wire.protocol import RawRecord

#: Exits that have a number of their own; others get one as they come.
_EXITS: Final = {**{name: number for number, name in EXIT_NAMES.items()}, **FACILITIES}
_FIRST_OTHER: Final = 1 << 16
_UNLIMITED: Final = 1 << 40
_TOKENS: Final = {
    "stack": ItemToken.STACK,
    "locals": ItemToken.LOCALS,
    "globals": ItemToken.GLOBALS,
}


class _Names:
    """Numbers for names, and a source of records that gives the names back."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._programs: dict[str, int] = {}
        self._places: dict[tuple[str, str], int] = {}
        self._labels: list[str] = []
        self._where: list[tuple[str, str]] = []

    def program(self, label: str) -> int:
        if label not in self._programs:
            self._programs[label] = len(self._labels)
            self._labels.append(label)
        return self._programs[label]

    def place_number(self, where: tuple[str, str]) -> int:
        if where not in self._places:
            self._places[where] = len(self._where)
            self._where.append(where)
        return self._places[where]

    def label(self, program: int) -> str:
        return self._labels[program]

    def place(self, place: int) -> tuple[str, str]:
        return self._where[place]


def write_ctf(records: Callable[[], Iterator[Record]], folder: Path, offset_ns: int | None) -> None:
    """Write ``records``, which come in the order of time, as one trace into a new folder.

    They are asked for twice: the metadata begins with the names of all exits. ``offset_ns``: what
    to add to their time for the time of day; None: as it is now. Raises OSError.
    """
    numbers = dict(_EXITS)
    for record in records():
        if record.exit not in numbers:
            known = record.exit.isdecimal() and int(record.exit) < _FIRST_OTHER
            numbers[record.exit] = int(record.exit) if known else _FIRST_OTHER + len(numbers)
    names_of_exits = {number: name for name, number in numbers.items()}
    trace = Trace(lambda: names_of_exits)
    if offset_ns is not None:
        trace.offset_ns = offset_ns
    streams: dict[int, tuple[_Names, Stream]] = {}
    chunk = CtfChunk(folder, trace)
    try:
        for record in records():
            found = streams.get(record.pid)
            if found is None:
                names = _Names(record.pid)
                found = streams[record.pid] = names, trace.stream(names)
            names, stream = found
            stream.add([_raw(record, names, numbers[record.exit])])
            for block in stream.take(all_=False):
                chunk.write(block)
        for _, stream in streams.values():
            for block in stream.take(all_=True):
                chunk.write(block)
    finally:
        chunk.close()


def _raw(record: Record, names: _Names, exit_: int) -> RawRecord:
    log, bare = log_bytes(record.log)
    raised = record.exception
    return RawRecord(
        program=names.program(record.program),
        probe=0,
        place=names.place_number((record.module, record.place)),
        pid=record.pid,
        tid=record.tid,
        comm=record.comm.encode(errors="replace"),
        uid=record.uid,
        cpu=record.cpu,
        time=record.time,
        hit=record.hit,
        exit=exit_,
        major=record.major,
        minor=record.minor,
        log=log,
        raw=bare,
        exception=(raised.code, raised.parm1, raised.parm2) if raised is not None else None,
    )


def log_bytes(items: Iterable[dict[str, Any]]) -> tuple[bytes, tuple[int, ...]]:
    """A log as the program wrote it, and where bare words lie in it: undoes ``decode_log``.

    Words are bare, whether they had a prefix or not.
    """
    log = b""
    bare: list[int] = []
    for item in items:
        match item:
            case {"words": list(words)}:
                bare += (len(log), len(words))
                log += word_packer(len(words))(*words)
            case {"kind": str(kind), "value": value}:
                log += _value(kind, item.get("text") if value is None else value, item)
            case {"string": str(), "bytes": str(text)}:
                log += string_item(bytes.fromhex(text)[:MAX_COUNT])
            case {"string": str(text)}:
                log += string_item(text.encode(errors="replace")[:MAX_COUNT])
            case {"memory": str(text), "address": int(address)}:
                log += memory_item(address, bytes.fromhex(text))
            case {"fault": int(address)}:
                log += fault_item(address)
            case {"trace": dict(trace)}:
                log += _trace(trace)
            case {"ustack": list(frames)}:
                stack = _user_stack(frames, item.get("ended", ""))
                log += user_stack_item(stack, _UNLIMITED) or b""
            case {"undecoded": str(text)}:
                log += bytes.fromhex(text)
            case _:
                name, words = next(iter(item.items()))
                log += words_item(_TOKENS[name], words)
    return log, tuple(bare)


def _value(kind: str, value: Any, item: dict[str, Any]) -> bytes:
    if kind == "f32":
        word = int.from_bytes(pack("<f", float(value)), "little")
    elif kind == "f64":
        word = int.from_bytes(pack("<d", float(value)), "little")
    else:
        word = int(value) & WORD_MASK
    return value_item(KIND_NUMBERS[kind], word, item.get("name", ""))


def _user_stack(frames: list[dict[str, Any]], ended: str) -> UserStack:
    modules: dict[bytes, int] = {}
    words = []
    for frame in frames[:MOST_FRAMES]:
        number, address = 0, frame.get("address", 0)
        if "module" in frame:
            packed = module_bytes(frame["module"], frame.get("build_id", ""))
            number, address = modules.setdefault(packed, len(modules) + 1), frame["offset"]
            if number > MOST_MODULES:
                del modules[packed]
                number = 0
        exact, signal = frame.get("exact", False), frame.get("signal", False)
        words.append(frame_word(number, address, exact=exact, signal=signal))
    end = next((code for code, text in REASONS.items() if text == ended), StackEnd.NONE)
    return UserStack(end, list(modules), words)


def _trace(trace: dict[str, Any]) -> bytes:
    frames = [
        frame_body(
            _offset(frame["called"]),
            _offset(frame["return"]),
            frame["stack"],
            frame["locals"],
            frame["globals"],
        )
        for frame in trace["frames"]
    ]
    handler = _offset(trace["handler"])
    return trace_item(
        trace["code"], handler, trace["parm1"], trace["parm2"], frames, room=_UNLIMITED
    )


def _offset(value: int | None) -> int:
    return NONE if value is None else value
