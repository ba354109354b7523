"""Code of statements, and of a whole probe.

A block that needs something of whoever shows the output logs what it needs, says where it goes on
(a local variable) and ends; run again, it jumps there. This is only possible between statements,
where nothing is on the stack: so what a statement reads of aggregating maps is fetched before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from dprobed.program.bt import bundle, kinds, tree
from dprobed.program.bt.builtins import ARGUMENT_REGISTERS, register
from dprobed.program.bt.code import Code
from dprobed.program.bt.code_log import log_action
from dprobed.program.bt.code_maps import set_map, step_map
from dprobed.program.bt.emitter import Emitter, Op
from dprobed.program.bt.facts import kind_of
from dprobed.program.bt.infer import Inference
from dprobed.program.bt.kinds import Pointer, Tuple, words
from dprobed.program.bt.source import Span
from dprobed.program.bt.state import Firing, MapState, State, VariableState
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


class ProbeCode(Code):
    """Makes all of a probe."""

    def __init__(
        self,
        state: State,
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

    def probe(self, probe: tree.Probe) -> None:
        """The predicate, and what is done."""
        if probe.predicate is not None:
            self._predicate(probe.predicate)
        self.block(probe.body)
        self.finish(probe.span)

    def _predicate(self, condition: Any) -> None:
        no, go = self.to.label(), self.to.label()
        self.fetch_all(condition)
        self.condition(condition, no)
        self.to.add("jmp label", go)
        self.to.place(no, 1)
        self.to.drop()
        self.to.add("abort")
        self.to.place(go, 0)

    def finish(self, span: Span) -> None:
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

    # -- ends -----------------------------------------------------------------------------------

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

    # -- suspending -----------------------------------------------------------------------------

    def suspend(self, span: Span) -> None:
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
            values = tuple(kinds.value_of(self.types, kind_of(each)) for each in keys)
            has = isinstance(node, tree.Call)
            log_action(self, bundle.Fetch(known.number, values, to.local(slot), has), keys)
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

    # -- statements -----------------------------------------------------------------------------

    def block(self, statements: list[Any]) -> None:
        """Statements, one after the other."""
        for one in statements:
            self.span = one.span
            self.to.at = one.span.place
            _STATEMENTS[type(one)](self, one)

    def _do(self, one: tree.Do) -> None:
        self.fetch_all(one.expression)
        expression = one.expression
        if isinstance(expression, tree.Step) and isinstance(expression.target, tree.MapValue):
            step_map(self, expression, wanted=False)
            return
        if isinstance(expression, tree.Choice):
            self._choose(expression)
            return
        self.expression(expression)
        self.to.drop(words(kind_of(expression)))

    def _choose(self, one: tree.Choice) -> None:
        """A choice whose value nobody wants."""
        yes = [tree.Do(one.yes.span, one.yes)]
        no = [tree.Do(one.no.span, one.no)]
        self._if(tree.If(one.span, one.condition, yes, no))

    def _block(self, one: tree.Block) -> None:
        self.block(one.statements)

    def _if(self, one: tree.If) -> None:
        to = self.to
        self.fetch_all(one.condition)
        no, done = to.label(), to.label()
        depth = to.depth
        self.condition(one.condition, no)
        self.block(one.yes)
        to.add("jmp label", done)
        to.place(no, depth + 1)
        to.drop()
        self.block(one.no)
        to.place(done, depth)

    def _loop(self, body: list[Any], again: Label, end: Label) -> None:
        self._loops.append(Loop(again, end, self.to.depth))
        self.block(body)
        self._loops.pop()

    def _while(self, one: tree.While) -> None:
        to = self.to
        again, no, end = to.label(), to.label(), to.label()
        depth = to.depth
        to.place(again, depth)
        self.fetch_all(one.condition)
        self.condition(one.condition, no)
        self._loop(one.body, again, end)
        to.add("jmp label", again)
        to.place(no, depth + 1)
        to.drop()
        to.place(end, depth)

    def _count(
        self,
        low: Callable[[], None],
        high: Callable[[], None],
        body: list[Any],
        each: Callable[[int], None],
    ) -> None:
        """A loop from a number up to another one."""
        to = self.to
        now, last = to.reserve(1), to.reserve(1)
        low()
        to.store(now)
        high()
        to.store(last)
        again, following, no, end = (to.label() for _ in range(4))
        depth = to.depth
        to.place(again, depth)
        to.load(now)
        to.load(last)
        self.below(True)
        to.add("jz label", no)
        to.drop()
        each(now)
        self._loop(body, following, end)
        to.place(following, depth)
        to.load(now)
        to.push(1)
        to.add("add")
        to.store(now)
        to.add("jmp label", again)
        to.place(no, depth + 1)
        to.drop()
        to.place(end, depth)

    def _for_range(self, one: tree.ForRange) -> None:
        self.fetch_all(one.low, one.high)

        def each(now: int) -> None:
            self.to.load(now)
            self.store_variable(one.variable.type)

        self._count(
            lambda: self.expression(one.low), lambda: self.expression(one.high), one.body, each
        )

    def _unroll(self, one: tree.Unroll) -> None:
        number = self.inference.constant(one.count)
        if number is None or not 0 < number <= 1 << 16:
            self.state.problems.add(
                one.count.span,
                "so many times: a number above 0 that is known before the script runs",
            )
            return
        self._count(
            lambda: self.to.push(0), lambda: self.to.push(number), one.body, lambda now: None
        )

    def _for_map(self, one: tree.ForMap) -> None:
        known: MapState = one.map.type
        to = self.to
        variable: VariableState = one.variable.type
        inner = Emitter(locals_from=to.locals_from, counter=to.counter)
        body = ProbeCode(self.state, self.firing, self.inference, inner, self.bodies)
        kind = variable.kind
        assert isinstance(kind, Tuple)
        values = tuple(kinds.value_of(self.types, each) for each in _leaves(kind))
        number = len(self.bodies)
        self.bodies.append(Body(inner, values))
        body._loops = [Loop(None, None, 0)]
        body._returned = returned = to.reserve(1) if _returns(one.body) else None
        if returned is not None:
            to.push(0)
            to.store(returned)
        if any(isinstance(each, tree.ForMap) for each in tree.nodes(one.body)):
            # The loop within has arguments of its own: what this one is given is kept.
            body.push_arguments(kind, 0)
            variable.arguments = False
            body.store_variable(variable)
        body.block(one.body)
        body.finish(one.span)
        log_action(self, bundle.ForEach(known.number, -1 - number), [])
        self.suspend(one.span)
        if returned is not None:
            go = to.label()
            to.load(returned)
            to.add("jz label", go)
            to.drop()
            self._leave_all()
            to.place(go, 1)
            to.drop()

    def _jump(self, one: tree.Jump) -> None:
        loop = self._loops[-1]
        if loop.again is None or loop.end is None:
            if one.kind == "break":
                log_action(self, bundle.Break(), [])
            self.leave()
            return
        depth = self.to.depth
        self.to.drop(depth - loop.depth)
        self.to.add("jmp label", loop.end if one.kind == "break" else loop.again)
        self.to.depth = depth

    def _return(self, one: tree.Return) -> None:
        self._leave_all()

    def _leave_all(self) -> None:
        """`return`: out of loops over maps, too."""
        if self._returned is not None:
            self.to.push(1)
            self.to.store(self._returned)
            log_action(self, bundle.Break(), [])
        depth = self.to.depth
        self.to.drop(depth)
        self.leave()
        self.to.depth = depth

    def _let(self, one: tree.Let) -> None:
        variable = one.variable.type
        if one.value is None:
            if variable.kind is None:
                return
            for _ in range(words(variable.kind)):
                self.to.push(0)
            self.store_variable(variable)
            return
        self.fetch_all(one.value)
        self.as_kind(one.value, variable.kind)
        self.store_variable(variable)

    def _assign(self, one: tree.Assign) -> None:
        target = one.target
        if isinstance(target, tree.Name) and target.name == "_":
            self.fetch_all(one.value)
            self.expression(one.value)
            self.to.drop(words(kind_of(one.value)))
        elif isinstance(target, tree.MapValue):
            self.fetch_all(one.value, *(target.keys or ()))
            set_map(self, one)
        elif isinstance(target, tree.Variable):
            self.fetch_all(one.value)
            if one.operator == "=":
                self.as_kind(one.value, target.type.kind)
            else:
                self._combined(one)
            self.store_variable(target.type)
        else:
            self._alter(one)

    def _combined(self, one: tree.Assign) -> None:
        """The target and the value, by an operator."""
        operator = one.operator[:-1]
        left, right = kind_of(one.target), kind_of(one.value)
        self.expression(one.target)
        self.expression(one.value)
        self.scaled(operator, left, right)
        self.operate(operator, left, right)

    # -- altering the process -------------------------------------------------------------------

    def _alter(self, one: tree.Assign) -> None:
        """A register, an argument or memory of the process."""
        target, to = one.target, self.to
        self.state.alters = True

        def value() -> None:
            if one.operator == "=":
                self.expression(one.value)
            else:
                self._combined(one)

        name = self._altered_register(target)
        if name is not None:
            value()
            to.add("pop r,register", name)
            return
        if isinstance(target, tree.Name):
            number = int(target.name[3:])
            to.add("push r,register", "rsp")
            to.push(8 * (number - 5))
            to.add("add")
            value()
            to.add("pop mem,u64")
            return
        self.address(target)
        value()
        size = self._altered_size(target)
        to.add(f"pop mem,u{8 * size}")

    def _altered_register(self, target: Any) -> str | None:
        if isinstance(target, tree.Name):
            if target.name == "retval":
                return "rax"
            number = int(target.name[3:]) if target.name[3:].isdecimal() else 99
            return ARGUMENT_REGISTERS[number] if number < 6 else None
        if isinstance(target, tree.Call):
            return register(target.arguments[0].value)
        return None

    def _altered_size(self, target: Any) -> int:
        if isinstance(target, tree.Unary):
            kind = kind_of(target.operand)
            return self.types.size(kind.to) if isinstance(kind, Pointer) else 8
        index = self.inference.lvalue_type(target)
        if index is None:
            self.state.problems.add(target.span, "a bit field cannot be set yet")
            return 8
        size = self.types.size(index)
        return size if size in (1, 2, 4, 8) else 8


def _leaves(kind: Tuple) -> Iterator[kinds.Kind]:
    for each in kind.items:
        if isinstance(each, Tuple):
            yield from _leaves(each)
        else:
            yield each


def _returns(statements: list[Any]) -> bool:
    """Whether there is a `return` among statements."""
    return any(isinstance(each, tree.Return) for each in tree.nodes(statements))


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


_STATEMENTS: Final[dict[type, Callable[[Any, Any], None]]] = {
    tree.Do: ProbeCode._do,
    tree.Block: ProbeCode._block,
    tree.If: ProbeCode._if,
    tree.While: ProbeCode._while,
    tree.ForRange: ProbeCode._for_range,
    tree.ForMap: ProbeCode._for_map,
    tree.Unroll: ProbeCode._unroll,
    tree.Jump: ProbeCode._jump,
    tree.Return: ProbeCode._return,
    tree.Let: ProbeCode._let,
    tree.Assign: ProbeCode._assign,
}
_ = Op
