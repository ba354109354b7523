"""Runs native code in a process of its own, on the memory of a ``FakeContext``."""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dprobed.program.exec.interface import Context, MemoryFault, Outcome
from dprobed.program.exec.lowering import Unit, facility_numbers
from dprobed.program.exec.native.abi import (
    HIT_BYTES,
    ArgumentKind,
    Blob,
    Data,
    Flags,
    Hit,
    Needs,
    argument_words,
)
from dprobed.program.exec.native.compiler import compile_unit
from dprobed.program.exec.native.maps import begin, layouts, shared_maps
from dprobed.program.exec.native.refusals import why_not
from dprobed.program.exec.unit import part_of
from dprobed.program.exec.variables import ListVariables
from dprobed.program.exits import ABORT, EXCEPTION
from dprobed.program.isa import KEPT_WORDS
from dprobed.program.maps import MapRoom
from dprobed.program.model import ProbeDefinition, Program
from dprobed.program.registers import USER_REGS
from tests.programs.cases import FakeContext

SOURCE = Path(__file__).parent / "native_runner.c"

_REQUEST = struct.Struct(f"<20I{KEPT_WORDS}Q512s2Q16s")
_REGION = struct.Struct("<QII")
_ANSWER = struct.Struct(f"<q{KEPT_WORDS}Q512s")
_SIZE = struct.Struct("<I")
_NOT_ASKED = 0xFFFF_FFFF
#: Bytes for the keys and cells of maps.
MAP_ROOM = 1 << 17
_NOISE = 0xA5A5_A5A5_A5A5_A5A5


class NotNativeError(Exception):
    """There is no native code for the program."""


def build(program: Path) -> None:
    """Compile what runs it."""
    flags = ("-g", "-O1", "-Wall", "-Wextra", "-Werror")
    command = ["gcc", *flags, str(SOURCE), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@lru_cache(maxsize=256)
def _compiled(unit: Unit, static: bool) -> Blob:
    return compile_unit(unit, static)


class Runner:
    """The process."""

    def __init__(self, program: Path) -> None:
        self._maps = os.memfd_create("maps")
        self._process = subprocess.Popen(
            [str(program), str(self._maps)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[self._maps],
        )

    def map_memory(self, size: int) -> memoryview:
        """Memory for maps that the process sees, too; the one before is gone."""
        os.ftruncate(self._maps, 0)
        os.ftruncate(self._maps, size)
        return memoryview(mmap.mmap(self._maps, size))

    def close(self) -> None:
        """End it."""
        os.close(self._maps)
        _, errors = self._process.communicate()
        assert self._process.returncode == 0, errors.decode()

    def exchange(self, message: bytes) -> bytes:
        """Send a request, and wait for the answer."""
        pipe_in, pipe_out = self._process.stdin, self._process.stdout
        assert pipe_in is not None
        assert pipe_out is not None
        try:
            pipe_in.write(_SIZE.pack(len(message)) + message)
            pipe_in.flush()
            size = pipe_out.read(_SIZE.size)
        except BrokenPipeError:
            size = b""
        if len(size) < _SIZE.size:
            errors = self._process.stderr
            assert errors is not None
            said = errors.read().decode()
            raise AssertionError(f"{said}, ended with {self._process.wait()}")
        return pipe_out.read(_SIZE.unpack(size)[0])


@dataclass
class _Part:
    blob: Blob
    base: int
    minor: int


class NativeExecutor:
    """``Executor`` by native code; raises NotNativeError for what has none."""

    def __init__(
        self,
        runner: Runner,
        program: Program,
        globals_: ListVariables,
        facilities: Mapping[str, int],
        *,
        static: bool = True,
        room: MapRoom | None = None,
    ) -> None:
        self.program = program
        self.locals = ListVariables(program.header.vars)
        tables = [layout.end for layout in layouts(program.header.map)]
        self._map_memory = runner.map_memory(max(tables, default=64) + MAP_ROOM)
        begin(self._map_memory, program.header.map)
        self.maps = shared_maps(self._map_memory, program.header.map)
        globals_.grow(program.header.gvars)
        self.symbols = [0] * len(program.names)
        self._runner = runner
        self._globals = globals_
        self._facilities = facilities
        self._known = frozenset(facilities.values())
        numbers = facility_numbers(program, facilities)
        self._parts = {
            (probe.index, begins): self._part(probe, begins, numbers, static)
            for probe in program.probes
            for begins in {probe.entry, probe.start}
        }

    def _part(
        self, probe: ProbeDefinition, begins: int, numbers: tuple[int, ...], static: bool
    ) -> _Part:
        part = part_of(self.program, probe, begins, numbers)
        found = why_not(part.unit)
        if found is not None:
            raise NotNativeError(str(found))
        return _Part(_compiled(part.unit, static), part.base, probe.minor)

    def entry(self, index: int) -> Callable[[Context], Outcome]:
        """The function that runs a probe for one hit."""
        (probe,) = (each for each in self.program.probes if each.index == index)
        return self._runs(self._parts[index, probe.start])

    def entry_part(self, index: int) -> Callable[[Context], Outcome] | None:
        """The function that runs when the probed function is entered."""
        (probe,) = (each for each in self.program.probes if each.index == index)
        return self._runs(self._parts[index, probe.entry]) if probe.split else None

    def copy(self, globals_: ListVariables, room: MapRoom | None = None) -> NativeExecutor:
        """Nobody forks here."""
        raise NotImplementedError

    def _runs(self, part: _Part) -> Callable[[Context], Outcome]:
        def run(context: Context) -> Outcome:
            assert isinstance(context, FakeContext)
            return self._run(part, context)

        return run

    def _run(self, part: _Part, context: FakeContext) -> Outcome:
        blob = part.blob
        hit = self._hit(part, context)
        data = bytearray(Data.LOCALS)
        struct.pack_into("<Q", data, Data.GLOBAL_COUNT, len(self._globals))
        words = [*self.locals.words, *self.symbols]
        data += struct.pack(f"<{len(words)}Q", *words)
        numbers = self._facilities.values()
        gone = bytes(n in self._known and n not in numbers for n in blob.facilities)
        place = [part.base]
        for reader in context.arguments:
            place += _argument(reader, context)
        message = b"".join(
            (
                self._request(blob, hit, data, len(gone), len(place), context),
                *(hit, data, struct.pack(f"<{len(self._globals)}Q", *self._globals.words)),
                *(gone, struct.pack(f"<{len(place)}Q", *place)),
                blob.code,
                *(
                    _REGION.pack(r.start, len(r.data), r.writable) + bytes(r.data)
                    for r in context.regions
                ),
            )
        )
        return self._take(self._runner.exchange(message), part, context)

    def _request(
        self,
        blob: Blob,
        hit: bytearray,
        data: bytearray,
        gone: int,
        place: int,
        context: FakeContext,
    ) -> bytes:
        needs = Needs(blob.needs)
        counts = (
            *(len(blob.code), blob.stack_bytes, blob.scratch_bytes, blob.log_bytes),
            *(blob.raw_pairs, len(hit) // 8, len(data) // 8, len(self._globals), gone, place),
            *(len(self._map_memory), len(context.regions)),
        )
        offsets = (
            Hit.FXSAVE if needs & Needs.FXSAVE else _NOT_ASKED,
            Hit.KEPT if needs & Needs.KEPT else _NOT_ASKED,
            Hit.SCRATCH if blob.scratch_bytes else _NOT_ASKED,
            Hit.LOG if blob.log_bytes else _NOT_ASKED,
            Hit.RAW if blob.raw_pairs else _NOT_ASKED,
            *(Data.GLOBALS, Data.GONE, Data.MAPS),
        )
        asked = (context.uid, context.gid, context.comm)
        return _REQUEST.pack(*counts, *offsets, *context.kept, bytes(context.fp), *asked)

    def _hit(self, part: _Part, context: FakeContext) -> bytearray:
        """A hit in which only what was asked for is no noise."""
        blob = part.blob
        hit = bytearray(struct.pack("<Q", _NOISE) * (HIT_BYTES // 8))
        needs = Needs(blob.needs)

        def put(offset: int, *words: int) -> None:
            struct.pack_into(f"<{len(words)}Q", hit, offset, *words)

        for index in range(len(USER_REGS)):
            if blob.reads >> index & 1 or context.arguments:
                put(Hit.REGS + 8 * index, context.regs[index])
        facts = {
            Needs.TIME: (Hit.TIME, (context.now(),)),
            Needs.TID: (Hit.TID, (context.tid,)),
            Needs.PID: (Hit.PID, (context.pid,)),
            Needs.CPU: (Hit.CPU, (context.cpu,)),
            Needs.NUMBERS: (Hit.MAJOR, (self.program.header.major, part.minor)),
            Needs.STORES: (Hit.RED_ZONE, (0,)),
        }
        for need, (offset, words) in facts.items():
            if needs & need:
                put(offset, *words)
        return hit

    def _take(self, answer: bytes, part: _Part, context: FakeContext) -> Outcome:
        """What came of it; the context and the variables are altered."""
        blob = part.blob
        needs = Needs(blob.needs)
        exit_, *kept, fxsave = _ANSWER.unpack_from(answer)
        at = _ANSWER.size

        def take(size: int) -> bytes:
            nonlocal at
            at += size
            return answer[at - size : at]

        hit = take(HIT_BYTES)

        def words(offset: int, count: int = 1) -> tuple[int, ...]:
            return struct.unpack_from(f"<{count}Q", hit, offset)

        log, raw = take(blob.log_bytes), take(4 * blob.raw_pairs)
        size = Data.LOCALS + 8 * (len(self.locals) + len(self.symbols))
        found = struct.unpack_from(f"<{len(self.locals)}Q", take(size), Data.LOCALS)
        self.locals.write(0, found)
        count = len(self._globals)
        self._globals.write(0, struct.unpack(f"<{count}Q", take(8 * count)))
        for region in context.regions:
            region.data[:] = take(len(region.data))
        assert at == len(answer)
        for index in range(len(USER_REGS)):
            (value,) = words(Hit.REGS + 8 * index)
            if blob.writes >> index & 1:
                context.regs[index] = value
            else:
                known = blob.reads >> index & 1 or context.arguments
                assert value == (context.regs[index] if known else _NOISE), "it was not told"
        flags = Flags(words(Hit.FLAGS)[0]) if needs & Needs.FLAGS else Flags(0)
        if needs & Needs.KEPT:
            context.kept[:] = kept
        context.fp[:] = fxsave
        context.fp_dirty |= bool(flags & Flags.FP_DIRTY)
        major, minor = self.program.header.major, part.minor
        if needs & Needs.NUMBERS:
            major, minor = words(Hit.MAJOR, 2)
        log_size = words(Hit.LOG_SIZE)[0] if blob.log_bytes else 0
        pairs = words(Hit.RAW_COUNT)[0] if blob.raw_pairs else 0
        if exit_ == ABORT:
            assert (log_size, pairs) == (0, 0)
        code, parm1, parm2 = words(Hit.EXCEPTION, 3)
        return Outcome(
            exit_,
            log[:log_size],
            struct.unpack(f"<{2 * pairs}H", raw[: 4 * pairs]),
            major,
            minor,
            (code, parm1, parm2) if exit_ == EXCEPTION else None,
            bool(flags & Flags.SUSPEND),
            bool(flags & Flags.RESUME),
        )


def _argument(reader: Callable[[Context], int], context: Context) -> tuple[int, int]:
    """An argument that its reader gives, or whose memory it cannot read."""
    try:
        return argument_words(ArgumentKind.CONSTANT, 8, False, reader(context))
    except MemoryFault as fault:
        return argument_words(ArgumentKind.MEMORY, 8, False, fault.address)
