"""The files that a process maps, at the addresses at which it does."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final, NamedTuple

from dprobe.lib.mapped import File
from dprobed.binary.errors import LocationError
from dprobed.binary.file import Binary
from dprobed.resolver.addresses import biases


class MappedPart(NamedTuple):
    """A part of a file in memory, ``offset`` bytes from its beginning; ``bias``: what is added to
    the file's addresses."""

    start: int
    end: int
    offset: int
    bias: int
    elf: Binary


class MappedModules:
    """Files by address; those that are loaded twice, or cannot be read, are left out."""

    def __init__(self, files: Iterable[File]) -> None:
        self._parts: Final = sorted(
            (each for file in files for each in _parts(file)), key=lambda each: each.start
        )

    def at(self, address: int) -> MappedPart | None:
        """What is mapped at an address."""
        index = bisect_right(self._parts, address, key=lambda each: each.start) - 1
        if index < 0 or address >= self._parts[index].end:
            return None
        return self._parts[index]

    def read(self, address: int, size: int) -> bytes | None:
        """What the file has that is mapped there: of memory that no process has changed."""
        part = self.at(address)
        if part is None or address + size > part.end:
            return None
        try:
            return part.elf.read(part.offset + address - part.start, size)
        except LocationError:
            return None


def _parts(file: File) -> list[MappedPart]:
    if file.elf is None:
        return []
    found = biases(file.module, file.elf)
    if len(found) != 1:
        return []
    return [
        MappedPart(each.start, each.end, each.offset, found[0], file.elf)
        for each in file.module.mappings
    ]
