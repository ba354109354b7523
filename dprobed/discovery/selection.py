"""Whether a process is among those that a client means."""

from __future__ import annotations

import pwd
from fnmatch import fnmatchcase
from pathlib import PurePath

from dprobed.control import messages
from dprobed.process import Process


class SelectionError(ValueError):
    """A selection that cannot be; the text says why."""


class Selector:
    """A selection, ready to be asked; raises SelectionError for a user that does not exist."""

    def __init__(self, selection: messages.Selection) -> None:
        self.selection = selection
        self._uid = None if selection.user is None else _uid(selection.user)

    @property
    def takes_unmapped(self) -> bool:
        """Whether a process is taken that does not map the module: its executable was named."""
        return self.selection.exe is not None

    def selects(self, process: Process) -> bool:
        """Whether all that was given holds for the process."""
        wanted = self.selection
        if self._uid is not None and process.uid != self._uid:
            return False
        if wanted.exe is not None:
            exe = process.exe if "/" in wanted.exe else PurePath(process.exe).name
            if not process.exe or not fnmatchcase(exe, wanted.exe):
                return False
        return wanted.unit is None or bool(process.unit and fnmatchcase(process.unit, wanted.unit))


def _uid(user: str) -> int:
    if user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise SelectionError(f"there is no user {user}") from None
