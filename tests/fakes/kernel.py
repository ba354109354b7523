"""A kernel with ``/dev/dprobes``, as far as the daemon sees one: programs run in user space, by the
kernel's own verifier and interpreter. A test says when a function is hit."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass, field

from dprobed.kernel import abi
from dprobed.kernel.device import Calls
from dprobed.kernel.isa_checksum import ISA
from dprobed.program.exits import ABORT, REM
from dprobed.program.map_cells import packed_key
from dprobed.program.maps import KINDS, VALUE, Entry, MapDefinition, MapRoom
from dprobed.record.maps import MapSums
from tests.kernel.c_interpreter import CInterpreter, Refused, raw_request
from tests.programs.cases import Case, FakeContext

#: What its kernel has.
FUNCTIONS = {"do_sys_openat2": 0xFFFFFFFF81000000, "schedule": 0xFFFFFFFF81001000}
EXCLUDED = {"exc_page_fault": errno.EADDRNOTAVAIL, "dprobes_own": errno.EACCES}
TRACEPOINTS = {"task_rename": 0xFFFFFFFF82100000}
#: Hooks; 0: one that takes no further exit.
HOOKS = {"ledger_posted": 0xFFFFFFFFC0002000, "taken": 0}
#: Functions of a module, where that is loaded.
MODULE = {"dpmod:dpmod_init": 0xFFFFFFFFC0000000}
NAMES = {number: name for name, number in abi.REQUESTS.items()}


@dataclass
class FakeProgram:
    """A program that is loaded; ``pipe``: where its records go in."""

    load: abi.Load
    arrays: tuple[bytes, ...]
    pipe: int
    locals: list[int]
    #: Each run begins with empty maps; what it has in them is added up here.
    maps: list[MapSums]
    lost: int = 0
    placed: dict[int, str] = field(default_factory=dict)
    states: dict[int, abi.State] = field(default_factory=dict)
    errors: dict[int, int] = field(default_factory=dict)
    hits: dict[int, int] = field(default_factory=dict)
    recursed: int = 0
    missed: int = 0

    def probe(self, number: int) -> abi.Probe:
        """Its definition."""
        return abi.Probe.from_buffer_copy(self.arrays[1], number * ctypes.sizeof(abi.Probe))


class FakeKernel:
    """``calls``: for the daemon; ``loaded``: whether the module is."""

    def __init__(self, interpreter: CInterpreter) -> None:
        self.calls = Calls(self._open, self._ioctl, self._request, self._load_module)
        self.loaded = True
        self.version = (abi.ABI, ISA)
        self.modules: dict[str, int] = {}
        #: Numbers of files in which the kernel places nothing.
        self.no_uprobes: set[int] = set()
        #: How loading the module ends; None: it is not asked for.
        self.loading: str | None = None
        self.globals = [0] * 8
        self._interpreter = interpreter
        self._programs: dict[int, FakeProgram] = {}

    def programs(self) -> list[FakeProgram]:
        """Those whose descriptor is open."""
        return [each for fd, each in self._programs.items() if _is_open(fd, each.pipe)]

    def close(self) -> None:
        """Close what it has open."""
        for program in self._programs.values():
            os.close(program.pipe)

    def module(self, *, there: bool) -> None:
        """The module comes, or goes."""
        self.modules = MODULE if there else {}
        for program in self.programs():
            for number, placed in program.placed.items():
                if not placed.startswith("dpmod:"):
                    continue
                program.states[number] = abi.State.PENDING
                if there and placed in MODULE:
                    program.states[number] = abi.State.ACTIVE
                elif there:
                    program.states[number] = abi.State.FAILED
                    program.errors[number] = errno.ENOENT

    def hit(self, function: str, *, pid: int = 42, count: int = 1) -> None:
        """A task comes by this function."""
        for _ in range(count):
            for program in self.programs():
                for number, placed in program.placed.items():
                    if placed == function and program.states[number] is abi.State.ACTIVE:
                        self._run(program, number, pid)

    def _run(self, program: FakeProgram, number: int, pid: int) -> None:
        probe = program.probe(number)
        hit = program.hits[number] = program.hits[number] + 1
        if hit <= probe.pass_count:
            return
        context = FakeContext([], Case("", "").thread)
        message = raw_request(
            *(bytes(program.load), program.arrays, context),
            gone=[False] * program.load.facility_count,
            locals_=program.locals,
            globals_=self.globals,
            probe=number,
            alter=False,
        )
        answer = self._interpreter.exchange(message)
        definitions = [each.definition for each in program.maps]
        outcome, maps = self._interpreter.take(
            *(answer, context, program.locals, self.globals, definitions)
        )
        assert not isinstance(outcome, Refused), outcome
        for sums, contents in zip(program.maps, maps, strict=True):
            sums.add(contents.lost, contents.entries)
        if outcome.exit == REM:
            program.states[number] = abi.State.REMOVED
        elif probe.max_hits and hit == probe.pass_count + probe.max_hits:
            program.states[number] = abi.State.DISABLED
        if outcome.exit == ABORT:
            return
        raw = bytes((ctypes.c_uint16 * len(outcome.raw))(*outcome.raw))
        record = abi.Record(
            probe=number,
            time=1000 + hit,
            address=self._address(program, number),
            hit=hit,
            exit=outcome.exit,
            major=outcome.major,
            minor=outcome.minor,
            pid=pid,
            tid=pid + 1,
            uid=7,
            cpu=1,
            log_size=len(outcome.log),
            raw_count=len(outcome.raw) // 2,
            comm=(ctypes.c_uint8 * 16)(*b"task".ljust(16, b"\0")),
        )
        if outcome.exception is not None:
            record.exception = outcome.exception
        body = raw + outcome.log
        body += bytes(-len(body) % 8)
        record.size = ctypes.sizeof(record) + len(body)
        os.write(program.pipe, bytes(record) + body)

    # -- system calls --------------------------------------------------------------------------

    def _open(self, path: str, flags: int) -> int:
        assert path == "/dev/dprobes"
        if not self.loaded:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return os.open(os.devnull, flags)

    def _load_module(self) -> str:
        assert self.loading is not None
        self.loaded = not self.loading
        return self.loading

    def _ioctl(self, fd: int, request: int, argument: ctypes.Structure) -> int:
        name = NAMES[request]
        if isinstance(argument, abi.Version):
            argument.abi, argument.isa = self.version
        elif isinstance(argument, abi.Load):
            return self._load(argument)
        else:
            self._of_program(self._programs[fd], name, argument)
        return 0

    def _load(self, load: abi.Load) -> int:
        sizes = (
            load.code_size,
            load.probe_count * ctypes.sizeof(abi.Probe),
            load.facility_count * 2,
            load.name_count * ctypes.sizeof(abi.Name),
            load.name_count * 8,
            load.map_count * ctypes.sizeof(abi.Map),
        )
        places = (getattr(load, name) for name in abi.ARRAYS)
        arrays = tuple(map(ctypes.string_at, places, sizes))
        copy = abi.Load.from_buffer_copy(load)
        out, into = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        maps = [MapSums(_definition(arrays[5], n), MapRoom(1 << 20)) for n in range(load.map_count)]
        program = FakeProgram(copy, arrays, into, [0] * load.vars, maps)
        context = FakeContext([], Case("", "").thread)
        message = raw_request(
            *(bytes(copy), program.arrays, context),
            gone=[False] * load.facility_count,
            locals_=program.locals,
            globals_=self.globals,
            runs=0,
            alter=False,
        )
        verdict, _ = self._interpreter.take(
            self._interpreter.exchange(message),
            context,
            [*program.locals],
            [*self.globals],
            [each.definition for each in maps],
        )
        if isinstance(verdict, Refused):
            load.refused, load.where = verdict.reason, verdict.where
            os.close(out)
            os.close(into)
            raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
        for number in range(load.probe_count):
            program.states[number] = abi.State.COMPILED
            program.hits[number] = 0
        before = self._programs.get(out)
        if before is not None:
            os.close(before.pipe)
        self._programs[out] = program
        return out

    def _request(self, fd: int, request: int) -> int:
        assert NAMES[request] == "DPROBES_DETACH"
        program = self._programs[fd]
        program.states = dict.fromkeys(program.states, abi.State.REMOVED)
        program.placed.clear()
        return 0

    def _address(self, program: FakeProgram, number: int) -> int:
        placed = program.placed.get(number, "")
        if placed.startswith("0x"):
            return int(placed, 16)
        if "+0x" in placed:
            return int(placed.split("+")[1], 16)
        return (FUNCTIONS | self.modules).get(placed, 0)

    def _attach(self, program: FakeProgram, argument: abi.Attach) -> None:
        number = argument.probe
        place = bytes(argument.symbol).rstrip(b"\0").decode()
        state = abi.State.ACTIVE
        if argument.kind == abi.Kind.TRACEPOINT:
            if place not in TRACEPOINTS:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            place = f"{TRACEPOINTS[place]:#x}"
        elif argument.kind == abi.Kind.HOOK:
            if not HOOKS.get(place):
                code = errno.EUSERS if place in HOOKS else errno.ENOENT
                raise OSError(code, os.strerror(code))
            place = f"{HOOKS[place]:#x}"
        elif argument.kind == abi.Kind.FILE:
            status = os.fstat(argument.length)
            if status.st_ino in self.no_uprobes:
                raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
            place = f"{status.st_ino}+{argument.offset:#x}"
        elif argument.kind not in (abi.Kind.CODE, abi.Kind.LEAVE):
            place = f"{argument.address:#x}"
            taken = [each for each in program.placed.values() if each.startswith("0x")]
            if len(taken) == 4:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        elif ":" in place and not self.modules:
            state = abi.State.PENDING
        elif place not in FUNCTIONS | self.modules:
            code = EXCLUDED.get(place, errno.ENOENT)
            raise OSError(code, os.strerror(code))
        program.placed[number] = place
        program.states[number] = state

    def _of_program(self, program: FakeProgram, name: str, argument: ctypes.Structure) -> None:
        match argument:
            case abi.Attach():
                self._attach(program, argument)
            case abi.Query():
                number = argument.probe
                argument.state = program.states[number]
                argument.error = program.errors.get(number, 0)
                argument.address = self._address(program, number)
                argument.hits = argument.runs = program.hits[number]
                argument.recursed, argument.missed = program.recursed, program.missed
            case abi.Stats():
                argument.lost = program.lost
            case abi.Contents():
                _read_map(program.maps, argument)
            case abi.Vars():
                words = self.globals if argument.global_ else program.locals
                there = (ctypes.c_uint64 * argument.count).from_address(argument.words)
                chosen = slice(argument.first, argument.first + argument.count)
                if name == "DPROBES_SETVARS":
                    words[chosen] = list(there)
                else:
                    there[:] = words[chosen]
            case _:
                raise AssertionError(name)


def _definition(data: bytes, number: int) -> MapDefinition:
    one = abi.Map.from_buffer_copy(data, number * ctypes.sizeof(abi.Map))
    kind = KINDS[one.kind]
    # The module's values are of one word, and say nothing of it.
    arguments = () if kind.name == VALUE else tuple(one.arguments[: len(kind.arguments)])
    signed = bool(one.flags & abi.SIGNED)
    return MapDefinition(f"m{number}", kind.name, arguments, one.keys, one.size, signed)


def _read_map(maps: list[MapSums], asked: abi.Contents) -> None:
    """Only of maps whose cells are sent as they are kept."""
    sums = maps[asked.map]
    entries = [(packed_key(key), cell) for key, cell in sums.entries()]
    asked.keys, asked.lost, asked.size = len(entries), sums.lost, 1 << 16
    if not asked.room:
        return
    data = b"".join(
        bytes(abi.Entry(len(key), len(cell))) + key + struct.pack(f"<{len(cell)}Q", *cell)
        for key, cell in entries
    )
    ctypes.memmove(asked.data, data, len(data))
    asked.size = len(data)
    if asked.reset:
        kept: list[Entry] = [(key, []) for key, _ in sums.entries()]
        sums.close()
        sums.lost = 0
        sums.add(0, kept if asked.reset == abi.Reset.ZERO else [])


def _is_open(fd: int, pipe: int) -> bool:
    """Whether a descriptor is still the reading end of that pipe."""
    try:
        return os.fstat(fd).st_ino == os.fstat(pipe).st_ino
    except OSError:
        return False
