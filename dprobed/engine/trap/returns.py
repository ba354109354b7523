"""Returns of functions: which calls are running, and the breakpoints at which they return.

Nothing of a target's stack is altered. At the entry of a function the return address is read, and a
*return site* put there, a breakpoint site like any other: several functions, probes and threads
share it. It stays as long as a probe is in that has needed it, since most calls come from where
others came from before.

* A call is known by its *frame*, the address of its return address: no two running calls have the
  same one, in whatever threads, coroutines or signal handlers, whose stacks may be anywhere. A
  thread at a return site with its stack pointer right above a frame whose call returns there has
  left that call; any other thread there just passes.
* Functions that end by calling another one in their place leave it their frame: such calls return
  together. So an entry with the frame and the return address of a running call is either that, or
  the running one was left without returning (``longjmp``, an exception, and then the same call
  again). Only the code of the function can tell: whether it jumps out of itself.
* A call that was left without returning is *unwound*. That shows at the next entry or return of
  its thread that is above it on the thread's own stack. On other stacks (of coroutines, for
  signals) what is above may be another stack: there it shows when its frame is used again, or its
  return address is overwritten. At the end of its thread the number is right at the latest.
* A return site is put in without stopping the other threads. One that is just there, or comes there
  before its instruction is displaced, is in no call that is known, and just passes. The undo is
  noted before, as with any site.

The other way would be to decode each ``ret`` and tail jump of the function. A hit costs the same,
a stop at the entry and one at the end. But a tail jump has no result yet, code that compilers put
elsewhere has further exits, and hand-written code cannot be told from data: such returns would be
missed without anybody knowing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Final

from dprobed.arch.x86_64.function_code import BEFORE, is_behind_call, leaves_by_jump
from dprobed.arch.x86_64.paging import WORD
from dprobed.arch.x86_64.registers import FS_BASE, RIP, RSP
from dprobed.engine.errors import SpaceError
from dprobed.engine.probe import Attachment, Probe
from dprobed.engine.remote_calls import mappings
from dprobed.engine.runner import ProgramRunner
from dprobed.engine.trap.sites import Site, Sites
from dprobed.program.isa import KEPT_WORDS
from dprobed.tracee.ptrace import Gone
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup

#: Return sites of one target, and calls that are followed at a time; what is beyond is missed.
MAX_SITES: Final = 4096
MAX_CALLS: Final = 1 << 16
#: Bytes of a function whose code is looked at for tail calls.
_MOST_CODE: Final = 1 << 16
#: Calls of one thread on other stacks whose return addresses are looked at at one stop.
_LOOKS: Final = 8


class EntryAttachment(Attachment):
    """A place of a return probe: at the entry of a function. ``size``: bytes of its code."""

    __slots__ = ("_leaves_by_jump", "site", "size")

    def __init__(
        self, probe: Probe, number: int, place: str, module_key: object, site: Site, size: int
    ) -> None:
        super().__init__(probe, "trap", number, place, site.address, module_key)
        self.site: Final = site
        self.size: Final = size
        self._leaves_by_jump: bool | None = None

    def leaves_by_jump(self, sites: Sites) -> bool:
        """Whether the function may leave its frame to another one."""
        if self._leaves_by_jump is None:
            code = sites.text(self.address, min(self.size, _MOST_CODE))
            self._leaves_by_jump = leaves_by_jump(code, self.address)
        return self._leaves_by_jump


class Call:
    """A call of a probed function that has not returned yet."""

    __slots__ = ("attachment", "frame", "kept", "returns_to", "tgid", "tid")

    def __init__(
        self, attachment: EntryAttachment, tid: int, tgid: int, frame: int, returns_to: int
    ) -> None:
        self.attachment: Final = attachment
        self.tid: Final = tid
        self.tgid: Final = tgid
        self.frame: Final = frame
        self.returns_to: Final = returns_to
        #: What the entry part has left.
        self.kept = [0] * KEPT_WORDS


class Returns:
    """The running calls of probed functions of one target, and its return sites."""

    def __init__(self, group: ThreadGroup, runner: ProgramRunner, sites: Sites) -> None:
        self.sites = sites
        #: By address, those that are armed.
        self.armed: Final[dict[int, Site]] = {}
        #: Decides whether a hit of a new site needs a closer look (``TrapEngine.classify``).
        self.classify: Callable[[Site], None] = lambda _site: None
        #: Have room made for a site, as ``TrapEngine`` does; raises SpaceError and Gone.
        self.reserve: Callable[[int], None] = lambda _address: None
        self._group: Final = group
        self._runner: Final = runner
        self._words: Final = runner.registers.words
        #: By frame; of those that share one, the innermost last.
        self._by_frame: Final[dict[int, list[Call]]] = {}
        #: By thread, in the order of their entries.
        self._by_tid: Final[dict[int, list[Call]]] = {}
        self._count = 0
        #: Addresses at which no site can be, and why.
        self._obstacles: Final[dict[int, str]] = {}
        #: The thread whose return address was read at this stop, its frame, and that.
        self._read = (0, 0, 0)
        #: By fork child, the calls that it has from its parent's thread.
        self._of_children: Final[dict[int, list[Call]]] = {}
        #: By thread, where its own stack is.
        self._stacks: Final[dict[int, tuple[int, int]]] = {}

    def use(self, sites: Sites) -> None:
        """Start in an address space that has these sites."""
        self.sites = sites
        self.armed.clear()
        self._by_frame.clear()
        self._by_tid.clear()
        self._obstacles.clear()
        self._of_children.clear()
        self._stacks.clear()
        self._count = 0

    # --- at the entry of a function ---

    def is_ready(self, thread: Thread) -> bool:
        """Whether nothing is to be done yet before the thread, whose registers are loaded at a
        function's entry, may go on into it."""
        frame = self._words[RSP]
        data = self.sites.space.memory.read_partial(thread.tid, frame, 8)
        address = int.from_bytes(data, "little") if len(data) == 8 else 0
        self._read = thread.tid, frame, address
        return address in self.armed or address in self._obstacles

    def prepare(self, thread: Thread, site: Site) -> None:
        """Put in the return site that the last ``is_ready`` has found missing; raises Gone.

        Where none can be, that is noted.
        """
        _, _, address = self._read
        try:
            if len(self.armed) >= MAX_SITES:
                raise SpaceError(f"calls from more than {MAX_SITES} places")
            if reason := self._why_not(address, site):
                raise SpaceError(reason)
            if self.sites.ready(address) is None:
                # While it makes room for us it must not be behind a breakpoint whose signal is
                # taken already.
                self._words[RIP] = site.address
                self._runner.registers.store(thread.tid)
                self.reserve(address)
                self._runner.registers.load(thread.tid)
            self._arm(address)
        except SpaceError as error:
            self._obstacles[address] = str(error)
        finally:
            self.sites.discard_unarmed()

    def _why_not(self, address: int, site: Site) -> str:
        """Why what was read at a function's entry can be no return address; empty: it can."""
        if reason := self.sites.space.why_no_code(address):
            return reason
        # A function that has a symbol is one, whoever has made it the next to run: nothing calls a
        # signal handler, nor the function of a coroutine. Others may be anything.
        if any(isinstance(each, EntryAttachment) and each.size for each in site.entered):
            return ""
        before = self.sites.text(address - BEFORE, BEFORE)
        if len(before) == BEFORE and is_behind_call(before):
            return ""
        return f"{address:#x} is not behind a call"

    def _arm(self, address: int) -> None:
        site = self.sites.make(address)
        self.sites.serve_without_us([site])
        if not self.sites.arm(site):
            raise SpaceError(f"the code at {address:#x} changed meanwhile")
        self.armed[address] = site
        self.classify(site)

    def entered(self, thread: Thread, site: Site, now: int) -> bool:
        """A thread is about to run the function at this site; whether its registers were altered.

        ``is_ready`` was the last question; raises Gone.
        """
        _, frame, address = self._read
        target = self.armed.get(address)
        self._look_above(thread, frame, entering=address)
        altered = False
        for attachment in site.entered:
            assert isinstance(attachment, EntryAttachment)
            probe = attachment.probe
            if probe.over:
                continue
            call = Call(attachment, thread.tid, thread.tgid, frame, address)
            if probe.entry_part is not None:
                followed = self._runner.enter(thread, attachment, call.kept, now)
                altered = altered or probe.alters
                if not followed:
                    continue
            if target is None or self._count >= MAX_CALLS:
                probe.missed += 1
                probe.note_missed(self._obstacles.get(address) or f"more than {MAX_CALLS} calls")
                continue
            target.users.add(attachment)
            self._add(call)
        self._runner.charge(site.entered, now)
        return altered

    def _add(self, call: Call) -> None:
        self._by_frame.setdefault(call.frame, []).append(call)
        self._by_tid.setdefault(call.tid, []).append(call)
        self._count += 1

    def _look_above(self, thread: Thread, stack: int, entering: int = 0) -> None:
        """Note what calls of this thread were unwound, now that its stack begins at ``stack``.

        ``entering``: the return address of the call that it is about to make, at ``stack``.
        """
        sharing = self._by_frame.get(stack) if entering else None
        if sharing and not self._is_tail_call(sharing[-1], thread, entering):
            self._unwind(list(sharing))
        calls = self._by_tid.get(thread.tid)
        if not calls or calls[-1].frame >= stack:
            return
        low, high = self._own_stack(thread)
        is_own = low <= stack <= high
        gone = []
        looks = 0
        for call in reversed(calls):
            if call.frame >= stack:
                if is_own and call.frame <= high:
                    break  # what was entered before is above that
                continue
            if is_own and call.frame >= low:
                gone.append(call)
                continue
            looks += 1
            if looks > _LOOKS:
                break
            expected = call.returns_to.to_bytes(8, "little")
            if self.sites.space.memory.peek(call.frame, 8) != expected:
                gone.append(call)
        self._unwind(gone)

    def _own_stack(self, thread: Thread) -> tuple[int, int]:
        """From where to where the thread's own stack may reach, which is no other's; else 0, 0.

        The first thread's has a name and may grow to what is mapped below it. Others have what the
        thread pointer points to at its upper end, as the C library makes them.
        """
        known = self._stacks.get(thread.tid)
        if known is None:
            known = self._stacks[thread.tid] = self._find_stack(thread)
        return known

    def _find_stack(self, thread: Thread) -> tuple[int, int]:
        pointer, below = self._words[FS_BASE], 0
        with contextlib.suppress(SpaceError, Gone):
            for line in mappings(thread.tid):
                if line.name == b"[stack]" and thread.tid == self.sites.space.tgid:
                    return below, line.end
                if line.start <= pointer < line.end and thread.tid != self.sites.space.tgid:
                    return line.start, pointer
                below = line.end
        return 0, 0

    def _is_tail_call(self, last: Call, thread: Thread, address: int) -> bool:
        """Whether the call that has this frame leaves it to another one."""
        return (
            last.returns_to == address
            and last.tgid == thread.tgid
            and last.attachment.leaves_by_jump(self.sites)
        )

    # --- at a return ---

    def returned(self, thread: Thread, site: Site, now: int) -> bool:
        """A thread whose registers are loaded is at a return site; whether they were altered.

        Raises Gone.
        """
        stack = self._words[RSP]
        calls = self._by_frame.get(stack - 8 & WORD)
        altered = False
        if calls and calls[-1].returns_to == site.address and calls[-1].tgid == thread.tgid:
            if not self._has_popped(thread, site.address, stack - 8 & WORD):
                self._unwind(list(calls))
                calls = None
        else:
            calls = None
        if calls:
            returning = list(reversed(calls))
            self._drop(returning)
            if site.displaced.may_fault:
                # What was returned stays true, whatever the next instruction does.
                self._runner.facts_of(thread).revocable = ()
            for call in returning:
                self._runner.context.kept = call.kept
                altered |= self._runner.run(thread, (call.attachment,), False, now)
        else:
            self._runner.charge(site.users, now)
        self._look_above(thread, stack)
        return altered

    def _has_popped(self, thread: Thread, address: int, frame: int) -> bool:
        """Whether a return address was just taken from there: who catches an exception comes to
        the same place by a jump, and has called others meanwhile."""
        data = self.sites.space.memory.read_partial(thread.tid, frame, 8)
        return data == address.to_bytes(8, "little")

    # --- calls that do not return ---

    def _unwind(self, calls: list[Call]) -> None:
        for call in calls:
            call.attachment.probe.unwound += 1
        self._drop(calls)

    def _drop(self, calls: Iterable[Call]) -> None:
        for call in calls:
            for found, key in ((self._by_frame, call.frame), (self._by_tid, call.tid)):
                among = found[key]
                if among[-1] is call:
                    among.pop()
                else:
                    among.remove(call)
                if not among:
                    del found[key]
            self._count -= 1

    def ended(self, tid: int) -> None:
        """A thread ended, or has another address space now."""
        self._unwind(list(self._by_tid.get(tid, ())))
        self._of_children.pop(tid, None)
        self._stacks.pop(tid, None)

    def all_unwound(self) -> None:
        """No call returns any more: the address space is gone."""
        self._unwind([call for calls in self._by_tid.values() for call in calls])

    # --- probes that go, sites that go ---

    def released(self, attachments: Iterable[Attachment]) -> list[Site]:
        """These are released: follow their calls no more. The return sites that nobody needs."""
        gone = set(attachments)
        self._drop(
            [
                call
                for calls in list(self._by_tid.values())
                for call in calls
                if call.attachment in gone
            ]
        )
        unneeded = []
        for site in self.armed.values():
            if site.users and not site.users - gone:
                unneeded.append(site)
            site.users -= gone
        for site in unneeded:
            del self.armed[site.address]
        if not self.armed:
            self._obstacles.clear()
        return unneeded

    def lost(self, sites: Iterable[Site], reason: str) -> None:
        """No breakpoint can be there any more."""
        for site in sites:
            if self.armed.pop(site.address, None) is None:
                continue
            site.users.clear()
            self._obstacles[site.address] = reason
            calls = [
                call
                for among in list(self._by_tid.values())
                for call in among
                if call.returns_to == site.address
            ]
            for call in calls:
                call.attachment.probe.missed += 1
                call.attachment.probe.note_missed(reason)
            self._drop(calls)

    def overwritten(self) -> list[Site]:
        """Return sites that are not there any more: what was mapped there is gone, or changed."""
        return [site for site in self.armed.values() if not self.sites.is_present(site)]

    # --- a fork child ---

    def forking(self, thread: Thread, child: int) -> None:
        """A thread is making a child, which will return from the same calls in its own memory."""
        calls = self._by_tid.get(thread.tid)
        if calls:
            self._of_children[child] = list(calls)

    def take_over(self, other: Returns, thread: int, twins: dict[Attachment, Attachment]) -> None:
        """Begin a fork child: the calls of the thread that made it, and the return sites.

        ``twins``: our attachments by the parent's; ``thread``: the child's.
        """
        for address, site in other.armed.items():
            there = self.sites.by_trap.get(site.trap)
            if there is not None:
                there.users = {twins[each] for each in site.users if each in twins}
                if there.users:
                    self.armed[address] = there
        for call in other._of_children.pop(thread, ()):
            twin = twins.get(call.attachment)
            if isinstance(twin, EntryAttachment) and call.returns_to in self.armed:
                mine = Call(twin, thread, thread, call.frame, call.returns_to)
                mine.kept[:] = call.kept
                self._add(mine)
