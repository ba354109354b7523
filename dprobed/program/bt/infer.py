"""Kinds of all expressions, variables and maps of a script.

The bodies of all probes are looked at until nothing changes any more, so that a map can be read
before the line that says what is in it; then once for each place of a probe, right before its code
is made: what an expression is may depend on the place (``args.x``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from dprobed.program.bt import kinds, tree
from dprobed.program.bt.builtins import argument_of, is_builtin
from dprobed.program.bt.infer_expressions import Expressions
from dprobed.program.bt.kinds import (
    INT64,
    VOID,
    Float,
    Form,
    Integer,
    Kind,
    Object,
    String,
    Tuple,
    is_number,
    is_signed,
    is_word,
)
from dprobed.program.bt.locations import located
from dprobed.program.bt.state import AGGREGATES, MapState

#: A loop's body is looked at so often at most.
_MOST_TURNS: Final = 8
#: Bytes of a stack as it is printed.
_MOST_STACK: Final = 1 << 15


class Inference(Expressions):
    """Looks at one probe, as it fires at one place."""

    # -- statements -----------------------------------------------------------------------------

    def probe(self, probe: tree.Probe) -> None:
        """All of a probe."""
        if probe.predicate is not None:
            self.condition(probe.predicate)
        self.body(probe.body)

    def body(self, statements: list[Any]) -> None:
        """Statements of a block, in its own scope."""
        self.scopes.append({})
        for one in statements:
            self.statement(one)
        self.scopes.pop()

    def statement(self, one: Any) -> None:
        """One statement."""
        _STATEMENTS[type(one)](self, one)

    def _do(self, one: tree.Do) -> None:
        self._done(one.expression)

    def _done(self, one: Any) -> None:
        """An expression whose value nobody wants."""
        if isinstance(one, tree.Step):
            one.type = self.step(one, wanted=False)
        elif isinstance(one, tree.Choice):
            self.condition(one.condition)
            self._done(one.yes)
            self._done(one.no)
            one.type = VOID
        else:
            self.expression(one)

    def _block(self, one: tree.Block) -> None:
        self.body(one.statements)

    def _if(self, one: tree.If) -> None:
        self.condition(one.condition)
        self.body(one.yes)
        self.body(one.no)

    def _while(self, one: tree.While) -> None:
        self._loop(one.body, one.condition)

    def _loop(self, body: list[Any], condition: Any = None) -> None:
        """What goes round: until it is known what variables are when it comes round again."""
        self.loops += 1
        for _ in range(_MOST_TURNS):
            before = self.known_kinds()
            if condition is not None:
                self.condition(condition)
            self.body(body)
            if self.known_kinds() == before:
                break
        self.loops -= 1

    def _for_range(self, one: tree.ForRange) -> None:
        for each in (one.low, one.high):
            kind = self.expression(each)
            if not is_number(kind):
                self.wrong(each.span, f"a range is of numbers, not of {self.shown(kind)}")
        self.scopes.append({})
        variable = self.declare(one.variable)
        self.assign_variable(variable, INT64, one.variable.span)
        self._loop(one.body)
        self.scopes.pop()

    def _for_map(self, one: tree.ForMap) -> None:
        known = self.state.map(one.map.name, one.map.span)
        one.map.type = known
        if self.firing.hit:
            self.wrong(
                one.span,
                "a loop over a map runs where output is shown, not at a hit",
                "put it into interval, end or begin",
            )
        known.in_blocks = True
        self.scopes.append({})
        variable = self.declare(one.variable)
        keys = known.keys or ()
        key: Kind = Tuple(keys) if len(keys) != 1 else keys[0]
        value = known.value_kind if known.is_value else Integer(8, known.signed)
        if known.keys == () and known.kind is not None:
            self.wrong(one.map.span, f"{one.map.name} has no keys to loop over")
        variable.kind = Tuple((self.delivered(key), self.delivered(value)))
        variable.arguments = True
        self._loop(one.body)
        self.scopes.pop()

    def delivered(self, kind: Kind) -> Kind:
        """What a loop's body gets of something that a map has: what is shown as text is text in
        memory."""
        if isinstance(kind, (*kinds.TEXTS, kinds.ShownWord)):
            return String(Form.TARGET, 1024)
        if isinstance(kind, kinds.Stack):
            return String(Form.TARGET, _MOST_STACK)
        if isinstance(kind, Tuple):
            return Tuple(tuple(map(self.delivered, kind.items)), kind.names)
        return kind

    def _unroll(self, one: tree.Unroll) -> None:
        kind = self.expression(one.count)
        if not is_number(kind):
            self.wrong(one.count.span, f"so many times: a number, not {self.shown(kind)}")
        self._loop(one.body)

    def _jump(self, one: tree.Jump) -> None:
        if not self.loops:
            self.wrong(one.span, f"`{one.kind}` outside of any loop")

    def _return(self, one: tree.Return) -> None:
        if one.value is not None:
            self.expression(one.value)

    def _let(self, one: tree.Let) -> None:
        kind: Kind | None = None
        if one.value is not None:
            kind = self.expression(one.value)
        if one.variable.name in self.scopes[-1]:
            self.wrong(one.variable.span, f"{one.variable.name} is declared twice")
        variable = self.declare(one.variable)
        if one.type is not None:
            declared = self.written_kind(one.type)
            if declared is not None:
                self.assign_variable(variable, declared, one.type.span)
        if kind is not None:
            self.assign_variable(variable, kind, one.value.span)

    def _assign(self, one: tree.Assign) -> None:
        target, operator = one.target, one.operator
        if isinstance(target, tree.Name) and target.name == "_" and operator == "=":
            self.expression(one.value)
            return
        if isinstance(target, tree.MapValue):
            self._assign_map(one, target)
            return
        kind = self.expression(one.value)
        if operator != "=":
            old = self.expression(target)
            kind = self.arithmetic(one.span, operator[:-1], target, one.value, old, kind)
        if isinstance(target, tree.Variable):
            variable = self.lookup(target.name)
            if variable is None:
                variable = self.declare(target)
            self.assign_variable(variable, kind, one.value.span)
            target.type = variable
        else:
            self._assign_target(target, kind)

    def _assign_target(self, target: Any, kind: Kind) -> None:
        """A register, an argument or memory of the target."""
        old = self.expression(target)
        settable = (
            (isinstance(target, tree.Unary) and target.operator == "*")
            or isinstance(target, tree.Field | tree.Index)
            or (isinstance(target, tree.Call) and target.name == "reg")
            or (isinstance(target, tree.Name) and self._settable_name(target))
        )
        if not settable:
            self.wrong(
                target.span,
                "this cannot be set",
                '$x, @x, argN, retval, reg("…") and what is in memory can',
            )
            return
        if isinstance(old, Float):
            self.wrong(target.span, "floating-point numbers are not set yet")
        if not self.firing.hit:
            self.wrong(target.span, "a block has no process in which this could be set")
        if isinstance(old, Object | Tuple | String) or kinds.words(kind) != 1:
            self.wrong(target.span, "only numbers and pointers can be set in a process")
        if isinstance(kind, String):
            self.wrong(target.span, "a string cannot be set in a process")

    def _settable_name(self, target: tree.Name) -> bool:
        """Whether a name is of something in the process that can be set."""
        if target.name == "retval":
            return True
        if argument_of(target.name) is not None:
            if self.firing.returns or self.firing.static:
                self.wrong(target.span, "arguments are set where the function is entered")
            return True
        found = located(self.state, self.firing, target.name)
        return not is_builtin(target.name) and (
            found is not None and found.location.kind == "memory"
        )

    def _assign_map(self, one: tree.Assign, target: tree.MapValue) -> None:
        known = self.map(target)
        value = one.value
        function = value.name if isinstance(value, tree.Call | tree.Name) else ""
        if (
            function in AGGREGATES
            and one.operator == "="
            and not (isinstance(value, tree.Name) and function != "count")
        ):
            if isinstance(value, tree.Name):
                one.value = value = tree.Call(value.span, function, [])
            self._aggregate(known, value)
            return
        kind = self.expression(value)
        known.other = True
        self._is_value(known, target)
        if one.operator != "=":
            kind = self.arithmetic(
                one.span, one.operator[:-1], target, value, known.value_kind, kind
            )
        self.assign_map(known, kind, value.span)

    def _is_value(self, known: MapState, target: tree.MapValue) -> None:
        """A map is set, or read."""
        if known.kind is None:
            known.kind = "value"
            self.state.changed = True
        elif known.kind != "value":
            self.wrong(
                target.span,
                f"{known.name} is a {known.kind}(), which cannot be set",
                f"write {known.name} = {known.kind}(…), or use another map",
            )
        if not self.firing.hit:
            known.set_in_blocks = True
        if self.firing.hit:
            known.value_modules.setdefault(self.firing.module, target.span)

    def _aggregate(self, known: MapState, call: tree.Call) -> None:
        """``@x = hist(…)``"""
        name = call.name
        given = [self.expression(each) for each in call.arguments]
        least, most = {
            "count": (0, 0),
            "hist": (1, 2),
            "lhist": (4, 4),
            "tseries": (3, 4),
        }.get(name, (1, 1))
        if not least <= len(given) <= most:
            self.wrong(call.span, f"`{name}` takes {least} arguments, not {len(given)}")
            return
        arguments: tuple[int, ...] = ()
        if name in ("hist", "lhist", "tseries"):
            numbers = [self.constant(each) for each in call.arguments[1:]]
            arguments = self._aggregate_arguments(call, numbers)
        if given and not is_word(given[0]):
            self.wrong(
                call.arguments[0].span, f"`{name}` takes a number, not {self.shown(given[0])}"
            )
        signed = bool(given) and (is_signed(given[0]) or name in ("hist", "lhist"))
        if known.kind not in (None, name) or (known.kind == name and known.arguments != arguments):
            self.wrong(
                call.span, f"{known.name} is a {known.kind}() already, and cannot be this as well"
            )
            return
        if known.kind is None or (signed and not known.signed):
            self.state.changed = True
        known.kind, known.arguments = name, arguments
        known.signed |= signed

    def _aggregate_arguments(self, call: tree.Call, numbers: list[int | None]) -> tuple[int, ...]:
        name = call.name
        if name == "tseries":
            how = call.arguments[3] if len(call.arguments) == 4 else call
            if not isinstance(how, tree.Text) or how.value != "sum":
                self.wrong(
                    how.span,
                    "only the sum of each interval can be kept so far",
                    'write tseries(VALUE, 1s, 10, "sum")',
                )
            numbers = numbers[:2]
        for number, each in zip(numbers, call.arguments[1:], strict=False):
            if number is None:
                self.wrong(each.span, "this is a number that is known before the script runs")
                return ()
        known = [number for number in numbers if number is not None]
        if name == "hist":
            known = known or [0]
            if not 0 <= known[0] <= 5:
                self.wrong(call.span, f"a power of two is divided 0 to 5 times, not {known[0]}")
                known = [0]
        elif name == "lhist":
            low, high, step = known
            if step < 1 or low >= high or -(-(high - low) // step) > 1000:
                self.wrong(
                    call.span,
                    f"no steps of {step} from {low} to {high}, 1000 at most",
                    "write lhist(VALUE, LEAST, GREATEST, STEP)",
                )
                known = [0, 1, 1]
        elif known[0] % 1_000_000 or not 0 < known[0] // 1_000_000 <= 86_400_000:
            self.wrong(call.arguments[1].span, "an interval is a whole number of milliseconds")
            known = [1, 1]
        elif not 1 <= known[1] <= 1000:
            self.wrong(call.arguments[2].span, "1 to 1000 intervals can be kept")
            known = [1, 1]
        else:
            known[0] //= 1_000_000
        return tuple(known)


_STATEMENTS: Final[dict[type, Callable[[Any, Any], None]]] = {
    tree.Do: Inference._do,
    tree.Block: Inference._block,
    tree.If: Inference._if,
    tree.While: Inference._while,
    tree.ForRange: Inference._for_range,
    tree.ForMap: Inference._for_map,
    tree.Unroll: Inference._unroll,
    tree.Jump: Inference._jump,
    tree.Return: Inference._return,
    tree.Let: Inference._let,
    tree.Assign: Inference._assign,
}
