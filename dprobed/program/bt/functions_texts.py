"""Functions on texts and bytes of memory."""

from __future__ import annotations

from dprobed.program.bt import tree
from dprobed.program.bt.code_texts import emit_str, find_text, text_length, texts_differ
from dprobed.program.bt.facts import (
    kind_of,
    parameter_text,
)
from dprobed.program.bt.functions import function
from dprobed.program.bt.kinds import (
    BOOLEAN,
    INT64,
    UINT64,
    Bytes,
    Form,
    Kind,
    Object,
    Short,
    String,
    is_word,
)
from dprobed.program.bt.protocols import Coding, Inferring
from dprobed.program.types import ArrayType


@function("str", "str(ADDRESS[, LENGTH])", 1, 2, "the text at an address")
class _Str:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        first = call.arguments[0]
        most = inference.state.max_string
        if len(call.arguments) > 1:
            kind = inference.expression(call.arguments[1])
            if not is_word(kind):
                inference.wrong(call.arguments[1].span, "a length is a number")
            number = inference.constant(call.arguments[1])
            if number is not None:
                most = max(0, min(most, number - 1))
        text = parameter_text(inference.state, first)
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
    def emit(code: Coding, call: tree.Call) -> None:
        emit_str(code, call, call.type.most if isinstance(call.type, String) else 0)


@function("buf", "buf(ADDRESS[, LENGTH])", 1, 2, "bytes of memory")
class _Buf:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
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
    def emit(code: Coding, call: tree.Call) -> None:
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
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        for each in call.arguments[:2]:
            kind = inference.expression(each)
            if not isinstance(kind, String | Short):
                inference.wrong(
                    each.span, f"`strncmp` takes texts, not {inference.shown(kind)}", "use str()"
                )
        inference.expression(call.arguments[2])
        number = inference.constant(call.arguments[2])
        if number is None or not 0 <= number <= 1024:
            inference.wrong(
                call.arguments[2].span,
                "so many letters: a number up to 1024 that is known before the script runs",
            )
        return UINT64

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        number = code.inference.constant(call.arguments[2]) or 0
        texts_differ(code, call.arguments[0], call.arguments[1], number)


@function("strlen", "strlen(TEXT)", 1, 1, "how many bytes a text has")
class _Strlen:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        kind = inference.expression(call.arguments[0])
        if not isinstance(kind, String | Short) and not is_word(kind):
            inference.wrong(call.span, f"`strlen` takes a text, not {inference.shown(kind)}")
        return UINT64

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        text_length(code, call.arguments[0])


@function("strcontains", "strcontains(TEXT, PART)", 2, 2, "whether a text has another one in it")
class _Strcontains:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        haystack = inference.expression(call.arguments[0])
        if not isinstance(haystack, String):
            inference.wrong(
                call.arguments[0].span,
                f"`{call.name}` takes texts, not {inference.shown(haystack)}",
                "use str()",
            )
        inference.expression(call.arguments[1])
        if not isinstance(call.arguments[1], tree.Text | tree.Positional):
            inference.wrong(
                call.arguments[1].span, f"what `{call.name}` looks for is a text in quotes"
            )
        return BOOLEAN if call.name == "strcontains" else INT64

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        find_text(code, call.arguments[0], call.arguments[1])
        if call.name == "strcontains":
            code.to.add("neg")
            code.is_not_zero()


function("strstr", "strstr(TEXT, PART)", 2, 2, "where a text has another one in it, or -1")(
    _Strcontains
)
