"""Data flow analysis: a program's stack depth before it runs (its calls: calls.py).

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

from dprobed.program.calls import CallChecks, Interval, Subroutine
from dprobed.program.decoded import Decoded, FlowFinding
from dprobed.program.isa import CALL_FRAMES, STACK_WORDS, Flow

_ANY: Final[Interval] = (0, STACK_WORDS)
#: At the entry of an exception handler.
_TRIPLE: Final[Interval] = (3, STACK_WORDS)
_ANY_CHANGE: Final[Interval] = (-STACK_WORDS, STACK_WORDS)
#: An interval that has changed so often at one instruction is widened.
_PATIENCE: Final = 4
#: Instructions looked at in all analyses of subroutines together.
_BUDGET: Final = 200_000


class Analysis:
    """The depths of a program whose jumps are known to go to instructions."""

    def __init__(self, code: Sequence[Decoded], entries: Sequence[int]) -> None:
        self._at = {decoded.offset: decoded for decoded in code}
        self._entries = entries
        self._subroutines: dict[int, Subroutine | None] = {}
        self._budget = _BUDGET
        self.depths: dict[int, Interval] = {}
        self.findings: list[FlowFinding] = []

    def run(self) -> None:
        """Fill ``depths`` (code offset → interval, only what is reachable) and ``findings``."""
        self._summarize_all()
        self._solve([(entry, (0, 0)) for entry in self._entries], self.depths, _ANY)
        for offset in sorted(self.depths):
            self._check_depth(self._at[offset], self.depths[offset])
        calls = CallChecks(self._at, self._entries, self._subroutines, sorted(self.depths))
        self.findings += calls.findings()
        self.findings.sort(key=lambda finding: finding.offset)

    # -- evaluation stack ---------------------------------------------------------------------

    def _check_depth(self, decoded: Decoded, depth: Interval) -> None:
        if decoded.broken:
            return
        need, change = decoded.instruction.effect(decoded.operands)
        name = decoded.instruction.spelling
        if depth[1] < need:
            have = "none" if depth[1] == 0 else f"only {depth[1]}"
            words = "1 word" if need == 1 else f"{need} words"
            self.findings.append(
                FlowFinding(
                    decoded.offset,
                    f"`{name}` needs {words} on the stack; there is {have} on any path to here",
                    "push what it takes first",
                    depth=True,
                )
            )
        elif change is not None and depth[0] + change > STACK_WORDS:
            self.findings.append(
                FlowFinding(
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
        if decoded.called is not None:
            called = self._subroutines.get(decoded.called)
            change = _ANY_CHANGE if called is None else called.change
            if bounds is _ANY:
                yield decoded.called, state
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
        targets = {d.called for d in self._at.values() if d.called is not None}
        for target in sorted(targets):
            path = [target]
            while path:
                entry = path[-1]
                if entry in self._subroutines:
                    path.pop()
                    continue
                body = self._outline(entry)
                pending = [
                    callee
                    for callee in ([] if body is None else body.calls.values())
                    if callee not in self._subroutines and callee not in path
                ]
                if pending and len(path) <= CALL_FRAMES:
                    path.append(pending[0])
                    continue
                self._subroutines[entry] = self._summarize(entry, body)
                path.pop()

    def _outline(self, entry: int) -> Subroutine | None:
        """The instructions and calls of a subroutine; None when the budget is used up."""
        body = Subroutine()
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
            if decoded.called is not None:
                body.calls[offset] = decoded.called
            waiting.extend(decoded.next_in_frame())
        return body

    def _summarize(self, entry: int, body: Subroutine | None) -> Subroutine | None:
        states: dict[int, Interval] = {}
        if body is None or not self._solve([(entry, (0, 0))], states, _ANY_CHANGE):
            return None
        for offset, state in states.items():
            if self._at[offset].instruction.flow is Flow.RETURN and not self._at[offset].broken:
                known = body.change or state
                body.change = min(known[0], state[0]), max(known[1], state[1])
        return body


def _clip(value: int, bounds: Interval) -> int:
    return min(max(value, bounds[0]), bounds[1])
