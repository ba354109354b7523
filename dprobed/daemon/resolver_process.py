"""Resolver processes, one for each pair of a user who asks and a user whose processes are asked
about: started when first needed, restarted after they died. What one user's files do to a resolver
delays nobody else.

The daemon keeps both ends of a mailbox open. The tracers that ask inherit one end, the resolver the
other: what is sent while no resolver runs waits for the next one, which is started when the mailbox
becomes readable. One that does not read is killed and replaced: it has nothing that could be lost.
A resolver ends after a time without connections, or when the daemon and all its tracers are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from dprobed.daemon.child_process import User, fork_as, how_it_ended
from dprobed.daemon.tracer_child import TracerAhead
from dprobed.proc import files
from dprobed.resolver.caution import Caution
from dprobed.resolver.client import open_channel, received, send, wait_for
from dprobed.resolver.errors import LocationError, LostError, SilenceError
from dprobed.resolver.files import Ask, Steps, Taking
from dprobed.resolver.limits import DEADLINE
from dprobed.wire.resolver import Answer

#: A resolver that ends within these seconds is restarted after as many.
_RESTART_DELAY: Final = 1.0
#: A resolver that accepts no connection for so many seconds, at each look, is killed: by then the
#: kernel ends it because of a question, unless it is stopped or in uninterruptible sleep.
_STUCK: Final = DEADLINE + 1.0
_LOOK: Final = 0.5
#: Killed resolvers of a user that have not ended, because they sleep: with as many, no other is
#: started.
_MOST_STUCK: Final = 4
#: Resolvers at most that only the daemon asks. A user with subordinate ids (subuid(5)) has
#: processes of 65,536 users.
_MOST: Final = 16
#: Seconds that the daemon's own channel to a resolver stays open after its last question.
_IDLE: Final = 30.0

T = TypeVar("T")

#: How much rather a resolver is killed than others where memory runs out (-1000 to 1000).
_EXPENDABLE: Final = "500"

_log = logging.getLogger("dprobed")


def _run(mailbox: socket.socket, become: Callable[[], None]) -> None:
    """Run the resolver, in the forked child."""
    # Like a tracer it ends with its socket, not by a signal from the terminal.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    # Imported before it changes its user, who may not be able to read our files.
    from dprobed.resolver.service import main

    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text("dprobed-resolve")
    with contextlib.suppress(OSError):
        # The daemon may be among the last to be killed for want of memory; this is started again.
        Path("/proc/self/oom_score_adj").write_text(_EXPENDABLE)
    become()
    main(mailbox)


class _Resolver:
    """One user's resolver: mailbox, process if there is one, and the daemon's channel to it."""

    def __init__(
        self,
        user: User,
        processes: dict[int, User],
        mailbox: tuple[socket.socket, socket.socket],
    ) -> None:
        self._user = user
        self._processes = processes
        self.mailbox, self._theirs = mailbox
        #: Running tracers that have the mailbox.
        self.tracers = 0
        #: Its process; 0: there is none.
        self._child = 0
        #: Processes that were killed and have not ended yet.
        self._dying = 0
        #: These, and those that are not needed any more: that they end is nobody's news.
        self._given_up: set[int] = set()
        self._stopped = False
        self._channel: socket.socket | None = None
        self._asking = asyncio.Lock()
        self._caution: Final = Caution()
        #: When the daemon last asked it.
        self.asked_at = 0.0
        self._listen()

    @property
    def is_idle(self) -> bool:
        """Whether no tracer and no channel of the daemon needs it, nor what it knows."""
        running = self._child or self._dying
        used = self.tracers or running or self._asking.locked() or self._channel
        return not (used or self._caution.remembers(time.monotonic()))

    @property
    def is_spare(self) -> bool:
        """Whether its process runs, and nobody is asking it anything nor is likely to."""
        return self._child != 0 and not self.tracers and not self._asking.locked()

    def dismiss(self) -> None:
        """End its process, which has nothing that could be lost: the next question starts it."""
        self._hang_up()
        self._give_up()

    def stop(self) -> None:
        """Close the daemon's ends; the process ends when no tracer has the mailbox."""
        self._stopped = True
        self._hang_up()
        asyncio.get_running_loop().remove_reader(self._theirs)
        self._theirs.close()
        self.mailbox.close()

    # --- its process ---

    def _listen(self) -> None:
        """Start the process when the mailbox becomes readable."""
        if not self._stopped:
            asyncio.get_running_loop().add_reader(self._theirs, self.start)

    def start(self) -> None:
        """Start the process, unless it runs."""
        loop = asyncio.get_running_loop()
        if self._child or self._stopped:
            return
        loop.remove_reader(self._theirs)
        if self._dying >= _MOST_STUCK:
            loop.call_later(_STUCK, self._listen)
            return
        try:
            child = fork_as(self._user, (self._theirs.fileno(),), partial(_run, self._theirs))
            try:
                pidfd = os.pidfd_open(child)
            except OSError:
                # No descriptor is left: a child that cannot be watched is not to stay.
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise
        except OSError as error:
            _log.warning("no resolver can be started: %s", error.strerror)
            loop.call_later(_RESTART_DELAY, self._listen)
            return
        self._child = child
        self._processes[child] = self._user
        loop.add_reader(pidfd, self._ended, child, pidfd, time.monotonic())
        self._watch(child)

    def _ended(self, child: int, pidfd: int, since: float) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(pidfd)
        os.close(pidfd)
        how = how_it_ended("resolver", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        if how and child not in self._given_up:
            _log.warning("%s (it reads files for user %d)", how, self._user[0])
        self._given_up.discard(child)
        del self._processes[child]
        if child != self._child:
            self._dying -= 1
            return
        self._child = 0
        if not self._stopped:
            loop.remove_reader(self._theirs)
        soon = how and time.monotonic() < since + _RESTART_DELAY
        loop.call_later(_RESTART_DELAY if soon else 0, self._listen)

    def _watch(self, child: int) -> None:
        """See that it takes in whoever wants to ask (who got no answer does so anew)."""
        loop = asyncio.get_running_loop()

        def there_is_mail() -> None:
            loop.remove_reader(self._theirs)
            loop.call_later(_LOOK, self._look, child, time.monotonic())

        loop.add_reader(self._theirs, there_is_mail)

    def _look(self, child: int, since: float) -> None:
        """Whether a process still leaves somebody waiting; if so for too long, kill it."""
        if child != self._child or self._stopped:
            return
        if not wait_for(self._theirs, 0):
            self._watch(child)
        elif time.monotonic() < since + _STUCK:
            asyncio.get_running_loop().call_later(_LOOK, self._look, child, since)
        else:
            _log.warning("the resolver (it reads files for user %d) is stuck", self._user[0])
            self._give_up()

    def _give_up(self) -> None:
        os.kill(self._child, signal.SIGKILL)
        self._given_up.add(self._child)
        self._child = 0
        self._dying += 1
        asyncio.get_running_loop().remove_reader(self._theirs)
        self._listen()

    # --- the daemon's questions ---

    async def ask(self, ask: Ask) -> Answer:
        """Ask a question for the daemon itself; the answer. Raises LocationError."""
        async with self._asking:
            identity = files.facts(ask.descriptor)
            now = time.monotonic()
            end = now + self._caution.patience(identity, ask.question.path, now)
            while True:
                try:
                    answer = await self._within(ask, end)
                except LostError as error:
                    self._hang_up()
                    if not self._caution.failed(identity, error, time.monotonic(), end):
                        raise
                except asyncio.CancelledError:
                    self._hang_up()  # The next question is not to get this one's answer.
                    raise
                else:
                    self._caution.answered()
                    return answer

    async def _within(self, ask: Ask, end: float) -> Answer:
        seconds = max(0.0, end - time.monotonic())
        try:
            return await asyncio.wait_for(self._try(ask), seconds)
        except TimeoutError:
            raise SilenceError(
                f"{ask.question.path}: the resolver did not answer in {seconds:.1f} s"
            ) from None

    async def _try(self, ask: Ask) -> Answer:
        loop = asyncio.get_running_loop()
        self.asked_at = time.monotonic()
        try:
            if self._channel is None:
                self._channel = open_channel(self.mailbox)
                loop.call_later(_IDLE, self._look_if_idle)
        except OSError as error:
            raise LostError(f"{ask.question.path}: no resolver to ask: {error.strerror}") from error
        channel = self._channel
        send(channel, ask)
        ready = asyncio.Event()
        loop.add_reader(channel, ready.set)
        try:
            await ready.wait()
        finally:
            if channel.fileno() >= 0:
                loop.remove_reader(channel)
        return received(channel, ask, self.asked_at)

    def _look_if_idle(self) -> None:
        if self._channel is None:
            return
        left = self.asked_at + _IDLE - time.monotonic()
        if left > 0 or self._asking.locked():
            asyncio.get_running_loop().call_later(max(left, 1.0), self._look_if_idle)
        else:
            self._hang_up()

    def _hang_up(self) -> None:
        if self._channel is not None:
            asyncio.get_running_loop().remove_reader(self._channel)
            self._channel.close()
            self._channel = None


class Resolvers:
    """The resolvers of all users. ``ahead``: a tracer that has its resolver's mailbox already."""

    def __init__(self, ahead: TracerAhead | None = None) -> None:
        self._ahead = ahead
        #: By who asks, and whose processes are asked about.
        self._by_user: dict[tuple[User, int], _Resolver] = {}
        #: Pids of resolver processes → their user.
        self.processes: dict[int, User] = {}

    def _of(self, user: User, owner: int) -> _Resolver:
        found = self._by_user.get((user, owner))
        if found is None:
            for each in [each for each, resolver in self._by_user.items() if resolver.is_idle]:
                self._by_user.pop(each).stop()
            mailbox = self._new_mailbox(user, owner)
            found = self._by_user[user, owner] = _Resolver(user, self.processes, mailbox)
        return found

    def _new_mailbox(self, user: User, owner: int) -> tuple[socket.socket, socket.socket]:
        ahead = self._ahead
        if ahead is not None and (ahead.journal.user, ahead.journal.owner) == (user, owner):
            self._ahead = None
            return ahead.mailbox
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def take(self, user: User, owner: int) -> socket.socket:
        """The mailbox for a new tracer of this user, until ``give_back``.

        ``owner``: whose processes it has.
        """
        resolver = self._of(user, owner)
        resolver.tracers += 1
        return resolver.mailbox

    def give_back(self, user: User, owner: int) -> None:
        """A tracer has ended."""
        resolver = self._by_user.get((user, owner))
        if resolver is not None:
            resolver.tracers -= 1

    def expect(self, user: User, owner: int) -> None:
        """Start a resolver ahead of its first question."""
        resolver = self._by_user.get((user, owner))
        if resolver is not None:
            resolver.start()

    async def run(self, user: User, owner: int, steps: Steps[T]) -> T:
        """Run the steps of a question that the daemon asks for ``user``, about what processes of
        ``owner`` map; their result. Raises LocationError."""
        if os.geteuid() != 0:
            user = os.geteuid(), os.getegid()
        try:
            taking = Taking(steps)
            while taking.ask is not None:
                try:
                    answer = await self._answer(user, owner, taking.ask)
                except LocationError as error:
                    taking.fail(error)
                else:
                    taking.answer(answer)
            return taking.result
        finally:
            steps.close()

    async def _answer(self, user: User, owner: int, ask: Ask) -> Answer:
        resolver = self._of(user, owner)
        self._make_room(resolver)
        return await resolver.ask(ask)

    def _make_room(self, wanted: _Resolver) -> None:
        """End those that the daemon has not asked for longest, where there are too many."""
        spare = [each for each in self._by_user.values() if each.is_spare and each is not wanted]
        spare.sort(key=lambda each: each.asked_at)
        for each in spare[: max(0, len(spare) + 1 - _MOST)]:
            each.dismiss()

    def stop(self) -> None:
        """Stop: the daemon asks nothing more."""
        for resolver in self._by_user.values():
            resolver.stop()
        self._by_user.clear()
