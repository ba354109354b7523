"""The debugger's breakpoints and watchpoints: attachments on sites and registers, like a probe's.

So they can be where probes are, and the probes' programs run first. Each is a ``Probe`` whose
program makes no record, but holds the thread and tells ``Control``.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Set
from typing import Final

from dprobed.arch.x86_64.registers import RIP
from dprobed.engine.errors import SpaceError
from dprobed.engine.interface import Location, Refusal
from dprobed.engine.probe import Probe
from dprobed.program.exec.interface import Context, Outcome
from dprobed.program.exits import ABORT
from dprobed.program.model import ProbeDefinition
from dprobed.tracee.ptrace import Gone, Registers
from dprobed.tracee.thread import Thread
from dprobed.tracer.debug.control import BreakpointKey, Control, Event
from dprobed.tracer.engines import Engines

#: Z1 to Z4 on debug registers; the processor cannot watch reads alone (Z3).
_KINDS: Final = {1: "x", 2: "w", 4: "rw"}
_DETAILS: Final = {0: b"swbreak:;", 1: b"hwbreak:;", 2: b"watch:%x;", 4: b"awatch:%x;"}


class Unsupported(Exception):
    """A kind of breakpoint that is not supported; the debugger then uses another."""


class Refused(Exception):
    """A breakpoint that cannot be inserted."""


class Breakpoints:
    """The breakpoints and watchpoints of one debugger."""

    def __init__(
        self,
        engines: Engines,
        control: Control,
        remove_probes: Callable[[list[Probe]], None],
    ) -> None:
        """``remove_probes`` removes probes from their places."""
        self._group: Final = engines.group
        self._engines: Final = engines
        self._control: Final = control
        self._remove_probes: Final = remove_probes
        self._probes: dict[BreakpointKey, Probe] = {}
        self._registers: Final = Registers()

    @property
    def inserted(self) -> Set[BreakpointKey]:
        """The breakpoints that are inserted."""
        return self._probes.keys()

    def insert(self, kind: int, address: int, length: int) -> None:
        """``Z``; raises Unsupported, Refused."""
        # A software breakpoint's length is that of an instruction we do not keep.
        key = (kind, address, length if kind > 1 else 1)
        if key in self._probes:
            return
        if kind and kind not in _KINDS:
            raise Unsupported
        detail = _DETAILS[kind]
        if kind > 1:
            detail %= address
        control = self._control

        def entry(context: Context) -> Outcome:
            thread = self._group.threads.get(context.tid)
            if thread is not None and context.pid == self._engines.space.tgid:
                control.note(thread, Event(thread.tid, signal.SIGTRAP, detail, key))
            return Outcome(ABORT, b"", (), 0, 0, None, False, False)

        definition = ProbeDefinition(0, address=hex(address))
        probe = Probe(0, definition, entry, "", alters=False)
        try:
            self._put(probe, _KINDS.get(kind, ""), address, key[2])
        except SpaceError as error:
            if kind:
                raise Refused(str(error)) from error
            self._write(address)
        except Gone as error:
            raise Refused(str(error)) from error
        self._probes[key] = probe

    def _write(self, address: int) -> None:
        """Write a plain breakpoint, where the instruction cannot be displaced (nor needs to be).

        Raises Refused.
        """
        space = self._engines.space
        try:
            shared = space.in_shared([address])
        except (SpaceError, Gone) as error:
            raise Refused(str(error)) from error
        if address in shared:
            raise Refused(shared[address])
        original = space.memory.peek(address, 1)
        if not original:
            raise Refused(f"no memory at {address:#x}")
        try:
            space.write_raw(address, original)
        except SpaceError as error:
            raise Refused(str(error)) from error

    def serve_trap(self, thread: Thread) -> bool:
        """Serve a SIGTRAP stop at a plain breakpoint; false: it is none. Raises Gone."""
        if thread.rewound:
            return False  # a site of the trap engine's
        words = self._registers.load(thread.tid)
        place = (0, words[RIP] - 1, 1)
        if place not in self._probes or place[1] not in self._engines.space.raw:
            return False
        words[RIP] -= 1
        self._registers.store(thread.tid)
        event = Event(thread.tid, signal.SIGTRAP, _DETAILS[0], place)
        self._control.note(thread, event)
        return True

    def _put(self, probe: Probe, kind: str, address: int, length: int) -> None:
        """Raises Refused, SpaceError and Gone."""
        where = Location(address, kind=kind, length=length if kind else 0)
        result = self._engines.put(self._engines.offer(probe, where))
        if isinstance(result, Refusal):
            raise Refused(result.reason) if kind else SpaceError(result.reason)
        probe.attachments.append(result)

    def remove(self, kind: int, address: int, length: int) -> None:
        """``z``; to remove one that is not inserted is no error."""
        probe = self._probes.pop((kind, address, length if kind > 1 else 1), None)
        if probe is not None:
            self._remove(address, probe)

    def _remove(self, address: int, probe: Probe) -> None:
        space = self._engines.space
        if probe.attachments or not space.remove_raw(address):
            self._remove_probes([probe])

    def clear(self) -> None:
        """Remove all."""
        probes = [(address, probe) for (_, address, _), probe in self._probes.items()]
        self._probes.clear()
        for address, probe in probes:
            self._remove(address, probe)

    def forget(self) -> None:
        """Their address space is gone."""
        self._probes.clear()
