"""Snapshots as text and as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from dprobe.lib.snapshot.taken import StackSnapshot, TakenFrame
from dprobed.binary.demangle import demangled
from dprobed.printable import printable
from dprobed.program.showing.nodes import json_of_shown, text_of_shown


class Taken(msgspec.Struct, frozen=True):
    """Where and when: of which process, by which probe (``place``), in nanoseconds of the calendar;
    ``pause_ns``: how long the process stood for it."""

    pid: int
    comm: str
    place: str
    time_ns: int
    pause_ns: int


def as_text(snapshot: StackSnapshot, taken: Taken) -> str:
    """Lines for people: each function, and below it its variables."""
    return "".join(f"{line}\n" for line in _lines(snapshot, taken))


def _lines(snapshot: StackSnapshot, taken: Taken) -> Iterator[str]:
    clock = time.strftime("%H:%M:%S", time.localtime(taken.time_ns // 10**9))
    who = f"{printable(taken.comm)}[{taken.pid}]"
    if snapshot.tid != taken.pid:
        who += f" thread {snapshot.tid}"
    place = printable(_demangled(taken.place))
    yield f"{clock}.{taken.time_ns // 10**6 % 1000:03} {who} at {place}"
    for number, frame in enumerate(snapshot.frames):
        yield f"#{number:<2} {printable(_place(frame))}"
        for one in frame.variables or ():
            yield f"      {printable(one.name)} = {text_of_shown(one.value)}"
    if snapshot.end:
        yield f"    ({snapshot.end})"


def _demangled(place: str) -> str:
    """``symbol+0x4`` as it is written in the source."""
    symbol, plus, offset = place.partition("+")
    return f"{demangled(symbol)}{plus}{offset}"


def _place(frame: TakenFrame) -> str:
    name = frame.function or f"{frame.address:#x}"
    if frame.file:
        name += f" at {frame.file}:{frame.line}"
    elif frame.module:
        name += f" in {frame.module}"
    return f"{name} (inlined)" if frame.inlined else name


def as_json(snapshot: StackSnapshot, taken: Taken) -> str:
    """One object, and the end of a line."""
    shown = {
        "type": "snapshot",
        **msgspec.structs.asdict(taken),
        "tid": snapshot.tid,
        "frames": list(map(_frame, snapshot.frames)),
        "end": snapshot.end,
    }
    return f"{json.dumps(shown, ensure_ascii=False)}\n"


def _frame(frame: TakenFrame) -> dict[str, Any]:
    found: dict[str, Any] = {
        "function": frame.function,
        "address": f"{frame.address:#x}",
        "file": frame.file,
        "line": frame.line,
        "module": frame.module,
        "inlined": frame.inlined,
    }
    if frame.variables is not None:
        found["variables"] = [
            {
                "name": one.name,
                "kind": one.kind,
                "type": one.type,
                "value": json_of_shown(one.value),
            }
            for one in frame.variables
        ]
    return found
