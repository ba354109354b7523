"""Data flow analysis: a program's stack depth and call depth before it runs.

An abstract interpretation: at each instruction the depth of the evaluation stack is an interval of
words, joined over all paths that reach it. Subroutines are first analysed by themselves, relative
to the depth at their entry (how much deeper or shallower they leave the stack), then everything is
analysed from the probes' entries. Only what holds on *every* path is called wrong; the rest is
checked at run time. An exception handler is entered with at least the three words of the triple.

All of it is bounded: intervals that keep growing are widened to "unknown", and subroutines are
analysed within a common budget, past which their effect is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from dprobed.program.isa import CALL_FRAMES, STACK_WORDS, Flow, Instruction, Operand

Interval = tuple[int, int]
_ANY: Final[Interval] = (0, STACK_WORDS)
#: At the entry of an exception handler.
_TRIPLE: Final[Interval] = (3, STACK_WORDS)
_ANY_CHANGE: Final[Interval] = (-STACK_WORDS, STACK_WORDS)
#: An interval that has changed so often at one instruction is widened.
_PATIENCE: Final = 4
#: Instructions looked at in all analyses of subroutines together.
_BUDGET: Final = 200_000


class Decoded(msgspec.Struct, frozen=True):
    """One instruction of the code. ``broken``: it is refused already, its effect is unknown."""

    offset: int
    instruction: Instruction
    operands: tuple[int, ...]
    next: int
    broken: bool = False

    @property
    def target(self) -> int | None:
        """The code offset of its label, if it has one."""
        if self.broken or Operand.LABEL not in self.instruction.operands:
            return None
        return self.operands[0]


class FlowFault(msgspec.Struct, frozen=True):
    """Something provably wrong at the instruction at ``offset``. ``depth``: show the depths."""

    offset: int
    message: str
    hint: str
    depth: bool = False


class _Body(msgspec.Struct):
    """A subroutine: its instructions, its calls, whether it returns, and what it does to the depth.

    ``change`` None: it never returns.
    """

    nodes: set[int] = msgspec.field(default_factory=set)
    calls: dict[int, int] = msgspec.field(default_factory=dict)
    change: Interval | None = None


class Analysis:
    """The depths of a program whose jumps are known to go to instructions."""

    def __init__(self, code: Sequence[Decoded], entries: Sequence[int]) -> None:
        self._at = {decoded.offset: decoded for decoded in code}
        self._entries = entries
        self._bodies: dict[int, _Body | None] = {}
        self._budget = _BUDGET
        self.depths: dict[int, Interval] = {}
        self.faults: list[FlowFault] = []

    def run(self) -> None:
        """Fill ``depths`` (code offset → interval, only what is reachable) and ``faults``."""
        self._summarize_all()
        self._solve([(entry, (0, 0)) for entry in self._entries], self.depths, _ANY)
        for offset in sorted(self.depths):
            self._check_depth(self._at[offset], self.depths[offset])
        self._check_returns()
        self._check_call_depth()
        self._check_recursion()
        self.faults.sort(key=lambda fault: fault.offset)

    # -- evaluation stack ---------------------------------------------------------------------

    def _check_depth(self, decoded: Decoded, depth: Interval) -> None:
        if decoded.broken:
            return
        need, change = decoded.instruction.effect(decoded.operands)
        name = decoded.instruction.spelling
        if depth[1] < need:
            have = "none" if depth[1] == 0 else f"only {depth[1]}"
            words = "1 word" if need == 1 else f"{need} words"
            self.faults.append(
                FlowFault(
                    decoded.offset,
                    f"`{name}` needs {words} on the stack; there is {have} on any path to here",
                    "push what it takes first",
                    depth=True,
                )
            )
        elif change is not None and depth[0] + change > STACK_WORDS:
            self.faults.append(
                FlowFault(
                    decoded.offset,
                    f"`{name}` makes the stack {depth[0] + change} words deep on any path to "
                    f"here; it has {STACK_WORDS}",
                    "pop or log words before",
                    depth=True,
                )
            )

    @staticmethod
    def _change(decoded: Decoded, state: Interval, bounds: Interval) -> Interval:
        """The depths after an instruction."""
        if decoded.broken:
            return bounds
        need, change = decoded.instruction.effect(decoded.operands)
        if change is None:
            return bounds
        low, high = state
        if bounds is _ANY and high < need:
            # Reported; go on as if the words had been there, so that it is reported once.
            low = high = need
        return _clip(low + change, bounds), _clip(high + change, bounds)

    def _steps(
        self, decoded: Decoded, state: Interval, bounds: Interval
    ) -> Iterator[tuple[int, Interval]]:
        """Where it goes on, and with which depths; into subroutines only with ``_ANY``."""
        flow = decoded.instruction.flow
        after = self._change(decoded, state, bounds)
        if flow is Flow.CALL and decoded.target is not None:
            body = self._bodies.get(decoded.target)
            change = _ANY_CHANGE if body is None else body.change
            if bounds is _ANY:
                yield decoded.target, state
            if change is None:
                return
            after = _clip(state[0] + change[0], bounds), _clip(state[1] + change[1], bounds)
        if decoded.broken or flow.falls_through:
            yield decoded.next, after
        if decoded.target is None or flow is Flow.CALL:
            return
        if flow is Flow.HANDLER:
            yield decoded.target, (_TRIPLE if bounds is _ANY else _ANY_CHANGE)
        else:
            yield decoded.target, after

    def _solve(
        self,
        starts: Sequence[tuple[int, Interval]],
        states: dict[int, Interval],
        bounds: Interval,
    ) -> bool:
        """Fill ``states`` from ``starts`` on; False when the budget is used up.

        ``bounds`` is ``_ANY`` for depths, and ``_ANY_CHANGE`` for a subroutine's effect on them.
        """
        changes: dict[int, int] = {}
        waiting = []
        arriving = list(starts)
        while True:
            for offset, state in arriving:
                if offset not in self._at:
                    continue
                known = states.get(offset)
                joined = state
                if known is not None:
                    joined = min(known[0], state[0]), max(known[1], state[1])
                    if joined == known:
                        continue
                    changes[offset] = changes.get(offset, 0) + 1
                    if changes[offset] > _PATIENCE:
                        low = bounds[0] if joined[0] < known[0] else joined[0]
                        high = bounds[1] if joined[1] > known[1] else joined[1]
                        joined = low, high
                states[offset] = joined
                waiting.append(offset)
            if not waiting:
                return True
            if bounds is _ANY_CHANGE:
                self._budget -= 1
                if self._budget < 0:
                    return False
            offset = waiting.pop()
            arriving = list(self._steps(self._at[offset], states[offset], bounds))

    # -- subroutines --------------------------------------------------------------------------

    def _summarize_all(self) -> None:
        """Callees before callers; what calls itself, or too much else, stays unknown (None)."""
        targets = {
            d.target
            for d in self._at.values()
            if d.instruction.flow is Flow.CALL and d.target is not None
        }
        for target in sorted(targets):
            path = [target]
            while path:
                entry = path[-1]
                if entry in self._bodies:
                    path.pop()
                    continue
                body = self._outline(entry)
                pending = [
                    callee
                    for callee in ([] if body is None else body.calls.values())
                    if callee not in self._bodies and callee not in path
                ]
                if pending and len(path) <= CALL_FRAMES:
                    path.append(pending[0])
                    continue
                self._bodies[entry] = self._summarize(entry, body)
                path.pop()

    def _outline(self, entry: int) -> _Body | None:
        """The instructions and calls of a subroutine; None when the budget is used up."""
        body = _Body()
        waiting = [entry]
        while waiting:
            offset = waiting.pop()
            decoded = self._at.get(offset)
            if decoded is None or offset in body.nodes:
                continue
            self._budget -= 1
            if self._budget < 0:
                return None
            body.nodes.add(offset)
            if decoded.instruction.flow is Flow.CALL and decoded.target is not None:
                body.calls[offset] = decoded.target
            waiting.extend(self._next_in_frame(decoded))
        return body

    @staticmethod
    def _next_in_frame(decoded: Decoded) -> Iterator[int]:
        flow = decoded.instruction.flow
        if decoded.broken or flow.falls_through:
            yield decoded.next
        if decoded.target is not None and flow is not Flow.CALL:
            yield decoded.target

    def _summarize(self, entry: int, body: _Body | None) -> _Body | None:
        states: dict[int, Interval] = {}
        if body is None or not self._solve([(entry, (0, 0))], states, _ANY_CHANGE):
            return None
        for offset, state in states.items():
            if self._at[offset].instruction.flow is Flow.RETURN and not self._at[offset].broken:
                known = body.change or state
                body.change = min(known[0], state[0]), max(known[1], state[1])
        return body

    # -- call stack ---------------------------------------------------------------------------

    def _outermost(self) -> set[int]:
        """The instructions that a probe executes outside of any call."""
        found: set[int] = set()
        waiting = list(self._entries)
        while waiting:
            offset = waiting.pop()
            decoded = self._at.get(offset)
            if decoded is None or offset in found:
                continue
            found.add(offset)
            flow = decoded.instruction.flow
            if flow is Flow.CALL and decoded.target is not None:
                body = self._bodies.get(decoded.target)
                if body is not None and body.change is None:
                    continue
            waiting.extend(self._next_in_frame(decoded))
        return found

    def _check_returns(self) -> None:
        for offset in self._outermost():
            decoded = self._at[offset]
            if decoded.instruction.flow is Flow.RETURN and not decoded.broken:
                self.faults.append(
                    FlowFault(
                        offset,
                        "`ret` is reached outside of any subroutine",
                        "end the probe with `exit` before the subroutine begins",
                    )
                )

    def _check_call_depth(self) -> None:
        """Refuse chains of calls, without recursion, that are longer than the call stack."""
        height: dict[int, int | None] = {}
        for entry in self._bodies:
            self._measure(entry, height)
        for offset in sorted(self.depths):
            decoded = self._at[offset]
            if decoded.instruction.flow is not Flow.CALL or decoded.target is None:
                continue
            deep = height.get(decoded.target)
            if deep is not None and deep == CALL_FRAMES + 1:
                self.faults.append(
                    FlowFault(
                        offset,
                        f"calls nest {deep} deep from here; {CALL_FRAMES} are possible",
                        "let fewer subroutines call each other",
                    )
                )

    def _measure(self, entry: int, height: dict[int, int | None]) -> None:
        """The longest chain of calls that begins with a call of ``entry``; None: recursive."""
        path = {entry: None}  # in the order of the calls
        while path:
            top = next(reversed(path))
            body = self._bodies.get(top)
            callees = [] if body is None else list(body.calls.values())
            pending = [callee for callee in callees if callee not in height]
            if any(callee in path for callee in pending):
                for recursive in path:
                    height[recursive] = None
                path.clear()
            elif pending:
                path[pending[0]] = None
            else:
                known = [height[callee] for callee in callees]
                if body is None or None in known:
                    height[top] = None
                else:
                    height[top] = 1 + max((deep or 0 for deep in known), default=0)
                path.popitem()

    def _check_recursion(self) -> None:
        """Refuse subroutines that cannot but call themselves until the call stack is full.

        With an exception handler anywhere that may be what is wanted.
        """
        if any(d.instruction.flow is Flow.HANDLER for d in self._at.values()):
            return
        doomed = {entry for entry, body in self._bodies.items() if body is not None}
        for _ in range(CALL_FRAMES):
            escaped = {entry for entry in doomed if self._can_end(entry, doomed)}
            doomed -= escaped
            if not escaped:
                break
        else:
            return
        for entry in sorted(doomed & self.depths.keys()):
            self.faults.append(
                FlowFault(
                    entry,
                    f"this subroutine always calls itself: {CALL_FRAMES} nested calls are possible",
                    "test something before the call, and `ret`",
                )
            )

    def _can_end(self, entry: int, doomed: set[int]) -> bool:
        """Whether a path from ``entry`` ends or goes round without a call of a doomed one."""
        open_nodes: set[int] = set()
        done: set[int] = set()
        path: list[tuple[int, Iterator[int]]] = []

        def enter(offset: int) -> bool:
            """Begin with an instruction; True when it shows that there is such a path."""
            decoded = self._at.get(offset)
            if decoded is None or offset in open_nodes:
                return True
            if offset in done:
                return False
            if decoded.instruction.flow is Flow.CALL and decoded.target in doomed:
                done.add(offset)
                return False
            following = list(self._next_in_frame(decoded))
            if not following:
                return True
            open_nodes.add(offset)
            path.append((offset, iter(following)))
            return False

        if enter(entry):
            return True
        while path:
            offset, following = path[-1]
            step = next(following, None)
            if step is None:
                path.pop()
                open_nodes.discard(offset)
                done.add(offset)
            elif enter(step):
                return True
        return False


def _clip(value: int, bounds: Interval) -> int:
    return min(max(value, bounds[0]), bounds[1])
