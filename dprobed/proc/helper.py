"""A helper process, which does for us what may sleep in the kernel without limit.

A page that the target itself must fill (userfaultfd), a file of a file system that does not answer
(FUSE, NFS): whoever reads such a page or opens such a file sleeps until it comes, and nothing but
SIGKILL wakes it, if that does. A tracer's one thread, or the daemon's loop, may not. So the helper
does it: it is waited for so long, then killed, and the next job goes to a new one. What it had to
do with (a file, a file system) is not waited for again for a while. A job that does not die either
(its request is with the file server) is left alone, and nothing more is tried with the same until
it has ended; nothing at all where there are too many of these.

It is a fork of ours, with our rights, without any of our descriptors, and no child of ours: whoever
waits for children (a tracer does, for all of its tracees) never hears of it. It ends with us, and
when it has had nothing to do for a while.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, NoReturn

import msgspec

from dprobed.proc import procfs

#: Seconds for which a job is waited for; more only while the helper wants to run and cannot.
PATIENCE: Final = 0.2
_STARVED: Final = 2.0
#: Seconds without a job after which a helper ends.
_LINGER: Final = 10.0
#: Seconds for which what has not answered is not asked again.
_SILENCE: Final = 10.0
_MOST_SILENT: Final = 1024
#: Helpers that do not die at most, before nothing more is tried.
_MOST_STUCK: Final = 32
_MOST_BYTES: Final = 1 << 20
#: Bytes of an answer beyond which it comes as a file in memory: a message has no room for more than
#: the socket's buffer (net.core.wmem_default, 208 KiB).
_MOST_TOLD: Final = 1 << 16
#: How an answer comes: in the message, or in the first descriptor.
_TOLD: Final = b"t"
_IN_MEMORY: Final = b"m"

#: What a job is given and gives back besides descriptors: what msgpack can say.
Value = int | str | bytes | None
#: What a helper can do: from values and descriptors, which it does not close, to values and a
#: descriptor (-1: none), which is closed here once it is sent. Its OSError is raised at the asker.
Job = Callable[[Sequence[Value], Sequence[int]], tuple[list[Value], int]]

_jobs: dict[str, Job] = {}


class SilentError(OSError):
    """A job did not end in time: what it needs does not answer."""


def job(function: Job) -> Job:
    """Declare a function of a module as a job (decorator)."""
    _jobs[f"{function.__module__}.{function.__qualname__}"] = function
    return function


class Helper:
    """One helper at a time, started when it is needed."""

    def __init__(self) -> None:
        self._pid: int = 0
        self._pidfd = -1
        self._channel: socket.socket | None = None
        #: Of the process that we are: a fork of us has none of ours.
        self._owner = 0
        #: Killed, and not dead yet; by what they had to do with.
        self._stuck: dict[Hashable, int] = {}
        #: What has not answered, and until when it is not asked.
        self._silent: dict[Hashable, float] = {}
        #: A process that waits longer, and for how many seconds.
        self._patient: tuple[int, float] = 0, PATIENCE

    @property
    def is_started(self) -> bool:
        """Whether one is there by now, as far as is known."""
        return self._channel is not None and self._owner == os.getpid()

    def be_patient(self, seconds: float) -> None:
        """Wait so long for jobs of this process, which holds nobody up; no fork of it does."""
        self._patient = os.getpid(), seconds

    def do(
        self,
        about: Hashable,
        function: Job,
        values: Sequence[Value],
        descriptors: Sequence[int] = (),
        patience: float | None = None,
    ) -> tuple[list[Value], int]:
        """Have a job done; raises OSError, which is SilentError where it took too long.

        ``about``: the file, or file system, that it has to do with. ``patience``: seconds for which
        it is waited for (None: as always in this process).
        """
        self._check(about)
        if patience is None:
            patient, seconds = self._patient
            patience = seconds if patient == os.getpid() else PATIENCE
        body = msgspec.msgpack.encode((f"{function.__module__}.{function.__qualname__}", values))
        received: list[int]
        for is_last in (False, True):
            channel = self._ready()
            try:
                socket.send_fds(channel, [body], list(descriptors))
                answered = self._await(channel, patience)
                data, received = b"", []
                if answered:
                    data, received, _, _ = socket.recv_fds(channel, _MOST_BYTES, 2)
            except OSError:
                answered, data, received = True, b"", []
            if not answered:
                self._give_up(about)
                raise SilentError(errno.ETIMEDOUT, f"no answer in {patience:g} s")
            if data:
                return _result(data, received)
            # It had nothing to do for too long, and ended just then.
            self.close()
            if is_last:
                break
        raise SilentError(errno.EIO, "the helper process ended")

    def _await(self, channel: socket.socket, patience: float) -> bool:
        """Whether an answer came in time."""
        poll = select.poll()
        poll.register(channel, select.POLLIN)
        if poll.poll(1000 * patience):
            return True
        deadline = time.monotonic() + _STARVED
        while procfs.run_state(self._pid) == "R" and time.monotonic() < deadline:
            if poll.poll(10):
                return True
        return bool(poll.poll(0))

    def _check(self, about: Hashable) -> None:
        """Raises SilentError where a job would only wait again."""
        if self._owner != os.getpid():
            self._begin_anew()
        self._stuck = {key: each for key, each in self._stuck.items() if not _has_ended(each)}
        if about in self._stuck or time.monotonic() < self._silent.get(about, 0.0):
            raise SilentError(errno.ETIMEDOUT, "it does not answer")
        if len(self._stuck) >= _MOST_STUCK:
            raise SilentError(errno.ETIMEDOUT, f"{len(self._stuck)} other files do not answer")

    def _begin_anew(self) -> None:
        """In a fork of the process that had the helper."""
        if self._channel is not None:
            # Closed where we were forked; the number may be another file's here.
            self._channel.detach()
        self._owner, self._channel, self._pidfd = os.getpid(), None, -1
        self._stuck, self._silent = {}, {}

    # --- its life ---

    def _ready(self) -> socket.socket:
        if self._channel is None:
            self._channel = self._start()
        return self._channel

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            child = os.fork()
            if child == 0:
                # The helper is the child of a child that ends at once.
                with contextlib.suppress(BaseException):
                    if os.fork() == 0:
                        _serve(theirs)
                os._exit(0)
        os.waitpid(child, 0)
        try:
            ours.settimeout(_STARVED)
            self._pid = int(ours.recv(32) or 0)
            self._pidfd = os.pidfd_open(self._pid)
            ours.settimeout(None)
        except (OSError, ValueError):
            ours.close()
            raise SilentError(errno.EAGAIN, "no helper process could be started") from None
        return ours

    def _give_up(self, about: Hashable) -> None:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        if self._channel is not None:
            self._channel.close()
        self._stuck[about] = self._pidfd
        self._channel, self._pidfd = None, -1
        self._silent[about] = time.monotonic() + _SILENCE
        if len(self._silent) > _MOST_SILENT:
            del self._silent[next(iter(self._silent))]

    def close(self) -> None:
        """End the helper."""
        if self._channel is not None and self._owner == os.getpid():
            self._channel.close()
            os.close(self._pidfd)
        self._channel, self._pidfd = None, -1


#: That of this process.
HELPER: Final = Helper()


def _has_ended(pidfd: int) -> bool:
    """Whether a process has ended; then its descriptor is closed."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if not poll.poll(0):
        return False
    os.close(pidfd)
    return True


def _result(data: bytes, received: list[int]) -> tuple[list[Value], int]:
    for descriptor in received:
        # As all of ours: ``socket.recv_fds`` does not say so, whatever it is told.
        os.set_inheritable(descriptor, False)
    if data[:1] == _IN_MEMORY:
        with os.fdopen(received.pop(0), "rb") as file:
            data = file.read()
    number, text, values = msgspec.msgpack.decode(data[1:], type=tuple[int, str, list[Any]])
    if number:
        raise OSError(number, text)
    return values, received[0] if received else -1


# --- in the helper ---


def _serve(channel: socket.socket) -> NoReturn:
    """Do jobs until nobody can ask any more."""
    _leave_everything(channel.fileno())
    channel.send(b"%d" % os.getpid())
    channel.settimeout(_LINGER)
    while True:
        body, descriptors, _, _ = socket.recv_fds(channel, _MOST_BYTES, 4)
        if not body:
            os._exit(0)
        name, values = msgspec.msgpack.decode(body, type=tuple[str, list[Any]])
        descriptor = -1
        answer: tuple[int, str, list[Value]]
        try:
            given, descriptor = _jobs[name](values, descriptors)
            answer = 0, "", given
        except OSError as error:
            answer = error.errno or errno.EIO, error.strerror or str(error), []
        sent = [descriptor] if descriptor >= 0 else []
        body = _TOLD + msgspec.msgpack.encode(answer)
        if len(body) > _MOST_TOLD:
            sent.insert(0, _in_memory(body))
            body = _IN_MEMORY
        socket.send_fds(channel, [body], sent)
        for each in (*descriptors, *sent):
            os.close(each)


def _in_memory(data: bytes) -> int:
    """A descriptor from which to read what is too long for a message."""
    made = os.memfd_create("dprobed", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(made), "wb") as file:
        file.write(data)
    os.lseek(made, 0, os.SEEK_SET)
    return made


def _leave_everything(channel: int) -> None:
    """Keep nothing of the process that we are a copy of: it, and what it has open, may go."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGALRM, signal.SIGIO, signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.closerange(3, channel)
    os.closerange(channel + 1, os.sysconf("SC_OPEN_MAX"))
    os.chdir("/")
    with contextlib.suppress(OSError):
        os.setsid()
    # A tracer may be bound to one CPU, and give way to everybody there.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
