"""What the log instructions log: items of what a program can see, none that do not fit.

An item is in the log as a whole or not at all; ``dprobed.program.items`` is the layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from dprobed.program.exec.interface import Context, read_some
from dprobed.program.items import (
    MAX_COUNT,
    MEMORY,
    PREFIX,
    ItemToken,
    fault_item,
    words_fit,
    words_item,
)
from dprobed.program.items import memory_item as packed_memory
from dprobed.program.items import string_item as packed_string
from dprobed.program.items import user_stack_item as packed_stack


def variables_item(
    token: ItemToken, variables: Sequence[int], index: int, count: int, room: int
) -> bytes | None:
    """What `log lv` and `log gv` log; ``None`` where it does not fit into ``room`` bytes."""
    if not words_fit(count, room):
        return None
    return words_item(token, variables[index : index + count])


#: What is logged of memory, None where it does not fit, and the address that could not be read.
MemoryLog: TypeAlias = tuple[bytes | None, int | None]


def memory_item(context: Context, address: int, length: int, room: int) -> MemoryLog:
    """What `log mrf` logs: the memory as far as it can be read, and the fault that stopped it.

    All of it fits into ``room`` bytes, or there is no item.
    """
    if length > MAX_COUNT or MEMORY.size + length > room:
        return None, None
    data = read_some(context, address, length)
    item = packed_memory(address, data)
    return (item, None) if len(data) == length else _faulted(item, data, address, room)


def string_item(context: Context, address: int, length: int, room: int) -> MemoryLog:
    """What `log str` logs: the string as far as it can be read, and the fault that stopped it.

    All of it fits into ``room`` bytes, or there is no item.
    """
    most = min(room - PREFIX.size, MAX_COUNT)
    if most < 0:
        return None, None
    wanted = min(length, most + 1)
    data = read_some(context, address, wanted)
    end = data.find(0)
    if end < 0 and len(data) < wanted:
        return _faulted(packed_string(data), data, address, room)
    if end >= 0:
        data = data[:end]
    return (packed_string(data) if len(data) <= most else None), None


def user_stack_item(context: Context, depth: int, room: int) -> bytes | None:
    """What `log ustack` logs: as many frames as fit; ``None`` where not one does."""
    return packed_stack(context.user_stack(depth), room)


def _faulted(item: bytes, data: bytes, address: int, room: int) -> MemoryLog:
    """The item of ``data`` from ``address`` on, if there are any, and the fault behind them."""
    fault = address + len(data)
    whole = (item if data else b"") + fault_item(fault)
    return (whole if len(whole) <= room else None), fault
