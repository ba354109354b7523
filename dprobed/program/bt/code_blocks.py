"""Code of a probe as a whole: its end, and how a block is suspended and goes on.

A block that needs something of whoever shows the output logs what it needs, says where it goes on
(a local variable) and ends; run again, it jumps there. This is only possible between statements,
where nothing is on the stack: so what a statement reads of aggregating maps is fetched before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dprobed.program.bt import bundle, tree
from dprobed.program.bt.code import ExpressionCode
from dprobed.program.bt.code_log import log_action
from dprobed.program.bt.emitter import Emitter
from dprobed.program.bt.functions import log_key
from dprobed.program.bt.infer import Inference
from dprobed.program.bt.source import TextSpan
from dprobed.program.bt.state import Firing, MapState, ScriptState
from dprobed.program.builder import Label


class Loop:
    """A loop that is being made: where `continue` and `break` go, and with how many words."""

    def __init__(self, again: Label | None, end: Label | None, depth: int) -> None:
        self.again = again
        self.end = end
        self.depth = depth


class Body:
    """The body of a loop over a map: a probe of its own."""

    def __init__(self, emitter: Emitter, kinds_given: tuple[bundle.Value, ...]) -> None:
        self.emitter = emitter
        self.arguments = kinds_given


class BlockCode(ExpressionCode):
    """The frame of a probe's code."""

    def __init__(
        self,
        state: ScriptState,
        firing: Firing,
        inference: Inference,
        to: Emitter,
        bodies: list[Body] | None = None,
    ) -> None:
        super().__init__(state, firing, inference, to)
        self.bodies = bodies if bodies is not None else []
        self._end = to.label()
        self._loops: list[Loop] = []
        self._points: list[Label] = []
        self._resume: int | None = None
        self._fetched: dict[int, int] = {}
        self._returned: int | None = None

    def suspend(self, span: TextSpan) -> None:
        """End here; run again, go on behind it."""
        to = self.to
        if to.depth:
            self.state.problems.add(
                span,
                "this is not possible within an expression",
                "do it in a statement of its own",
            )
        if self._resume is None:
            self._resume = to.reserve(1)
        label = to.label()
        self._points.append(label)
        to.push(len(self._points))
        to.store(self._resume)
        to.add("exit")
        to.place(label, 1)
        to.drop()
        to.push(0)
        to.store(self._resume)

    def done_here(self, span: TextSpan) -> None:
        """In a block: what was logged is done before it goes on, unless within an expression."""
        if not self.firing.hit and not self.to.depth:
            log_action(self, bundle.GoOn(), [])
            self.suspend(span)

    def fetch_all(self, *expressions: Any) -> None:
        """Fetch what expressions read of aggregating maps."""
        if self.firing.hit:
            return
        for one in expressions:
            for node in _reads(one):
                self._fetch(node)

    def _fetch(self, node: Any) -> None:
        to = self.to
        target = node.arguments[0] if isinstance(node, tree.Call) else node
        known: MapState = target.type
        slot = to.reserve(1)
        to.at = node.span.place
        if isinstance(node, tree.Call) and node.name == "len":
            log_action(self, bundle.Measure(known.number, to.local(slot)), [])
        else:
            keys = target.keys or []
            has = isinstance(node, tree.Call)
            fetch = bundle.Fetch(known.number, log_key(self, keys), to.local(slot), has)
            log_action(self, fetch, keys)
        self.suspend(node.span)
        self._fetched[id(target)] = slot

    def fetched(self, one: tree.MapValue, has: bool = False) -> None:
        """Push what was fetched of a map."""
        slot = self._fetched.get(id(one))
        if slot is None:
            self.state.problems.add(
                one.span, f"{one.name} cannot be read here", "set a variable to it before"
            )
            self.to.push(0)
            return
        self.to.load(slot)

    def measured(self, one: tree.MapValue) -> None:
        """Push how many keys a map has."""
        self.fetched(one)

    def _add_dispatch(self) -> None:
        """At the beginning: where to go on."""
        if self._resume is None:
            return
        to = self.to
        body, to.ops, to.depth = to.ops, [], 0
        start = to.label()
        to.load(self._resume)
        to.add("jz label", start)
        to.drop()
        for number, label in enumerate(self._points, 1):
            to.load(self._resume)
            to.push(number)
            to.add("xor")
            to.add("jz label", label)
            to.drop()
        to.push(0)
        to.place(start, 1)
        to.drop()
        to.ops += body

    def leave(self) -> None:
        """Go to the end."""
        self.to.add("jmp label", self._end)

    def end_by(self, key: str, operand: str | None) -> None:
        """End by an instruction that hands the record over."""
        self.to.add(key, operand)

    def least(self, most: int) -> None:
        """The lesser of the number on top and this one."""
        to = self.to
        keep, done = to.label(), to.label()
        to.push(most)
        to.pick(1)
        self.below(False)
        to.add("jz label", keep)
        to.drop(2)
        to.push(most)
        to.add("jmp label", done)
        to.place(keep, to.depth + 1)
        to.drop()
        to.place(done)

    def finish(self, span: TextSpan) -> None:
        """The end: no record where nothing was logged."""
        to = self.to
        to.at = span.place
        to.place(self._end, 0)
        if to.logs:
            nothing = to.label()
            to.add("push lp")
            to.add("jz label", nothing)
            to.add("exit")
            to.place(nothing, 1)
        to.add("abort")
        self._add_dispatch()


def _reads(one: Any) -> Iterator[Any]:
    """What an expression reads of aggregating maps, or asks about maps; inner ones first."""
    skipped: set[int] = set()
    for node in tree.nodes(one):
        if isinstance(node, tree.Call) and node.arguments:
            first = node.arguments[0]
            if (node.name == "len" and isinstance(first, tree.MapValue)) or (
                node.name == "has_key" and not first.type.is_value
            ):
                yield node
    for node in tree.nodes(one):
        if isinstance(node, tree.Call) and node.name in (
            "len",
            "has_key",
            "print",
            "clear",
            "zero",
            "delete",
        ):
            skipped.update(id(each) for each in node.arguments)
        if isinstance(node, tree.Step):
            skipped.add(id(node.target))
    for node in tree.nodes(one):
        if isinstance(node, tree.MapValue) and id(node) not in skipped and not node.type.is_value:
            yield node
