"""Puts native programs into an address space: their code, their data, and trampolines to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from dprobed.arch.x86_64.assembly import ARGUMENTS
from dprobed.arch.x86_64.call_table import CallShape
from dprobed.arch.x86_64.function_exits import Exit, ExitsError, exits_of
from dprobed.arch.x86_64.jump import JUMP_SIZE, far_jump, jump
from dprobed.arch.x86_64.relocation import MAX_SLOT, RelocationError, displace
from dprobed.arch.x86_64.trampoline import (
    CONTROL_SIZE,
    LONGEST,
    LONGEST_RUN,
    Clock,
    HitLayout,
    ProgramRun,
    RecordShape,
    TrampolineFrame,
    flags_are_live,
    mentioned,
    trampoline,
)
from dprobed.engine.errors import SpaceError
from dprobed.engine.inline.breakpoints import BreakpointSite
from dprobed.engine.inline.code import CodeArea
from dprobed.engine.inline.counters import ProbeCounter
from dprobed.engine.inline.executor import InlineExecutor, NativePart
from dprobed.engine.inline.puns import FreePages, pages_of
from dprobed.engine.inline.records import log_room, raw_room
from dprobed.engine.inline.room import BuiltTrampoline, InlineRoom
from dprobed.engine.inline.shared import LINE
from dprobed.engine.inline.sites import JumpAttachment, JumpSite, JumpTrampoline, Role
from dprobed.engine.interface import Location
from dprobed.engine.probe import Probe
from dprobed.engine.remote_calls import mappings
from dprobed.program.exec.native.abi import HIT_BYTES, Blob, Data, Needs, Place
from dprobed.program.exec.native.abi import Hit as Words
from dprobed.program.exits import REM
from dprobed.program.isa import KEPT_WORDS
from dprobed.program.registers import USER_REGS

_HIT: Final = HitLayout(
    tid=Words.TID,
    pid=Words.PID,
    cpu=Words.CPU,
    time=Words.TIME,
    kept=Words.KEPT,
    kept_words=KEPT_WORDS,
    scratch=Words.SCRATCH,
    log=Words.LOG,
    log_size=Words.LOG_SIZE,
    raw=Words.RAW,
    raw_count=Words.RAW_COUNT,
    major=Words.MAJOR,
    minor=Words.MINOR,
    exception=Words.EXCEPTION,
    red_zone=Words.RED_ZONE,
    size=HIT_BYTES,
)
#: Why a place cannot have a jump that has another program's breakpoint.
BREAKPOINT: Final = (
    "a program of another engine has a breakpoint there; remove that first, or insert this one "
    "with --engine trap"
)
#: Bytes of code that is looked at behind the probed instruction.
_BEHIND: Final = 64
#: Bytes that a punned jump takes at most, prefixes and all.
_PUNNED: Final = 9
#: More than a program can name.
_MOST_FACILITIES: Final = 512


def makes_records(executor: InlineExecutor, probe: Probe) -> bool:
    """Whether a probe makes records, at its hits or where a call begins."""
    entered = executor.entered_part(probe.definition)
    fails = entered is not None and entered.fails
    return fails or executor.hit_part(probe.definition).makes_records


def code_bytes(probes: int) -> int:
    """Bytes that the trampoline of a site with so many probes takes at most."""
    return LONGEST + LONGEST_RUN * probes + MAX_SLOT


def _mask(bits: int) -> frozenset[int]:
    return frozenset(index for index in range(len(USER_REGS)) if bits >> index & 1)


def _needed(attachment: JumpAttachment, asked: Iterable[int]) -> frozenset[int]:
    """The registers in which these arguments of a static probe are, or by which they are found."""
    given = attachment.arguments
    return frozenset().union(*(given[number].registers for number in asked))


class Placer(InlineRoom):
    """Puts programs and trampolines into the memory of one address space."""

    # --- what trampolines lead to ---

    def _control(self, probe: Probe) -> ProbeCounter:
        found = self.counters.get(probe)
        if found is None:
            found = self.counters[probe] = ProbeCounter(*self.allocate(CONTROL_SIZE))
            found.begin(probe.hits, probe.pass_count, probe.last)
        return found

    def end(self, probe: Probe) -> None:
        """Its program does not run any more."""
        if probe in self.counters:
            self.counters[probe].end()

    def resume(self, site: JumpSite) -> None:
        """The programs of a site run, also those that did not for a while."""
        for each in site.attachments:
            self.counters[each.probe].resume()

    def _data_of(self, executor: InlineExecutor) -> int:
        found = self.data.get(executor)
        if found is None:
            count = len(executor.locals)
            names = len(executor.symbols)
            address, words = self.allocate(Data.LOCALS + 8 * (count + names))
            executor.locals.bind(words[Data.LOCALS // 8 :][:count])
            for index, value in enumerate(executor.symbols, Data.LOCALS // 8 + count):
                words[index] = value
            if executor in self.maps:
                words[Data.MAPS // 8] = self.maps[executor].address
                executor.bind_maps(self.maps[executor].view)
            words[Data.GONE // 8] = self.allocate(_MOST_FACILITIES)[0]
            found = self.data[executor] = address
        return found

    def _function(self, blob: Blob, area: CodeArea) -> int:
        known = blob.code, area
        if known not in self.functions:
            at = area.take(len(blob.code))
            if at is None:
                raise SpaceError("no room for code is left")
            self.sites.pages.put(at, blob.code)
            self.functions[known] = at
        return self.functions[known]

    def _clock(self) -> Clock:
        return Clock(self.clock_there().address)

    def _place(self, executor: InlineExecutor, part: NativePart, attachment: JumpAttachment) -> int:
        """Where the ``struct place`` of a program at a place is."""
        known = executor, part.base, attachment.arguments
        if known not in self.constants:
            arguments = [word for each in attachment.arguments for word in each.words]
            size = Place.ARGUMENTS + 8 * len(arguments)
            self.constants[known], words = self.allocate(max(size, LINE))
            words[Place.CODE_BASE // 8] = part.base
            for at, word in enumerate(arguments, Place.ARGUMENTS // 8):
                words[at] = word
        return self.constants[known]

    def _run(self, attachment: JumpAttachment, area: CodeArea) -> ProgramRun:
        probe, part = attachment.probe, attachment.part
        native = probe.native
        assert isinstance(native, InlineExecutor)
        call = None if attachment.role is Role.PLACE else self._call(attachment, native)
        control = self._control(probe).address
        if part is None:
            return ProgramRun(
                code=0,
                data=0,
                place=0,
                control=control,
                reads=frozenset(),
                writes=frozenset(),
                clobbers=frozenset(),
                arguments=frozenset(),
                counted=False,
                ends=False,
                scratch=False,
                record=None,
                call=call,
            )
        blob = part.blob
        needs = Needs(blob.needs)
        is_hit = attachment.role is not Role.ENTRY
        return ProgramRun(
            code=self._function(blob, area),
            data=self._data_of(native),
            place=self._place(native, part, attachment),
            control=control,
            reads=_mask(blob.reads) | _needed(attachment, part.arguments),
            writes=_mask(blob.writes),
            clobbers=_mask(blob.clobbers),
            arguments=mentioned(blob.code) & ARGUMENTS,
            counted=is_hit and bool(probe.pass_count or probe.last < 1 << 63),
            ends=is_hit and REM in part.exits,
            scratch=blob.scratch_bytes > 0,
            record=self._record(attachment, part, native),
            pid=self.space.tgid if Needs.PID in needs else 0,
            tid=Needs.TID in needs,
            cpu=Needs.CPU in needs,
            clock=self._clock() if Needs.TIME in needs else None,
            stores=Needs.STORES in needs,
            call=call,
        )

    def _record(
        self, attachment: JumpAttachment, part: NativePart, native: InlineExecutor
    ) -> RecordShape | None:
        is_entry = attachment.role is Role.ENTRY
        if not (part.fails if is_entry else part.makes_records):
            return None
        assert self.rings is not None
        needs = Needs(part.blob.needs)
        return RecordShape(
            self.rings.layout,
            # Calls begin before there is a first hit.
            self.places.number(attachment, part.exits, first=0 if is_entry else 1),
            raw_room(part.blob),
            log_room(part.blob),
            native.program.header.major,
            attachment.probe.definition.minor,
            Needs.NUMBERS in needs,
            Needs.EXCEPTION in needs,
        )

    def _call(self, attachment: JumpAttachment, native: InlineExecutor) -> CallShape:
        """How the calls of a place are followed."""
        assert self.calls is not None
        probe = attachment.probe
        return CallShape(
            self.calls.shared.address,
            self.calls.number((probe, attachment.address)),
            native.hit_part(probe.definition).kept,
            attachment.role is Role.EXIT,
        )

    def exits_of(self, location: Location) -> tuple[Exit, ...]:
        """How the function returns that begins there; raises ExitsError."""
        address = location.address
        if address not in self.exits:
            try:
                self.exits[address] = exits_of(self.text, address, location.size)
            except ExitsError as error:
                self.exits[address] = error
        found = self.exits[address]
        if isinstance(found, ExitsError):
            raise found
        return found

    # --- trampolines ---

    def build(self, site: JumpSite, attachments: list[JumpAttachment]) -> JumpTrampoline:
        """A trampoline for the probes of a site; raises SpaceError.

        One that was made for the same before is taken again: a throttled probe comes and goes.
        """
        known = site.address, tuple((each.probe, each.role) for each in attachments)
        built = self.built.get(known)
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
        room = max(each.room for each in attachments)
        frame = TrampolineFrame(_HIT, room, max(each.stack for each in attachments))
        made = self._make(site, area, runs, frame)
        self.built[known] = BuiltTrampoline(site.original, made, numbers)
        return made

    def _make(
        self, site: JumpSite, area: CodeArea, runs: list[ProgramRun], frame: TrampolineFrame
    ) -> JumpTrampoline:
        most = code_bytes(len(runs))
        start = area.take(most)
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
        if len(code) > most:
            area.give_back(start)
            raise SpaceError(f"its trampoline takes {len(code)} bytes, more than {most}")
        area.give_back(start + len(code))
        self.sites.pages.put(start, code)
        made = JumpTrampoline(start, slot, start + len(code), displaced)
        self.sites.trampolines.add(site, made)
        return made

    def jump_to(self, site: JumpSite, made: JumpTrampoline) -> bytes:
        """The jump of a site, to a trampoline; raises SpaceError."""
        if site.pun is None:
            return jump(site.address, made.start)
        self.sites.pages.put(site.pun.target, far_jump(site.pun.target, made.start))
        return site.pun.text

    def pun(self, sites: Iterable[JumpSite]) -> None:
        """Find where the jumps of these may lead, whose instructions are shorter than one, and have
        that mapped. Raises SpaceError and Gone."""
        short = []
        for site in sites:
            if site.needs_pun:
                site.pun = self.puns.get((site.address, self.text(site.address, _PUNNED)))
                if site.pun is None:
                    short.append(site)
        if not short:
            return
        stubs = self.sites.pages.stubs
        with self.group.borrower.borrowed(self.space.tgid) as thread:
            free = FreePages(mappings(thread.tid))
            before = set(stubs.pages)
            for site in short:
                code = self.text(site.address, _PUNNED)
                site.pun = stubs.find(code, site.address, len(site.original), free)
            new = sorted(stubs.pages.keys() - before)
            failed = self.sites.pages.map_stubs(self.group, thread, new)
        for site in short:
            if site.pun is not None and pages_of(site.pun.target) & failed:
                site.pun = None
            elif site.pun is not None:
                self.puns[site.address, self.text(site.address, _PUNNED)] = site.pun

    def lead(
        self,
        site: JumpSite,
        made: JumpTrampoline,
        is_displaced: Callable[[int, int], bool],
    ) -> str:
        """Have a site lead to a trampoline; why it cannot. ``is_displaced``: by another engine.
        Raises SpaceError."""
        if isinstance(site, BreakpointSite):
            if not (reason := site.lead(made)):
                self.sites.by_address[site.address] = site
            return reason
        length = site.owned - site.address
        owner = self.space.owner_of(site.address, length)
        if owner not in (None, site.address):
            return f"the jump at {owner:#x} needs the bytes there as they are"
        if is_displaced(site.address, length):
            return BREAKPOINT
        # Before anything is written over that a jump of ours leads to.
        if not self.sites.is_as_expected(site):
            return f"the code at {site.address:#x} changed meanwhile"
        if not self.sites.arm(site, self.jump_to(site, made), made):
            return f"the code at {site.address:#x} cannot be written"
        self.sites.by_address[site.address] = site
        return ""

    def why_no_pun(self, site: JumpSite) -> str:
        """Why no jump is possible at a site that ``pun`` has found none for."""
        size = len(site.original)
        short = (
            f"the instruction at {site.address:#x} ({site.original.hex(' ')}) has {size} bytes, "
            f"and a jump {JUMP_SIZE}: where it could lead to is given by the bytes behind, and "
        )
        if self.sites.pages.stubs.is_full:
            return f"{short}no more pages are mapped for such jumps"
        return f"{short}nothing can be mapped there"

    def text(self, address: int, length: int) -> bytes:
        """The original code there, as far as our own changes go."""
        data = bytearray(self.space.memory.peek(address, length))
        self.sites.original(address, data)
        self.breakpoints.original(address, data)
        return bytes(data)
