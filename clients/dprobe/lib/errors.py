"""What a request or a command can fail with; only ``main`` turns these into exit statuses."""

from __future__ import annotations


class DprobeError(Exception):
    """One line for the user (a program's faults: several); ``status`` is the exit status."""

    status = 1


class UserError(DprobeError):
    """The request cannot be done as it was made."""

    status = 2


class NoDaemonError(DprobeError):
    """No daemon answers at the socket."""


class ForeignDaemonError(NoDaemonError):
    """The daemon that answers is in another pid namespace: its process ids are not ours."""


class DaemonSilentError(DprobeError):
    """A daemon is there, and does not answer."""


class DaemonGoneError(DprobeError):
    """The daemon ended, or broke the protocol, during a request."""


class CommandNotFoundError(DprobeError):
    """The command is not found; the status is the shell's for that."""

    status = 127


class CommandNotExecutableError(DprobeError):
    """The command cannot be executed; the status is the shell's for that."""

    status = 126


def os_error_text(error: OSError) -> str:
    """The system's own words, in lower case so that they read on after a colon."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]
