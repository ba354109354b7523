"""Puts native programs into an address space: their code, their data, and trampolines to them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from dprobed.arch.x86_64.jump import FAR_JUMP, JUMP_SIZE, far_jump, jump
from dprobed.arch.x86_64.paging import PAGE
from dprobed.arch.x86_64.placeable import ABORTS
from dprobed.arch.x86_64.relocation import RelocationError, displace
from dprobed.arch.x86_64.syscalls import SYS_MUNMAP
from dprobed.arch.x86_64.time_stamp import TimeStamps
from dprobed.arch.x86_64.trampoline import (
    ARGUMENTS,
    CONTROL_HITS,
    CONTROL_LAST,
    CONTROL_LOST,
    CONTROL_OVER,
    CONTROL_PASSED,
    CONTROL_SIZE,
    Clock,
    Frame,
    Hit,
    Record,
    Run,
    flags_are_live,
    mentioned,
    trampoline,
)
from dprobed.change_journal import Kind
from dprobed.engine.address_space import AddressSpace
from dprobed.engine.errors import SpaceError
from dprobed.engine.inline.code import CodeArea
from dprobed.engine.inline.executor import InlineExecutor
from dprobed.engine.inline.puns import FreePages, Pun
from dprobed.engine.inline.records import Places, log_room, raw_room
from dprobed.engine.inline.rings import RingMemory
from dprobed.engine.inline.shared import LINE, SharedMemory
from dprobed.engine.inline.sites import JumpAttachment, Site, Sites, Trampoline
from dprobed.engine.interface import Location, Twin
from dprobed.engine.probe import Attachment, Probe
from dprobed.engine.remote_calls import mappings, note
from dprobed.proc import procfs
from dprobed.program.exec.native.abi import HIT_BYTES, Blob, Data, Needs, Place
from dprobed.program.exec.native.abi import Hit as Words
from dprobed.program.exits import ABORT, REM
from dprobed.program.registers import USER_REGS
from dprobed.tracee.ptrace import Gone
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup

_HIT: Final = Hit(
    tid=Words.TID,
    pid=Words.PID,
    cpu=Words.CPU,
    time=Words.TIME,
    scratch=Words.SCRATCH,
    log=Words.LOG,
    log_size=Words.LOG_SIZE,
    raw=Words.RAW,
    raw_count=Words.RAW_COUNT,
    major=Words.MAJOR,
    minor=Words.MINOR,
    exception=Words.EXCEPTION,
    size=HIT_BYTES,
)
#: Bytes of code that a place of a probe takes at most, besides its program.
_CODE: Final = 1536
#: Bytes of shared memory that are mapped at once.
_SHARED: Final = 1 << 18
#: Bytes of code that is looked at behind the probed instruction.
_BEHIND: Final = 64
#: Bytes that a punned jump takes at most, prefixes and all.
_PUNNED: Final = 9
#: By what code is known in which there can be no jump, and why.
_UNFIT: Final = (
    (ABORTS, "its module has restartable sequences (rseq), which a jump would leave"),
    (b"\xff Go build ID: ", "it is a Go program's, whose stacks have no room for what runs there"),
)
#: No trampoline with one program is longer; each further one takes so much more at most.
_LONGEST: Final = 512
_LONGEST_RUN: Final = 640
#: More than a program can name.
_MOST_FACILITIES: Final = 512
_LAST: Final = (1 << 64) - 1


class _Built(NamedTuple):
    """``numbers``: of the places whose records have some."""

    original: bytes
    trampoline: Trampoline
    numbers: tuple[int | None, ...]


class Counter:
    """The words that a probe shares with its trampolines."""

    def __init__(self, address: int, words: memoryview) -> None:
        self.address: Final = address
        self._words: Final = words
        self._lost = 0

    @property
    def hits(self) -> int:
        """How often it was come by."""
        return self._words[CONTROL_HITS // 8]

    def take_lost(self) -> int:
        """Records for which there was no room, since the last time."""
        lost = self._words[CONTROL_LOST // 8]
        new, self._lost = lost - self._lost, lost
        return new

    @property
    def is_over(self) -> bool:
        """Whether its program has said that it is never to run again."""
        return self._words[CONTROL_OVER // 8] != 0

    def begin(self, hits: int, passed: int, last: int) -> None:
        """Set them, before anybody comes by."""
        self._words[CONTROL_HITS // 8] = hits
        self._words[CONTROL_PASSED // 8] = passed
        self._words[CONTROL_OVER // 8] = self._words[CONTROL_LOST // 8] = 0
        self.limit(last)

    def end(self) -> None:
        """Its program does not run any more."""
        self._words[CONTROL_OVER // 8] = 1

    def resume(self) -> None:
        """It runs again."""
        self._words[CONTROL_OVER // 8] = 0

    def limit(self, last: int) -> None:
        """The last hit that runs the program."""
        self._words[CONTROL_LAST // 8] = min(last, _LAST)


def makes_records(executor: InlineExecutor, probe: Probe) -> bool:
    """Whether a probe's program makes records: it may end otherwise than by `abort`."""
    blob = executor.native(probe.definition)
    raises = isinstance(blob, Blob) and bool(blob.needs & Needs.EXCEPTION)
    return raises or executor.exits[probe.index] != {ABORT}


def _pages_of(target: int) -> set[int]:
    return {target // PAGE * PAGE, (target + FAR_JUMP - 1) // PAGE * PAGE}


def _mask(bits: int) -> frozenset[int]:
    return frozenset(index for index in range(len(USER_REGS)) if bits >> index & 1)


class Placer:
    """What the inline engine has in one address space."""

    def __init__(self, space: AddressSpace, group: ThreadGroup) -> None:
        self.space: Final = space
        self.sites: Final = Sites(space)
        self._group: Final = group
        self._shared: Final[list[SharedMemory]] = []
        #: Where the data of each program is, and what its probes have counted.
        self._data: Final[dict[InlineExecutor, int]] = {}
        self.counters: Final[dict[Probe, Counter]] = {}
        #: Where a function is, by its code and the area that it is in.
        self._functions: Final[dict[tuple[bytes, CodeArea], int]] = {}
        #: Those of each program.
        self._maps: Final[dict[InlineExecutor, SharedMemory]] = {}
        #: Where records go, once there is a program that makes some.
        self.rings: RingMemory | None = None
        self.places = Places()
        self.clock: TimeStamps | None = None
        self._clock_at = 0
        #: Code that was looked through: start, end, and why there can be no jump.
        self._looked_at: Final[list[tuple[int, int, str]]] = []
        #: Those that were found, by the address and the text there.
        self._puns: Final[dict[tuple[int, bytes], Pun]] = {}
        #: What was built for the probes of a site, with the numbers of their places.
        self._built: Final[dict[tuple[int, tuple[Probe, ...]], _Built]] = {}
        #: The constants of each program's places, and which facilities are gone.
        self._constants: Final[dict[tuple[InlineExecutor, int], int]] = {}

    # --- room ---

    def reserve(
        self,
        addresses: Iterable[int],
        executors: Iterable[InlineExecutor],
        code: int,
        data: int,
        *,
        records: bool,
    ) -> None:
        """Have the target map what is missing for trampolines at these addresses, and for ``code``
        that they lead to; room for ``data``; for the maps of ``executors``; and rings, if
        there are to be ``records``.
        Raises SpaceError and Gone."""
        if self.clock is None:
            try:
                self.clock = TimeStamps()
            except OSError as error:
                raise SpaceError(f"the time stamp counter cannot be read: {error}") from None
        pages = self.sites.pages
        need: dict[CodeArea, int] = {}
        missing: list[int] = []
        for address in addresses:
            area = pages.near(address)
            needed = need.get(area, code) + _CODE if area is not None else 0
            if area is None or needed > area.room:
                missing.append(address)
            else:
                need[area] = needed
        shared = self._shared and self._shared[-1].room >= data
        records = records and self.rings is None
        mapping = [each for each in executors if each.map_bytes and each not in self._maps]
        if not missing and shared and not records and not mapping:
            return
        with self._group.borrower.borrowed(self.space.tgid) as thread:
            while missing:
                size = code + _CODE * len(missing)
                area = pages.map(self._group, thread, missing[0], size)
                missing = [each for each in missing if not area.reaches(each)]
            if not shared:
                name = pages.areas[0].start
                size = max(_SHARED, data)
                self._shared.append(SharedMemory.make(self.space, self._group, thread, name, size))
            name = pages.areas[0].start
            for each in mapping:
                self._maps[each] = SharedMemory.make(
                    self.space, self._group, thread, name, each.map_bytes
                )
            if records:
                self.rings = RingMemory.make(self.space, self._group, thread, name)

    def _allocate(self, size: int) -> tuple[int, memoryview]:
        offset = self._shared[-1].allocate(size)
        if offset is None:
            raise SpaceError("no shared memory is left")
        return self._shared[-1].address + offset, self._shared[-1].words(offset, size // 8)

    def keep_values(self) -> None:
        """Nothing is shared any more: what was counted is kept."""
        for executor in self._data:
            executor.keep()
        self._data.clear()
        self.counters.clear()

    def why_unfit(self, address: int) -> str:
        """Why no jump can be in the code around; empty: one can. Raises SpaceError and Gone."""
        for start, end, why in self._looked_at:
            if start <= address < end:
                return why
        for line in mappings(procfs.live_thread(self.space.tgid)):
            if line.start <= address < line.end:
                code = self.space.memory.peek(line.start, line.end - line.start)
                why = next((why for mark, why in _UNFIT if mark in code), "")
                self._looked_at.append((line.start, line.end, why))
                return why
        return ""

    def start_anew(self) -> None:
        """No site is left, and no thread in our code: all of it may be used again."""
        self.keep_values()
        for area in self.sites.pages.areas:
            area.start_anew()
        for shared in self._shared:
            shared.start_anew()
        self.sites.trampolines.clear()
        self._functions.clear()
        self._constants.clear()
        self._built.clear()
        self._clock_at = 0

    def pages(self) -> list[tuple[int, int]]:
        """Start and end of each mapping of ours in the target."""
        memory = [*self._shared, *self._maps.values()]
        if self.rings is not None:
            memory.append(self.rings.shared)
        shared = [(each.address, each.address + each.length) for each in memory]
        stubs = [(page, page + PAGE) for page in self.sites.pages.stubs.pages]
        return [(area.start, area.end) for area in self.sites.pages.areas] + stubs + shared

    def unmap(self, thread: Thread) -> None:
        """Have a borrowed thread unmap them: none is in them. Raises SpaceError and Gone."""
        for start, end in self.pages():
            self.space.calls.call(self._group, thread, SYS_MUNMAP, start, end - start)
            self.space.changes.forget(Kind.CODE, start)
        self.sites.pages.areas.clear()
        self.sites.pages.stubs.pages.clear()
        self._puns.clear()
        self.sites.trampolines.clear()
        self._functions.clear()
        self._shared.clear()
        self._maps.clear()
        self.rings = None

    # --- a fork child's copy ---

    def undo_in_copy(self, thread: Thread, *, unmap: bool) -> None:
        """Take the jumps out of a ``fork`` child in its first stop, and its copies of our pages.

        Raises SpaceError and Gone.
        """
        try:
            memory = self.space.open_copy(self._group, thread)
        except OSError:
            raise Gone(thread.tid) from None
        try:
            for site in self.sites.by_address.values():
                found = memory.peek(site.address, len(site.jump))
                if site.jump and found == site.jump and not site.gone:
                    memory.poke(site.address, site.original)
            if unmap:
                calls = self.space.calls.of_copy(memory, self.space.changes.of_child(0, 0))
                for start, end in self.pages():
                    calls.call(self._group, thread, SYS_MUNMAP, start, end - start)
        finally:
            memory.close()

    def take_over(self, parent: Placer, twin: Twin) -> list[tuple[Site, int]]:
        """Take over the parent's jumps in a ``fork`` child's copy of its memory, all of whose
        threads are stopped: what is shared is the child's own from now on.

        The sites, each with how many probes the parent has there. Raises SpaceError and Gone.
        """
        parent.sites.pages.copy_to(self.sites.pages)
        name = parent.sites.pages.areas[0].start
        # Not ``borrowed``, which would have it go on.
        thread = self._group.borrower.lender(self.space.tgid)
        for shared in parent._shared:
            made = SharedMemory.make(
                self.space, self._group, thread, name, len(shared.view), shared.address
            )
            self._shared.append(shared.twin(made.address, made.view))
        maps: dict[InlineExecutor, SharedMemory] = {}
        for executor, theirs in parent._maps.items():
            made = SharedMemory.make(
                self.space, self._group, thread, name, theirs.length, theirs.address
            )
            maps[executor] = made
        if parent.rings is not None:
            at = parent.rings.shared.address
            self.rings = RingMemory.make(self.space, self._group, thread, name, at)
        self.clock, self._clock_at = parent.clock, parent._clock_at
        twins: dict[Attachment, Attachment] = {}
        found = []
        for site in parent.sites.by_address.values():
            other = Site(site.address, site.original)
            other.jump, other.trampoline, other.gone = site.jump, site.trampoline, site.gone
            other.pun = site.pun
            self.space.owned[other.address] = other.owned
            note(self.space.changes, Kind.JUMP, other.address, other.change())
            self.sites.by_address[other.address] = other
            for old in site.attachments:
                new = twin(old)
                if new is not None:
                    self._take_over_probe(parent, old.probe, new[0], maps)
                    location = Location(old.address, new[1], old.place, old.module_key)
                    twins[old] = mine = JumpAttachment(new[0], location, other)
                    other.attachments.append(mine)
            found.append((other, len(site.attachments)))
        self._puns.update(parent._puns)
        self._shared[:0] = maps.values()  # of programs that do not follow
        self.places = parent.places.copy(twins)
        for start, (site, made_there) in parent.sites.trampolines.items():
            there = self.sites.by_address.get(site.address, site)
            self.sites.trampolines[start] = there, made_there
        return found

    def _take_over_probe(
        self, parent: Placer, old: Probe, new: Probe, maps: dict[InlineExecutor, SharedMemory]
    ) -> None:
        theirs, ours = old.native, new.native
        assert isinstance(theirs, InlineExecutor) and isinstance(ours, InlineExecutor)
        if new not in self.counters:
            address = parent.counters[old].address
            self.counters[new] = Counter(address, self._words(address, CONTROL_SIZE // 8))
            self.counters[new].begin(0, new.pass_count, new.last)
        if ours not in self._data:
            address = parent._data[theirs]
            self._data[ours] = address
            count = len(ours.locals)
            ours.locals.bind(self._words(address + Data.LOCALS, count))
            if theirs in maps:
                self._maps[ours] = maps.pop(theirs)
                ours.bind_maps(self._maps[ours].view)

    def _words(self, address: int, count: int) -> memoryview:
        """Words of shared memory, by where the target has them."""
        for shared in self._shared:
            if shared.address <= address < shared.address + len(shared.view):
                return shared.words(address - shared.address, count)
        raise AssertionError("no shared memory is there")

    # --- what trampolines lead to ---

    def _control(self, probe: Probe) -> Counter:
        found = self.counters.get(probe)
        if found is None:
            found = self.counters[probe] = Counter(*self._allocate(CONTROL_SIZE))
            found.begin(probe.hits, probe.pass_count, probe.last)
        return found

    def end(self, probe: Probe) -> None:
        """Its program does not run any more."""
        if probe in self.counters:
            self.counters[probe].end()

    def resume(self, site: Site) -> None:
        """The programs of a site run, also those that did not for a while."""
        for each in site.attachments:
            self.counters[each.probe].resume()

    def _data_of(self, executor: InlineExecutor) -> int:
        found = self._data.get(executor)
        if found is None:
            count = len(executor.locals)
            names = len(executor.symbols)
            address, words = self._allocate(Data.LOCALS + 8 * (count + names))
            executor.locals.bind(words[Data.LOCALS // 8 :][:count])
            for index, value in enumerate(executor.symbols, Data.LOCALS // 8 + count):
                words[index] = value
            if executor in self._maps:
                words[Data.MAPS // 8] = self._maps[executor].address
                executor.bind_maps(self._maps[executor].view)
            words[Data.GONE // 8] = self._allocate(_MOST_FACILITIES)[0]
            found = self._data[executor] = address
        return found

    def _function(self, blob: Blob, area: CodeArea) -> int:
        known = blob.code, area
        if known not in self._functions:
            at = area.take(len(blob.code))
            if at is None:
                raise SpaceError("no room for code is left")
            self.sites.pages.put(at, blob.code)
            self._functions[known] = at
        return self._functions[known]

    def _clock(self) -> Clock:
        if not self._clock_at:
            self._clock_at, words = self._allocate(LINE)
            assert self.clock is not None
            words[0], words[1] = self.clock.latest
            words[2] = round(self.clock.rate * (1 << 32))
        return Clock(self._clock_at)

    def _place(self, executor: InlineExecutor, index: int) -> int:
        """Where a program's ``struct place`` is."""
        known = executor, index
        if known not in self._constants:
            self._constants[known], words = self._allocate(LINE)
            words[Place.CODE_BASE // 8] = executor.bases[index]
        return self._constants[known]

    def _run(self, attachment: JumpAttachment, area: CodeArea) -> Run:
        probe = attachment.probe
        native = probe.native
        assert isinstance(native, InlineExecutor)
        blob = native.native(probe.definition)
        assert isinstance(blob, Blob)
        needs = Needs(blob.needs)
        exits = native.exits[probe.index]
        record = None
        if makes_records(native, probe):
            assert self.rings is not None
            record = Record(
                self.rings.layout,
                self.places.number(attachment),
                raw_room(blob),
                log_room(blob),
                native.program.header.major,
                probe.definition.minor,
                Needs.NUMBERS in needs,
                Needs.EXCEPTION in needs,
            )
        return Run(
            code=self._function(blob, area),
            data=self._data_of(native),
            place=self._place(native, probe.index),
            control=self._control(probe).address,
            reads=_mask(blob.reads),
            writes=_mask(blob.writes),
            clobbers=_mask(blob.clobbers),
            arguments=mentioned(blob.code) & ARGUMENTS,
            counted=bool(probe.pass_count or probe.last < 1 << 63),
            ends=REM in exits,
            scratch=blob.scratch_bytes > 0,
            record=record,
            pid=self.space.tgid if Needs.PID in needs else 0,
            tid=Needs.TID in needs,
            cpu=Needs.CPU in needs,
            clock=self._clock() if Needs.TIME in needs else None,
        )

    # --- trampolines ---

    def build(self, site: Site, attachments: list[JumpAttachment]) -> Trampoline:
        """A trampoline for the probes of a site; raises SpaceError.

        One that was made for the same before is taken again: a throttled probe comes and goes.
        """
        known = site.address, tuple(each.probe for each in attachments)
        built = self._built.get(known)
        if built is not None and built.original == site.original:
            for number, attachment in zip(built.numbers, attachments, strict=True):
                if number is not None:
                    self.places[number] = attachment
            return built.trampoline
        area = self.sites.pages.near(site.address)
        if area is None:
            raise SpaceError(f"no memory for code within 2 GiB of {site.address:#x}")
        runs = [self._run(each, area) for each in attachments]
        numbers = tuple(None if run.record is None else run.record.site for run in runs)
        frame = Frame(_HIT, max(each.room for each in attachments))
        made = self._make(site, area, runs, frame)
        self._built[known] = _Built(site.original, made, numbers)
        return made

    def _make(self, site: Site, area: CodeArea, runs: list[Run], frame: Frame) -> Trampoline:
        start = area.take(_LONGEST + _LONGEST_RUN * len(runs))
        if start is None:
            raise SpaceError("no room for code is left")
        flags = flags_are_live(self.text(site.address, _BEHIND), site.address)
        code = trampoline(start, site.address, runs, frame, flags=flags)
        slot = start + len(code)
        try:
            displaced = displace(site.original, site.address, slot)
        except RelocationError as error:
            area.give_back(start)
            raise SpaceError(
                f"the instruction at {site.address:#x} cannot be probed: {error}"
            ) from None
        code += displaced.code
        area.give_back(start + len(code))
        self.sites.pages.put(start, code)
        made = Trampoline(start, slot, start + len(code), displaced)
        self.sites.trampolines[start] = site, made
        return made

    def jump_to(self, site: Site, made: Trampoline) -> bytes:
        """The jump of a site, to a trampoline; raises SpaceError."""
        if site.pun is None:
            return jump(site.address, made.start)
        self.sites.pages.put(site.pun.target, far_jump(site.pun.target, made.start))
        return site.pun.text

    def pun(self, sites: Iterable[Site]) -> None:
        """Find where the jumps of these may lead, whose instructions are shorter than one, and have
        that mapped. Raises SpaceError and Gone."""
        short = []
        for site in sites:
            if len(site.original) < JUMP_SIZE and site.pun is None:
                site.pun = self._puns.get((site.address, self.text(site.address, _PUNNED)))
                if site.pun is None:
                    short.append(site)
        if not short:
            return
        stubs = self.sites.pages.stubs
        with self._group.borrower.borrowed(self.space.tgid) as thread:
            free = FreePages(mappings(thread.tid))
            before = set(stubs.pages)
            for site in short:
                code = self.text(site.address, _PUNNED)
                site.pun = stubs.find(code, site.address, len(site.original), free)
            new = sorted(stubs.pages.keys() - before)
            failed = self.sites.pages.map_stubs(self._group, thread, new)
        for site in short:
            if site.pun is not None and _pages_of(site.pun.target) & failed:
                site.pun = None
            elif site.pun is not None:
                self._puns[site.address, self.text(site.address, _PUNNED)] = site.pun

    def text(self, address: int, length: int) -> bytes:
        """The original code there, as far as our own changes go."""
        data = bytearray(self.space.memory.peek(address, length))
        self.sites.original(address, data)
        return bytes(data)
