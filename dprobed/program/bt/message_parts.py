"""Messages of ``log``: text, with expressions between braces (``n={n} path={req->path}``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import msgspec

from dprobed.program.bt import tree
from dprobed.program.bt.lexer import part_of_text
from dprobed.program.bt.source import TextSpan
from dprobed.program.bt.text_bytes import encoded


class InBraces(msgspec.Struct, frozen=True):
    """An expression. ``written``: where it stands; None: with escapes in it, so nowhere as it is
    read."""

    text: str
    written: TextSpan | None


class MessageParts(msgspec.Struct, frozen=True):
    """``texts``: before, between and behind the expressions, one more than these."""

    texts: tuple[str, ...]
    values: tuple[InBraces, ...]


def message_parts(
    message: tree.Text, fail: Callable[[TextSpan, str, str], NoReturn]
) -> MessageParts:
    """What a message is made of; ``{{`` and ``}}`` are braces of the text."""
    texts, values, at, value = [""], [], 0, message.value
    while at < len(value):
        letter = value[at]
        if value[at : at + 2] in ("{{", "}}"):
            texts[-1] += letter
            at += 2
        elif letter == "}":
            fail(_part(message, at, at + 1), "this brace ends nothing", "write }} for a }")
        elif letter == "{":
            end = _end(value, at)
            if end is None:
                fail(_part(message, at, at + 1), "this brace has no end", "write {{ for a {")
            text = value[at + 1 : end]
            if not text.strip():
                fail(
                    _part(message, at, end + 1), "there is nothing in braces", "write {EXPRESSION}"
                )
            written = _part(message, at + 1, end)
            values.append(InBraces(text, written if written.text == text else None))
            texts.append("")
            at = end + 1
        else:
            texts[-1] += letter
            at += 1
    return MessageParts(tuple(texts), tuple(values))


def _end(value: str, start: int) -> int | None:
    """The brace that belongs to one."""
    depth = 0
    for at in range(start, len(value)):
        depth += {"{": 1, "}": -1}.get(value[at], 0)
        if not depth:
            return at
    return None


def _part(message: tree.Text, start: int, end: int) -> TextSpan:
    first, last = (len(encoded(message.value[:each])) for each in (start, end))
    return part_of_text(message.span, first, last)
