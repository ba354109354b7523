"""Constant expressions of C, in operands, keyword values and ``#if``."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence

from dprobed.program.rpn.lexer import Token, TokenKind, number

_LOGIC: dict[str, Callable[[int, int], int]] = {
    "||": lambda a, b: int(bool(a) or bool(b)),
    "&&": lambda a, b: int(bool(a) and bool(b)),
    "==": lambda a, b: int(a == b),
    "!=": lambda a, b: int(a != b),
    "<": lambda a, b: int(a < b),
    ">": lambda a, b: int(a > b),
    "<=": lambda a, b: int(a <= b),
    ">=": lambda a, b: int(a >= b),
    "|": operator.or_,
    "^": operator.xor,
    "&": operator.and_,
    "<<": operator.lshift,
    ">>": operator.rshift,
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}
#: Binary operators from the weakest to the strongest.
LEVELS: tuple[tuple[str, ...], ...] = (
    ("||",), ("&&",), ("|",), ("^",), ("&",), ("==", "!="), ("<", ">", "<=", ">="),
    ("<<", ">>"), ("+", "-"), ("*", "/", "%"),
)  # fmt: skip
_STRENGTH = {name: level for level, names in enumerate(LEVELS) for name in names}
#: No expression nests deeper: the parser recurses.
_MAX_NESTING = 50
_MAX_BITS = 64


class ExpressionError(Exception):
    """``token``: where, None at the end of the expression."""

    def __init__(self, token: Token | None, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.token = token
        self.message = message
        self.hint = hint


class _ExpressionParser:
    def __init__(self, tokens: Sequence[Token], names: Mapping[str, int], unknown: int | None):
        self.tokens = tokens
        self.names = names
        self.unknown = unknown
        self.at = 0
        self.nesting = 0

    def peek(self) -> Token | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def whole(self) -> int:
        value = self.binary(0)
        rest = self.peek()
        if rest is not None:
            raise ExpressionError(rest, f"unexpected `{rest.text}`")
        return value

    def binary(self, weakest: int) -> int:
        left = self.unary()
        while True:
            token = self.peek()
            strength = -1 if token is None else _STRENGTH.get(token.text, -1)
            if token is None or strength < weakest or token.kind is not TokenKind.PUNCTUATION:
                return left
            self.at += 1
            right = self.binary(strength + 1)
            left = self.apply(token, left, right)

    def apply(self, token: Token, left: int, right: int) -> int:
        name = token.text
        if name in "/%":
            if right == 0:
                raise ExpressionError(token, "division by zero")
            quotient = abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)
            return quotient if name == "/" else left - quotient * right
        if name in ("<<", ">>") and not 0 <= right <= _MAX_BITS:
            raise ExpressionError(token, f"shift by {right} bits")
        value = _LOGIC[name](left, right)
        if value.bit_length() > _MAX_BITS:
            raise ExpressionError(token, "the value does not fit into a 64-bit word")
        return value

    def unary(self) -> int:
        token = self.peek()
        if token is None:
            raise ExpressionError(None, "a value is missing")
        self.at += 1
        if token.kind in (TokenKind.NUMBER, TokenKind.CHARACTER):
            value = number(token)
            if value is None:
                raise ExpressionError(
                    token, f"`{token.text}` is not a number", "write 10, 0x0a, 012 or '\\n'"
                )
            if value.bit_length() > _MAX_BITS:
                raise ExpressionError(token, "the number does not fit into a 64-bit word")
            return value
        if token.kind is TokenKind.NAME:
            return self.named(token)
        if token.text in ("-", "+", "~", "!", "("):
            return self.nested(token)
        raise ExpressionError(token, f"a value is expected, not `{token.text}`")

    def nested(self, token: Token) -> int:
        self.nesting += 1
        if self.nesting > _MAX_NESTING:
            raise ExpressionError(token, "the expression is nested too deeply")
        if token.text == "(":
            value = self.binary(0)
            closing = self.peek()
            if closing is None or closing.text != ")":
                raise ExpressionError(token, "`(` without its `)`")
            self.at += 1
        else:
            operand = self.unary()
            value = {"-": -operand, "+": operand, "~": ~operand, "!": int(not operand)}[token.text]
        self.nesting -= 1
        return value

    def named(self, token: Token) -> int:
        value = self.names.get(token.text, self.unknown)
        if value is None:
            raise ExpressionError(
                token, f"`{token.text}` is not a number", "define it with #define or -D"
            )
        return value


def evaluate(tokens: Sequence[Token], names: Mapping[str, int], unknown: int | None = None) -> int:
    """The value of an expression, between -2**64 and 2**64.

    ``names`` are constants; another name has the value ``unknown``, or is an error when that is
    None. Raises ExpressionError.
    """
    return _ExpressionParser(tokens, names, unknown).whole()
