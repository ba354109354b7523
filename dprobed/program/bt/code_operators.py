"""Code of operators."""

from __future__ import annotations

from typing import Any, Final

from dprobed.program.bt import kinds, tree
from dprobed.program.bt.code_base import CodeBase
from dprobed.program.bt.code_maps import step_map
from dprobed.program.bt.code_texts import compare_texts
from dprobed.program.bt.facts import (
    kind_of,
    pure,
)
from dprobed.program.bt.folding import folded
from dprobed.program.bt.kinds import (
    Boolean,
    Integer,
    Kind,
    Pointer,
    Short,
    String,
    Tuple,
    is_signed,
    words,
)
from dprobed.program.bt.locations import emit_address
from dprobed.program.bt.state import VariableState
from dprobed.program.builder import Label
from dprobed.program.isa import WORD_MASK

_SIGN: Final = 1 << 63


class OperatorCode(CodeBase):
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

    def condition(self, one: Any, no: Label) -> None:
        """Go on if a condition holds, else to ``no`` with one word more on the stack."""
        self.span = one.span
        if isinstance(one, tree.Binary) and one.operator == "&&":
            self.condition(one.left, no)
            self.condition(one.right, no)
            return
        if isinstance(one, tree.Unary) and one.operator == "!" and not folded(one):
            self.expression(one.operand)
            self.to.add("jnz label", no)
            self.to.drop()
            return
        if isinstance(one, tree.Binary) and one.operator in ("==", "!=") and self._plain(one):
            self.expression(one.left)
            value = folded(one.right)
            if value != 0:
                self.expression(one.right)
                self.to.add("xor")
            self.to.add("jnz label" if one.operator == "==" else "jz label", no)
            self.to.drop()
            return
        ordered = isinstance(one, tree.Binary) and one.operator in ("<", ">", "<=", ">=")
        if ordered and folded(one) is None and self._compare_and_jump(one, no):
            return
        self.expression(one)
        self.to.add("jz label", no)
        self.to.drop()

    def _plain(self, one: tree.Binary) -> bool:
        """Whether a comparison is of two words."""
        return kinds.is_word(kind_of(one.left)) and kinds.is_word(kind_of(one.right))

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

    def _compare(self, one: tree.Binary) -> None:
        left, right = kind_of(one.left), kind_of(one.right)
        if isinstance(left, String | Short):
            compare_texts(self, one)
            return
        if isinstance(left, Tuple):
            self._compare_tuples(one, left)
            return
        operator = one.operator
        if operator in ("==", "!="):
            self.expression(one.left)
            self.expression(one.right)
            self.to.add("xor")
            self.is_zero() if operator == "==" else self.is_not_zero()
            return
        if self._narrow(one):
            self._difference(one)
            self.to.add("shr bits", 63)
            if operator in (">=", "<="):
                self.to.push(1)
                self.to.add("xor")
            return
        first, second = (one.left, one.right) if operator in ("<", ">=") else (one.right, one.left)
        if operator in (">", "<=") and not (pure(one.left) and pure(one.right)):
            self.expression(one.left)
            self.expression(one.right)
            self.to.add("xchg")
        else:
            self.expression(first)
            self.expression(second)
        self.below(self._compares_signed(left, right))
        if operator in (">=", "<="):
            self.to.push(1)
            self.to.add("xor")

    def _narrow(self, one: tree.Binary) -> bool:
        """Whether the difference of two numbers has the sign of their comparison."""
        return is_narrow(one.left) and is_narrow(one.right)

    def _difference(self, one: tree.Binary) -> None:
        """What is below 0 where ``<`` or ``>`` holds, and where ``>=`` or ``<=`` does not."""
        self.expression(one.left)
        self.expression(one.right)
        if one.operator in (">", "<="):
            self.to.add("xchg")
        self.to.add("sub")

    def _compare_and_jump(self, one: tree.Binary, no: Label) -> bool:
        """Compare for a condition, where there is a short way; whether there was."""
        to = self.to
        if self._narrow(one):
            self.expression(one.left)
            self.expression(one.right)
            to.add("sub")
            otherwise = {"<": "jge label", ">=": "jlt label", ">": "jle label", "<=": "jgt label"}
            to.add(otherwise[one.operator], no)
            to.drop()
            return True
        value = folded(one.right)
        signed = self._compares_signed(kind_of(one.left), kind_of(one.right))
        if value is None:
            return False
        bound = value ^ _SIGN if signed else value
        bound = (bound & WORD_MASK) + (one.operator in (">", "<="))
        if not 0 < bound <= WORD_MASK:
            return False
        # Unsigned: below a number is to be 0 divided by it.
        self.expression(one.left)
        if signed:
            to.push(_SIGN)
            to.add("xor")
        to.push(bound)
        to.add("div")
        to.add("xchg")
        to.drop()
        to.add("jnz label" if one.operator in ("<", "<=") else "jz label", no)
        to.drop()
        return True

    def _compares_signed(self, left: Kind, right: Kind) -> bool:
        if isinstance(left, Pointer) or isinstance(right, Pointer):
            return False
        kind = self.inference.result(left, right)
        return isinstance(kind, Integer) and kind.signed

    def _compare_tuples(self, one: tree.Binary, kind: Tuple) -> None:
        to = self.to
        count = words(kind)
        self.expression(one.left)
        self.expression(one.right)
        # Word by word: all of their differences together.
        to.push(0)
        for number in range(count):
            to.pick(1 + number)
            to.pick(1 + 1 + number + count)
            to.add("xor")
            to.add("or")
        self.is_zero() if one.operator == "==" else self.is_not_zero()
        for _ in range(2 * count):
            to.add("xchg")
            to.drop()

    def _choice(self, one: tree.Choice) -> None:
        to, kind = self.to, one.type
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


def is_narrow(one: Any) -> bool:
    """Whether a number has 32 bits at most."""
    value = folded(one)
    if value is not None:
        return -(1 << 32) < value < 1 << 32
    kind = kind_of(one)
    return isinstance(kind, Boolean) or (
        isinstance(kind, Integer) and kind.size <= 4 and not kind.literal
    )
