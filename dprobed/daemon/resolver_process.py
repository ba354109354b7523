"""Resolver processes, one for each user: started when first needed, restarted after they died.

The daemon keeps both ends of a user's mailbox open. The user's tracers inherit one end, the
resolver the other: what is sent while no resolver runs waits for the next one, which is started
when the mailbox becomes readable. A resolver ends after a time without connections, or when the
daemon and all tracers of its user are gone.
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
from pathlib import Path
from typing import Final, TypeVar

from dprobed.daemon.child_process import User, fork_as, how_it_ended
from dprobed.resolver.client import PATIENCE, open_channel, received, send
from dprobed.resolver.errors import LocationError, LostError
from dprobed.resolver.files import Ask, Steps
from dprobed.wire.resolver import Answer

#: A resolver that ends within these seconds is restarted after as many.
_RESTART_DELAY: Final = 1.0
#: Seconds that the daemon's own channel to a resolver stays open after its last question.
_IDLE: Final = 30.0

T = TypeVar("T")

_log = logging.getLogger("dprobed")


def _run(become: Callable[[], None], mailbox: socket.socket, _: socket.socket) -> None:
    """Run the resolver, in the forked child."""
    # Like a tracer it ends with its socket, not by a signal from the terminal.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    # Imported before it changes its user, who may not be able to read our files.
    from dprobed.resolver.service import main

    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text("dprobed-resolve")
    become()
    main(mailbox)


class _Resolver:
    """One user's resolver: mailbox, process if there is one, and the daemon's channel to it."""

    def __init__(self, user: User, processes: dict[int, User]) -> None:
        self._user = user
        self._processes = processes
        self.mailbox, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        #: Running tracers that have the mailbox.
        self.tracers = 0
        self.is_running = False
        self._stopped = False
        self._channel: socket.socket | None = None
        self._asking = asyncio.Lock()
        self._asked_at = 0.0
        self._listen()

    @property
    def is_idle(self) -> bool:
        """Whether no tracer and no channel of the daemon needs it."""
        return not (self.tracers or self.is_running or self._asking.locked() or self._channel)

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
        if self.is_running or self._stopped:
            return
        loop.remove_reader(self._theirs)
        try:
            child = fork_as(self._user, (self._theirs, self._theirs), _run)
            pidfd = os.pidfd_open(child)
        except OSError as error:
            _log.warning("no resolver can be started: %s", error.strerror)
            loop.call_later(_RESTART_DELAY, self._listen)
            return
        self.is_running = True
        self._processes[child] = self._user
        since = time.monotonic()

        def ended() -> None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            how = how_it_ended("resolver", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            if how:
                _log.warning("%s (it reads files for user %d)", how, self._user[0])
            del self._processes[child]
            self.is_running = False
            soon = how and time.monotonic() < since + _RESTART_DELAY
            loop.call_later(_RESTART_DELAY if soon else 0, self._listen)

        loop.add_reader(pidfd, ended)

    # --- the daemon's questions ---

    async def ask(self, ask: Ask) -> Answer:
        """Ask a question for the daemon itself; the answer. Raises LocationError."""
        async with self._asking:
            end = time.monotonic() + PATIENCE
            while True:
                try:
                    return await asyncio.wait_for(self._try(ask), max(0, end - time.monotonic()))
                except TimeoutError:
                    self._hang_up()
                    raise LostError(
                        f"{ask.question.path}: the resolver did not answer in {PATIENCE:g} s"
                    ) from None
                except LostError as error:
                    self._hang_up()
                    if not error.innocent or time.monotonic() > end:
                        raise

    async def _try(self, ask: Ask) -> Answer:
        loop = asyncio.get_running_loop()
        self._asked_at = time.monotonic()
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
        return received(channel, ask, self._asked_at)

    def _look_if_idle(self) -> None:
        if self._channel is None:
            return
        left = self._asked_at + _IDLE - time.monotonic()
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
    """The resolvers of all users."""

    def __init__(self) -> None:
        self._by_user: dict[User, _Resolver] = {}
        #: Pids of resolver processes → their user.
        self.processes: dict[int, User] = {}

    def _of(self, user: User) -> _Resolver:
        found = self._by_user.get(user)
        if found is None:
            for each in [each for each, resolver in self._by_user.items() if resolver.is_idle]:
                self._by_user.pop(each).stop()
            found = self._by_user[user] = _Resolver(user, self.processes)
        return found

    def take(self, user: User) -> socket.socket:
        """The mailbox for a new tracer of this user, until ``give_back``."""
        resolver = self._of(user)
        resolver.tracers += 1
        return resolver.mailbox

    def give_back(self, user: User) -> None:
        """A tracer has ended."""
        resolver = self._by_user.get(user)
        if resolver is not None:
            resolver.tracers -= 1

    def expect(self, user: User) -> None:
        """Start a user's resolver ahead of its first question."""
        resolver = self._by_user.get(user)
        if resolver is not None:
            resolver.start()

    async def run(self, user: User, steps: Steps[T]) -> T:
        """Run the steps of a question for the daemon, asked of a user's resolver; their result.

        Raises LocationError.
        """
        if os.geteuid() != 0:
            user = os.geteuid(), os.getegid()
        try:
            ask = next(steps)
            while True:
                try:
                    answer = await self._of(user).ask(ask)
                except LocationError as error:
                    ask = steps.throw(error)
                else:
                    ask = steps.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            steps.close()

    def stop(self) -> None:
        """Stop: the daemon asks nothing more."""
        for resolver in self._by_user.values():
            resolver.stop()
        self._by_user.clear()
