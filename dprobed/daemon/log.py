"""The daemon's log, which tracers and resolvers share: lines on standard error, or the journal.

Where systemd has connected standard error with the journal, each message is an entry with fields
of its own instead of a line. Of a daemon that was started otherwise, only refusals are entries
(and lines): whoever looks after the machine finds them in one place.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dprobed import systemd_journal
from dprobed.printable import LAYOUT, printable

if TYPE_CHECKING:
    from systemd.journal import JournalHandler


class _Lines(logging.Formatter):
    """Log messages whose further lines are indented, so that they cannot look like others."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, with a traceback if there is one."""
        return printable(super().format(record), LAYOUT).replace("\n", "\n    ")


class _SystemdJournal(logging.Handler):
    """Sends messages to the journal, by systemd-python's handler, which is imported for the first.

    ``everything``: not only refusals.
    """

    def __init__(self, everything: bool) -> None:
        super().__init__()
        self._everything = everything
        self._handler: JournalHandler | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it goes to the journal."""
        return self._everything or record.__dict__.get("DPROBE_EVENT") in ("denied", "refused")

    def emit(self, record: logging.LogRecord) -> None:
        """Make an entry of a message."""
        if self._handler is None:
            from systemd.journal import JournalHandler

            self._handler = JournalHandler(sender_function=_send, SYSLOG_IDENTIFIER="dprobed")
            self._handler.setFormatter(_Lines("%(message)s"))
        self._handler.emit(record)


def _send(message: str, /, **fields: object) -> None:
    """An entry for JournalHandler, which passes all attributes of the message: fields are those in
    capitals."""
    named = {name: str(value) for name, value in fields.items() if name.isupper()}
    systemd_journal.post({"MESSAGE": message, **named})


def is_journal(descriptor: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether systemd connected a descriptor with the journal (JOURNAL_STREAM, systemd.exec(5))."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


def begin_log(level: int) -> None:
    """Begin the log of this process, from this level on."""
    everything = is_journal(2)
    handlers: list[logging.Handler] = [_SystemdJournal(everything)]
    if not everything:
        lines = logging.StreamHandler(sys.stderr)
        lines.setFormatter(_Lines("dprobed: %(message)s"))
        handlers.insert(0, lines)
    logging.basicConfig(level=level, handlers=handlers)
