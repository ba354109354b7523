"""The small C preprocessor: macros, includes, conditionals, ``#error`` and ``#line``.

Macros work on tokens: a name that is being expanded is not expanded again inside its own text, as
in C; there are no ``#`` and ``##`` operators. The tokens that macros make are bounded, so that no
source, however hostile, takes forever.

Not by pcpp, which gives text back: the column of a token, and the place where a macro was used, are
lost for diagnostics. It has no bound either: 20 lines of macros that double take more than a minute
there; here they are refused after 0.8 s. Usual sources take it twice as long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from dprobed.program.rpn.expression import ExpressionError, evaluate
from dprobed.program.rpn.lexer import (
    Diagnostics,
    LogicalLine,
    Origin,
    Token,
    TokenKind,
    number,
    read_lines,
    shown,
    tokenize,
    unquote,
)

#: Tokens that all macros of a program may make; files that may include each other in a chain.
MAX_TOKENS = 200_000
MAX_INCLUDES = 16
#: How deep macros may use each other.
MAX_NESTING = 100
#: Bytes of one source file.
MAX_SOURCE = 4 << 20


class _Macro(msgspec.Struct, frozen=True):
    parameters: tuple[str, ...] | None
    body: tuple[Token, ...]


class _Branch(msgspec.Struct):
    """One ``#if`` that is open: whether it is read, was ever read, and where it began."""

    active: bool
    taken: bool
    parent: bool
    opened: Token
    had_else: bool = False


class _TooMuch(Exception):
    def __init__(self, token: Token) -> None:
        super().__init__()
        self.token = token


class SourceError(Exception):
    """A file is not one that a program can be in."""


def read_file(path: Path, most: int) -> bytes:
    """The bytes of a file; raises OSError, and SourceError when there are more than ``most``."""
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise SourceError(f"it has more than {most} bytes")
    return data


#: How a file is read: its path, and the most bytes that it may have. Raises as ``read_file`` does.
Reader = Callable[[Path, int], bytes]


def read_source(path: Path, read: Reader = read_file) -> str:
    """The text of a source file; raises OSError, and SourceError when it is no text."""
    try:
        return read(path, MAX_SOURCE).decode()
    except UnicodeDecodeError as error:
        raise SourceError(f"it is not UTF-8 text (byte {error.start})") from error


class Preprocessor:
    """Yields the lines that are left; what is wrong goes to ``diagnostics``.

    ``gave_up``: macros made too much, and the rest of the source was not read. ``read``: how
    included files are read.
    """

    def __init__(
        self, diagnostics: Diagnostics, defines: Mapping[str, str], read: Reader = read_file
    ) -> None:
        self._diagnostics = diagnostics
        self._read = read
        self.gave_up = False
        self._macros: dict[str, _Macro] = {}
        self._budget = MAX_TOKENS
        self._nesting = 0
        self._line_shift = 0
        self._line_file: str | None = None
        for name, value in defines.items():
            origin = Origin("-D", 1, f"{name}={value}")
            if not (name.isascii() and name.isidentifier()):
                diagnostics.line(origin, f"`{name}` is not a name that -D can define")
                continue
            self._macros[name] = _Macro(None, tuple(tokenize(value, origin)))

    def lines(self, text: str, file: str) -> Iterator[LogicalLine]:
        """All lines of a text and of what it includes, macros expanded, directives obeyed."""
        try:
            yield from self._lines(text, file, ())
        except _TooMuch as error:
            self.gave_up = True
            self._diagnostics.at(
                error.token,
                "macros make too much text",
                f"at most {MAX_TOKENS} tokens, nested at most {MAX_NESTING} deep",
            )

    def _lines(self, text: str, file: str, chain: tuple[str, ...]) -> Iterator[LogicalLine]:
        outer = self._line_shift, self._line_file
        self._line_shift, self._line_file = 0, None
        branches: list[_Branch] = []
        for raw in read_lines(text, file, self._diagnostics):
            line = self._renumbered(raw)
            if line.tokens[0].text == "#":
                yield from self._directive(line, raw, branches, file, chain)
            elif not branches or branches[-1].active:
                yield LogicalLine(line.origin, self._expand(line.tokens, frozenset()))
        for branch in branches:
            self._diagnostics.at(branch.opened, "`#if` without its `#endif`")
        self._line_shift, self._line_file = outer

    def _renumbered(self, line: LogicalLine) -> LogicalLine:
        if self._line_file is None and not self._line_shift:
            return line
        moved: dict[Origin, Origin] = {}

        def move(origin: Origin) -> Origin:
            if origin not in moved:
                name = origin.file if self._line_file is None else self._line_file
                moved[origin] = Origin(name, origin.line + self._line_shift, origin.text)
            return moved[origin]

        tokens = [token._replace(origin=move(token.origin)) for token in line.tokens]
        return LogicalLine(move(line.origin), tokens)

    def _directive(
        self,
        line: LogicalLine,
        raw: LogicalLine,
        branches: list[_Branch],
        file: str,
        chain: tuple[str, ...],
    ) -> Iterator[LogicalLine]:
        if len(line.tokens) == 1:
            return
        word, rest = line.tokens[1], line.tokens[2:]
        if word.text in ("if", "ifdef", "ifndef", "elif", "else", "endif"):
            self._conditional(word, rest, branches)
            return
        if branches and not branches[-1].active:
            return
        if word.text == "include":
            yield from self._include(word, rest, file, chain)
        elif word.text == "define":
            self._define(word, rest)
        elif word.text == "undef":
            if self._one_name(word, rest):
                self._macros.pop(rest[0].text, None)
        elif word.text == "error":
            text = word.origin.text
            self._diagnostics.at(word, text[text.find("error") + 5 :].strip() or "#error")
        elif word.text == "line":
            self._set_line(word, rest, raw)
        else:
            self._diagnostics.at(
                word,
                f"unknown directive `#{word.text}`",
                "known: define undef include if ifdef ifndef elif else endif error line",
            )

    def _one_name(self, word: Token, rest: list[Token]) -> bool:
        if len(rest) == 1 and rest[0].kind is TokenKind.NAME:
            return True
        self._diagnostics.at(rest[0] if rest else word, f"`#{word.text}` takes one name")
        return False

    # -- conditionals -------------------------------------------------------------------------

    def _conditional(self, word: Token, rest: list[Token], branches: list[_Branch]) -> None:
        if word.text in ("if", "ifdef", "ifndef"):
            parent = not branches or branches[-1].active
            active = parent and self._condition(word, rest)
            branches.append(_Branch(active, active, parent, word))
            return
        if not branches:
            self._diagnostics.at(word, f"`#{word.text}` without an `#if`")
            return
        branch = branches[-1]
        if word.text == "endif":
            branches.pop()
        elif branch.had_else:
            self._diagnostics.at(word, f"`#{word.text}` after `#else`")
        elif word.text == "else":
            branch.had_else = True
            branch.active = branch.parent and not branch.taken
        else:
            wanted = branch.parent and not branch.taken
            branch.active = wanted and self._condition(word, rest)
            branch.taken = branch.taken or branch.active

    def _condition(self, word: Token, rest: list[Token]) -> bool:
        if word.text != "if" and word.text != "elif":
            known = self._one_name(word, rest) and rest[0].text in self._macros
            return known == (word.text == "ifdef")
        try:
            tokens = self._expand(self._answer_defined(rest), frozenset())
            return evaluate(tokens, {}, unknown=0) != 0
        except ExpressionError as error:
            self._diagnostics.at(error.token or word, error.message, error.hint)
            return False

    def _answer_defined(self, tokens: list[Token]) -> list[Token]:
        """``defined X`` and ``defined(X)`` become 1 or 0 before macros are expanded."""
        found: list[Token] = []
        at = 0
        while at < len(tokens):
            token = tokens[at]
            at += 1
            if token.text == "defined":
                texts = [following.text for following in tokens[at : at + 3]]
                bracketed = len(texts) == 3 and texts[0] == "(" and texts[2] == ")"
                if not texts:
                    raise ExpressionError(token, "`defined` takes a name")
                name = texts[1] if bracketed else texts[0]
                at += 3 if bracketed else 1
                value = "1" if name in self._macros else "0"
                token = token._replace(kind=TokenKind.NUMBER, text=value)
            found.append(token)
        return found

    # -- macros -------------------------------------------------------------------------------

    def _define(self, word: Token, rest: list[Token]) -> None:
        if not rest or rest[0].kind is not TokenKind.NAME or rest[0].text == "defined":
            self._diagnostics.at(rest[0] if rest else word, "`#define` takes a name")
            return
        name, body = rest[0], rest[1:]
        parameters: tuple[str, ...] | None = None
        if body and body[0].text == "(" and not body[0].space:
            end = next((i for i, token in enumerate(body) if token.text == ")"), None)
            inside = body[1:end]
            names = inside[::2]
            if (
                end is None
                or any(token.kind is not TokenKind.NAME for token in names)
                or any(token.text != "," for token in inside[1::2])
                or (inside and len(inside) % 2 == 0)
            ):
                self._diagnostics.at(
                    body[0], f"the parameters of `{name.text}` are not a list of names"
                )
                return
            parameters = tuple(token.text for token in names)
            body = body[end + 1 :]
        self._macros[name.text] = _Macro(parameters, tuple(body))

    def _expand(self, tokens: list[Token], hidden: frozenset[str]) -> list[Token]:
        if not any(token.text in self._macros for token in tokens):
            return tokens
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise _TooMuch(tokens[0])
        found = self._expand_each(tokens, hidden)
        self._nesting -= 1
        return found

    def _expand_each(self, tokens: list[Token], hidden: frozenset[str]) -> list[Token]:
        found: list[Token] = []
        at = 0
        while at < len(tokens):
            token = tokens[at]
            at += 1
            macro = self._macros.get(token.text) if token.kind is TokenKind.NAME else None
            if macro is None or token.text in hidden:
                found.append(token)
                continue
            body = list(macro.body)
            if macro.parameters is not None:
                if at >= len(tokens) or tokens[at].text != "(":
                    found.append(token)
                    continue
                arguments, end = _arguments(tokens, at)
                if end is None:
                    end = len(tokens)
                    self._diagnostics.at(
                        token, f"the arguments of `{token.text}` have no closing `)`"
                    )
                at = end
                body = self._substitute(token, macro, arguments, hidden)
            moved = [piece.moved_to(token) for piece in body]
            self._budget -= len(moved) + 1
            if self._budget < 0:
                raise _TooMuch(token)
            if moved:
                moved[0] = moved[0]._replace(space=token.space)
            found += self._expand(moved, hidden | {token.text})
        return found

    def _substitute(
        self, use: Token, macro: _Macro, arguments: list[list[Token]], hidden: frozenset[str]
    ) -> list[Token]:
        parameters = macro.parameters or ()
        if not parameters and arguments == [[]]:
            arguments = []
        if len(arguments) != len(parameters):
            self._diagnostics.at(
                use, f"`{use.text}` takes {len(parameters)} arguments, not {len(arguments)}"
            )
            # A value, so that whatever takes one does not complain as well.
            return [use._replace(kind=TokenKind.NUMBER, text="0")]
        values = {
            name: self._expand(argument, hidden)
            for name, argument in zip(parameters, arguments, strict=True)
        }
        body: list[Token] = []
        for token in macro.body:
            value = list(values.get(token.text, [token]))
            if value:
                value[0] = value[0]._replace(space=token.space)
            body += value
            self._budget -= 1
            if self._budget < len(body):
                raise _TooMuch(use)
        return body

    # -- files --------------------------------------------------------------------------------

    def _include(
        self, word: Token, rest: list[Token], file: str, chain: tuple[str, ...]
    ) -> Iterator[LogicalLine]:
        if len(rest) != 1 or rest[0].kind is not TokenKind.STRING:
            self._diagnostics.at(rest[0] if rest else word, '`#include` takes "a file name"')
            return
        if len(chain) >= MAX_INCLUDES:
            self._diagnostics.at(rest[0], f"more than {MAX_INCLUDES} files include each other")
            return
        path = Path(file).parent / unquote(rest[0].text)
        try:
            text = read_source(path, self._read)
        except (OSError, SourceError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self._diagnostics.at(rest[0], f"cannot read {shown(path)}: {reason}")
        else:
            yield from self._lines(text, str(path), (*chain, file))

    def _set_line(self, word: Token, rest: list[Token], raw: LogicalLine) -> None:
        """``#line N "file"``: the next line is line N of that file."""
        value = number(rest[0]) if rest and rest[0].kind is TokenKind.NUMBER else None
        named = len(rest) == 2 and rest[1].kind is TokenKind.STRING
        if value is None or not 1 <= value < 1 << 31 or (len(rest) > 1 and not named):
            self._diagnostics.at(
                rest[0] if rest else word, '`#line` takes a number and "a file name"'
            )
            return
        self._line_shift = value - raw.tokens[-1].origin.line - 1
        if named:
            self._line_file = unquote(rest[1].text)


def _arguments(tokens: list[Token], at: int) -> tuple[list[list[Token]], int | None]:
    """The arguments between the brackets that open at ``at``, and where they end (None: never)."""
    arguments: list[list[Token]] = [[]]
    depth = 0
    for position in range(at, len(tokens)):
        token = tokens[position]
        if token.text == "(":
            depth += 1
            if depth == 1:
                continue
        elif token.text == ")":
            depth -= 1
            if depth == 0:
                return arguments, position + 1
        elif token.text == "," and depth == 1:
            arguments.append([])
            continue
        arguments[-1].append(token)
    return arguments, None
