"""The daemon's log, which tracers and resolvers share: lines on standard error."""

from __future__ import annotations

import logging
import sys

from dprobed.printable import LAYOUT, printable


class _Lines(logging.Formatter):
    """Log messages whose further lines are indented, so that they cannot look like others."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, with a traceback if there is one."""
        return printable(super().format(record), LAYOUT).replace("\n", "\n    ")


def log_to_stderr(level: int) -> None:
    """Write the log to standard error, from this level on."""
    log = logging.StreamHandler(sys.stderr)
    log.setFormatter(_Lines("dprobed: %(message)s"))
    logging.basicConfig(level=level, handlers=[log])
