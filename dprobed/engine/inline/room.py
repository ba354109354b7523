"""What the inline engine has in one address space: pages of code, and memory that is shared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from dprobed.arch.x86_64.call_table import TABLE_BYTES
from dprobed.arch.x86_64.function_exits import Exit, ExitsError
from dprobed.arch.x86_64.paging import PAGE
from dprobed.arch.x86_64.placeable import ABORTS
from dprobed.arch.x86_64.syscalls import SYS_MUNMAP
from dprobed.arch.x86_64.time_stamp import TimeStamps
from dprobed.change_journal import Kind
from dprobed.engine.address_space import AddressSpace
from dprobed.engine.errors import SpaceError
from dprobed.engine.inline.breakpoints import NativeSites
from dprobed.engine.inline.calls import CallTable
from dprobed.engine.inline.clock import SIZE as CLOCK_SIZE
from dprobed.engine.inline.clock import TargetClock
from dprobed.engine.inline.code import ALIGN, CodeArea
from dprobed.engine.inline.counters import ProbeCounter
from dprobed.engine.inline.executor import InlineExecutor
from dprobed.engine.inline.puns import Pun
from dprobed.engine.inline.records import RecordPlaces
from dprobed.engine.inline.rings import RingMemory
from dprobed.engine.inline.shared import SharedMemory
from dprobed.engine.inline.sites import JumpSites, JumpTrampoline, Role
from dprobed.engine.probe import Probe
from dprobed.engine.remote_calls import mappings
from dprobed.engine.static_arguments import StaticArgument
from dprobed.proc import procfs
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup

#: Bytes of shared memory that are mapped at once.
_SHARED: Final = 1 << 18
#: Why there is nothing native in Go's code, as the resolver knows it, or as its text says.
GO: Final = "it is a Go program's, whose stacks have no room for what runs there"
#: By what code is known in which there can be no jump, and why.
_UNFIT: Final = (
    (ABORTS, "its module has restartable sequences (rseq), which a jump would leave"),
    (b"\xff Go build ID: ", GO),
)


#: The address of a site, and its probes.
Programs = tuple[int, tuple[tuple[Probe, Role], ...]]
#: Of which program, for code that begins where, with which arguments.
Constants = tuple[InlineExecutor, int, tuple[StaticArgument, ...]]


class BuiltTrampoline(NamedTuple):
    """What was built for the probes of a site; ``numbers``: those of places that records name."""

    original: bytes
    trampoline: JumpTrampoline
    numbers: tuple[int | None, ...]


class InlineRoom:
    """The memory that the inline engine has in one address space, and what is where in it."""

    def __init__(self, space: AddressSpace, group: ThreadGroup, breakpoints: NativeSites) -> None:
        self.space: Final = space
        self.breakpoints: Final = breakpoints
        self.sites: Final = JumpSites(space)
        self.group: Final = group
        self.shared: Final[list[SharedMemory]] = []
        #: Where the data of each program is, and what its probes have counted.
        self.data: Final[dict[InlineExecutor, int]] = {}
        self.counters: Final[dict[Probe, ProbeCounter]] = {}
        #: Where a function is, by its code and the area that it is in.
        self.functions: Final[dict[tuple[bytes, CodeArea], int]] = {}
        #: Those of each program.
        self.maps: Final[dict[InlineExecutor, SharedMemory]] = {}
        #: Where records go, once there is a program that makes some.
        self.rings: RingMemory | None = None
        self.places = RecordPlaces()
        #: The calls that are followed, once there is a probe at a return.
        self.calls: CallTable | None = None
        #: How functions return, for the present insertion.
        self.exits: Final[dict[int, tuple[Exit, ...] | ExitsError]] = {}
        self.clock: TimeStamps | None = None
        #: What programs tell the time by, once there is one that does.
        self.told_clock: TargetClock | None = None
        #: Code that was looked through for the present insertion: start, end, and why there can be
        #: no jump.
        self.looked_at: Final[list[tuple[int, int, str]]] = []
        #: Those that were found, by the address and the text there.
        self.puns: Final[dict[tuple[int, bytes], Pun]] = {}
        #: What was built for the probes of a site, with the numbers of their places.
        self.built: Final[dict[Programs, BuiltTrampoline]] = {}
        #: The constants of each program's places, and which facilities are gone.
        self.constants: Final[dict[Constants, int]] = {}

    # --- room ---

    def reserve(
        self,
        places: Mapping[int, int],
        executors: Iterable[InlineExecutor],
        code: int,
        data: int,
        *,
        records: bool,
        calls: bool,
    ) -> None:
        """Have the target map what is missing for trampolines at these places, of so many bytes,
        and for ``code`` that they lead to; room for ``data``; for the maps of ``executors``; and
        rings, if there are to be ``records``, or ``calls`` that are followed. Raises SpaceError and
        Gone."""
        if self.clock is None:
            try:
                self.clock = TimeStamps()
            except OSError as error:
                raise SpaceError(f"the time stamp counter cannot be read: {error}") from None
        pages = self.sites.pages
        need: dict[CodeArea, int] = {}
        missing: list[int] = []
        for address, size in places.items():
            area = pages.near(address)
            needed = need.get(area, code) + size + ALIGN if area is not None else 0
            if area is None or needed > area.room:
                missing.append(address)
            else:
                need[area] = needed
        shared = self.shared and self.shared[-1].room >= data
        records = records and self.rings is None
        calls = calls and self.calls is None
        mapping = [each for each in executors if each.map_bytes and each not in self.maps]
        if not missing and shared and not records and not calls and not mapping:
            return
        with self.group.borrower.borrowed(self.space.tgid) as thread:
            while missing:
                size = code + sum(places[each] + ALIGN for each in missing)
                area = pages.map(self.group, thread, missing[0], size)
                missing = [each for each in missing if not area.reaches(each)]
            if not shared:
                name = pages.areas[0].start
                size = max(_SHARED, data)
                self.shared.append(SharedMemory.make(self.space, self.group, thread, name, size))
            name = pages.areas[0].start
            for each in mapping:
                self.maps[each] = SharedMemory.make(
                    self.space, self.group, thread, name, each.map_bytes
                )
            if records:
                self.rings = RingMemory.make(self.space, self.group, thread, name)
            if calls:
                self.calls = CallTable(
                    SharedMemory.make(self.space, self.group, thread, name, TABLE_BYTES)
                )

    def allocate(self, size: int) -> tuple[int, memoryview]:
        """So many bytes of zeros that are shared: where, and as words. Raises SpaceError."""
        offset = self.shared[-1].allocate(size)
        if offset is None:
            raise SpaceError("no shared memory is left")
        return self.shared[-1].address + offset, self.shared[-1].words(offset, size // 8)

    def clock_there(self) -> TargetClock:
        """What programs tell the time by, from now on if they do not yet; raises SpaceError."""
        if self.told_clock is None:
            assert self.clock is not None
            self.told_clock = TargetClock(*self.allocate(CLOCK_SIZE), self.clock)
        return self.told_clock

    def keep_values(self) -> None:
        """Nothing is shared any more: what was counted is kept."""
        for executor in self.data:
            executor.keep()
        self.data.clear()
        self.counters.clear()
        self.told_clock = None

    def why_unfit(self, address: int) -> str:
        """Why no jump can be in the code around; empty: one can. Raises SpaceError and Gone."""
        for start, end, why in self.looked_at:
            if start <= address < end:
                return why
        for line in mappings(procfs.live_thread(self.space.tgid)):
            if line.start <= address < line.end:
                code = self.space.memory.peek(line.start, line.end - line.start)
                why = next((why for mark, why in _UNFIT if mark in code), "")
                self.looked_at.append((line.start, line.end, why))
                return why
        return ""

    def start_anew(self) -> None:
        """No site is left, and no thread in our code: all of it may be used again."""
        self.keep_values()
        for area in self.sites.pages.areas:
            area.start_anew()
        for shared in self.shared:
            shared.start_anew()
        if self.calls is not None:
            self.calls.start_anew()
        self.sites.trampolines.clear()
        self.functions.clear()
        self.constants.clear()
        self.built.clear()

    def pages(self) -> list[tuple[int, int]]:
        """Start and end of each mapping of ours in the target."""
        memory = [*self.shared, *self.maps.values()]
        if self.rings is not None:
            memory.append(self.rings.shared)
        if self.calls is not None:
            memory.append(self.calls.shared)
        shared = [(each.address, each.address + each.length) for each in memory]
        stubs = [(page, page + PAGE) for page in self.sites.pages.stubs.pages]
        return [(area.start, area.end) for area in self.sites.pages.areas] + stubs + shared

    def unmap(self, thread: Thread) -> None:
        """Have a borrowed thread unmap them: none is in them. Raises SpaceError and Gone."""
        for start, end in self.pages():
            self.space.calls.call(self.group, thread, SYS_MUNMAP, start, end - start)
            self.space.changes.forget(Kind.CODE, start)
        self.sites.pages.areas.clear()
        self.sites.pages.stubs.pages.clear()
        self.puns.clear()
        self.sites.trampolines.clear()
        self.functions.clear()
        self.shared.clear()
        self.maps.clear()
        self.rings = None
        self.calls = None
