"""What ``dprobe run`` does from the opening of the command's gate to the end of its reports."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Protocol

from dprobe.lib.connection import Connection
from dprobe.lib.errors import DaemonGoneError
from dprobe.lib.launch import Launched
from dprobe.lib.session import Session
from dprobe.lib.summary import Summary
from dprobe.lib.waker import Waker
from dprobe.view.output import complain, note

#: Seconds that the daemon has to report the end of a command that has ended.
_LAST_WORDS: Final = 10.0


class Shower(Protocol):
    """What shows the records of a session: to the end, or until it has ``ended`` by itself."""

    @property
    def next_time(self) -> float | None:
        """When it is to be flushed though nothing came, by the monotonic clock."""

    @property
    def ended(self) -> bool:
        """Whether it wants no more."""

    def flush(self) -> None:
        """Show what has come so far."""

    def summary(self, summary: Summary) -> None:
        """The probes are out."""


class LaunchedCommand:
    """The command from its gate to its end: signals on to it, reports from the daemon."""

    def __init__(
        self,
        launched: Launched,
        connection: Connection,
        session: Session,
        output: Shower,
        *,
        ends_with_session: bool = False,
        handlers: Mapping[signal.Signals, Callable[[], None]] = MappingProxyType({}),
    ) -> None:
        """``ends_with_session``: the command is asked to end (SIGTERM) when nothing more is to be
        shown. ``handlers``: of signals that are not passed on."""
        self._ends_with_session = ends_with_session
        self._handlers = handlers
        self._launched = launched
        self._connection: Connection | None = connection
        self._session = session
        self._output = output
        self._status: int | None = None
        self._stopped = False
        #: A signal that asks the command to end, and that it has not seen if it stands.
        self._asked_to_end = ""

    def run(self) -> int:
        """Open the gate, and wait for the end of the command and of its reports."""
        # Keys at the terminal reach the command too, which decides what they do. Once it has
        # ended, Ctrl-C ends our waiting for its children.
        ignored = (signal.SIGQUIT, signal.SIGTSTP)
        before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
        passed_on = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
        handlers = {number: self._passes_on(number) for number in passed_on}
        handlers[signal.SIGINT] = self._interrupted
        handlers |= self._handlers
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
                self._resume()
                if waker.wait(self._connection, self._left(deadline)):
                    self._receive()
                    if deadline != math.inf:
                        deadline = None  # Since its last word; to write that may have taken long.
                elif self._connection is not None:
                    self._output.flush()
                    self._end_if_wanted()
                self._look()
        for number, handler in before.items():
            signal.signal(number, handler)
        assert self._status is not None
        return self._status

    def _left(self, deadline: float | None) -> float | None:
        """For how many seconds to wait at most; None: for ever."""
        look = self._session.doubts.next_look if self._connection is not None else None
        times = [each for each in (deadline, self._output.next_time, look) if each is not None]
        first = min(times, default=math.inf)
        return None if first == math.inf else max(0.0, first - time.monotonic())

    def _end_if_wanted(self) -> None:
        """Take the probes out where nothing more is to be shown; the command goes on."""
        if self._output.ended and self._connection is not None:
            self._output.summary(self._session.detach())
            self._connection = None
            if self._ends_with_session and self._status is None:
                os.kill(self._launched.pid, signal.SIGTERM)

    def _passes_on(self, number: signal.Signals) -> Callable[[], None]:
        def pass_on() -> None:
            if self._status is None:
                os.kill(self._launched.pid, number)
                if number in (signal.SIGTERM, signal.SIGHUP):
                    self._asked_to_end = number.name
            elif number in (signal.SIGTERM, signal.SIGHUP):
                self._stopped = True

        return pass_on

    def _interrupted(self) -> None:
        self._stopped = self._status is not None
        self._asked_to_end = "Ctrl-C"

    def _resume(self) -> None:
        """A command that stands at a probe sees that it is to end only when it goes on."""
        if not self._asked_to_end or self._connection is None:
            return
        why, self._asked_to_end = self._asked_to_end, ""
        try:
            if self._session.resume():
                note(f"{why}: what stood at a probe goes on")
        except DaemonGoneError:
            return  # The next look at the connection says so.

    def _look(self) -> None:
        """Say why probes may never fire, where that is known later."""
        if self._connection is not None:
            # A daemon that is gone is said at the next look at the connection.
            with contextlib.suppress(DaemonGoneError):
                self._session.look()

    def _receive(self) -> None:
        try:
            self._session.receive()
        except DaemonGoneError as error:
            complain(f"{error}; the command goes on without probes")
            self._connection = None
        self._output.flush()
        self._end_if_wanted()
        timed = self._session.timed and self._session.spent and not self._session.over
        if timed and self._connection is not None:
            # Nothing of ours is to be in it any longer.
            self._session.detach()
            note("the time is over; the command goes on without probes")
            self._connection = None
            return
        ended = self._session.ended
        if ended is not None and ended.how in ("failed", "detached") and self._connection:
            why = ended.reason or "dprobed has detached from the command"
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
