"""Code on texts that maps have: words of eight bytes each, the first ones on top, with zeros behind
the text's last byte; so that two of the same text have the same words."""

from __future__ import annotations

from typing import Any

from dprobed.program.bt.facts import kind_of
from dprobed.program.bt.kinds import Form, HeldText, Kind, Short, String, held, words
from dprobed.program.bt.protocols import Coding
from dprobed.program.bt.text_bytes import up_to_nul

#: Of a text of more words it is not counted how long it is.
_MOST_COUNTED = 8


def hold(code: Coding, have: Kind, size: int) -> None:
    """The text on top becomes one of so many bytes."""
    to, count = code.to, size // 8
    if isinstance(have, String) and have.form is Form.TARGET:
        to.add("push text,count", count)
    elif isinstance(have, String):
        _hold_constant(code, have, count)
    elif words(have) != count:
        slots = taken(code, min(words(have), count))
        to.drop(max(0, words(have) - count))
        for _ in range(count - len(slots)):
            to.push(0)
        for slot in reversed(slots):
            to.load(slot)
        to.give_back(slots)


def _hold_constant(code: Coding, have: String, count: int) -> None:
    to = code.to
    number = to.ops[-1].operand
    if have.form is not Form.CONSTANT or to.ops[-1].key != "push word":
        code.state.problems.add(
            code.span,
            "which text this is, is known only as the script runs: it cannot be kept yet",
            "write if and else, each with a text of its own",
        )
        to.drop(words(have))
        number = 0
    else:
        to.ops.pop()
        to.depth -= 1
    assert isinstance(number, int)
    data = up_to_nul(code.state.strings[number])[: 8 * count].ljust(8 * count, b"\0")
    for at in reversed(range(0, 8 * count, 8)):
        to.push(int.from_bytes(data[at : at + 8], "little"))


def taken(code: Coding, count: int) -> list[int]:
    """Borrowed slots of so many words off the stack, the one on top first."""
    slots = code.to.borrow(count)
    for slot in slots:
        code.to.store(slot)
    return slots


def held_differ(code: Coding, left: Any, right: Any, most: int | None) -> None:
    """Not 0 where two texts differ, of which a map has one; ``most``: in their first letters."""
    sizes = [_size(kind_of(each)) for each in (left, right)]
    # A text of the process that is longer has something in one word more.
    size = max(sizes) if 0 not in sizes else max(sizes) + 8
    if most is not None:
        size = min(size, max(8, most + 7 & ~7))
    code.as_kind(left, HeldText(size))
    slots = taken(code, size // 8)
    code.as_kind(right, HeldText(size))
    words_differ(code, slots, most)


def words_differ(code: Coding, slots: list[int], most: int | None = None) -> None:
    """Not 0 where the words in slots, which are given back, and those on the stack differ;
    ``most``: in their first bytes."""
    to = code.to
    (differ,) = to.borrow(1)
    to.push(0)
    to.store(differ)
    for number, slot in enumerate(slots):
        to.load(slot)
        to.add("xor")
        if most is not None and 8 * number + 8 > most:
            to.push(_mask(most - 8 * number))
            to.add("and")
        to.load(differ)
        to.add("or")
        to.store(differ)
    to.load(differ)
    to.give_back([*slots, differ])


def _size(kind: Kind) -> int:
    """Bytes of a text; 0: of the process."""
    assert isinstance(kind, String | Short | HeldText)
    return 0 if isinstance(kind, String) and kind.form is not Form.CONSTANT else held(kind).size


def _mask(letters: int) -> int:
    """The first so many bytes of a word."""
    return (1 << 8 * min(8, max(0, letters))) - 1


def cut_held(code: Coding, count: int, letters: int) -> None:
    """So many letters of a text of so many words."""
    slots = taken(code, count)
    for number in reversed(range(count)):
        code.to.load(slots[number])
        code.to.push(_mask(letters - 8 * number))
        code.to.add("and")
    code.to.give_back(slots)


def held_length(code: Coding, one: Any, kind: Kind) -> None:
    """How many letters a text on top has: of its bytes, those that are not 0."""
    to = code.to
    count = words(kind)
    if count > _MOST_COUNTED:
        code.state.problems.add(
            one.span,
            f"how long a text of {8 * count} bytes is, is not known behind a map yet",
            "keep strlen() as well, or a shorter text: str(ADDRESS, 64)",
        )
        to.drop(count)
        to.push(0)
        return
    slots = taken(code, count)
    to.push(0)
    for slot in slots:
        for shift in range(0, 64, 8):
            to.load(slot)
            if shift:
                to.add("shr bits", shift)
            to.push(0xFF)
            to.add("and")
            code.is_not_zero()
            to.add("add")
    to.give_back(slots)
