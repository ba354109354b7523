"""SIGTRAP stops of a target's threads: breakpoint hits, and what must be told from them."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Sequence
from typing import Final

from dprobed.arch.x86_64.breakpoint import INT3, SI_KERNEL, TRAP_HWBKPT
from dprobed.arch.x86_64.registers import RIP
from dprobed.arch.x86_64.resume_and_wait import GO_TO, RESUME
from dprobed.arch.x86_64.siginfo import code_of
from dprobed.engine.interface import Listener, TrapStop
from dprobed.engine.runner import ProgramRunner
from dprobed.engine.trap.notes import ThreadNotes
from dprobed.engine.trap.returns import Returns
from dprobed.engine.trap.sigtrap import Sigtrap
from dprobed.engine.trap.sites import Site, Sites
from dprobed.engine.trap.slots import SlotExits
from dprobed.tracee import ptrace
from dprobed.tracee.lifecycle import State
from dprobed.tracee.ptrace import Gone
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup

#: Looked up once, since each hit calls it.
_clock: Final = time.monotonic_ns


class TrapStops:
    """Serves the SIGTRAP stops of one target; a plain hit first, and fast."""

    def __init__(
        self,
        group: ThreadGroup,
        listener: Listener,
        runner: ProgramRunner,
        sites: Sites,
        reserve: Callable[[Sequence[int]], None],
        classify: Callable[[Site], None],
    ) -> None:
        """``reserve`` and ``classify``: as ``Returns`` takes them."""
        #: Of the present address space, and by what a thread's rip is after the breakpoint.
        self.sites = sites
        self.by_trap = sites.by_trap
        self.notes: Final = ThreadNotes()
        self.sigtrap: Final = Sigtrap(group, sites, self.notes)
        self.exits: Final = SlotExits(group, listener, runner, self.sigtrap, self.notes, sites)
        self.returns: Final = Returns(runner, sites, reserve, classify)
        self._group: Final = group
        self._runner: Final = runner
        self._noted: Final = self.notes.by_tid
        self._run: Final = runner.run
        self._registers: Final = runner.registers
        self._words: Final = runner.registers.words
        self._request: Final = group.tracees.hits.words

    def use(self, sites: Sites) -> None:
        """Start in an address space that has these sites."""
        self.sites = self.exits.sites = sites
        self.by_trap = sites.by_trap
        self.sigtrap.use(sites)
        self.returns.use(sites)
        self._noted.clear()

    # --- a hit ---

    def serve_hit(self, thread: Thread, now: int) -> bool:
        """See StopHandler: a breakpoint, and nothing else."""
        tid = thread.tid
        site = self.by_trap.get(self._words[RIP])
        if (
            site is None
            or tid in self._noted
            or self.sigtrap.disposition is not None
            or not (site.plain or self._becomes_plain(thread, site))
            or (site.entered and not self.returns.is_ready(thread))
        ):
            return False
        group = self._group
        try:
            to = self.hit(thread, site, now)
        except BaseException:
            group.tracees.blamed = group
            thread.state = State.STOPPED
            self.abandon(thread)
            group.tracees.take(thread)
            raise
        # Before it goes on: on one CPU it runs at once, and we only later.
        group.overhead_ns += _clock() - now
        if thread.held or thread.pinned:
            thread.state = State.HELD
            self._go_to(thread, to)
            group.tracees.take(thread)
        else:
            request = self._request
            request[RESUME], request[GO_TO] = tid, to
        return True

    def _becomes_plain(self, thread: Thread, site: Site) -> bool:
        """At the first hit of a site: whether neither this nor a later one needs a closer look.

        Who waits for a resolver serves nothing but plain hits, and others' threads are not to wait.
        """
        if site.seen or not site.simple or self.exits.abort_address(thread, site):
            return False
        site.seen = site.plain = True
        return True

    def hit(self, thread: Thread, site: Site, now: int) -> int:
        """Run the programs of a site for a thread whose registers are loaded. Returns the address
        at which it goes on; 0: all its registers are stored already."""
        words = self._words
        run = self._run  # a local name: Python does not specialize calls of an attribute
        address = words[RIP] = site.address
        try:
            # Where functions return to, or one begins whose return is probed: first what has
            # happened first.
            altered = bool(site.users) and self.returns.returned(thread, site, now)
            if site.entered:
                altered |= self.returns.entered(thread, site, now)
            if site.attachments:
                altered |= run(thread, site.attachments, site.displaced.may_fault, now)
            elif site.native is not None:
                self._runner.led_on(thread, now)
        except Gone:
            return 0  # killed; its exit status comes next
        if not altered:
            return site.onward
        if words[RIP] == address:
            words[RIP] = site.onward
        with contextlib.suppress(Gone):
            self._registers.store(thread.tid)
        return 0

    @staticmethod
    def _go_to(thread: Thread, address: int) -> None:
        """Move a thread that ``hit`` served on."""
        if address:
            with contextlib.suppress(Gone):
                ptrace.go_to(thread.tid, address)

    def rewind(self, thread: Thread) -> None:
        """See StopHandler."""
        thread.rewound = False
        site = self.by_trap.get(self._words[RIP])
        if site is None or self.notes.of(thread).entering is not None:
            return
        with contextlib.suppress(Gone):
            # Others can come in the same place: a SIGTRAP that was sent.
            if code_of(ptrace.get_siginfo(thread.tid)) == SI_KERNEL:
                ptrace.go_to(thread.tid, site.address)
                thread.rewound = True

    def abandon(self, thread: Thread) -> bool:
        """After an internal error: move a thread at a breakpoint back to its instruction.

        False: the thread was not at a breakpoint.
        """
        if thread.rewound:
            thread.rewound = False
            return True
        with contextlib.suppress(Gone):
            words = self._registers.load(thread.tid)
            site = self.by_trap.get(words[RIP])
            if site is not None:
                words[RIP] = site.address
                self._registers.store(thread.tid)
                return True
        return False

    def give_up(self) -> None:
        """After an internal error: run no program at breakpoints any more, ``abandon`` them."""
        for site in self.by_trap.values():
            site.simple = site.plain = False

    # --- stops off the fast path ---

    def serve(self, thread: Thread, stop: TrapStop, now: int) -> bool:
        """See Engine: a breakpoint of ours, or the entry of a signal handler."""
        words = self._words
        entering = self.notes.of(thread).entering
        if entering is not None:
            self.notes.set_entering(thread, None)
            self.exits.fix_frame(thread, entering)
            return True
        code = stop.code
        site = self.by_trap.get(words[RIP])
        blocks = self.notes.of(thread).trap_mask is not None
        if (
            site is not None
            and code != TRAP_HWBKPT
            and (code == SI_KERNEL or blocks or site.displaced.length > 1)
        ):
            if code != SI_KERNEL:
                # A SIGTRAP that was sent to the thread was pending, and took the place of the
                # breakpoint's: there is only ever one. It is still to be delivered.
                thread.signal, thread.siginfo = signal.SIGTRAP, stop.info
            self._serve_site(thread, site, now)
            if code != SI_KERNEL:
                self.pass_on(thread, code)
            return True
        space = self.sites.space
        if code == SI_KERNEL and not space.sealed and space.memory.peek(words[RIP] - 1, 1) != INT3:
            # A breakpoint of ours that was taken out while this SIGTRAP was on its way.
            words[RIP] -= 1
            self._registers.store(thread.tid)
            return True
        return False

    def pass_on(self, thread: Thread, code: int) -> None:
        """Deliver a SIGTRAP that is the target's own; raises Gone."""
        if code != SI_KERNEL or not self.sigtrap.would_kill(thread):
            thread.signal = signal.SIGTRAP
            # It is to meet what the target has set.
            self.sigtrap.remove_guard(thread)
            if code != SI_KERNEL or not self.sigtrap.is_ignored:
                if self.sigtrap.is_ignored and self.notes.of(thread).trap_mask is None:
                    thread.signal, thread.siginfo = 0, None
                    return
                self.sigtrap.restore(thread)
        thread.signal = signal.SIGTRAP
        if self.notes.of(thread).trap_mask is None:
            if not self.sigtrap.calm:
                self.notes.set_handles(thread)
            self.exits.deliver(thread)

    def repair(self, thread: Thread) -> None:
        """Restore the mask that a breakpoint's SIGTRAP may have changed; raises Gone."""
        if not self.sigtrap.calm or self.notes.of(thread).trap_mask is not None:
            self.sigtrap.after_hit(thread)

    def _serve_site(self, thread: Thread, site: Site, now: int) -> None:
        # Before the thread may make a system call for us: it is in no sequence any more then.
        is_lost = not site.seen and self.exits.is_in_sequence(thread, site)
        self.repair(thread)
        if is_lost:
            return
        skip = self.notes.of(thread).skip
        if skip is not None:
            here = self.exits.restart_mark(site)
            again = skip == here
            # Hits deeper in the stack are of the handler, which is yet to return. One in the same
            # place, but with other registers, says that the handler never will (siglongjmp).
            if again or skip[:2] == here[:2] or skip[1] < here[1]:
                self.notes.set_skip(thread, None)
            if again:
                self._words[RIP] = site.slot
                self._registers.store(thread.tid)
                return
        if site.entered and not self.returns.is_ready(thread):
            if self._group.is_stopped:
                self._call_again(thread, site)
                return
            self.returns.prepare(thread, site)
        if not site.seen:
            site.seen, site.plain = True, site.simple
        if site.callback is not None:
            if self._group.is_stopped:
                self._call_again(thread, site)
                return
            site.callback(thread)
            self._registers.load(thread.tid)
        self._go_to(thread, self.hit(thread, site, now))

    def _call_again(self, thread: Thread, site: Site) -> None:
        """What stops the target has looked at modules and sites already, and is about to change
        them: this thread calls again when that is done."""
        self._words[RIP] = site.address
        self._registers.store(thread.tid)

    def deliver(self, thread: Thread) -> None:
        """``thread.signal`` is about to be delivered: its handler must not see a slot."""
        self.exits.deliver(thread)

    def end_step(self, thread: Thread) -> bool:
        """Registers are loaded after a single step that a debugger asked for; false while the
        thread is still in a slot. Raises Gone."""
        return self.exits.end_step(thread)

    def stepped(self, thread: Thread) -> None:
        """The SIGTRAP of a debugger's single step came; raises Gone."""
        self.sigtrap.was_forced()
        if self.notes.of(thread).trap_mask is not None:
            self.sigtrap.after_hit(thread)

    # --- threads ---

    def moved(self, thread: Thread) -> None:
        """A debugger set another pc or stack pointer: no restart will come."""
        self.notes.set_skip(thread, None)
