"""``log``: a line of text with values in it, each shown as suits what it is."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any, Final

from dprobed.program.bt import bundle, kinds, tree
from dprobed.program.bt.code_log import log_action
from dprobed.program.bt.functions import function, log_values
from dprobed.program.bt.kinds import VOID, Kind, Object, Pointer
from dprobed.program.bt.message_parts import message_parts
from dprobed.program.bt.protocols import Coding, Inferring
from dprobed.program.types import ArrayType, IntegerType

#: What is shown in the place of a value that is not.
REDACTED: Final = "<redacted>"


@function("log", 'log("TEXT {VALUE} TEXT…")', 1, 64, "print a line with values between braces")
class _Log:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        first = call.arguments[0]
        if not isinstance(first, tree.Text):
            inference.expression(first)
            return inference.wrong(
                first.span, "what `log` prints is a text in quotes", 'write log("n={n}")'
            )
        # What is shown depends on the place: each time it is made of what was written.
        written = inference.state.messages.setdefault(id(call), call.arguments[1:])
        call.arguments[1:] = [_shown(inference, one) for one in written]
        for one in call.arguments[1:]:
            if isinstance(inference.expression(one), kinds.Void):
                inference.wrong(one.span, "this has no value")
        return VOID

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        message, *given = call.arguments
        # What is written well was said by the parser.
        parts = message_parts(message, _never)
        action = bundle.Log(
            parts.texts,
            tuple(each.text.strip() for each in parts.values),
            log_values(code, given),
            tuple(code.state.options.redacted),
        )
        log_action(code, action, given)


def _never(*_: object) -> Any:
    raise AssertionError("the parser has read this message")


def _shown(inference: Inferring, one: tree.Expression) -> tree.Expression:
    """What is shown for an expression: the text where it is the address of one."""
    if any(
        fnmatchcase(name.lower(), each) for name in _names(one) for each in _redacted(inference)
    ):
        return tree.Text(one.span, REDACTED)
    kind = inference.expression(one)
    of = None
    if isinstance(kind, Pointer):
        of = inference.types.plain(kind.to)
    elif isinstance(kind, Object):
        array = inference.types.plain(kind.of)
        of = inference.types.plain(array.of) if isinstance(array, ArrayType) else None
    if isinstance(of, IntegerType) and of.character and of.size == 1:
        return tree.Call(one.span, "str", [one])
    return one


def _redacted(inference: Inferring) -> Iterator[str]:
    return map(str.lower, inference.state.options.redacted)


def _names(one: tree.Expression) -> Iterator[str]:
    """All names of variables and members in an expression."""
    if isinstance(one, tree.Name | tree.Field):
        yield one.name
    for name in one.__struct_fields__:
        if name == "type":
            continue
        value = getattr(one, name)
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, tree.Expression):
                yield from _names(each)
