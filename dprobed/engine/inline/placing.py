"""Puts native programs into an address space: their code, their data, and trampolines to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from dprobed.arch.x86_64.jump import jump
from dprobed.arch.x86_64.relocation import RelocationError, displace
from dprobed.arch.x86_64.trampoline import (
    CONTROL_HITS,
    CONTROL_LAST,
    CONTROL_OVER,
    CONTROL_PASSED,
    CONTROL_SIZE,
    Frame,
    Run,
    flags_are_live,
    trampoline,
)
from dprobed.engine.address_space import AddressSpace
from dprobed.engine.errors import SpaceError
from dprobed.engine.inline.code import CodeArea
from dprobed.engine.inline.executor import InlineExecutor
from dprobed.engine.inline.shared import SharedMemory
from dprobed.engine.inline.sites import Site, Sites, Trampoline
from dprobed.engine.probe import Probe
from dprobed.program.exec.native.abi import HIT_BYTES, Blob, Data
from dprobed.program.registers import USER_REGS
from dprobed.tracee.thread_group import ThreadGroup

_FRAME: Final = Frame(HIT_BYTES)
#: Bytes of shared memory that are mapped at once.
_SHARED: Final = 1 << 18
#: Bytes of code that is looked at behind the probed instruction.
_BEHIND: Final = 64
#: No trampoline with one program is longer; each further one takes so much more at most.
_LONGEST: Final = 1024
_LONGEST_RUN: Final = 256
_LAST: Final = (1 << 64) - 1


class Counter:
    """The words that a probe shares with its trampolines."""

    def __init__(self, address: int, words: memoryview) -> None:
        self.address: Final = address
        self._words: Final = words

    @property
    def hits(self) -> int:
        """How often it was come by."""
        return self._words[CONTROL_HITS // 8]

    @property
    def is_over(self) -> bool:
        """Whether its program has said that it is never to run again."""
        return self._words[CONTROL_OVER // 8] != 0

    def begin(self, hits: int, passed: int, last: int) -> None:
        """Set them, before anybody comes by."""
        self._words[CONTROL_HITS // 8] = hits
        self._words[CONTROL_PASSED // 8] = passed
        self.limit(last)

    def limit(self, last: int) -> None:
        """The last hit that runs the program."""
        self._words[CONTROL_LAST // 8] = min(last, _LAST)


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
        #: Where a probe's function is, by the area that it is in.
        self._functions: Final[dict[tuple[InlineExecutor, int, CodeArea], int]] = {}

    # --- room ---

    def reserve(self, addresses: Iterable[int], code: int, data: int) -> None:
        """Have the target map what is missing for trampolines at these addresses, which need so
        many bytes of ``code`` each; and room for ``data``. Raises SpaceError and Gone."""
        pages = self.sites.pages
        need: dict[CodeArea, int] = {}
        missing: list[int] = []
        for address in addresses:
            area = pages.near(address)
            if area is None or need.get(area, 0) + code > area.room:
                missing.append(address)
            else:
                need[area] = need.get(area, 0) + code
        shared = self._shared and self._shared[-1].room >= data
        if not missing and shared:
            return
        with self._group.borrower.borrowed(self.space.tgid) as thread:
            while missing:
                area = pages.map(self._group, thread, missing[0], code * len(missing))
                missing = [each for each in missing if not area.reaches(each)]
            if not shared:
                name = pages.areas[0].start
                size = max(_SHARED, data)
                self._shared.append(SharedMemory.make(self.space, self._group, thread, name, size))

    def _allocate(self, size: int) -> tuple[int, memoryview]:
        offset = self._shared[-1].allocate(size)
        if offset is None:
            raise SpaceError("no shared memory is left")
        return self._shared[-1].address + offset, self._shared[-1].words(offset, size // 8)

    def keep_values(self) -> None:
        """Nothing is shared any more: what was counted is kept."""
        for executor in self._data:
            executor.locals.keep()
        self._data.clear()
        self.counters.clear()

    # --- what trampolines lead to ---

    def _control(self, probe: Probe) -> Counter:
        found = self.counters.get(probe)
        if found is None:
            found = self.counters[probe] = Counter(*self._allocate(CONTROL_SIZE))
            found.begin(probe.hits, probe.pass_count, probe.last)
        return found

    def _data_of(self, executor: InlineExecutor) -> int:
        found = self._data.get(executor)
        if found is None:
            count = len(executor.locals)
            names = len(executor.symbols)
            address, words = self._allocate(Data.LOCALS + 8 * (count + names))
            executor.locals.bind(words[Data.LOCALS // 8 :][:count])
            for index, value in enumerate(executor.symbols, Data.LOCALS // 8 + count):
                words[index] = value
            found = self._data[executor] = address
        return found

    def _function(self, executor: InlineExecutor, index: int, blob: Blob, area: CodeArea) -> int:
        known = executor, index, area
        if known not in self._functions:
            at = area.take(len(blob.code))
            if at is None:
                raise SpaceError("no room for code is left")
            self.sites.pages.put(at, blob.code)
            self._functions[known] = at
        return self._functions[known]

    def _run(self, probe: Probe, area: CodeArea) -> Run:
        native = probe.native
        assert isinstance(native, InlineExecutor)
        blob = native.native(probe.definition)
        assert isinstance(blob, Blob)
        return Run(
            code=self._function(native, probe.index, blob, area),
            data=self._data_of(native),
            place=0,
            control=self._control(probe).address,
            reads=_mask(blob.reads),
            writes=_mask(blob.writes),
            clobbers=_mask(blob.clobbers),
            numbered=bool(probe.pass_count or probe.last < 1 << 63),
            ends=True,
        )

    # --- trampolines ---

    def build(self, site: Site, probes: Sequence[Probe]) -> Trampoline:
        """Make a trampoline for a site at which there are these; raises SpaceError."""
        area = self.sites.pages.near(site.address)
        if area is None:
            raise SpaceError(f"no memory for code within 2 GiB of {site.address:#x}")
        runs = [self._run(probe, area) for probe in probes]
        start = area.take(_LONGEST + _LONGEST_RUN * len(runs))
        if start is None:
            raise SpaceError("no room for code is left")
        flags = flags_are_live(self.text(site.address, _BEHIND), site.address)
        code = trampoline(start, site.address, runs, _FRAME, flags=flags)
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
        """The jump of a site."""
        return jump(site.address, made.start)

    def text(self, address: int, length: int) -> bytes:
        """The original code there, as far as our own changes go."""
        data = bytearray(self.space.memory.peek(address, length))
        self.sites.original(address, data)
        return bytes(data)
