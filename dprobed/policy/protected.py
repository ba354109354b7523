"""Protected processes: nobody may probe them, whatever the policies say.

A machine on which one of these is stopped cannot be reached or shut down any more.
Only the configuration file can take one of the kinds off; the daemon itself and its tracers cannot
be probed by it in any case, because a process that waits for itself waits for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath
from typing import Final

from dprobed.policy.match import ProcessFacts

_DBUS: Final = ("dbus-daemon", "dbus-broker", "dbus-broker-launch", "dbus-launch")
_SYSTEM: Final = ("/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/libexec")
_SYSTEMD: Final = ("/usr/lib/systemd/", "/lib/systemd/")


def _is_dbus(facts: ProcessFacts) -> bool:
    path = PurePath(facts.process.exe)
    return path.name in _DBUS and str(path.parent) in _SYSTEM


def _is_systemd(facts: ProcessFacts) -> bool:
    return facts.process.exe.startswith(_SYSTEMD)


def _is_sshd(exe: str) -> bool:
    return PurePath(exe).name == "sshd" and str(PurePath(exe).parent) in _SYSTEM


def _is_listener(facts: ProcessFacts) -> bool:
    # A session's sshd has the listener (or one that it became) for its parent.
    return _is_sshd(facts.process.exe) and not _is_sshd(facts.parent_exe)


#: Kind → (whether a process is of it, what it is).
KINDS: Final[dict[str, tuple[Callable[[ProcessFacts], bool], str]]] = {
    "init": (lambda facts: facts.process.pid == 1, "the first process"),
    "dbus": (_is_dbus, "a message bus"),
    "systemd": (_is_systemd, "a part of systemd"),
    "sshd": (_is_listener, "what listens for ssh"),
}


def protection(facts: ProcessFacts, kinds: frozenset[str]) -> str:
    """Why the process is protected, where it is of one of the kinds; else empty."""
    for kind, (holds, meaning) in KINDS.items():
        if kind in kinds and holds(facts):
            return f"it is {meaning} (`{kind}`)"
    return ""
