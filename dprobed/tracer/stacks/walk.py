"""Walks the stack of a thread at a hit.

A frame's *lookup address* is where the thread is, or, of a caller, one byte before the place that
it will return to, which may already be another function's. What is found for it is remembered as a
*step*: most stacks are the same few callers again, and a step of which rsp and rbp are enough is
then some additions and two loads. Other registers are needed by few rules (hand-written assembler,
code that aligns its stack); they are searched through the frames that were left, only then.

The target may have written anything to its stack. So a walk is bounded by its depth; the frame of a
caller is above that of the called, except where a signal may have changed the stack; it reads with
the means, and the limits, of a program's own accesses; and it ends with a reason.
"""

from __future__ import annotations

from collections.abc import Callable
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


class _Memory:
    """The stack, read in pieces."""

    def __init__(self, hit: HitThread, address: int) -> None:
        self._hit = hit
        self.low = 0
        self.words = memoryview(b"").cast("Q")
        if address:
            self._read(address)

    def _read(self, address: int) -> None:
        self.low = address & ~7
        data = self._hit.read_partial(self.low, _PIECE)
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

    def walk(self, hit: HitThread, depth: int) -> UserStack:
        """The stack of the thread that hit, at most ``depth`` frames."""
        return _Walk(self, hit).run(depth)

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

    def __init__(self, walker: Walker, hit: HitThread) -> None:
        self._walker = walker
        self._hit = hit
        self._memory = _Memory(hit, hit.regs[RSP])
        #: The frames that were left, for registers that are searched: CFA and rule.
        self._left: list[tuple[int, Rule]] = []

    def run(self, depth: int) -> UserStack:
        """Walk."""
        frames: list[int] = []
        modules: dict[bytes, int] = {}
        try:
            end = self._run(depth, frames, modules)
        except _Stop as stop:
            end = stop.end
        except EvaluationError:
            end = StackEnd.NO_RULE
        return UserStack(end, list(modules), frames)

    def _run(self, depth: int, frames: list[int], modules: dict[bytes, int]) -> StackEnd:
        regs = self._hit.regs
        walker, memory, left = self._walker, self._memory, self._left
        steps = walker.known()
        pc, sp, bp = regs[RIP], regs[RSP], regs[_DWARF[_RBP]]
        exact = EXACT
        signals = 0
        while True:
            lookup = pc if exact else pc - 1
            step = steps.get(lookup)
            if step is None:
                step = walker.step(lookup, self._hit.tid)
                if step.code.anonymous and exact:
                    place = walker.original(pc)
                    if place != pc:
                        pc = place
                        continue
            base, plus, returns, saved, rule, code = step
            number = 0
            if code.module:
                number = modules.get(code.module, 0)
                if not number and len(modules) < MOST_MODULES:
                    number = modules[code.module] = len(modules) + 1
            if number:
                frames.append(pc - code.bias & ADDRESS | number << 56 | exact)
            else:
                frames.append(pc & ADDRESS | exact)
            if rule is not None and rule.signal:
                frames[-1] |= SIGNAL
            # What follows is what most frames need: a rule of rsp or rbp and a number.
            if not base:
                cfa = sp + plus
            elif base == 1:
                cfa = bp + plus
            elif base == 2:
                assert rule is not None
                if _ends(rule):
                    return StackEnd.WHOLE
                cfa = self._cfa(rule, sp, bp)
            else:
                rule = self._by_frame_pointer(step, sp, bp, bool(exact))
                if rule is None:
                    return StackEnd.WHOLE
                cfa = (sp if rule.cfa_register == _RSP else bp) + rule.cfa_offset
                returns, saved = -8, 0 if rule is _BEGUN else -16
            if len(frames) >= depth:
                return StackEnd.DEPTH
            assert rule is not None
            is_signal = rule.signal
            if cfa <= sp:
                signals += is_signal
                if not is_signal or signals > _MOST_SIGNALS:
                    raise _Stop(StackEnd.NOT_GROWING)
            left.append((cfa, rule))
            if base == 2:
                pc = self._value(rule.return_register, len(left))
                bp = self._value(_RBP, len(left))
                sp = self._value(_RSP, len(left))
            else:
                place = cfa + returns
                index = place - memory.low >> 3
                words = memory.words
                pc = (
                    words[index]
                    if not place & 7 and 0 <= index < len(words)
                    else memory.load(place)
                )
                if saved:
                    bp = memory.load(cfa + saved)
                sp = cfa
            if not pc:
                return StackEnd.WHOLE
            exact = EXACT if is_signal else 0

    # -- what few frames need ------------------------------------------------------------------

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
