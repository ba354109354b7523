"""From what a tracer says of a hit to the record that readers get, and the log of past records."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from dprobed.daemon.records.dispatcher import Dispatcher
from dprobed.daemon.target import Entry
from dprobed.program.exec.log import decode_log
from dprobed.program.exits import BUDGET, EXCEPTION, REM
from dprobed.program.isa import ExCode
from dprobed.wire.messages import Raised, Record, encode
from dprobed.wire.protocol import RawRecord

#: Bytes of records kept for ``log``.
LOG_BYTES: Final = 2 << 20

_EXITS: Final = {
    0: "exit",
    REM: "rem",
    EXCEPTION: "exception",
    BUDGET: "budget",
}


def exit_names(dispatcher: Dispatcher) -> dict[int, str]:
    """What a record's ``exit`` can be, as far as it is known now."""
    return _EXITS | {number: name for name, number in dispatcher.numbers.items()}


def record_line(entry: Entry, raw: RawRecord, facility: str) -> bytes:
    """The record as one line of JSON; ``facility``: the name of the one that it is for."""
    module, place = entry.target.places.get(raw.place, ("", ""))
    return encode(
        Record(
            program=entry.label,
            major=raw.major,
            minor=raw.minor,
            module=module,
            place=place,
            pid=raw.pid,
            tid=raw.tid,
            comm=raw.comm.decode(errors="replace"),
            uid=raw.uid,
            cpu=raw.cpu,
            time=raw.time,
            hit=raw.hit,
            exit=_EXITS.get(raw.exit) or facility or str(raw.exit),
            log=decode_log(raw.log, raw.raw),
            exception=raised(raw.exception) if raw.exception else None,
        )
    )


def raised(triple: tuple[int, int, int]) -> Raised:
    """The exception of a record, by name."""
    code, parm1, parm2 = triple
    try:
        name = ExCode(code).name
    except ValueError:
        name = "USER"
    return Raised(code=code, name=name, parm1=parm1, parm2=parm2)


class RecordLog:
    """The last records of all programs, at most LOG_BYTES of them, by whose program it was."""

    def __init__(self) -> None:
        self._lines: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._forgotten: Counter[int] = Counter()

    def add(self, line: bytes, uid: int) -> None:
        """Keep a record, and forget the oldest ones where that takes room."""
        self._lines.append((uid, line))
        self._bytes += len(line)
        while self._bytes > LOG_BYTES:
            owner, oldest = self._lines.popleft()
            self._bytes -= len(oldest)
            self._forgotten[owner] += 1

    def lines(self, sees: Callable[[int], bool]) -> list[bytes]:
        """What is kept of those whom the reader ``sees``, oldest first."""
        return [line for uid, line in self._lines if sees(uid)]

    def forgotten(self, sees: Callable[[int], bool]) -> int:
        """How many of theirs are not kept any longer."""
        return sum(count for uid, count in self._forgotten.items() if sees(uid))
