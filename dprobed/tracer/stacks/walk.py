"""Walks the stack of a thread at a hit.

A frame's *lookup address* is where the thread is, or, of a caller, one byte before the place that
it will return to, which may already be another function's. What is found for it is remembered as a
*step*: most stacks are the same few callers again, and a step of which rsp and rbp are enough is
then some additions and two loads. Other registers are needed by few rules (hand-written assembler,
code that aligns its stack); they are searched through the frames that were left, only then.

Most stacks are even the same as one before: at the same place, with the same rsp and rbp, and the
same words in all places that were looked at. That is all that such a walk went by, so its result is
taken again where it is so (*known walks*).

The target may have written anything to its stack. So a walk is bounded by its depth; the frame of a
caller is above that of the called, except where a signal may have changed the stack; it reads with
the means, and the limits, of a program's own accesses; and it ends with a reason.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Final, NamedTuple, Protocol

from dprobed.arch.x86_64.registers import REGISTER_NAMES, RIP, RSP
from dprobed.program.exec.interface import Registers
from dprobed.program.user_stack import ADDRESS, EXACT, MOST_MODULES, SIGNAL, StackEnd, UserStack
from dprobed.tracer.stacks.expression import WORD, EvaluationError, evaluate
from dprobed.tracer.stacks.layout import Code, Layout
from dprobed.wire.resolver import RETURN, How, Rule

#: DWARF's numbers of the registers, as indices of ``Registers``.
_DWARF: Final = tuple(
    REGISTER_NAMES.index(name)
    for name in (
        *("rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp"),
        *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
    )
)
_RBP, _RSP = 6, 7
_UNDEFINED, _OFFSET, _VALUE, _REGISTER, _AT, _COMPUTED = range(1, 7)

#: Frames of code without rules: before the function has pushed anything, behind its push of rbp,
#: and where rbp is its frame pointer.
_BEGUN: Final = Rule(_RSP, 8, b"", (How(RETURN, _OFFSET, -8, b""),), RETURN, False)
_PUSHED: Final = Rule(
    _RSP, 16, b"", (How(_RBP, _OFFSET, -16, b""), How(RETURN, _OFFSET, -8, b"")), RETURN, False
)
_FRAMED: Final = _PUSHED._replace(cfa_register=_RBP)

#: Bytes of the stack that are read at once: two pages are looked at in the shortest way.
_PIECE: Final = 4096
#: Steps that are remembered; then all are forgotten.
_MOST_STEPS: Final = 1 << 16
#: Walks that are remembered, and the most bytes of the stack that one may reach over.
_MOST_WALKS: Final = 256
_MOST_REACH: Final = 1 << 14
#: Signal frames of a stack at most, behind which it may be another.
_MOST_SIGNALS: Final = 16


class HitThread(Protocol):
    """What is needed of a ``Context``."""

    regs: Registers

    @property
    def tid(self) -> int:
        """The thread."""
        ...

    def read_partial(self, address: int, length: int) -> bytes:
        """As many bytes as are readable."""
        ...


class _Step(NamedTuple):
    """How to go on from a lookup address.

    ``base``: the CFA is rsp (0) or rbp (1) plus ``plus``, or as ``rule`` says (2), or there is none
    (3: by frame pointer). ``returns``: where the return address is from the CFA on; ``saved``: the
    same of rbp, 0: it is as it was.
    """

    base: int
    plus: int
    returns: int
    saved: int
    rule: Rule | None
    code: Code


class _Stop(Exception):
    """The walk ends here."""

    def __init__(self, end: StackEnd) -> None:
        super().__init__(end)
        self.end = end


class _KnownWalk(NamedTuple):
    """What a walk went by besides its registers: of so many bytes from rsp on those words that
    ``pick`` gives; and its result."""

    reach: int
    pick: Callable[[memoryview], object]
    words: object
    stack: UserStack


class _Memory:
    """The stack, read in pieces. ``data``: what is there at ``address``, if that is known."""

    def __init__(self, hit: HitThread, address: int, data: bytes) -> None:
        self._hit = hit
        self.low = 0
        self.words = memoryview(b"").cast("Q")
        if address:
            self._read(address, data)

    def _read(self, address: int, data: bytes = b"") -> None:
        self.low = address & ~7
        data = data or self._hit.read_partial(self.low, _PIECE)
        self.words = memoryview(data[: len(data) & ~7]).cast("Q")

    def load(self, address: int) -> int:
        """The word at an address; raises _Stop."""
        if not 0 < address < 1 << 56:
            raise _Stop(StackEnd.UNREADABLE)
        if address & 7:
            data = self._hit.read_partial(address, 8)
            if len(data) < 8:
                raise _Stop(StackEnd.UNREADABLE)
            return int.from_bytes(data, "little")
        index = address - self.low >> 3
        if not 0 <= index < len(self.words):
            self._read(address)
            index = 0
            if not self.words:
                raise _Stop(StackEnd.UNREADABLE)
        return self.words[index]


class Walker:
    """Walks stacks in one address space.

    ``original``: the place that an address in our own pages stands for.
    """

    def __init__(self, layout: Layout, original: Callable[[int], int]) -> None:
        self._layout: Final = layout
        self._original: Final = original
        self._steps: dict[int, _Step] = {}
        #: By rip, rsp, rbp and depth.
        self._walks: dict[tuple[int, int, int, int], _KnownWalk] = {}

    def walk(self, hit: HitThread, depth: int) -> UserStack:
        """The stack of the thread that hit, at most ``depth`` frames; not to be altered."""
        regs = hit.regs
        stack = regs[RSP]
        key = regs[RIP], stack, regs[_DWARF[_RBP]], depth
        known = self._walks.get(key)
        data = b""
        if known is not None:
            data = hit.read_partial(stack & ~7, known.reach)
            if len(data) == known.reach and known.pick(memoryview(data).cast("Q")) == known.words:
                return known.stack
        walk = _Walk(self, hit, data)
        found = walk.run(depth)
        again = walk.known(found)
        if again is not None:
            if len(self._walks) >= _MOST_WALKS:
                self._walks.clear()
            self._walks[key] = again
        return found

    def step(self, lookup: int, tid: int) -> _Step:
        """How to go on from an address; raises _Stop."""
        code = self._layout.code(lookup, tid)
        if code is None:
            raise _Stop(StackEnd.NO_CODE)
        step = _step(code)
        # What cannot be told now may be told later; where code is made, there is other code soon.
        if not code.missing and not code.anonymous:
            if len(self._steps) >= _MOST_STEPS:
                self._steps.clear()
            self._steps[lookup] = step
        return step

    def place(self, address: int, tid: int) -> Code | None:
        """What is known of an address; None: it is no code."""
        return self._layout.code(address, tid)

    def original(self, address: int) -> int:
        """The place that an address stands for."""
        return self._original(address)

    def known(self) -> dict[int, _Step]:
        """The steps that are remembered."""
        return self._steps


class _Walk:
    """One walk."""

    def __init__(self, walker: Walker, hit: HitThread, data: bytes) -> None:
        """``data``: what is there from rsp on, if that is known."""
        self._walker = walker
        self._hit = hit
        self._memory = _Memory(hit, hit.regs[RSP], data)
        #: Where it looked, and what was there; whether it went by that and nothing else.
        self._looked: list[int] = []
        self._there: list[int] = []
        self._is_all = True
        #: The frames that were left, for registers that are searched: CFA and rule.
        self._left: list[tuple[int, Rule]] = []
        #: The modules of the frames, and their numbers from 1 on; 0: it is not among them.
        self._modules: list[bytes] = []
        self._numbers: dict[bytes, int] = {b"": 0}
        #: Signal frames behind which the stack is not above.
        self._signals = 0

    def run(self, depth: int) -> UserStack:
        """Walk."""
        frames: list[int] = []
        try:
            end = self._run(depth, frames)
        except _Stop as stop:
            end = stop.end
            self._is_all = False  # it may be another end when more is known, or more is there
        except EvaluationError:
            end = StackEnd.NO_RULE
            self._is_all = False
        return UserStack(end, self._modules, frames)

    def known(self, found: UserStack) -> _KnownWalk | None:
        """How to know this walk again; None: that cannot be told so easily."""
        looked = self._looked
        if not self._is_all or not looked:
            return None
        low = self._hit.regs[RSP] & ~7
        if min(looked) < low or max(looked) >= low + _MOST_REACH or any(at & 7 for at in looked):
            return None
        pick = itemgetter(*[at - low >> 3 for at in looked])
        words = tuple(self._there) if len(looked) > 1 else self._there[0]
        return _KnownWalk(max(looked) + 8 - low, pick, words, found)

    def _run(self, depth: int, frames: list[int]) -> StackEnd:
        regs = self._hit.regs
        memory, left, numbers = self._memory, self._left, self._numbers
        looked, there = self._looked, self._there
        steps = self._walker.known()
        pc, sp, bp = regs[RIP], regs[RSP], regs[_DWARF[_RBP]]
        exact = EXACT
        while True:
            step = steps.get(pc if exact else pc - 1)
            if step is None:
                step, pc = self._new_step(pc, exact)
            base, plus, returns, saved, rule, code = step
            number = numbers.get(code.module)
            if number is None:
                number = self._number(code.module)
            frames.append((pc - code.bias & ADDRESS | number << 56 if number else pc & ADDRESS)
                          | exact)  # fmt: skip
            if rule is not None and rule.signal:
                frames[-1] |= SIGNAL
            # What follows is what most frames need: a rule of rsp or rbp and a number.
            if not base:
                cfa = sp + plus
            elif base == 1:
                cfa = bp + plus
            else:
                found = self._uncommon(step, sp, bp, bool(exact))
                if found is None:
                    return StackEnd.WHOLE
                cfa, returns, saved, rule = found
            assert rule is not None
            if len(frames) >= depth:
                return StackEnd.DEPTH
            if cfa <= sp:
                self._look_back(rule)
            left.append((cfa, rule))
            if base == 2:
                pc, bp, sp = (
                    self._value(number, len(left)) for number in (rule.return_register, _RBP, _RSP)
                )
            else:
                place = cfa + returns
                pc = memory.load(place)
                looked.append(place)
                there.append(pc)
                if saved:
                    place = cfa + saved
                    bp = memory.load(place)
                    looked.append(place)
                    there.append(bp)
                sp = cfa
            if not pc:
                return StackEnd.WHOLE
            exact = EXACT if rule.signal else 0

    # -- what few frames need ------------------------------------------------------------------

    def _new_step(self, pc: int, exact: int) -> tuple[_Step, int]:
        """How to go on from an address that was not met before, and the place that it stands for;
        raises _Stop."""
        while True:
            step = self._walker.step(pc if exact else pc - 1, self._hit.tid)
            if step.code.missing or step.code.anonymous:
                self._is_all = False
            place = self._walker.original(pc) if step.code.anonymous and exact else pc
            if place == pc:
                return step, pc
            pc = place

    def _number(self, module: bytes) -> int:
        """The number of a module that has none yet; 0: there are too many."""
        if len(self._modules) < MOST_MODULES:
            self._modules.append(module)
            self._numbers[module] = len(self._modules)
        else:
            self._numbers[module] = 0
        return self._numbers[module]

    def _uncommon(
        self, step: _Step, sp: int, bp: int, exact: bool
    ) -> tuple[int, int, int, Rule] | None:
        """The CFA where it is not rsp or rbp and a number, where from it the return address and rbp
        are, and the rule; None: this is the outermost frame."""
        rule = step.rule
        if step.base == 2:
            assert rule is not None
            if _ends(rule):
                return None
            self._is_all = False
            return self._cfa(rule, sp, bp), 0, 0, rule
        self._is_all = False
        rule = self._by_frame_pointer(step, sp, bp, exact)
        if rule is None:
            return None
        cfa = (sp if rule.cfa_register == _RSP else bp) + rule.cfa_offset
        return cfa, -8, 0 if rule is _BEGUN else -16, rule

    def _look_back(self, rule: Rule) -> None:
        """The caller's frame is not above: so it may be behind a signal's; raises _Stop."""
        self._signals += rule.signal
        if not rule.signal or self._signals > _MOST_SIGNALS:
            raise _Stop(StackEnd.NOT_GROWING)

    def _cfa(self, rule: Rule, sp: int, bp: int) -> int:
        def register(number: int) -> int:
            if number == _RSP:
                return sp
            return bp if number == _RBP else self._value(number, len(self._left))

        if rule.cfa_register >= 0:
            return register(rule.cfa_register) + rule.cfa_offset & WORD
        return evaluate(rule.cfa_expression, register, self._memory.load)

    def _value(self, number: int, depth: int) -> int:
        """A register's value in the frame with ``depth`` frames below it."""
        while depth:
            depth -= 1
            cfa, rule = self._left[depth]
            how = next((each for each in rule.registers if each.register == number), None)
            if how is None:
                if number == _RSP:
                    return cfa
                continue
            found = self._found(how, cfa, depth)
            if found is not None:
                return found
            number = how.value
        if number >= RETURN:
            return self._hit.regs[RIP]
        return self._hit.regs[_DWARF[number]]

    def _found(self, how: How, cfa: int, depth: int) -> int | None:
        """The value that a rule gives to a register; None: that of another in the frame below."""
        if how.kind == _OFFSET:
            return self._memory.load(cfa + how.value & WORD)
        if how.kind == _VALUE:
            return cfa + how.value & WORD
        if how.kind == _REGISTER:
            if not 0 <= how.value <= RETURN:
                raise _Stop(StackEnd.NO_RULE)
            return None
        if how.kind in (_AT, _COMPUTED):
            found = evaluate(
                how.expression,
                lambda number: self._value(number, depth),
                self._memory.load,
                cfa,
            )
            return self._memory.load(found) if how.kind == _AT else found
        raise _Stop(StackEnd.NO_RULE)

    def _by_frame_pointer(self, step: _Step, sp: int, bp: int, exact: bool) -> Rule | None:
        """The rule for code that has none; None: this is the outermost frame."""
        memory = self._memory
        if exact:
            # At the beginning of a function, the frame of which is not made yet.
            first = memory.load(sp)
            if self._is_return_address(first):
                return _BEGUN
            if first == bp and self._is_return_address(memory.load(sp + 8)):
                return _PUSHED
        if not bp and not exact:
            return None
        if bp < sp or bp & 7:
            raise _Stop(StackEnd.NO_TABLE if step.code.missing else StackEnd.NO_CFI)
        if not memory.load(bp) and not memory.load(bp + 8):
            return None
        return _FRAMED

    def _is_return_address(self, address: int) -> bool:
        """Whether there is code behind a call instruction."""
        if not 8 <= address < 1 << 56 or self._walker.place(address - 1, self._hit.tid) is None:
            return False
        before = self._hit.read_partial(address - 8, 8)
        if len(before) < 8:
            return False
        if before[3] == 0xE8:
            return True
        return any(
            before[-size] == 0xFF and before[1 - size] & 0x38 == 0x10 for size in range(2, 8)
        )


def _ends(rule: Rule) -> bool:
    """Whether it says that there is no caller."""
    return any(
        each.register == rule.return_register and each.kind == _UNDEFINED for each in rule.registers
    )


def _step(code: Code) -> _Step:
    rule = code.rule
    if rule is None:
        return _Step(3, 0, 0, 0, None, code)
    by = {each.register: each for each in rule.registers}
    returns, saved = by.get(rule.return_register), by.get(_RBP)
    simple = (
        rule.cfa_register in (_RSP, _RBP)
        and returns is not None
        and returns.kind == _OFFSET
        and (saved is None or (saved.kind == _OFFSET and saved.value != 0))
        and _RSP not in by
    )
    if not simple or returns is None:
        return _Step(2, 0, 0, 0, rule, code)
    base = 0 if rule.cfa_register == _RSP else 1
    return _Step(base, rule.cfa_offset, returns.value, saved.value if saved else 0, rule, code)
