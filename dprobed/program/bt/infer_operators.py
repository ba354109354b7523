"""Kinds of what operators make."""

from __future__ import annotations

from typing import Any, Final

from dprobed.program.bt import kinds, tree
from dprobed.program.bt.facts import kind_of, positional_text
from dprobed.program.bt.infer_base import Scopes
from dprobed.program.bt.kinds import (
    BOOLEAN,
    INT64,
    LITERAL,
    UINT64,
    Boolean,
    Float,
    Integer,
    Kind,
    Object,
    Pointer,
    String,
    Tuple,
    is_number,
    is_signed,
    is_word,
)
from dprobed.program.bt.locations import located
from dprobed.program.bt.source import TextSpan
from dprobed.program.types import ArrayType, StructType

_COMPARE: Final = ("==", "!=", "<", ">", "<=", ">=")


class Operators(Scopes):
    """Finds the kinds of what operators make."""

    def condition(self, one: Any) -> None:
        """Something that is true or not."""
        kind = self.expression(one)
        if not is_word(kind):
            self.wrong(
                one.span,
                f"a condition is a number, not {self.shown(kind)}",
                "compare it with something",
            )

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
            if one.operator == "-" and isinstance(one.operand, tree.Number):
                self._least_number(one, one.operand.value)
            return Integer(8, kind.signed or one.operator == "-")
        return INT64

    def _least_number(self, one: tree.Unary, value: int) -> None:
        """A number below 0 has 64 bits, too."""
        if value > 1 << 63:
            self.wrong(
                one.span, f"-{value} is not a number of 64 bits", f"the least one is -{1 << 63}"
            )

    def _pointed(self, one: tree.Unary, kind: Kind) -> Kind:
        if isinstance(kind, Pointer):
            found = kinds.of_type(self.types, kind.to)
            if found is None:
                return self.wrong(
                    one.span,
                    f"what {self.shown(kind)} points to has no known type",
                    "cast it: *(uint32 *)x",
                )
            return found
        if isinstance(kind, Integer):
            return UINT64
        return self.wrong(one.span, f"{self.shown(kind)} points to nothing")

    def _address(self, one: tree.Unary) -> Kind:
        operand = one.operand
        if isinstance(operand, tree.Name) and self.firing.hit:
            found = located(self.state, self.firing, operand.name)
            if found is None:
                return UINT64
            if found.location.kind != "memory":
                return self.wrong(one.span, f"`{operand.name}` has no address here")
            return Pointer(self.types.take(found.type))
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
        return self.step(one, wanted=True)

    def step(self, one: tree.Step, *, wanted: bool) -> Kind:
        """``x++``, ``--x``; ``wanted``: its value is used."""
        target = one.target
        if isinstance(target, tree.MapValue):
            return self._step_map(one, target, wanted=wanted)
        kind = self.expression(target)
        if not isinstance(target, tree.Variable):
            return self.wrong(one.span, f"`{one.operator}` is for variables and maps")
        if not is_word(kind):
            return self.wrong(one.span, f"{target.name} is {self.shown(kind)}, no number")
        self.assign_variable(target.type, self._stepped(one, kind), one.span)
        return kind_of(target)

    def _step_map(self, one: tree.Step, target: tree.MapValue, *, wanted: bool) -> Kind:
        known = self.map(target)
        if known.kind not in (None, "value", "count"):
            return self.wrong(
                target.span, f"{known.name} is a {known.kind}(), which cannot be counted up"
            )
        if known.kind == "count" and not known.steps:
            return self.wrong(
                target.span, f"{known.name} is a count()", f"write {known.name} = count()"
            )
        known.steps = True
        known.other |= wanted or one.operator == "--"
        if known.kind == "count":
            return INT64
        if not self.firing.hit:
            known.set_in_blocks = True
        else:
            known.value_modules.setdefault(self.firing.module, target.span)
        if known.kind is None:
            known.kind = "value"
            self.state.changed = True
        if not is_word(known.value_kind):
            return self.wrong(one.span, f"{known.name} is no number")
        self.assign_map(known, self._stepped(one, known.value_kind), one.span)
        return known.value_kind

    def _stepped(self, one: tree.Step, kind: Kind) -> Kind:
        """The kind of something and 1: as ``+`` and ``-`` have it."""
        return self.arithmetic(one.span, one.operator[0], one.target, one, kind, LITERAL)

    def _binary(self, one: tree.Binary) -> Kind:
        left, right = self.expression(one.left), self.expression(one.right)
        if one.operator in ("&&", "||"):
            for kind, node in ((left, one.left), (right, one.right)):
                if not is_word(kind):
                    self.wrong(
                        node.span,
                        f"a condition is a number, not {self.shown(kind)}",
                        "compare it with something",
                    )
            return BOOLEAN
        if one.operator in _COMPARE:
            return self._compare(one, left, right)
        return self.arithmetic(one.span, one.operator, one.left, one.right, left, right)

    def _compare(self, one: tree.Binary, left: Kind, right: Kind) -> Kind:
        texts = kinds.TEXTS
        if isinstance(left, texts) or isinstance(right, texts):
            kind, given = (left, one.left) if isinstance(left, texts) else (right, one.right)
            if isinstance(left, texts) and isinstance(right, texts):
                if one.operator not in ("==", "!="):
                    self.wrong(one.span, "texts are equal or not, and are not greater or less")
            elif isinstance(given, tree.Positional) and isinstance(kind, String):
                self._no_number(given)
            else:
                self.wrong(
                    one.span,
                    f"{self.shown(left)} is not compared with {self.shown(right)}",
                    "use str() for an address of a text",
                )
            return BOOLEAN
        if isinstance(left, Tuple) and isinstance(right, Tuple):
            if one.operator not in ("==", "!=") or len(left.items) != len(right.items):
                self.wrong(one.span, "tuples of the same length are equal or not")
            elif not (_is_plain(left) and _is_plain(right)) or not kinds.met(
                kinds.kept(left), kinds.kept(right)
            ):
                self.wrong(one.span, "only tuples of numbers and texts are compared")
            return BOOLEAN
        if not (is_word(left) and is_word(right)):
            bad = right if is_word(left) else left
            hint = "floating-point numbers are only shown so far" if isinstance(bad, Float) else ""
            self.wrong(one.span, f"`{one.operator}` does not take {self.shown(bad)}", hint)
        return BOOLEAN

    def _no_number(self, one: tree.Positional) -> Kind:
        """A parameter is used as a number, and is none."""
        text = positional_text(self.state, one.number)
        return self.wrong(
            one.span,
            f"`${one.number}` is used as a number, and is `{text}`",
            f"numbers are 10, 0x0a, 012; as a text it is str(${one.number})",
        )

    def arithmetic(
        self,
        span: TextSpan,
        operator: str,
        left_node: Any,
        right_node: Any,
        left: Kind,
        right: Kind,
    ) -> Kind:
        """The kind of the result of an operator on two values."""
        if isinstance(left, Pointer) and is_number(right) and operator in ("+", "-"):
            return left
        if isinstance(right, Pointer) and is_number(left) and operator == "+":
            return right
        if isinstance(left, Pointer) and isinstance(right, Pointer) and operator == "-":
            return INT64
        for kind, node in ((left, left_node), (right, right_node)):
            if isinstance(node, tree.Positional) and isinstance(kind, String):
                return self._no_number(node)
            if not is_word(kind):
                hint = "floating-point numbers are only shown so far"
                return self.wrong(
                    node.span,
                    f"`{operator}` does not take {self.shown(kind)}",
                    hint if isinstance(kind, Float) else "",
                )
        if operator in ("/", "%") and self.constant(right_node) == 0:
            self.state.problems.warn(span, f"`{operator}` by 0, which gives 0")
        if operator in ("<<", ">>"):
            signed = is_signed(left)
            literal = isinstance(left, Integer) and left.literal
            other = isinstance(right, Integer) and right.literal
            return LITERAL if literal and other else Integer(8, signed)
        return self.result(left, right)

    def result(self, left: Kind, right: Kind) -> Kind:
        """Of arithmetic: 64 bits; unsigned if one is and the other is not below 0."""
        one = left if isinstance(left, Integer) else INT64
        other = right if isinstance(right, Integer) else INT64
        if isinstance(left, Boolean) or isinstance(right, Boolean):
            one = one if isinstance(left, Integer) else other
            other = other if isinstance(right, Integer) else one
        if one.literal and other.literal:
            return LITERAL
        if one.literal:
            return Integer(8, other.signed)
        if other.literal:
            return Integer(8, one.signed)
        return Integer(8, kinds.integers(one, other).signed)

    def _choice(self, one: tree.Choice) -> Kind:
        self.condition(one.condition)
        yes, no = self.expression(one.yes), self.expression(one.no)
        common = kinds.met(yes, no)
        if common is None:
            return self.wrong(
                one.span,
                f"one of the two is {self.shown(yes)}, the other one {self.shown(no)}",
                "both are of the same type",
            )
        return common

    def member(self, kind: Kind, name: str) -> tuple[int, Any] | None:
        """The struct that a kind is or points to, and its member of a name."""
        index = kind.of if isinstance(kind, Object) else getattr(kind, "to", None)
        if index is None:
            return None
        if not isinstance(self.types.plain(index), StructType):
            return None
        found = self.types.member(index, name)
        return None if found is None else (index, found)


def _is_plain(kind: Kind) -> bool:
    """Whether it is a number, a text, or a tuple of these."""
    if isinstance(kind, Tuple):
        return all(map(_is_plain, kind.items))
    return is_word(kind) or isinstance(kind, kinds.TEXTS)
