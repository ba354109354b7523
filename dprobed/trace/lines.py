"""Records as lines: for people, as JSON, or as events of Chrome's and Perfetto's trace viewers.

A file of the latter is one JSON array; viewers accept one whose end is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from dprobed.record.record import Record, published
from dprobed.record.strings import told_apart
from dprobed.record.text import record_text
from dprobed.trace.shape import unused

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Record).decode


#: A value of this name is how long what a record tells of took, in ns.
DURATION: Final = "duration_ns"


class Format(msgspec.Struct, frozen=True):
    """How records become text: ``made`` formats some, ``between`` stands between two, ``begin`` and
    ``end`` around all."""

    suffix: str
    made: Callable[[Sequence[bytes]], list[bytes]]
    begin: bytes = b""
    between: bytes = b"\n"
    end: bytes = b""

    def lines(self, records: Sequence[bytes]) -> bytes:
        """Records (as lines of JSON), each behind what stands ``between``, but for text formats
        before it."""
        made = self.made(records)
        if self.between == b"\n":
            return b"".join(each + b"\n" for each in made)
        return b"".join(self.between + each for each in made)


def items_by_name(record: Record) -> dict[str, Any]:
    """The logged values by the names of their CTF fields: their own, or word_0, string_0…"""
    return _named(record).values


def values_by_name(record: Record) -> dict[str, int | float]:
    """The typed values among them: numbers as they are meant, below zero too."""
    named, typed, _ = _named(record)
    return {name: named[name] for name in typed if not isinstance(named[name], str)}


def places_by_name(record: Record) -> dict[str, str]:
    """What is at the addresses among them, where that is known."""
    return _named(record).places


class _Named(NamedTuple):
    """All that was logged, by name; which of that are typed values; what is at addresses."""

    values: dict[str, Any]
    typed: list[str]
    places: dict[str, str]


def _named(record: Record) -> _Named:
    named: dict[str, Any] = {}
    places: dict[str, str] = {}
    numbers: dict[str, int] = {}
    typed: list[str] = []
    words = 0
    for item in record.log:
        name = next(iter(item))
        if name == "value":
            typed.append(unused(item.get("name") or f"value_{len(typed)}", named))
            named[typed[-1]] = item["text"] if item["value"] is None else item["value"]
            if item.get("place"):
                places[typed[-1]] = item["place"]
            continue
        if name == "words":
            for word in item["words"]:
                named[f"word_{words}"] = word
                words += 1
            continue
        number = numbers.get(name, 0)
        numbers[name] = number + 1
        named[f"{name}_{number}"] = _apart(item) if name == "string" else item[name]
        if name == "memory":
            named[f"{name}_{number}_address"] = item["address"]
    if record.exception is not None:
        raised = record.exception
        named["exception"] = raised.name
        named["exception_code"] = raised.code
        named["exception_parm1"] = raised.parm1
        named["exception_parm2"] = raised.parm2
    return _Named(named, typed, places)


def _apart(item: dict[str, Any]) -> str:
    """A string as text that no other string has."""
    raw = item.get("bytes")
    return told_apart(
        item["string"].encode(errors="replace") if raw is None else bytes.fromhex(raw)
    )


def _chrome(lines: Sequence[bytes]) -> list[bytes]:
    """An event for each record; before them, what the processes and threads in these are called.

    Names are said again with the next records: a viewer takes the last, and a file that was begun
    anew has them.
    """
    records = [_decode(line) for line in lines]
    threads = {(record.pid, record.tid): record.comm for record in records}
    processes = {pid: comm for (pid, tid), comm in threads.items() if tid != pid}
    processes |= {pid: comm for (pid, tid), comm in threads.items() if tid == pid}
    names: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": pid, "args": {"name": comm}}
        for pid, comm in processes.items()
    ]
    names += (
        {"name": "thread_name", "ph": "M", "pid": pid, "tid": tid, "args": {"name": comm}}
        for (pid, tid), comm in threads.items()
    )
    return [_encode(event) for event in (*names, *map(_event, records))]


def _event(record: Record) -> dict[str, Any]:
    """A slice that ends with the record where it logged how long it took, else an instant."""
    named, _, places = _named(record)
    took = named.get(DURATION)
    if isinstance(took, int | float) and 0 <= took <= record.time:
        when = {"ph": "X", "ts": (record.time - took) / 1000, "dur": took / 1000}
    else:
        when = {"ph": "i", "s": "t", "ts": record.time / 1000}
    about = {
        "module": record.module,
        "major": record.major,
        "minor": record.minor,
        "comm": record.comm,
        "uid": record.uid,
        "cpu": record.cpu,
        "hit": record.hit,
        "exit": record.exit,
        "time_ns": record.time,
    }
    return {
        "name": f"{record.program}:{record.place}",
        "cat": record.program,
        **when,
        "pid": record.pid,
        "tid": record.tid,
        # A viewer's numbers are doubles: larger ones would be another number there.
        "args": about | {name: _exact(value) for name, value in (named | places).items()},
    }


def _exact(value: object) -> object:
    if isinstance(value, int) and abs(value) >= 1 << 53:
        return hex(value)
    if isinstance(value, list):
        return [_exact(each) for each in value]
    if isinstance(value, dict):
        return {key: _exact(each) for key, each in value.items()}
    return value


def _json(lines: Sequence[bytes]) -> list[bytes]:
    return [published(line.rstrip()) for line in lines]


def _text(lines: Sequence[bytes]) -> list[bytes]:
    return [record_text(_decode(line)).encode(errors="replace") for line in lines]


FORMATS: Final = {
    "text": Format("txt", _text),
    "json": Format("jsonl", _json),
    "chrome": Format("json", _chrome, begin=b"[", between=b",\n", end=b"\n]\n"),
}
