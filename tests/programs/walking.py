"""A second executor, which walks the intermediate representation: slow, and nothing is compiled.

It shares with the Python executor the lowering, and the state that is no word (frames, the
exception trace, the heap, the items of the log). All that the other one writes as source text is
done here by hand: arithmetic, guards, jumps, the stack, when the log is full and when the budget is
used up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeVar

from dprobed.program.exec import ir, log, machine
from dprobed.program.exec.interface import ADDRESS_END, Context, MemoryFault, Outcome, readable
from dprobed.program.exec.ir import Base, Fact, Raise, Shown, Space, Word
from dprobed.program.exec.lower import lower
from dprobed.program.exec.lowering import Unit, facility_numbers
from dprobed.program.exec.maps import held_maps
from dprobed.program.exec.variables import ListVariables
from dprobed.program.exits import BUDGET, EXCEPTION
from dprobed.program.isa import CALL_FRAMES, STACK_WORDS, WORD_MASK
from dprobed.program.items import ItemToken
from dprobed.program.maps import MapRoom
from dprobed.program.model import ProbeDefinition, Program
from tests.programs.walked_words import COMPUTED, SIGN, TESTS


class WalkingExecutor:
    """``Executor`` by walking; takes what ``PythonExecutor`` takes."""

    def __init__(
        self,
        program: Program,
        globals_: ListVariables,
        facilities: Mapping[str, int],
        *,
        static: bool = True,
        room: MapRoom | None = None,
    ) -> None:
        self.program = program
        self.numbers = facility_numbers(program, facilities)
        self.locals = ListVariables(program.header.vars)
        self.maps = held_maps(program.header.map, room)
        self.globals = globals_
        globals_.grow(program.header.gvars)
        self.facilities = facilities
        self.symbols = [0] * len(program.names)
        self.known = frozenset(facilities.values())
        self._static = static
        self._functions = {
            (probe.index, start): self._function(probe, start)
            for probe in program.probes
            for start in {probe.entry, probe.start}
        }
        self._probes = {probe.index: probe for probe in program.probes}

    def _function(self, probe: ProbeDefinition, start: int) -> ir.Function:
        program = self.program
        unit = Unit(
            program.header,
            program.code,
            start,
            probe.ex_mask,
            probe.heap,
            self.numbers,
            program.names,
            probe.is_static,
        )
        return lower(unit, self._static)

    def entry(self, index: int) -> Callable[[Context], Outcome]:
        """The function that runs a probe for one hit."""
        probe = self._probes[index]
        return self._runner(probe, probe.start)

    def entry_part(self, index: int) -> Callable[[Context], Outcome] | None:
        """The function that runs when the probed function is entered."""
        probe = self._probes[index]
        return self._runner(probe, probe.entry) if probe.split else None

    def _runner(self, probe: ProbeDefinition, start: int) -> Callable[[Context], Outcome]:
        function = self._functions[probe.index, start]
        return lambda context: Hit(self, function, probe.minor, context).run()

    def copy(self, globals_: ListVariables, room: MapRoom | None = None) -> WalkingExecutor:
        """The same program for a fork child."""
        other = WalkingExecutor(
            self.program, globals_, self.facilities, static=self._static, room=room
        )
        other.locals.write(0, self.locals.read())
        other.symbols = list(self.symbols)
        return other


class _EndedError(Exception):
    """The program has ended."""

    def __init__(
        self, exit_: int, exception: tuple[int, int, int] | None = None, logged: bool = True
    ) -> None:
        self.exit = exit_
        self.exception = exception
        self.logged = logged


class _HandledError(Exception):
    """An exception was raised, and there is a handler at a block."""

    def __init__(self, block: int) -> None:
        self.block = block


class Hit:
    """One run: its values, its stack, its log."""

    def __init__(
        self, executor: WalkingExecutor, function: ir.Function, minor: int, context: Context
    ) -> None:
        header = function.header
        self.executor, self.function, self.context = executor, function, context
        self.variables = {Space.LOCAL: executor.locals.words, Space.GLOBAL: executor.globals.words}
        self.temps: dict[int, int] = {}
        self.slots: dict[int, int] = {}
        self.key: dict[int, int | bytes] = {}
        self.depth = 0
        self.machine = machine.Machine(
            function.offsets[0],
            function.ex_mask,
            header.autostacktrace,
            header.ex_logmax,
            executor.locals.words,
            executor.globals.words,
        )
        self.heap = machine.Heap(function.heap)
        self.log = bytearray()
        self.raw: list[int] = []
        self.starts: list[int] = []
        self.major, self.minor = header.major, minor
        self.suspend = self.resume = False
        self.left = function.budget
        self.jumps = header.jmpmax

    def run(self) -> Outcome:
        """Until it ends."""
        block = 0
        try:
            while True:
                block = self._block(self.function.blocks[block])
        except _EndedError as ended:
            text = bytes(self.log + self.machine.trace) if ended.logged else b""
            return Outcome(
                ended.exit,
                text,
                tuple(self.raw) if ended.logged else (),
                self.major,
                self.minor,
                ended.exception,
                self.suspend,
                self.resume,
            )

    def _block(self, block: ir.Block) -> int:
        """Run a block; the next one's number."""
        self.temps.clear()
        if self.left is not None and self.left < block.cost:
            raise _EndedError(BUDGET)
        self.charge(block.cost)
        try:
            for op in block.ops:
                WALKERS[type(op)](self, op)
            return self._next(block.end)
        except _HandledError as handled:
            return handled.block

    def _next(self, ending: ir.Ending) -> int:
        frames = self.machine.frames
        match ending:
            case ir.Jump():
                return ending.block
            case ir.Branch():
                if not TESTS[ending.test](self.value(ending.word)):
                    return ending.otherwise
                if ending.counted is not None:
                    _count_jump(self, ending.counted)
                return ending.block
            case ir.Call():
                if len(frames) > CALL_FRAMES:
                    self.fail(ending.fault)
                called, returns = self.value(ending.called), self.value(ending.returns)
                frames.append(machine.Frame(ending.back, called, returns, self.machine.sbp))
                self.machine.sbp = self.depth
                return ending.block
            case ir.Return():
                if len(frames) == 1:
                    self.fail(ending.fault)
                frame = frames.pop()
                self.machine.sbp = frame.sbp
                return frame.block
            case ir.End():
                raise _EndedError(ending.exit, logged=ending.logged)

    # -- values -------------------------------------------------------------------------------

    def value(self, word: Word) -> int:
        """What a word is now."""
        match word:
            case int():
                return word
            case ir.Temp(number):
                return self.temps[number]
            case ir.Slot(number):
                return self.slots[number]
            case ir.CodeOffset(number):
                return self.function.offsets[number]
            case ir.Depth(plus):
                return self.depth + plus

    def set(self, temp: ir.Temp, value: int) -> None:
        """A new value; it is a word."""
        assert 0 <= value <= WORD_MASK
        assert temp.number not in self.temps, "values are assigned once"
        self.temps[temp.number] = value

    def words(self, words: ir.Words) -> list[int]:
        """Several words."""
        if isinstance(words, ir.TopWords):
            return machine.take(self.machine.stack, self.depth, words.count)
        return [self.value(word) for word in words]

    def position(self, base: Base, plus: int, index: Word | None) -> int:
        """The index of a word of the stack in memory."""
        assert not self.function.static
        start = self.depth if base is Base.DEPTH else self.machine.sbp
        return (start + plus + (0 if index is None else self.value(index))) % STACK_WORDS

    # -- failing ------------------------------------------------------------------------------

    def fail(self, fault: Raise) -> NoReturn:
        """Raise an exception of the program; never returns."""
        if not self.function.static:
            for position, word in fault.stores:
                at = self.position(Base.DEPTH, position, None)
                self.machine.stack[at] = self.value(word)
            self.depth += fault.moved
        triple = self.value(fault.code), self.value(fault.parm1), self.value(fault.parm2)
        if self.function.static:
            raise _EndedError(EXCEPTION, triple)
        block, self.depth = self.machine.throw(*triple, self.depth)
        if self.function.header.autostacktrace:
            self.charge(self.machine.spent)
        if block < 0:
            raise _EndedError(EXCEPTION, self.machine.exception)
        raise _HandledError(block)

    def charge(self, amount: int) -> None:
        """Take something off the budget."""
        if self.left is not None:
            self.left -= amount

    # -- the log ------------------------------------------------------------------------------

    def room(self) -> int:
        """Bytes that the log can still take."""
        return self.function.header.logmax - len(self.log)

    def append(self, item: bytes | None, overflow: Raise | None) -> None:
        """Append an item to the log; None is one that does not fit."""
        if item is not None:
            self.starts.append(len(self.log))
            self.log += item
        elif overflow is not None:
            self.fail(overflow)


_Op = TypeVar("_Op")
_Walker = Callable[[Hit, _Op], None]

#: What each operation does, by its class.
WALKERS: Final[dict[type[Any], Callable[[Hit, Any], None]]] = {}


def walks(kind: type[_Op]) -> Callable[[_Walker[_Op]], _Walker[_Op]]:
    """Register what an operation does."""

    def register(function: _Walker[_Op]) -> _Walker[_Op]:
        assert kind not in WALKERS, kind
        WALKERS[kind] = function
        return function

    return register


@walks(ir.Compute)
def _compute(hit: Hit, op: ir.Compute) -> None:
    hit.set(op.result, COMPUTED[op.op](hit.value(op.left), hit.value(op.right)))


@walks(ir.Divide)
def _divide(hit: Hit, op: ir.Divide) -> None:
    dividend, divisor = hit.value(op.dividend), hit.value(op.divisor)
    negative = [op.signed and word >= SIGN for word in (dividend, divisor)]
    a, b = (2**64 - w if n else w for w, n in zip((dividend, divisor), negative, strict=True))
    quotient, remainder = a // b, a % b
    hit.set(op.quotient, (-quotient if negative[0] != negative[1] else quotient) % 2**64)
    hit.set(op.remainder, (-remainder if negative[0] else remainder) % 2**64)


@walks(ir.Guard)
def _guard(hit: Hit, op: ir.Guard) -> None:
    word = hit.value(op.word)
    low = 0 if op.low is None else op.low
    high = WORD_MASK if op.high is None else hit.value(op.high)
    if not low <= word <= high:
        hit.fail(op.fault)


@walks(ir.Fail)
def _fail(hit: Hit, op: ir.Fail) -> None:
    hit.fail(op.fault)


@walks(ir.ReadFact)
def _read_fact(hit: Hit, op: ir.ReadFact) -> None:
    context = hit.context
    facts: dict[Fact, Callable[[], int]] = {
        Fact.TID: lambda: context.tid,
        Fact.PID: lambda: context.pid,
        Fact.UID: lambda: context.uid,
        Fact.GID: lambda: context.gid,
        Fact.CPU: lambda: context.cpu,
        Fact.NOW: context.now,
    }
    hit.set(op.result, facts[op.fact]() % 2**64)


@walks(ir.ReadName)
def _read_name(hit: Hit, op: ir.ReadName) -> None:
    name = hit.context.comm.ljust(16, b"\0")
    hit.set(op.low, int.from_bytes(name[:8], "little"))
    hit.set(op.high, int.from_bytes(name[8:16], "little"))


@walks(ir.ReadRegister)
def _read_register(hit: Hit, op: ir.ReadRegister) -> None:
    hit.set(op.result, hit.context.regs[op.index] & op.mask)


@walks(ir.WriteRegister)
def _write_register(hit: Hit, op: ir.WriteRegister) -> None:
    hit.context.regs[op.index] = hit.value(op.word) & op.mask


@walks(ir.ReadFxsave)
def _read_fxsave(hit: Hit, op: ir.ReadFxsave) -> None:
    image = hit.context.fpregs()
    hit.set(op.result, int.from_bytes(image[op.offset : op.offset + op.size], "little"))


@walks(ir.WriteFxsave)
def _write_fxsave(hit: Hit, op: ir.WriteFxsave) -> None:
    write = machine.mxcsr_set if op.mxcsr else machine.fp_set
    write(hit.context, op.offset, op.size, hit.value(op.word))


@walks(ir.Load)
def _load(hit: Hit, op: ir.Load) -> None:
    address = hit.value(op.address)
    data = b""
    if address < ADDRESS_END:
        try:
            data = hit.context.read(address, op.width)
        except MemoryFault:
            data = b""
    if not data:
        hit.fail(op.fault)
    hit.set(op.result, int.from_bytes(data, "little"))


@walks(ir.Store)
def _store(hit: Hit, op: ir.Store) -> None:
    address = hit.value(op.address)
    data = hit.value(op.word).to_bytes(op.width, "little")
    if address >= ADDRESS_END:
        hit.fail(op.fault)
    try:
        hit.context.write(address, data)
    except MemoryFault:
        hit.fail(op.fault)


@walks(ir.CheckAccess)
def _check_access(hit: Hit, op: ir.CheckAccess) -> None:
    address = hit.value(op.address)
    good = readable(hit.context, address) and (not op.write or hit.context.writable(address))
    hit.set(op.result, int(not good))


@walks(ir.ReadVariable)
def _read_variable(hit: Hit, op: ir.ReadVariable) -> None:
    hit.set(op.result, hit.variables[op.space][hit.value(op.index)])


@walks(ir.WriteVariable)
def _write_variable(hit: Hit, op: ir.WriteVariable) -> None:
    hit.variables[op.space][hit.value(op.index)] = hit.value(op.word)


@walks(ir.AddToVariable)
def _add_to_variable(hit: Hit, op: ir.AddToVariable) -> None:
    words, index = hit.variables[op.space], hit.value(op.index)
    words[index] = (words[index] + op.number) % 2**64


@walks(ir.GuardRun)
def _guard_run(hit: Hit, op: ir.GuardRun) -> None:
    first, count = hit.value(op.index), hit.value(op.count)
    if count and first + count > op.size:
        hit.set(op.bad, max(first, op.size))
        hit.fail(op.fault)


def _packed(words: Sequence[int]) -> bytes:
    return b"".join(word.to_bytes(8, "little") for word in words)


@walks(ir.ReadArgument)
def _read_argument(hit: Hit, op: ir.ReadArgument) -> None:
    try:
        hit.set(op.result, hit.context.arguments[op.index](hit.context))
    except MemoryFault as fault:
        hit.set(op.address, fault.address)
        hit.fail(op.fault)


@walks(ir.ReadKept)
def _read_kept(hit: Hit, op: ir.ReadKept) -> None:
    hit.set(op.result, hit.context.kept[op.index])


@walks(ir.WriteKept)
def _write_kept(hit: Hit, op: ir.WriteKept) -> None:
    hit.context.kept[op.index] = hit.value(op.word)


@walks(ir.ReadSymbol)
def _read_symbol(hit: Hit, op: ir.ReadSymbol) -> None:
    hit.set(op.result, hit.executor.symbols[op.index])


@walks(ir.LogWords)
def _log_words(hit: Hit, op: ir.LogWords) -> None:
    words = _packed(hit.words(op.words))
    if len(words) > hit.room():
        hit.append(None, op.overflow)
        return
    hit.raw += (len(hit.log), len(words) // 8)
    hit.append(words, op.overflow)


@walks(ir.LogValue)
def _log_value(hit: Hit, op: ir.LogValue) -> None:
    item = op.before + _packed([hit.value(op.word)]) + op.behind
    hit.append(item if len(item) <= hit.room() else None, op.overflow)


@walks(ir.LogStack)
def _log_stack(hit: Hit, op: ir.LogStack) -> None:
    count, room = hit.value(op.count), hit.room()
    hit.append(machine.stack_item(hit.machine.stack, hit.depth, count, room), op.overflow)


@walks(ir.LogVariables)
def _log_variables(hit: Hit, op: ir.LogVariables) -> None:
    token = {Space.LOCAL: ItemToken.LOCALS, Space.GLOBAL: ItemToken.GLOBALS}[op.space]
    words, index, count = hit.variables[op.space], hit.value(op.index), hit.value(op.count)
    hit.append(log.variables_item(token, words, index, count, hit.room()), op.overflow)


@walks(ir.LogMemory)
def _log_memory(hit: Hit, op: ir.LogMemory) -> None:
    make = log.string_item if op.string else log.memory_item
    address, length = hit.value(op.address), hit.value(op.length)
    item, bad = make(hit.context, address, length, hit.room())
    hit.append(item, op.overflow)
    if bad is not None:
        hit.set(op.bad, bad)
        hit.fail(op.fault)


@walks(ir.LogUserStack)
def _log_user_stack(hit: Hit, op: ir.LogUserStack) -> None:
    hit.append(log.user_stack_item(hit.context, op.depth, hit.room()), op.overflow)


@walks(ir.LogLength)
def _log_length(hit: Hit, op: ir.LogLength) -> None:
    hit.set(op.result, len(hit.log))


@walks(ir.LastItem)
def _last_item(hit: Hit, op: ir.LastItem) -> None:
    hit.set(op.result, hit.starts[-1] if hit.starts else 0)


@walks(ir.CutLog)
def _cut_log(hit: Hit, op: ir.CutLog) -> None:
    machine.cut_log(hit.log, hit.raw, hit.starts, hit.value(op.length))


@walks(ir.SetNumber)
def _set_number(hit: Hit, op: ir.SetNumber) -> None:
    if op.major:
        hit.major = hit.value(op.word)
    else:
        hit.minor = hit.value(op.word)


@walks(ir.Suspend)
def _suspend(hit: Hit, op: ir.Suspend) -> None:
    hit.suspend = True


@walks(ir.Resume)
def _resume(hit: Hit, op: ir.Resume) -> None:
    hit.resume = True


@walks(ir.Charge)
def _charge(hit: Hit, op: ir.Charge) -> None:
    word = hit.value(op.word)
    hit.charge((word if op.at_most is None else min(word, op.at_most)) // 2**op.shift)


@walks(ir.StackLoad)
def _stack_load(hit: Hit, op: ir.StackLoad) -> None:
    hit.set(op.result, hit.machine.stack[hit.position(op.base, op.plus, op.index)])


@walks(ir.StackStore)
def _stack_store(hit: Hit, op: ir.StackStore) -> None:
    hit.machine.stack[hit.position(op.base, op.plus, op.index)] = hit.value(op.word)


@walks(ir.MoveDepth)
def _move_depth(hit: Hit, op: ir.MoveDepth) -> None:
    hit.depth += op.words


@walks(ir.DropWords)
def _drop_words(hit: Hit, op: ir.DropWords) -> None:
    hit.depth -= hit.value(op.count)
    if hit.depth < 0:
        hit.depth %= STACK_WORDS


@walks(ir.SetDepth)
def _set_depth(hit: Hit, op: ir.SetDepth) -> None:
    hit.depth = hit.value(op.word) % STACK_WORDS


@walks(ir.PushCopies)
def _push_copies(hit: Hit, op: ir.PushCopies) -> None:
    word = hit.value(op.word)
    for _ in range(hit.value(op.count)):
        hit.machine.stack[hit.depth % STACK_WORDS] = word
        hit.depth += 1


@walks(ir.ReadFrameBase)
def _read_frame_base(hit: Hit, op: ir.ReadFrameBase) -> None:
    hit.set(op.result, hit.machine.sbp % STACK_WORDS)


@walks(ir.SetFrameBase)
def _set_frame_base(hit: Hit, op: ir.SetFrameBase) -> None:
    hit.machine.sbp = hit.value(op.word) % STACK_WORDS


@walks(ir.MoveSlots)
def _move_slots(hit: Hit, op: ir.MoveSlots) -> None:
    values = [hit.value(word) for word in op.words]
    for slot, value in zip(op.slots, values, strict=True):
        hit.slots[slot.number] = value


@walks(ir.SetHandler)
def _set_handler(hit: Hit, op: ir.SetHandler) -> None:
    frame = hit.machine.frames[-1]
    frame.handler, frame.handler_at = op.block, hit.value(op.at)


@walks(ir.ClearHandler)
def _clear_handler(hit: Hit, op: ir.ClearHandler) -> None:
    hit.machine.frames[-1].handler = -1


@walks(ir.LastException)
def _last_exception(hit: Hit, op: ir.LastException) -> None:
    for temp, value in zip((op.code, op.parm1, op.parm2), hit.machine.last, strict=True):
        hit.set(temp, value)


@walks(ir.ShowInTraces)
def _show_in_traces(hit: Hit, op: ir.ShowInTraces) -> None:
    names = {Shown.STACK: "pv", Shown.LOCALS: "lv", Shown.GLOBALS: "gv"}
    shown = hit.value(op.first), hit.value(op.count)
    setattr(hit.machine.frames[-1], names[op.shown], shown)


@walks(ir.AppendTrace)
def _append_trace(hit: Hit, op: ir.AppendTrace) -> None:
    hit.machine.log_stack_trace()
    hit.charge(hit.machine.spent)


@walks(ir.TraceLength)
def _trace_length(hit: Hit, op: ir.TraceLength) -> None:
    hit.set(op.result, len(hit.machine.trace))


@walks(ir.CutTrace)
def _cut_trace(hit: Hit, op: ir.CutTrace) -> None:
    hit.machine.cut_trace(hit.value(op.length))


@walks(ir.Allocate)
def _allocate(hit: Hit, op: ir.Allocate) -> None:
    handle = hit.heap.malloc(hit.value(op.size))
    if not handle:
        hit.fail(op.fault)
    hit.set(op.result, handle)


@walks(ir.Free)
def _free(hit: Hit, op: ir.Free) -> None:
    if not hit.heap.free(hit.value(op.handle)):
        hit.fail(op.fault)


def _heap_run(hit: Hit, place: ir.HeapPlace) -> memoryview:
    """The bytes of a place in the heap."""
    block = hit.heap.blocks.get(hit.value(place.handle))
    if block is None:
        hit.fail(place.no_block)
    offset, size = hit.value(place.offset), place.width * place.count
    if offset + size > len(block):
        hit.fail(place.outside)
    return memoryview(block)[offset : offset + size]


def _numbers(run: memoryview, width: int) -> list[int]:
    starts = range(0, len(run), width)
    return [int.from_bytes(run[at : at + width], "little") for at in starts]


@walks(ir.HeapLoad)
def _heap_load(hit: Hit, op: ir.HeapLoad) -> None:
    numbers = _numbers(_heap_run(hit, op.place), op.place.width)
    for result, number in zip(op.results, numbers, strict=True):
        hit.set(result, number)


@walks(ir.HeapPush)
def _heap_push(hit: Hit, op: ir.HeapPush) -> None:
    for number in reversed(_numbers(_heap_run(hit, op.place), op.place.width)):
        hit.machine.stack[hit.depth % STACK_WORDS] = number
        hit.depth += 1


@walks(ir.HeapStore)
def _heap_store(hit: Hit, op: ir.HeapStore) -> None:
    width, run = op.place.width, _heap_run(hit, op.place)
    for n, word in enumerate(hit.words(op.words)):
        run[n * width : (n + 1) * width] = _packed([word])[:width]


@walks(ir.CountJump)
def _count_jump(hit: Hit, op: ir.CountJump) -> None:
    if hit.jumps <= 0:
        hit.fail(op.fault)
    hit.jumps -= 1


@walks(ir.GuardFacility)
def _guard_facility(hit: Hit, op: ir.GuardFacility) -> None:
    executor = hit.executor
    if op.number in executor.known and op.number not in executor.facilities.values():
        hit.fail(op.fault)
