"""Writes a script anew, with one way of setting blanks and lines; comments stay where they are.

What is on one line stays on one (a block, a list), and what is not, is not: so that a script that
was formatted stays as it is. The tree says what a sign is: a star that multiplies or one that
points, a slash that divides or one that ends a predicate.
"""

from __future__ import annotations

import re
from typing import Final

from dprobed.program.bt import tree
from dprobed.program.bt.lexer import Kind, Lexer, ScriptToken
from dprobed.program.bt.parser import Parser
from dprobed.program.bt.source import Problems, SourceText, TextSpan
from dprobed.program.bt.type_table import TypeTable

_INDENT: Final = "    "
_BLANK: Final = re.compile(r"\s+")
_COMMENT: Final = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_DIRECTIVE: Final = re.compile(r"[ \t]*#(?:\\\r?\n|[^\n])*")
_TIGHT_AFTER: Final = frozenset(("(", "[", ".", "->", "..", "!", "~"))
_TIGHT_BEFORE: Final = frozenset((")", "]", ",", ";", ".", "->", "..", "["))
_SPACED: Final = frozenset(("if", "while", "for", "unroll", "return", "else", "in", "import"))


def formatted(text: str, file: str) -> str:
    """A script in its form; raises ProgramError where it cannot be read."""
    problems = Problems()
    source = SourceText(file, text)
    plain = SourceText(file, _without_directives(text))
    script = Parser(plain, problems, TypeTable()).script()
    # What is not known (a type, a name) is no matter here; what cannot be read is.
    unread = [one for one in problems.found if not one.message.startswith("there is no type")]
    problems.found[:] = unread
    problems.check()
    written = _Writer(source, script).written()
    # Only blanks may differ: what would read otherwise is given back as it is.
    return written if _BLANK.sub("", written) == _BLANK.sub("", text) else text


def _without_directives(text: str) -> str:
    return re.sub(
        r"^[ \t]*#(?:\\\r?\n|[^\n])*",
        lambda found: re.sub(r"[^\n]", " ", found[0]),
        text,
        flags=re.MULTILINE,
    )


class _Writer:
    def __init__(self, source: SourceText, script: tree.Script) -> None:
        self._source = source
        self._text = source.text
        self._places = {
            place.span.start: place.span for probe in script.probes for place in probe.places
        }
        everything = [*script.probes, *script.macros]
        walked = [node for one in everything for node in tree.nodes([one])]
        self._unary = {n.span.start for n in walked if isinstance(n, tree.Unary)}
        self._casts = {n.operand.span.start for n in walked if isinstance(n, tree.Cast)}
        self._predicates = {
            probe.places[-1].span.end: probe.predicate.span.end
            for probe in script.probes
            if probe.predicate is not None
        }
        self._lines: list[str] = []
        self._line = ""
        self._depth = 0
        #: Of each open brace: whether its block is on one line.
        self._blocks: list[bool] = []
        self._brackets = 0
        #: Where the predicate ends whose place was written; whether its first slash was.
        self._slash = -1
        self._opened = False
        self._last: ScriptToken | None = None
        self._tight = False

    def written(self) -> str:
        """All of it."""
        at, end = 0, len(self._text)
        while at < end:
            blank = re.compile(r"\s*").match(self._text, at)
            assert blank is not None
            lines = blank[0].count("\n")
            at = blank.end()
            if at >= end:
                break
            fresh = at == 0 or lines > 0
            if lines > 1:
                self._blank_line()
            at = self._one(at, fresh)
        self._new_line()
        while self._lines and not self._lines[-1]:
            self._lines.pop()
        return "".join(f"{line}\n" for line in self._lines)

    def _one(self, at: int, fresh: bool) -> int:
        """Write what begins there; where it ends."""
        if fresh and (found := _DIRECTIVE.match(self._text, at)):
            self._new_line()
            self._lines.append(found[0].strip())
            return found.end()
        if found := _COMMENT.match(self._text, at):
            self._comment(found[0], fresh)
            return found.end()
        if at in self._places:
            span = self._places[at]
            self._put(span.text, space=True)
            self._last = ScriptToken(Kind.NAME, "place", span)
            if span.end in self._predicates:
                self._slash = self._predicates[span.end]
            return span.end
        lexer = Lexer(self._source, Problems())
        lexer.at = at
        token = lexer.next()
        self._token(token, fresh)
        return max(token.span.end, at + 1)

    # -- lines ----------------------------------------------------------------------------------

    def _new_line(self) -> None:
        if self._line.strip():
            self._lines.append(self._line.rstrip())
        self._line = ""
        self._tight = False

    def _blank_line(self) -> None:
        if self._brackets or self._one_line:
            return
        self._new_line()
        if self._lines and self._lines[-1] and not self._lines[-1].endswith("{"):
            self._lines.append("")

    @property
    def _one_line(self) -> bool:
        return bool(self._blocks) and self._blocks[-1]

    def _put(self, text: str, *, space: bool) -> None:
        if not self._line:
            self._line = _INDENT * self._depth + text
        else:
            glue = " " if space and not self._tight and not self._line.endswith(" ") else ""
            self._line += glue + text
        self._tight = False

    def _comment(self, text: str, fresh: bool) -> None:
        if fresh and not self._brackets:
            self._new_line()
        text = text.rstrip()
        if self._line:
            self._line += ("  " if text.startswith("//") else " ") + text
        else:
            self._line = _INDENT * self._depth + text
        if text.startswith("//"):
            self._new_line()

    # -- tokens ---------------------------------------------------------------------------------

    def _token(self, token: ScriptToken, fresh: bool) -> None:
        text = token.span.text
        operator = token.kind is Kind.OPERATOR
        if fresh and self._line and not (operator and text in ("{", "else", ";", ",")):
            if self._brackets or (self._last is not None and self._goes_on(token)):
                self._lines.append(self._line.rstrip())
                self._line = _INDENT * (self._depth + 1)
                self._tight = True
            elif not self._one_line:
                self._new_line()
        if operator and text in "{}":
            self._brace(token, text)
        elif operator and text == ";":
            self._tight = True
            self._put(";", space=False)
            if not self._one_line and not self._brackets:
                self._pending(token)
        elif operator:
            self._operator(token, text)
        else:
            self._word(token, text)
        self._last = token

    def _goes_on(self, token: ScriptToken) -> bool:
        """Whether a line of an expression goes on at the next one."""
        last = self._last
        if last is None or self._one_line:
            return False
        if last.kind is Kind.OPERATOR and last.text in "{};":
            return False
        if last.kind is Kind.OPERATOR and last.text == "," and not self._blocks:
            return False
        if not self._blocks:
            return False
        return last.kind is Kind.OPERATOR or token.kind is Kind.OPERATOR

    def _pending(self, token: ScriptToken) -> None:
        """End the line, but for a comment behind it."""
        rest = re.compile(r"[ \t]*(//|/\*)").match(self._text, token.span.end)
        if rest is None:
            self._new_line()

    def _brace(self, token: ScriptToken, text: str) -> None:
        if text == "{":
            one_line = self._is_one_line(token.span.start)
            self._put("{", space=True)
            self._blocks.append(one_line)
            if not one_line:
                self._pending(token)
                self._depth += 1
            return
        one_line = self._blocks.pop() if self._blocks else False
        if not one_line:
            self._new_line()
            self._depth = max(0, self._depth - 1)
        self._put("}", space=True)
        if self._one_line or self._brackets:
            return
        following = re.compile(r"\s*(else\b|[;,)=.\[\w*]?)").match(self._text, token.span.end)
        word = following[1] if following is not None else ""
        line_ends = "\n" in self._text[token.span.end : following.end()] if following else True
        if word == "else" or ((word and word in ";,)") or (word and not line_ends and self._depth)):
            return
        if word and not line_ends and self._declares(token):
            return
        self._pending(token)

    def _declares(self, token: ScriptToken) -> bool:
        """Whether a brace ends a declaration, behind which a name may stand."""
        opened = self._text.rfind("{", 0, token.span.start)
        return re.search(r"(typedef|struct|union|enum)[^;{}]*\Z", self._text[:opened]) is not None

    def _is_one_line(self, start: int) -> bool:
        if self._one_line:
            return True
        depth = 0
        lexer = Lexer(self._source, Problems())
        lexer.at = start
        while (token := lexer.next()).kind is not Kind.END:
            if token.kind is Kind.OPERATOR and token.text in "{}":
                depth += 1 if token.text == "{" else -1
                if not depth:
                    return "\n" not in self._text[start : token.span.end]
        return False

    def _operator(self, token: ScriptToken, text: str) -> None:
        start = token.span.start
        last = self._last
        closing = start >= self._slash
        if text == "/" and self._slash >= 0 and (closing or not self._opened):
            self._opened = not closing
            self._put("/", space=not closing)
            self._tight = not closing
            if closing:
                self._slash = -1
            return
        if text in "([":
            self._brackets += 1
        elif text in ")]":
            self._brackets = max(0, self._brackets - 1)
        if start in self._unary or (text in "*&-" and self._is_prefix(token)):
            cast = start in self._casts
            self._put(text, space=not cast)
            self._tight = True
            return
        if text in ("++", "--"):
            behind = last is not None and last.kind is not Kind.OPERATOR
            behind = behind or (last is not None and last.text in ")]")
            self._put(text, space=not behind)
            self._tight = not behind
            return
        space = text not in _TIGHT_BEFORE
        if text == "(":
            called = last is not None and (
                (last.kind is Kind.NAME and last.text not in _SPACED) or last.text == ")"
            )
            space = not called
        elif (
            text == ":"
            and last is not None
            and last.kind is Kind.VARIABLE
            and re.search(r"\blet\s+\Z", self._text[: last.span.start])
        ):
            space = False
        elif text == "*" and self._is_star(token):
            following = re.compile(r"\s*([*)\w])?").match(self._text, token.span.end)
            self._put("*", space=not self._line.endswith("*"))
            self._tight = following is not None and following[1] is not None
            return
        self._put(text, space=space)
        self._tight = text in _TIGHT_AFTER

    def _is_prefix(self, token: ScriptToken) -> bool:
        """Whether a sign has no operand before it."""
        last = self._last
        if last is None:
            return True
        return last.kind is Kind.OPERATOR and last.text not in (")", "]", "}", "++", "--")

    def _is_star(self, token: ScriptToken) -> bool:
        """Whether a star is of a type: before a bracket's end, or in a declaration."""
        rest = re.compile(r"\s*\**\s*(\)|\w+\s*(?:[;,\[)]))").match(self._text, token.span.end)
        if rest is None:
            return False
        if rest[1] == ")":
            return True
        opened = self._text.rfind("{", 0, token.span.start)
        return self._declares(
            ScriptToken(Kind.OPERATOR, "}", TextSpan(self._source, opened + 1, opened + 1))
        )

    def _word(self, token: ScriptToken, text: str) -> None:
        last = self._last
        cast = token.span.start in self._casts
        space = not (cast and last is not None and last.text == ")")
        self._put(text, space=space)
