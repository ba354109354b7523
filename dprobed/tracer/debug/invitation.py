"""The invitation of a debugger, and how long the target is held for it.

A program that ends by ``exit debugger`` holds the whole process. A debugger is invited: a socket is
made in a folder that only its owner can open, and stays until the tracer ends; one debugger at a
time. While the target is held the tracer waits on its sockets, too (``descriptors``); while it runs
with a debugger connected, SIGIO says when a packet has come. A target without a debugger pays
nothing.

A target is not held for ever: without a debugger it is resumed after a limit, and the end of a
debugger's connection is a detach.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from dprobed.engine.probe import Probe
from dprobed.tracee.ptrace import Gone
from dprobed.tracee.thread import Thread
from dprobed.tracer.debug.breakpoints import Breakpoints
from dprobed.tracer.debug.control import Control, Event
from dprobed.tracer.engines import Engines
from dprobed.wire import protocol
from dprobed.wire.notices import NoticeKind
from dprobed.wire.protocol import DebuggerStatus

if TYPE_CHECKING:
    from dprobed.proc.peer import Credentials
    from dprobed.tracer.debug.entrance import Entrance
    from dprobed.tracer.debug.stub import Session

#: Seconds between two looks at the debugger's socket while the target runs: SIGIO says when a
#: packet has come, but that can be just before the tracer begins to wait.
TICK: Final = 0.25

#: Seconds between two notices of one reason for which nothing is held, and between two invitations
#: that fail.
_QUIET: Final = 10.0
_OFF: Final = "it is switched off; `dprobe handlers arm debugger` switches it on"


class TracerCallbacks(msgspec.Struct, frozen=True):
    """Calls into the tracer. ``send``: send an event to the daemon."""

    send: Callable[[protocol.Event], None]
    remove_probes: Callable[[list[Probe]], None]


class Debugger:
    """Holds one target for debuggers."""

    def __init__(
        self, engines: Engines, pid: int, callbacks: TracerCallbacks, limit: float
    ) -> None:
        """``limit``: seconds that the target is held without a debugger."""
        self._limit: Final = limit
        #: Without a debugger only the thread that hit is held, and the others run.
        self.holds_thread = False
        #: How often that limit was reached.
        self.expired = 0
        #: Nobody could be invited, and is not until then (monotonic).
        self._barred_until = 0.0
        #: What is to be told; and until when not again.
        self._untold: list[protocol.NoDebugger] = []
        self._quiet_until: Final[dict[str, float]] = {}
        self._group: Final = engines.group
        self._engines: Final = engines
        self._pid: Final = pid
        self._send: Final = callbacks.send
        self.control: Final = Control(engines, pid)
        self._points: Final = Breakpoints(engines, self.control, callbacks.remove_probes)
        self._entrance: Entrance | None = None
        self._session: Session | None = None
        self._deadline = 0.0
        self._held_at = 0.0

    # --- state ---

    @property
    def is_waiting(self) -> bool:
        """Whether the tracer is to wait on ``descriptors``, too."""
        return self.control.holds or bool(self.control.steps)

    @property
    def is_invited(self) -> bool:
        """Whether ``attend`` may have something to do."""
        return bool(
            self._entrance is not None
            or self.control.is_ready
            or self.control.holds
            or self._untold
        )

    @property
    def is_attached(self) -> bool:
        """Whether a debugger is connected."""
        return self._session is not None

    @property
    def is_expected(self) -> bool:
        """Whether ``attend`` is to be called often: a debugger is there, or invited."""
        return self.is_attached or bool(self._held_at)

    @property
    def path(self) -> str:
        """Its socket; empty where none was invited."""
        return self._entrance.path if self._entrance is not None else ""

    @property
    def held(self) -> list[int]:
        """The threads that hit, in order, while the target is held without a debugger."""
        if self._session is not None:
            return []
        return list(dict.fromkeys(event.tid for event in self.control.events))

    def status(self) -> DebuggerStatus:
        """Its state, as the daemon is told."""
        since = time.monotonic() - self._held_at if self._held_at else 0.0
        return DebuggerStatus(self.held, self.path, self.is_attached, since, self.expired)

    # --- from the stop handler ---

    def serve_trap(self, thread: Thread) -> bool:
        """Serve a SIGTRAP stop that concerns the debugger only; false: it does not."""
        try:
            if self._engines.space.raw and self._points.serve_trap(thread):
                return True
        except Gone:
            return True
        return self.control.serve_trap(thread)

    def signalled(self, thread: Thread) -> None:
        """See Control."""
        self.control.signalled(thread)

    def hit(self, thread: Thread, *, is_armed: bool) -> bool:
        """A program ended by ``exit debugger``: hold the thread or the process, if that can be.

        ``is_armed``: debuggers are not switched off.
        """
        if not is_armed:
            self._refuse(_OFF, thread.tid)
        elif thread.tgid != self._pid:
            # A vfork child, or one that shares the memory otherwise.
            self._refuse(f"only process {self._pid}, whose memory it shares, is held", thread.tid)
        elif time.monotonic() < self._barred_until:
            pass  # The last invitation failed, which was told.
        else:
            self.control.note(thread, Event(thread.tid, signal.SIGTRAP))
            return True
        return False

    def _refuse(self, why: str, tid: int) -> None:
        """Tell now and then, behind the hit's record, why nothing is held."""
        now = time.monotonic()
        if now >= self._quiet_until.get(why, 0.0):
            self._quiet_until[why] = now + _QUIET
            self._untold.append(protocol.NoDebugger(self._pid, tid, why))
            self._group.request_attention()

    def forgotten(self, thread: Thread) -> None:
        """A thread ended."""
        self.control.forget(thread.tid)

    def new_image(self, thread: Thread) -> None:
        """``exec``."""
        self._points.forget()
        try:
            path = os.fsencode(Path(f"/proc/{self._pid}/exe").readlink())
        except OSError:
            path = b""
        self.control.new_image(thread, path)

    # --- the loop ---

    def attend(self) -> None:
        """Hold, connect, answer packets, and end holds; called by the main loop."""
        while self._untold:
            self._send(self._untold.pop(0))
        ready = self.control.is_ready
        if ready and not (self.holds_thread and self._session is None):
            self.control.hold()
        if (ready or self.control.holds) and not self._held_at:
            self._begin_hold()
        self._accept()
        session = self._session
        if session is not None:
            # What a debugger asks can lead to a stop that it is to be told of at once.
            session.serve()
            while not session.over and session.waits and self.control.is_ready:
                self.control.hold()
                session.report()
                session.serve()
            if session.over:
                self._end_session()
        elif self._held_at and time.monotonic() >= self._deadline:
            self.expired += 1
            why = f"none connected within {self._limit:g} s: process {self._pid} is resumed"
            self._send(protocol.NoDebugger(self._pid, self._pid, why))
            self.release()
        if not self.control.holds and not self.control.is_ready:
            self._held_at = 0.0

    def _begin_hold(self) -> None:
        self._held_at = time.monotonic()
        self._deadline = self._held_at + self._limit
        if self._session is not None:
            return
        try:
            self._invite()
        except OSError as error:
            self.expired += 1
            why = f"process {self._pid} is not held: no socket for a debugger: {error}"
            self._barred_until = time.monotonic() + _QUIET  # Each hit may come to the same.
            self._send(protocol.NoDebugger(self._pid, self._pid, why))
            self.release()
            return
        tid = self.control.events[0].tid if self.control.events else self._pid
        what = f"process {self._pid} is held at a probe, thread {tid}"
        if self.holds_thread:
            what = f"thread {tid} of process {self._pid} is held at a probe"
        text = (
            f"{what}: dprobe debug {self._pid}, or "
            f"gdb -ex 'target remote {self.path}'; `dprobe resume` resumes it"
        )
        self._send(protocol.TargetEvent(NoticeKind.DEBUGGER, self._pid, tid, text))

    def descriptors(self) -> list[tuple[int, int]]:
        """Descriptors to wait on, with the events of ``poll``."""
        if self._session is not None:
            events = select.POLLIN | (select.POLLOUT if self._session.wants_to_write else 0)
            return [(self._session.fileno(), events)]
        return [(self._entrance.fileno(), select.POLLIN)] if self._entrance is not None else []

    @property
    def patience(self) -> float:
        """Seconds after which ``attend`` has something to do at the latest."""
        if self._session is None and self._held_at:
            return max(0.0, self._deadline - time.monotonic())
        return 1.0

    # --- debuggers ---

    def _invite(self) -> None:
        if self._entrance is None:
            from dprobed.tracer.debug.entrance import Entrance

            self._entrance = Entrance(self._engines, self._pid, self.control, self._points)

    def _accept(self) -> None:
        if self._entrance is None:
            return
        # Again after one came in: who comes beside it is turned away.
        while come := self._entrance.accept(
            is_free=self._session is None, denied=self._turned_away
        ):
            signal.setitimer(signal.ITIMER_REAL, TICK, TICK)
            self.control.attached = True
            self.control.hold()
            self._session, who = come
            self._came(who, admitted=True)

    def _turned_away(self, who: Credentials) -> None:
        self._came(who, admitted=False)

    def _came(self, who: Credentials, *, admitted: bool) -> None:
        self._send(protocol.DebuggerCame(self._pid, who.pid, who.uid, admitted))

    def _end_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()
        self.control.attached = False
        self.control.passed = frozenset()
        with self._group.stopped():
            self._points.clear()
        self.release()

    def release(self) -> list[int]:
        """Resume a process that is held without a debugger; the threads that were held."""
        if self._session is not None:
            return []
        freed = self.control.release()
        self._held_at = 0.0
        return freed

    # --- the end ---

    def ended(self, how: str, status: int) -> None:
        """Tell the debugger that the target has ended, unless we only detach from it."""
        if self._session is not None and how in ("exited", "killed"):
            self._session.ended(how, status)

    def close(self) -> None:
        """Before a detach: disconnect the debugger, and remove all that is its from the target."""
        if self._session is not None:
            self._session.close()
            self._session = None
        self.control.attached = False
        self._points.clear()
        self.control.release(leaving=True)
        if self._entrance is not None:
            self._entrance.close()
            self._entrance = None
