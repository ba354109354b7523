"""Functions: what each takes and gives, and its code; each is registered where it is defined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from dprobed.program.bt import bundle, kinds, tree
from dprobed.program.bt.conversions import FormatError
from dprobed.program.bt.facts import kind_of
from dprobed.program.bt.kinds import Kind
from dprobed.program.bt.lexer import part_of_text
from dprobed.program.bt.protocols import Coding, Inferring

_Read = TypeVar("_Read")
Infer = Callable[[Inferring, tree.Call], Kind]
Emit = Callable[[Coding, tree.Call], None]


class ScriptFunction(msgspec.Struct, frozen=True):
    """A function. ``meaning``: one line, for those who ask what there is."""

    name: str
    usage: str
    meaning: str
    infer: Infer
    emit: Emit


FUNCTIONS: Final[dict[str, ScriptFunction]] = {}


def function(name: str, usage: str, least: int, most: int, meaning: str) -> Callable[..., Any]:
    """Register a function: the class has ``infer`` and ``emit``."""

    def registered(one: Any) -> Any:
        def infer(inference: Inferring, call: tree.Call) -> Kind:
            given = len(call.arguments)
            if not least <= given <= most:
                count = f"{least}" if least == most else f"{least} to {most}"
                if most > 60:
                    count = f"at least {least}"
                plural = "argument" if count == "1" else "arguments"
                for each in call.arguments:
                    if not isinstance(each, tree.Name):
                        inference.expression(each)
                return inference.wrong(
                    call.span, f"`{name}` takes {count} {plural}, not {given}", f"write {usage}"
                )
            kind: Kind = one.infer(inference, call)
            return kind

        FUNCTIONS[name] = ScriptFunction(name, usage, meaning, infer, one.emit)
        return one

    return registered


def log_values(code: Coding, given: list[Any]) -> tuple[bundle.Value, ...]:
    """How arguments of an action are shown."""
    return tuple(kinds.value_of(code.types, kind_of(each)) for each in given)


def read_format(inference: Inferring, one: tree.Text, read: Callable[[str], _Read]) -> _Read | None:
    """What a function of ``conversions`` says of a format; None: what is wrong there was said."""
    try:
        return read(one.value)
    except FormatError as error:
        span = part_of_text(one.span, error.start, error.end)
        inference.wrong(span, str(error), error.hint)
        return None


def log_key(code: Coding, keys: list[Any]) -> tuple[bundle.Value, ...]:
    """How the key of an action is shown: of a tuple, its items."""
    values = log_values(code, keys)
    if len(values) == 1 and isinstance(values[0], bundle.Tuple) and not values[0].names:
        return values[0].items
    return values
