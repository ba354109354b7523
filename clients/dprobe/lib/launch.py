"""A command that waits until it may start: forked here, so that it is what it would be without us.

It has the terminal, process group, session, environment, descriptors, signal dispositions, mask and
timers that this process was given; only its parent is another. (SIGPIPE and SIGXFSZ it finds at
their defaults: what they were, Python has changed before anybody could look.) Before its ``exec``
it waits at a gate (a pipe) until the probes are in; a gate that is closed unopened ends it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dprobe.lib.errors import (
    CommandNotExecutableError,
    CommandNotFoundError,
    UserError,
    os_error_text,
)

if TYPE_CHECKING:
    from dprobe.lib.reading import FileFacts

#: prctl(2); without it Yama lets only a process's ancestors trace it.
_PR_SET_PTRACER = 0x59616D61
_YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
#: Python sets these to "ignored" at its start, which the command would inherit.
_CHANGED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class Timer(NamedTuple):
    """An interval timer (setitimer(2)): which, and its seconds to the next signal and then."""

    which: int
    left: float
    interval: float


def original_environment() -> dict[bytes, bytes]:
    """The environment that this process was started with.

    Python may have added to its own (LC_CTYPE in the C locale, PEP 538).
    """
    try:
        block = Path("/proc/self/environ").read_bytes()
    except OSError:
        return dict(os.environb)
    pairs = (entry.partition(b"=") for entry in block.split(b"\0") if entry)
    return {name: value for name, equals, value in pairs if equals}


def occupy_standard_descriptors() -> None:
    """Open /dev/null as each standard stream that is closed, so that no later file becomes one."""
    while (descriptor := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
        pass
    os.close(descriptor)


@cache
def take_signals() -> frozenset[signal.Signals]:
    """Make children of this process waitable; which signals a command is to find ignored.

    Whoever ignores SIGCHLD cannot wait for a child.
    """
    watched = (signal.SIGINT, signal.SIGCHLD)
    ignored = frozenset(n for n in watched if signal.getsignal(n) is signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return ignored


def take_timers() -> tuple[Timer, ...]:
    """Stop the timers that this process was started with (``alarm``, and then ``exec``), which are
    meant for the command."""
    found = ((each, *signal.setitimer(each, 0)) for each in _TIMERS)
    return tuple(Timer(*each) for each in found if each[1])


def find_command(name: str, environment: Mapping[bytes, bytes]) -> str:
    """The file that ``name`` stands for, as a shell finds it.

    Raises CommandNotFoundError, CommandNotExecutableError, UserError (a file that gains rights).
    """
    # Imported late: a private daemon starts in the meantime.
    from dprobe.lib.reading import look, silence
    from dprobed.proc.helper import SilentError

    if not name:
        raise CommandNotFoundError("'': command not found")
    if "/" in name:
        candidates = [name]
    else:
        path = os.fsdecode(environment.get(b"PATH", b"/bin:/usr/bin"))
        candidates = [os.path.join(folder or ".", name) for folder in path.split(":")]  # noqa: PTH118
    unusable = ""
    for candidate in candidates:
        try:
            found = look(candidate)
        except SilentError:
            # Another one behind it on PATH would be another program.
            raise CommandNotExecutableError(silence(candidate)) from None
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR) or "/" in name:
                unusable = unusable or f"{candidate}: {os_error_text(error)}"
                if error.errno in (errno.ENOENT, errno.ENOTDIR):
                    raise CommandNotFoundError(f"{name}: no such file") from None
            continue
        if stat.S_ISREG(found.mode) and found.allowed:
            _refuse_gaining_rights(candidate, found)
            return candidate
        what = "is a folder" if stat.S_ISDIR(found.mode) else "permission denied"
        unusable = unusable or f"{candidate}: {what}"
    if unusable:
        raise CommandNotExecutableError(unusable)
    raise CommandNotFoundError(f"{name}: command not found")


def _refuse_gaining_rights(path: str, found: FileFacts) -> None:
    """The kernel takes away what a traced program would gain (``execve(2)``) without root."""
    if os.geteuid() == 0 or found.nosuid:
        return
    if found.mode & stat.S_ISUID:
        why = "is set-user-ID"
    elif found.mode & stat.S_ISGID and found.mode & stat.S_IXGRP:
        why = "is set-group-ID"
    elif found.capable:
        why = "has file capabilities"
    else:
        return
    raise UserError(f"{path} {why} and would run without those rights when probed; do it as root")


class Launched:
    """The command, waiting at its gate; ``pid`` is its process id.

    ``ignored``, ``timers``: what ``take_signals`` and ``take_timers`` said; ``daemon``: the process
    whose tracers may trace it (0: not known here).
    """

    def __init__(
        self,
        path: str,
        argv: list[str],
        environment: Mapping[bytes, bytes],
        ignored: frozenset[signal.Signals],
        timers: tuple[Timer, ...],
        daemon: int,
    ) -> None:
        gate, self._open_gate = os.pipe()
        # No handler of ours may run in the child.
        mask = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        try:
            self.pid = os.fork()
            if self.pid == 0:
                with contextlib.suppress(BaseException):
                    os.close(self._open_gate)
                    _restore(ignored, mask, daemon)
                    if os.read(gate, 1):
                        for timer in timers:
                            signal.setitimer(*timer)
                        _exec(path, argv, environment)
                os._exit(126)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(gate)

    @staticmethod
    def keep_nothing(*, stdout: bool) -> None:
        """Give up what the command was given, too, so that what it closes is closed.

        ``stdout``: this process's standard output, too; its standard error stays.
        """
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1) if stdout else (0,):
            os.dup2(null, standard, inheritable=False)
        os.close(null)
        for number in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208
            with contextlib.suppress(OSError):  # that of the list itself
                if number > 2 and os.get_inheritable(number):
                    os.close(number)

    def open_gate(self) -> None:
        """Let it go on to its ``exec``."""
        os.write(self._open_gate, b"!")
        self.close_gate()

    def close_gate(self) -> None:
        """Give up the gate; a command that was not let through ends at once."""
        if self._open_gate >= 0:
            os.close(self._open_gate)
            self._open_gate = -1


def _restore(
    ignored: frozenset[signal.Signals], mask: set[int | signal.Signals], daemon: int
) -> None:
    """In the child: restore the signals as we found them, and allow the daemon to trace us."""
    for number in (*_CHANGED_BY_PYTHON, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
    if _YAMA.exists():
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(daemon or -1), 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _exec(path: str, argv: list[str], environment: Mapping[bytes, bytes]) -> None:
    try:
        os.execve(path, argv, environment)
    except OSError as error:
        if error.errno == errno.ENOEXEC:
            # A script without #! is the shell's, as execvp(3) has it.
            os.execve("/bin/sh", ["/bin/sh", path, *argv[1:]], environment)
        os.write(2, os.fsencode(f"dprobe: {path}: {os_error_text(error)}\n"))
        os._exit(127 if error.errno == errno.ENOENT else 126)
