"""Selections of processes: by executable, user, systemd unit or policy."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Callable, Sequence

from dprobed.policy.glob import GlobError, linked, refuse_vain, translate
from dprobed.policy.links import real
from dprobed.policy.match import user_number
from dprobed.printable import readable
from dprobed.proc import executables, procfs
from dprobed.proc.helper import SilentError
from dprobed.proc.processes import Process
from dprobed.wire import messages


class SelectionError(ValueError):
    """An invalid selection; the text says why."""


class Selector:
    """A compiled selection; raises SelectionError where it is invalid.

    ``rule``: returns the name of the policy that decides about a process.
    """

    def __init__(
        self, selection: messages.Selection, rule: Callable[[Process], str] = lambda process: ""
    ) -> None:
        self.selection = selection
        self._rule = rule
        self._uid = None if selection.user is None else _uid(selection.user)
        self._exe: list[re.Pattern[str]] | None = None
        if selection.exe is not None:
            self._exe = [_pattern("exe", selection.exe, path=True)]
            try:
                self._exe += linked(selection.exe, _real).values()
            except SilentError:
                raise SelectionError(
                    f"exe {selection.exe}: its file system does not answer"
                ) from None
        self._unit = None if selection.unit is None else _pattern("unit", selection.unit)

    @property
    def takes_unmapped(self) -> bool:
        """Whether processes are selected that do not map the module (yet): the executable is
        given."""
        return self.selection.exe is not None

    @property
    def needs_facts(self) -> bool:
        """Whether it depends on more than the executable."""
        wanted = self.selection
        return (self._uid, wanted.unit, wanted.policy) != (None, None, None)

    def may_select(self, paths: Sequence[str]) -> bool:
        """Whether a process whose executable has these paths may be selected."""
        return self._exe is None or any(
            pattern.fullmatch(path) for pattern in self._exe for path in paths
        )

    def selects(self, process: Process) -> bool:
        """Whether the conditions other than the executable hold for the process."""
        return (
            self._uid in (None, process.uid)
            and (self._unit is None or bool(process.unit and self._unit.fullmatch(process.unit)))
            and self.selection.policy in (None, self._rule(process))
        )


def _real(name: str) -> str:
    # Whoever asks the daemon may name any: one such at a time is all that is waited for.
    return real(name, about="names of executables")


def paths_of(pid: int) -> list[str]:
    """The paths of what a process executes: as its mount namespace has it, and as the process
    itself does where it has another root (chroot). Empty where that cannot be read."""
    try:
        # As text that can be sent: a name that is not UTF-8 is asked for as it is shown.
        exe = readable(executables.link(pid))
        root = readable(os.readlink(f"/proc/{pid}/root"))  # noqa: PTH115
    except OSError:
        live_thread = procfs.live_thread(pid)
        return paths_of(live_thread) if live_thread != pid else []
    return [exe, exe.removeprefix(root)] if root != "/" and exe.startswith(root + "/") else [exe]


def _uid(user: str) -> int:
    if (number := user_number(user)) is not None:
        return number
    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):
        raise SelectionError(f"there is no user `{user}`") from None


def _pattern(what: str, pattern: str, *, path: bool = False) -> re.Pattern[str]:
    try:
        if path:
            refuse_vain(pattern)
        return translate(pattern, path=path)
    except GlobError as error:
        where = f" (at letter {error.at + 1})" if pattern else ""
        raise SelectionError(
            f"--{what} {pattern!r} is not a valid pattern: {error}{where}"
        ) from None
