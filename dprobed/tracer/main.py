"""The tracer process: what the daemon asks of it, and the loop that serves its targets.

One blocking loop for all targets. It waits for tracees only; the socket and the clock end a wait by
a signal (SIGIO, SIGALRM), whose handlers set ``attention``. A signal that arrives in the instant
between the look at ``attention`` and the wait is noticed at the next stop or tick, so a tick never
is further away than ``_IDLE`` seconds. While a debugger holds a target, the loop waits on sockets
and on a descriptor to which SIGCHLD writes instead.

However the loop ends (asked to, the daemon is gone, a defect of ours), every change is taken back
and every target goes on. A defect in the handling of one target takes our changes out of that one.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import logging
import os
import resource
import select
import signal
import socket
import time
from collections import deque
from typing import Final

import msgspec

from dprobed.binary.errors import LocationError
from dprobed.corefile.store import StoreError
from dprobed.engine.affinity import Affinity, become_group
from dprobed.engine.errors import SpaceError
from dprobed.tracee.ptrace import Gone, Registers
from dprobed.tracee.tracees import ORPHAN_PATIENCE, Tracees
from dprobed.tracer.debug.invitation import TICK as DEBUGGER_TICK
from dprobed.tracer.dump.admission import DumpError
from dprobed.tracer.dump.snapshot import Result
from dprobed.tracer.inheritance import Kin
from dprobed.tracer.inserted import RequestError
from dprobed.tracer.loop import StopLoop
from dprobed.tracer.reporter import FLUSH, Reporter
from dprobed.tracer.target import LATE_PAUSE, Common, TracedProcess
from dprobed.wire import protocol

_IDLE: Final = 5.0
#: What is answered of a target that has ended already, and is not reported yet.
_OF_AN_ENDED: Final = (protocol.Query, protocol.Detach)
#: Targets at once; further children are not followed. Each has a descriptor open.
MOST: Final = 1000
#: Descriptors for everything else, where the limit is not lower.
_OTHERS: Final = 256
#: Targets that have ended, of which a child may still come.
_DEPARTED: Final = 64

_log = logging.getLogger(__name__)


class Tracer:
    """Serves targets until its socket ends."""

    def __init__(self, sock: socket.socket, affinity: Affinity) -> None:
        self._sock = sock
        self._unpacker = protocol.Unpacker()
        self._reporter = Reporter(sock, self._arm)
        self._tracees = Tracees()
        self._affinity = affinity
        self._loop = StopLoop(self._tracees, affinity)
        self._common = Common(self._tracees, Registers(), affinity, self._reporter, self)
        self._targets: dict[int, TracedProcess] = {}
        self._most = MOST
        #: Those that have ended, and when: a child of theirs may still come.
        self._departed: deque[tuple[float, TracedProcess]] = deque()
        self._wakeup: tuple[int, int] | None = None
        self._tick = False
        self._served = 0
        self._closing = False
        #: What got in the way when we detached from a target.
        self._defect: Exception | None = None

    # --- the loop ---

    def run(self) -> None:
        """Until the socket ends; the targets are whole afterwards. Raises what broke the loop."""
        self._hear_signals()
        self._most = _allow_descriptors()
        try:
            while not self._closing:
                self._turn()
        finally:
            self._leave_all()
            self._reporter.finish()

    def _turn(self) -> None:
        """Do what there is to do, then serve stops until there is something again."""
        tracees = self._tracees
        tracees.attention = False
        tracees.blamed = None
        try:
            self._attend()
            tracees.serve_noted()
            tracees.adopt_orphans()
            if tracees.early:
                self._arm()
        except Exception as error:
            self._blame(error)
        self._look_at_ends()
        if self._closing or tracees.attention:
            return
        try:
            self._wait()
        except Exception as error:
            self._blame(error)

    def _wait(self) -> None:
        waiting = [each for each in self._targets.values() if each.debugger.is_waiting]
        if self._hear_children(bool(waiting)):
            # What came before we heard.
            self._tracees.drain()
        elif waiting:
            self._wait_for_debuggers(waiting)
        elif self._tracees.threads or self._tracees.others:
            self._loop.run()
        elif self._tracees.has_strangers:
            self._tracees.await_stranger()
        elif self._departed:
            self._tracees.await_orphans()
            for _, target in self._departed:
                self._forget(target)
            self._departed.clear()
        else:
            select.select([self._sock], [], [], _IDLE)

    def _blame(self, error: Exception) -> None:
        """A defect of ours: the target's whose work was being done, else the tracer's end."""
        group = self._tracees.blamed
        target = next((each for each in self._targets.values() if each.group is group), None)
        if target is None:
            raise error
        self._fail(target, error)

    def _fail(self, target: TracedProcess, error: Exception) -> None:
        _log.error("process %d: its probes are taken out", target.pid, exc_info=error)
        target.give_up()
        while not self._leave(target):
            self._tracees.pause(LATE_PAUSE)
        self._depart(target, ("failed", 0))

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
        """Something waits to be sent: tick soon. Who asks all the time does not put that off."""
        left, _ = signal.getitimer(signal.ITIMER_REAL)
        if not 0 < left <= FLUSH:
            signal.setitimer(signal.ITIMER_REAL, FLUSH, FLUSH)

    def _attend(self) -> None:
        if self._tick:
            self._tick = False
            self._do_tick()
        for target in list(self._targets.values()):
            if target.group.wants or target.debugger.is_invited:
                self._tracees.blamed = target.group
                target.attend()
        self._tracees.blamed = None
        self._listen()

    def _do_tick(self) -> None:
        self._reporter.flush()
        targets = self._targets.values()
        served = sum(target.engines.runner.served for target in targets)
        if served == self._served:
            debugged = any(target.debugger.is_expected for target in targets)
            idle = DEBUGGER_TICK if debugged else _IDLE
            signal.setitimer(signal.ITIMER_REAL, idle, idle)
            self._affinity.wander()
            self._forget_departed()
        self._served = served
        for target in targets:
            self._tracees.blamed = target.group
            target.tick()
        self._tracees.blamed = None

    # --- debuggers ---

    def _hear_children(self, wanted: bool) -> bool:
        """SIGCHLD wakes ``poll``; where ``waitpid`` waits it would only cost. True: from now on."""
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
        """Until a debugger or the daemon says something, a stop comes, or a limit is reached."""
        assert self._wakeup is not None
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._wakeup[0], select.POLLIN)
        for target in self._targets.values():
            for descriptor, events in target.debugger.descriptors():
                poll.register(descriptor, events)
        patience = min(target.debugger.patience for target in waiting)
        poll.poll(1000 * min(patience, 1.0))
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakeup[0], 1 << 12)
        self._tracees.drain()

    # --- requests ---

    def _listen(self) -> None:
        while True:
            try:
                data = self._sock.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self._closing = True
                break
            self._unpacker.feed(data)
        while (body := self._unpacker.next()) is not None:
            self._serve(protocol.decode_request(body))
            # Who got an answer often asks again at once, and its signal may come just before we
            # wait: then the next tick, soon, is what we hear it by.
            self._arm()

    def _serve(self, request: protocol.Request) -> None:
        answer: protocol.Ok | None
        try:
            match request:
                case protocol.Attach():
                    answer = self._attach(request)
                case protocol.Facilities():
                    self._use_facilities(request.facilities, request.acting)
                    answer = protocol.Ok(request.seq)
                case _:
                    answer = self._ask(self._target(request.pid), request)
        except (RequestError, SpaceError, LocationError, DumpError, StoreError) as error:
            self._reporter.send(protocol.Refused(request.seq, " ".join(str(error).split())))
        except Gone as error:
            self._reporter.send(protocol.Refused(request.seq, f"process {error.tid} is gone"))
        except Exception as error:
            reason = f"internal error: {type(error).__name__}: {error}; its probes are taken out"
            self._reporter.send(protocol.Refused(request.seq, reason))
            raise
        else:
            if answer is not None:
                self._reporter.send(answer)
        self._tracees.blamed = None

    def _target(self, pid: int) -> TracedProcess:
        target = self._targets.get(pid)
        if target is None:
            raise RequestError(f"process {pid} is no target of this tracer; attach to it first")
        return target

    def _ask(self, target: TracedProcess, request: protocol.Request) -> protocol.Ok | None:
        """Do what concerns one target; None: it answers later."""
        self._tracees.blamed = target.group
        if target.end is not None and not isinstance(request, _OF_AN_ENDED):
            raise Gone(target.pid)
        seq = request.seq
        match request:
            case protocol.Adjust():
                target.adjust(
                    follow_forks=request.follow_forks,
                    hold_thread=request.hold_thread,
                    budget=request.budget,
                )
                return protocol.Ok(seq)
            case protocol.Insert():
                self._use_facilities(request.facilities, request.acting)
                probes = target.programs.insert(request, self._common.facilities)
                return protocol.Ok(seq, probes=probes)
            case protocol.Remove():
                return protocol.Ok(seq, probes=target.programs.remove(request.program))
            case protocol.Vars():
                return protocol.Ok(seq, words=target.programs.variables(request))
            case protocol.Resume():
                return protocol.Ok(seq, tids=target.let_on(request.tid))
            case protocol.Dump():
                target.dump(request.zstd, lambda result: self._dumped(seq, result))
                return None
            case protocol.Detach():
                target.leave_when_idle(lambda: self._detached(seq, target))
                return None
            case _:
                return target.query(seq)

    def _dumped(self, seq: int, result: Result) -> None:
        if result.error:
            self._reporter.send(protocol.Refused(seq, result.error))
            return
        status = protocol.DumpStatus(
            result.path,
            result.bytes,
            result.size,
            result.how,
            result.pause_ns,
            result.seconds,
        )
        self._reporter.send(protocol.Ok(seq, dump=status))

    def _detached(self, seq: int, target: TracedProcess) -> None:
        self._reporter.send(
            protocol.Ok(
                seq, probes=target.programs.statuses(), overhead_ns=target.group.overhead_ns
            )
        )
        self._depart(target, target.end or ("detached", 0))

    def _use_facilities(self, facilities: dict[str, int], acting: list[int] | None) -> None:
        self._common.acting = acting
        self._common.facilities.clear()
        self._common.facilities.update(facilities)

    # --- targets that come and go ---

    def _attach(self, request: protocol.Attach) -> protocol.Ok:
        if request.pid in self._targets:
            raise RequestError(f"process {request.pid} is a target of this tracer already")
        if len(self._targets) >= self._most:
            raise RequestError(f"a tracer has {self._most} targets at most")
        target = TracedProcess(self._common, request.pid, request)
        self._take(target)
        self._tracees.blamed = target.group
        try:
            target.attach(request.launch)
        except RequestError:
            self._drop(target)
            raise
        return protocol.Ok(request.seq)

    def follow(self, parent: Kin, pid: int) -> TracedProcess | None:
        """See inheritance.Births."""
        if self._closing or len(self._targets) >= self._most or pid in self._targets:
            return None
        child = TracedProcess(self._common, pid, parent.options)
        self._take(child)
        return child

    def keep(self, parent: Kin, pid: int) -> TracedProcess:
        """See inheritance.Births."""
        options = msgspec.structs.replace(parent.options, follow_forks=False)
        child = TracedProcess(self._common, pid, options)
        self._take(child)
        child.leave_when_idle(lambda: self._depart(child, child.end or ("detached", 0)))
        return child

    def _take(self, target: TracedProcess) -> None:
        self._targets[target.pid] = target
        self._tracees.worlds.append(target.group)

    def _drop(self, target: TracedProcess) -> None:
        del self._targets[target.pid]
        self._forget(target)

    def _forget(self, target: TracedProcess) -> None:
        self._tracees.worlds.remove(target.group)

    def _look_at_ends(self) -> None:
        """Targets that have ended, and those that a defect showed itself in."""
        for target in list(self._targets.values()):
            if target.group.failure is not None:
                self._fail(target, target.group.failure)
            elif target.is_over and target.end is not None:
                # Children that share its memory may be left, and one of which nobody has told.
                if target.group.threads and not self._leave(target):
                    self._arm()
                elif not self._tracees.has_strangers:
                    self._depart(target, target.end)

    def _depart(self, target: TracedProcess, end: tuple[str, int]) -> None:
        target.depart(end)
        self._targets.pop(target.pid, None)
        if end[0] == "detached":
            # All its threads stood still, and had told of their children.
            self._forget(target)
            return
        self._departed.append((time.monotonic(), target))
        if len(self._departed) > _DEPARTED:
            self._forget(self._departed.popleft()[1])

    def _forget_departed(self) -> None:
        """No child of those can come any more."""
        before = time.monotonic() - ORPHAN_PATIENCE
        while self._departed and self._departed[0][0] < before:
            self._forget(self._departed.popleft()[1])

    def _leave(self, target: TracedProcess) -> bool:
        """Try to let a target go, even if a defect of ours gets in the way once."""
        try:
            return target.leave()
        except Exception as error:
            _log.exception("leaving process %d failed; once more", target.pid)
            self._defect = error
            return target.leave()

    def _leave_all(self) -> None:
        """Let all targets go; raises, in the end, what got in the way of one."""
        while self._targets:
            for target in list(self._targets.values()):
                try:
                    if self._leave(target):
                        self._depart(target, target.end or ("detached", 0))
                except Exception as error:
                    self._defect = error
                    del self._targets[target.pid]
            if any(not target.is_kept for target in self._targets.values()):
                self._tracees.pause(LATE_PAUSE)
            elif self._targets:
                # Perhaps for a long time.
                self._tracees.attention = False
                self._tracees.serve_noted()
                self._tracees.adopt_orphans()
                self._loop.run()
        if self._departed:
            self._tracees.await_orphans()
        if self._defect is not None:
            raise self._defect


def _allow_descriptors() -> int:
    """As many as MOST targets need, where the limit allows that; how many targets there may be."""
    needed = MOST + _OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return MOST
    allowed = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(1, allowed - min(_OTHERS, allowed // 2))


def main(sock: socket.socket) -> None:
    """Run a tracer that speaks ``protocol`` on ``sock``; returns when its work is done."""
    gc.disable()
    Tracer(sock, Affinity(become_group())).run()
