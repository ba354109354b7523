"""Code that logs actions: the action's number, then its arguments, as ``bundle`` says.

Words that follow each other are logged by one instruction, which takes the one on top first: so the
last one is pushed first, where it does not matter in which order they are evaluated.
"""

from __future__ import annotations

from typing import Any

from dprobed.program.bt import bundle, tree
from dprobed.program.bt.facts import kind_of, order_matters
from dprobed.program.bt.kinds import (
    CONSTANT_MARK,
    Bytes,
    Form,
    Kind,
    Object,
    Stack,
    String,
    Tuple,
    words,
)
from dprobed.program.bt.protocols import Coding

#: Texts of one `join`.
MOST_JOINED = 64


def log_action(code: Coding, action: bundle.Action, given: list[Any]) -> None:
    """Log an action and its arguments."""

    number = code.state.action(action)
    to = code.to
    at = to.at
    run: list[Any] = [number]
    ordered = order_matters(given)
    for each in given:
        kind = kind_of(each)
        if _is_words(kind):
            if ordered:
                _log_run(code, run)
                run = []
                code.expression(each)
                to.add("log count", words(kind))
            else:
                run.append(each)
            continue
        _log_run(code, run)
        run = []
        _log_one(code, each, kind)
    _log_run(code, run)
    to.at = at


def _log_run(code: Coding, run: list[Any]) -> None:
    """Words that follow each other."""
    count = 0
    for each in reversed(run):
        if isinstance(each, int):
            code.to.push(each)
            count += 1
        else:
            code.expression(each)
            count += words(kind_of(each))
    if count:
        code.to.add("log count", count)


def _is_words(kind: Kind) -> bool:
    """Whether a value is logged as the words that it has on the stack."""
    if isinstance(kind, Tuple):
        return all(map(_is_words, kind.items))
    if isinstance(kind, String):
        return kind.form is Form.CONSTANT
    return not isinstance(kind, Bytes | Object | Stack)


def _log_one(code: Coding, one: Any, kind: Kind) -> None:
    """A value that is not only words."""
    if isinstance(kind, Stack):
        log_stack(code, kind)
    elif isinstance(one, tree.TupleOf):
        for each in one.items:
            inner = kind_of(each)
            if _is_words(inner):
                code.expression(each)
                code.to.add("log count", words(inner))
            else:
                _log_one(code, each, inner)
    else:
        code.expression(one)
        log_value(code, kind)


def log_value(code: Coding, kind: Kind) -> None:
    """Log the value on top of the stack."""
    to = code.to
    if isinstance(kind, Tuple):
        for each in kind.items:
            log_value(code, each)
    elif isinstance(kind, Stack):
        log_stack(code, kind)
    elif isinstance(kind, String) and kind.form is Form.TARGET:
        to.add("log str")
    elif isinstance(kind, String) and kind.form is Form.EITHER:
        _log_either(code)
    elif isinstance(kind, Bytes):
        _log_memory(code)
    elif isinstance(kind, Object):
        to.push(code.types.size(kind.of))
        to.add("xchg")
        _log_memory(code)
    else:
        to.add("log count", words(kind))


def log_stack(code: Coding, kind: Stack) -> None:
    """Log the thread's stack."""
    if kind.depth >= 127:
        code.to.add(f"log {kind.name}")
    else:
        code.to.add(f"log {kind.name},depth", kind.depth)


def _log_either(code: Coding) -> None:
    """A text: the number of a constant, or in the target."""
    to = code.to
    target, done = to.label(), to.label()
    to.pick(1)
    to.push(CONSTANT_MARK)
    to.add("xor")
    to.add("jnz label", target)
    to.drop()
    to.add("log count", 1)
    to.drop()
    to.add("jmp label", done)
    to.place(target, to.depth + 3)
    to.drop()
    to.add("log str")
    to.place(done)


def _log_memory(code: Coding) -> None:
    """Memory: how much, and on top the address; a 0 where it cannot be read."""
    to = code.to
    bad, done = to.label(), to.label()
    to.add("dup count", 1)
    to.add("vfy r")
    to.add("jnz label", bad)
    to.drop()
    to.add("log mrf")
    to.add("jmp label", done)
    to.place(bad, to.depth + 3)
    to.drop(3)
    to.push(0)
    to.add("log count", 1)
    to.place(done)


def log_join(code: Coding, action: bundle.Join, array: Any) -> None:
    """The texts of an array of addresses, up to its 0."""
    to = code.to
    to.push(code.state.action(action))
    to.add("log count", 1)
    again, bad, end = to.label(), to.label(), to.label()
    code.expression(array)
    to.push(MOST_JOINED)
    to.add("xchg")
    depth = to.depth
    # How many more, the address in the array.
    to.place(again)
    to.add("dup count", 1)
    code.load(8)
    to.add("jz label", end)
    to.add("dup count", 1)
    to.add("vfy r")
    to.add("jnz label", bad)
    to.drop()
    to.push(code.state.max_string)
    to.add("xchg")
    to.add("log str")
    to.push(8)
    to.add("add")
    to.add("xchg")
    to.push(1)
    to.add("sub")
    to.add("xchg")
    to.pick(1)
    to.add("jz label", end)
    to.drop()
    to.add("jmp label", again)
    to.place(bad, depth + 2)
    to.drop()
    to.place(end)
    to.drop(3)
    to.push(0)
    to.add("log count", 1)
