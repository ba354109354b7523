"""Which command lines will need a private daemon, seen before anything is imported that reads them.

Only what is plain: where this says no and is wrong, the daemon is started later; where it says yes
and is wrong (a mistake in the line), it ends again, and nothing was asked of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Final

from dprobed.wire.socket_path import default_socket

#: Commands that do without a daemon that runs.
_COMMANDS: Final = ("run", "attach", "dump", "bpftrace", "logpoint", "snapshot")
#: Options of ``bpftrace`` with which it needs none.
_ALONE: Final = ("-l", "-lv", "-V", "--version", "--info", "-d")
#: Options of ``dprobe`` that may stand before them, and those that only ask for help.
_BEFORE: Final = ("-q", "--quiet", "-v", "--verbose")
_HELP: Final = ("-h", "--help")


def needs_daemon(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """The command of this command line, if it will need one; else nothing."""
    if "DPROBE_SOCKET" in environment or "_DPROBE_COMPLETE" in environment:
        return ""
    own, command = _cut(arguments)
    while own and own[0] in _BEFORE:
        del own[0]
    if len(own) < 2 or own[0] not in _COMMANDS or any(each in own for each in _HELP):
        return ""
    if own[0] == "bpftrace" and any(each in own for each in _ALONE):
        return ""
    if own[0] == "run" and not command:
        return ""
    if "--private" not in own and os.path.lexists(default_socket(os.getuid())):
        return ""
    return own[0]


def _cut(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is before the first ``--``, and what is after."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return list(arguments[:at]), list(arguments[at + 1 :])
