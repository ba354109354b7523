"""The word at which a parser is, and what all parsers do with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from dprobed.program.bt.lexer import Kind, Lexer, ScriptToken
from dprobed.program.bt.source import Problems, SourceText, TextSpan
from dprobed.program.bt.type_table import TypeTable

#: Brackets and blocks within each other at most.
MAX_DEPTH = 100


class Broken(Exception):
    """What is wrong was said; the parser goes on somewhere else."""


class TokenReader:
    """One word of look-ahead."""

    def __init__(
        self,
        source: SourceText,
        problems: Problems,
        types: TypeTable,
        defined: Mapping[str, SourceText] | None = None,
        part: TextSpan | None = None,
    ) -> None:
        """``part``: of the text, where not all of it is read."""
        self.source = source
        self.problems = problems
        self.types = types
        self.lexer = Lexer(source, problems, part)
        #: Names that `#define` gave a meaning, and their texts.
        self.defined = {} if defined is None else defined
        self.depth = 0
        self.in_predicate = 0
        self.token: ScriptToken = self.lexer.next()

    def advance(self) -> ScriptToken:
        """The word, and go to the next one."""
        token = self.token
        if token.kind is not Kind.END or self.lexer.at < len(self.lexer.text):
            self.token = self.lexer.next()
        return token

    def peek(self) -> str:
        """The text of the word behind this one."""
        at, found = self.lexer.at, len(self.problems.found)
        token = self.lexer.next()
        self.lexer.at = at
        if len(self.problems.found) > found:
            self.problems.forget(found)
        return token.text if token.kind is not Kind.TEXT else '"'

    def at(self, text: str) -> bool:
        """Whether the word is this operator."""
        return self.token.kind is Kind.OPERATOR and self.token.text == text

    def accept(self, text: str) -> bool:
        """Whether the word is this operator; it is taken then."""
        if not self.at(text):
            return False
        self.advance()
        return True

    def expect(self, text: str, hint: str = "") -> ScriptToken:
        """Take this operator."""
        if not self.at(text):
            self.fail(f"`{text}` is missing before {self.shown()}", hint)
        return self.advance()

    def name(self, what: str) -> str:
        """Take a name."""
        if self.token.kind is not Kind.NAME:
            self.fail(f"{what} has a name, not {self.shown()}")
        return self.advance().text

    def shown(self) -> str:
        """The word, for a message."""
        if self.token.kind is Kind.END:
            return "the end"
        text = self.token.span.text[:40]
        return f"`{text}`" if text.isprintable() else "this"

    def fail(self, message: str, hint: str = "") -> NoReturn:
        """Something is wrong at the word."""
        self.fail_at(self.token.span, message, hint)

    def fail_at(self, span: TextSpan, message: str, hint: str = "") -> NoReturn:
        """Something is wrong there."""
        self.problems.add(span, message, hint)
        raise Broken

    def deeper(self, span: TextSpan) -> None:
        """One bracket or block more; who says so takes it off again."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.depth = 0
            self.fail_at(span, f"more than {MAX_DEPTH} brackets and blocks within each other")
