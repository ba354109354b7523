"""The log of a hit as values of JSON, item by item; ``dprobed.program.items`` has the layout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from struct import Struct
from typing import Final, TypeAlias

from dprobed.program.items import NONE, PREFIX, VALUE, ItemToken
from dprobed.program.user_stack import REASONS, unpacked
from dprobed.program.values import EXACT, VALUE_KINDS

#: A value of JSON; what ``decode_log`` makes of an item is an object of these.
Json: TypeAlias = "int | float | str | list[Json] | dict[str, Json] | None"


class _Malformed(Exception):
    """The bytes from here on are not an item."""


def _take(log: bytes, at: int, size: int) -> int:
    if size < 0 or at + size > len(log):
        raise _Malformed
    return at + size


def with_text(item: dict[str, Json]) -> dict[str, Json]:
    """An item; with its numbers as ``text``, too, where a reader's doubles cannot hold them."""
    value = next(iter(item.values()))
    numbers = value if isinstance(value, list) else [value]
    if any(not exact(number) for number in numbers):
        texts: list[Json] = [str(number) for number in numbers]
        item["text"] = texts if isinstance(value, list) else texts[0]
    return item


def exact(number: object) -> bool:
    """Whether every reader of JSON has this number as it is: doubles are whole up to 2**53."""
    if isinstance(number, float):
        return math.isfinite(number)
    return not isinstance(number, int) or -EXACT <= number <= EXACT


def typed_value(kind: str, value: float, name: str) -> dict[str, Json]:
    """The item of a typed value; of what JSON has no number for, ``value`` is null."""
    item: dict[str, Json] = {"value": value, "kind": kind}
    if name:
        item["name"] = name
    with_text(item)
    if isinstance(value, float) and not math.isfinite(value):
        item["value"] = None
    return item


def _words(log: bytes, at: int, count: int) -> tuple[list[Json], int]:
    end = _take(log, at, 8 * count)
    return list(Struct(f"<{count}Q").unpack_from(log, at)), end


def _prefix(log: bytes, at: int) -> tuple[int, int, int]:
    end = _take(log, at, PREFIX.size)
    token, count = PREFIX.unpack_from(log, at)
    return token, count, end


def _expect(log: bytes, at: int, wanted: ItemToken) -> tuple[int, int]:
    token, count, at = _prefix(log, at)
    if token != wanted:
        raise _Malformed
    return count, at


def _code_offset(value: Json) -> Json:
    return None if value == NONE else value


_SHOWN: Final = (
    (ItemToken.STACK, "stack"),
    (ItemToken.LOCALS, "locals"),
    (ItemToken.GLOBALS, "globals"),
)


def _decode_trace(log: bytes, at: int) -> tuple[Json, int]:
    (code, handler, parm1, parm2), at = _words(log, at, 4)
    count, at = _expect(log, at, ItemToken.FRAME)
    frames: list[Json] = []
    for _ in range(count):
        (called, returns), at = _words(log, at, 2)
        frame: dict[str, Json] = {
            "called": _code_offset(called),
            "return": _code_offset(returns),
        }
        for token, name in _SHOWN:
            words, at = _expect(log, at, token)
            frame[name], at = _words(log, at, words)
        frames.append(frame)
    trace: dict[str, Json] = {
        "code": code,
        "handler": _code_offset(handler),
        "parm1": parm1,
        "parm2": parm2,
        "frames": frames,
    }
    return trace, at


_WORD_ITEMS: Final = {
    ItemToken.STACK: "stack",
    ItemToken.LOCALS: "locals",
    ItemToken.GLOBALS: "globals",
    ItemToken.WORDS: "words",
}


def string_value(raw: bytes) -> dict[str, Json]:
    """A logged string. ``bytes`` (hex) only where it is no UTF-8, whose text could be another's:
    of a byte and of a backslash with the same digits behind it."""
    try:
        return {"string": raw.decode()}
    except UnicodeDecodeError:
        return {"string": raw.decode(errors="backslashreplace"), "bytes": raw.hex()}


def stack_value(body: bytes) -> dict[str, Json] | None:
    """A stack: a list of frames, and ``ended``, why there are no more, where there may be some;
    None: it is none."""
    try:
        frames, end = unpacked(body)
    except ValueError:
        return None
    found: list[Json] = []
    for frame in frames:
        each: dict[str, Json] = {}
        if frame.module is None:
            each["address"] = frame.address
        else:
            each["module"] = frame.module.path
            if frame.module.build_id:
                each["build_id"] = frame.module.build_id
            each["offset"] = frame.address
        if frame.exact:
            each["exact"] = True
        if frame.signal:
            each["signal"] = True
        found.append(each)
    item: dict[str, Json] = {"ustack": found}
    if end:
        item["ended"] = REASONS.get(end, f"reason {end}")
    return item


def _decode_item(log: bytes, at: int) -> tuple[dict[str, Json], int]:
    """The item at ``at`` and the offset after it; raises _Malformed."""
    token, count, at = _prefix(log, at)
    name = _WORD_ITEMS.get(token)  # type: ignore[call-overload]
    if name is not None:
        words, at = _words(log, at, count)
        return with_text({name: words}), at
    if token == ItemToken.STRING:
        end = _take(log, at, count)
        return string_value(log[at:end]), end
    if token == ItemToken.MEMORY:
        (address,), at = _words(log, at, 1)
        end = _take(log, at, count)
        return {"memory": log[at:end].hex(), "address": address}, end
    if token == ItemToken.MEMORY_FAULT and count == 8:
        (address,), at = _words(log, at, 1)
        return with_text({"fault": address}), at
    if token == ItemToken.VALUE:
        end = _take(log, at, VALUE.size + count)
        kind, word = VALUE.unpack_from(log, at)
        if kind >= len(VALUE_KINDS):
            raise _Malformed
        known, text = VALUE_KINDS[kind], log[at + VALUE.size : end]
        return typed_value(known.name, known.of(word), text.decode("ascii", "replace")), end
    if token == ItemToken.USER_STACK:
        end = _take(log, at, count)
        stack = stack_value(log[at:end])
        if stack is None:
            raise _Malformed
        return stack, end
    if token == ItemToken.STACK_TRACE:
        trace, at = _decode_trace(log, at)
        return {"trace": trace}, at
    raise _Malformed


def decode_log(log: bytes, raw: Sequence[int]) -> list[dict[str, Json]]:
    """The items of a log in their order, each an object of JSON with one of these keys.

    ``value`` (with its ``kind``, and ``name`` if it has one), ``words``, ``string`` (bytes that are
    not UTF-8 as ``\\xNN``, and then all of them in hex as ``bytes``), ``memory`` (hex, with
    ``address``), ``fault`` (an address), ``stack``, ``locals``, ``globals``, ``trace``, ``ustack``
    (a list of frames, innermost first, and ``ended``: why there are no more). Numbers that a double
    cannot hold are there as ``text``, too. Raises nothing: what is not an item ends the list as
    ``undecoded`` (hex).
    """
    runs = dict(zip(raw[::2], raw[1::2], strict=False))
    items: list[dict[str, Json]] = []
    at = 0
    while at < len(log):
        try:
            if at in runs:
                words, end = _words(log, at, runs.pop(at))
                items.append(with_text({"words": words}))
            else:
                item, end = _decode_item(log, at)
                items.append(item)
        except _Malformed:
            items.append({"undecoded": log[at:].hex()})
            break
        at = end
    return items
