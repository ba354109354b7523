"""The debugger's breakpoints and watchpoints: attachments on sites and registers, like a probe's.

So they can stand where probes stand, and the probes' programs run first. What hangs there is a
``Probe`` whose program makes no record, holds the thread and tells ``Control``.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Set
from typing import Final

from dprobed.engine.address_space import INT3, SpaceError
from dprobed.engine.probe import Attachment, Probe
from dprobed.engine.trap.engine import TrapEngine
from dprobed.engine.watch.registers import is_length_valid
from dprobed.program.exec.interface import Context, Outcome
from dprobed.program.exits import ABORT
from dprobed.program.model import ProbeDefinition
from dprobed.tracee.ptrace import RIP, Gone, Registers
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup
from dprobed.tracer.debug.control import Control, Event, Place

#: Z1 to Z4 on debug registers; the processor cannot watch reads alone (Z3).
_KINDS: Final = {1: "x", 2: "w", 4: "rw"}
_DETAILS: Final = {0: b"swbreak:;", 1: b"hwbreak:;", 2: b"watch:%x;", 4: b"awatch:%x;"}


class Unsupported(Exception):
    """A kind of breakpoint that there is not; the debugger looks for another way."""


class Refused(Exception):
    """A breakpoint that cannot be had."""


class Breakpoints:
    """Those of one debugger."""

    def __init__(
        self,
        group: ThreadGroup,
        engine: TrapEngine,
        control: Control,
        detach: Callable[[list[Probe]], None],
        apply: Callable[[], str],
    ) -> None:
        """``detach`` takes probes off their places; ``apply`` gives threads the registers, or says
        why not all could get them."""
        self._group: Final = group
        self._engine: Final = engine
        self._control: Final = control
        self._detach: Final = detach
        self._apply: Final = apply
        self._probes: dict[Place, Probe] = {}
        self._registers: Final = Registers()

    @property
    def places(self) -> Set[Place]:
        """Those that are in."""
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
            if thread is not None and context.pid == self._world_pid:
                control.note(thread, Event(thread.tid, signal.SIGTRAP, detail, key))
            return Outcome(ABORT, b"", (), 0, 0, None, False, False)

        probe = Probe(0, ProbeDefinition(0, address=hex(address)), entry, "")
        try:
            if kind:
                self._watch(probe, _KINDS[kind], address, key[2])
            else:
                self._arm(probe, address)
        except SpaceError as error:
            if kind:
                raise Refused(str(error)) from error
            self._write(address)
        except Gone as error:
            raise Refused(str(error)) from error
        self._probes[key] = probe

    def _write(self, address: int) -> None:
        """A breakpoint as it is: where no copy of the instruction can run, none needs to."""
        space = self._engine.space
        original = space.memory.peek(address, 1)
        if not original or not space.memory.poke(address, INT3):
            raise Refused(f"no memory at {address:#x}")
        space.raw[address] = original

    def serve_trap(self, thread: Thread) -> bool:
        """Whether a SIGTRAP stop is of a breakpoint that is no site; raises Gone."""
        words = self._registers.load(thread.tid)
        place = (0, words[RIP] - 1, 1)
        if place not in self._probes or place[1] not in self._engine.space.raw:
            return False
        words[RIP] -= 1
        self._registers.store(thread.tid)
        event = Event(thread.tid, signal.SIGTRAP, _DETAILS[0], place)
        self._control.note(thread, event)
        return True

    @property
    def _world_pid(self) -> int:
        return self._engine.space.tgid

    def _arm(self, probe: Probe, address: int) -> None:
        space = self._engine.space
        space.reserve(self._group, [address])
        try:
            site = space.make_site(address)
            with self._group.stopped():
                if not space.arm(site):
                    raise SpaceError(f"the code at {address:#x} changed meanwhile")
                self._engine.take_in([site])
        finally:
            space.discard_unarmed()
        attachment = Attachment(probe, 0, "", address, None, site)
        site.attachments.append(attachment)
        probe.attachments.append(attachment)

    def _watch(self, probe: Probe, kind: str, address: int, length: int) -> None:
        if not is_length_valid(kind, address, length):
            raise Refused("1, 2, 4 or 8 bytes, aligned to their length")
        index = self._engine.watch.add(kind, address, length)
        if index is None:
            raise Refused("all four debug registers are in use")
        attachment = Attachment(probe, 0, "", address, None, None, index)
        self._engine.watch.attach(index, attachment)
        probe.attachments.append(attachment)
        if trouble := self._apply():
            self._detach([probe])
            raise Refused(trouble)

    def remove(self, kind: int, address: int, length: int) -> None:
        """``z``; one that is not there is no error."""
        probe = self._probes.pop((kind, address, length if kind > 1 else 1), None)
        if probe is not None:
            self._take_out(address, probe)

    def _take_out(self, address: int, probe: Probe) -> None:
        space = self._engine.space
        original = space.raw.pop(address, None) if not probe.attachments else None
        if original is None:
            self._detach([probe])
        elif space.memory.peek(address, 1) == INT3:
            space.memory.poke(address, original)

    def clear(self) -> None:
        """Take all out."""
        probes = [(address, probe) for (_, address, _), probe in self._probes.items()]
        self._probes.clear()
        for address, probe in probes:
            self._take_out(address, probe)

    def forget(self) -> None:
        """Their address space is gone."""
        self._probes.clear()
