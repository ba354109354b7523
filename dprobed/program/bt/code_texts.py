"""Code that compares texts, letter by letter, and looks into them.

A text in the target is read a byte at a time, up to the first difference: reading more at once
could go beyond the end of what is there.
"""

from __future__ import annotations

from typing import Any

from dprobed.program.bt import tree
from dprobed.program.bt.code_held import cut_held, held_differ, held_length
from dprobed.program.bt.facts import kind_of, parameter_text, positional_text
from dprobed.program.bt.kinds import CONSTANT_MARK, Form, HeldText, Kind, Short, String, words
from dprobed.program.bt.protocols import Coding
from dprobed.program.bt.state import ScriptState
from dprobed.program.bt.text_bytes import decoded, encoded, up_to_nul


def constant_text(code: Coding, one: Any) -> str | None:
    """The text that an expression is before the script runs; None: it is not known."""
    if isinstance(one, tree.Text):
        return one.value
    if isinstance(one, tree.Positional):
        return positional_text(code.state, one.number)
    kind = kind_of(one)
    if (
        isinstance(kind, String)
        and kind.form is Form.CONSTANT
        and not isinstance(
            one, tree.Variable | tree.MapValue | tree.Choice | tree.Field | tree.Index
        )
    ):
        # What pushes it is one number.
        mark, depth = len(code.to.ops), code.to.depth
        code.expression(one)
        if len(code.to.ops) == mark + 1 and code.to.ops[-1].key == "push word":
            number = code.to.ops[-1].operand
            del code.to.ops[mark:]
            code.to.depth = depth
            assert isinstance(number, int)
            return code.state.strings[number]
        del code.to.ops[mark:]
        code.to.depth = depth
    return None


def known_text(state: ScriptState, one: Any) -> str | None:
    """The text that ``str()`` is given where it is written out, or a parameter; None: neither."""
    if isinstance(one, tree.Text):
        return one.value
    return parameter_text(state, one)


def cut(text: str, most: int | None) -> str:
    """So many bytes of a text, None: all up to its NUL."""
    return decoded(up_to_nul(text)[:most])


def emit_str(code: Coding, call: tree.Call, most: int) -> None:
    """A text: most bytes, 0 where it cannot be read, and its address."""
    to = code.to
    first = call.arguments[0]
    number = code.inference.constant(call.arguments[1]) if len(call.arguments) > 1 else None
    letters = None if number is None else max(0, number - 1)
    text = known_text(code.state, first)
    if text is not None:
        to.push(code.state.string(cut(text, letters)))
        return
    kind = kind_of(first)
    code.expression(first)
    if isinstance(kind, Short | HeldText):
        if letters is not None:
            cut_held(code, words(kind), letters)
        return
    if isinstance(kind, String):
        if most < kind.most:
            to.add("xchg")
            code.least(most)
            to.add("xchg")
        return
    to.add("dup count", 1)
    to.add("vfy r")
    to.push(1)
    to.add("xor")
    if number is None and len(call.arguments) > 1:
        # The shorter of what is asked for, less its NUL (of 0 there is none), and the most.
        code.expression(call.arguments[1])
        to.add("dup count", 1)
        code.is_not_zero()
        to.add("sub")
        code.least(most)
    else:
        to.push(most)
    to.add("mul")
    to.add("xchg")


def compare_texts(code: Coding, one: tree.Binary) -> None:
    """1 where two texts are equal (or are not), else 0."""
    texts_differ(code, one.left, one.right, None)
    if one.operator == "==":
        code.is_zero()
    else:
        code.is_not_zero()


def texts_differ(code: Coding, left: Any, right: Any, most: int | None) -> None:
    """Not 0 where two texts differ; ``most``: in their first letters."""
    one, other = constant_text(code, left), constant_text(code, right)
    if one is not None and other is not None:
        code.to.push(int(cut(one, most) != cut(other, most)))
        return
    if isinstance(kind_of(left), HeldText) or isinstance(kind_of(right), HeldText):
        held_differ(code, left, right, most)
        return
    if one is not None:
        left, right, other = right, left, one
    kind = kind_of(left)
    if other is not None:
        _with_constant(code, left, kind, up_to_nul(other), most)
    elif (
        isinstance(kind, String)
        and kind.form is Form.CONSTANT == _form(kind_of(right))
        and most is None
    ):
        # Two constants, which one is not known: their numbers, as every text has one.
        code.expression(left)
        code.expression(right)
        code.to.add("xor")
    else:
        _with_other(code, left, right, most)


def _form(kind: Kind) -> Form | None:
    return kind.form if isinstance(kind, String) else None


def _with_constant(code: Coding, one: Any, kind: Kind, data: bytes, most: int | None) -> None:
    to = code.to
    if isinstance(kind, Short):
        code.expression(one)
        _short_differs(code, data, most)
        return
    assert isinstance(kind, String)
    code.expression(one)
    if kind.form is Form.CONSTANT:
        _number_differs(code, data, most)
        return
    if kind.form is Form.TARGET:
        _target_differs(code, data, most)
        return
    # Either a constant's number or in the target.
    target, done = to.label(), to.label()
    to.pick(1)
    to.push(CONSTANT_MARK)
    to.add("xor")
    to.add("jnz label", target)
    to.drop()
    _number_differs(code, data, most)
    to.add("xchg")
    to.drop()
    to.add("jmp label", done)
    to.place(target, to.depth + 2)
    to.drop()
    _target_differs(code, data, most)
    to.place(done)


def _number_differs(code: Coding, data: bytes, most: int | None) -> None:
    """A constant's number against a text: only a text with this number is the same."""
    same = [
        number
        for number, text in enumerate(code.state.strings)
        if encoded(text)[:most] == data[:most]
    ] or [code.state.string(decoded(data))]
    to = code.to
    if len(same) == 1:
        to.push(same[0])
        to.add("xor")
        return
    given = to.reserve(1)
    to.store(given)
    to.push(1)
    for number in same:
        # Still 1 only if it is not that one either.
        to.load(given)
        to.push(number)
        to.add("xor")
        code.is_not_zero()
        to.add("and")


def _short_differs(code: Coding, data: bytes, most: int | None) -> None:
    """16 bytes against a text."""
    to = code.to
    padded = data[:15].ljust(16, b"\0")
    masks = [(1 << 64) - 1] * 2
    if most is not None and most <= len(data):
        padded = data[:most].ljust(16, b"\0")
        masks = [(1 << 8 * min(8, most)) - 1, (1 << 8 * max(0, most - 8)) - 1]
    for half, mask in zip((padded[:8], padded[8:16]), masks, strict=True):
        to.push(int.from_bytes(half, "little"))
        to.add("xor")
        if mask != (1 << 64) - 1:
            to.push(mask)
            to.add("and")
        to.add("xchg")
    to.add("or")
    if len(data) > 15 and most is None:
        to.drop()
        to.push(1)


def _target_differs(code: Coding, data: bytes, most: int | None) -> None:
    """A text in the target (most bytes, address) against a constant: the difference of the first
    letters that differ."""
    to = code.to
    wanted = data if most is None else data[:most]
    differ = to.label()
    if wanted:
        # A text of fewer bytes is another one.
        to.pick(1)
        to.push(len(wanted))
        to.add("sub")
        to.add("shr bits", 63)
        to.add("jnz label", differ)
        to.drop()
    for number, letter in enumerate(wanted):
        _load_at(code, number)
        to.push(letter)
        to.add("xor")
        to.add("jnz label", differ)
        to.drop()
    if most is not None and most <= len(data):
        to.push(0)
    else:
        # Both end here: by the length that was asked for, or by a NUL.
        to.pick(1)
        to.push(len(wanted))
        to.add("xor")
        to.add("jz label", differ)
        to.drop()
        _load_at(code, len(wanted))
    to.place(differ)
    for _ in range(2):
        to.add("xchg")
        to.drop()


def _load_at(code: Coding, offset: int) -> None:
    """Push the byte so far behind the address on top, which stays."""
    code.to.add("dup count", 1)
    if offset:
        code.to.push(offset)
        code.to.add("add")
    code.load(1)


def _with_other(code: Coding, left: Any, right: Any, most: int | None) -> None:
    """Two texts that are of the target or the thread's name, letter by letter."""
    to = code.to
    for each in (left, right):
        kind = kind_of(each)
        if not isinstance(kind, Short) and _form(kind) is not Form.TARGET:
            code.state.problems.add(
                each.span,
                "these two texts are not compared yet",
                "compare a text of the process with another one or with a constant",
            )
            to.push(0)
            return
    texts = []
    for each in (left, right):
        code.expression(each)
        texts.append((kind_of(each), _kept(code, 2)))
    (at,) = _kept(code, 1, 0)
    again, differ, end = to.label(), to.label(), to.label()
    depth = to.depth
    to.place(again)
    if most is not None:
        to.load(at)
        to.push(most)
        to.add("xor")
        to.add("jz label", end)
        to.drop()
    _letter(code, *texts[0], at)
    to.add("dup count", 1)
    _letter(code, *texts[1], at)
    to.add("xor")
    to.add("jnz label", differ)
    to.drop()
    # The same letter: where it is a NUL, both end.
    to.add("jz label", end)
    to.drop()
    to.load(at)
    to.push(1)
    to.add("add")
    to.store(at)
    to.add("jmp label", again)
    to.place(differ, depth + 2)
    to.add("xchg")
    to.drop()
    to.place(end)


def _kept(code: Coding, count: int, *given: int) -> list[int]:
    """Slots of so many words off the stack, the one on top first, or of what is ``given``."""
    slots = [code.to.reserve(1) for _ in range(count)]
    for number in given:
        code.to.push(number)
    for slot in slots:
        code.to.store(slot)
    return slots


def _letter(code: Coding, kind: Kind, slots: list[int], at: int) -> None:
    """Push a letter of a text whose words are in slots, which one is in a slot, too: 0 where its
    length ends."""
    to = code.to
    if isinstance(kind, Short):
        for slot, before in zip(slots, (0, 64), strict=True):
            # Shifted by more than a word has, also by less than nothing, it is 0.
            to.load(at)
            to.add("shl bits", 3)
            if before:
                to.push(before)
                to.add("sub")
            to.load(slot)
            to.add("shr")
        to.add("or")
        to.push(0xFF)
        to.add("and")
        return
    address, length = slots
    done = to.label()
    to.load(length)
    to.load(at)
    to.add("xor")
    to.add("jz label", done)
    to.drop()
    to.load(address)
    to.load(at)
    to.add("add")
    code.load(1)
    to.place(done)


def text_length(code: Coding, one: Any) -> None:
    """How many bytes a text has."""
    to = code.to
    text = constant_text(code, one)
    kind = kind_of(one)
    if text is not None:
        to.push(len(up_to_nul(text)))
        return
    if isinstance(kind, String) and kind.form is not Form.TARGET:
        code.state.problems.add(one.span, "how long this text is, is not known yet")
        to.push(0)
        return
    code.expression(one)
    if isinstance(kind, Short | HeldText):
        held_length(code, one, kind)
        return
    if not isinstance(kind, String):
        to.push(code.state.max_string)
        to.add("xchg")
    # Most bytes, address → where it begins, how many are left, address.
    begin = to.reserve(1)
    to.add("dup count", 1)
    to.store(begin)
    again, end = to.label(), to.label()
    to.place(again)
    to.pick(1)
    to.add("jz label", end)
    to.drop()
    to.add("dup count", 1)
    code.load(1)
    to.add("jz label", end)
    to.drop()
    to.push(1)
    to.add("add")
    to.add("xchg")
    to.push(1)
    to.add("sub")
    to.add("xchg")
    to.add("jmp label", again)
    to.place(end, to.depth + 1)
    to.drop()
    to.load(begin)
    to.add("sub")
    to.add("xchg")
    to.drop()


def find_text(code: Coding, haystack: Any, needle: Any) -> None:
    """Where a text has a constant in it, -1: nowhere."""
    to = code.to
    data = up_to_nul(constant_text(code, needle) or "")
    text = constant_text(code, haystack)
    if text is not None:
        to.push(up_to_nul(text).find(data))
        return
    kind = kind_of(haystack)
    if isinstance(kind, Short) or kind == HeldText(16):
        code.expression(haystack)
        _find_in_short(code, data)
        return
    if _form(kind) is not Form.TARGET:
        code.state.problems.add(haystack.span, "this text is not searched yet")
        to.push(0)
        return
    code.expression(haystack)
    if not data:
        to.drop(2)
        to.push(0)
        return
    _find_in_target(code, data)


def _find_in_target(code: Coding, data: bytes) -> None:
    """Where a text in the target (most bytes, address) has another one in it, -1: nowhere."""
    to = code.to
    at, left, begin = (to.reserve(1) for _ in range(3))
    to.add("dup count", 1)
    to.store(begin)
    to.store(at)
    # So many places can it be at; at none, where there are fewer letters.
    to.push(len(data))
    to.add("sub")
    to.store(left)
    again, other, found, nowhere, done = (to.label() for _ in range(5))
    depth = to.depth
    to.load(left)
    to.add("shr bits", 63)
    to.add("jnz label", nowhere)
    to.drop()
    to.load(left)
    to.push(1)
    to.add("add")
    to.store(left)
    to.place(again)
    to.load(left)
    to.add("jz label", nowhere)
    to.drop()
    for number, letter in enumerate(data):
        to.load(at)
        if number:
            to.push(number)
            to.add("add")
        code.load(1)
        if not number:
            to.add("jz label", nowhere)
        to.push(letter)
        to.add("xor")
        to.add("jnz label", other)
        to.drop()
    to.add("jmp label", found)
    to.place(other, depth + 1)
    to.drop()
    for slot, operation in ((at, "add"), (left, "sub")):
        to.load(slot)
        to.push(1)
        to.add(operation)
        to.store(slot)
    to.add("jmp label", again)
    to.place(nowhere, depth + 1)
    to.drop()
    to.push(-1)
    to.add("jmp label", done)
    to.place(found, depth)
    to.load(at)
    to.load(begin)
    to.add("sub")
    to.place(done)


def _find_in_short(code: Coding, data: bytes) -> None:
    """Where the thread's name, 16 bytes on the stack, has a text in it, -1: nowhere."""
    to = code.to
    halves = _kept(code, 2)
    found = to.label()
    depth = to.depth
    for at in range(16 - len(data)):
        other = to.label()
        to.push(0)
        for first in range(0, len(data), 8):
            part = data[first : first + 8]
            _eight_bytes(code, halves, at + first)
            if len(part) < 8:
                to.push((1 << 8 * len(part)) - 1)
                to.add("and")
            to.push(int.from_bytes(part, "little"))
            to.add("xor")
            to.add("or")
        to.add("jnz label", other)
        to.drop()
        to.push(at)
        to.add("jmp label", found)
        to.place(other, depth + 1)
        to.drop()
    to.push(-1)
    to.place(found)


def _eight_bytes(code: Coding, halves: list[int], at: int) -> None:
    """Push eight of 16 bytes from there on; behind the last one they are 0."""
    to = code.to
    low, high = halves
    if at >= 8:
        to.load(high)
        if at > 8:
            to.add("shr bits", 8 * (at - 8))
        return
    to.load(low)
    if at:
        to.add("shr bits", 8 * at)
        to.load(high)
        to.add("shl bits", 8 * (8 - at))
        to.add("or")
