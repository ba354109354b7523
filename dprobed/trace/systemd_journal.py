"""Writes records to the systemd journal, rate limited."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from dprobed.rate_limit import TokenBucket
from dprobed.record.record import TRACER, Record
from dprobed.record.text import record_text
from dprobed.systemd_journal import entry, send, submit
from dprobed.trace.lines import items_by_name

#: Entries a second at most, and how many may come at once after a pause.
RATE: Final = 200
BURST: Final = 1000
_INFO: Final = "6"
_WARNING: Final = "4"

_decode = msgspec.json.Decoder(Record).decode


def fields(record: Record) -> dict[str, str]:
    """A record as fields of the journal."""
    found = {
        "MESSAGE": record_text(record),
        "PRIORITY": _INFO,
        "SYSLOG_IDENTIFIER": "dprobed",
        # The journal adds what it knows of this process.
        "OBJECT_PID": str(record.pid),
    }
    about: dict[str, Any] = {
        name: getattr(record, name)
        for name in record.__struct_fields__
        if name not in ("log", "exception", "backend")
    }
    if record.backend != TRACER:
        about["backend"] = record.backend
    for name, value in (about | items_by_name(record)).items():
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        found[f"DPROBE_{name.upper()}"] = text
    return found


#: Seconds that it waits for a journal that is busy: not for ever, for one that hangs.
_PATIENCE: Final = 2.0


class SystemdJournalWriter:
    """Sends blocks of JSON lines to the journal that listens at ``path`` (empty: the system's),
    rate limited."""

    def __init__(self, path: str, now: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._now = now
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(_PATIENCE)
        self._bucket = TokenBucket(RATE, BURST, now())
        self._unsaid = 0

    def write(self, lines: list[bytes]) -> int:
        """Send records; the number of those that were not.

        Raises OSError if it is all of them, and not only because they came too fast.
        """
        now = self._now()
        if self._unsaid and self._bucket.take(now):
            self._say_lost()
        allowed = min(len(lines), int(self._bucket.level(now)))
        sent = 0
        try:
            for line in lines[:allowed]:
                self._send(fields(_decode(line)))
                self._bucket.charge(1, now)
                sent += 1
        except OSError:
            if not sent:
                raise
        lost = len(lines) - sent
        self._unsaid += lost
        return lost

    def _send(self, found: dict[str, str]) -> None:
        if self._path:
            send(self._socket, entry(found), self._path)
        else:
            submit(found, _PATIENCE)

    def _say_lost(self) -> None:
        text = (
            f"{self._unsaid} records are not in the journal: they came faster than {RATE} a second"
        )
        about = {
            "MESSAGE": text,
            "PRIORITY": _WARNING,
            "SYSLOG_IDENTIFIER": "dprobed",
            "DPROBE_DROPPED": str(self._unsaid),
        }
        self._send(about)
        self._unsaid = 0

    def close(self) -> None:
        """Report what was lost last, and close the socket."""
        try:
            if self._unsaid:
                self._say_lost()
        finally:
            self._socket.close()
