"""What is written as one instruction and stands for several: ``return VALUE[, errno=CODE]``.

At a function's first instruction its return address is on top of the target's stack. So: store the
error number, put the result into rax, take the return address off the stack and go on there. What
can fail comes first: then nothing was altered.
"""

from __future__ import annotations

import errno
import re

from dprobed.program.rpn.lexer import Diagnostics, Token, TokenKind, written
from dprobed.program.rpn.sections import nearest

#: What is written like the name of an error number.
_LIKE_ERROR = re.compile(r"E[A-Z0-9]+")

_RETURN = (
    *("push r,rsp", "push mem,u64"),
    *("push r,rsp", "push 8", "add", "pop r,rsp"),
    "pop r,rip",
)


def expanded(tokens: list[Token], diagnostics: Diagnostics) -> list[list[Token]]:
    """The instructions that a line stands for: mostly itself."""
    if tokens[0].text != "return":
        return [tokens]
    texts = [token.text for token in tokens]
    cut = texts.index(",") if "," in texts else len(tokens)
    value, more = tokens[1:cut], tokens[cut + 1 :]
    errno_is = len(more) > 2 and texts[cut + 1 : cut + 3] == ["errno", "="]
    if not value or (cut < len(tokens) and not errno_is):
        hint = "write `return VALUE` or `return VALUE, errno=ENOSPC`"
        diagnostics.at(tokens[0], f"`{written(tokens)}` is no `return`", hint)
        return []
    lines = []
    if more:
        code = _code(more[2:])
        if len(code) == 1 and _LIKE_ERROR.fullmatch(code[0].text):
            name = code[0].text
            hint = nearest(name, set(errno.errorcode.values()))
            diagnostics.at(code[0], f"there is no error number `{name}`", hint)
            return []
        lines += [_line(tokens[0], "push tls,errno"), [_word(tokens[0], "push"), *code]]
        lines.append(_line(tokens[0], "pop mem,u32"))
    lines += [_line(tokens[0], text) for text in _RETURN[:2]]
    lines += [[_word(tokens[0], "push"), *value], _line(tokens[0], "pop r,rax")]
    lines += [_line(tokens[0], text) for text in _RETURN[2:]]
    return lines


def _line(at: Token, text: str) -> list[Token]:
    """Tokens of an instruction, all at the place of what stands for it."""
    return [_word(at, word) for word in text.replace(",", " ").split()]


def _word(at: Token, text: str) -> Token:
    kind = TokenKind.NUMBER if text.isdecimal() else TokenKind.NAME
    return at._replace(kind=kind, text=text, space=True)


def _code(tokens: list[Token]) -> list[Token]:
    """An error number, by its name or as an expression."""
    if len(tokens) == 1 and tokens[0].text in errno.errorcode.values():
        number = str(getattr(errno, tokens[0].text))
        return [tokens[0]._replace(kind=TokenKind.NUMBER, text=number)]
    return tokens
