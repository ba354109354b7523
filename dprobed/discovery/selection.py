"""Whether a process is among those that a client means."""

from __future__ import annotations

import pwd
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from dprobed.control import messages
from dprobed.process import Process
from dprobed.target import procfs


class SelectionError(ValueError):
    """A selection that cannot be; the text says why."""


class Selector:
    """A selection, ready to be asked; raises SelectionError for a user that does not exist.

    ``rule``: the name of the policy that decides about a process; none does where it is not given.
    """

    def __init__(
        self, selection: messages.Selection, rule: Callable[[Process], str] = lambda process: ""
    ) -> None:
        self.selection = selection
        self._rule = rule
        self._uid = None if selection.user is None else _uid(selection.user)

    @property
    def takes_unmapped(self) -> bool:
        """Whether a process is taken that does not map the module: its executable was named."""
        return self.selection.exe is not None

    @property
    def needs_facts(self) -> bool:
        """Whether it depends on more than the executable."""
        wanted = self.selection
        return (self._uid, wanted.unit, wanted.policy) != (None, None, None)

    def may_select(self, paths: Sequence[str]) -> bool:
        """Whether a process whose executable has these paths can be meant at all."""
        wanted = self.selection.exe
        if wanted is None:
            return True
        if "/" not in wanted:
            return fnmatchcase(PurePath(paths[0]).name, wanted)
        return any(fnmatchcase(path, wanted) for path in paths)

    def selects(self, process: Process) -> bool:
        """Whether what does not depend on the executable holds for the process."""
        unit, policy = self.selection.unit, self.selection.policy
        return (
            self._uid in (None, process.uid)
            and (unit is None or bool(process.unit and fnmatchcase(process.unit, unit)))
            and policy in (None, self._rule(process))
        )


def paths_of(pid: int) -> list[str]:
    """The paths of what a process executes: as its mount namespace has it, and as the process
    itself does where it has another root (chroot). Empty where that cannot be read."""
    exe = procfs.executable(pid)
    if not exe:
        return []
    try:
        root = str(Path(f"/proc/{pid}/root").readlink())
    except OSError:
        root = "/"
    return [exe, exe.removeprefix(root)] if root != "/" and exe.startswith(root + "/") else [exe]


def _uid(user: str) -> int:
    if user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise SelectionError(f"there is no user {user}") from None
