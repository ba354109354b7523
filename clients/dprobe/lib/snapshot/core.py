"""A core of a process, as far as a snapshot needs it: the current thread's registers, and memory.

The cores are dprobed's own (``corefile/writer.py``). Not pyelftools: a core has thousands of
mappings, of which a snapshot looks at a few.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from typing import Final, NamedTuple

from dprobe.lib.errors import UserError
from dprobed.arch.x86_64.core_notes import PRSTATUS
from dprobed.arch.x86_64.registers import REGISTER_NAMES
from dprobed.binary.headers import EHDR, NOTE, PHDR, PT_LOAD, PT_NOTE
from dprobed.program.variables import REGISTERS

_NT_PRSTATUS: Final = 1
#: Of ``struct elf_prstatus``: the fields before the registers, and the thread's number there.
_REGISTERS_FIELD: Final = -2
_TID_FIELD: Final = 6


class _Part(NamedTuple):
    address: int
    size: int
    offset: int


class CoreImage:
    """An open core; raises UserError where it is none."""

    def __init__(self, path: str) -> None:
        self._path: Final = path
        self._file: Final = open(path, "rb", buffering=0)  # noqa: SIM115 (closed by ``close``)
        #: Of the current thread.
        self.tid = 0
        #: By DWARF's numbers.
        self.registers: dict[int, int] = {}
        self._parts: list[_Part] = []
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _at(self, offset: int, size: int) -> bytes:
        return os.pread(self._file.fileno(), size, offset)

    def _read(self) -> None:
        head = self._at(0, EHDR.size)
        if len(head) < EHDR.size or head[:4] != b"\x7fELF":
            raise UserError(f"{self._path}: it is no core")
        fields = EHDR.unpack(head)
        start, size, count = fields[5], fields[9], fields[10]
        table = self._at(start, size * count)
        for number in range(count):
            kind, _, offset, address, _, file_size, _, _ = PHDR.unpack_from(table, number * size)
            if kind == PT_LOAD and file_size:
                self._parts.append(_Part(address, file_size, offset))
            elif kind == PT_NOTE and not self.registers:
                self._notes(self._at(offset, file_size))
        self._parts.sort()
        if not self.registers:
            raise UserError(f"{self._path}: there is no thread in this core")

    def _notes(self, data: bytes) -> None:
        """Take the registers of the first thread, which is the current one."""
        name_size, size, kind = NOTE.unpack_from(data)
        at = NOTE.size + (name_size + 3 & ~3)
        if kind != _NT_PRSTATUS or size < PRSTATUS.size or len(data) < at + size:
            return
        fields = PRSTATUS.unpack_from(data, at)
        self.tid = fields[_TID_FIELD]
        raw = fields[_REGISTERS_FIELD]
        words = {
            name: int.from_bytes(raw[8 * index : 8 * index + 8], "little")
            for index, name in enumerate(REGISTER_NAMES)
        }
        self.registers = {number: words[name] for number, name in enumerate(REGISTERS)}

    def read(self, address: int, size: int) -> bytes | None:
        """Memory, as far as the core has it; None: not all of it."""
        at = bisect_right(self._parts, address, key=_address) - 1
        found = b""
        while at >= 0 and at < len(self._parts) and len(found) < size:
            part = self._parts[at]
            skipped = address + len(found) - part.address
            if not 0 <= skipped < part.size:
                return None
            found += self._at(part.offset + skipped, min(size - len(found), part.size - skipped))
            at += 1
        return found if len(found) == size else None


def _address(part: _Part) -> int:
    return part.address


def word(data: bytes | None) -> int | None:
    """Eight bytes as a number."""
    return int.from_bytes(data, "little") if data is not None and len(data) == 8 else None
