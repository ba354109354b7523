"""Functions on maps."""

from __future__ import annotations

from typing import Any

from dprobed.program.bt import bundle, tree
from dprobed.program.bt.code_log import log_action
from dprobed.program.bt.code_maps import delete_key, has_key, measure, once, read_map
from dprobed.program.bt.functions import function
from dprobed.program.bt.kinds import (
    BOOLEAN,
    INT64,
    VOID,
    Kind,
)
from dprobed.program.bt.protocols import Coding, Inferring


def _map_argument(inference: Inferring, call: tree.Call) -> Any:
    """The map that a function is about."""
    first = call.arguments[0]
    if not isinstance(first, tree.MapValue):
        inference.expression(first)
        inference.wrong(first.span, f"`{call.name}` takes a map")
        return None
    return first


def _keyed(inference: Inferring, call: tree.Call) -> bool:
    """``f(@x, key)`` is ``f(@x[key])`` from here on."""
    first = _map_argument(inference, call)
    if first is None:
        return False
    if len(call.arguments) > 1 and first.keys is None:
        key = call.arguments[1]
        is_tuple = isinstance(key, tree.TupleOf) and not key.names
        first.keys = list(key.items) if is_tuple else [key]
        del call.arguments[1]
    known = inference.map(first)
    known.other |= inference.firing.hit or call.name != "has_key"
    return True


@function("clear", "clear(@MAP)", 1, 1, "forget all that is in a map")
class _Clear:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        first = _map_argument(inference, call)
        if first is not None:
            if first.keys is not None:
                inference.wrong(
                    first.span, f"`{call.name}` takes a whole map", "write delete(@x, KEY)"
                )
            first.type = inference.state.map(first.name, first.span)
        return VOID

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        number = call.arguments[0].type.number
        action = bundle.Clear(number) if call.name == "clear" else bundle.Zero(number)
        log_action(code, action, [])
        code.done_here(call.span)


function("zero", "zero(@MAP)", 1, 1, "begin anew at each key of a map")(_Clear)


@function("delete", "delete(@MAP, KEY)", 1, 2, "forget a key of a map; whether it was there")
class _Delete:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        _keyed(inference, call)
        return BOOLEAN

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        delete_key(code, call.arguments[0])


@function("has_key", "has_key(@MAP, KEY)", 1, 2, "whether a key is in a map")
class _HasKey:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        if _keyed(inference, call):
            known = call.arguments[0].type
            if not known.is_value and inference.firing.hit:
                inference.wrong(
                    call.span,
                    f"{known.name} is a {known.kind}(), which is not read at hits",
                    "ask in a block",
                )
            if call.arguments[0].keys is None:
                inference.wrong(call.span, f"{known.name} has no keys")
        return BOOLEAN

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        has_key(code, call.arguments[0])


@function("find", "find(@MAP, KEY, $VARIABLE)", 2, 3, "whether a key is in a map; then its value")
class _Find:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        variable = call.arguments.pop()
        found = _keyed(inference, call)
        call.arguments.append(variable)
        if not isinstance(variable, tree.Variable):
            return inference.wrong(variable.span, "what is found is put into a variable")
        if not found:
            return BOOLEAN
        known = call.arguments[0].type
        if not known.is_value:
            return inference.wrong(call.span, f"{known.name} is a {known.kind}(), not values")
        inference.set_variable(variable, known.value_kind)
        return BOOLEAN

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        target, variable = call.arguments
        to = code.to
        target = once(code, target)
        has_key(code, target)
        no = to.label()
        to.add("jz label", no)
        read_map(code, target)
        code.store_variable(variable.type)
        to.place(no)


@function("len", "len(@MAP)", 1, 1, "how many keys a map has")
class _Len:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        first = call.arguments[0]
        if not isinstance(first, tree.MapValue) or first.keys is not None:
            inference.expression(first)
            return inference.wrong(first.span, "`len` takes a map")
        first.type = inference.state.map(first.name, first.span)
        if inference.firing.hit:
            inference.wrong(
                call.span,
                "how long a map is, is known where output is shown",
                "ask in a block (interval, end)",
            )
        return INT64

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        measure(code, call.arguments[0])
