"""The items of the log of one hit: their layout, and how each is packed.

All numbers are little-endian. An item is a token byte (signed), a 16-bit count and a body::

    token  count            body
    -1     8                u64 address that could not be read
     0     bytes            u64 address, bytes
     1     bytes            bytes of the string, without NUL
     2     1                u64 code, handler, parm1, parm2; then one item 3
     3     frames           innermost first, each: u64 called, return; then items 4, 5 and 6
     4 5 6 7  words         u64 words (of the stack, locals, globals, off the stack)
     8        bytes of name u8 number of its kind (``values``), u64 word, then the name
     9        bytes         a stack of the thread (``user_stack``)

``handler``, ``called`` and ``return`` are offsets in the program's code, ``NONE`` where there is
none. Words that `log count` wrote have no prefix; where they lie is known beside the log (``raw``,
pairs of byte offset and number of words). An item is in the log as a whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from functools import cache
from struct import Struct
from typing import Final

import msgspec

from dprobed.program.isa import WORD_MASK
from dprobed.program.user_stack import UserStack, stack_bytes


class ItemToken(IntEnum):
    """First byte (signed) of an item in the log; a 16-bit count follows."""

    SEGMENT_FAULT = -2
    MEMORY_FAULT = -1
    MEMORY = 0
    STRING = 1
    STACK_TRACE = 2
    FRAME = 3
    STACK = 4
    LOCALS = 5
    GLOBALS = 6
    WORDS = 7
    VALUE = 8
    USER_STACK = 9


class TokenInfo(msgspec.Struct, frozen=True):
    """What the count of a log item counts, and what follows it."""

    token: ItemToken
    counts: str
    body: str


TOKENS: Final[tuple[TokenInfo, ...]] = (
    TokenInfo(ItemToken.SEGMENT_FAULT, "bytes: 8", "never written: every fault is a memory fault"),
    TokenInfo(ItemToken.MEMORY_FAULT, "bytes: 8", "the address that could not be read"),
    TokenInfo(
        ItemToken.MEMORY, "bytes", "the address (8 bytes, not counted), then the memory there"
    ),
    TokenInfo(ItemToken.STRING, "bytes", "the string, without its NUL"),
    TokenInfo(
        ItemToken.STACK_TRACE,
        "traces",
        "exception code, handler, parm1, parm2; then one FRAME item",
    ),
    TokenInfo(
        ItemToken.FRAME,
        "frames, innermost first",
        "each: called address, return address; then a STACK, a LOCALS and a GLOBALS item",
    ),
    TokenInfo(ItemToken.STACK, "words", "the words, the first of the range first"),
    TokenInfo(ItemToken.LOCALS, "words", "the words"),
    TokenInfo(ItemToken.GLOBALS, "words", "the words"),
    TokenInfo(ItemToken.WORDS, "words", "the words, the former TOS first"),
    TokenInfo(
        ItemToken.VALUE, "bytes of its name", "the number of its kind (a byte), the word, the name"
    ),
    TokenInfo(
        ItemToken.USER_STACK,
        "bytes",
        "how it ended, the number of modules and of frames (a byte each), modules, frames",
    ),
)


#: A code offset that is not one: no handler, no return address (0xffff…).
NONE: Final = WORD_MASK

#: The count of an item has 16 bits.
MAX_COUNT: Final = 0xFFFF

#: ItemToken and count, as every item begins.
PREFIX: Final = Struct("<bH")
#: An item of memory up to its bytes, the address last.
MEMORY: Final = Struct("<bHQ")
#: Of a typed value, behind the prefix: the number of its kind, and the word; its name follows.
VALUE: Final = Struct("<BQ")
#: A stack trace up to its frames: code, handler, parm1, parm2.
TRACE: Final = Struct("<bHQQQQ")
#: A frame up to its words: called, return.
FRAME: Final = Struct("<QQ")
WORD: Final = Struct("<Q")

#: An enum's member is slow to look up and to pack, and most items are strings.
STRING: Final = int(ItemToken.STRING)
_MEMORY: Final = int(ItemToken.MEMORY)


@cache
def word_packer(count: int) -> Callable[..., bytes]:
    """The function that packs ``count`` words."""
    return Struct(f"<{count}Q").pack


def words_item(token: ItemToken, words: Sequence[int]) -> bytes:
    """An item of words: their number, then the words."""
    return PREFIX.pack(token, len(words)) + word_packer(len(words))(*words)


def words_fit(count: int, room: int) -> bool:
    """Whether an item of ``count`` words fits into ``room`` bytes (and into its count)."""
    return count <= MAX_COUNT and PREFIX.size + 8 * count <= room


def fault_item(address: int) -> bytes:
    """The item that says that ``address`` could not be read."""
    return PREFIX.pack(ItemToken.MEMORY_FAULT, 8) + WORD.pack(address)


def string_item(data: bytes) -> bytes:
    """The item of a string: ``data`` are its bytes, without NUL."""
    return PREFIX.pack(STRING, len(data)) + data


def memory_item(address: int, data: bytes) -> bytes:
    """The item of the memory at an address."""
    return MEMORY.pack(_MEMORY, len(data), address) + data


def value_item(kind: int, word: int, name: str) -> bytes:
    """A value: a word, and what it means."""
    before, after = value_frame(kind, name)
    return before + WORD.pack(word) + after


def value_frame(kind: int, name: str) -> tuple[bytes, bytes]:
    """What stands before and behind the word of a value."""
    data = name.encode()
    return PREFIX.pack(ItemToken.VALUE, len(data)) + bytes((kind,)), data


def user_stack_item(stack: UserStack, room: int) -> bytes | None:
    """The item of a stack, with as many of its frames as fit into ``room``; None: not one does."""
    body = stack_bytes(stack, min(room - PREFIX.size, MAX_COUNT))
    return None if body is None else PREFIX.pack(ItemToken.USER_STACK, len(body)) + body


def trace_item(
    code: int, handler: int, parm1: int, parm2: int, frames: Iterable[bytes], room: int
) -> bytes:
    """A stack trace of as many ``frames`` (the innermost first) as fit into ``room`` bytes.

    Empty where not even the head fits.
    """
    head = TRACE.pack(ItemToken.STACK_TRACE, 1, code, handler, parm1, parm2)
    size = len(head) + PREFIX.size
    kept = []
    for frame in frames:
        size += len(frame)
        if size > room:
            break
        kept.append(frame)
    if len(head) + PREFIX.size > room:
        return b""
    return head + PREFIX.pack(ItemToken.FRAME, len(kept)) + b"".join(kept)


def frame_body(
    called: int, returns: int, stack: Sequence[int], locals_: Sequence[int], globals_: Sequence[int]
) -> bytes:
    """One frame of a stack trace: where it is, and the words that it shows."""
    return (
        FRAME.pack(called, returns)
        + words_item(ItemToken.STACK, stack)
        + words_item(ItemToken.LOCALS, locals_)
        + words_item(ItemToken.GLOBALS, globals_)
    )
