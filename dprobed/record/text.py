"""The text form of a record: one line, and one for each frame of a stack that it logged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from dprobed.printable import printable
from dprobed.program.exceptions import ExCode
from dprobed.record.record import Record

#: Before each frame of a stack.
_FRAME: Final = "        "


def record_text(record: Record, stamp: Callable[[Record], str] | None = None) -> str:
    """A record as a line: time in s, CPU, thread, probe, what it logged, how it ended; and a line
    for each frame of its stacks.

    ``stamp``: how to write its time in another way.
    """
    thread = f"{record.comm}[{record.pid}]"
    if record.tid != record.pid:
        thread = f"{record.comm}[{record.pid}/{record.tid}]"
    parts = [
        f"{record.time // 1_000_000_000}.{record.time // 1000 % 1_000_000:06d}"
        if stamp is None
        else stamp(record),
        f"cpu{record.cpu}",
        thread,
        f"{record.program} {record.major}.{record.minor}",
        record.place,
        f"#{record.hit}:",
    ]
    parts += [text for item in record.log for text in _item_text(item)]
    if record.exception is not None:
        raised = record.exception
        parts.append(f"[{raised.name} {word_text(raised.parm1)} {word_text(raised.parm2)}]")
    elif record.exit != "exit":
        parts.append(f"[{record.exit}]")
    lines = [printable(" ".join(parts))]
    for item in record.log:
        if "ustack" in item:
            lines += [_FRAME + printable(text) for text in stack_lines(item)]
    return "\n".join(lines)


def stack_lines(item: dict[str, Any]) -> list[str]:
    """A stack, a line each frame, innermost first; an inlined function has a line of its own."""
    lines = []
    for frame in item["ustack"]:
        for inlined in frame.get("inlined", ()):
            lines.append(f"{inlined['function']} (inlined){_source(inlined)}")
        lines.append(_frame_text(frame))
    if item.get("ended"):
        lines.append(f"({item['ended']})")
    return lines


def _frame_text(frame: dict[str, Any]) -> str:
    """``function+0x12 (module) at file.c:7``; what is not known is left out."""
    if frame.get("signal"):
        return "<signal handler called>"
    if "module" not in frame:
        name = f"{frame['function']}+{frame['plus']:#x}" if "function" in frame else ""
        return name or f"{frame['address']:#x}"
    module = str(frame["module"]).rpartition("/")[2]
    if "function" not in frame:
        return f"{module}+{frame['offset']:#x}"
    return f"{frame['function']}+{frame['plus']:#x} ({module}){_source(frame)}"


def _source(place: dict[str, Any]) -> str:
    return f" at {place['file']}:{place['line']}" if place.get("line") else ""


def word_text(word: int) -> str:
    """A 64-bit word: decimal where it is small (also below zero), else hexadecimal."""
    if word < 1 << 20:
        return str(word)
    if word >= (1 << 64) - 4096:
        return str(word - (1 << 64))
    return f"{word:#x}"


def value_text(kind: str, value: object, place: object, text: object) -> str:
    """A typed value; ``place``: what is at an address; ``text``: where it is no number of JSON."""
    if kind == "ptr" and place:
        return str(place)
    if kind in ("hex", "ptr") and isinstance(value, int):
        return f"{value:#x}"
    return str(text) if value is None else repr(value)


def _item_text(item: dict[str, Any]) -> list[str]:
    match item:
        case {"ustack": list()}:
            return []
        case {"words": list(words)}:
            return [word_text(word) for word in words]
        case {"string": str(), "bytes": str(raw)}:
            return [_quoted(bytes.fromhex(raw))]
        case {"string": str(string)}:
            return [msgspec.json.encode(string).decode()]
        case {"memory": str(memory), "address": int(address)}:
            return [f"{address:#x}:<{memory}>"]
        case {"kind": str(kind)}:
            name = item.get("name")
            text = value_text(kind, item["value"], item.get("place"), item.get("text"))
            return [f"{name}={text}" if name else text]
        case {"fault": int(address)}:
            return [f"<fault at {address:#x}>"]
        case {"trace": {"code": int(), "frames": list()} as trace}:
            return [f"trace={_trace_text(trace)}"]
        case _:
            return [f"{key}={_value_text(value)}" for key, value in item.items() if key != "text"]


def _trace_text(trace: dict[str, Any]) -> str:
    """The exception, and its frames from the innermost out, by places in the program's code as
    ``dprobe disasm`` shows them."""
    code = trace["code"]
    name = ExCode(code).name if code in ExCode._value2member_map_ else f"{code:#x}"
    parts = [f"{name}({word_text(trace['parm1'])}, {word_text(trace['parm2'])})"]
    for frame in trace["frames"]:
        called = frame.get("called")
        parts.append("in ?" if called is None else f"in {called:#06x}")
        for kind in ("stack", "locals", "globals"):
            if words := frame.get(kind):
                parts.append(f"{kind} [{', '.join(map(word_text, words))}]")
    return " ".join(parts)


def _quoted(raw: bytes) -> str:
    """As a string that is UTF-8, where a backslash is shown as two; other bytes have one."""
    text = raw.decode(errors="surrogateescape")
    parts = [
        f"\\x{ord(letter) - 0xDC00:02x}"
        if "\udc80" <= letter <= "\udcff"
        else msgspec.json.encode(letter).decode()[1:-1]
        for letter in text
    ]
    return f'"{"".join(parts)}"'


def _value_text(value: object) -> str:
    if isinstance(value, int):
        return word_text(value)
    return msgspec.json.encode(value).decode()
