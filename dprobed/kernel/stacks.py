"""Stacks in the kernel, on their way to whoever reads records and maps.

What leaves the daemon of a frame is how far it is from the kernel's first address: that names it,
for those to whom the kernel shows its symbols, and says to nobody where the kernel is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from struct import Struct
from typing import Final

from dprobed.proc.kernel_symbols import begin
from dprobed.program.items import MEMORY, PREFIX, VALUE, ItemToken
from dprobed.program.maps import STACK_MARK, Entry, Item
from dprobed.program.user_stack import ADDRESS, KERNEL_MODULE, module_bytes

_MODULE: Final = module_bytes(KERNEL_MODULE, "")
#: How a stack ended, how many modules it has, how many frames.
_HEAD: Final = Struct("<BBB")
_FIRST: Final = _HEAD.size + len(_MODULE)

#: Bytes of an item behind its prefix: for each that it counts, and besides.
_SIZES: Final = {
    ItemToken.MEMORY_FAULT: (1, 0),
    ItemToken.MEMORY: (1, MEMORY.size - PREFIX.size),
    ItemToken.STRING: (1, 0),
    ItemToken.STACK: (8, 0),
    ItemToken.LOCALS: (8, 0),
    ItemToken.GLOBALS: (8, 0),
    ItemToken.WORDS: (8, 0),
    ItemToken.VALUE: (1, VALUE.size),
    ItemToken.USER_STACK: (1, 0),
}


@cache
def _begin() -> int:
    """Where the kernel begins; it stays there as long as the machine is up."""
    return begin()


def told_stack(stack: bytes) -> bytes:
    """A stack as the module packs it, with its frames as they may be told of."""
    _, modules, frames = _HEAD.unpack_from(stack)
    if not modules:
        return stack
    words = Struct(f"<{frames}Q")
    told = (_told(word) for word in words.unpack_from(stack, _FIRST))
    return stack[:_FIRST] + words.pack(*told)


def _told(word: int) -> int:
    begins = _begin()
    # Where it begins is not known here: nothing is said but that there is a frame.
    address = (word - begins) & ADDRESS if begins else 0
    return word & ~ADDRESS | address


def told_log(log: bytes, raw: Sequence[int]) -> bytes:
    """The log of a record, with its stacks as they may be told of; ``raw``: as in RawRecord."""
    if _MODULE not in log:
        return log
    found = bytearray(log)
    for at, size in _stacks(log, raw):
        found[at : at + size] = told_stack(log[at : at + size])
    return bytes(found)


def _stacks(log: bytes, raw: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where the stacks are in a log, and how many bytes each has."""
    words = dict(zip(raw[::2], raw[1::2], strict=True))
    at = 0
    while at + PREFIX.size <= len(log):
        if at in words:
            at += 8 * words.pop(at)
            continue
        token, count = PREFIX.unpack_from(log, at)
        each, more = _SIZES.get(token, (0, 0))
        if not each:
            break  # Exception traces come last.
        at += PREFIX.size
        if token == ItemToken.USER_STACK:
            yield at, count
        at += each * count + more


def told_entry(entry: Entry) -> Entry:
    """A key of a map and its cell, as they may be told of."""
    key, cell = entry
    return [_told_item(item) for item in key], cell


def _told_item(item: Item) -> Item:
    if isinstance(item, bytes) and item.startswith(STACK_MARK):
        return STACK_MARK + told_stack(item[len(STACK_MARK) :])
    return item
