"""Returns of functions: the breakpoints at which calls return, and what happens there.

Nothing of a target's stack is altered. At the entry of a function the return address is read, and a
*return site* put there, a breakpoint site like any other: several functions, probes and threads
share it. It stays as long as a probe is in that has needed it, since most calls come from where
others came from before. A thread at a return site with its stack pointer right above the frame of a
call that returns there (``running_calls``) has left that call; any other thread just passes.

A return site is put in without stopping the other threads. One that is just there, or comes there
before its instruction is displaced, is in no call that is known, and just passes: a system call or
a repeated instruction begins again in the slot. The undo is noted before, as with any site.

The other way would be to decode each ``ret`` and tail jump of the function. A hit costs the same, a
stop at the entry and one at the end. But a tail jump has no result yet, code that compilers put
elsewhere has further exits, and hand-written code cannot be told from data: such returns would be
missed without anybody knowing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from dprobed.arch.x86_64.function_code import BEFORE, is_behind_call
from dprobed.arch.x86_64.registers import RIP, RSP
from dprobed.engine.errors import SpaceError
from dprobed.engine.probe import Attachment
from dprobed.engine.runner import NOTHING_KEPT, ProgramRunner
from dprobed.engine.trap.attachments import EntryAttachment, SiteAttachment
from dprobed.engine.trap.running_calls import MAX_CALLS, RunningCall, RunningCalls
from dprobed.engine.trap.sites import Site, Sites
from dprobed.tracee.thread import Thread

#: Return sites of one target; calls from elsewhere are missed.
MAX_SITES: Final = 4096
#: Addresses at which no site can be that are remembered: a target may return to any number.
MAX_OBSTACLES: Final = 4096


class Returns:
    """The return sites of one target."""

    def __init__(
        self,
        runner: ProgramRunner,
        sites: Sites,
        reserve: Callable[[Sequence[int]], None],
        classify: Callable[[Site], None],
    ) -> None:
        """``reserve``: has room made for sites there, and sees to it that they may be made; raises
        SpaceError and Gone. ``classify``: decides whether hits of a new site need a closer look."""
        self.calls: Final = RunningCalls(runner.registers, sites)
        #: By address, those that are armed.
        self.armed: Final[dict[int, Site]] = {}
        self._sites = sites
        self._word = sites.space.memory.word
        self._reserve: Final = reserve
        self._classify: Final = classify
        self._runner: Final = runner
        self._words: Final = runner.registers.words
        #: Addresses at which no site can be, and why.
        self._obstacles: Final[dict[int, str]] = {}
        #: The return address of the call that begins with this stop.
        self._address = 0

    def use(self, sites: Sites) -> None:
        """Start in an address space that has these sites."""
        self._sites = sites
        self._word = sites.space.memory.word
        self.calls.use(sites)
        self.armed.clear()
        self._obstacles.clear()

    # --- at the entry of a function ---

    def is_ready(self, thread: Thread) -> bool:
        """Whether nothing is to be done yet before the thread, whose registers are loaded at a
        function's entry, may go on into it."""
        # A local name: see ``ProgramRunner.run``. The page is there: the call has just written to
        # it.
        word = self._word
        address = self._address = word(self._words[RSP])
        return address in self.armed or address in self._obstacles

    def prepare(self, thread: Thread, site: Site) -> None:
        """Put in the return site that the last ``is_ready`` has found missing; raises Gone.

        Where none can be, that is noted.
        """
        address = self._address
        made = None
        try:
            if reason := self._why_not(address, site):
                raise SpaceError(reason)
            if self._sites.ready(address) is None and not self._has_room(address):
                # While it makes room for us it must not be behind a breakpoint whose signal is
                # taken already.
                self._words[RIP] = site.address
                self._runner.registers.store(thread.tid)
                # As much again as there is: who is called from many places is from more.
                self._reserve([address] * max(len(self.armed), 1))
                self._runner.registers.load(thread.tid)
            made = self._sites.make(address)
            self._arm(made)
        except SpaceError as error:
            if len(self._obstacles) >= MAX_OBSTACLES:
                self._obstacles.clear()
            self._obstacles[address] = str(error)
            if made is not None:
                self._sites.discard(made)
        self._address = address  # others may have been served meanwhile

    def _has_room(self, address: int) -> bool:
        guard = self._sites.guard
        guarded = not guard.base or guard.has_room(1)  # where none can be, none will
        return guarded and self._sites.space.resident.has_room(address)

    def _why_not(self, address: int, site: Site) -> str:
        """Why no return site can be there, or the function surely does not return to there."""
        if len(self.armed) >= MAX_SITES:
            return f"functions are called from more than {MAX_SITES} places"
        if reason := self._sites.space.why_no_code(address):
            return reason
        # A function that has a symbol is one, whoever has made it the next to run: nothing calls a
        # signal handler, nor the function of a coroutine. Others may be anything.
        if any(isinstance(each, EntryAttachment) and each.size for each in site.entered):
            return ""
        before = self._sites.text(address - BEFORE, BEFORE)
        if len(before) == BEFORE and is_behind_call(before):
            return ""
        return f"{address:#x} is not behind a call"

    def _arm(self, site: Site) -> None:
        self._sites.serve_without_us([site])
        if not self._sites.arm(site):
            raise SpaceError(f"the code at {site.address:#x} changed meanwhile")
        self.armed[site.address] = site
        self._classify(site)

    def entered(self, thread: Thread, site: Site, now: int) -> bool:
        """A thread is about to run the function at this site, for which ``is_ready`` was asked;
        whether its registers were altered. Raises Gone."""
        address, calls = self._address, self.calls
        target = self.armed.get(address)
        tid, frame = self._caller(thread, site, address)
        altered = False
        for attachment in site.entered:
            probe = attachment.probe
            if probe.over:
                continue
            kept = NOTHING_KEPT
            if probe.entry_part is not None:
                altered = altered or probe.alters
                kept = self._runner.enter(thread, attachment, now)
                if not kept:
                    continue
            if target is None or calls.count >= MAX_CALLS:
                why = self._obstacles.get(address) or f"more than {MAX_CALLS} calls at a time"
                probe.note_missed(why)
                continue
            target.users.add(attachment)
            calls.add(RunningCall(attachment, tid, thread.tgid, frame, address, kept))
        self._runner.passed(site.entered, now)
        return altered

    def _caller(self, thread: Thread, site: Site, address: int) -> tuple[int, int]:
        """Who enters the function at this site, and the frame of the call; what is seen by it to
        have been unwound is noted."""
        calls, frame = self.calls, self._words[RSP]
        if any(isinstance(each, EntryAttachment) and each.goroutine for each in site.entered):
            goroutine, place = calls.goroutine(frame)
            if goroutine:
                calls.enter_in_go(place, site.entered)
                return goroutine, place
        among = calls.by_tid.get(thread.tid)
        if frame in calls.by_frame or (among and among[-1].frame < frame):
            calls.look(thread, entering=address)
        return thread.tid, frame

    # --- at a return ---

    def returned(self, thread: Thread, site: Site, now: int) -> bool:
        """A thread whose registers are loaded is at a return site; whether they were altered.

        Raises Gone.
        """
        altered = False
        calls, runner = self.calls, self._runner
        returning = calls.returning(thread, site.address)
        if returning and site.displaced.may_fault:
            # What was returned stays true, whatever the next instruction does.
            runner.facts_of(thread).revocable = ()
        for call in returning:
            runner.context.kept = call.kept
            altered |= runner.run(thread, (call.attachment,), False, now)
        if not returning:
            runner.passed(site.users, now)
        among = calls.by_tid.get(thread.tid)
        if among and among[-1].frame < self._words[RSP]:
            calls.look(thread)
        if site.entered:
            self.is_ready(thread)  # others may have been served meanwhile
        return altered

    # --- probes that go, sites that go ---

    def released(self, attachments: Iterable[Attachment]) -> list[Site]:
        """These are released: follow their calls no more. The return sites that nobody needs."""
        gone = {each for each in attachments if isinstance(each, EntryAttachment)}
        if not gone:
            return []
        self.calls.drop_of(gone)
        unneeded = []
        for site in self.armed.values():
            site.users -= gone
            if not site.users:
                unneeded.append(site)
        for site in unneeded:
            del self.armed[site.address]
        self._obstacles.clear()
        return unneeded

    def lost(self, sites: Iterable[Site], reason: str) -> None:
        """No breakpoint can be there any more."""
        for site in sites:
            if self.armed.pop(site.address, None) is not None:
                site.users.clear()
                self._obstacles[site.address] = reason
                calls = [call for call in self.calls if call.returns_to == site.address]
                for call in calls:
                    call.attachment.probe.note_missed(reason)
                self.calls.drop(calls)

    def forget_overwritten(self) -> list[Site]:
        """Forget return sites that are not there any more, because what was mapped there is gone,
        or was changed; these."""
        gone = [site for site in self.armed.values() if not self._sites.is_present(site)]
        for site in gone:
            site.gone = True
            site.users.clear()
            del self.armed[site.address]
        self._obstacles.clear()
        return gone

    def take_over(
        self, other: Returns, child: int, twins: dict[Attachment, SiteAttachment]
    ) -> None:
        """Begin a fork child with the return sites that it has from its parent, and with the calls
        of the thread that made it. ``twins``: our attachments by the parent's."""
        for address, site in other.armed.items():
            there = self._sites.by_trap.get(site.trap)
            if there is not None:
                there.users.update(twins[each] for each in site.users if each in twins)
                if there.users:
                    self.armed[address] = there
        self.calls.take_over(other.calls, child, twins)
