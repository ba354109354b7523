"""The kernel as a ``Backend``: one target, whose pid is ``KERNEL``.

It has no process: the daemon itself has the device open, and the descriptors of the programs. When
the daemon is killed, the kernel closes them, and with them everything that was placed. Requests
are done one after the other, each in a thread, because the kernel may sleep for milliseconds in
placing and taking out; records are read in the loop, as they come. Reading rests after each turn: a
probe in what reading itself calls would keep the daemon busy for ever.

The module counts lost records for a program, not for its probes: they are shown with its first one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from typing import Final

import msgspec

from dprobed.backend import PATIENCE, BackendGone, BackendRefused, Late, OnEvent
from dprobed.kernel import abi
from dprobed.kernel.device import (
    Calls,
    Device,
    DeviceError,
    Hit,
    InFile,
    KernelProgram,
    NotLoadedError,
)
from dprobed.kernel.places import PlacingError, engine_of, module_name, place_of, placing_error
from dprobed.kernel.stacks import told_entry, told_log
from dprobed.kernel.undone import check
from dprobed.proc import files
from dprobed.program.bytecode import decode
from dprobed.program.exits import EXCEPTION, REM
from dprobed.program.maps import MapContents
from dprobed.program.model import ProbeDefinition, Program
from dprobed.wire import protocol
from dprobed.wire.messages import KERNEL

#: What records and listings say of it.
NAME: Final = "kernel"

#: Seconds for which the records of a program wait after some were read.
_REST: Final = 0.02

_STATES: Final = {
    abi.State.COMPILED: protocol.State.FAILED,
    abi.State.ACTIVE: protocol.State.ACTIVE,
    abi.State.DISABLED: protocol.State.DISABLED,
    abi.State.REMOVED: protocol.State.REMOVED,
    abi.State.PENDING: protocol.State.PENDING,
    abi.State.FAILED: protocol.State.FAILED,
}

_RESETS: Final = {
    "": abi.Reset.KEEP,
    "clear": abi.Reset.CLEAR,
    "zero": abi.Reset.ZERO,
}

_log = logging.getLogger("dprobed")


class _Inserted:
    """A program in the kernel. ``places``: the numbers of its probes' places; ``path``: of the file
    that they are in; empty: they are in the kernel."""

    def __init__(
        self, number: int, loaded: KernelProgram, places: Sequence[int], path: str
    ) -> None:
        self.number: Final = number
        self._path: Final = path
        self.loaded: Final = loaded
        self.program: Final = loaded.program
        self.places: Final = places
        #: When its records are read again, while that rests.
        self.rest: asyncio.TimerHandle | None = None
        #: Probes that could not be placed, by their number in the program.
        self.failed: Final[dict[int, PlacingError]] = {}

    def place(self, file: InFile | None) -> None:
        """Place each of its probes that can be."""
        for at in range(len(self.program.probes)):
            try:
                self.loaded.attach(at, file)
            except PlacingError as error:
                self.failed[at] = error

    def statuses(
        self, which: Iterable[int] | None = None, *, out: bool = False
    ) -> list[protocol.ProbeStatus]:
        """Its probes as they are, all or ``which``; ``out``: they are about to be taken out."""
        lost = self.loaded.lost()
        if which is None:
            which = range(len(self.program.probes))
        return [self._status(at, 0 if at else lost, out) for at in which]

    def _status(self, at: int, lost: int, out: bool) -> protocol.ProbeStatus:
        probe = self.program.probes[at]
        found = self.loaded.query(at)
        state, reason = self._state(at, found)
        if out and at not in self.failed and found.state != abi.State.FAILED:
            state, reason = protocol.State.REMOVED, ""
        missed = found.recursed + found.missed
        return protocol.ProbeStatus(
            program=self.number,
            probe=probe.index,
            state=state,
            module=self._path or self.program.header.name,
            place=place_of(probe),
            reason=reason or _missed(probe, found),
            hits=found.hits + missed,
            ran=found.runs,
            missed=missed,
            dropped=lost,
            faulted=0,
            addresses=[found.address] if found.address else [],
            engine=engine_of(probe, in_file=bool(self._path)) if found.address else "",
        )

    def _state(self, at: int, found: abi.Query) -> tuple[protocol.State, str]:
        """The state of a probe, and why it is that."""
        state = abi.State(found.state)
        failure = self.failed.get(at)
        if state is abi.State.FAILED:
            failure = placing_error(found.error, self.program.probes[at], self.program.header)
        if failure is not None:
            return failure.state, str(failure)
        if state is abi.State.PENDING:
            module = module_name(self.program.header)
            return protocol.State.PENDING, f"the module {module} is not loaded" if module else ""
        return _STATES[state], ""

    def variables(self) -> list[protocol.LocalVariables]:
        """Its local variables, if it has some."""
        count = self.program.header.vars
        if not count:
            return []
        words = self.loaded.variables(0, count, shared=False)
        return [protocol.LocalVariables(program=self.number, words=words)]

    def last(self) -> protocol.Ok:
        """Its last states and counts, and what is in its maps, when its probes are out."""
        places = self.statuses()
        self.loaded.detach()
        probes = [
            msgspec.structs.replace(last, addresses=place.addresses, engine=place.engine)
            for last, place in zip(self.statuses(out=True), places, strict=True)
        ]
        return protocol.Ok(
            seq=0,
            probes=probes,
            variables=self.variables(),
            last_maps=self.maps(),
        )

    def maps(self, reset: abi.Reset = abi.Reset.KEEP, name: str = "") -> list[protocol.MapState]:
        """Its maps, or the one of this name, which are then reset so."""
        return [
            self._map_state(number, self.loaded.contents(number, reset))
            for number, one in enumerate(self.program.header.map)
            if name in ("", one.name)
        ]

    def _map_state(self, number: int, contents: MapContents) -> protocol.MapState:
        entries = [told_entry(each) for each in contents.entries]
        return protocol.MapState(self.number, number, contents.lost, entries)

    def map_use(self) -> list[protocol.MapUse]:
        """How full its maps are."""
        return [
            protocol.MapUse(self.number, number, *self.loaded.use(number))
            for number in range(len(self.program.header.map))
        ]

    def raw(self, hit: Hit) -> protocol.RawRecord:
        """A record as the daemon gets it of any backend."""
        head = hit.head
        one, two, three = head.exception
        return protocol.RawRecord(
            program=self.number,
            probe=self.program.probes[head.probe].index,
            place=self.places[head.probe],
            pid=head.pid,
            tid=head.tid,
            comm=bytes(head.comm).rstrip(b"\0"),
            uid=head.uid,
            cpu=head.cpu,
            time=head.time,
            hit=head.hit,
            exit=head.exit,
            major=head.major,
            minor=head.minor,
            log=told_log(hit.log, hit.raw),
            raw=hit.raw,
            exception=(one, two, three) if head.exit == EXCEPTION else None,
        )

    def ended_by(self, hit: Hit) -> bool:
        """Whether the probe has ended with this hit."""
        probe = self.program.probes[hit.head.probe]
        last = probe.max_hits and hit.head.hit >= probe.pass_count + probe.max_hits
        return bool(last) or hit.head.exit == REM


class KernelBackend:
    """The kernel, for one daemon: a ``Backend``."""

    name: Final = NAME
    #: It always answers, or nothing on this machine does.
    is_silent: Final = False
    waits: Final = 0.0

    def __init__(self, device: Device, on_event: OnEvent) -> None:
        self._device: Final = device
        self._on_event: Final = on_event
        self._loop: Final = asyncio.get_running_loop()
        self.gone: Final[asyncio.Future[str]] = self._loop.create_future()
        self._programs: Final[dict[int, _Inserted]] = {}
        self._turn: Final = asyncio.Lock()
        self._failure = ""
        self._closing: asyncio.Task[None] | None = None
        self._last_seq = 0
        #: What the places in records mean → their numbers; the same place has the same.
        self._places: Final[dict[protocol.Place, int]] = {}

    async def heard(self) -> None:
        """See Backend."""

    async def request(
        self,
        make: Callable[[int], protocol.Request],
        patience: float | None = PATIENCE,
        late: Late | None = None,
    ) -> protocol.Ok:
        """See Backend."""
        self._last_seq += 1
        message = make(self._last_seq)
        async with self._turn:
            if self._closing is not None:
                raise BackendGone("the kernel's probes are being removed")
            match message:
                case protocol.Insert():
                    return await self._insert(message)
                case protocol.Remove():
                    return await self._remove(message)
                case protocol.Query():
                    return await asyncio.to_thread(self._query, message)
                case protocol.Vars():
                    return await asyncio.to_thread(self._vars, message)
                case protocol.Maps():
                    return await asyncio.to_thread(self._maps, message)
                case protocol.Detach():
                    return await self._detach(message)
                case protocol.SetMap():
                    raise BackendRefused(
                        f"map {message.name}: a map in the kernel is changed by programs only"
                    )
                case protocol.Facilities():
                    return protocol.Ok(seq=message.seq)
                case _:
                    raise BackendRefused("that is for processes: the kernel is none")

    def close(self) -> None:
        """See Backend."""
        if self._closing is None:
            self._closing = self._loop.create_task(self._close())

    async def _close(self) -> None:
        async with self._turn:
            if self._failure:
                for number in list(self._programs):
                    await asyncio.to_thread(self._stop(number).loaded.close)
            elif self._programs:
                await self._detach(protocol.Detach(seq=0, pid=KERNEL))
            self._device.close()
        self.gone.set_result(self._failure)

    async def recover(self) -> None:
        """See Backend: it leaves nothing."""

    # -- requests ------------------------------------------------------------------------------

    async def _insert(self, message: protocol.Insert) -> protocol.Ok:
        program = decode(message.bytecode)
        check(program, message)
        numbers = [
            facility if isinstance(facility, int) else message.facilities.get(facility, 0)
            for facility in program.facilities
        ]
        if 0 in numbers:
            name = program.facilities[numbers.index(0)]
            raise BackendRefused(f"{message.label}: facility {name} is gone")
        with _opened(message) as file:
            inserted = await asyncio.to_thread(self._load, message, program, numbers)
            self._programs[message.program] = inserted
            self._on_event(self, protocol.Places({n: place for place, n in self._places.items()}))
            await asyncio.to_thread(inserted.place, file)
        self._listen(inserted)
        statuses = await asyncio.to_thread(inserted.statuses)
        return protocol.Ok(seq=message.seq, probes=statuses)

    def _load(self, message: protocol.Insert, program: Program, facilities: list[int]) -> _Inserted:
        try:
            loaded = self._device.load(program, facilities)
        except DeviceError as error:
            raise BackendRefused(f"{message.label}: {error}") from None
        path = "" if message.file is None else message.file.path
        module = path or program.header.name
        places = [
            self._places.setdefault(
                protocol.Place(KERNEL, module, place_of(probe)), len(self._places) + 1
            )
            for probe in program.probes
        ]
        return _Inserted(message.program, loaded, places, path)

    async def _remove(self, message: protocol.Remove) -> protocol.Ok:
        chosen = list(self._programs) if message.program is None else [message.program]
        statuses: list[protocol.ProbeStatus] = []
        variables: list[protocol.LocalVariables] = []
        maps: list[protocol.MapState] = []
        for number in chosen:
            inserted = self._programs.get(number)
            if inserted is not None:
                last = await self._take_out(number)
                statuses += last.probes
                variables += last.variables
                maps += last.last_maps
        return protocol.Ok(seq=message.seq, probes=statuses, variables=variables, last_maps=maps)

    async def _take_out(self, number: int) -> protocol.Ok:
        """Take a program out; its last states and counts. What it has recorded is read first."""
        inserted = self._stop(number)
        last = await asyncio.to_thread(inserted.last)
        with contextlib.suppress(OSError):
            for hits in inserted.loaded.read_rest():
                self._hand_on(inserted, hits)
                await asyncio.sleep(0)
        await asyncio.to_thread(inserted.loaded.close)
        return last

    def _stop(self, number: int) -> _Inserted:
        """Read no further records of a program, which is about to be closed."""
        inserted = self._programs.pop(number)
        self._loop.remove_reader(inserted.loaded.fd)
        if inserted.rest is not None:
            inserted.rest.cancel()
        return inserted

    async def _detach(self, message: protocol.Detach) -> protocol.Ok:
        last = await self._remove(protocol.Remove(seq=message.seq, pid=KERNEL))
        ended = protocol.Ended(
            *(KERNEL, "detached", 0, last.probes),
            overhead_ns=0,
            variables=last.variables,
            maps=last.last_maps,
        )
        self._on_event(self, ended)
        return msgspec.structs.replace(last, last_maps=[])

    def _query(self, message: protocol.Query) -> protocol.Ok:
        programs = list(self._programs.values())
        return protocol.Ok(
            seq=message.seq,
            probes=[status for each in programs for status in each.statuses()],
            variables=[words for each in programs for words in each.variables()],
            map_use=[use for each in programs for use in each.map_use()],
        )

    def _maps(self, message: protocol.Maps) -> protocol.Ok:
        inserted = self._programs.get(message.program)
        if inserted is None:
            raise BackendRefused(f"program {message.program} is not in the kernel")
        maps = inserted.maps(_RESETS[message.reset], message.name)
        return protocol.Ok(seq=message.seq, maps=maps)

    def _vars(self, message: protocol.Vars) -> protocol.Ok:
        """Between reading and setting to 0 hits may count: what they add is lost."""
        shared = message.program is None
        of = self._programs.get(message.program or 0)
        if message.program is None:
            of = max(self._programs.values(), key=_globals, default=None)
        if of is None:
            raise BackendRefused("no such program is in the kernel")
        there = _globals(of) if shared else of.program.header.vars
        count = there - message.first if message.count is None else message.count
        if message.first > there or not 0 <= count <= there - message.first:
            raise BackendRefused(f"there are {there} variables")
        words = of.loaded.variables(message.first, count, shared=shared) if count else []
        if message.reset and count:
            of.loaded.clear(message.first, count, shared=shared)
        return protocol.Ok(seq=message.seq, words=words)

    # -- records -------------------------------------------------------------------------------

    def _listen(self, inserted: _Inserted) -> None:
        self._loop.add_reader(inserted.loaded.fd, self._readable, inserted)

    def _readable(self, inserted: _Inserted) -> None:
        self._loop.remove_reader(inserted.loaded.fd)
        try:
            self._hand_on(inserted, inserted.loaded.read())
        except OSError as error:
            # Its probes would go on, and nobody would see what they record.
            _log.error("records of a kernel program cannot be read: %s", error.strerror)
            self._failure = f"records of a kernel program cannot be read: {error.strerror}"
            self.close()
        except Exception:
            # Further records would be handled without the effect of this one.
            _log.exception("internal error in the daemon")
            self._failure = "internal error in the daemon (see its log)"
            self.close()
        else:
            inserted.rest = self._loop.call_later(_REST, self._listen, inserted)

    def _hand_on(self, inserted: _Inserted, hits: Sequence[Hit]) -> None:
        if hits:
            self._on_event(self, protocol.Records([inserted.raw(hit) for hit in hits]))
        ended = {hit.head.probe for hit in hits if inserted.ended_by(hit)}
        if ended:
            changed = inserted.statuses(sorted(ended))
            self._on_event(self, protocol.Changed(KERNEL, changed))


@contextlib.contextmanager
def _opened(message: protocol.Insert) -> Iterator[InFile | None]:
    """The file that a program is to be placed in, where it is still that; raises BackendRefused."""
    if message.file is None:
        yield None
        return
    wanted = message.file
    try:
        descriptor = files.open_file(wanted.path)
    except (OSError, ValueError) as error:
        raise BackendRefused(f"{message.label}: {wanted.path}: {error}") from None
    try:
        if tuple(files.facts(descriptor)) != tuple(wanted.identity):
            raise BackendRefused(
                f"{message.label}: {wanted.path} was replaced or changed meanwhile: try again"
            )
        yield InFile(descriptor, wanted.offsets)
    finally:
        os.close(descriptor)


def _missed(probe: ProbeDefinition, found: abi.Query) -> str:
    """Why hits were missed, if some were."""
    why = []
    if found.recursed:
        why.append(f"{found.recursed} while a program ran on the same processor")
    if found.missed:
        what = "passed over by the kernel, in the handler of another probe"
        if probe.watchpoint is not None:
            what = "passed over by the kernel, because too many came at once"
            what += " (/proc/sys/kernel/perf_event_max_sample_rate)"
        elif probe.returns:
            what = "whose call was made in the handler of another probe, or beside too many "
            what += "others, or which the entry part failed on"
        why.append(f"{found.missed} {what}")
    return "missed: " + ", ".join(why) if why else ""


def _globals(inserted: _Inserted) -> int:
    return inserted.program.header.gvars


class KernelBackends:
    """Opens the device: ``Backends``. ``load``: where the module is not loaded, it is."""

    def __init__(self, calls: Calls | None = None, *, load: bool = False) -> None:
        self._calls: Final = Calls() if calls is None else calls
        self._load: Final = load
        self._open: Final[set[KernelBackend]] = set()

    @property
    def pids(self) -> Container[int]:
        """See Backends: it has no processes."""
        return ()

    async def start(self, on_event: OnEvent, *, uid: int, gid: int, owner: int) -> KernelBackend:
        """See Backends; raises DeviceError where the kernel cannot be used."""
        backend = KernelBackend(await self._opened(), on_event)
        self._open.add(backend)
        backend.gone.add_done_callback(lambda _: self._open.discard(backend))
        return backend

    def recoveries(self, owner: int) -> Collection[asyncio.Future[None]]:
        """See Backends: what was killed has left nothing."""
        return ()

    async def _opened(self) -> Device:
        try:
            return Device(self._calls)
        except NotLoadedError:
            if not self._load:
                raise
        problem = await asyncio.to_thread(self._calls.load)
        if problem:
            raise DeviceError(
                f"the module dprobes cannot be loaded: {problem} (`dprobe doctor` says how it is "
                "installed)"
            )
        _log.info("the module dprobes was loaded")
        return Device(self._calls)

    async def recover_orphans(self, patience: float) -> None:
        """See Backends: a daemon that died has left nothing."""

    async def stop(self, patience: float) -> int:
        """See Backends."""
        for backend in self._open:
            backend.close()
        if self._open:
            await asyncio.wait([backend.gone for backend in self._open], timeout=patience)
        return sum(not backend.gone.done() for backend in self._open)
