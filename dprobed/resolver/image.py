"""The build-id of a mapped file, read from the memory of a process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dprobed.arch.x86_64.paging import PAGE
from dprobed.binary.elf import build_id_in_notes

_MOST_HEADERS: Final = 64
_MOST_NOTES: Final = 1 << 16
_PT_NOTE: Final = b"\x04\0\0\0"


def build_id_of_image(peek: Callable[[int, int], bytes], start: int) -> str | None:
    """The build-id (hex) of the image whose first page is at ``start``.

    ``peek`` gives as much of so many bytes at an address as there is.
    """
    head = peek(start, PAGE)
    phoff = int.from_bytes(head[32:40], "little")
    count = int.from_bytes(head[56:58], "little")
    for number in range(min(count, _MOST_HEADERS)):
        header = head[phoff + number * 56 : phoff + number * 56 + 56]
        if len(header) == 56 and header[:4] == _PT_NOTE:
            # By file offset: notes lie in the first segment, which is mapped at ``start``.
            offset = int.from_bytes(header[8:16], "little")
            size = int.from_bytes(header[32:40], "little")
            found = build_id_in_notes(peek(start + offset, min(size, _MOST_NOTES)))
            if found:
                return found
    return None
