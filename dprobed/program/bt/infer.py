"""Kinds of all expressions, variables and maps of a script.

The bodies of all probes are looked at until nothing changes any more, so that a map can be read
before the line that says what is in it; then once for each place of a probe, right before its code
is made: what an expression is may depend on the place (``args.x``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from dprobed.program.bt import kinds, tree
from dprobed.program.bt.builtins import builtin_kind
from dprobed.program.bt.functions import FUNCTIONS
from dprobed.program.bt.kinds import (
    BOOLEAN,
    INT64,
    LITERAL,
    UINT64,
    VOID,
    Bytes,
    Enumerator,
    Float,
    Form,
    Integer,
    Kind,
    Object,
    Pointer,
    Shown,
    Stack,
    String,
    Tuple,
    is_number,
    is_signed,
    is_word,
)
from dprobed.program.bt.source import Span
from dprobed.program.bt.state import AGGREGATES, Firing, MapState, State, VariableState
from dprobed.program.types import ArrayType, StructType

_COMPARE: Final = ("==", "!=", "<", ">", "<=", ">=")
#: What cannot be kept in a variable or a map.
_PASSING: Final = (Bytes,)


class Inference:
    """Looks at one probe, as it fires at one place."""

    def __init__(self, state: State, firing: Firing) -> None:
        self.state = state
        self.types = state.types
        self.firing = firing
        self.scopes: list[dict[str, VariableState]] = [{}]
        self.variables: list[VariableState] = []
        self.loops = 0

    # -- saying what is wrong -------------------------------------------------------------------

    def wrong(self, span: Span, message: str, hint: str = "") -> Kind:
        """Something is wrong here; a kind to go on with."""
        self.state.problems.add(span, message, hint)
        return LITERAL

    def shown(self, kind: Kind) -> str:
        """The name of a kind."""
        return kinds.shown(self.types, kind)

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
        self.expression(one.expression)

    def _block(self, one: tree.Block) -> None:
        self.body(one.statements)

    def _if(self, one: tree.If) -> None:
        self.condition(one.condition)
        self.body(one.yes)
        self.body(one.no)

    def _while(self, one: tree.While) -> None:
        self.condition(one.condition)
        self._loop(one.body)

    def _loop(self, body: list[Any]) -> None:
        self.loops += 1
        self.body(body)
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
                one.span, "a loop over a map runs where output is shown, not at a hit",
                "put it into interval, end or begin",
            )  # fmt: skip
        known.in_blocks = True
        known.other = True
        self.scopes.append({})
        variable = self.declare(one.variable)
        keys = known.keys or ()
        key: Kind = Tuple(keys) if len(keys) != 1 else keys[0]
        value = known.value_kind if known.is_value else Integer(8, known.signed)
        if known.keys == () and known.kind is not None:
            self.wrong(one.map.span, f"{one.map.name} has no keys to loop over")
        variable.kind = Tuple((self.delivered(key), self.delivered(value)))
        variable.arguments = True
        one.variable.type = variable.kind
        self._loop(one.body)
        self.scopes.pop()

    def delivered(self, kind: Kind) -> Kind:
        """What a loop's body gets of something that a map has: strings are in memory."""
        if isinstance(kind, String | kinds.Short):
            return String(Form.TARGET, 1024)
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
            or (isinstance(target, tree.Name) and (
                target.name == "retval" or target.name.startswith("arg")))
        )  # fmt: skip
        if not settable:
            self.wrong(target.span, "this cannot be set",
                       "$x, @x, argN, retval, reg(\"…\") and what pointers point to can")  # fmt: skip
            return
        if not self.firing.hit:
            self.wrong(target.span, "a block has no process in which this could be set")
        if isinstance(old, Object | Tuple | String) or not kinds.words(kind) == 1:
            self.wrong(target.span, "only numbers and pointers can be set in a process")
        if isinstance(kind, String):
            self.wrong(target.span, "a string cannot be set in a process")

    def _assign_map(self, one: tree.Assign, target: tree.MapValue) -> None:
        known = self.map(target)
        value = one.value
        function = value.name if isinstance(value, tree.Call | tree.Name) else ""
        if function in AGGREGATES and one.operator == "=" and not (
            isinstance(value, tree.Name) and function != "count"
        ):  # fmt: skip
            if isinstance(value, tree.Name):
                one.value = value = tree.Call(value.span, function, [])
            self._aggregate(known, value)
            return
        kind = self.expression(value)
        if one.operator in ("+=", "-=") and not known.other and known.kind in (None, "value"):
            pass
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
                target.span, f"{known.name} is a {known.kind}(), which cannot be set",
                f"write {known.name} = {known.kind}(…), or use another map",
            )  # fmt: skip
        if not self.firing.hit:
            known.set_in_blocks = True
        if self.firing.hit:
            known.value_modules.setdefault(self.firing.module, target.span)

    def _aggregate(self, known: MapState, call: tree.Call) -> None:
        """``@x = hist(…)``"""
        name = call.name
        given = [self.expression(each) for each in call.arguments]
        least, most = {
            "count": (0, 0), "hist": (1, 2), "lhist": (4, 4), "tseries": (3, 4),
        }.get(name, (1, 1))  # fmt: skip
        if not least <= len(given) <= most:
            self.wrong(call.span, f"`{name}` takes {least} arguments, not {len(given)}")
            return
        arguments: tuple[int, ...] = ()
        if name in ("hist", "lhist", "tseries"):
            numbers = [self.constant(each) for each in call.arguments[1:]]
            arguments = self._aggregate_arguments(call, numbers)
        if given and not is_word(given[0]):
            self.wrong(call.arguments[0].span,
                       f"`{name}` takes a number, not {self.shown(given[0])}")  # fmt: skip
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
        if name == "tseries" and len(call.arguments) == 4:
            how = call.arguments[3]
            if not isinstance(how, tree.Text) or how.value != "sum":
                self.wrong(how.span, "only the sum of each interval can be kept so far",
                           'write "sum"')  # fmt: skip
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
                self.wrong(call.span, f"no steps of {step} from {low} to {high}, 1000 at most",
                           "write lhist(VALUE, LEAST, GREATEST, STEP)")  # fmt: skip
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

    # -- variables and maps ---------------------------------------------------------------------

    def declare(self, node: tree.Variable) -> VariableState:
        """A new variable in the innermost scope."""
        variable = VariableState(node.name)
        self.scopes[-1][node.name] = variable
        self.variables.append(variable)
        node.type = variable
        return variable

    def lookup(self, name: str) -> VariableState | None:
        """The variable that a name is."""
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        return None

    def assign_variable(self, variable: VariableState, kind: Kind, span: Span) -> None:
        """A variable is given a value of a kind."""
        if variable.arguments:
            self.wrong(span, f"{variable.name} is what the loop is at, and cannot be set")
            return
        if isinstance(kind, kinds.Void):
            self.wrong(span, "this has no value")
            return
        common = kinds.met(variable.kind, kind)
        if common is None:
            assert variable.kind is not None
            self.wrong(
                span,
                f"{variable.name} is {self.shown(variable.kind)}, and cannot be "
                f"{self.shown(kind)} as well",
                "use another variable",
            )
            return
        variable.kind = common

    def map(self, node: tree.MapValue) -> MapState:
        """A map, at keys that are looked at here."""
        known = self.state.map(node.name, node.span)
        node.type = known
        given = tuple(self.expression(each) for each in node.keys or ())
        self.keys(known, given, node.span, node.keys)
        return known

    def keys(
        self, known: MapState, given: tuple[Kind, ...], span: Span, nodes: list[Any] | None
    ) -> None:
        """A map is used with keys of these kinds."""
        if self.firing.hit:
            known.in_hits = True
            known.modules.setdefault(self.firing.module, span)
        else:
            known.in_blocks = True
        for kind, node in zip(given, nodes or (), strict=False):
            if isinstance(kind, Bytes | Object | kinds.Void):
                self.wrong(node.span, f"{self.shown(kind)} cannot be a key",
                           "use str(), a number or a member")  # fmt: skip
                return
        if known.keys is None:
            known.keys = given
            self.state.changed = True
            return
        if len(known.keys) != len(given):
            have = f"{len(known.keys)} keys" if known.keys else "no key"
            self.wrong(span, f"{known.name} has {have}, not {len(given)}")
            return
        common = []
        for old, new in zip(known.keys, given, strict=True):
            both = self._key_kind(old, new)
            if both is None:
                self.wrong(
                    span, f"a key of {known.name} is {self.shown(old)}, and cannot be "
                    f"{self.shown(new)} as well",
                )  # fmt: skip
                return
            common.append(both)
        if tuple(common) != known.keys:
            known.keys = tuple(common)
            self.state.changed = True

    def _key_kind(self, old: Kind, new: Kind) -> Kind | None:
        """What two kinds of keys are together: the parts of a map hold texts of all kinds."""
        if isinstance(old, String | kinds.Short) and isinstance(new, String | kinds.Short):
            if isinstance(old, kinds.Short) and isinstance(new, kinds.Short):
                return old
            return String(Form.EITHER, 1024)
        return kinds.met(old, new)

    def assign_map(self, known: MapState, kind: Kind, span: Span) -> None:
        """A map is given a value of a kind."""
        if isinstance(kind, String) and kind.form is not Form.CONSTANT:
            self.wrong(
                span, f"{known.name} cannot keep a text of the process yet",
                "keep its address, and use str() where it is shown",
            )  # fmt: skip
            return
        if kinds.words(kind) != 1 or isinstance(kind, Object):
            self.wrong(span, f"{known.name} cannot keep {self.shown(kind)} yet",
                       "keep numbers, pointers and constant texts")  # fmt: skip
            return
        common = kinds.met(known.value, kind)
        if common is None:
            assert known.value is not None
            self.wrong(
                span,
                f"{known.name} has {self.shown(known.value)}, and cannot have "
                f"{self.shown(kind)} as well",
            )
            return
        if common != known.value:
            known.value = common
            self.state.changed = True

    def written_kind(self, name: tree.TypeName) -> Kind | None:
        """The kind of a type as written."""
        if name.name == "string" and not name.pointers:
            return None
        index = self.types.written(name)
        if index is None:
            self.wrong(name.span, f"there is no type `{name.name}`",
                       "declare it in the script, or use debug information that has it")  # fmt: skip
            return None
        kind = kinds.of_type(self.types, index)
        if kind is None:
            self.wrong(name.span, f"`{name.span.text}` has no values")
        return kind

    # -- expressions ----------------------------------------------------------------------------

    def expression(self, one: Any) -> Kind:
        """The kind of an expression, which it keeps."""
        kind = _EXPRESSIONS[type(one)](self, one)
        if not isinstance(one, tree.Variable | tree.MapValue):
            one.type = kind
        return kind

    def condition(self, one: Any) -> None:
        """Something that is true or not."""
        kind = self.expression(one)
        if not is_word(kind):
            self.wrong(one.span, f"a condition is a number, not {self.shown(kind)}",
                       "compare it with something")  # fmt: skip

    def constant(self, one: Any) -> int | None:
        """The number that an expression is before the script runs."""
        from dprobed.program.bt.folding import folded

        value = folded(one, self.types.constants)
        if value is None and isinstance(one, tree.Positional):
            return positional_number(self.state, one.number)
        if value is None and isinstance(one, tree.SizeOf | tree.OffsetOf):
            return size_of(self, one)
        if value is None and isinstance(one, tree.Binary):
            from dprobed.program.bt.folding import computed

            left, right = self.constant(one.left), self.constant(one.right)
            return None if left is None or right is None else computed(one.operator, left, right)
        return value

    def _number(self, one: tree.Number) -> Kind:
        return LITERAL if one.value < 1 << 63 else UINT64

    def _text(self, one: tree.Text) -> Kind:
        return self.state.constant(one.value)

    def _boolean(self, one: tree.Boolean) -> Kind:
        return BOOLEAN

    def _name(self, one: tree.Name) -> Kind:
        known = self.types.constants.get(one.name)
        if known is not None:
            return Enumerator(known[1])
        kind = builtin_kind(self, one)
        if kind is not None:
            return kind
        if one.name in FUNCTIONS:
            return self._call(tree.Call(one.span, one.name, []))
        return self.wrong(one.span, f"there is nothing called `{one.name}`",
                          f"a variable is ${one.name}, a map @{one.name}")  # fmt: skip

    def _variable(self, one: tree.Variable) -> Kind:
        variable = self.lookup(one.name)
        if variable is None:
            self.wrong(one.span, f"{one.name} has no value here",
                       "set it before, outside of the block")  # fmt: skip
            variable = self.declare(one)
            variable.kind = LITERAL
        one.type = variable
        return variable.kind or INT64

    def _map_value(self, one: tree.MapValue) -> Kind:
        known = self.map(one)
        known.other = True
        if known.is_value:
            if self.firing.hit:
                known.value_modules.setdefault(self.firing.module, one.span)
            return known.value_kind
        if known.kind not in ("count", "sum", "min", "max", "avg", "stats"):
            return self.wrong(one.span, f"a {known.kind}() is no number", "print it")
        if self.firing.hit:
            self.wrong(
                one.span, f"{known.name} is a {known.kind}(), which is not read at hits",
                f"write {known.name}++ or {known.name} = VALUE to read it there, or read it in a "
                "block (interval, end)",
            )  # fmt: skip
        return Integer(8, known.signed)

    def _positional(self, one: tree.Positional) -> Kind:
        if one.number < 0:
            return LITERAL
        number = positional_number(self.state, one.number)
        if number is not None:
            return LITERAL if number < 1 << 63 else UINT64
        return self.state.constant(positional_text(self.state, one.number))

    def _unary(self, one: tree.Unary) -> Kind:
        kind = self.expression(one.operand)
        if one.operator == "!":
            if not is_word(kind):
                self.wrong(one.span, f"`!` takes a number, not {self.shown(kind)}")
            return BOOLEAN
        if one.operator == "*":
            return self._pointed(one, kind)
        if one.operator == "&":
            return self._address(one)
        if not is_number(kind):
            return self.wrong(one.span, f"`{one.operator}` takes a number, not {self.shown(kind)}")
        if isinstance(kind, Integer):
            if kind.literal:
                return LITERAL
            return Integer(8, kind.signed or one.operator == "-")
        return INT64

    def _pointed(self, one: tree.Unary, kind: Kind) -> Kind:
        if isinstance(kind, Pointer):
            found = kinds.of_type(self.types, kind.to)
            if found is None:
                return self.wrong(
                    one.span, f"what {self.shown(kind)} points to has no known type",
                    "cast it: *(uint32 *)x",
                )  # fmt: skip
            return found
        if isinstance(kind, Integer):
            return UINT64
        return self.wrong(one.span, f"{self.shown(kind)} points to nothing")

    def _address(self, one: tree.Unary) -> Kind:
        operand = one.operand
        if isinstance(operand, tree.Name) and self.firing.hit:
            return UINT64
        if isinstance(operand, tree.Field | tree.Index):
            index = self.lvalue_type(operand)
            if index is not None:
                return Pointer(index)
        if isinstance(operand, tree.Unary) and operand.operator == "*":
            return operand.operand.type or UINT64
        return self.wrong(one.span, "this has no address", "members of structs have")

    def lvalue_type(self, one: Any) -> int | None:
        """The C type of a member or an element."""
        if isinstance(one, tree.Field):
            found = self.member(kind_of(one.object), one.name)
            return None if found is None or found[1].bits else found[1].type
        kind = kind_of(one.object)
        if isinstance(kind, Pointer):
            return kind.to
        if isinstance(kind, Object):
            plain = self.types.plain(kind.of)
            return plain.of if isinstance(plain, ArrayType) else None
        return None

    def _step(self, one: tree.Step) -> Kind:
        target = one.target
        if isinstance(target, tree.MapValue):
            known = self.map(target)
            if known.kind not in (None, "value", "count"):
                return self.wrong(
                    target.span, f"{known.name} is a {known.kind}(), which cannot be counted up"
                )
            if known.kind == "count" and not known.steps:
                return self.wrong(target.span, f"{known.name} is a count()",
                                  f"write {known.name} = count()")  # fmt: skip
            known.steps = True
            if one.operator == "--" or not self.firing.hit:
                known.other = True
            if not self.firing.hit:
                known.set_in_blocks = True
            if self.firing.hit:
                known.value_modules.setdefault(self.firing.module, target.span)
            if known.kind is None:
                known.kind = "value"
                self.state.changed = True
            if known.value is None:
                self.assign_map(known, INT64, one.span)
            if not is_word(known.value_kind):
                self.wrong(one.span, f"{known.name} is no number")
            return known.value_kind
        kind = self.expression(target)
        if not isinstance(target, tree.Variable):
            return self.wrong(one.span, f"`{one.operator}` is for variables and maps")
        if not is_word(kind):
            return self.wrong(one.span, f"{target.name} is {self.shown(kind)}, no number")
        if isinstance(kind, Integer) and not kind.literal:
            kind = Integer(8, kind.signed)
            target.type.kind = kind
        return kind

    def _binary(self, one: tree.Binary) -> Kind:
        left, right = self.expression(one.left), self.expression(one.right)
        if one.operator in ("&&", "||"):
            for kind, node in ((left, one.left), (right, one.right)):
                if not is_word(kind):
                    self.wrong(node.span, f"a condition is a number, not {self.shown(kind)}",
                               "compare it with something")  # fmt: skip
            return BOOLEAN
        if one.operator in _COMPARE:
            return self._compare(one, left, right)
        return self.arithmetic(one.span, one.operator, one.left, one.right, left, right)

    def _compare(self, one: tree.Binary, left: Kind, right: Kind) -> Kind:
        texts = (String, kinds.Short)
        if isinstance(left, texts) or isinstance(right, texts):
            if not (isinstance(left, texts) and isinstance(right, texts)):
                self.wrong(one.span, f"{self.shown(left)} is not compared with "
                           f"{self.shown(right)}", "use str() for an address of a text")  # fmt: skip
            elif one.operator not in ("==", "!="):
                self.wrong(one.span, "texts are equal or not, and are not greater or less")
            return BOOLEAN
        if isinstance(left, Tuple) and isinstance(right, Tuple):
            if one.operator not in ("==", "!=") or len(left.items) != len(right.items):
                self.wrong(one.span, "tuples of the same length are equal or not")
            elif not all(is_word(each) for each in (*left.items, *right.items)):
                self.wrong(one.span, "only tuples of numbers are compared")
            return BOOLEAN
        if not (is_word(left) and is_word(right)):
            bad = right if is_word(left) else left
            hint = "floating-point numbers are only shown so far" if isinstance(bad, Float) else ""
            self.wrong(one.span, f"`{one.operator}` does not take {self.shown(bad)}", hint)
        return BOOLEAN

    def arithmetic(
        self, span: Span, operator: str, left_node: Any, right_node: Any, left: Kind, right: Kind
    ) -> Kind:
        """The kind of the result of an operator on two values."""
        if isinstance(left, Pointer) and is_number(right) and operator in ("+", "-"):
            return left
        if isinstance(right, Pointer) and is_number(left) and operator == "+":
            return right
        if isinstance(left, Pointer) and isinstance(right, Pointer) and operator == "-":
            return INT64
        for kind, node in ((left, left_node), (right, right_node)):
            if not is_word(kind):
                hint = "floating-point numbers are only shown so far"
                return self.wrong(
                    node.span, f"`{operator}` does not take {self.shown(kind)}",
                    hint if isinstance(kind, Float) else "",
                )  # fmt: skip
        if operator in ("<<", ">>"):
            signed = is_signed(left)
            literal = isinstance(left, Integer) and left.literal
            other = isinstance(right, Integer) and right.literal
            return LITERAL if literal and other else Integer(8, signed)
        return self._result(left, right)

    def _result(self, left: Kind, right: Kind) -> Kind:
        """Of arithmetic: 64 bits; unsigned if one is and the other is not below 0."""
        one = left if isinstance(left, Integer) else INT64
        other = right if isinstance(right, Integer) else INT64
        if isinstance(left, Boolean_) or isinstance(right, Boolean_):
            one = one if isinstance(left, Integer) else other
            other = other if isinstance(right, Integer) else one
        if one.literal and other.literal:
            return LITERAL
        if one.literal:
            return Integer(8, other.signed)
        if other.literal:
            return Integer(8, one.signed)
        return Integer(8, kinds._integers(one, other).signed)

    def _choice(self, one: tree.Choice) -> Kind:
        self.condition(one.condition)
        yes, no = self.expression(one.yes), self.expression(one.no)
        common = kinds.met(yes, no)
        if common is None:
            return self.wrong(
                one.span, f"one of the two is {self.shown(yes)}, the other one {self.shown(no)}",
                "both are of the same type",
            )  # fmt: skip
        return common

    def _call(self, one: tree.Call) -> Kind:
        if one.name in AGGREGATES and one.name != "tseries":
            return self.wrong(one.span, f"`{one.name}` is only assigned to a map",
                              f"write @x = {one.name}(…)")  # fmt: skip
        function = FUNCTIONS.get(one.name)
        if function is None:
            kind = builtin_kind(self, tree.Name(one.span, one.name))
            if kind is not None and not one.arguments:
                return kind
            from difflib import get_close_matches

            near = get_close_matches(one.name, FUNCTIONS, 1)
            return self.wrong(one.span, f"there is no function `{one.name}`",
                              f"did you mean `{near[0]}`?" if near else "")  # fmt: skip
        return function.infer(self, one)

    def member(self, kind: Kind, name: str) -> tuple[int, Any] | None:
        """The struct that a kind is or points to, and its member of a name."""
        index = kind.of if isinstance(kind, Object) else getattr(kind, "to", None)
        if index is None:
            return None
        for _ in range(2):
            plain = self.types.plain(index)
            if isinstance(plain, StructType):
                found = self.types.member(index, name)
                return None if found is None else (index, found)
            break
        return None

    def _field(self, one: tree.Field) -> Kind:
        if isinstance(one.object, tree.Name) and one.object.name == "args":
            return self._argument(one)
        kind = self.expression(one.object)
        if isinstance(kind, Tuple):
            return self._item(one, kind)
        if isinstance(kind, Object | Pointer):
            found = self.member(kind, one.name)
            if found is not None:
                result = kinds.of_type(self.types, found[1].type)
                if result is not None:
                    return result
                return self.wrong(one.span, f"`{one.name}` has no value that can be read")
            index = kind.of if isinstance(kind, Object) else kind.to
            plain = self.types.plain(index)
            if isinstance(plain, StructType):
                from difflib import get_close_matches

                near = get_close_matches(one.name, [m.name for m in plain.members], 1)
                hint = f"did you mean `{near[0]}`?" if near else ""
                if not plain.members:
                    hint = "it is not declared: declare it, or use debug information that has it"
                return self.wrong(
                    one.span, f"{self.types.shown(index)} has no member `{one.name}`", hint
                )
        return self.wrong(one.span, f"{self.shown(kind)} has no members",
                          "cast it: ((struct NAME *)x).member")  # fmt: skip

    def _argument(self, one: tree.Field) -> Kind:
        """``args.x``"""
        firing = self.firing
        parameters = parameters_of(self.state, firing)
        one.object.type = VOID
        if parameters is None:
            return self.wrong(
                one.span, f"nothing is known of the arguments of {firing.name}",
                "without debug information they are arg0, arg1 and so on",
            )  # fmt: skip
        for each in parameters:
            if each.name == one.name:
                found = kinds.of_type(self.types, self.types.take(each.type))
                return found or self.wrong(one.span, f"`{one.name}` cannot be read")
        names = ", ".join(each.name for each in parameters) or "none"
        return self.wrong(one.span, f"{firing.name} has no argument `{one.name}`",
                          f"there are: {names}")  # fmt: skip

    def _item(self, one: tree.Field, kind: Tuple) -> Kind:
        if one.name in kind.names:
            return kind.items[kind.names.index(one.name)]
        if one.name.isdecimal() and int(one.name) < len(kind.items):
            return kind.items[int(one.name)]
        return self.wrong(one.span, f"{self.shown(kind)} has no item `{one.name}`")

    def _index(self, one: tree.Index) -> Kind:
        kind, index = self.expression(one.object), self.expression(one.index)
        if not is_number(index):
            self.wrong(one.index.span, f"an index is a number, not {self.shown(index)}")
        if isinstance(kind, Tuple):
            number = self.constant(one.index)
            if number is None or not 0 <= number < len(kind.items):
                return self.wrong(one.index.span, f"{self.shown(kind)} has no such item")
            return kind.items[number]
        of = self.lvalue_type(one)
        found = None if of is None else kinds.of_type(self.types, of)
        if found is None:
            return self.wrong(one.span, f"{self.shown(kind)} has no elements")
        return found

    def _cast(self, one: tree.Cast) -> Kind:
        kind = self.expression(one.operand)
        to = self.written_kind(one.to)
        if to is None:
            return kind
        if isinstance(to, Object):
            if isinstance(kind, Pointer | Integer | Object):
                return to
            return self.wrong(one.span, f"{self.shown(kind)} cannot be {self.shown(to)}")
        if isinstance(kind, Object) and isinstance(to, Pointer):
            return to
        if isinstance(kind, Object):
            if self.types.size(kind.of) in (1, 2, 4, 8) and isinstance(to, Integer):
                return to
            return self.wrong(one.span, f"{self.shown(kind)} is no number")
        if isinstance(kind, Float) or isinstance(to, Float):
            if isinstance(kind, Float) and isinstance(to, Float) and kind == to:
                return to
            if isinstance(kind, Integer) and isinstance(to, Float):
                return to
            return self.wrong(one.span, "floating-point numbers are not converted yet")
        if isinstance(kind, Shown):
            return to
        if not is_word(kind):
            return self.wrong(one.span, f"{self.shown(kind)} cannot be {self.shown(to)}")
        return to

    def _size(self, one: tree.SizeOf | tree.OffsetOf) -> Kind:
        size_of(self, one)
        return LITERAL

    def _tuple(self, one: tree.TupleOf) -> Kind:
        items = []
        for each in one.items:
            kind = self.expression(each)
            if isinstance(kind, kinds.Void):
                kind = self.wrong(each.span, "this has no value")
            items.append(kind)
        return Tuple(tuple(items), one.names)

    def _block_value(self, one: tree.BlockValue) -> Kind:
        self.scopes.append({})
        for each in one.statements:
            self.statement(each)
        kind = self.expression(one.value)
        self.scopes.pop()
        return kind


Boolean_ = kinds.Boolean


def kind_of(one: Any) -> Kind:
    """The kind of an expression that was looked at."""
    if isinstance(one.type, VariableState):
        return one.type.kind or INT64
    if isinstance(one.type, MapState):
        known = one.type
        return known.value_kind if known.is_value else Integer(8, known.signed)
    kind: Kind = one.type
    return kind


def positional_text(state: State, number: int) -> str:
    """The text of ``$1``; empty: it was not given."""
    given = state.options.positional
    return given[number - 1] if 0 < number <= len(given) else ""


def positional_number(state: State, number: int) -> int | None:
    """The number that ``$1`` is; None: it is none."""
    if number < 0:
        return len(state.options.positional)
    text = positional_text(state, number)
    if not text:
        return 0 if number > len(state.options.positional) or number == 0 else None
    try:
        value = int(text, 0) if not text.lstrip("-").isdecimal() else int(text)
    except ValueError:
        return None
    return value if -(1 << 63) <= value < 1 << 64 else None


def size_of(inference: Inference, one: tree.SizeOf | tree.OffsetOf) -> int | None:
    """Bytes of a type or a value, or where a member is."""
    types = inference.types
    if isinstance(one.of, tree.TypeName):
        index = types.written(one.of)
        if index is None:
            inference.wrong(one.of.span, f"there is no type `{one.of.name}`")
            return None
        if isinstance(one, tree.SizeOf):
            return types.size(index)
    else:
        kind = inference.expression(one.of)
        if isinstance(one, tree.SizeOf):
            return _kind_size(inference, kind)
        index = kind.of if isinstance(kind, Object) else getattr(kind, "to", -1)
    total = 0
    for name in one.path:
        member = types.member(index, name)
        if member is None:
            inference.wrong(one.span, f"{types.shown(index)} has no member `{name}`")
            return None
        total += member.offset
        index = member.type
    return total


def _kind_size(inference: Inference, kind: Kind) -> int:
    if isinstance(kind, Integer | Float):
        return kind.size
    if isinstance(kind, Object | Enumerator):
        return inference.types.size(kind.of)
    if isinstance(kind, kinds.Boolean):
        return 1
    if isinstance(kind, String):
        return kind.most + (kind.form is Form.CONSTANT)
    if isinstance(kind, kinds.Short):
        return 16
    if isinstance(kind, Tuple):
        return sum(_kind_size(inference, each) for each in kind.items)
    return 8


def parameters_of(state: State, firing: Firing) -> Any:
    """The parameters of the function at which a probe is; None: not known."""
    if not firing.asked:
        firing.asked = True
        if firing.function:
            found = state.world.parameters(firing.module, firing.function)
            firing.parameters = None if found is None else tuple(found)
    return firing.parameters


_STATEMENTS: Final[dict[type, Callable[[Inference, Any], None]]] = {
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
_EXPRESSIONS: Final[dict[type, Callable[[Inference, Any], Kind]]] = {
    tree.Number: Inference._number,
    tree.Text: Inference._text,
    tree.Boolean: Inference._boolean,
    tree.Name: Inference._name,
    tree.Variable: Inference._variable,
    tree.MapValue: Inference._map_value,
    tree.Positional: Inference._positional,
    tree.Unary: Inference._unary,
    tree.Step: Inference._step,
    tree.Binary: Inference._binary,
    tree.Choice: Inference._choice,
    tree.Call: Inference._call,
    tree.Field: Inference._field,
    tree.Index: Inference._index,
    tree.Cast: Inference._cast,
    tree.SizeOf: Inference._size,
    tree.OffsetOf: Inference._size,
    tree.TupleOf: Inference._tuple,
    tree.BlockValue: Inference._block_value,
}
_ = Stack
