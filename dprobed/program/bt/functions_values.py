"""Functions that give numbers, addresses and what is shown in its own way."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from dprobed.program.bt import bundle, conversions, tree
from dprobed.program.bt.builtins import register
from dprobed.program.bt.code_log import log_action
from dprobed.program.bt.facts import kind_of, parameter_value
from dprobed.program.bt.functions import function, read_format
from dprobed.program.bt.kinds import (
    BOOLEAN,
    LITERAL,
    TEXTS,
    UINT64,
    VOID,
    Bytes,
    Integer,
    Kind,
    Object,
    Pointer,
    ShownWord,
    Stack,
    is_number,
    is_word,
)
from dprobed.program.bt.protocols import Coding, Inferring
from dprobed.program.bt.state import stack_error


@function("kstack", "kstack([MODE, ][FRAMES])", 0, 2, "the stack of the thread in the kernel")
@function("ustack", "ustack([MODE, ][FRAMES])", 0, 2, "the stack of the thread")
class _Stack:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        mode, depth = inference.state.stack_mode, 127
        wrong = stack_error(call.name, inference.firing)
        if wrong is not None:
            inference.wrong(call.span, *wrong)
        for each in call.arguments:
            if isinstance(each, tree.Name) and each.name in ("bpftrace", "perf", "raw", "build_id"):
                mode = each.name
                continue
            number = inference.constant(each)
            if number is None or not 1 <= number <= 1024:
                inference.wrong(
                    each.span,
                    "frames are a number from 1 to 127",
                    "modes are bpftrace, perf, raw and build_id",
                )
            else:
                depth = min(number, 127)
        return Stack(mode, depth, call.name == "kstack")

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        """Nothing: it is taken where it is logged."""


def _shown(name: str, usage: str, meaning: str, value: Callable[[], bundle.Value]) -> None:
    """A function that only says how a number is shown."""

    class _Shown:
        @staticmethod
        def infer(inference: Inferring, call: tree.Call) -> Kind:
            kind = inference.expression(call.arguments[0])
            if not is_word(kind):
                inference.wrong(call.span, f"`{name}` takes a number, not {inference.shown(kind)}")
            return ShownWord(value())

        @staticmethod
        def emit(code: Coding, call: tree.Call) -> None:
            code.expression(call.arguments[0])

    function(name, usage, 1, 1, meaning)(_Shown)


_shown("usym", "usym(ADDRESS)", "the symbol of an address", bundle.Symbol)
_shown("strerror", "strerror(NUMBER)", "the text of an error number", bundle.ErrorText)


@function("strftime", "strftime(FORMAT, NANOSECONDS)", 2, 2, "a time by a format")
class _Strftime:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        first = call.arguments[0]
        if not isinstance(first, tree.Text):
            return inference.wrong(first.span, "the format of `strftime` is a text in quotes")
        read_format(inference, first, conversions.check_time)
        kind = inference.expression(call.arguments[1])
        if not is_word(kind):
            inference.wrong(call.arguments[1].span, "a time is a number of nanoseconds")
        return ShownWord(bundle.Time(first.value))

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        code.expression(call.arguments[1])


@function("ntop", "ntop([FAMILY, ]ADDRESS)", 1, 2, "an internet address")
class _Ntop:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        kind = inference.expression(call.arguments[-1])
        if len(call.arguments) > 1:
            inference.expression(call.arguments[0])
        if isinstance(kind, Object):
            if inference.types.size(kind.of) not in (4, 16):
                inference.wrong(call.span, "an internet address has 4 or 16 bytes")
            return Bytes("inet")
        if not is_number(kind):
            inference.wrong(call.span, f"`ntop` takes an address, not {inference.shown(kind)}")
        return ShownWord(bundle.InternetAddress())

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        kind = kind_of(call.arguments[-1])
        if isinstance(kind, Object):
            code.to.push(code.types.size(kind.of))
        code.expression(call.arguments[-1])


@function("macaddr", "macaddr(ADDRESS)", 1, 1, "an address of 6 bytes")
class _Macaddr:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        kind = inference.expression(call.arguments[0])
        if not is_word(kind) and not isinstance(kind, Object):
            inference.wrong(call.span, "`macaddr` takes an array of 6 bytes or its address")
        return Bytes("mac")

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        code.to.push(6)
        code.expression(call.arguments[0])


@function("reg", 'reg("NAME")', 1, 1, "a register at the probe")
class _Reg:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        first = call.arguments[0]
        name = first.value if isinstance(first, tree.Text) else ""
        if not inference.firing.hit:
            return inference.wrong(call.span, "a block has no registers")
        if register(name) is None:
            return inference.wrong(
                first.span,
                f"there is no register `{name}`",
                'write reg("ax"), reg("rdi"), reg("r8")',
            )
        return UINT64

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        code.to.add("push r,register", register(call.arguments[0].value))


@function("uaddr", 'uaddr("SYMBOL")', 1, 1, "the address of a symbol of the module")
class _Uaddr:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        first = call.arguments[0]
        if not isinstance(first, tree.Text) or not first.value:
            return inference.wrong(first.span, "a symbol's name is a text in quotes")
        if not inference.firing.hit:
            return inference.wrong(call.span, "a block has no process with symbols")
        return Pointer(inference.types.integer(8, False))

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        code.to.add("push addr,symbol", call.arguments[0].value)


@function("bswap", "bswap(NUMBER)", 1, 1, "a number with its bytes in the other order")
class _Bswap:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        kind = inference.expression(call.arguments[0])
        if not isinstance(kind, Integer):
            return inference.wrong(
                call.span, f"`bswap` takes a number, not {inference.shown(kind)}"
            )
        return Integer(kind.size, False)

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
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
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        first = call.arguments[0]
        try:
            socket.inet_pton(socket.AF_INET, first.value if isinstance(first, tree.Text) else "")
        except (OSError, UnicodeError):
            return inference.wrong(
                first.span, "this is no IPv4 address in quotes", 'write pton("127.0.0.1")'
            )
        return Integer(4, False)

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        data = socket.inet_pton(socket.AF_INET, call.arguments[0].value)
        code.to.push(int.from_bytes(data, "little"))


@function("getopt", 'getopt("NAME"[, DEFAULT[, "MEANING"]])', 1, 3, "a named parameter")
class _Getopt:
    @staticmethod
    def value(inference: Inferring, call: tree.Call) -> bool | int | str:
        """What it is."""
        first = call.arguments[0]
        if not isinstance(first, tree.Text):
            inference.wrong(first.span, "a parameter's name is a text in quotes")
            return 0
        default: bool | int | str = False
        if len(call.arguments) > 1:
            node = call.arguments[1]
            number = inference.constant(node)
            if isinstance(node, tree.Text | tree.Boolean):
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
            inference.wrong(
                call.span, f"--{first.value} has no value", f"say --{first.value}=VALUE"
            )
            return default
        if isinstance(default, str):
            return given
        number = parameter_value(given)
        if number is None:
            inference.wrong(call.span, f"--{first.value} is a number, not {given}")
            return default
        return number

    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        value = _Getopt.value(inference, call)
        if isinstance(value, bool):
            return BOOLEAN
        return LITERAL if isinstance(value, int) else inference.state.constant(value)

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        value = _Getopt.value(code.inference, call)
        code.to.push(code.state.string(value) if isinstance(value, str) else int(value))


def _asks(name: str, meaning: str, holds: Callable[[Any, Kind], bool]) -> None:
    """A function that asks about a kind."""

    class _Asks:
        @staticmethod
        def infer(inference: Inferring, call: tree.Call) -> Kind:
            kind = inference.expression(call.arguments[0])
            call.arguments[0].type = (
                kind
                if not isinstance(call.arguments[0], tree.Variable | tree.MapValue)
                else call.arguments[0].type
            )
            return BOOLEAN

        @staticmethod
        def emit(code: Coding, call: tree.Call) -> None:
            one = call.arguments[0]
            code.to.push(int(holds(one, kind_of(one))))

    function(name, f"{name}(VALUE)", 1, 1, meaning)(_Asks)


_asks("is_integer", "whether a value is a number", lambda one, kind: isinstance(kind, Integer))
_asks("is_str", "whether a value is a text", lambda one, kind: isinstance(kind, TEXTS))
_asks("is_ptr", "whether a value is a pointer", lambda one, kind: isinstance(kind, Pointer))
_asks("is_array", "whether a value is an array", lambda one, kind: isinstance(kind, Object))
_asks(
    "is_unsigned_integer",
    "whether a value is a number that is never below 0",
    lambda one, kind: isinstance(kind, Integer) and not kind.signed,
)
_asks(
    "is_literal",
    "whether a value is written out",
    lambda one, kind: isinstance(one, tree.Number | tree.Text | tree.Boolean),
)


@function("uptr", "uptr(POINTER)", 1, 1, "a pointer of the process: as it is")
class _Uptr:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        return inference.expression(call.arguments[0])

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        code.expression(call.arguments[0])


@function("assert", 'assert(CONDITION, "MESSAGE")', 2, 2, "end the script where this is not so")
class _Assert:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        inference.condition(call.arguments[0])
        if not isinstance(call.arguments[1], tree.Text):
            inference.wrong(call.arguments[1].span, "the message is a text in quotes")
        return VOID

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
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
    def infer(inference: Inferring, call: tree.Call) -> Kind:
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
    def emit(code: Coding, call: tree.Call) -> None:
        """Nothing."""
