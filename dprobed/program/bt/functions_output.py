"""Functions that print, and that end a script."""

from __future__ import annotations

from typing import Any, Final

from dprobed.program.bt import bundle, conversions, kinds, tree
from dprobed.program.bt.code_log import log_action, log_join
from dprobed.program.bt.functions import function, log_key, log_values, read_format
from dprobed.program.bt.kinds import (
    LITERAL,
    VOID,
    Bytes,
    Integer,
    Kind,
    Object,
    Pointer,
    ShownWord,
    is_number,
    is_word,
)
from dprobed.program.bt.protocols import Coding, Inferring

#: The top and the divisor of a map that is printed are numbers of 63 bits.
_MOST_NUMBER: Final = (1 << 63) - 1


def _format(inference: Inferring, call: tree.Call, name: str, *, plain: bool = False) -> None:
    """Look at a format and its arguments. ``plain``: what it makes has no NUL."""
    first = call.arguments[0]
    given = call.arguments[1:]
    known = [inference.expression(each) for each in given]
    if not isinstance(first, tree.Text):
        inference.expression(first)
        inference.wrong(first.span, f"the format of `{name}` is a text in quotes")
        return
    if plain:
        read_format(inference, first, conversions.check_plain)
    wanted = read_format(inference, first, conversions.checked)
    if wanted is None:
        return
    if len(wanted) != len(given):
        inference.wrong(
            call.span,
            f"the format has {len(wanted)} conversions, and there are {len(given)} values",
        )
        return
    for one, kind, node in zip(wanted, known, given, strict=True):
        _check_conversion(inference, one.kind, kind, node)


def _check_conversion(inference: Inferring, letter: str, kind: Kind, node: Any) -> None:
    shown = inference.shown(kind)
    if isinstance(kind, kinds.Void):
        inference.wrong(node.span, "this has no value")
    elif letter in "diuxXocp":
        if not is_word(kind) and not isinstance(kind, ShownWord):
            inference.wrong(node.span, f"%{letter} shows a number, not {shown}", "write %s")
    elif letter in "feEgGF":
        if not isinstance(kind, kinds.Float) and not is_number(kind):
            inference.wrong(node.span, f"%{letter} shows a floating-point number, not {shown}")
    elif letter in ("r", "rx", "rh"):
        if not isinstance(kind, Bytes | Object):
            inference.wrong(node.span, f"%{letter} shows a buf(), not {shown}")
    elif isinstance(kind, Integer | Pointer):
        inference.wrong(
            node.span,
            f"%s shows a text, not {shown}",
            "write str() for the address of a text, or %d",
        )


@function("printf", "printf(FORMAT, VALUE…)", 1, 64, "print values by a format")
class _Printf:
    to = "out"

    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        _format(inference, call, call.name)
        return VOID

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        given = call.arguments[1:]
        values = log_values(code, given)
        log_action(code, bundle.Printf(call.arguments[0].value, values), given)


@function("errorf", "errorf(FORMAT, VALUE…)", 1, 64, "print an error, with its place")
class _Errorf:
    infer = _Printf.infer

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        given = call.arguments[1:]
        action = bundle.Printf(
            call.arguments[0].value,
            log_values(code, given),
            "error" if call.name == "errorf" else "warning",
            call.span.written(),
        )
        log_action(code, action, given)


function("warnf", "warnf(FORMAT, VALUE…)", 1, 64, "print a warning, with its place")(_Errorf)


@function("system", "system(FORMAT, VALUE…)", 1, 64, "run a command (with --unsafe)")
class _System:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        _format(inference, call, call.name, plain=True)
        if not inference.state.options.unsafe:
            inference.wrong(
                call.span, "`system` runs commands, which is unsafe", "say --unsafe if you mean it"
            )
        return VOID

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        given = call.arguments[1:]
        code.state.unsafe = True
        log_action(code, bundle.System(call.arguments[0].value, log_values(code, given)), given)


@function("cat", "cat(FORMAT, VALUE…)", 1, 64, "print the contents of a file")
class _Cat:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        _format(inference, call, call.name, plain=True)
        return VOID

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        given = call.arguments[1:]
        log_action(code, bundle.Cat(call.arguments[0].value, log_values(code, given)), given)


@function("print", "print(VALUE) or print(@MAP[, TOP[, DIVISOR]])", 1, 3, "print a value or a map")
class _Print:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        first = call.arguments[0]
        if isinstance(first, tree.MapValue) and first.keys is None:
            known = inference.state.map(first.name, first.span)
            first.type = known
            for each, least, what in zip(
                call.arguments[1:], (0, 1), ("top", "divisor"), strict=False
            ):
                number = inference.constant(each)
                if number is None:
                    inference.wrong(
                        each.span, "this is a number that is known before the script runs"
                    )
                elif not least <= number <= _MOST_NUMBER:
                    inference.wrong(
                        each.span,
                        f"the {what} of `print` is {least} or more, not {number}",
                        "write print(@MAP) for all of it"
                        if what == "top"
                        else "write print(@MAP, 0, 1000) to divide by 1000",
                    )
            return VOID
        if len(call.arguments) > 1:
            inference.wrong(call.span, "only a map is printed with a top and a divisor")
        if isinstance(first, tree.MapValue):
            known = inference.map(first)
            if not known.is_value:
                return VOID
        kind = inference.expression(first)
        if isinstance(kind, kinds.Void):
            inference.wrong(first.span, "this has no value to print")
        return VOID

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        first = call.arguments[0]
        if isinstance(first, tree.MapValue):
            known = first.type
            if first.keys is None:
                numbers = [code.inference.constant(each) or 0 for each in call.arguments[1:]]
                log_action(code, bundle.PrintMap(known.number, *numbers), [])
                code.done_here(call.span)
                return
            if not known.is_value:
                action = bundle.PrintEntry(known.number, log_key(code, first.keys))
                log_action(code, action, first.keys)
                code.done_here(call.span)
                return
        (value,) = log_values(code, [first])
        log_action(code, bundle.Print(value), [first])


@function("join", "join(ARRAY[, BETWEEN])", 1, 2, "print the texts of an array like argv")
class _Join:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        kind = inference.expression(call.arguments[0])
        if not is_word(kind) and not isinstance(kind, Object):
            inference.wrong(
                call.span, f"`join` takes an array's address, not {inference.shown(kind)}"
            )
        if len(call.arguments) > 1 and not isinstance(call.arguments[1], tree.Text):
            inference.wrong(call.arguments[1].span, "what is between the texts is a text in quotes")
        return VOID

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        between = call.arguments[1].value if len(call.arguments) > 1 else " "
        log_join(code, bundle.Join(between), call.arguments[0])


@function("time", "time([FORMAT])", 0, 1, "print the time")
class _Time:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        for one in call.arguments:
            if isinstance(one, tree.Text):
                read_format(inference, one, conversions.check_time)
            else:
                inference.wrong(one.span, "the format of `time` is a text in quotes")
        return VOID

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        given = call.arguments[0].value if call.arguments else "%H:%M:%S\n"
        log_action(code, bundle.PrintTime(given), [])


@function("exit", "exit([STATUS])", 0, 1, "end the script")
class _Exit:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        if call.arguments and not is_number(inference.expression(call.arguments[0])):
            inference.wrong(call.arguments[0].span, "an exit status is a number")
        return VOID

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        given = call.arguments or [tree.Number(call.span, 0, type=LITERAL)]
        log_action(code, bundle.Exit(), given)
        code.leave()
