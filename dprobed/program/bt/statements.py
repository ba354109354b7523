"""Parses statements and blocks.

After something wrong the parser goes on behind the next ``;`` or ``}``, so that one run finds all.
"""

from __future__ import annotations

from typing import Final

from dprobed.program.bt import tree
from dprobed.program.bt.expressions import ExpressionParser
from dprobed.program.bt.lexer import Kind
from dprobed.program.bt.reader import Broken
from dprobed.program.bt.source import TextSpan

_ASSIGN: Final = frozenset(("=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>="))


class StatementParser(ExpressionParser):
    """Parses statements."""

    def block(self) -> tuple[list[tree.Statement], TextSpan]:
        """``{ … }``, and where it ends. A value at its end is done as the others are."""
        statements, value, end = self.block_or_value()
        if value is not None:
            statements.append(tree.Do(value.span, value))
        return statements, end

    def block_or_value(self) -> tuple[list[tree.Statement], tree.Expression | None, TextSpan]:
        """``{ … }``: its statements, and the value without a ``;`` behind it at its end."""
        self.expect("{")
        self.deeper(self.token.span)
        in_predicate, self.in_predicate = self.in_predicate, 0
        statements: list[tree.Statement] = []
        value: tree.Expression | None = None
        while not self.at("}") and self.token.kind is not Kind.END:
            before = self.token.span.start
            try:
                one = self._statement()
                if isinstance(one, tree.Expression):
                    value = one
                    break
                if one is not None:
                    statements.append(one)
            except Broken:
                self._recover()
            if self.token.span.start == before:
                self.advance()
        self.depth -= 1
        self.in_predicate = in_predicate
        end = self.expect("}").span
        return statements, value, end

    def _recover(self) -> None:
        """Go to behind the next ``;`` of this block, or to its ``}``."""
        depth = 0
        while self.token.kind is not Kind.END:
            text = self.token.text if self.token.kind is Kind.OPERATOR else ""
            if text == "{":
                depth += 1
            elif text == "}":
                if not depth:
                    return
                depth -= 1
                if not depth:
                    self.advance()
                    return
            elif text == ";" and not depth:
                self.advance()
                return
            self.advance()

    def _statement(self) -> tree.Statement | tree.Expression | None:
        token = self.token
        if self.accept(";"):
            return None
        if token.kind is Kind.NAME:
            special = {
                "if": self._if,
                "while": self._while,
                "for": self._for,
                "unroll": self._unroll,
                "let": self._let,
                "return": self._return,
            }.get(token.text)
            if special is not None:
                return special()
            if token.text in ("break", "continue"):
                self.advance()
                self._end()
                return tree.Jump(token.span, token.text)
        if self.at("{"):
            statements, value, end = self.block_or_value()
            span = token.span.to(end)
            if value is None:
                return tree.Block(span, statements)
            if self.at("}"):
                return tree.BlockValue(span, statements, value)
            statements.append(tree.Do(value.span, value))
            return tree.Block(span, statements)
        return self._simple()

    def _simple(self) -> tree.Statement | tree.Expression:
        """An assignment or an expression."""
        start = self.token.span
        left = self.expression()
        if self.token.kind is Kind.OPERATOR and self.token.text in _ASSIGN:
            operator = self.advance().text
            value = self.expression()
            self._end()
            return tree.Assign(start.to(value.span), left, operator, value)
        if self.at("}"):
            return left
        self._end()
        return tree.Do(left.span, left)

    def _end(self) -> None:
        """The end of a statement: ``;``, which may be left out before ``}``."""
        if not self.at("}"):
            self.expect(";", "a statement ends with ;")

    def _if(self) -> tree.If:
        start = self.advance().span
        condition = self.expression()
        yes, end = self.block()
        no: list[tree.Statement] = []
        if self.token.kind is Kind.NAME and self.token.text == "else":
            self.advance()
            if self.token.kind is Kind.NAME and self.token.text == "if":
                self.deeper(self.token.span)
                nested = self._if()
                self.depth -= 1
                no, end = [nested], nested.span
            else:
                no, end = self.block()
        return tree.If(start.to(end), condition, yes, no)

    def _while(self) -> tree.While:
        start = self.advance().span
        condition = self.expression()
        body, end = self.block()
        return tree.While(start.to(end), condition, body)

    def _for(self) -> tree.Statement:
        start = self.advance().span
        bracket = self.accept("(")
        token = self.token
        if token.kind is not Kind.VARIABLE:
            self.fail("`for` is followed by a variable", "write for ($i : 0..10) { … }")
        self.advance()
        variable = tree.Variable(token.span, token.text)
        self.expect(":")
        if self.token.kind is Kind.MAP:
            place = self.peek()
            if place in (")", "{"):
                word = self.advance()
                if bracket:
                    self.expect(")")
                body, end = self.block()
                return tree.ForMap(
                    start.to(end), variable, tree.MapValue(word.span, word.text), body
                )
        low = self.unary()
        self.expect("..", "a range is LOW..HIGH")
        high = self.unary()
        if bracket:
            self.expect(")")
        body, end = self.block()
        return tree.ForRange(start.to(end), variable, low, high, body)

    def _unroll(self) -> tree.Unroll:
        start = self.advance().span
        count = self.expression()
        body, end = self.block()
        return tree.Unroll(start.to(end), count, body)

    def _let(self) -> tree.Let:
        start = self.advance().span
        token = self.token
        if token.kind is not Kind.VARIABLE:
            self.fail("`let` is followed by a variable", "write let $x = 1;")
        self.advance()
        variable = tree.Variable(token.span, token.text)
        kind = value = None
        if self.accept(":"):
            kind = self.type_name()
        if self.accept("="):
            value = self.expression()
        self._end()
        return tree.Let(start.to(token.span), variable, kind, value)

    def _return(self) -> tree.Return:
        start = self.advance().span
        value = None
        if not self.at(";") and not self.at("}"):
            value = self.expression()
        self._end()
        return tree.Return(start, value)
