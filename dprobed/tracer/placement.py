"""From the modules and places that programs name to addresses in one target.

Changes nothing. What is in files is asked of the resolver.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterable
from functools import partial
from typing import Final

import msgspec

from dprobed.arch.x86_64.argument import Argument
from dprobed.arch.x86_64.debug_registers import is_length_valid
from dprobed.arch.x86_64.paging import PAGE, USER_END, WORD
from dprobed.engine.address_space import AddressSpace
from dprobed.engine.static_arguments import StaticArgument, placed, unreadable
from dprobed.proc import procfs
from dprobed.proc.maps import Module, modules
from dprobed.program.model import Header, ProbeDefinition, Program
from dprobed.program.parts import Needs, needs_of
from dprobed.resolver.addresses import address_of, biases, data_address_of
from dprobed.resolver.client import MappedFile, Resolver
from dprobed.resolver.errors import LocationError, LostError, SilenceError, number_of
from dprobed.resolver.modules import VDSO, matches
from dprobed.resolver.places import WATCHED, check_boundary, check_needs, code_spec, watched_length
from dprobed.tracer.thread_local import Loader, NotYetError
from dprobed.wire.protocol import State
from dprobed.wire.resolver import Place

#: Where the kernel's own code is that it maps into each process (getauxval(3)), and most of it.
_AT_SYSINFO_EHDR: Final = 33
_VDSO_ROOM: Final = 4 * PAGE
#: Behind the name of a place whose hits are the returns of its function.
RETURN_MARK: Final = ":return"
_NOT_FOUND: Final = "no mapped module is known to have that name"


class Spot(msgspec.Struct, frozen=True):
    """One address at which a probe is to be inserted.

    ``code``: what the file has there, of code. ``length``: of a watchpoint, else 0. ``size``: of
    the function that begins there. ``semaphore`` and ``arguments``: of a static probe, the address
    of the one, and the others. ``goroutine``: see ``wire.resolver.Place``.
    """

    address: int
    place: str
    module: str
    key: Hashable
    code: bytes = b""
    length: int = 0
    size: int = 0
    semaphore: int = 0
    arguments: tuple[StaticArgument, ...] = ()
    goroutine: bool = False


class Unplaced(msgspec.Struct, frozen=True):
    """Why a probe has no place in a module that it names, and whether to look again by and by."""

    state: State
    reason: str
    retry: bool = False


class LoadedModule:
    """A mapped module, with its file."""

    def __init__(self, module: Module, resolver: Resolver, key: Hashable) -> None:
        """``key``: identifies it for as long as anything of it is mapped."""
        self.module = module
        self.key: Final = key
        self._resolver = resolver
        self._file: MappedFile | LocationError | None = None

    def of_process(self, pid: int) -> LoadedModule:
        """The same mapping in a ``fork`` child."""
        other = LoadedModule(self.module._replace(pid=pid), self._resolver, self.key)
        known = self._file
        other._file = known.of_module(other.module) if isinstance(known, MappedFile) else known
        return other

    def follow(self, module: Module) -> bool:
        """What is mapped of it now; whether its code is mapped elsewhere, too, or less often.

        As ``dlmopen`` and ``dlclose`` of one file in several namespaces do. Code that was moved to
        other memory, or is closed for a while, is still its code.
        """
        now = _copies_of(module)
        if now == _copies_of(self.module):
            return False
        moved = [
            each
            for each in self.module.mappings
            if each.executable
            and each.start - each.offset in now
            and not any(new.start < each.end and each.start < new.end for new in module.mappings)
        ]
        self.module = module._replace(mappings=tuple(sorted([*module.mappings, *moved])))
        if isinstance(self._file, MappedFile):
            self._file = self._file.of_module(self.module)
        return True

    def file(self) -> MappedFile:
        """Its file; raises LocationError."""
        if self._file is None:
            try:
                self._file = self._resolver.describe(self.module)
            except LostError:
                raise  # the next resolver may have an answer
            except LocationError as error:
                self._file = error
        if isinstance(self._file, LocationError):
            raise self._file
        return self._file

    def named(self, name: str) -> bool:
        """Whether a program's ``name`` means this module; raises LostError: it may."""
        if matches(self.module, None, name):
            return True
        try:
            return self.file().named(name)
        except LostError:
            raise
        except LocationError:
            return False

    def learn_places(self, probes: Iterable[ProbeDefinition]) -> None:
        """Ask for the places of these probes in few questions; raises LocationError."""
        specs: list[str] = []
        for each in probes:
            with contextlib.suppress(LocationError):
                if each.watchpoint is None:
                    specs.append(_spec(self, each))
        self.file().learn_places(specs)

    def has(self, symbol: str, name: str) -> bool:
        """Whether it is the library ``name``, or a static program, and has this function."""
        try:
            file = self.file()
            is_it = file.facts.soname == name or file.facts.kind == "static"
            return is_it and bool(file.resolve(symbol))
        except LocationError:
            return False

    def holds_code(self, address: int) -> bool:
        """Whether an address is in code of this module."""
        return any(
            mapping.executable and mapping.start <= address < mapping.end
            for mapping in self.module.mappings
        )


def _spec(loaded: LoadedModule, probe: ProbeDefinition) -> str:
    """The file's name for a code probe's place; raises LocationError."""
    if probe.offset is not None:
        return probe.offset
    return code_spec(loaded.module, probe.address or "")


class Placement:
    """The modules of one address space."""

    def __init__(self, pid: int, space: AddressSpace, resolver: Resolver) -> None:
        self._pid = pid
        self._resolver = resolver
        self._space = space
        self.loaded: dict[Hashable, LoadedModule] = {}
        #: Resolver functions of IFUNCs that were seen to choose, and what; and those that are asked
        #: for, and have not been called yet.
        self.chosen: dict[int, int] = {}
        self.unchosen: dict[int, Place] = {}
        self._serial = 0

    def take_over(self, other: Placement) -> None:
        """The modules of the space that this one is a copy of."""
        self._serial = other._serial
        for loaded in other.loaded.values():
            twin = loaded.of_process(self._pid)
            self.loaded[twin.key] = twin

    def refresh(self, tid: int) -> tuple[list[LoadedModule], set[Hashable]]:
        """Read the list of mappings; returns modules of which code is mapped that was not, and the
        keys of those of which any is gone.

        ``tid``: a living thread, for when the leading one has ended, which shows nothing then.
        Raises MapsError when it is gone.
        """
        live_thread = tid if procfs.run_state(self._pid) in "ZX" else self._pid
        # Files are opened later: by then any thread but the leading one may have vanished.
        before = {
            (loaded.module.key, copy): loaded
            for loaded in self.loaded.values()
            for copy in _copies_of(loaded.module)
        }
        now: dict[Hashable, LoadedModule] = {}
        new: list[LoadedModule] = []
        gone: set[Hashable] = set()
        for each in modules(live_thread):
            module = each._replace(pid=self._pid)
            # The same one, if any of its code is where it was.
            there = (before.get((module.key, copy)) for copy in _copies_of(module))
            loaded = next((each for each in there if each and each.key not in now), None)
            if loaded is None:
                self._serial += 1
                loaded = LoadedModule(module, self._resolver, (module.key, self._serial))
                new.append(loaded)
            elif loaded.follow(module):
                new.append(loaded)
                gone.add(loaded.key)
            now[loaded.key] = loaded
        gone |= self.loaded.keys() - now.keys()
        self.loaded = now
        if gone:
            for resolver in [each for each in self.chosen if not self.holds_code(each)]:
                del self.chosen[resolver]
        return new, gone

    def holds_code(self, address: int) -> bool:
        """Whether an address is in code of a module."""
        return any(loaded.holds_code(address) for loaded in self.loaded.values())

    def learn(
        self, header: Header, probes: Iterable[ProbeDefinition], among: list[LoadedModule]
    ) -> None:
        """Ask in few questions what ``find`` needs to know of these probes, which costs each a
        round trip else; what cannot be told, ``find`` says."""
        for loaded in among:
            with contextlib.suppress(LocationError):
                if loaded.named(header.name):
                    loaded.learn_places(probes)

    def find(
        self, program: Program, probe: ProbeDefinition, among: list[LoadedModule]
    ) -> tuple[list[Spot], Unplaced | None]:
        """The addresses of a probe in these modules, and why it has none in one that it names."""
        spots: list[Spot] = []
        unplaced: Unplaced | None = None
        needs = needs_of(program, probe)
        for loaded in among:
            try:
                if not loaded.named(program.header.name):
                    continue
            except LostError as error:
                # One that may answer later is told rather than one that will not: the probe waits.
                if unplaced is None or not unplaced.retry:
                    reason = f"{_NOT_FOUND}; {_one_line(error)}"
                    retry = isinstance(error, SilenceError)
                    unplaced = Unplaced(State.PENDING, reason, retry=retry)
                continue
            try:
                found = self._in_module(loaded, probe, needs)
            except SilenceError as error:
                unplaced = Unplaced(State.PENDING, _one_line(error), retry=True)
                continue
            except LocationError as error:
                unplaced = Unplaced(State.INVALID_OFFSET, _one_line(error))
                continue
            if isinstance(found, Unplaced):
                unplaced = found
            else:
                spots += found
        return spots, unplaced

    def find_symbols(
        self, program: Program, values: list[int], among: list[LoadedModule]
    ) -> Unplaced | None:
        """Set the values of the symbols that a program pushes; why it cannot go into its module.

        ``values``: by the symbol's index in the program's names.
        """
        for loaded in among if program.symbols else ():
            try:
                if loaded.named(program.header.name):
                    for index, local in program.symbols:
                        values[index] = self._value(loaded, program.names[index], local)
            except (SilenceError, NotYetError) as error:
                return Unplaced(State.PENDING, _one_line(error), retry=True)
            except LocationError as error:
                return Unplaced(State.INVALID_OFFSET, _one_line(error))
        return None

    def _value(self, loaded: LoadedModule, symbol: str, local: bool) -> int:
        """The address of a symbol, or a thread-local one's offset; raises LocationError."""
        file = loaded.file()
        known = biases(loaded.module, file.facts)
        if len(known) != 1:
            raise LocationError(f"{symbol}: the module is mapped {len(known)} times")
        if local:
            loader = Loader(self._pointer, partial(_address, self.loaded.values()))
            return loader.thread_offset(symbol, file.thread_local(symbol), known[0])
        return file.resolve_data(symbol).vaddr + known[0] & WORD

    @staticmethod
    def functions(loaded: LoadedModule, symbol: str) -> list[Spot]:
        """Where a function of a module is, each time that is mapped; raises LocationError."""
        file = loaded.file()
        (place, *_) = file.resolve(symbol)
        addresses = address_of(loaded.module, file.facts, place.file_offset)
        if not addresses:
            raise LocationError(f"{symbol} is not mapped")
        return [
            Spot(address, place.name, loaded.module.path, loaded.key, place.code)
            for address in addresses
        ]

    def _in_module(
        self, loaded: LoadedModule, probe: ProbeDefinition, needs: Needs
    ) -> list[Spot] | Unplaced:
        if probe.watchpoint is not None:
            return self._watch(loaded, probe, probe.watchpoint)
        file = loaded.file()
        places = file.resolve(_spec(loaded, probe))
        spots: list[Spot] = []
        for place in places:
            if place.kind == "ifunc":
                found = self._chosen(loaded, file, place)
                if not found:
                    return Unplaced(
                        State.PENDING,
                        f"{place.name}: the loader has not chosen a variant yet",
                        retry=True,
                    )
            else:
                addresses = address_of(loaded.module, file.facts, place.file_offset)
                found = [(place, address) for address in addresses]
            for there, address in found:
                check_boundary(there, asserted=probe.opcode is not None)
                check_needs(there, needs)
                spots.append(
                    Spot(
                        address,
                        place.name + RETURN_MARK * probe.returns,
                        loaded.module.path,
                        loaded.key,
                        there.code,
                        size=there.size,
                        semaphore=_in_memory(there, there.semaphore, address),
                        arguments=_arguments(there, address),
                        goroutine=there.goroutine,
                    )
                )
        if not spots:
            raise LocationError(f"{probe.offset or probe.address}: the module does not map it")
        return spots

    def _watch(
        self, loaded: LoadedModule, probe: ProbeDefinition, kind: str
    ) -> list[Spot] | Unplaced:
        text = probe.address or ""
        if text[:1].isdigit():
            number, _, size = text.partition(":")
            addresses = [number_of(number)]
            code = b""
            name = f"{addresses[0]:#x}"
            length = number_of(size) if size else 1
            if addresses[0] >= USER_END:
                return Unplaced(State.INVALID_OFFSET, f"{name} is not an address of a process")
        else:
            file = loaded.file()
            place = file.resolve_data(text)
            name, code = place.name, place.code
            addresses = data_address_of(loaded.module, file.facts, place.vaddr)
            length = watched_length(place, text, kind)
        for address in addresses:
            if not is_length_valid(kind, address, length):
                return Unplaced(
                    State.WATCHPOINT_LENGTH,
                    f"{length} bytes at {address:#x}: {WATCHED}; write it as symbol:length",
                )
        return [
            Spot(each, name, loaded.module.path, loaded.key, code, length) for each in addresses
        ]

    def _chosen(
        self, loaded: LoadedModule, file: MappedFile, place: Place
    ) -> list[tuple[Place, int]]:
        """The asked offset into the function that an IFUNC's resolver chose, and its address, for
        each time that the module is mapped and it has; raises LocationError."""
        found = []
        for bias in biases(loaded.module, file.facts):
            address = self._chosen_with(loaded, file, place, bias)
            if address is None:
                self.unchosen[place.vaddr + bias] = place
                continue
            self._check_not_vdso(place, address)
            there = file.place_at(address - bias + place.symbol_offset & WORD)
            found.append((there, there.vaddr + bias))
        return found

    def _chosen_with(
        self, loaded: LoadedModule, file: MappedFile, place: Place, bias: int
    ) -> int | None:
        """What an IFUNC's resolver chose, as we saw it, or the loader stored it in this process."""
        seen = self.chosen.get(place.vaddr + bias)
        if seen is not None:
            return seen
        for slot in file.ifunc_slots(place.vaddr):
            found = self._pointer(slot + bias)
            if self._is_vdso(found) or (
                loaded.holds_code(found)
                and found != place.vaddr + bias
                and self._is_function(file, found - bias)
            ):
                return found
        for other in list(self.loaded.values()):
            try:
                there = other.file()
                slots = there.import_slots(place.symbol, place.version)
            except LocationError:
                continue
            for slot in slots:
                for address in data_address_of(other.module, there.facts, slot):
                    found = self._pointer(address)
                    # A slot that was not used yet points back into its own module.
                    if self._is_vdso(found) or (
                        loaded is not other and _is_code_of(file, found - bias)
                    ):
                        return found
        return None

    def _is_vdso(self, address: int) -> bool:
        start = procfs.auxv(self._pid).get(_AT_SYSINFO_EHDR, 0)
        return bool(start) and start <= address < start + _VDSO_ROOM

    def _check_not_vdso(self, place: Place, address: int) -> None:
        """Raises LocationError where an IFUNC is a function of the kernel's, as libc's ``time``."""
        if self._is_vdso(address):
            raise LocationError(f"{place.name} is a function of the vDSO here: {VDSO}")

    @staticmethod
    def _is_function(file: MappedFile, vaddr: int) -> bool:
        """Whether a slot's content is what was chosen.

        In a file that is mapped where it was linked for, a slot leads back into the file before
        that, to the stub that jumps by it.
        """
        if file.facts.relocated:
            return True
        try:
            there = file.place_at(vaddr)
        except LocationError:
            return False
        return bool(there.symbol) and not there.symbol_offset

    def _pointer(self, address: int) -> int:
        return int.from_bytes(self._space.memory.peek(address, 8), "little")


def _in_memory(place: Place, vaddr: int, address: int) -> int:
    """Where in memory an address of the file is, by that of a place of it; 0: none."""
    return vaddr + address - place.vaddr & WORD if vaddr else 0


def _arguments(place: Place, address: int) -> tuple[StaticArgument, ...]:
    """The arguments of a static probe; those that nothing can read were refused."""
    bias = address - place.vaddr
    return tuple(
        placed(each, bias) if isinstance(each, Argument) else unreadable()
        for each in place.arguments
    )


def _copies_of(module: Module) -> set[int]:
    """Where a module's code is mapped: for each time, where its file would begin."""
    return {each.start - each.offset for each in module.mappings if each.executable}


def _address(among: Iterable[LoadedModule], library: str, symbol: str) -> int:
    """Where a library has a symbol; 0: it is not there, or has none of this name."""
    for loaded in among:
        try:
            if loaded.named(library):
                (bias,) = biases(loaded.module, loaded.file().facts)
                return loaded.file().resolve_data(symbol).vaddr + bias & WORD
        except (LocationError, ValueError):
            continue
    return 0


def _is_code_of(file: MappedFile, vaddr: int) -> bool:
    """Whether an address of a file is in its code, with one load bias."""
    return any(
        segment.executable and segment.vaddr <= vaddr < segment.vaddr + segment.file_size
        for segment in file.facts.segments
    )


def _one_line(error: LocationError) -> str:
    parts = [error.message]
    if error.candidates:
        parts.append("candidates: " + ", ".join(error.candidates))
    if error.hint:
        parts.append(error.hint)
    return "; ".join(parts)
