"""What passes ask of expressions, parameters and places, once they are known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from dprobed.program.bt import kinds, tree
from dprobed.program.bt.folding import folded
from dprobed.program.bt.kinds import (
    INT64,
    Integer,
    Kind,
)
from dprobed.program.bt.state import Firing, MapState, ScriptState, VariableState
from dprobed.program.bt.text_bytes import decoded, encoded
from dprobed.program.bt.type_table import TypeTable
from dprobed.program.bt.world import Parameter

#: Functions that only make something of what they are given.
_PLAIN: Final = ("str", "buf", "ustack", "usym", "strftime", "reg", "ntop")
#: What is worth something else each time.
_TIMED: Final = ("nsecs", "elapsed", "rand")
#: A number of few enough digits: more are too many anyway.
_PARAMETER: Final = re.compile(
    r"[ \t]*(?P<sign>[-+]?)"
    r"(?:0[xX]0*(?P<hex>[0-9a-fA-F]{1,20})|(?P<digits>0[0-7]{0,40}|[1-9][0-9]{0,40}))"
)


def kind_of(one: Any) -> Kind:
    """The kind of an expression that was looked at."""
    if isinstance(one.type, VariableState):
        return one.type.kind or INT64
    if isinstance(one.type, MapState):
        known = one.type
        return known.value_kind if known.is_value else Integer(8, known.signed)
    kind: Kind = one.type
    return kind


def positional_text(state: ScriptState, number: int) -> str:
    """The text of ``$1``; empty: it was not given."""
    given = state.options.positional
    return given[number - 1] if 0 < number <= len(given) else ""


def positional_number(state: ScriptState, number: int) -> int | None:
    """The number that ``$1`` is; None: it is none."""
    if number < 0:
        return len(state.options.positional)
    text = positional_text(state, number)
    if not text:
        return 0 if number > len(state.options.positional) or number == 0 else None
    return parameter_value(text)


def parameter_value(text: str) -> int | None:
    """The number that a parameter is, as C and bpftrace read it: ``0x10`` hexadecimal, ``010``
    octal; None: it is none of 64 bits."""
    found = _PARAMETER.fullmatch(text)
    if found is None:
        return None
    base = 16 if found["hex"] else 8 if found["digits"].startswith("0") else 10
    value = int(found["hex"] or found["digits"], base)
    value = -value if found["sign"] == "-" else value
    return value if -(1 << 63) <= value < 1 << 64 else None


def parameters_of(state: ScriptState, firing: Firing) -> Any:
    """The parameters of the function at which a probe is; None: not known."""
    if not firing.asked:
        firing.asked = True
        if firing.function:
            found = state.world.parameters(firing.module, firing.function)
            firing.parameters = None if found is None else tuple(found)
    return firing.parameters


def has_effects(one: Any) -> bool:
    """Whether evaluating an expression changes anything, as far as that is known."""
    return any(
        isinstance(node, tree.Step | tree.BlockValue)
        or (isinstance(node, tree.Call) and node.name not in (*_PLAIN, *_TIMED))
        for node in tree.nodes(one)
    )


def pure(one: Any) -> bool:
    """Whether an expression is worth the same, however often and whenever it is evaluated."""
    return not has_effects(one) and not _is_timed(one)


def order_matters(given: Sequence[Any]) -> bool:
    """Whether these are to be evaluated in the order in which they are written."""
    if len(given) < 2:
        return False
    return any(map(has_effects, given)) or sum(map(_is_timed, given)) > 1


def _is_timed(one: Any) -> bool:
    """Whether a look at the time, or chance, is in it."""
    return any(
        isinstance(node, tree.Name | tree.Call) and node.name in _TIMED for node in tree.nodes(one)
    )


def parameter_text(state: ScriptState, one: Any) -> str | None:
    """The text that ``str($1)`` or ``str($1 + 2)`` is; None: it is no parameter."""
    if isinstance(one, tree.Positional) and one.number > 0:
        return positional_text(state, one.number)
    if (
        isinstance(one, tree.Binary)
        and one.operator == "+"
        and isinstance(one.left, tree.Positional)
        and one.left.number > 0
    ):
        skip = folded(one.right)
        text = encoded(positional_text(state, one.left.number))
        if skip is None or not 0 <= skip <= len(text):
            state.problems.add(
                one.span, "only a number up to its length can be added to a parameter"
            )
            return ""
        return decoded(text[skip:])
    return None


def argument_number(types: TypeTable, parameters: Sequence[Parameter], number: int) -> int | None:
    """Which of the integer arguments, or of the floating ones, a parameter is; None: what comes
    before it is passed in a way that is not known."""
    before = [kinds.of_type(types, types.take(each.type)) for each in parameters[: number + 1]]
    if any(each is None or isinstance(each, kinds.Object) for each in before):
        return None
    floating = isinstance(before[-1], kinds.Float)
    count = sum(isinstance(each, kinds.Float) == floating for each in before[:-1])
    return None if floating and count > 7 else count
