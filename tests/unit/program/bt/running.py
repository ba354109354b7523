"""Compiles scripts and runs them: what they log and what is in their maps, as whoever shows them
would read it. Each program runs twice, by the Python executor and by walking with its stack in
memory, and both must do the same."""

from __future__ import annotations

from typing import Any

from dprobed.program import bytecode
from dprobed.program.bt import bundle
from dprobed.program.bt.compiler import Options, compile_script
from dprobed.program.bt.world import World
from dprobed.program.exec.interface import Executor, Outcome
from dprobed.program.exec.python import PythonExecutor
from dprobed.program.exec.variables import ListVariables
from dprobed.program.model import ProgramError
from dprobed.record.log import decode_log
from tests.programs import walking_maps  # noqa: F401
from tests.programs.cases import Case, FakeContext, Region
from tests.programs.walking import WalkingExecutor

FACILITIES = {"dump": 2, "debugger": 1, "mine": 9}
#: Where the texts and structures of tests are.
AT = 0x10000


def text(value: str, at: int = AT) -> Region:
    """A text in memory."""
    return Region(at, bytearray(value.encode() + b"\0"), True)


def tokens(outcome: Outcome) -> list[Any]:
    """The log as a row of words and items; where something could be read in part only, it ends."""
    found: list[Any] = []
    for item in decode_log(outcome.log, outcome.raw):
        if "words" in item:
            words = item["words"]
            assert isinstance(words, list)
            found += words
        elif "string" in item:
            found.append(item["string"])
        elif "fault" not in item:
            found.append(item)
    return found


def twin_of(context: FakeContext) -> FakeContext:
    """Another thread like one, with memory of its own."""
    regions = [Region(one.start, bytearray(one.data), one.writable) for one in context.regions]
    other = FakeContext(regions, Case("", "").thread)
    other.buffer[:] = context.buffer
    other.fp[:] = context.fp
    other.kept, other.arguments = list(context.kept), context.arguments
    other.comm, other._time, other.frames = context.comm, context._time, context.frames
    return other


class Both:
    """The two executors of a program."""

    def __init__(self, code: bytes) -> None:
        self.program = bytecode.decode(code)
        self.python = PythonExecutor(self.program, ListVariables(), FACILITIES)
        self.walking = WalkingExecutor(self.program, ListVariables(), FACILITIES, static=False)
        self.maps, self.locals = self.python.maps, self.python.locals
        self.symbols = self.python.symbols

    def run(self, probe: int, context: FakeContext, *, entry_part: bool = False) -> Outcome | None:
        """A hit, or the entry part of one; None: it has none."""
        self.walking.symbols[:] = self.symbols
        self.walking.locals.write(0, self.locals.read())
        outcomes: list[Outcome] = []
        contexts = (context, twin_of(context))
        executors: tuple[Executor[ListVariables], ...] = (self.python, self.walking)
        for executor, one in zip(executors, contexts, strict=True):
            entry = executor.entry_part(probe) if entry_part else executor.entry(probe)
            if entry is None:
                return None
            outcomes.append(entry(one))
        assert outcomes[0] == outcomes[1]
        states = [
            (one.buffer, one.fp, one.kept, [each.data for each in one.regions]) for one in contexts
        ]
        assert states[0] == states[1]
        assert self.locals.read() == self.walking.locals.read()
        held = [[one.contents() for one in each.maps] for each in (self.python, self.walking)]
        assert held[0] == held[1]
        return outcomes[0]


class Running:
    """A script, ready to run. ``said``: its actions so far, each with its arguments."""

    def __init__(
        self, script: str, options: Options | None = None, world: World | None = None
    ) -> None:
        self.bundle = compile_script(script, "test.bt", options, world)
        assert bundle.decode(bundle.encode(self.bundle)) == self.bundle
        self.said: list[tuple[Any, ...]] = []
        self.programs = [Both(each.code) for each in self.bundle.programs]
        self.blocks = Both(self.bundle.code) if self.bundle.code else None
        self.context = Case("", "").context()
        self.outcome: Outcome | None = None
        self.entries: dict[str, list[tuple[list[Any], int]]] = {}

    def thread(
        self, memory: list[Region] | None = None, frames: int = 5, **registers: int
    ) -> FakeContext:
        """The thread that hits, and its memory."""
        case = Case("", "", memory=memory or [], registers=registers)
        case.thread["frames"] = frames
        self.context = case.context()
        return self.context

    def hit(self, probe: int = 0, program: int = 0, *, enter: bool = True) -> list[Any]:
        """A hit; what it says."""
        executor = self.programs[program]
        if enter:
            self.context.kept = [0] * 8
            executor.run(probe, self.context, entry_part=True)
        outcome = self.outcome = executor.run(probe, self.context)
        assert outcome is not None
        return self.read(outcome)

    def read(self, outcome: Outcome) -> list[Any]:
        """The actions of a record."""
        row = tokens(outcome)
        said = []
        while row:
            action = self.bundle.actions[row.pop(0)]
            said.append(self._action(action, row))
        self.said += said
        return said

    def _action(self, action: bundle.Action, row: list[Any]) -> tuple[Any, ...]:
        name = type(action).__name__
        if isinstance(action, bundle.Printf | bundle.System | bundle.Cat):
            return (name, action.format, *(self.value(one, row) for one in action.arguments))
        if isinstance(action, bundle.Log):
            values = [self.value(one, row) for one in action.arguments]
            return (name, action.texts, dict(zip(action.names, values, strict=True)))
        if isinstance(action, bundle.Print):
            return (name, self.value(action.argument, row))
        if isinstance(action, bundle.PrintEntry | bundle.Delete | bundle.Fetch):
            key = tuple(self.value(one, row) for one in action.key)
            if isinstance(action, bundle.Fetch):
                return (name, action, key)
            return (name, self.bundle.maps[action.map].name, *key)
        if isinstance(action, bundle.PrintMap | bundle.Clear | bundle.Zero):
            return (name, self.bundle.maps[action.map].name)
        if isinstance(action, bundle.Exit):
            return (name, row.pop(0))
        if isinstance(action, bundle.Join):
            return (name, self.value(bundle.Strings(), row))
        if isinstance(action, bundle.PrintTime):
            return (name, action.format)
        return (name, action)

    def value(self, kind: bundle.Value, row: list[Any]) -> Any:
        """A value of this kind, off a row of tokens."""
        if isinstance(kind, bundle.Tuple):
            return tuple(self.value(one, row) for one in kind.items)
        if isinstance(kind, bundle.Strings):
            found = []
            while (one := row.pop(0)) != 0:
                found.append(one)
            return found
        one = row.pop(0)
        if isinstance(kind, bundle.String):
            return one if isinstance(one, str) else self.bundle.strings[one]
        if isinstance(kind, bundle.ShortText):
            return (
                (one.to_bytes(8, "little") + row.pop(0).to_bytes(8, "little"))
                .split(b"\0")[0]
                .decode()
            )
        if isinstance(kind, bundle.HeldText):
            words = [one, *(row.pop(0) for _ in range(kind.size // 8 - 1))]
            return b"".join(each.to_bytes(8, "little") for each in words).split(b"\0")[0].decode()
        if isinstance(kind, bundle.Integer):
            return number(one, kind)
        if isinstance(kind, bundle.Boolean):
            return bool(one)
        if isinstance(kind, bundle.Enum):
            return {value: name for name, value in kind.values}.get(one, one)
        return one

    # -- maps -----------------------------------------------------------------------------------

    def map(self, name: str) -> dict[Any, Any]:
        """What the programs have in a map of the script: by key, a key of one item by itself."""
        known = next(each for each in self.bundle.maps if each.name == name)
        found: dict[Any, Any] = {}
        executors = [*self.programs, *([self.blocks] if self.blocks else [])]
        for part in known.parts:
            for executor in executors:
                for held in executor.maps:
                    if held.definition.name != part.name:
                        continue
                    for items, cell in held.contents().entries:
                        row: list[Any] = list(items)
                        constant = iter(part.constant)
                        key = tuple(self._key(one, row, constant) for one in known.key)
                        shown = key[0] if len(key) == 1 else key
                        found[shown] = self._cell(known, cell)
        return found

    def _key(self, kind: bundle.Value, row: list[Any], constant: Any) -> Any:
        if isinstance(kind, bundle.Tuple):
            return tuple(self._key(one, row, constant) for one in kind.items)
        one, is_constant = row.pop(0), next(constant)
        if is_constant:
            return self.bundle.strings[one]
        if isinstance(one, bytes):
            return one.decode("latin-1") if one[:1] != b"\0" else "stack"
        return number(one, kind) if isinstance(kind, bundle.Integer) else one

    def _cell(self, known: bundle.Map, cell: list[int]) -> Any:
        if known.kind == "value":
            return self.value(known.value, cell[known.timed :])
        if known.kind in ("min", "max"):
            return number(cell[0], known.value)
        return cell[0] if known.kind in ("count", "sum") else cell

    # -- blocks ---------------------------------------------------------------------------------

    def fire(self, kind: str) -> list[Any]:
        """Run the first block of a kind; what it says."""
        block = next(each for each in self.bundle.blocks if each.kind == kind)
        before = len(self.said)
        self._run_block(block.probe)
        return self.said[before:]

    def _run_block(self, probe: int, given: tuple[int, ...] = ()) -> bool:
        """Run a block to its end; whether it ended a loop."""
        assert self.blocks is not None
        for _ in range(1000):
            self.context.arguments = [lambda _, n=n: n for n in given]  # type: ignore[misc]
            outcome = self.blocks.run(probe, self.context)
            assert outcome is not None
            said = self.read(outcome)
            waits = False
            for one in said:
                if one[0] == "ForEach":
                    self._each(one[1])
                    waits = True
                elif one[0] == "Measure":
                    count = len(self.entries[self.bundle.maps[one[1].map].name])
                    self.blocks.locals.write(one[1].local, [count])
                    waits = True
                elif one[0] == "Fetch":
                    self._fetch(one[1], one[2])
                    waits = True
                elif one[0] == "GoOn":
                    waits = True
            asked = ("ForEach", "Fetch", "Measure", "GoOn")
            self.said = [each for each in self.said if each[0] not in asked]
            if not waits:
                return any(one[0] == "Break" for one in said)
        raise AssertionError("a block does not end")

    def _each(self, loop: bundle.ForEach) -> None:
        block = self.bundle.blocks[loop.body]
        for key, value in list(self.entries[self.bundle.maps[loop.map].name]):
            given: list[int] = []
            for one in [*key, value]:
                if isinstance(one, str):
                    address = 0x900000 + 0x1000 * len(self.context.regions)
                    self.context.regions.append(text(one, address))
                    given.append(address)
                else:
                    given.append(one)
            assert len(given) == len(block.arguments)
            if self._run_block(block.probe, tuple(given)):
                self.said = [each for each in self.said if each[0] != "Break"]
                break

    def _fetch(self, action: bundle.Fetch, key: tuple[Any, ...]) -> None:
        assert self.blocks is not None
        entries = self.entries[self.bundle.maps[action.map].name]
        found = {tuple(each): value for each, value in entries}
        value = int(key in found) if action.has else found.get(key, 0)
        self.blocks.locals.write(action.local, [value])


def number(word: int, kind: bundle.Value) -> int:
    """A word as the number that it is."""
    if not isinstance(kind, bundle.Integer):
        return word
    word &= (1 << 8 * kind.size) - 1
    return word - (1 << 8 * kind.size) if kind.signed and word >> (8 * kind.size - 1) else word


def said(script: str, **registers: int) -> list[Any]:
    """What one hit of a script says."""
    running = Running(script)
    running.thread(None, 5, **registers)
    return running.hit()


def value(expression: str, before: str = "", **registers: int) -> Any:
    """What an expression is worth at a hit of a function."""
    found = said(f"uprobe:m:f {{ {before} print({expression}); }}", **registers)
    assert len(found) == 1, found
    assert found[0][0] == "Print"
    return found[0][1]


def refused(script: str, world: World | None = None) -> str:
    """What is said of a script that is wrong."""
    try:
        compile_script(script, "test.bt", None, world)
    except ProgramError as error:
        return str(error)
    raise AssertionError("nothing is wrong with it")
