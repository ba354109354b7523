"""The kernel's interpreter as a process of user space, with the sanitizers: ``harness.c``."""

from __future__ import annotations

import ctypes
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dprobed.kernel.abi import Load, Raw, Refusal, load_arrays, load_header
from dprobed.kernel.contents import entries
from dprobed.program.exec.interface import Outcome
from dprobed.program.exits import EXCEPTION, INSTRUCTION_BUDGET
from dprobed.program.isa import KEPT_WORDS, ModType
from dprobed.program.maps import MapContents, MapDefinition
from dprobed.program.model import Program
from dprobed.program.registers import USER_REGS
from tests.programs.cases import FakeContext

ROOT = Path(__file__).parent.parent.parent
PARTS = ROOT / "kernel_bridge" / "interp"
SOURCES = [Path(__file__).parent / "harness.c", *sorted(PARTS.glob("*.c"))]
FLAGS = [
    *("-g", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{PARTS}"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
]

_REQUEST = struct.Struct(f"<6I{KEPT_WORDS}Q7Q16s{len(USER_REGS)}Q")
_REGION = struct.Struct("<QII")
_ANSWER = struct.Struct(f"<IIiHHIIII3Q{len(USER_REGS)}Q")
_SIZE = struct.Struct("<I")
_MAP = struct.Struct("<QQ")


def build(program: Path) -> None:
    """Compile it."""
    command = ["gcc", *FLAGS, *map(str, SOURCES), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@dataclass
class Refused:
    """The verifier has refused the program."""

    reason: Refusal
    where: int


def request(
    program: Program,
    context: FakeContext,
    *,
    facilities: Sequence[int] = (),
    gone: Sequence[bool] = (),
    symbols: Sequence[int] = (),
    locals_: Sequence[int],
    globals_: Sequence[int],
    runs: int = 1,
    budget: int = INSTRUCTION_BUDGET,
    alter: bool = True,
) -> bytes:
    """The request to run the first probe of a program, of one for processes as it is in these."""
    header = load_header(program)
    header.modtype = ModType[program.header.modtype.upper()]
    return raw_request(
        bytes(header),
        load_arrays(program, facilities, symbols),
        context,
        gone=gone or [False] * len(facilities),
        locals_=locals_,
        globals_=globals_,
        runs=runs,
        budget=budget,
        alter=alter,
    )


def raw_request(
    load: bytes,
    arrays: tuple[bytes, ...],
    context: FakeContext,
    *,
    gone: Sequence[bool],
    locals_: Sequence[int],
    globals_: Sequence[int],
    runs: int = 1,
    probe: int = 0,
    budget: int = INSTRUCTION_BUDGET,
    alter: bool = True,
) -> bytes:
    """The request to run a probe of a program as it is loaded into the kernel."""
    code, probes, numbers, names, values, maps = arrays
    regions = b"".join(
        _REGION.pack(r.start, len(r.data), r.writable) + bytes(r.data) for r in context.regions
    )
    facts = (context.tid, context.pid, context.tid, context.uid, context.gid, context.cpu)
    fixed = _REQUEST.pack(
        *(budget, runs, probe, alter, len(globals_), len(context.regions)),
        *(*context.kept, *facts, context.now()),
        context.comm,
        *context.words,
    )
    return b"".join(
        (
            *(load, fixed, code, probes, numbers, bytes(gone), names, values, maps),
            *(struct.pack(f"<{len(w)}Q", *w) for w in (locals_, globals_)),
            regions,
        )
    )


class CInterpreter:
    """Runs programs, one after the other, in one process."""

    def __init__(self, program: Path) -> None:
        #: What is in the maps of the program that was run last.
        self.maps: list[MapContents] = []
        self._process = subprocess.Popen(
            [str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def close(self) -> None:
        """End the process; what a sanitizer said is an error."""
        _, errors = self._process.communicate()
        assert self._process.returncode == 0, errors.decode()

    def run(
        self,
        program: Program,
        context: FakeContext,
        *,
        locals_: list[int],
        globals_: list[int],
        **more: Any,
    ) -> Outcome | Refused:
        """Run the first probe of a program; the context and the variables are altered in place.
        ``maps`` has what is in its maps then.

        ``more``: as ``request`` takes it.
        """
        message = request(program, context, locals_=locals_, globals_=globals_, **more)
        maps = program.header.map
        outcome, self.maps = self.take(self.exchange(message), context, locals_, globals_, maps)
        return outcome

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
            raise AssertionError(errors.read().decode())
        return pipe_out.read(_SIZE.unpack(size)[0])

    @staticmethod
    def take(
        answer: bytes,
        context: FakeContext,
        locals_: list[int],
        globals_: list[int],
        definitions: Sequence[MapDefinition] = (),
    ) -> tuple[Outcome | Refused, list[MapContents]]:
        """What an answer says; the context and the variables are altered in place."""
        fields = _ANSWER.unpack_from(answer)
        refused, where, exit_, major, minor, log_size, raw_count, suspend, resume = fields[:9]
        if refused:
            return Refused(Refusal(refused), where), []
        at = _ANSWER.size

        def take(size: int) -> bytes:
            nonlocal at
            at += size
            return answer[at - size : at]

        raw = struct.unpack(f"<{2 * raw_count}H", take(raw_count * ctypes.sizeof(Raw)))
        log = take(log_size)
        for words in (locals_, globals_):
            words[:] = struct.unpack(f"<{len(words)}Q", take(8 * len(words)))
        for region in context.regions:
            region.data[:] = take(len(region.data))
        maps = []
        for one in definitions:
            size, lost = _MAP.unpack(take(_MAP.size))
            maps.append(MapContents(lost, entries(one, take(size))))
        assert at == len(answer)
        for index, word in enumerate(fields[12:]):
            context.regs[index] = word
        exception = fields[9:12] if exit_ == EXCEPTION else None
        outcome = Outcome(*(exit_, log, raw, major, minor, exception), bool(suspend), bool(resume))
        return outcome, maps


#: Bytes of a request before the code.
HEADER_SIZE = ctypes.sizeof(Load) + _REQUEST.size
