"""Code of expressions: pushes what an expression is worth.

What a bad address has is 0, or an empty string: as bpftrace has it, and the script goes on.
"""

from __future__ import annotations

from typing import Any

from dprobed.program.bt import kinds, tree
from dprobed.program.bt.builtins import emit_argument, emit_name, is_builtin
from dprobed.program.bt.code_base import arguments, is_signed_type
from dprobed.program.bt.code_maps import read_map
from dprobed.program.bt.code_operators import OperatorCode
from dprobed.program.bt.facts import (
    argument_number,
    kind_of,
    order_matters,
    parameters_of,
    positional_number,
    positional_text,
)
from dprobed.program.bt.functions import FUNCTIONS
from dprobed.program.bt.kinds import (
    UINT64,
    Boolean,
    Enumerator,
    Float,
    Integer,
    Object,
    Tuple,
    words,
)
from dprobed.program.bt.locations import emit_variable
from dprobed.program.bt.state import VariableState


class ExpressionCode(OperatorCode):
    """Code of expressions."""

    def _number(self, one: tree.Number) -> None:
        self.to.push(one.value)

    def _text(self, one: tree.Text) -> None:
        self.to.push(self.state.string(one.value))

    def _boolean(self, one: tree.Boolean) -> None:
        self.to.push(int(one.value))

    def _name(self, one: tree.Name) -> None:
        known = self.types.constants.get(one.name)
        if known is not None:
            self.to.push(known[0])
        elif not is_builtin(one.name) and emit_variable(self, one):
            return
        elif one.name in FUNCTIONS:
            call = tree.Call(one.span, one.name, [])
            call.type = one.type
            FUNCTIONS[one.name].emit(self, call)
        else:
            emit_name(self, one)

    def _variable(self, one: tree.Variable) -> None:
        self.load_variable(one.type)

    def _map_value(self, one: tree.MapValue) -> None:
        read_map(self, one)

    def _positional(self, one: tree.Positional) -> None:
        number = positional_number(self.state, one.number)
        if number is None:
            number = self.state.string(positional_text(self.state, one.number))
        self.to.push(number)

    def _call(self, one: tree.Call) -> None:
        function = FUNCTIONS.get(one.name)
        if function is not None:
            function.emit(self, one)
        else:
            emit_name(self, tree.Name(one.span, one.name))

    def _field(self, one: tree.Field) -> None:
        if isinstance(one.object, tree.Name) and one.object.name == "args":
            parameters = parameters_of(self.state, self.firing) or ()
            number = next(n for n, each in enumerate(parameters) if each.name == one.name)
            place = argument_number(self.types, parameters, number) or 0
            kind = one.type
            if isinstance(kind, Float):
                self.to.add("push f,argument", place)
                return
            emit_argument(self, place)
            if isinstance(kind, Integer | Enumerator):
                self.extend(
                    self.types.size(self.types.take(parameters[number].type)),
                    is_signed_type(self, kind),
                )
            elif isinstance(kind, Boolean):
                self.extend(1, False)
            return
        kind = kind_of(one.object)
        if isinstance(kind, Tuple):
            number = kind.names.index(one.name) if one.name in kind.names else int(one.name)
            self._item(one.object, kind, number)
            return
        found = self.inference.member(kind, one.name)
        self.expression(one.object)
        if found is not None:
            self.load_member(found[1])

    def _item(self, of: Any, kind: Tuple, number: int) -> None:
        """Push one of the items of a tuple."""
        before = sum(words(each) for each in kind.items[:number])
        count = words(kind.items[number])
        given = self._given(of)
        if given is not None:
            first = given + sum(arguments(each) for each in kind.items[:number])
            self.push_arguments(kind.items[number], first)
            return
        self.expression(of)
        total = words(kind)
        # The first item is on top: drop those, keep these, and drop the rest from below them.
        self.to.drop(before)
        rest = total - before - count
        if rest and count == 1:
            for _ in range(rest):
                self.to.add("xchg")
                self.to.drop()
        elif rest:
            slot = self.to.reserve(count)
            for each in reversed(range(count)):
                self.to.store(slot + each)
            self.to.drop(rest)
            for each in range(count):
                self.to.load(slot + each)

    def _given(self, of: Any) -> int | None:
        """The first argument of a tuple that the body of a loop is given; None: it is no such."""
        if isinstance(of, tree.Variable):
            return 0 if of.type.arguments else None
        if isinstance(of, tree.Field):
            outer = self._given(of.object)
            kind = kind_of(of.object)
            if outer is None or not isinstance(kind, Tuple) or not of.name.isdecimal():
                return None
            return outer + sum(arguments(each) for each in kind.items[: int(of.name)])
        return None

    def _index(self, one: tree.Index) -> None:
        kind = kind_of(one.object)
        if isinstance(kind, Tuple):
            self._item(one.object, kind, self.inference.constant(one.index) or 0)
            return
        self.expression(one.object)
        self._add_index(kind, one)
        self.load_type(self.element(kind))

    def _cast(self, one: tree.Cast) -> None:
        kind, to = kind_of(one.operand), one.type
        self.expression(one.operand)
        if isinstance(kind, Object) and isinstance(to, Integer):
            self.load(to.size)
            self.extend(to.size, to.signed)
        elif isinstance(to, Integer):
            self.extend(to.size, to.signed)
        elif isinstance(to, kinds.Boolean) and not isinstance(kind, kinds.Boolean):
            self.is_not_zero()
        elif isinstance(to, kinds.Enumerator):
            self.extend(self.types.size(to.of), is_signed_type(self, to))

    def _size(self, one: tree.SizeOf | tree.OffsetOf) -> None:
        self.to.push(one.value)

    def _tuple(self, one: tree.TupleOf) -> None:
        self.tuple_as(one, one.type)

    def tuple_as(self, one: tree.TupleOf, kind: Tuple) -> None:
        """A tuple with items of these kinds."""
        if order_matters(one.items):
            held = [VariableState("", each) for each in kind.items]
            for item, variable in zip(one.items, held, strict=True):
                self.as_kind(item, variable.kind or UINT64)
                self.store_variable(variable)
            for variable in reversed(held):
                self.load_variable(variable)
            return
        for item, each in zip(reversed(one.items), reversed(kind.items), strict=True):
            self.as_kind(item, each)

    def _block_value(self, one: tree.BlockValue) -> None:
        self.block(one.statements)
        self.expression(one.value)


ExpressionCode.emits = {
    tree.Number: ExpressionCode._number,
    tree.Text: ExpressionCode._text,
    tree.Boolean: ExpressionCode._boolean,
    tree.Name: ExpressionCode._name,
    tree.Variable: ExpressionCode._variable,
    tree.MapValue: ExpressionCode._map_value,
    tree.Positional: ExpressionCode._positional,
    tree.Unary: ExpressionCode._unary,
    tree.Step: ExpressionCode._step,
    tree.Binary: ExpressionCode._binary,
    tree.Choice: ExpressionCode._choice,
    tree.Call: ExpressionCode._call,
    tree.Field: ExpressionCode._field,
    tree.Index: ExpressionCode._index,
    tree.Cast: ExpressionCode._cast,
    tree.SizeOf: ExpressionCode._size,
    tree.OffsetOf: ExpressionCode._size,
    tree.TupleOf: ExpressionCode._tuple,
    tree.BlockValue: lambda code, one: code._block_value(one),
}
