"""Code of statements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from dprobed.program.bt import bundle, kinds, tree
from dprobed.program.bt.code_altering import AlteringCode
from dprobed.program.bt.code_blocks import Body, Loop
from dprobed.program.bt.code_log import log_action
from dprobed.program.bt.code_maps import set_map, step_map
from dprobed.program.bt.emitter import Emitter
from dprobed.program.bt.facts import kind_of
from dprobed.program.bt.kinds import Tuple, words
from dprobed.program.bt.state import MapState, VariableState
from dprobed.program.builder import Label


class ProbeCode(AlteringCode):
    """Makes all of a probe."""

    def probe(self, probe: tree.Probe) -> None:
        """The predicate, and what is done."""
        if self.firing.system_call is not None:
            self._system_call(self.firing.system_call)
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

    def _system_call(self, number: int) -> None:
        """Go on if it is this one."""
        no, go = self.to.label(), self.to.label()
        self.to.add("push r,register", "rax")
        self.to.push(number)
        self.to.add("xor")
        self.to.add("jnz label", no)
        self.to.drop()
        self.to.add("jmp label", go)
        self.to.place(no, 1)
        self.to.drop()
        self.to.add("abort")
        self.to.place(go, 0)

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


def _leaves(kind: Tuple) -> Iterator[kinds.Kind]:
    for each in kind.items:
        if isinstance(each, Tuple):
            yield from _leaves(each)
        else:
            yield each


def _returns(statements: list[Any]) -> bool:
    """Whether there is a `return` among statements."""
    return any(isinstance(each, tree.Return) for each in tree.nodes(statements))


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
