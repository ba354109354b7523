"""Programs that run in the target: their native code, and their variables in shared memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from dprobed.arch.x86_64.paging import PAGE
from dprobed.compiler import compiled
from dprobed.engine.inline.records import room_of
from dprobed.engine.inline.shared import SharedVariables
from dprobed.program.blocks import Step, find_blocks
from dprobed.program.exec import ir
from dprobed.program.exec.interface import Context, KeyedMap, Outcome
from dprobed.program.exec.lower import lower
from dprobed.program.exec.lowering import Unit
from dprobed.program.exec.native.abi import SYSTEM_CALLS, Blob, Needs
from dprobed.program.exec.native.maps import SharedMap, begin, bytes_of, give_back, shared_maps
from dprobed.program.exec.native.refusals import why_not
from dprobed.program.exec.python import PythonExecutor
from dprobed.program.exec.unit import UnitPart
from dprobed.program.exec.variables import ListVariables
from dprobed.program.exits import ABORT, DEBUGGER, DUMP, EXIT
from dprobed.program.maps import MapDefinition, MapRoom
from dprobed.program.model import ProbeDefinition, Program
from dprobed.program.registers import USER_REGS

#: What a program may ask for that only the tracer knows.
_NOT_TOLD: Final = {
    Needs.FXSAVE: "it uses floating point registers",
}
_STOPPING: Final = {
    DUMP: "it ends by `exit dump`, at which the tracer stops the target",
    DEBUGGER: "it ends by `exit debugger`, at which the tracer stops the thread",
}
_WATCHED: Final = "its variables or maps are those of a watchpoint, too, which the tracer runs"
_CALLING: Final = (
    "it makes system calls in the process, which could give itself a filter of these later "
    "(--engine inline takes that risk)"
)
#: Registers that mean something only to the kernel.
_ALTERED: Final = {
    USER_REGS.index(name)
    for name in (
        "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13",
        "r14", "r15",
    )
}  # fmt: skip
_READ: Final = _ALTERED | {USER_REGS.index(name) for name in ("rip", "rsp", "eflags")}
#: Bytes of the thread's own stack that are used for a program, at most.
_STACK: Final = 1 << 13


def _private(definitions: Sequence[MapDefinition]) -> list[SharedMap]:
    """Maps that nobody shares."""
    if not definitions:
        return []
    view = memoryview(bytearray(bytes_of(definitions)))
    begin(view, definitions)
    return shared_maps(view, definitions)


@lru_cache(maxsize=1024)
def _arguments(unit: Unit) -> frozenset[int]:
    """The arguments of a static probe that a program asks for."""
    ops = (op for block in lower(unit).blocks for op in block.ops)
    return frozenset(op.index for op in ops if isinstance(op, ir.ReadArgument))


@lru_cache(maxsize=1024)
def _kept(unit: Unit) -> int:
    """How many of the words that are kept for a call a program may use."""
    ops = (op for block in lower(unit).blocks for op in block.ops)
    used = [op.index for op in ops if isinstance(op, ir.ReadKept | ir.WriteKept)]
    return max(used, default=-1) + 1


@lru_cache(maxsize=1024)
def _exits(unit: Unit) -> frozenset[int]:
    ends = (block.end for block in lower(unit).blocks)
    found = {end.exit for end in ends if isinstance(end, ir.End)}
    return frozenset(found)


def _served(part: UnitPart) -> tuple[str, int | None]:
    """Why a part cannot be served, whatever its machine code is, empty: it may be; and the code
    offset of the instruction because of which, where there is one."""
    unit = part.unit
    if unit.header.gvars:
        return "it has global variables, which other engines' programs have, too", None
    for block in find_blocks(unit.code, unit.entry):
        for step in block.steps:
            if why := _stopping(unit, step):
                return why, part.base + step.offset
    refused = why_not(unit)
    return (str(refused), part.base + refused.offset) if refused is not None else ("", None)


def _stopping(unit: Unit, step: Step) -> str:
    """Why an instruction is the tracer's to execute; empty: it is not."""
    match step.instruction.key:
        case "suspend" | "resume":
            return "it suspends or resumes threads, which the tracer does"
        case "exit facility once":
            return "it ends by `exit dump once`, at which the tracer stops the target"
        case "exit facility":
            return _STOPPING.get(unit.facilities[step.operands[0]], "")
    return ""


def _unserved(blob: Blob) -> str:
    """Why code cannot be served; empty: it can."""
    for need, why in _NOT_TOLD.items():
        if blob.needs & need:
            return why
    for index, name in enumerate(USER_REGS):
        if blob.writes >> index & 1 and index not in _ALTERED:
            return f"it alters {name}"
        if blob.reads >> index & 1 and index not in _READ:
            return f"it reads {name}"
    needed = room_of(blob) + blob.stack_bytes
    if needed > _STACK or blob.stack_bytes > PAGE:
        return f"it needs {needed} bytes of the thread's stack, of which it may have {_STACK}"
    return ""


class NativePart(NamedTuple):
    """What runs in the target of a probe: at its hits, or as a function is entered. ``base``: what
    is added to its code offsets; ``exits``: how it may end; ``arguments``: those of a static probe
    that it asks for; ``kept``: words that are kept for a call, as far as it uses them."""

    blob: Blob
    base: int
    exits: frozenset[int]
    arguments: frozenset[int]
    kept: int

    @property
    def makes_records(self) -> bool:
        """Whether it makes records: it may end otherwise than as one that makes none."""
        return bool(self.blob.needs & Needs.EXCEPTION) or self.exits != {ABORT}

    @property
    def fails(self) -> bool:
        """The same of what runs as a function is entered: it ends by `exit` if all is well."""
        return bool(self.blob.needs & Needs.EXCEPTION) or not self.exits <= {ABORT, EXIT}


class InlineExecutor:
    """``Executor`` of a program all of whose code probes are served in the target.

    What it has besides is that of the executor that it is made of.
    """

    def __init__(self, python: PythonExecutor) -> None:
        self._python: Final = python
        self.locals: Final = SharedVariables(len(python.locals))
        definitions = python.program.header.map
        self._maps = _private(definitions)
        #: What is shared of them.
        self._view: memoryview | None = None
        #: Bytes of that in use when room was last given back.
        self._left = 0
        #: By probe, what runs of it, or why that cannot be.
        self._parts: Final[dict[int, tuple[NativePart, ...] | str]] = {}

    @property
    def program(self) -> Program:
        """See Executor."""
        return self._python.program

    @property
    def maps(self) -> Sequence[KeyedMap]:
        """See Executor."""
        return self._maps

    @property
    def map_bytes(self) -> int:
        """Bytes that its maps take in shared memory; 0: it has none."""
        definitions = self.program.header.map
        return bytes_of(definitions) if definitions else 0

    def bind_maps(self, view: memoryview) -> None:
        """From now on its maps are in these bytes, with what is in them."""
        # When it was there before; the target can write there.
        used = min(int.from_bytes(view[:8], "little"), len(view))
        view[:used] = bytes(used)
        begin(view, self.program.header.map)
        self._view = view
        self._left = 0
        self._take_maps(shared_maps(view, self.program.header.map))

    def take_maps(self, reset: str, name: str, *, is_quiet: bool) -> list[tuple[int, KeyedMap]]:
        """Copies of its maps, or of the one of this name, with their numbers; these are then
        cleared or zeroed. All threads are stopped; ``is_quiet``: and none is in our code."""
        found: list[tuple[int, KeyedMap]] = []
        for number, each in enumerate(self._maps):
            if name in ("", each.definition.name):
                found.append((number, each.copy()))
                if reset == "clear":
                    each.clear()
                else:
                    each.zero()
        if is_quiet and self._view is not None:
            self._left = give_back(self._view, self._maps, self._left)
        return found

    def keep(self) -> None:
        """The memory that is shared goes: keep what is there."""
        self.locals.keep()
        self._view = None
        self._take_maps(_private(self.program.header.map))

    def _take_maps(self, maps: list[SharedMap]) -> None:
        for new, old in zip(maps, self._maps, strict=True):
            new.load(old.contents())
        self._maps = maps

    @property
    def symbols(self) -> list[int]:
        """See Executor."""
        return self._python.symbols

    def entry(self, index: int) -> Callable[[Context], Outcome]:
        """See Executor."""
        return self._python.entry(index)

    def entry_part(self, index: int) -> Callable[[Context], Outcome] | None:
        """See Executor."""
        return self._python.entry_part(index)

    def native(self, probe: ProbeDefinition) -> tuple[NativePart, ...] | str:
        """What runs of a probe in the target: at its hits, and as the function is entered, if it
        has an entry part; or why that cannot be."""
        found = self._parts.get(probe.index)
        if found is None:
            parts = [self._python.part(probe), self._python.entered_part(probe)]
            made = [self._made(probe, each) for each in parts if each is not None]
            wrong = [each for each in made if isinstance(each, str)]
            found = wrong[0] if wrong else tuple(each for each in made if not isinstance(each, str))
            self._parts[probe.index] = found
        return found

    def hit_part(self, probe: ProbeDefinition) -> NativePart:
        """What runs at the hits of a probe of which ``native`` has said no reason."""
        found = self.native(probe)
        assert not isinstance(found, str)
        return found[0]

    def entered_part(self, probe: ProbeDefinition) -> NativePart | None:
        """What runs as the function is entered at whose return the probe is; None: nothing."""
        found = self.native(probe)
        return found[1] if not isinstance(found, str) and len(found) > 1 else None

    def makes_calls(self, probe: ProbeDefinition) -> bool:
        """Whether the code of a probe makes system calls in the target."""
        parts = self.native(probe)
        return not isinstance(parts, str) and any(
            each.blob.needs & (SYSTEM_CALLS | Needs.TID) for each in parts
        )

    @property
    def has_state(self) -> bool:
        """Whether its probes have something in common: then all of them run in one way."""
        return bool(self.program.header.vars or self.program.header.map)

    def why_not_all(self) -> str:
        """Why it is better not to run in the target, though nobody has said so; empty: it may.

        All of it or nothing: else the order of its records would depend on who made them.
        """
        for probe in self.program.probes:
            if probe.watchpoint:
                if self.has_state:
                    return self._placed(probe, None, _WATCHED)
                continue
            code = self.native(probe)
            if isinstance(code, str):
                return code
            if self.makes_calls(probe):
                return self._placed(probe, None, _CALLING)
        return ""

    def handed_back(self) -> PythonExecutor:
        """What runs it in the tracer, from what was counted on; nothing runs in the target."""
        self._python.locals.write(0, self.locals.read())
        for new, old in zip(self._python.maps, self._maps, strict=True):
            new.load(old.contents())
        return self._python

    def _made(self, probe: ProbeDefinition, part: UnitPart) -> NativePart | str:
        found, offset = _served(part)
        if found:
            return self._placed(probe, offset, found)
        blob = compiled(part.unit)
        why = blob if isinstance(blob, str) else _unserved(blob)
        if isinstance(blob, str) or why:
            return self._placed(probe, offset, why)
        unit = part.unit
        return NativePart(blob, part.base, _exits(unit), _arguments(unit), _kept(unit))

    def _placed(self, probe: ProbeDefinition, offset: int | None, why: str) -> str:
        """A reason with the place in the source that it is about: of an instruction, or else of
        the probe."""
        program = self.program
        at = program.probe_place(probe) if offset is None else program.code_place(offset)
        return why if at is None else f"{at}: {why}"

    @property
    def size(self) -> int:
        """Bytes of all code that was made."""
        return sum(len(each.blob.code) for each in self._made_parts())

    @property
    def parts(self) -> int:
        """How many pieces that is."""
        return sum(1 for _ in self._made_parts())

    def _made_parts(self) -> Iterator[NativePart]:
        for found in self._parts.values():
            if not isinstance(found, str):
                yield from found

    def copy(self, globals_: ListVariables, room: MapRoom | None = None) -> InlineExecutor:
        """See Executor."""
        other = InlineExecutor(self._python.copy(globals_, room))
        other.locals.write(0, self.locals.read())
        other._parts.update(self._parts)
        return other
