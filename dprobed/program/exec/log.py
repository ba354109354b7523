"""The log of one hit: its items' layout, how they are made, and how they are read again.

All numbers are little-endian. An item is a token byte (signed), a 16-bit count and a body::

    token  count            body
    -1     8                u64 address that could not be read
     0     bytes            u64 address, bytes
     1     bytes            bytes of the string, without NUL
     2     1                u64 code, handler, parm1, parm2; then one item 3
     3     frames           innermost first, each: u64 called, return; then items 4, 5 and 6
     4 5 6 7  words         u64 words (of the stack, locals, globals, off the stack)

``handler``, ``called`` and ``return`` are offsets in the program's code, ``NONE`` where there is
none. Words that `log count` wrote have no prefix; where they lie is known beside the log (``raw``,
pairs of byte offset and number of words). An item is in the log as a whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from struct import Struct
from typing import Final, TypeAlias

from dprobed.program.exec.interface import Context, read_some
from dprobed.program.isa import WORD_MASK, Token

#: A value of JSON; what ``decode_log`` makes of an item is an object of these.
Json: TypeAlias = "int | str | list[Json] | dict[str, Json] | None"

#: A code offset that is not one: no handler, no return address (0xffff…).
NONE: Final = WORD_MASK

#: The count of an item has 16 bits.
_MAX_COUNT: Final = 0xFFFF

_PREFIX: Final = Struct("<bH")
_MEMORY: Final = Struct("<bHQ")
_TRACE: Final = Struct("<bHQQQQ")
_FRAME: Final = Struct("<QQ")
_WORD: Final = Struct("<Q")

#: How many bytes stand before what is counted.
PREFIX_SIZE: Final = _PREFIX.size
MEMORY_SIZE: Final = _MEMORY.size


@cache
def word_packer(count: int) -> Callable[..., bytes]:
    """The function that packs ``count`` words."""
    return Struct(f"<{count}Q").pack


def words_item(token: Token, words: Sequence[int]) -> bytes:
    """An item of words: their number, then the words."""
    return _PREFIX.pack(token, len(words)) + word_packer(len(words))(*words)


def words_fit(count: int, room: int) -> bool:
    """Whether an item of ``count`` words fits into ``room`` bytes (and into its count)."""
    return count <= _MAX_COUNT and PREFIX_SIZE + 8 * count <= room


def variables_item(
    token: Token, variables: Sequence[int], index: int, count: int, room: int
) -> bytes | None:
    """What `log lv` and `log gv` log; ``None`` where it does not fit into ``room`` bytes."""
    if not words_fit(count, room):
        return None
    return words_item(token, variables[index : index + count])


def fault_item(address: int) -> bytes:
    """The item that says that ``address`` could not be read."""
    return _PREFIX.pack(Token.MEMORY_FAULT, 8) + _WORD.pack(address)


#: What is logged of memory, None where it does not fit, and the address that could not be read.
MemoryLog: TypeAlias = tuple[bytes | None, int | None]


def memory_item(context: Context, address: int, length: int, room: int) -> MemoryLog:
    """What `log mrf` logs: the memory as far as it can be read, and the fault that stopped it.

    All of it fits into ``room`` bytes, or there is no item.
    """
    if length > _MAX_COUNT or MEMORY_SIZE + length > room:
        return None, None
    data = read_some(context, address, length)
    head = _MEMORY.pack(Token.MEMORY, len(data), address)
    return (head + data, None) if len(data) == length else _faulted(head, data, address, room)


def string_item(context: Context, address: int, length: int, room: int) -> MemoryLog:
    """What `log str` logs: the string as far as it can be read, and the fault that stopped it.

    All of it fits into ``room`` bytes, or there is no item.
    """
    most = min(room - PREFIX_SIZE, _MAX_COUNT)
    if most < 0:
        return None, None
    wanted = min(length, most + 1)
    data = read_some(context, address, wanted)
    end = data.find(0)
    if end < 0 and len(data) < wanted:
        return _faulted(_PREFIX.pack(Token.STRING, len(data)), data, address, room)
    if end >= 0:
        data = data[:end]
    return (_PREFIX.pack(Token.STRING, len(data)) + data if len(data) <= most else None), None


def _faulted(head: bytes, data: bytes, address: int, room: int) -> MemoryLog:
    """The ``data`` from ``address`` on, if there are any, and the fault behind them."""
    fault = address + len(data)
    item = (head + data if data else b"") + fault_item(fault)
    return (item if len(item) <= room else None), fault


def trace_item(
    code: int, handler: int, parm1: int, parm2: int, frames: Iterable[bytes], room: int
) -> bytes:
    """A stack trace of as many ``frames`` (the innermost first) as fit into ``room`` bytes.

    Empty where not even the head fits.
    """
    head = _TRACE.pack(Token.STACK_TRACE, 1, code, handler, parm1, parm2)
    size = len(head) + PREFIX_SIZE
    kept = []
    for frame in frames:
        size += len(frame)
        if size > room:
            break
        kept.append(frame)
    if len(head) + PREFIX_SIZE > room:
        return b""
    return head + _PREFIX.pack(Token.FRAME, len(kept)) + b"".join(kept)


def frame_body(
    called: int, returns: int, stack: Sequence[int], locals_: Sequence[int], globals_: Sequence[int]
) -> bytes:
    """One frame of a stack trace: where it is, and the words that it shows."""
    return (
        _FRAME.pack(called, returns)
        + words_item(Token.STACK, stack)
        + words_item(Token.LOCALS, locals_)
        + words_item(Token.GLOBALS, globals_)
    )


class _Malformed(Exception):
    """The bytes from here on are not an item."""


def _take(log: bytes, at: int, size: int) -> int:
    if size < 0 or at + size > len(log):
        raise _Malformed
    return at + size


def _words(log: bytes, at: int, count: int) -> tuple[list[Json], int]:
    end = _take(log, at, 8 * count)
    return list(Struct(f"<{count}Q").unpack_from(log, at)), end


def _prefix(log: bytes, at: int) -> tuple[int, int, int]:
    end = _take(log, at, PREFIX_SIZE)
    token, count = _PREFIX.unpack_from(log, at)
    return token, count, end


def _expect(log: bytes, at: int, wanted: Token) -> tuple[int, int]:
    token, count, at = _prefix(log, at)
    if token != wanted:
        raise _Malformed
    return count, at


def _code_offset(value: Json) -> Json:
    return None if value == NONE else value


_SHOWN: Final = ((Token.STACK, "stack"), (Token.LOCALS, "locals"), (Token.GLOBALS, "globals"))


def _decode_trace(log: bytes, at: int) -> tuple[Json, int]:
    (code, handler, parm1, parm2), at = _words(log, at, 4)
    count, at = _expect(log, at, Token.FRAME)
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
    Token.STACK: "stack",
    Token.LOCALS: "locals",
    Token.GLOBALS: "globals",
    Token.WORDS: "words",
}


def _decode_item(log: bytes, at: int) -> tuple[dict[str, Json], int]:
    """The item at ``at`` and the offset after it; raises _Malformed."""
    token, count, at = _prefix(log, at)
    name = _WORD_ITEMS.get(token)  # type: ignore[call-overload]
    if name is not None:
        words, at = _words(log, at, count)
        return {name: words}, at
    if token == Token.STRING:
        end = _take(log, at, count)
        return {"string": log[at:end].decode("utf-8", "backslashreplace")}, end
    if token == Token.MEMORY:
        (address,), at = _words(log, at, 1)
        end = _take(log, at, count)
        return {"memory": log[at:end].hex(), "address": address}, end
    if token == Token.MEMORY_FAULT and count == 8:
        (address,), at = _words(log, at, 1)
        return {"fault": address}, at
    if token == Token.STACK_TRACE:
        trace, at = _decode_trace(log, at)
        return {"trace": trace}, at
    raise _Malformed


def decode_log(log: bytes, raw: Sequence[int]) -> list[dict[str, Json]]:
    """The items of a log in their order, each an object of JSON with one of these keys.

    ``words``, ``string`` (bytes that are not UTF-8 as ``\\xNN``), ``memory`` (hex, with
    ``address``), ``fault`` (an address), ``stack``, ``locals``, ``globals``, ``trace``. Raises
    nothing: what is not an item ends the list as ``undecoded`` (hex).
    """
    runs = dict(zip(raw[::2], raw[1::2], strict=False))
    items: list[dict[str, Json]] = []
    at = 0
    while at < len(log):
        try:
            if at in runs:
                words, end = _words(log, at, runs.pop(at))
                items.append({"words": words})
            else:
                item, end = _decode_item(log, at)
                items.append(item)
        except _Malformed:
            items.append({"undecoded": log[at:].hex()})
            break
        at = end
    return items
