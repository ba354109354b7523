"""Code on maps: keys, reading, setting, counting.

All that the items of a key need is pushed first, the last item's first: what is evaluated may use a
map itself, and one key is open at a time.
"""

from __future__ import annotations

from itertools import count
from typing import Any

from dprobed.program.bt import bundle, kinds, tree
from dprobed.program.bt.code_log import log_action
from dprobed.program.bt.code_texts import emit_str
from dprobed.program.bt.facts import has_effects, kind_of, order_matters, pure
from dprobed.program.bt.folding import folded
from dprobed.program.bt.functions import log_key
from dprobed.program.bt.kinds import (
    Form,
    Kind,
    Short,
    Stack,
    String,
    Tuple,
)
from dprobed.program.bt.protocols import Coding
from dprobed.program.bt.state import MapState, VariableState
from dprobed.program.maps import STRING_BYTES
from dprobed.program.values import MAX_NAME

#: Kinds of the items of a part of a map.
_WORD, _CONSTANT, _TEXT, _NAME, _STACK = "word", "constant", "text", "name", "stack"


def part_of(code: Coding, known: MapState, keys: list[Any] | None) -> str:
    """The map of the program that has keys like these."""
    form: list[str] = []
    for each in keys or ():
        _item_form(kind_of(each), form)
    key = tuple(form)
    if key not in known.parts:
        known.parts[key] = _part_name(code, known)
    return known.parts[key]


def _part_name(code: Coding, known: MapState) -> str:
    """What a further part is called: the first one as the script calls the map; no other map of the
    script, and no part of one, is called so."""
    base = _plain_name(known.name)
    if not known.parts and len(base) <= MAX_NAME:
        return base
    maps = code.state.maps.values()
    taken = {_plain_name(each.name) for each in maps}
    taken.update(part for each in maps for part in each.parts.values())
    names = (f"{base[: MAX_NAME - 8]}__{number}" for number in count(1))
    return next(name for name in names if name not in taken)


def _plain_name(name: str) -> str:
    """What a map of the script is called in programs, if it may be: ``@x`` is ``x``, ``@`` is
    ``_``, ``@_`` is ``__``."""
    base = name[1:]
    return base if base.strip("_") else "_" + base


def _item_form(kind: Kind, form: list[str]) -> None:
    if isinstance(kind, Tuple):
        for each in kind.items:
            _item_form(each, form)
    elif isinstance(kind, String):
        form.append(_CONSTANT if kind.form is Form.CONSTANT else _TEXT)
    elif isinstance(kind, Short):
        form.append(_NAME)
    elif isinstance(kind, Stack):
        form.append(_STACK)
    else:
        form.append(_WORD)


def once(code: Coding, one: tree.MapValue, *behind: Any) -> tree.MapValue:
    """A map at a key that is used several times: what must not be evaluated again is evaluated
    here. ``behind``: what is evaluated between its uses."""
    if all(map(pure, one.keys or ())) and not any(map(has_effects, behind)):
        return one
    return tree.MapValue(one.span, one.name, _held(code, one.keys or []), type=one.type)


def _held(code: Coding, given: list[Any]) -> list[Any]:
    """Evaluate values in their order, and keep them; what is the same at any time stays."""
    return [_held_one(code, each) for each in given]


def _held_one(code: Coding, one: Any) -> Any:
    kind = kind_of(one)
    if isinstance(kind, Short | Stack) or isinstance(one, tree.Text) or folded(one) is not None:
        return one
    if isinstance(one, tree.TupleOf):
        return tree.TupleOf(one.span, _held(code, one.items), one.names, type=kind)
    code.expression(one)
    variable = VariableState("", kind)
    code.store_variable(variable)
    return tree.Variable(one.span, "", type=variable)


def open_key(code: Coding, known: MapState, keys: list[Any] | None) -> str:
    """Gather a key; the name of the map whose it is."""
    part = part_of(code, known, keys)
    given = list(keys or ())
    if order_matters(given):
        given = _held(code, given)
    texts = sum(_texts(kind_of(each)) for each in given)
    most = STRING_BYTES // max(texts, 1)
    for each in reversed(given):
        _push_item(code, each, most)
    for run in _runs([kind_of(each) for each in given]):
        _add_items(code, run)
    return part


def _texts(kind: Kind) -> int:
    """How many items of a key share the room of texts."""
    if isinstance(kind, Tuple):
        return sum(map(_texts, kind.items))
    if isinstance(kind, String):
        return int(kind.form is not Form.CONSTANT)
    return int(isinstance(kind, Stack))


def _push_item(code: Coding, one: Any, most: int) -> None:
    """Push what an item of a key needs."""
    kind = kind_of(one)
    if isinstance(kind, Short) and not kind.own:
        code.state.problems.add(
            one.span,
            "a text that is either the thread's name or a constant is no key yet",
            "write if and else, each with a key of its own",
        )
    if isinstance(kind, Short | Stack):
        return
    if (
        isinstance(one, tree.Call)
        and one.name == "str"
        and isinstance(kind, String)
        and (kind.form is Form.TARGET)
    ):
        code.span = one.span
        code.to.at = one.span.place
        emit_str(code, one, min(kind.most, most))
        return
    if isinstance(one, tree.TupleOf):
        for each in reversed(one.items):
            _push_item(code, each, most)
        return
    code.expression(one)
    if isinstance(kind, String) and kind.form is Form.TARGET and kind.most > most:
        code.to.add("xchg")
        code.least(most)
        code.to.add("xchg")
    if isinstance(kind, String) and kind.form is Form.EITHER:
        code.state.problems.add(
            one.span, "a text that is either a constant or of the process is no key yet"
        )
    if isinstance(kind, Tuple) and any(isinstance(each, Short | Stack) for each in kind.items):
        code.state.problems.add(one.span, "this tuple is no key yet", "write its items as the key")


def _runs(given: list[Kind]) -> list[list[Kind]]:
    """Items that one instruction adds."""
    flat: list[Kind] = []

    def flatten(kind: Kind) -> None:
        if isinstance(kind, Tuple):
            for each in kind.items:
                flatten(each)
        else:
            flat.append(kind)

    for each in given:
        flatten(each)
    runs: list[list[Kind]] = []
    for kind in flat:
        plain = not isinstance(kind, Short | Stack) and not (
            isinstance(kind, String) and kind.form is not Form.CONSTANT
        )
        if plain and runs and runs[-1] and _plain(runs[-1][-1]):
            runs[-1].append(kind)
        else:
            runs.append([kind])
    return runs


def _plain(kind: Kind) -> bool:
    return not isinstance(kind, Short | Stack) and not (
        isinstance(kind, String) and kind.form is not Form.CONSTANT
    )


def _add_items(code: Coding, run: list[Kind]) -> None:
    to, first = code.to, run[0]
    if isinstance(first, Short):
        to.add("key comm")
    elif isinstance(first, Stack):
        if first.depth >= 127:
            to.add(f"key {first.name}")
        else:
            to.add(f"key {first.name},depth", first.depth)
    elif _plain(first):
        to.add("key count", len(run))
    else:
        to.add("key str")


# -- reading --------------------------------------------------------------------------------------


def read_map(code: Coding, one: tree.MapValue) -> None:
    """Push what a map has at a key."""
    known: MapState = one.type
    if known.is_value:
        part = open_key(code, known, one.keys)
        code.to.add("mget map", part)
        return
    code.fetched(one)


def has_key(code: Coding, one: tree.MapValue) -> None:
    """1 if a key is in a map, else 0."""
    known: MapState = one.type
    if known.is_value:
        part = open_key(code, known, one.keys)
        code.to.add("mhas map", part)
        return
    code.fetched(one, has=True)


def delete_key(code: Coding, one: tree.MapValue) -> None:
    """Forget a key; 1 if it was there, else 0."""
    known: MapState = one.type
    if not known.is_value:
        keys = one.keys or []
        if keys:
            log_action(code, bundle.Delete(known.number, log_key(code, keys)), keys)
        else:
            log_action(code, bundle.Clear(known.number), [])
        code.done_here(one.span)
        code.to.push(1)
        return
    held = once(code, one)
    has_key(code, held)
    part = open_key(code, known, held.keys)
    code.to.add("mdel map", part)


def measure(code: Coding, one: tree.MapValue) -> None:
    """How many keys a map has (in a block)."""
    code.measured(one)


# -- setting --------------------------------------------------------------------------------------


def set_map(code: Coding, one: tree.Assign) -> None:
    """``@x[k] = v``, ``@x[k] += v``"""
    target, known = one.target, one.target.type
    to = code.to
    if isinstance(one.value, tree.Call) and one.operator == "=" and not known.is_value:
        _aggregate(code, known, target, one.value)
        return
    if one.operator == "=":
        code.as_kind(one.value, known.value_kind)
    else:
        operator = one.operator[:-1]
        target = once(code, target, one.value)
        read_map(code, target)
        left, right = known.value_kind, kind_of(one.value)
        code.expression(one.value)
        code.scaled(operator, left, right)
        code.operate(operator, left, right)
    part = open_key(code, known, target.keys)
    to.add("mset map", part)


def _aggregate(code: Coding, known: MapState, target: tree.MapValue, call: tree.Call) -> None:
    to = code.to
    if call.name == "count":
        part = open_key(code, known, target.keys)
        to.add("minc map", part)
        return
    code.expression(call.arguments[0])
    part = open_key(code, known, target.keys)
    to.add("madd map", part)


def step_map(code: Coding, one: tree.Step, *, wanted: bool = True) -> None:
    """``@x[k]++``, ``--@x[k]``; ``wanted``: its value is pushed."""
    target, known = one.target, one.target.type
    to = code.to
    kind = known.value_kind
    by = code.types.size(kind.to) if isinstance(kind, kinds.Pointer) else 1
    if one.operator == "++" and not wanted and by == 1:
        part = open_key(code, known, target.keys)
        to.add("minc map", part)
        return
    target = once(code, target)
    read_map(code, target)
    if wanted and not one.prefix:
        to.add("dup count", 1)
    to.push(by)
    to.add("add" if one.operator == "++" else "sub")
    if wanted and one.prefix:
        to.add("dup count", 1)
    part = open_key(code, known, target.keys)
    to.add("mset map", part)
