"""From a script's text to its tree: what stands at the top, and statements.

After something wrong the parser goes on behind the next ``;`` or ``}``, so that one run finds all.
"""

from __future__ import annotations

import re
from typing import Final

from dprobed.program.bt import tree
from dprobed.program.bt.declarations import declaration
from dprobed.program.bt.expressions import ExpressionParser
from dprobed.program.bt.lexer import Kind
from dprobed.program.bt.places import PLACE_END, place_parts
from dprobed.program.bt.reader import Broken
from dprobed.program.bt.source import Span

_ASSIGN: Final = frozenset(("=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>="))
_SETTING: Final = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*(\"[^\"\n]*\"|[^;}\s]*)\s*;?", re.ASCII)
#: Statements within each other at most.
MAX_DEPTH: Final = 60


class Parser(ExpressionParser):
    """Parses one file."""

    def script(self) -> tree.Script:
        """All of it."""
        script = tree.Script()
        while self.token.kind is not Kind.END:
            before = self.token.span.start
            try:
                self._top(script)
            except Broken:
                self._recover_top()
            if self.token.span.start == before:
                self.advance()
        return script

    def _recover_top(self) -> None:
        """Go to behind the block in which something was wrong."""
        depth = 0
        while self.token.kind is not Kind.END:
            if self.token.text == "{" and self.token.kind is Kind.OPERATOR:
                depth += 1
            elif self.token.text == "}" and self.token.kind is Kind.OPERATOR:
                depth -= 1
                if depth <= 0:
                    self.advance()
                    return
            elif self.token.text == ";" and depth <= 0:
                self.advance()
                return
            self.advance()

    def _top(self, script: tree.Script) -> None:
        word = self.token.text if self.token.kind is Kind.NAME else ""
        following = self.peek()
        if self.accept(";"):
            return
        if word in ("struct", "union", "enum", "typedef"):
            declaration(self)
        elif word == "config" and following == "=":
            self._config(script)
        elif word == "macro":
            script.macros.append(self._macro())
        elif word == "import":
            script.imports.append(self._import())
        elif word == "let":
            script.maps.append(self._map_declaration())
        else:
            script.probes.append(self._probe())

    # -- preamble -------------------------------------------------------------------------------

    def _config(self, script: tree.Script) -> None:
        self.advance()
        self.expect("=")
        if self.token.text != "{":
            self.fail("`config =` is followed by { … }", "write config = { max_strlen=200 }")
        lexer, text = self.lexer, self.source.text
        lexer.at = self.token.span.end
        while True:
            lexer.skip_blank()
            if lexer.at >= len(text) or text[lexer.at] == "}":
                break
            found = _SETTING.match(text, lexer.at)
            if found is None:
                span = lexer.span(lexer.at, lexer.at + 1)
                self.problems.add(span, "this is no setting", "write NAME=VALUE;")
                end = re.compile(r"[;}\n]").search(text, lexer.at + 1)
                lexer.at = len(text) if end is None else end.start() + (end[0] == ";")
                continue
            span = lexer.span(found.start(1), found.end(2))
            script.settings.append(tree.Setting(span, found[1], found[2].strip('"')))
            lexer.at = found.end()
        self.advance()
        self.expect("}")

    def _macro(self) -> tree.Macro:
        start = self.advance().span
        name = self.name("a macro")
        parameters: list[str] = []
        self.expect("(")
        while not self.at(")"):
            if self.token.kind not in (Kind.NAME, Kind.VARIABLE, Kind.MAP):
                self.fail("a macro's parameter is a, $a or @a")
            parameters.append(self.advance().text)
            if not self.accept(","):
                break
        self.expect(")")
        statements, value, end = self.block_or_value()
        return tree.Macro(start.to(end), name, tuple(parameters), statements, value)

    def _import(self) -> tree.Import:
        start = self.advance().span
        token = self.token
        if token.kind is not Kind.TEXT:
            self.fail("`import` is followed by a file's name in quotes")
        self.advance()
        self.accept(";")
        return tree.Import(start.to(token.span), token.text)

    def _map_declaration(self) -> tree.MapDeclaration:
        start = self.advance().span
        if self.token.kind is not Kind.MAP:
            self.fail("at the top `let` declares a map", "write let @x = hash(100);")
        name = self.advance().text
        self.expect("=")
        kind = self.name("a kind of map")
        self.expect("(")
        size = self.token
        if size.kind is not Kind.NUMBER:
            self.fail("so many keys: a number")
        self.advance()
        end = self.expect(")").span
        self.accept(";")
        return tree.MapDeclaration(start.to(end), name, kind, size.value)

    # -- probes ---------------------------------------------------------------------------------

    def _probe(self) -> tree.Probe:
        start = self.token.span
        places = [self._place()]
        while self.accept_place(","):
            places.append(self._place())
        predicate = None
        if self.at("/"):
            self.advance()
            self.in_predicate += 1
            predicate = self.expression()
            self.in_predicate -= 1
            self.expect("/", "a predicate ends with /")
        elif self.token.kind is Kind.NAME and self.token.text == "if":
            self.advance()
            predicate = self.expression()
        if not self.at("{"):
            self.fail("a probe's place is followed by { … }", "write PLACE { … }")
        body, end = self.block()
        return tree.Probe(start.to(end), places, predicate, body)

    def _place(self) -> tree.Place:
        """A place: letters up to a blank, a comma or the predicate."""
        lexer = self.lexer
        lexer.at = self.token.span.start
        found = place_parts(self.source.text, lexer.at, self.problems, lexer)
        if found is None:
            span = self.token.span
            self.advance()
            self.problems.add(
                span,
                f"`{span.text[:40]}` is no place for a probe",
                "write uprobe:MODULE:FUNCTION, FUNCTION or FILE.c:LINE",
            )
            raise Broken
        self.advance()
        return found

    def accept_place(self, text: str) -> bool:
        """Whether another place follows; the comma is taken."""
        if not self.at(text):
            return False
        self.lexer.at = self.token.span.end
        self.lexer.skip_blank()
        rest = self.source.text[self.lexer.at : self.lexer.at + 1]
        self.advance()
        return rest not in PLACE_END

    # -- statements -----------------------------------------------------------------------------

    def block(self) -> tuple[list[tree.Statement], Span]:
        """``{ … }``, and where it ends. A value at its end is done as the others are."""
        statements, value, end = self.block_or_value()
        if value is not None:
            statements.append(tree.Do(value.span, value))
        return statements, end

    def block_or_value(self) -> tuple[list[tree.Statement], tree.Expression | None, Span]:
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
