"""Code of operators."""

from __future__ import annotations

from typing import Any

from dprobed.program.bt import kinds, tree
from dprobed.program.bt.code_conditions import ConditionCode
from dprobed.program.bt.code_maps import step_map
from dprobed.program.bt.facts import (
    kind_of,
)
from dprobed.program.bt.folding import folded
from dprobed.program.bt.kinds import (
    Integer,
    Kind,
    Pointer,
    is_signed,
)
from dprobed.program.bt.locations import emit_address
from dprobed.program.bt.state import VariableState


class OperatorCode(ConditionCode):
    """Code of operators."""

    def _unary(self, one: tree.Unary) -> None:
        value = folded(one)
        if value is not None:
            self.to.push(value)
            return
        if one.operator == "*":
            kind = kind_of(one.operand)
            self.expression(one.operand)
            if isinstance(kind, Pointer):
                self.load_type(kind.to)
            else:
                self.load(8)
        elif one.operator == "&":
            self._address_of(one)
        elif one.operator == "!":
            self.expression(one.operand)
            self.is_zero()
        elif one.operator == "~":
            self.expression(one.operand)
            self.to.add("neg")
        else:
            self.to.push(0)
            self.expression(one.operand)
            self.to.add("sub")

    def _address_of(self, one: tree.Unary) -> None:
        if isinstance(one.operand, tree.Name):
            if not emit_address(self, one.operand.name):
                self.to.add("push addr,symbol", one.operand.name)
        else:
            self.address(one.operand)

    def address(self, one: Any) -> None:
        """Push the address of a member, an element or what a pointer points to."""
        self.span = one.span
        if isinstance(one, tree.Unary) and one.operator == "*":
            self.expression(one.operand)
            return
        kind = kind_of(one.object)
        self.expression(one.object)
        if isinstance(one, tree.Field):
            found = self.inference.member(kind, one.name)
            if found is not None and found[1].offset:
                self.to.push(found[1].offset)
                self.to.add("add")
            return
        self._add_index(kind, one)

    def _add_index(self, kind: Kind, one: tree.Index) -> None:
        """The address of an element; that of the first one is on top."""
        size = self.types.size(self.element(kind))
        number = folded(one.index)
        if number is not None:
            if number:
                self.to.push(number * size)
                self.to.add("add")
            return
        self.expression(one.index)
        if size != 1:
            self.to.push(size)
            self.to.add("mul")
        self.to.add("add")

    def _binary(self, one: tree.Binary) -> None:
        value = folded(one)
        if value is not None:
            self.to.push(value)
        elif one.operator in ("&&", "||"):
            self._logical(one)
        elif one.operator in ("==", "!=", "<", ">", "<=", ">="):
            self._compare(one)
        else:
            left, right = kind_of(one.left), kind_of(one.right)
            self.expression(one.left)
            self.scaled(one.operator, right, left)
            self.expression(one.right)
            self.scaled(one.operator, left, right)
            self.operate(one.operator, left, right)

    def scaled(self, operator: str, pointer: Kind, number: Kind) -> None:
        """A number that is added to a pointer counts what that points to."""
        if operator in ("+", "-") and isinstance(pointer, Pointer) and kinds.is_number(number):
            size = self.types.size(pointer.to)
            if size != 1:
                self.to.push(size)
                self.to.add("mul")

    def operate(self, operator: str, left: Kind, right: Kind) -> None:
        """An operation on the two words on top."""
        to = self.to
        simple = {"+": "add", "-": "sub", "*": "mul", "&": "and", "|": "or", "^": "xor"}
        if operator in simple:
            to.add(simple[operator])
            if operator == "-" and isinstance(left, Pointer) and isinstance(right, Pointer):
                self.divide("/", self.types.size(left.to) or 1, True)
        elif operator in ("/", "%"):
            signed = self.inference.result(left, right)
            self.divided(operator, signed.signed if isinstance(signed, Integer) else True)
        else:
            self.shift(operator, is_signed(left))

    def divide(self, operator: str, by: int, signed: bool) -> None:
        """The word on top divided by a number."""
        self.to.push(by)
        self.divided(operator, signed)

    def divided(self, operator: str, signed: bool) -> None:
        """A division; by 0 it is 0."""
        to = self.to
        known = to.ops[-1].key == "push word" and to.ops[-1].operand not in (0, None)
        zero, done = to.label(), to.label()
        if not known:
            to.add("jz label", zero)
        to.add("idiv" if signed else "div")
        if operator == "/":
            to.add("xchg")
        to.drop()
        if not known:
            to.add("jmp label", done)
            to.place(zero, to.depth + 1)
            to.drop(2)
            to.push(0)
            to.place(done)

    def shift(self, operator: str, signed: bool) -> None:
        """A shift: of the number below by that on top."""
        to = self.to
        last = to.ops[-1]
        if last.key == "push word" and isinstance(last.operand, int) and last.operand < 64:
            to.ops.pop()
            to.depth -= 1
            bits = last.operand
            if operator == "<<":
                to.add("shl bits", bits)
            elif bits:
                to.add("shr bits", bits)
                if signed:
                    to.add("pbl bit", 64 - bits)
            return
        to.add("xchg")
        if operator == "<<":
            to.add("shl")
        elif not signed:
            to.add("shr")
        else:
            # The complement of one that is below 0 is not, and back.
            self._signed_shift()

    def _signed_shift(self) -> None:
        to = self.to
        to.add("dup count", 1)
        to.add("pbr bit", 64)
        # count, number, mask → mask, count, number ^ mask
        to.add("xchg")
        to.pick(1)
        to.add("xor")
        to.pick(2)
        to.add("xchg")
        to.add("shr")
        to.add("xor")
        to.add("xchg")
        to.drop()

    def _logical(self, one: tree.Binary) -> None:
        to = self.to
        other, done = to.label(), to.label()
        depth = to.depth
        if one.operator == "&&":
            self.condition(one, other)
            to.push(1)
        else:
            # a || b is not (not a and not b).
            self.expression(one.left)
            to.add("jnz label", other)
            to.drop()
            self.expression(one.right)
            to.add("jnz label", other)
            to.drop()
            to.push(0)
        to.add("jmp label", done)
        to.place(other, depth + 1)
        to.drop()
        to.push(0 if one.operator == "&&" else 1)
        to.place(done)

    def _choice(self, one: tree.Choice) -> None:
        self.choice_as(one, one.type)

    def choice_as(self, one: tree.Choice, kind: Kind) -> None:
        """One of two values, as this kind."""
        to = self.to
        known = folded(one.condition)
        if known is not None:
            self.as_kind(one.yes if known else one.no, kind)
            return
        no, done = to.label(), to.label()
        depth = to.depth
        self.condition(one.condition, no)
        self.as_kind(one.yes, kind)
        to.add("jmp label", done)
        to.place(no, depth + 1)
        to.drop()
        self.as_kind(one.no, kind)
        to.place(done)

    def _step(self, one: tree.Step) -> None:
        if isinstance(one.target, tree.MapValue):
            step_map(self, one)
            return
        variable: VariableState = one.target.type
        kind = variable.kind
        by = self.types.size(kind.to) if isinstance(kind, Pointer) else 1
        self.load_variable(variable)
        if not one.prefix:
            self.to.add("dup count", 1)
        self.to.push(by)
        self.to.add("add" if one.operator == "++" else "sub")
        if one.prefix:
            self.to.add("dup count", 1)
        self.store_variable(variable)
