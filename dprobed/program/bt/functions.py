"""Functions: what each takes and gives, and its code."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from dprobed.program.bt import bundle, kinds, tree
from dprobed.program.bt.builtins import ARGUMENT_REGISTERS, register
from dprobed.program.bt.kinds import (
    BOOLEAN,
    INT64,
    LITERAL,
    UINT64,
    VOID,
    Bytes,
    Form,
    Integer,
    Kind,
    Object,
    Pointer,
    Short,
    Shown,
    Stack,
    String,
    Tuple,
    is_number,
    is_word,
)
from dprobed.program.types import ArrayType

if TYPE_CHECKING:
    from dprobed.program.bt.code import Code
    from dprobed.program.bt.infer import Inference

Infer = Callable[["Inference", tree.Call], Kind]
Emit = Callable[["Code", tree.Call], None]


class Function(msgspec.Struct, frozen=True):
    """A function. ``meaning``: one line, for those who ask what there is."""

    name: str
    usage: str
    meaning: str
    infer: Infer
    emit: Emit


FUNCTIONS: Final[dict[str, Function]] = {}
_CONVERSION: Final = re.compile(r"%(?:%|[-+ #0]*(?:\d+|\*)?(?:\.\d+)?(?:hh|h|ll|l|j|z|t|L)?"
                                r"(rx|rh|gr|[a-zA-Z]))")  # fmt: skip


def function(name: str, usage: str, least: int, most: int, meaning: str) -> Callable[..., Any]:
    """Register a function: the class has ``infer`` and ``emit``."""

    def registered(one: Any) -> Any:
        def infer(inference: Inference, call: tree.Call) -> Kind:
            given = len(call.arguments)
            if not least <= given <= most:
                count = f"{least}" if least == most else f"{least} to {most}"
                if most > 60:
                    count = f"at least {least}"
                plural = "argument" if count == "1" else "arguments"
                for each in call.arguments:
                    if not isinstance(each, tree.Name):
                        inference.expression(each)
                return inference.wrong(call.span, f"`{name}` takes {count} {plural}, not {given}",
                                       f"write {usage}")  # fmt: skip
            kind: Kind = one.infer(inference, call)
            return kind

        FUNCTIONS[name] = Function(name, usage, meaning, infer, one.emit)
        return one

    return registered


def log_action(code: Code, action: bundle.Action, given: list[Any]) -> None:
    """Log an action and its arguments."""
    from dprobed.program.bt.code_log import log_action as logged

    logged(code, action, given)


# -- printing -------------------------------------------------------------------------------------


def _format(inference: Inference, call: tree.Call, name: str) -> None:
    """Look at a format and its arguments."""
    first = call.arguments[0]
    given = call.arguments[1:]
    known = [inference.expression(each) for each in given]
    inference.expression(first)
    if not isinstance(first, tree.Text):
        inference.wrong(first.span, f"the format of `{name}` is a text in quotes")
        return
    wanted = [one[1] for one in _CONVERSION.finditer(first.value) if one[1]]
    odd = [one for one in re.finditer("%", _CONVERSION.sub("", first.value))]
    if odd:
        inference.wrong(first.span, "a % in the format has no conversion behind it", "write %%")
    if len(wanted) != len(given):
        inference.wrong(
            call.span, f"the format has {len(wanted)} conversions, and there are {len(given)} "
            "values",
        )  # fmt: skip
        return
    for letter, kind, node in zip(wanted, known, given, strict=True):
        _check_conversion(inference, letter, kind, node)


def _check_conversion(inference: Inference, letter: str, kind: Kind, node: Any) -> None:
    shown = inference.shown(kind)
    if isinstance(kind, kinds.Void):
        inference.wrong(node.span, "this has no value")
    elif letter in "diuxXocp" and len(letter) == 1:
        if not is_word(kind) and not isinstance(kind, Shown):
            inference.wrong(node.span, f"%{letter} shows a number, not {shown}", "write %s")
    elif letter in "feEgGaA" and len(letter) == 1:
        if not isinstance(kind, kinds.Float) and not is_number(kind):
            inference.wrong(node.span, f"%{letter} shows a floating-point number, not {shown}")
    elif letter in ("r", "rx", "rh"):
        if not isinstance(kind, Bytes | Object):
            inference.wrong(node.span, f"%{letter} shows a buf(), not {shown}")
    elif letter not in ("s", "gr"):
        inference.wrong(node.span, f"%{letter} is no conversion", "use %d, %s, %x and the like")
    elif letter == "s" and isinstance(kind, Integer | Pointer):
        inference.wrong(node.span, f"%s shows a text, not {shown}",
                        "write str() for the address of a text, or %d")  # fmt: skip


@function("printf", "printf(FORMAT, VALUE…)", 1, 64, "print values by a format")
class _Printf:
    to = "out"

    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        _format(inference, call, call.name)
        return VOID

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        given = call.arguments[1:]
        values = _values(code, given)
        log_action(code, bundle.Printf(call.arguments[0].value, values), given)


def _values(code: Code, given: list[Any]) -> tuple[bundle.Value, ...]:
    from dprobed.program.bt.infer import kind_of

    return tuple(kinds.value_of(code.types, kind_of(each)) for each in given)


@function("errorf", "errorf(FORMAT, VALUE…)", 1, 64, "print an error, with its place")
class _Errorf:
    infer = _Printf.infer

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        given = call.arguments[1:]
        action = bundle.Printf(
            call.arguments[0].value, _values(code, given),
            "error" if call.name == "errorf" else "warning", call.span.written(),
        )  # fmt: skip
        log_action(code, action, given)


function("warnf", "warnf(FORMAT, VALUE…)", 1, 64, "print a warning, with its place")(_Errorf)


@function("system", "system(FORMAT, VALUE…)", 1, 64, "run a command (with --unsafe)")
class _System:
    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        _format(inference, call, call.name)
        if not inference.state.options.unsafe:
            inference.wrong(call.span, "`system` runs commands, which is unsafe",
                            "say --unsafe if you mean it")  # fmt: skip
        return VOID

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        given = call.arguments[1:]
        code.state.unsafe = True
        log_action(code, bundle.System(call.arguments[0].value, _values(code, given)), given)


@function("cat", "cat(FORMAT, VALUE…)", 1, 64, "print the contents of a file")
class _Cat:
    infer = _Printf.infer

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        given = call.arguments[1:]
        log_action(code, bundle.Cat(call.arguments[0].value, _values(code, given)), given)


@function("print", "print(VALUE) or print(@MAP[, TOP[, DIVISOR]])", 1, 3, "print a value or a map")
class _Print:
    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        first = call.arguments[0]
        if isinstance(first, tree.MapValue) and first.keys is None:
            known = inference.state.map(first.name, first.span)
            first.type = known
            if known.keys or len(call.arguments) > 1 or not known.is_value:
                for each in call.arguments[1:]:
                    if inference.constant(each) is None:
                        inference.wrong(each.span, "this is a number that is known before the "
                                        "script runs")  # fmt: skip
                return VOID
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
    def emit(code: Code, call: tree.Call) -> None:
        first = call.arguments[0]
        if isinstance(first, tree.MapValue):
            known = first.type
            if first.keys is None:
                numbers = [code.inference.constant(each) or 0 for each in call.arguments[1:]]
                top = numbers[0] if numbers else 0
                divisor = numbers[1] if len(numbers) > 1 else 1
                log_action(code, bundle.PrintMap(known.number, top, divisor or 1), [])
                return
            if not known.is_value:
                action = bundle.PrintEntry(known.number, _values(code, first.keys))
                log_action(code, action, first.keys)
                return
        (value,) = _values(code, [first])
        log_action(code, bundle.Print(value), [first])


@function("join", "join(ARRAY[, BETWEEN])", 1, 2, "print the texts of an array like argv")
class _Join:
    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        kind = inference.expression(call.arguments[0])
        if not is_word(kind) and not isinstance(kind, Object):
            inference.wrong(call.span, f"`join` takes an array's address, not "
                            f"{inference.shown(kind)}")  # fmt: skip
        if len(call.arguments) > 1 and not isinstance(call.arguments[1], tree.Text):
            inference.wrong(call.arguments[1].span, "what is between the texts is a text in quotes")
        return VOID

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        from dprobed.program.bt.code_log import log_join

        between = call.arguments[1].value if len(call.arguments) > 1 else " "
        log_join(code, bundle.Join(between), call.arguments[0])


@function("time", "time([FORMAT])", 0, 1, "print the time")
class _Time:
    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        if call.arguments and not isinstance(call.arguments[0], tree.Text):
            inference.wrong(call.arguments[0].span, "the format of `time` is a text in quotes")
        return VOID

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        given = call.arguments[0].value if call.arguments else "%H:%M:%S\n"
        log_action(code, bundle.PrintTime(given), [])


@function("exit", "exit([STATUS])", 0, 1, "end the script")
class _Exit:
    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        if call.arguments and not is_number(inference.expression(call.arguments[0])):
            inference.wrong(call.arguments[0].span, "an exit status is a number")
        return VOID

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        given = call.arguments or [tree.Number(call.span, 0, type=LITERAL)]
        log_action(code, bundle.Exit(), given)
        code.leave()


# -- maps -----------------------------------------------------------------------------------------


def _map_argument(inference: Inference, call: tree.Call) -> Any:
    """The map that a function is about."""
    first = call.arguments[0]
    if not isinstance(first, tree.MapValue):
        inference.expression(first)
        inference.wrong(first.span, f"`{call.name}` takes a map")
        return None
    return first


def _keyed(inference: Inference, call: tree.Call) -> bool:
    """``f(@x, key)`` is ``f(@x[key])`` from here on."""
    first = _map_argument(inference, call)
    if first is None:
        return False
    if len(call.arguments) > 1 and first.keys is None:
        key = call.arguments[1]
        is_tuple = isinstance(key, tree.TupleOf) and not key.names
        first.keys = list(key.items) if is_tuple else [key]
        del call.arguments[1]
    inference.map(first).other = True
    return True


@function("clear", "clear(@MAP)", 1, 1, "forget all that is in a map")
class _Clear:
    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        first = _map_argument(inference, call)
        if first is not None:
            if first.keys is not None:
                inference.wrong(first.span, f"`{call.name}` takes a whole map",
                                "write delete(@x, KEY)")  # fmt: skip
            first.type = inference.state.map(first.name, first.span)
        return VOID

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        number = call.arguments[0].type.number
        action = bundle.Clear(number) if call.name == "clear" else bundle.Zero(number)
        log_action(code, action, [])


function("zero", "zero(@MAP)", 1, 1, "begin anew at each key of a map")(_Clear)


@function("delete", "delete(@MAP, KEY)", 1, 2, "forget a key of a map; whether it was there")
class _Delete:
    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        _keyed(inference, call)
        return BOOLEAN

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        from dprobed.program.bt.code_maps import delete_key

        delete_key(code, call.arguments[0])


@function("has_key", "has_key(@MAP, KEY)", 1, 2, "whether a key is in a map")
class _HasKey:
    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        if _keyed(inference, call):
            known = call.arguments[0].type
            if not known.is_value and inference.firing.hit:
                inference.wrong(call.span, f"{known.name} is a {known.kind}(), which is not read "
                                "at hits", "ask in a block")  # fmt: skip
            if call.arguments[0].keys is None:
                inference.wrong(call.span, f"{known.name} has no keys")
        return BOOLEAN

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        from dprobed.program.bt.code_maps import has_key

        has_key(code, call.arguments[0])


@function("len", "len(@MAP)", 1, 1, "how many keys a map has")
class _Len:
    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        first = call.arguments[0]
        if not isinstance(first, tree.MapValue) or first.keys is not None:
            inference.expression(first)
            return inference.wrong(first.span, "`len` takes a map")
        first.type = inference.state.map(first.name, first.span)
        first.type.other = True
        if inference.firing.hit:
            inference.wrong(call.span, "how long a map is, is known where output is shown",
                            "ask in a block (interval, end)")  # fmt: skip
        return INT64

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        from dprobed.program.bt.code_maps import measure

        measure(code, call.arguments[0])


# -- texts and memory -----------------------------------------------------------------------------


@function("str", "str(ADDRESS[, LENGTH])", 1, 2, "the text at an address")
class _Str:
    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        first = call.arguments[0]
        most = inference.state.max_string
        if len(call.arguments) > 1:
            kind = inference.expression(call.arguments[1])
            if not is_word(kind):
                inference.wrong(call.arguments[1].span, "a length is a number")
            number = inference.constant(call.arguments[1])
            if number is not None:
                most = max(0, min(most, number - 1))
        text = _parameter_text(inference, first)
        if text is not None:
            return inference.state.constant(text)
        kind = inference.expression(first)
        if isinstance(kind, String | Short):
            return kind
        if isinstance(kind, Object):
            one = inference.types.plain(kind.of)
            if isinstance(one, ArrayType):
                most = min(most, one.count or most)
        elif not is_word(kind):
            inference.wrong(first.span, f"`str` takes an address, not {inference.shown(kind)}")
        return String(Form.TARGET, most)

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        emit_str(code, call, call.type.most if isinstance(call.type, String) else 0)


def _parameter_text(inference: Inference, one: Any) -> str | None:
    """The text that ``str($1)`` or ``str($1 + 2)`` is."""
    from dprobed.program.bt.infer import positional_text

    state = inference.state
    if isinstance(one, tree.Positional) and one.number > 0:
        return positional_text(state, one.number)
    if (
        isinstance(one, tree.Binary) and one.operator == "+"
        and isinstance(one.left, tree.Positional) and one.left.number > 0
    ):  # fmt: skip
        skip = inference.constant(one.right)
        text = positional_text(state, one.left.number)
        if skip is None or not 0 <= skip <= len(text):
            inference.wrong(one.span, "only a number up to its length can be added to a parameter")
            return ""
        return text[skip:]
    return None


def emit_str(code: Code, call: tree.Call, most: int) -> None:
    """A text: most bytes, 0 where it cannot be read, and its address."""
    from dprobed.program.bt.infer import kind_of

    to = code.to
    text = _parameter_text(code.inference, call.arguments[0])
    if text is not None:
        to.push(code.state.string(text))
        return
    kind = kind_of(call.arguments[0])
    code.expression(call.arguments[0])
    if isinstance(kind, String | Short):
        return
    to.add("dup count", 1)
    to.add("vfy r")
    to.push(1)
    to.add("xor")
    number = code.inference.constant(call.arguments[1]) if len(call.arguments) > 1 else 0
    if number is None:
        # The shorter of what is asked for, less its NUL, and the most.
        code.expression(call.arguments[1])
        to.push(1)
        to.add("sub")
        code.least(most)
    else:
        to.push(most)
    to.add("mul")
    to.add("xchg")


@function("buf", "buf(ADDRESS[, LENGTH])", 1, 2, "bytes of memory")
class _Buf:
    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        kind = inference.expression(call.arguments[0])
        if len(call.arguments) > 1:
            length = inference.expression(call.arguments[1])
            if not is_word(length):
                inference.wrong(call.arguments[1].span, "a length is a number")
        elif not isinstance(kind, Object):
            inference.wrong(call.span, "how many bytes is missing", "write buf(ADDRESS, LENGTH)")
        if not (is_word(kind) or isinstance(kind, Object)):
            inference.wrong(call.span, f"`buf` takes an address, not {inference.shown(kind)}")
        return Bytes()

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        from dprobed.program.bt.infer import kind_of

        kind = kind_of(call.arguments[0])
        if len(call.arguments) > 1:
            code.expression(call.arguments[1])
            code.least(code.state.max_string)
        elif isinstance(kind, Object):
            code.to.push(code.types.size(kind.of))
        code.expression(call.arguments[0])


@function("strncmp", "strncmp(TEXT, TEXT, LENGTH)", 3, 3, "0 if the first letters are the same")
class _Strncmp:
    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        for each in call.arguments[:2]:
            kind = inference.expression(each)
            if not isinstance(kind, String | Short):
                inference.wrong(each.span, f"`strncmp` takes texts, not {inference.shown(kind)}",
                                "use str()")  # fmt: skip
        inference.expression(call.arguments[2])
        number = inference.constant(call.arguments[2])
        if number is None or not 0 <= number <= 1024:
            inference.wrong(call.arguments[2].span, "so many letters: a number up to 1024 that is "
                            "known before the script runs")  # fmt: skip
        return UINT64

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        from dprobed.program.bt.code_texts import texts_differ

        number = code.inference.constant(call.arguments[2]) or 0
        texts_differ(code, call.arguments[0], call.arguments[1], number)


@function("strlen", "strlen(TEXT)", 1, 1, "how many bytes a text has")
class _Strlen:
    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        kind = inference.expression(call.arguments[0])
        if not isinstance(kind, String | Short) and not is_word(kind):
            inference.wrong(call.span, f"`strlen` takes a text, not {inference.shown(kind)}")
        return UINT64

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        from dprobed.program.bt.code_texts import text_length

        text_length(code, call.arguments[0])


@function("strcontains", "strcontains(TEXT, PART)", 2, 2, "whether a text has another one in it")
class _Strcontains:
    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        haystack = inference.expression(call.arguments[0])
        if not isinstance(haystack, String):
            inference.wrong(call.arguments[0].span,
                            f"`{call.name}` takes texts, not {inference.shown(haystack)}",
                            "use str()")  # fmt: skip
        inference.expression(call.arguments[1])
        if not isinstance(call.arguments[1], tree.Text | tree.Positional):
            inference.wrong(call.arguments[1].span, f"what `{call.name}` looks for is a text in "
                            "quotes")  # fmt: skip
        return BOOLEAN if call.name == "strcontains" else INT64

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        from dprobed.program.bt.code_texts import find_text

        find_text(code, call.arguments[0], call.arguments[1])
        if call.name == "strcontains":
            code.to.add("neg")
            code.is_not_zero()


function("strstr", "strstr(TEXT, PART)", 2, 2, "where a text has another one in it, or -1")(
    _Strcontains
)


# -- values that are shown in their own way -------------------------------------------------------


@function("ustack", "ustack([MODE, ][FRAMES])", 0, 2, "the stack of the thread")
class _Ustack:
    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        mode, depth = inference.state.stack_mode, 127
        if not inference.firing.hit:
            inference.wrong(call.span, "`ustack` is of a process, and a block has none")
        for each in call.arguments:
            if isinstance(each, tree.Name) and each.name in ("bpftrace", "perf", "raw", "build_id"):
                mode = each.name
                continue
            number = inference.constant(each)
            if number is None or not 1 <= number <= 1024:
                inference.wrong(each.span, "frames are a number from 1 to 127",
                                "modes are bpftrace, perf, raw and build_id")  # fmt: skip
            else:
                depth = min(number, 127)
        return Stack(mode, depth)

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        """Nothing: it is taken where it is logged."""


def _shown(name: str, usage: str, meaning: str, value: Callable[[], bundle.Value]) -> None:
    """A function that only says how a number is shown."""

    class _Shown:
        @staticmethod
        def infer(inference: Inference, call: tree.Call) -> Kind:
            kind = inference.expression(call.arguments[0])
            if not is_word(kind):
                inference.wrong(call.span, f"`{name}` takes a number, not {inference.shown(kind)}")
            return Shown(value())

        @staticmethod
        def emit(code: Code, call: tree.Call) -> None:
            code.expression(call.arguments[0])

    function(name, usage, 1, 1, meaning)(_Shown)


_shown("usym", "usym(ADDRESS)", "the symbol of an address", bundle.Symbol)
_shown("strerror", "strerror(NUMBER)", "the text of an error number", bundle.ErrorText)


@function("strftime", "strftime(FORMAT, NANOSECONDS)", 2, 2, "a time by a format")
class _Strftime:
    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        first = call.arguments[0]
        if not isinstance(first, tree.Text):
            return inference.wrong(first.span, "the format of `strftime` is a text in quotes")
        kind = inference.expression(call.arguments[1])
        if not is_word(kind):
            inference.wrong(call.arguments[1].span, "a time is a number of nanoseconds")
        return Shown(bundle.Time(first.value))

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        code.expression(call.arguments[1])


@function("ntop", "ntop([FAMILY, ]ADDRESS)", 1, 2, "an internet address")
class _Ntop:
    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        kind = inference.expression(call.arguments[-1])
        if len(call.arguments) > 1:
            inference.expression(call.arguments[0])
        if isinstance(kind, Object):
            if inference.types.size(kind.of) not in (4, 16):
                inference.wrong(call.span, "an internet address has 4 or 16 bytes")
            return Bytes("inet")
        if not is_number(kind):
            inference.wrong(call.span, f"`ntop` takes an address, not {inference.shown(kind)}")
        return Shown(bundle.InternetAddress())

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        from dprobed.program.bt.infer import kind_of

        kind = kind_of(call.arguments[-1])
        if isinstance(kind, Object):
            code.to.push(code.types.size(kind.of))
        code.expression(call.arguments[-1])


@function("macaddr", "macaddr(ADDRESS)", 1, 1, "an address of 6 bytes")
class _Macaddr:
    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        kind = inference.expression(call.arguments[0])
        if not is_word(kind) and not isinstance(kind, Object):
            inference.wrong(call.span, "`macaddr` takes an array of 6 bytes or its address")
        return Bytes("mac")

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        code.to.push(6)
        code.expression(call.arguments[0])


# -- numbers --------------------------------------------------------------------------------------


@function("reg", 'reg("NAME")', 1, 1, "a register at the probe")
class _Reg:
    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        first = call.arguments[0]
        name = first.value if isinstance(first, tree.Text) else ""
        if not inference.firing.hit:
            return inference.wrong(call.span, "a block has no registers")
        if register(name) is None:
            return inference.wrong(first.span, f"there is no register `{name}`",
                                   'write reg("ax"), reg("rdi"), reg("r8")')  # fmt: skip
        return UINT64

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        code.to.add("push r,register", register(call.arguments[0].value))


@function("uaddr", 'uaddr("SYMBOL")', 1, 1, "the address of a symbol of the module")
class _Uaddr:
    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        first = call.arguments[0]
        if not isinstance(first, tree.Text) or not first.value:
            return inference.wrong(first.span, "a symbol's name is a text in quotes")
        if not inference.firing.hit:
            return inference.wrong(call.span, "a block has no process with symbols")
        return Pointer(inference.types.integer(8, False))

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        code.to.add("push addr,symbol", call.arguments[0].value)


@function("bswap", "bswap(NUMBER)", 1, 1, "a number with its bytes in the other order")
class _Bswap:
    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        kind = inference.expression(call.arguments[0])
        if not isinstance(kind, Integer):
            return inference.wrong(call.span, f"`bswap` takes a number, not "
                                   f"{inference.shown(kind)}")  # fmt: skip
        return Integer(kind.size, False)

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        to = code.to
        code.expression(call.arguments[0])
        size = call.type.size
        # Neighbours first: bytes, then pairs of them, then halves.
        for bits, mask in ((8, 0x00FF00FF00FF00FF), (16, 0x0000FFFF0000FFFF), (32, 0xFFFFFFFF)):
            to.add("dup count", 1)
            to.push(mask)
            to.add("and")
            to.add("shl bits", bits)
            to.add("xchg")
            to.add("shr bits", bits)
            to.push(mask)
            to.add("and")
            to.add("or")
        if size < 8:
            to.add("shr bits", 64 - 8 * size)


@function("pton", 'pton("ADDRESS")', 1, 1, "the number of an IPv4 address")
class _Pton:
    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        first = call.arguments[0]
        try:
            socket.inet_pton(socket.AF_INET, first.value if isinstance(first, tree.Text) else "")
        except (OSError, UnicodeError):
            return inference.wrong(first.span, "this is no IPv4 address in quotes",
                                   'write pton("127.0.0.1")')  # fmt: skip
        return Integer(4, False)

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        data = socket.inet_pton(socket.AF_INET, call.arguments[0].value)
        code.to.push(int.from_bytes(data, "little"))


@function("getopt", 'getopt("NAME"[, DEFAULT[, "MEANING"]])', 1, 3, "a named parameter")
class _Getopt:
    @staticmethod
    def value(inference: Inference, call: tree.Call) -> bool | int | str:
        """What it is."""
        first = call.arguments[0]
        if not isinstance(first, tree.Text):
            inference.wrong(first.span, "a parameter's name is a text in quotes")
            return 0
        default: bool | int | str = False
        if len(call.arguments) > 1:
            node = call.arguments[1]
            number = inference.constant(node)
            if isinstance(node, tree.Text):
                default = node.value
            elif isinstance(node, tree.Boolean):
                default = node.value
            elif number is not None:
                default = number
            else:
                inference.wrong(node.span, "a default is a number, a text, true or false")
        named = inference.state.options.named
        if first.value not in named:
            return default
        given = named[first.value]
        if isinstance(default, bool):
            if given not in (None, "1", "true", "0", "false"):
                inference.wrong(call.span, f"--{first.value} is true or false, not {given}")
            return given in (None, "1", "true")
        if given is None:
            inference.wrong(call.span, f"--{first.value} has no value",
                            f"say --{first.value}=VALUE")  # fmt: skip
            return default
        if isinstance(default, str):
            return given
        try:
            return int(given, 0)
        except ValueError:
            inference.wrong(call.span, f"--{first.value} is a number, not {given}")
            return default

    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        value = _Getopt.value(inference, call)
        if isinstance(value, bool):
            return BOOLEAN
        return LITERAL if isinstance(value, int) else inference.state.constant(value)

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        value = _Getopt.value(code.inference, call)
        code.to.push(code.state.string(value) if isinstance(value, str) else int(value))


def _asks(name: str, meaning: str, holds: Callable[[Any, Kind], bool]) -> None:
    """A function that asks about a kind."""

    class _Asks:
        @staticmethod
        def infer(inference: Inference, call: tree.Call) -> Kind:
            kind = inference.expression(call.arguments[0])
            call.arguments[0].type = kind if not isinstance(
                call.arguments[0], tree.Variable | tree.MapValue
            ) else call.arguments[0].type  # fmt: skip
            return BOOLEAN

        @staticmethod
        def emit(code: Code, call: tree.Call) -> None:
            from dprobed.program.bt.infer import kind_of

            one = call.arguments[0]
            code.to.push(int(holds(one, kind_of(one))))

    function(name, f"{name}(VALUE)", 1, 1, meaning)(_Asks)


_asks("is_integer", "whether a value is a number", lambda one, kind: isinstance(kind, Integer))
_asks("is_str", "whether a value is a text", lambda one, kind: isinstance(kind, String | Short))
_asks("is_ptr", "whether a value is a pointer", lambda one, kind: isinstance(kind, Pointer))
_asks("is_array", "whether a value is an array", lambda one, kind: isinstance(kind, Object))
_asks("is_unsigned_integer", "whether a value is a number that is never below 0",
      lambda one, kind: isinstance(kind, Integer) and not kind.signed)  # fmt: skip
_asks("is_literal", "whether a value is written out",
      lambda one, kind: isinstance(one, tree.Number | tree.Text | tree.Boolean))  # fmt: skip


@function("uptr", "uptr(POINTER)", 1, 1, "a pointer of the process: as it is")
class _Uptr:
    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        return inference.expression(call.arguments[0])

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        code.expression(call.arguments[0])


@function("assert", 'assert(CONDITION, "MESSAGE")', 2, 2, "end the script where this is not so")
class _Assert:
    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        inference.condition(call.arguments[0])
        if not isinstance(call.arguments[1], tree.Text):
            inference.wrong(call.arguments[1].span, "the message is a text in quotes")
        return VOID

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        to = code.to
        bad, done = to.label(), to.label()
        depth = to.depth
        code.condition(call.arguments[0], bad)
        to.add("jmp label", done)
        to.place(bad, depth + 1)
        to.drop()
        text = call.arguments[1].value.replace("%", "%%")
        log_action(code, bundle.Printf(text + "\n", (), "error", call.span.written()), [])
        log_action(code, bundle.Exit(), [tree.Number(call.span, 1, type=LITERAL)])
        code.leave()
        to.place(done, depth)


@function("static_assert", 'static_assert(CONDITION, "MESSAGE")', 2, 2, "refuse the script else")
class _StaticAssert:
    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        inference.condition(call.arguments[0])
        value = inference.constant(call.arguments[0])
        text = call.arguments[1]
        said = text.value if isinstance(text, tree.Text) else "this does not hold"
        if value is None:
            inference.wrong(call.span, "this is not known before the script runs", "use assert()")
        elif not value:
            inference.wrong(call.span, said)
        return VOID

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        """Nothing."""


# -- ours: what alters the process, and what a hit is handed to -------------------------------------


@function("skip", "skip(VALUE[, ERROR])", 1, 2, "return from the function at once")
class _Skip:
    @staticmethod
    def infer(inference: Inference, call: tree.Call) -> Kind:
        for each in call.arguments:
            if not is_word(inference.expression(each)):
                inference.wrong(each.span, "a function returns a number or a pointer")
        if not inference.firing.entry:
            inference.wrong(call.span, "only a function that is entered can be skipped",
                            "place the probe at a function")  # fmt: skip
        return VOID

    @staticmethod
    def emit(code: Code, call: tree.Call) -> None:
        to = code.to
        code.state.alters = True
        if len(call.arguments) > 1:
            to.add("push tls,symbol", "errno")
            code.expression(call.arguments[1])
            to.add("pop mem,u32")
        # What can fail comes first: then nothing was altered.
        code.expression(call.arguments[0])
        to.add("push r,register", "rsp")
        to.add("push mem,u64")
        to.add("xchg")
        to.add("pop r,register", "rax")
        to.add("push r,register", "rsp")
        to.push(8)
        to.add("add")
        to.add("pop r,register", "rsp")
        to.add("pop r,register", "rip")


def _ending(name: str, usage: str, meaning: str, most: int, emit: Emit) -> None:
    """A function that ends the probe and hands its record over."""

    class _Ending:
        @staticmethod
        def infer(inference: Inference, call: tree.Call) -> Kind:
            for each in call.arguments:
                once = isinstance(each, tree.Name) and each.name == "once"
                good = once if name == "dump" else isinstance(each, tree.Text)
                if not good:
                    inference.wrong(each.span, f"write {usage}")
            if not inference.firing.hit:
                inference.wrong(call.span, f"`{name}` is of a process, and a block has none")
            return VOID

        @staticmethod
        def emit(code: Code, call: tree.Call) -> None:
            emit(code, call)

    function(name, usage, int(name == "exit_to"), most, meaning)(_Ending)


def _dump(code: Code, call: tree.Call) -> None:
    once = " once" if call.arguments else ""
    code.end_by(f"exit facility{once}", "dump")


_ending("dump", "dump() or dump(once)", "write a core of the process", 1, _dump)
_ending("debugger", "debugger()", "hold the process for a debugger", 0,
        lambda code, call: code.end_by("exit facility", "debugger"))  # fmt: skip
_ending("exit_to", 'exit_to("NAME")', "hand the record to a handler", 1,
        lambda code, call: code.end_by("exit facility", call.arguments[0].value))  # fmt: skip
_ending("rem", "rem()", "this probe is through: take it out", 0,
        lambda code, call: code.end_by("rem", None))  # fmt: skip


# -- refused --------------------------------------------------------------------------------------

_KERNEL: Final = {
    **dict.fromkeys(
        ("kstack", "ksym", "kaddr", "kptr", "percpu_kaddr", "cgroupid", "cgroup_path", "override",
         "path", "skboutput", "socket_cookie", "kfunc_exist", "kfunc_allowed"),
        "is about the kernel, which a probe in a process does not see",
    ),
    **dict.fromkeys(
        ("signal", "signal_thread", "unwatch", "syscall_name", "globmatch", "memcmp", "find",
         "strcap", "fail"),
        "is not there yet",
    ),
}  # fmt: skip


def _refused(name: str, why: str) -> None:
    class _Refused:
        @staticmethod
        def infer(inference: Inference, call: tree.Call) -> Kind:
            return inference.wrong(call.span, f"`{name}` {why}")

        @staticmethod
        def emit(code: Code, call: tree.Call) -> None:
            """Never: it was refused."""

    function(name, f"{name}(…)", 0, 64, why)(_Refused)


for _name, _why in _KERNEL.items():
    _refused(_name, _why)

_ = (ARGUMENT_REGISTERS, Tuple)
