"""From a script's text to its tree: what stands at the top, and statements.

After something wrong the parser goes on behind the next ``;`` or ``}``, so that one run finds all.
"""

from __future__ import annotations

import re
from typing import Final

from dprobed.program.bt import tree
from dprobed.program.bt.declarations import declaration
from dprobed.program.bt.lexer import Kind
from dprobed.program.bt.places import PLACE_END, place_parts
from dprobed.program.bt.reader import Broken
from dprobed.program.bt.statements import StatementParser

_SETTING: Final = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*(\"[^\"\n]*\"|[^;}\s]*)\s*;?", re.ASCII)


class Parser(StatementParser):
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
