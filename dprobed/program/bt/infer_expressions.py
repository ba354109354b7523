"""Kinds of expressions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from dprobed.program.bt import kinds, tree
from dprobed.program.bt.builtins import builtin_kind
from dprobed.program.bt.facts import (
    argument_number,
    parameters_of,
    positional_number,
    positional_text,
)
from dprobed.program.bt.folding import folded
from dprobed.program.bt.functions import FUNCTIONS
from dprobed.program.bt.infer_operators import Operators
from dprobed.program.bt.kinds import (
    BOOLEAN,
    INT64,
    LITERAL,
    UINT64,
    VOID,
    Enumerator,
    Float,
    Form,
    Integer,
    Kind,
    Object,
    Pointer,
    ShownWord,
    String,
    Tuple,
    is_number,
    is_word,
)
from dprobed.program.bt.locations import variable_kind
from dprobed.program.bt.state import AGGREGATES
from dprobed.program.types import StructType


class Expressions(Operators):
    """Finds the kinds of expressions."""

    # -- expressions ----------------------------------------------------------------------------

    def expression(self, one: Any) -> Kind:
        """The kind of an expression, which it keeps."""
        kind = _EXPRESSIONS[type(one)](self, one)
        if not isinstance(one, tree.Variable | tree.MapValue):
            one.type = kind
        return kind

    def constant(self, one: Any) -> int | None:
        """The number that an expression is before the script runs."""

        value = folded(one, self.types.constants)
        if value is None and isinstance(one, tree.Positional):
            return positional_number(self.state, one.number)
        if value is None and isinstance(one, tree.SizeOf | tree.OffsetOf):
            return one.value
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
        # A variable of the program may be called as a function is.
        kind = variable_kind(self, one)
        if kind is not None:
            return kind
        if one.name in FUNCTIONS:
            return self._call(tree.Call(one.span, one.name, []))
        return self.wrong(
            one.span,
            f"there is nothing called `{one.name}`",
            f"a variable is ${one.name}, a map @{one.name}",
        )

    def _variable(self, one: tree.Variable) -> Kind:
        variable = self.lookup(one.name)
        if variable is None:
            self.wrong(
                one.span, f"{one.name} has no value here", "set it before, outside of the block"
            )
            variable = self.declare(one)
            variable.kind = LITERAL
        one.type = variable
        return variable.kind or INT64

    def _map_value(self, one: tree.MapValue) -> Kind:
        known = self.map(one)
        # A block is told what has been counted.
        known.other |= self.firing.hit
        if known.is_value:
            if self.firing.hit:
                known.value_modules.setdefault(self.firing.module, one.span)
            return known.value_kind
        if known.kind not in ("count", "sum", "min", "max", "avg", "stats"):
            return self.wrong(one.span, f"a {known.kind}() is no number", "print it")
        if self.firing.hit:
            self.wrong(
                one.span,
                f"{known.name} is a {known.kind}(), which is not read at hits",
                f"write {known.name}++ or {known.name} = VALUE to read it there, or read it in a "
                "block (interval, end)",
            )
        return Integer(8, known.signed)

    def _positional(self, one: tree.Positional) -> Kind:
        if one.number < 0:
            return LITERAL
        number = positional_number(self.state, one.number)
        if number is not None:
            return LITERAL if number < 1 << 63 else UINT64
        return self.state.constant(positional_text(self.state, one.number))

    def _call(self, one: tree.Call) -> Kind:
        if one.name in AGGREGATES and one.name != "tseries":
            return self.wrong(
                one.span, f"`{one.name}` is only assigned to a map", f"write @x = {one.name}(…)"
            )
        function = FUNCTIONS.get(one.name)
        if function is None:
            kind = builtin_kind(self, tree.Name(one.span, one.name))
            if kind is not None and all(map(is_mode_of(one.name), one.arguments)):
                return kind
            if kind is not None:
                return self.wrong(one.span, f"`{one.name}` does not take this")
            from difflib import get_close_matches

            near = get_close_matches(one.name, FUNCTIONS, 1)
            return self.wrong(
                one.span,
                f"there is no function `{one.name}`",
                f"did you mean `{near[0]}`?" if near else "",
            )
        return function.infer(self, one)

    def _field(self, one: tree.Field) -> Kind:
        if isinstance(one.object, tree.Name) and one.object.name == "args":
            return self._argument(one)
        kind = self.expression(one.object)
        if isinstance(one.object, tree.Number):
            return self.wrong(
                one.span, f"`{one.span.text}` is not a number", "numbers of scripts are whole"
            )
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
        return self.wrong(
            one.span, f"{self.shown(kind)} has no members", "cast it: ((struct NAME *)x).member"
        )

    def _argument(self, one: tree.Field) -> Kind:
        """``args.x``"""
        firing = self.firing
        parameters = parameters_of(self.state, firing)
        one.object.type = VOID
        if parameters is None:
            return self.wrong(
                one.span,
                f"nothing is known of the arguments of {firing.name}",
                "without debug information they are arg0, arg1 and so on",
            )
        for number, each in enumerate(parameters):
            if each.name != one.name:
                continue
            if each.language:
                return self.wrong(
                    one.span,
                    f"`{one.name}` is passed as {each.language} does, in other registers than C's",
                    f"write `{one.name}` alone: where debug information says that it is",
                )
            found = kinds.of_type(self.types, self.types.take(each.type))
            if found is None or isinstance(found, Object):
                return self.wrong(one.span, f"`{one.name}` is passed in a way that is not read yet")
            if argument_number(self.types, parameters, number) is None:
                return self.wrong(
                    one.span, f"where `{one.name}` is passed, behind a structure, is not known"
                )
            if isinstance(found, Float) and firing.returns:
                return self.wrong(one.span, f"`{one.name}` is gone at the return")
            return found
        names = ", ".join(each.name for each in parameters) or "none"
        return self.wrong(
            one.span, f"{firing.name} has no argument `{one.name}`", f"there are: {names}"
        )

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
        if isinstance(to, Tuple | ShownWord | kinds.Stack | kinds.Bytes | kinds.Void):
            if kind == to:
                return to
            return self.wrong(one.span, f"{self.shown(kind)} cannot be {self.shown(to)}")
        if isinstance(to, Object):
            if isinstance(kind, Object):
                return to
            if is_number(kind):
                return self.wrong(
                    one.span,
                    f"a number is not seen as {self.shown(to)} yet",
                    "cast an address: *(struct NAME *)x, ((uint8 *)x)[0]",
                )
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
        if isinstance(kind, ShownWord):
            return to
        if not is_word(kind):
            return self.wrong(one.span, f"{self.shown(kind)} cannot be {self.shown(to)}")
        return to

    def _size(self, one: tree.SizeOf | tree.OffsetOf) -> Kind:
        one.value = size_of(self, one) or 0
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


def is_mode_of(name: str) -> Callable[[Any], bool]:
    """Says whether an argument is a mode of a builtin, all of which are the same here."""
    modes = {
        "nsecs": ("monotonic", "boot"),
        "pid": ("curr_ns", "init"),
        "tid": ("curr_ns", "init"),
    }.get(name, ())
    return lambda one: isinstance(one, tree.Name) and one.name in modes


def size_of(inference: Expressions, one: tree.SizeOf | tree.OffsetOf) -> int | None:
    """Bytes of a type or a value, or where a member is."""
    types = inference.types
    while isinstance(one.of, tree.TypeName) and one.of.of is not None:
        one.of = one.of.of
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


def _kind_size(inference: Expressions, kind: Kind) -> int:
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
    if isinstance(kind, kinds.HeldText):
        return kind.size
    if isinstance(kind, Tuple):
        return sum(_kind_size(inference, each) for each in kind.items)
    return 8


_EXPRESSIONS: Final[dict[type, Callable[[Any, Any], Kind]]] = {
    tree.Number: Expressions._number,
    tree.Text: Expressions._text,
    tree.Boolean: Expressions._boolean,
    tree.Name: Expressions._name,
    tree.Variable: Expressions._variable,
    tree.MapValue: Expressions._map_value,
    tree.Positional: Expressions._positional,
    tree.Unary: Expressions._unary,
    tree.Step: Expressions._step,
    tree.Binary: Expressions._binary,
    tree.Choice: Expressions._choice,
    tree.Call: Expressions._call,
    tree.Field: Expressions._field,
    tree.Index: Expressions._index,
    tree.Cast: Expressions._cast,
    tree.SizeOf: Expressions._size,
    tree.OffsetOf: Expressions._size,
    tree.TupleOf: Expressions._tuple,
    tree.BlockValue: Expressions._block_value,
}
