"""``dprobe run``: a command with probes in from its start."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from dprobe.lib.connection import Connection
from dprobe.lib.errors import DaemonGoneError
from dprobe.lib.launch import Launched, find_command, original_environment, take_signals
from dprobe.lib.session import Session, Waker, daemon, load_programs
from dprobe.view.output import Output, complain
from dprobed.wire.limits import Limits

#: Seconds that the daemon has to report the end of a command that has ended.
_LAST_WORDS: Final = 10.0


def run(
    programs: Sequence[str],
    argv: list[str],
    *,
    socket: Path | None,
    defines: dict[str, str],
    groups: Sequence[int],
    types: Sequence[int],
    check_opcode: bool,
    form: str,
    path: str | None,
    follow_forks: bool,
    budget: Limits | None,
) -> int:
    """Start ``argv`` with the programs in, until it ends; the exit status as in a shell.

    With ``follow_forks`` it goes on until the last of its children has ended.
    """
    ignored = take_signals()
    environment = original_environment()
    command = find_command(argv[0], environment)
    with daemon(socket) as connect:
        # Assembled while a private daemon starts.
        uploads = load_programs(programs, defines, groups, types, budget)
        output = Output(form, path, 2)
        connection = connect()
        launched = Launched(command, argv, environment, ignored, connection.pid)
        try:
            session = Session(connection, output, launched.pid, follow_forks=follow_forks)
            session.insert(uploads, launch=True, check_opcode=check_opcode)
        except BaseException:
            launched.close_gate()
            connection.close()
            os.waitpid(launched.pid, 0)
            raise
        status = _Command(launched, connection, session).run()
        if session.ended is not None:
            output.summary(session.detach())
        output.close()
    return status


class _Command:
    """The command from its gate to its end: signals on to it, reports from the daemon."""

    def __init__(self, launched: Launched, connection: Connection, session: Session) -> None:
        self._launched = launched
        self._connection: Connection | None = connection
        self._session = session
        self._status: int | None = None
        self._stopped = False

    def run(self) -> int:
        """Open the gate, and wait for the end of the command and of its reports."""
        # Keys at the terminal go to the command too: what they do is its own affair. Once it has
        # ended, Ctrl-C is for us, who wait for its children.
        ignored = (signal.SIGQUIT, signal.SIGTSTP)
        before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
        passed_on = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
        handlers = {number: self._passes_on(number) for number in passed_on}
        handlers[signal.SIGINT] = self._interrupted
        with Waker({**handlers, signal.SIGCHLD: lambda: None}) as waker:
            self._launched.open_gate()
            deadline: float | None = None
            while True:
                self._reap()
                if self._status is not None:
                    if self._session.over or self._stopped or self._connection is None:
                        break
                    if deadline is None or self._session.dumping:
                        deadline = time.monotonic() + _LAST_WORDS
                    if self._session.ended is not None:
                        deadline = math.inf  # for its children
                    elif time.monotonic() > deadline:
                        complain("the daemon does not report the end of the command")
                        break
                left = None if deadline in (None, math.inf) else deadline - time.monotonic()
                if waker.wait(self._connection, left):
                    self._receive()
        for number, handler in before.items():
            signal.signal(number, handler)
        assert self._status is not None
        return self._status

    def _passes_on(self, number: signal.Signals) -> Callable[[], None]:
        def pass_on() -> None:
            if self._status is None:
                os.kill(self._launched.pid, number)
            elif number in (signal.SIGTERM, signal.SIGHUP):
                self._stopped = True

        return pass_on

    def _interrupted(self) -> None:
        self._stopped = self._status is not None

    def _receive(self) -> None:
        try:
            self._session.receive()
        except DaemonGoneError as error:
            complain(f"{error}; the command goes on without probes")
            self._connection = None
        ended = self._session.ended
        if ended is not None and ended.how in ("failed", "detached") and self._connection:
            why = ended.reason or "dprobed has let the command go"
            complain(f"{why}; the command goes on without probes")
            self._connection = None

    def _reap(self) -> None:
        """Note the command's end; stop while it is stopped, for the shell's job control."""
        while self._status is None:
            pid, status = os.waitpid(self._launched.pid, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                return
            if os.WIFSTOPPED(status):
                os.kill(os.getpid(), signal.SIGSTOP)
                # Whoever let us go on means the command; it may have been told already.
                os.kill(self._launched.pid, signal.SIGCONT)
                continue
            code = os.waitstatus_to_exitcode(status)
            self._status = code if code >= 0 else 128 - code
