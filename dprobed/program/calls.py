"""The call stack of a program before it runs: returns, nested calls and recursion that cannot be.

Needs of each subroutine only what it calls and whether it returns. Refused are a `ret` outside of
any subroutine, chains of calls longer than the call stack, and subroutines that call themselves on
every path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from dprobed.program.decoded import Decoded, FlowFinding
from dprobed.program.isa import CALL_FRAMES, Flow

#: The lowest and the highest of a number of words.
Interval = tuple[int, int]


class Subroutine(msgspec.Struct):
    """A subroutine: its instructions, its calls, whether it returns, and what it does to the depth.

    ``change`` None: it never returns.
    """

    nodes: set[int] = msgspec.field(default_factory=set)
    calls: dict[int, int] = msgspec.field(default_factory=dict)
    change: Interval | None = None


class CallChecks:
    """What is provably wrong with a program's calls.

    ``code``: by code offset. ``subroutines``: by entry; None: not known. ``reached``: the code
    offsets that a probe can reach, in order.
    """

    def __init__(
        self,
        code: Mapping[int, Decoded],
        entries: Sequence[int],
        subroutines: Mapping[int, Subroutine | None],
        reached: Sequence[int],
    ) -> None:
        self._at = code
        self._entries = entries
        self._subroutines = subroutines
        self._reached = reached

    def findings(self) -> Iterator[FlowFinding]:
        """All of them."""
        yield from self._returns()
        yield from self._call_depth()
        yield from self._recursion()

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
            if decoded.called is not None:
                called = self._subroutines.get(decoded.called)
                if called is not None and called.change is None:
                    continue
            waiting.extend(decoded.next_in_frame())
        return found

    def _returns(self) -> Iterator[FlowFinding]:
        """A `ret` that a probe reaches outside of any call."""
        for offset in self._outermost():
            decoded = self._at[offset]
            if decoded.instruction.flow is Flow.RETURN and not decoded.broken:
                yield FlowFinding(
                    offset,
                    "`ret` is reached outside of any subroutine",
                    "end the probe with `exit` before the subroutine begins",
                )

    def _call_depth(self) -> Iterator[FlowFinding]:
        """Chains of calls, without recursion, that are longer than the call stack."""
        height: dict[int, int | None] = {}
        for entry in self._subroutines:
            self._measure(entry, height)
        for offset in self._reached:
            called = self._at[offset].called
            if called is None:
                continue
            deep = height.get(called)
            if deep is not None and deep == CALL_FRAMES + 1:
                yield FlowFinding(
                    offset,
                    f"calls nest {deep} deep from here; {CALL_FRAMES} are possible",
                    "let fewer subroutines call each other",
                )

    def _measure(self, entry: int, height: dict[int, int | None]) -> None:
        """The longest chain of calls that begins with a call of ``entry``; None: recursive."""
        path = {entry: None}  # in the order of the calls
        while path:
            top = next(reversed(path))
            body = self._subroutines.get(top)
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

    def _recursion(self) -> Iterator[FlowFinding]:
        """Subroutines that call themselves on every path, until the call stack is full.

        In a program with an exception handler that may be what is wanted.
        """
        if any(d.instruction.flow is Flow.HANDLER for d in self._at.values()):
            return
        doomed = {entry for entry, body in self._subroutines.items() if body is not None}
        for _ in range(CALL_FRAMES):
            escaped = {entry for entry in doomed if self._can_end(entry, doomed)}
            doomed -= escaped
            if not escaped:
                break
        else:
            return
        for entry in sorted(doomed.intersection(self._reached)):
            yield FlowFinding(
                entry,
                f"this subroutine always calls itself: {CALL_FRAMES} nested calls are possible",
                "test something before the call, and `ret`",
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
            if decoded.called in doomed:
                done.add(offset)
                return False
            following = list(decoded.next_in_frame())
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
