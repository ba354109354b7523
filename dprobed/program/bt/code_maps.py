"""Code on maps: keys, reading, setting, counting.

All that the items of a key need is pushed first, the last item's first: what is evaluated may use a
map itself, and one key is open at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

from dprobed.program.bt import bundle, kinds, tree
from dprobed.program.bt.code_log import log_action
from dprobed.program.bt.code_texts import emit_str
from dprobed.program.bt.facts import has_effects, kind_of, order_matters, pure
from dprobed.program.bt.folding import folded
from dprobed.program.bt.functions import log_key
from dprobed.program.bt.kinds import (
    Form,
    HeldText,
    Kind,
    Short,
    Stack,
    String,
    Tuple,
    held,
    words,
)
from dprobed.program.bt.protocols import Coding
from dprobed.program.bt.state import MapState, VariableState
from dprobed.program.maps import STRING_BYTES
from dprobed.program.values import MAX_NAME

#: Kinds of the items of a part of a map.
_WORD, _CONSTANT, _TEXT, _NAME, _STACK = "word", "constant", "text", "name", "stack"
#: Those that are a word.
_WORDS = (_WORD, _CONSTANT)


class _KeyItem(NamedTuple):
    """An item of a key: the kind of what is on the stack, and in which form it is in the key."""

    kind: Kind
    form: str


def part_of(code: Coding, known: MapState, keys: list[Any] | None) -> str:
    """The map of the program that has keys like these."""
    key = tuple(each.form for each in _key_items(known, keys))
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


def _key_items(known: MapState, keys: list[Any] | None) -> list[_KeyItem]:
    """The items of a key; those of tuples one after the other."""
    nodes: list[Any] = list(keys or ())
    given = [kind_of(each) for each in nodes]
    if len(given) == 1 and isinstance(given[0], Tuple) and not given[0].names:
        nodes = _nodes(nodes[0], given[0])
        given = list(given[0].items)
    texts = _as_texts(known, len(given))
    return [
        item
        for kind, node, text in zip(given, nodes, texts, strict=True)
        for item in _flat(kind, node, text)
    ]


def _as_texts(known: MapState, count: int) -> list[bool]:
    """Which items of a key are texts in memory, however they are written: in a map of values, those
    that are constants here and texts of the process there."""
    kinds_of = known.keys or ()
    if not known.is_value or len(kinds_of) != count:
        return [False] * count
    return [isinstance(each, String) and each.form is Form.EITHER for each in kinds_of]


def _nodes(one: Any, kind: Tuple) -> list[Any]:
    """The items of a tuple as they are written; None: it is written somewhere else."""
    return list(one.items) if isinstance(one, tree.TupleOf) else [None] * len(kind.items)


def _flat(kind: Kind, node: Any, text: bool) -> Iterator[_KeyItem]:
    if isinstance(kind, Tuple):
        for each, inner in zip(kind.items, _nodes(node, kind), strict=True):
            yield from _flat(each, inner, False)
    elif isinstance(kind, String) and kind.form is Form.CONSTANT:
        yield _KeyItem(held(kind), _TEXT) if text else _KeyItem(kind, _CONSTANT)
    elif isinstance(kind, String) and kind.form is Form.EITHER and isinstance(node, tree.Choice):
        yield _KeyItem(held(kind), _TEXT)
    elif isinstance(kind, Short):
        is_name = kind.own and node is not None and not text
        yield _KeyItem(kind, _NAME if is_name else _TEXT)
    elif isinstance(kind, String | HeldText):
        yield _KeyItem(kind, _TEXT)
    else:
        yield _KeyItem(kind, _STACK if isinstance(kind, Stack) else _WORD)


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
    items = _key_items(known, given)
    most = STRING_BYTES // max(sum(each.form in (_TEXT, _STACK) for each in items), 1)
    if len(given) == 1 and isinstance(given[0], tree.TupleOf) and not given[0].names:
        given = given[0].items
    texts = _as_texts(known, len(given))
    for each, text in reversed(list(zip(given, texts, strict=True))):
        _push_item(code, each, most, text)
    for run in _runs(items):
        _add_items(code, run)
    return part


def _push_item(code: Coding, one: Any, most: int, text: bool) -> None:
    """Push what an item of a key needs. ``text``: it is a text in memory, also if a constant."""
    kind = kind_of(one)
    if isinstance(kind, Stack) or (isinstance(kind, Short) and kind.own and not text):
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
            _push_item(code, each, most, False)
        return
    if isinstance(kind, String) and (
        (text and kind.form is Form.CONSTANT)
        or (kind.form is Form.EITHER and isinstance(one, tree.Choice))
    ):
        code.as_kind(one, held(kind))
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
    if isinstance(kind, Tuple) and any(isinstance(each, Stack) for each in kind.items):
        code.state.problems.add(one.span, "this tuple is no key yet", "write its items as the key")


def _runs(given: list[_KeyItem]) -> list[list[_KeyItem]]:
    """Items that one instruction adds."""
    runs: list[list[_KeyItem]] = []
    for item in given:
        if item.form in _WORDS and runs and runs[-1][-1].form in _WORDS:
            runs[-1].append(item)
        else:
            runs.append([item])
    return runs


def _add_items(code: Coding, run: list[_KeyItem]) -> None:
    to, first = code.to, run[0]
    kind = first.kind
    if first.form == _NAME:
        to.add("key comm")
    elif isinstance(kind, Stack):
        if kind.depth >= 127:
            to.add(f"key {kind.name}")
        else:
            to.add(f"key {kind.name},depth", kind.depth)
    elif first.form in _WORDS:
        to.add("key count", len(run))
    elif isinstance(kind, String):
        to.add("key str")
    else:
        to.add("key text,count", words(kind))


# -- reading --------------------------------------------------------------------------------------


def read_map(code: Coding, one: tree.MapValue) -> None:
    """Push what a map has at a key."""
    known: MapState = one.type
    if known.is_value:
        part = open_key(code, known, one.keys)
        _load(code, known, part)
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


def _load(code: Coding, known: MapState, part: str) -> None:
    """Push the value at the key that is open."""
    code.to.cell("mload cell", part, words(known.value_kind) + known.timed)
    if known.timed:
        code.to.drop()


def _store(code: Coding, known: MapState, target: tree.MapValue) -> None:
    """Pop the value at a key."""
    if known.timed:
        code.to.add("push time")
    part = open_key(code, known, target.keys)
    code.to.cell("mstore cell", part, words(known.value_kind) + known.timed)


# -- setting --------------------------------------------------------------------------------------


def set_map(code: Coding, one: tree.Assign) -> None:
    """``@x[k] = v``, ``@x[k] += v``"""
    target, known = one.target, one.target.type
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
    _store(code, known, target)


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
    _store(code, known, target)
