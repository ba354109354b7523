"""The tracer process: its main loop, between requests of the daemon and stops of its targets.

One blocking loop for all targets. It waits for tracees only; the socket and the clock end a wait by
a signal (SIGIO, SIGALRM), whose handlers set ``attention``. A signal that arrives in the instant
between the look at ``attention`` and the wait is noticed at the next stop or tick, so a tick never
is further away than ``_IDLE`` seconds. While a debugger holds a target, the loop waits on sockets
and on a descriptor to which SIGCHLD writes instead.

However the loop ends (asked to, the daemon is gone, an internal error), every change is undone and
every target goes on. An internal error in the handling of one target detaches from that one.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import select
import signal
import socket
import time
from collections import deque
from typing import Final

from dprobed.change_journal import ChangeJournal
from dprobed.engine.affinity import Affinity, become_scheduling_group
from dprobed.proc import procfs
from dprobed.resolver.client import Resolver, wait_for
from dprobed.tracee.tracees import Tracees
from dprobed.tracer.counting import Counting
from dprobed.tracer.debug.invitation import TICK as DEBUGGER_TICK
from dprobed.tracer.loop import StopLoop
from dprobed.tracer.reporter import FLUSH, Reporter
from dprobed.tracer.requests import Requests
from dprobed.tracer.stacks.tables import Tables
from dprobed.tracer.target import TracedProcess
from dprobed.tracer.targets import Targets
from dprobed.wire import protocol
from dprobed.wire.framing import Unpacker

_IDLE: Final = 5.0
#: Seconds between ticks, at most, as long as there are hits.
_BUSY: Final = 1.0
#: Seconds in which a resolver answers mostly; then those in turn in which hits are served, and its
#: answer is waited for.
_RESOLVER_SOON: Final = 0.001
_RESOLVER_TURNS: Final = (0.001, 0.0003)


class Tracer:
    """The tracer: serves its targets until its socket ends."""

    def __init__(
        self,
        sock: socket.socket,
        mailbox: socket.socket,
        affinity: Affinity,
        journal: ChangeJournal,
        changes: int,
    ) -> None:
        self._sock = sock
        self._unpacker = Unpacker()
        #: Requests that have come and are not served yet.
        self._asked: deque[protocol.Request] = deque()
        self._reporter = Reporter(sock, self._arm)
        self._tracees = Tracees()
        self._affinity = affinity
        self._loop = StopLoop(self._tracees, affinity)
        self._targets = Targets(
            self._tracees,
            affinity,
            self._reporter,
            Resolver(mailbox, self._await_resolver),
            journal,
            Tables(mailbox),
        )
        self._counting = Counting(changes, self._targets)
        self._requests = Requests(self._targets)
        self._wakeup: tuple[int, int] | None = None
        #: Whether more stops may be there than we looked at.
        self._is_behind = False
        self._tick = False
        self._served = 0
        self._closing = False

    # --- the loop ---

    def run(self) -> None:
        """Run until the socket ends, then detach from all. Raises the error that ended the loop."""
        self._hear_signals()
        try:
            while not self._closing:
                self._turn()
        finally:
            self._targets.is_closing = True
            now = time.monotonic_ns()
            self._targets.detach_all(self._loop.run)
            self._counting.end(now)
            self._reporter.finish()

    def _turn(self) -> None:
        """Attend to targets and requests, then serve stops until attention is needed again."""
        tracees = self._tracees
        tracees.attention = False
        tracees.blamed = None
        try:
            self._attend()
            tracees.dispatch_deferred()
            tracees.adopt_orphans()
            if tracees.first_stops:
                self._arm()
        except Exception as error:
            self._blame(error)
        self._targets.look_at_ends()
        if self._closing or tracees.attention:
            return
        try:
            self._wait()
        except Exception as error:
            self._blame(error)

    def _wait(self) -> None:
        waiting = [each for each in self._targets if each.debugger.is_waiting]
        if self._hear_children(bool(waiting)):
            # What came before we heard.
            self._is_behind = not self._tracees.drain()
        elif waiting:
            self._wait_for_debuggers(waiting)
        elif self._tracees.threads or self._tracees.others:
            self._loop.run()
        elif self._tracees.has_unreported_children:
            self._tracees.await_unreported_child()
        elif not self._targets.await_orphans():
            select.select([self._sock], [], [], _IDLE)

    def _await_resolver(self, channel: socket.socket, seconds: float) -> bool:
        """Wait for an answer; if it is not there at once, plain hits are served meanwhile.

        Given up where we are to detach from the target for which that is done.
        """
        deadline = time.monotonic() + seconds
        serve, listen = _RESOLVER_TURNS
        answered = wait_for(channel, _RESOLVER_SOON)
        while not answered and time.monotonic() < deadline and not self._is_to_detach():
            self._tracees.pause(serve)
            answered = wait_for(channel, listen)
        return answered

    def _is_to_detach(self) -> bool:
        """Whether we are to detach, as soon as we come to it, from what we are at work for."""
        self._receive()
        if self._asked:
            self._tracees.attention = True
        group = self._tracees.blamed
        detaching = {each.pid for each in self._asked if isinstance(each, protocol.Detach)}
        return self._closing or any(
            each.group is group and (each.detachment.is_due or each.pid in detaching)
            for each in self._targets
        )

    def _blame(self, error: Exception) -> None:
        """Attribute an internal error to the target being worked for; without one, raise it."""
        group = self._tracees.blamed
        target = next((each for each in self._targets if each.group is group), None)
        if target is None:
            raise error
        self._targets.fail(target, error)

    def _hear_signals(self) -> None:
        def attention(number: int, frame: object) -> None:
            self._tracees.attention = True
            if number == signal.SIGALRM:
                self._tick = True

        signal.signal(signal.SIGIO, attention)
        signal.signal(signal.SIGALRM, attention)
        signal.setitimer(signal.ITIMER_REAL, _IDLE, _IDLE)
        self._sock.setblocking(False)
        fcntl.fcntl(self._sock, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(self._sock, fcntl.F_GETFL)
        fcntl.fcntl(self._sock, fcntl.F_SETFL, flags | os.O_ASYNC)

    def _arm(self) -> None:
        """Something waits to be sent: tick soon; further calls do not postpone it."""
        left, _ = signal.getitimer(signal.ITIMER_REAL)
        if not 0 < left <= FLUSH:
            signal.setitimer(signal.ITIMER_REAL, FLUSH, FLUSH)

    def _attend(self) -> None:
        if self._tick:
            self._tick = False
            self._do_tick()
        for target in self._targets:
            if target.group.needs_attention or target.debugger.is_invited:
                self._tracees.blamed = target.group
                target.attend()
        self._tracees.blamed = None
        self._listen()

    def _do_tick(self) -> None:
        self._reporter.tick()
        targets = list(self._targets)
        served = sum(target.engines.runner.served for target in targets)
        if served == self._served:
            debugged = any(target.debugger.is_expected for target in targets)
            idle = _BUSY if self._counting.is_behind(served) else _IDLE
            idle = DEBUGGER_TICK if debugged else idle
            polled = any(target.engines.is_polled for target in targets)
            idle = FLUSH if self._reporter.is_waiting or polled else idle
            signal.setitimer(signal.ITIMER_REAL, idle, idle)
            self._affinity.release_cpu()
            self._targets.forget_ended()
        elif signal.getitimer(signal.ITIMER_REAL)[1] > _BUSY:
            signal.setitimer(signal.ITIMER_REAL, _BUSY, _BUSY)
        self._served = served
        for target in targets:
            self._tracees.blamed = target.group
            target.tick()
        self._tracees.blamed = None
        self._counting.tick(served)

    # --- debuggers ---

    def _hear_children(self, wanted: bool) -> bool:
        """Have SIGCHLD wake ``poll`` or not; whether it does from now on, and did not before."""
        if wanted and self._wakeup is None:
            self._wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            signal.signal(signal.SIGCHLD, lambda number, frame: None)
            signal.set_wakeup_fd(self._wakeup[1], warn_on_full_buffer=False)
            return True
        if not wanted and self._wakeup is not None:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            for end in self._wakeup:
                os.close(end)
            self._wakeup = None
        return False

    def _wait_for_debuggers(self, waiting: list[TracedProcess]) -> None:
        """Wait for a debugger, the daemon, a stop, or the end of a limit."""
        assert self._wakeup is not None
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._wakeup[0], select.POLLIN)
        for target in self._targets:
            for descriptor, events in target.debugger.descriptors():
                poll.register(descriptor, events)
        patience = min(target.debugger.patience for target in waiting)
        poll.poll(0 if self._is_behind else 1000 * min(patience, 1.0))
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakeup[0], 1 << 12)
        self._is_behind = not self._tracees.drain()

    # --- requests ---

    def _receive(self) -> None:
        """Take in what is asked of us."""
        while not self._closing:
            try:
                data = self._sock.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self._closing = self._targets.is_closing = True
            self._unpacker.feed(data)
        while (body := self._unpacker.next()) is not None:
            self._asked.append(protocol.decode_request(body))

    def _listen(self) -> None:
        self._receive()
        while self._asked:
            self._requests.serve(self._asked.popleft())
            # Who got an answer often asks again at once, and its signal may come just before we
            # wait: then the next tick, soon, is what we hear it by.
            self._arm()


def import_all() -> None:
    """Import what a tracer otherwise imports when it first needs it.

    For tracers of users who may not be able to read our files.
    """
    import dprobed.engine.inline.engine
    import dprobed.engine.inline.executor
    import dprobed.tracer.debug.entrance
    import dprobed.tracer.dump.snapshot  # noqa: F401


def main(sock: socket.socket, mailbox: socket.socket, changes: int) -> None:
    """Run a tracer that speaks ``protocol`` on ``sock``; returns when its work is done.

    ``mailbox``: that of its user's resolver. ``changes``: the descriptor of its change journal.
    """
    gc.disable()
    pid = os.getpid()
    journal = ChangeJournal(changes, pid, procfs.start_time(pid) or 0)
    Tracer(sock, mailbox, Affinity(become_scheduling_group()), journal, changes).run()
