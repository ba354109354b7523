"""The calls of probed functions that have not returned yet, in one address space.

* A call is known by its *frame*, the address of its return address: no two running calls have the
  same one, in whatever threads, coroutines or signal handlers, whose stacks may be anywhere.
* Functions that end by calling another one in their place leave it their frame: such calls return
  together. So an entry with the frame and the return address of a running call is either that, or
  the running one was left without returning (``longjmp``, an exception, and then the same call
  again). Only the code of the function can tell: whether it jumps out of itself.
* A call that was left without returning is *unwound*. That shows at the next entry or return of
  its thread that is above it on the thread's own stack. On other stacks (of coroutines, for
  signals) what is above may be another stack: there it shows when its frame is used again, or its
  return address is overwritten. At the end of its thread the number is right at the latest.
* Go's runtime moves the stack of a goroutine while functions run on it, and a goroutine from thread
  to thread. So in Go's code a goroutine stands for the thread, and a frame is counted from the
  upper end of its stack, as that is what the runtime keeps (``copystack``, runtime/stack.go). Calls
  that a goroutine left by ``panic`` or ``Goexit`` show when their frame is used again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator
from typing import Final

import msgspec

from dprobed.arch.x86_64.registers import FS_BASE, R14, RSP
from dprobed.engine.errors import SpaceError
from dprobed.engine.probe import Attachment
from dprobed.engine.remote_calls import mappings
from dprobed.engine.trap.attachments import EntryAttachment, SiteAttachment
from dprobed.engine.trap.sites import Sites
from dprobed.tracee.ptrace import Gone, Registers
from dprobed.tracee.thread import Thread

#: Calls that are followed at a time in one target; what is beyond is missed.
MAX_CALLS: Final = 1 << 16
#: Calls of one thread on other stacks whose return addresses are looked at at one stop.
_LOOKS: Final = 8


class RunningCall(msgspec.Struct, eq=False, gc=False):
    """A call of a probed function. ``kept``: what the entry part has left.

    In Go's code ``tid`` and ``frame`` are negative: see ``RunningCalls.goroutine``.
    """

    attachment: Attachment
    tid: int
    tgid: int
    frame: int
    returns_to: int
    kept: list[int]


class RunningCalls:
    """See the module."""

    def __init__(self, registers: Registers, sites: Sites) -> None:
        """``registers``: of the thread that stops."""
        self.count = 0
        self._has_goroutines = False
        self._sites = sites
        self._there = sites.space.memory.word
        self._words: Final = registers.words
        #: By frame; of those that share one, the innermost last.
        self.by_frame: Final[dict[int, list[RunningCall]]] = {}
        #: By thread, in the order of their entries.
        self.by_tid: Final[dict[int, list[RunningCall]]] = {}
        #: By thread, where its own stack is.
        self._stacks: Final[dict[int, tuple[int, int]]] = {}
        #: By fork child, the calls that it has from its parent's thread.
        self._of_children: Final[dict[int, list[RunningCall]]] = {}

    def use(self, sites: Sites) -> None:
        """Start in an address space that has these sites."""
        self._sites = sites
        self._there = sites.space.memory.word
        self.count = 0
        for each in (self.by_frame, self.by_tid, self._stacks, self._of_children):
            each.clear()

    def __iter__(self) -> Iterator[RunningCall]:
        """All of them."""
        for calls in list(self.by_tid.values()):
            yield from list(calls)

    def add(self, call: RunningCall) -> None:
        """A call begins."""
        sharing = self.by_frame.get(call.frame)
        if sharing is None:
            self.by_frame[call.frame] = [call]
        else:
            sharing.append(call)
        among = self.by_tid.get(call.tid)
        if among is None:
            self.by_tid[call.tid] = [call]
        else:
            among.append(call)
        self.count += 1

    def drop(self, calls: Iterable[RunningCall]) -> None:
        """Follow these no more."""
        for call in calls:
            sharing = self.by_frame[call.frame]
            sharing.remove(call)
            if not sharing:
                del self.by_frame[call.frame]
            # Kept when it is empty, until the thread ends: there will be others.
            among = self.by_tid[call.tid]
            if among[-1] is call:
                among.pop()
            else:
                among.remove(call)
            if call.tid < 0 and not among:
                del self.by_tid[call.tid]  # a goroutine, whose end nobody tells
            self.count -= 1

    def drop_of(self, gone: Collection[Attachment]) -> None:
        """Follow those of probes that are released no more."""
        self.drop([call for call in self if call.attachment in gone])

    def returning(self, thread: Thread, address: int) -> list[RunningCall]:
        """The calls, the innermost first, that a thread whose registers are loaded has just left by
        returning to this address; they are dropped."""
        frame = self._words[RSP] - 8
        calls = self.by_frame.get(frame)
        if calls is None:
            return self._returning_in_go(thread, address) if self._has_goroutines else []
        call = calls[-1]
        if call.returns_to != address or call.tgid != thread.tgid:
            return []
        # Who catches an exception comes to the same place by a jump, and has called others since.
        there = self._there
        if there(frame) != address:  # just read by ``ret``: the page is there
            self.unwind(list(calls))
            return []
        if len(calls) > 1:
            found = calls[::-1]
            self.drop(found)
            return found
        # As ``drop`` does; this is most of what a return costs over another hit.
        del self.by_frame[frame]
        among = self.by_tid[call.tid]
        if among[-1] is call:
            among.pop()
        else:
            among.remove(call)
        self.count -= 1
        return calls

    def _returning_in_go(self, thread: Thread, address: int) -> list[RunningCall]:
        """``returning``, where a thread runs a goroutine."""
        _, frame = self.goroutine(self._words[RSP] - 8)
        calls = self.by_frame.get(frame, [])
        if not calls or calls[-1].returns_to != address or calls[-1].tgid != thread.tgid:
            return []
        found = calls[::-1]
        self.drop(found)
        return found

    def goroutine(self, address: int) -> tuple[int, int]:
        """The goroutine on whose stack this address is, and the address itself: two negative
        numbers that stay the same wherever it is run, and its stack is moved to; 0, 0: on none.

        r14 is the goroutine (Go's internal ABI); before Go 1.17 it is in the thread's own memory
        only. Its first two words are from where to where its stack is (runtime2.go).
        """
        there = self._there
        for own in (self._words[R14], there(self._words[FS_BASE] - 8)):
            if own and there(own) <= address < (high := there(own + 8)):
                return -own, -(own << 32 | high - address)
        return 0, 0

    def enter_in_go(self, frame: int, entered: Collection[Attachment]) -> None:
        """A goroutine enters a function with these probes: who has its frame has ended, unless that
        is another function, which leaves it its frame (Go's wrappers of methods do)."""
        self._has_goroutines = True
        calls = self.by_frame.get(frame)
        if calls and calls[-1].attachment in entered:
            self.unwind(list(calls))

    def _word(self, thread: Thread, address: int) -> int:
        data = self._sites.space.memory.read_partial(thread.tid, address, 8)
        return int.from_bytes(data, "little") if len(data) == 8 else 0

    # --- those that do not return ---

    def unwind(self, calls: list[RunningCall]) -> None:
        """Count these as unwound, and drop them."""
        for call in calls:
            call.attachment.probe.unwound += 1
        self.drop(calls)

    def ended(self, tid: int, *, last: bool = False) -> None:
        """A thread ended, or has another address space now. ``last``: no other is there."""
        self.unwind(list(self.by_tid.get(tid, ())))
        self.by_tid.pop(tid, None)
        self._of_children.pop(tid, None)
        self._stacks.pop(tid, None)
        if last:
            self.unwind(list(self))  # of goroutines, which are no thread's

    def look(self, thread: Thread, entering: int = 0) -> None:
        """Note what calls of a thread were unwound, now that its registers are these: none where
        its latest is at its stack pointer or above, and no other has that frame.

        ``entering``: the return address of the call that it is about to make.
        """
        stack = self._words[RSP]
        sharing = self.by_frame.get(stack) if entering else None
        if sharing and not self._is_tail_call(sharing[-1], thread, entering):
            self.unwind(list(sharing))
        calls = self.by_tid.get(thread.tid)
        if calls and calls[-1].frame < stack:
            self.unwind(self._left(thread, calls, stack))

    def _is_tail_call(self, last: RunningCall, thread: Thread, address: int) -> bool:
        """Whether the call that has this frame leaves it to another one."""
        return (
            last.returns_to == address
            and last.tgid == thread.tgid
            and isinstance(last.attachment, EntryAttachment)
            and last.attachment.leaves_by_jump(self._sites)
        )

    def _left(self, thread: Thread, calls: list[RunningCall], stack: int) -> list[RunningCall]:
        """Of a thread's calls those that are running no more, with its stack pointer there."""
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
            if self._word(thread, call.frame) != call.returns_to:
                gone.append(call)
        return gone

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
        is_first = thread.tid == self._sites.space.tgid
        with contextlib.suppress(SpaceError, Gone):
            for line in mappings(thread.tid):
                if is_first and line.name == b"[stack]":
                    return below, line.end
                if not is_first and line.start <= pointer < line.end:
                    return line.start, pointer
                below = line.end
        return 0, 0

    # --- a fork child ---

    def forking(self, thread: Thread, child: int) -> None:
        """A thread is making a child, which will return from the same calls in its own memory."""
        calls = self.by_tid.get(thread.tid)
        if calls:
            self._of_children[child] = list(calls)

    def take_over(
        self, other: RunningCalls, child: int, twins: dict[Attachment, SiteAttachment]
    ) -> None:
        """Begin a fork child with the calls of the thread that made it. ``twins``: our attachments
        by the parent's."""
        for call in other._of_children.pop(child, ()):
            twin = twins.get(call.attachment)
            if isinstance(twin, EntryAttachment):
                kept = list(call.kept)
                self.add(RunningCall(twin, child, child, call.frame, call.returns_to, kept))
