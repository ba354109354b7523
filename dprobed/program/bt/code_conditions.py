"""Code of comparisons and conditions."""

from __future__ import annotations

from typing import Any, Final

from dprobed.program.bt import kinds, tree
from dprobed.program.bt.code_base import CodeBase
from dprobed.program.bt.code_held import taken, words_differ
from dprobed.program.bt.code_texts import compare_texts
from dprobed.program.bt.facts import (
    kind_of,
    order_matters,
)
from dprobed.program.bt.folding import folded
from dprobed.program.bt.kinds import (
    Boolean,
    Integer,
    Kind,
    Pointer,
    Tuple,
    words,
)
from dprobed.program.builder import Label
from dprobed.program.isa import WORD_MASK

_SIGN: Final = 1 << 63


class ConditionCode(CodeBase):
    """Code of comparisons and conditions."""

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

    def _compare(self, one: tree.Binary) -> None:
        left, right = kind_of(one.left), kind_of(one.right)
        if isinstance(left, kinds.TEXTS):
            compare_texts(self, one)
            return
        if isinstance(left, Tuple):
            self._compare_tuples(one)
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
        if operator in (">", "<=") and order_matters((one.left, one.right)):
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

    def _compare_tuples(self, one: tree.Binary) -> None:
        common = kinds.met(kinds.kept(kind_of(one.left)), kinds.kept(kind_of(one.right)))
        assert common is not None
        self.as_kind(one.left, common)
        slots = taken(self, words(common))
        self.as_kind(one.right, common)
        words_differ(self, slots)
        self.is_zero() if one.operator == "==" else self.is_not_zero()


def is_narrow(one: Any) -> bool:
    """Whether a number has 32 bits at most."""
    value = folded(one)
    if value is not None:
        return -(1 << 32) < value < 1 << 32
    kind = kind_of(one)
    return isinstance(kind, Boolean) or (
        isinstance(kind, Integer) and kind.size <= 4 and not kind.literal
    )
