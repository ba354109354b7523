"""Expressions whose value is known before the script runs."""

from __future__ import annotations

from collections.abc import Mapping

from dprobed.program.bt import tree

_WORD = (1 << 64) - 1


def wrapped(value: int) -> int:
    """A value in 64 bits: negative ones stay so, as long as they fit."""
    if -(1 << 63) <= value <= _WORD:
        return value
    return value & _WORD


def divided(left: int, right: int) -> tuple[int, int]:
    """Quotient, rounded to 0, and remainder."""
    quotient = abs(left) // abs(right)
    if (left < 0) != (right < 0):
        quotient = -quotient
    return quotient, left - quotient * right


def computed(operator: str, left: int, right: int) -> int | None:
    """The value of an operation on two known ones; None: it has none."""
    if operator in ("/", "%"):
        return None if right == 0 else divided(left, right)[operator == "%"]
    if operator in ("<<", ">>"):
        if not 0 <= right < 64:
            return 0 if right >= 64 else None
        return wrapped(left << right) if operator == "<<" else left >> right
    simple = {
        "+": left + right,
        "-": left - right,
        "*": left * right,
        "&": left & right,
        "|": left | right,
        "^": left ^ right,
        "==": int(left == right),
        "!=": int(left != right),
        "<": int(left < right),
        ">": int(left > right),
        "<=": int(left <= right),
        ">=": int(left >= right),
        "&&": int(bool(left and right)),
        "||": int(bool(left or right)),
    }.get(operator)
    return None if simple is None else wrapped(simple)


def folded(
    one: tree.Expression, constants: Mapping[str, tuple[int, int]] | None = None
) -> int | None:
    """The number that an expression is, if it is known."""
    if isinstance(one, tree.Number):
        return one.value
    if isinstance(one, tree.Boolean):
        return int(one.value)
    if isinstance(one, tree.Name) and constants and one.name in constants:
        return constants[one.name][0]
    if isinstance(one, tree.Unary):
        value = folded(one.operand, constants)
        if value is None or one.operator not in "-~!":
            return None
        if one.operator == "-":
            return wrapped(-value) if value <= 1 << 63 else -value & _WORD
        return ~value if one.operator == "~" else int(not value)
    if isinstance(one, tree.Binary):
        left, right = folded(one.left, constants), folded(one.right, constants)
        return None if left is None or right is None else computed(one.operator, left, right)
    if isinstance(one, tree.Choice):
        condition = folded(one.condition, constants)
        if condition is None:
            return None
        return folded(one.yes if condition else one.no, constants)
    return None
