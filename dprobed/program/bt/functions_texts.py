"""Functions on texts and bytes of memory."""

from __future__ import annotations

from dprobed.program.bt import tree
from dprobed.program.bt.code_texts import (
    cut,
    emit_str,
    find_text,
    known_text,
    text_length,
    texts_differ,
)
from dprobed.program.bt.facts import kind_of
from dprobed.program.bt.functions import function
from dprobed.program.bt.kinds import (
    BOOLEAN,
    INT64,
    TEXTS,
    UINT64,
    Bytes,
    Form,
    HeldText,
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
        letters = _letters(inference, call)
        most = inference.state.max_string if letters is None else letters
        text = known_text(inference.state, first)
        if text is None:
            kind = inference.expression(first)
        else:
            kind = inference.state.constant(cut(text, letters))
        if len(call.arguments) > 1 and isinstance(kind, TEXTS):
            if letters is None:
                inference.wrong(
                    call.arguments[1].span,
                    "a text is cut to a length that is known before the script runs",
                )
            elif text is None and isinstance(kind, String) and kind.form is not Form.TARGET:
                inference.wrong(first.span, "a text that is one of several constants is not cut")
        if isinstance(kind, String):
            return String(kind.form, min(kind.most, most)) if letters is not None else kind
        if isinstance(kind, Short | HeldText):
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


def _letters(inference: Inferring, call: tree.Call) -> int | None:
    """How many bytes the length of ``str()`` leaves, as the last one is for the NUL; None: that is
    not known before the script runs."""
    if len(call.arguments) < 2:
        return None
    node = call.arguments[1]
    if not is_word(inference.expression(node)):
        inference.wrong(node.span, "a length is a number")
    number = inference.constant(node)
    if number is None:
        return None
    if number < 0:
        inference.wrong(node.span, f"a text has no length of {number}")
    return max(0, min(inference.state.max_string, number - 1))


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
            if not isinstance(kind, TEXTS):
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
        if not isinstance(kind, TEXTS) and not is_word(kind):
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
        if not isinstance(haystack, TEXTS):
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
