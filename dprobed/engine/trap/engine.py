"""The trap engine: a breakpoint fires, the tracer runs the program, the thread goes on in a slot.

What makes it exact, beyond the plain way int3 → program → slot:

* A signal can find a thread in a slot. Its handler must see the original address, so before it is
  delivered the thread is brought out: forward by a single step with the signal held back, or, where
  stepping could block or take long (``syscall``, ``rep``), back to the probed instruction with a
  note (``Thread.skip``) that the hit that follows the handler's return is the same one.
* A system call in a slot that a handler interrupts: only the kernel knows whether it restarts. The
  thread is stopped at the handler's first instruction (PTRACE_SINGLESTEP with a signal does that,
  arch/x86/kernel/signal.c) and the answer is read, and put right, in the signal frame.
* A fault of the copied instruction is reported at the original address, and the hit's record is
  withdrawn (unless ``logonfault``).
* Where a slot cannot stand for the place, because the target took its memory away, or because the
  kernel judges a system call by its address, the thread goes back to the place, whose probes go.
* An int3's SIGTRAP can still be pending when our interrupt stops the thread first, or the signal of
  a fault in a slot. Before a site goes, such a thread is let run into it; otherwise the SIGTRAP
  would kill the target later, and the fault be reported elsewhere.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterable
from typing import Final

from ptrace.binding.func import (
    PTRACE_POKEUSER,
)

from dprobed.arch.x86_64.relocation import Position, Where
from dprobed.engine.address_space import INT3, AddressSpace, Site
from dprobed.engine.affinity import Affinity
from dprobed.engine.budget import STOP_NS, Account
from dprobed.engine.context import HitContext
from dprobed.engine.probe import Attachment
from dprobed.engine.trap.sigtrap import Sigtrap
from dprobed.engine.watch.registers import DebugRegisters
from dprobed.proc import procfs
from dprobed.program.exec.interface import Outcome
from dprobed.program.exits import ABORT, REM
from dprobed.tracee import memory, ptrace
from dprobed.tracee.lifecycle import State
from dprobed.tracee.ptrace import ORIG_RAX, RAX, RCX, RDI, RIP, RSI, RSP, Gone, Registers
from dprobed.tracee.status import Kind
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import SYNCHRONOUS, ThreadGroup
from dprobed.tracer.reporter import Reporter
from dprobed.wire.protocol import State as ProbeState

_SI_KERNEL: Final = 0x80
_TRAP_HWBKPT: Final = 4
_SI_ADDR: Final = slice(16, 24)
_UNMAPPED: Final = "the target took away the memory in which the probed instructions run"
_JUDGED: Final = (
    "the target has system calls trapped (seccomp, SYSCALL_USER_DISPATCH), this one too"
)
#: ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK (include/linux/errno.h).
_RESTARTS: Final = frozenset((1 << 64) - number for number in (512, 513, 514, 516))
#: In ``struct rt_sigframe`` (arch/x86/include/asm/sigframe.h), from rsp at a handler's first
#: instruction: return address 8, uc_flags 8, uc_link 8, uc_stack 24, then the mcontext's words.
_FRAME_RDI: Final = 48 + 8 * 8
_FRAME_RSI: Final = 48 + 9 * 8
_FRAME_RCX: Final = 48 + 14 * 8
_FRAME_RSP: Final = 48 + 15 * 8
_FRAME_RIP: Final = 48 + 16 * 8

#: How long a thread's name and user id, once read, are taken for true.
_IDENTITY_NS: Final = 100_000_000
#: For how long a record may repeat the CPU of the thread's record before it: to ask costs a tenth
#: of a hit.
_CPU_NS: Final = 100_000

_log = logging.getLogger(__name__)


class TrapEngine:
    """Serves the stops of a target's threads; knows sites and programs, not how they got there."""

    def __init__(
        self, group: ThreadGroup, reporter: Reporter, registers: Registers, affinity: Affinity
    ) -> None:
        """``registers`` and ``follower`` are those of all targets of this tracer."""
        self.group: Final = group
        self.sigtrap: Final = Sigtrap(group)
        self._space: AddressSpace
        #: Of the present space: by what a thread's rip is after the breakpoint.
        self.by_trap: dict[int, Site] = {}
        self.watch = DebugRegisters()
        self.overhead_ns = 0
        #: Disarmed while a thread could not be stopped, which may be in their slots.
        self._limbo: set[Site] = set()
        #: Called when a probe is through with this target (``rem``, max_hits, a defect).
        self.retire: Callable[[], None] = lambda: None
        self.suspended: Callable[[Thread], None] = lambda thread: None
        self.resume: Callable[[], None] = lambda: None
        #: Called at a hit that a program ended by ``exit n``: for what acts while it stands there.
        self.facility: Callable[[Thread, Attachment, Outcome], None] = lambda *_: None
        #: Whether any probe has a budget, and what is called when one is overdrawn.
        self.metered = False
        self.overdrawn: Callable[[Account], None] = lambda account: None
        #: Slots cannot stand for these places any more, for that reason. The thread waits for their
        #: being taken out (``Thread.pinned``).
        self.lost: Callable[[Thread, list[Site], str], None] = lambda *_: None
        #: A thread could not be given all watchpoints.
        self.unwatched: Callable[[int, ptrace.PtraceError], None] = lambda tid, error: None
        self._reporter: Final = reporter
        self._registers: Final = registers
        self._words: Final = registers.words
        self._context: Final = HitContext(registers)
        self.affinity: Final = affinity
        self.served = 0
        group.traps = self

    @property
    def has_space(self) -> bool:
        """Whether there is an address space: not yet of a child that shared its parent's."""
        return hasattr(self, "_space")

    @property
    def space(self) -> AddressSpace:
        """The target's present address space."""
        return self._space

    @space.setter
    def space(self, space: AddressSpace) -> None:
        self._space = space
        self.by_trap = space.by_trap
        self._limbo.clear()
        self._context.memory = space.memory
        self.sigtrap.space = space

    # --- a hit ---

    def hit(self, thread: Thread, site: Site, now: int) -> None:
        """Run the programs of a site for a thread whose registers are loaded, and move it on."""
        words, data = self._words, self._registers.data
        address = words[RIP] = site.address
        before = bytes(data)
        try:
            self._run_programs(thread, site.attachments, site.displaced.may_fault, now)
        except Gone:
            return  # killed; its exit status comes next
        if data == before:
            # Nothing altered: one register is cheaper to store than all.
            _call(PTRACE_POKEUSER, thread.tid, 8 * RIP, site.slot)
            return
        if words[RIP] == address:
            words[RIP] = site.slot
        with contextlib.suppress(Gone):
            self._registers.store(thread.tid)

    def abandon(self, thread: Thread) -> bool:
        """A defect of ours came between a stop and what it asks for: to the instruction again.

        False: the thread was not at a breakpoint.
        """
        with contextlib.suppress(Gone):
            words = self._registers.load(thread.tid)
            site = self.by_trap.get(words[RIP])
            if site is not None:
                words[RIP] = site.address
                self._registers.store(thread.tid)
                return True
        return False

    def give_up(self) -> None:
        """Run no program any more: ``abandon`` is what is done at a breakpoint from now on."""
        for site in self.by_trap.values():
            site.plain = False

    def _run_programs(
        self, thread: Thread, attachments: Iterable[Attachment], may_fault: bool, now: int
    ) -> None:
        context = self._context
        context.enter(thread)
        if may_fault:
            thread.revocable = ()
        if now > thread.identity_until:
            self._identify(thread, now)
        for attachment in attachments:
            probe = attachment.probe
            probe.hits = hits = probe.hits + 1
            if hits <= probe.pass_count or probe.over:
                continue
            try:
                outcome = probe.entry(context)
            except Gone:
                probe.missed += 1
                return
            except Exception as error:
                self._defect(thread, attachment, error)
                continue
            probe.ran += 1
            if outcome.exit != ABORT:
                if now > thread.cpu_until:
                    thread.cpu = context.cpu
                    thread.cpu_until = now + _CPU_NS
                cpu = thread.cpu
                self.affinity.hit(cpu)
                self._reporter.add(
                    probe,
                    (
                        probe.program,
                        probe.index,
                        attachment.number,
                        thread.tgid,
                        thread.tid,
                        thread.comm,
                        thread.owner[0],
                        cpu,
                        now,
                        hits,
                        outcome.exit,
                        outcome.major,
                        outcome.minor,
                        outcome.log,
                        outcome.raw,
                        outcome.exception,
                    ),
                )
                if may_fault and probe.revocable:
                    thread.revocable += self._reporter.latest()
                if outcome.exit > 0:
                    self.facility(thread, attachment, outcome)
            if hits >= probe.last or outcome.exit == REM:
                rem = outcome.exit == REM
                probe.set(ProbeState.REMOVED if rem else ProbeState.DISABLED)
                self.retire()
            if outcome.suspend:
                thread.held = True
                self.suspended(thread)
            if outcome.resume:
                self.resume()
        if context.fp_dirty:
            context.leave()
        if self.metered:
            self._charge(attachments, now)
        self.served = served = self.served + 1
        if not served & 31:
            cpu = context.cpu
            self.affinity.review(thread, cpu, 32, now)
            self.affinity.hit(cpu)

    def _charge(self, attachments: Iterable[Attachment], now: int) -> None:
        """What this hit cost, to all who have to pay for it."""
        after = time.monotonic_ns()
        for account in {each for hit in attachments for each in hit.probe.accounts}:
            if account.charge(after - now + STOP_NS, after) and not account.noted:
                account.noted = True
                self.overdrawn(account)

    def _identify(self, thread: Thread, now: int) -> None:
        """Read again what changes seldom: name, user, and whether SIGTRAP means anything."""
        thread.identity_until = now + _IDENTITY_NS
        found = procfs.status(thread.tid)
        if found is None:
            return
        thread.comm = procfs.comm(thread.tid)
        thread.owner = (found.uids[0], found.gids[0])
        if self.sigtrap.calm and self.sigtrap.is_meant_by(found):
            self.sigtrap.observe_process(thread)

    def _defect(self, thread: Thread, attachment: Attachment, error: Exception) -> None:
        """An executor broke its promise: the thread goes on unaltered, the probe goes."""
        _log.error("the program of %s failed", attachment.place, exc_info=error)
        probe = attachment.probe
        probe.missed += 1
        address = self._words[RIP]
        try:
            self._registers.load(thread.tid)
        except Gone:
            return
        self._words[RIP] = address
        self._context.fp_dirty = False
        probe.set(ProbeState.FAILED, f"internal error: {type(error).__name__}: {error}")
        self.retire()

    # --- stops off the fast path (see thread.Engine) ---

    def serve_trap(self, thread: Thread) -> None:
        """A SIGTRAP stop: our breakpoint, a watchpoint, a handler entered, or the target's own."""
        try:
            self._serve_trap(thread, time.monotonic_ns())
        except Gone:
            return
        except BaseException:
            self.abandon(thread)
            raise

    def _serve_trap(self, thread: Thread, now: int) -> None:
        words = self._registers.load(thread.tid)
        entering, thread.entering = thread.entering, None
        if entering is not None:
            self._fix_frame(thread, entering)
            return
        info = ptrace.get_siginfo(thread.tid)
        code = int.from_bytes(info[8:12], "little", signed=True)
        site = self.space.by_trap.get(words[RIP])
        if (
            site is not None
            and code != _TRAP_HWBKPT
            and (code == _SI_KERNEL or thread.trap_mask is not None or site.displaced.length > 1)
        ):
            if code != _SI_KERNEL:
                # A SIGTRAP that was sent to the thread was pending, and took the place of the
                # breakpoint's: there is only ever one. It is still to be delivered.
                thread.signal, thread.siginfo = signal.SIGTRAP, info
            self._serve_site(thread, site, now)
            if code != _SI_KERNEL:
                self._target_trap(thread, code)
            return
        if (
            code == _SI_KERNEL
            and not self.space.sealed
            and self.space.memory.peek(words[RIP] - 1, 1) != INT3
        ):
            # A breakpoint of ours that was taken out while this SIGTRAP was on its way.
            words[RIP] -= 1
            self._registers.store(thread.tid)
            return
        if code == _TRAP_HWBKPT:
            if not self._serve_watch(thread, now):
                # One that was taken out while this thread could not be stopped.
                self._watch(thread)
            return
        self._target_trap(thread, code)

    def _target_trap(self, thread: Thread, code: int) -> None:
        """A SIGTRAP of the target's own."""
        if code != _SI_KERNEL or not self.sigtrap.would_kill(thread):
            if self.sigtrap.is_ignored and thread.trap_mask is None:
                thread.signal, thread.siginfo = 0, None
                return
            thread.signal = signal.SIGTRAP
            self.sigtrap.restore(thread)
        thread.signal = signal.SIGTRAP
        if thread.trap_mask is None:
            self.deliver(thread)

    def _serve_site(self, thread: Thread, site: Site, now: int) -> None:
        if not self.sigtrap.calm or thread.trap_mask is not None:
            self.sigtrap.after_hit(thread)
        if thread.skip is not None:
            here = self._restart_mark(site)
            again = thread.skip == here
            # Hits deeper in the stack are of the handler, which is yet to return. One in the same
            # place, but with other registers, says that the handler never will (siglongjmp).
            if again or thread.skip[:2] == here[:2] or thread.skip[1] < here[1]:
                thread.skip = None
            if again:
                self._words[RIP] = site.slot
                self._registers.store(thread.tid)
                return
        if site.callback is not None:
            if self.group.is_stopped:
                # What stops it has looked at modules and sites already, and is about to change
                # them: this thread calls again when that is done.
                self._words[RIP] = site.address
                self._registers.store(thread.tid)
                return
            site.callback(thread)
            self._registers.load(thread.tid)
        self.hit(thread, site, now)

    def _serve_watch(self, thread: Thread, now: int) -> bool:
        """Whether a debug register of ours fired."""
        fired = self.watch.fired(thread.tid)
        if not fired:
            return False
        if not self.sigtrap.calm or thread.trap_mask is not None:
            self.sigtrap.after_hit(thread)
        words = self._words
        before = words[RIP]
        found = self.space.slot_at(before)
        if found is not None:
            # The access was made by a copied instruction. Of a ``call`` that is the push, so rsp
            # is what it is to be.
            words[RIP] = found[0].position(found[1]).address
        shown = words[RIP]
        self._run_programs(thread, fired, False, now)
        if words[RIP] == shown:
            words[RIP] = before
        self._registers.store(thread.tid)
        return True

    def end_step(self, thread: Thread) -> bool:
        """After a single step that a debugger asked for; false while it is still in a slot.

        Raises Gone.
        """
        self.sigtrap.was_forced()
        if thread.trap_mask is not None:
            self.sigtrap.after_hit(thread)
        words = self._registers.load(thread.tid)
        self._serve_watch(thread, time.monotonic_ns())
        found = self.space.slot_at(words[RIP])
        if found is None:
            return True
        position = found[0].position(found[1])
        if position.where is not Where.AFTER:
            return False
        self._take(position)
        self._registers.store(thread.tid)
        return True

    def _take(self, position: Position) -> None:
        """Set the loaded registers to what a place in a slot is equivalent to."""
        words = self._words
        words[RIP] = position.address
        words[RSP] = words[RSP] + position.rsp_delta & 0xFFFF_FFFF_FFFF_FFFF
        if position.rcx is not None:
            words[RCX] = position.rcx

    def deliver(self, thread: Thread) -> None:
        """A signal is about to be delivered: its handler must not see a slot."""
        try:
            self._deliver(thread)
        except Gone:
            return

    def _deliver(self, thread: Thread) -> None:
        words = self._registers.load(thread.tid)
        found = self.space.slot_at(words[RIP])
        if found is None:
            return
        site, offset = found
        position = site.position(offset)
        if thread.signal in SYNCHRONOUS:
            info = thread.siginfo or ptrace.get_siginfo(thread.tid)
            if int.from_bytes(info[8:12], "little", signed=True) > 0:
                self._own_doing(thread, site, position, info)
                return
        self._leave_slot(thread, site, position)

    def _leave_slot(self, thread: Thread, site: Site, position: Position) -> None:
        if position.where is Where.AFTER:
            if site.displaced.is_syscall and self._restarts():
                if self._is_caught(thread):
                    thread.entering = site
                return
            self._take(position)
            self._registers.store(thread.tid)
        elif site.displaced.is_syscall or site.displaced.is_rep or site.displaced.saves_flags:
            self._go_back(thread, site, position)
        else:
            self._step_out(thread, site)

    def _restarts(self) -> bool:
        """Whether the loaded registers are those of a system call that a signal interrupted."""
        return self._words[RAX] in _RESTARTS and not self._words[ORIG_RAX] >> 63

    @staticmethod
    def _is_caught(thread: Thread) -> bool:
        found = procfs.status(thread.tid)
        return found is not None and bool(found.caught >> (thread.signal - 1) & 1)

    def _own_doing(self, thread: Thread, site: Site, position: Position, info: bytes) -> None:
        """The kernel's signal about what the thread did in the slot; its siginfo shows where."""
        here = self._words[RIP]
        is_here = int.from_bytes(info[_SI_ADDR], "little") == here
        if thread.signal == signal.SIGSYS:
            if not self.space.sealed:
                # The system call was not made. Whether it is one to be made can depend on where.
                self._lose(thread, Position(Where.BEFORE, site.address), [site], _JUDGED)
                return
            self._leave_slot(thread, site, position)
        elif thread.signal == signal.SIGTRAP:
            self._leave_slot(thread, site, position)
        elif thread.signal == signal.SIGSEGV and is_here and not self.space.sealed:
            # What could not be read is the slot.
            self._lose(thread, position, self.space.lose_area_of(site), _UNMAPPED)
            return
        else:
            self._fault(thread, site, position)
        if is_here:
            there = self._words[RIP].to_bytes(8, "little")
            info = info[: _SI_ADDR.start] + there + info[_SI_ADDR.stop :]
            if thread.siginfo is not None:
                thread.siginfo = info
            else:
                ptrace.set_siginfo(thread.tid, info)

    def _lose(self, thread: Thread, position: Position, sites: list[Site], reason: str) -> None:
        """To the place itself, without the signal; it goes on when the sites are out."""
        thread.signal, thread.siginfo = 0, None
        self._take(position)
        self._registers.store(thread.tid)
        thread.pinned = True
        self.lost(thread, sites, reason)

    def _fault(self, thread: Thread, site: Site, position: Position) -> None:
        """The copied instruction itself faulted: report it at the original address."""
        self._take(Position(Where.BEFORE, site.address, position.rsp_delta))
        self._registers.store(thread.tid)
        for batch, index in thread.revocable:
            withdrawn = self._reporter.withdraw(batch, index)
            if withdrawn is not None:
                withdrawn.faulted += 1

    def _go_back(self, thread: Thread, site: Site, position: Position) -> None:
        """To the probed instruction; the hit that comes when the handler returns is the same."""
        self._take(position)
        self._words[RIP] = site.address
        self._registers.store(thread.tid)
        thread.skip = self._restart_mark(site)

    def _restart_mark(self, site: Site) -> tuple[int, ...]:
        """How the loaded registers are known again when the instruction begins once more.

        A system call leaves rcx behind, a repeated string instruction all three.
        """
        words = self._words
        return site.trap, words[RSP], words[RCX], words[RSI], words[RDI]

    def _step_out(self, thread: Thread, site: Site) -> None:
        """Let the copied instruction finish before the signal is delivered."""
        for _ in range(len(site.displaced.positions) + 1):
            stop = self.group.step(thread)
            self.sigtrap.was_forced()
            words = self._registers.load(thread.tid)
            found = self.space.slot_at(words[RIP])
            if stop.kind is not Kind.TRAP:
                # It faults: the handler comes first, and the fault again after it.
                if found is not None:
                    self._go_back(thread, site, found[0].position(found[1]))
                return
            if found is None or found[0] is not site:
                return
            position = site.position(found[1])
            if position.where is Where.AFTER:
                self._take(position)
                self._registers.store(thread.tid)
                return

    def _fix_frame(self, thread: Thread, site: Site) -> None:
        """At a handler's first instruction: what will its return go back to?"""
        frame = self._words[RSP]

        def word(offset: int) -> int:
            data = memory.read_partial(thread.tid, frame + offset, 8)
            return int.from_bytes(data, "little")

        rip = word(_FRAME_RIP)
        found = self.space.slot_at(rip)
        if found is None or found[0] is not site:
            return
        position = site.position(found[1])
        poke = self.space.memory.poke
        poke(frame + _FRAME_RIP, position.address.to_bytes(8, "little"))
        if position.where is Where.BEFORE:
            saved = (_FRAME_RSP, _FRAME_RCX, _FRAME_RSI, _FRAME_RDI)
            thread.skip = (site.trap, *map(word, saved))
        elif position.rcx is not None:
            poke(frame + _FRAME_RCX, position.rcx.to_bytes(8, "little"))

    def begin(self, thread: Thread) -> None:
        """A thread joins, or a process that shares the memory."""
        try:
            self.sigtrap.observe_thread(thread)
            self._watch(thread)
        except Gone:
            return

    def _watch(self, thread: Thread) -> None:
        """Give a thread the debug registers as they are now; raises Gone."""
        try:
            self.watch.apply(thread.tid)
        except ptrace.PtraceError as error:
            self.unwatched(thread.tid, error)

    def release_child(self, thread: Thread) -> None:
        """A ``fork`` child has a copy of our changes: undo them there, and let it go.

        Raises Gone, and SpaceError when there is no way into its memory.
        """
        try:
            copy = self.space.undone_copy(self.group, thread)
        except OSError:
            raise Gone(thread.tid) from None
        try:
            self._registers.load(thread.tid)
            found = copy.slot_at(self._words[RIP])
            if found is not None:
                self._take(found[0].position(found[1]))
                self._registers.store(thread.tid)
            try:
                copy.unmap_areas(self.group, thread)
            except Exception as error:
                # It keeps a few pages that nothing refers to.
                _log.warning("child %d keeps our pages: %s", thread.tid, error)
            self.sigtrap.restore_in_child(thread, copy)
        finally:
            copy.close()
        self.group.detach(thread)

    # --- changes: the world is stopped ---

    def classify(self) -> None:
        """Tell each site whether the loop may take its breakpoint for granted.

        Not if it has a callback; nor if a watchpoint on execution behind its one byte shows the
        same address.
        """
        for site in self.space.by_trap.values():
            site.plain = site.callback is None and not (
                site.displaced.length == 1 and self.watch.executes(site.trap)
            )

    def remove(self, sites: list[Site], late: list[Thread]) -> None:
        """Take sites out of the text and every thread out of their slots.

        ``late``: threads that could not be stopped; the slots stay as long as these may be in one.
        """
        removing = self._limbo | set(sites)
        for thread in self._standing():
            self._collect_pending(thread, removing)
        for site in sites:
            self.space.disarm(site)
        for thread in self._standing():
            try:
                self.settle(thread, removing)
            except Gone:
                continue
        if late:
            self._limbo = removing
            return
        self._limbo = set()
        for site in removing:
            self.space.free(site)

    def _standing(self) -> list[Thread]:
        return [
            thread
            for thread in list(self.group.threads.values())
            if thread.state in (State.STOPPED, State.HELD)
        ]

    def _collect_pending(self, thread: Thread, removing: set[Site]) -> None:
        """Serve a breakpoint or a fault in a slot that this thread has not reported yet."""
        try:
            rip = self._registers.load(thread.tid)[RIP]
            found = self.space.slot_at(rip)
            site = self.space.by_trap.get(rip) if found is None else found[0]
            if site in removing and not thread.signal:
                self.group.collect(thread)
        except Gone:
            return

    def take_in(self, sites: Iterable[Site]) -> None:
        """Threads whose system call our stop interrupted at one of these new sites.

        It restarts, which is not another hit: it does so in the slot.
        """
        behind = {
            site.address + site.displaced.length: site
            for site in sites
            if site.displaced.is_syscall
        }
        if not behind:
            return
        for thread in self._standing():
            with contextlib.suppress(Gone):
                words = self._registers.load(thread.tid)
                site = behind.get(words[RIP])
                if site is not None and self._restarts():
                    words[RIP] = site.slot + site.displaced.length
                    self._registers.store(thread.tid)
                    if thread.signal:  # on its way since before the thread was in a slot
                        self._deliver(thread)

    def settle(self, thread: Thread, removing: set[Site]) -> None:
        """Take a stopped thread out of the slots of these sites; raises Gone."""
        words = self._registers.load(thread.tid)
        found = self.space.slot_at(words[RIP])
        if found is not None and found[0] in removing:
            self._take(found[0].position(found[1]))
            self._registers.store(thread.tid)
        if thread.entering in removing:
            thread.entering = None
        if thread.skip is not None and self.space.by_trap.get(thread.skip[0]) is None:
            thread.skip = None


_call = ptrace.raw_ptrace
