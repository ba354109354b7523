"""What is at an address of a process: symbol+offset, for who shows records while it runs.

The files are read in this process, which is the user's own, when an address is to be shown: the
target waits for nothing. What a process maps is read again where an address is in none of it (it
loaded a library), but not for each such address, and where it executes another program.
"""

from __future__ import annotations

import bisect
import os
import time
from functools import partial
from typing import Final, NamedTuple

from dprobe.lib.errors import UserError
from dprobe.lib.mapped import File, files_of_process
from dprobed.binary.errors import LocationError
from dprobed.binary.file import Binary
from dprobed.binary.symbols import Symbol
from dprobed.proc import procfs
from dprobed.resolver.addresses import biases
from dprobed.wire import messages

#: Seconds between two looks at the mappings of a process.
_AGAIN: Final = 0.5
#: Processes, and names of addresses in one, that are remembered.
_PROCESSES: Final = 64
_NAMES: Final = 10_000


class _Range(NamedTuple):
    start: int
    end: int
    executable: bool
    bias: int
    elf: Binary


class _Process:
    """One process, as long as it executes the same program."""

    def __init__(self, pid: int, program: tuple[int, int, int]) -> None:
        self._pid = pid
        self.program = program
        self.comm = procfs.comm(pid).decode(errors="replace")
        self._ranges: list[_Range] = []
        self._names: dict[int, str] = {}
        self._variables: dict[int, list[Symbol]] = {}
        self._read = -_AGAIN

    def place(self, address: int) -> str:
        """Symbol+offset; empty where that is not known."""
        name = self._names.get(address)
        if name is None:
            name = self._find(address)
            if len(self._names) < _NAMES and name:
                self._names[address] = name
        return name

    def _find(self, address: int) -> str:
        at = self._range_of(address)
        if at is None and time.monotonic() - self._read > _AGAIN:
            self._read = time.monotonic()
            try:
                files = files_of_process(self._pid)
            except UserError:
                return ""
            self._ranges = sorted(
                (each for file in files for each in _ranges(file)), key=lambda each: each.start
            )
            at = self._range_of(address)
        if at is None:
            return ""
        vaddr = address - at.bias
        try:
            find = at.elf.symbols.code_at if at.executable else partial(self._variable, at.elf)
            found = find(vaddr)
        except LocationError:
            found = None
        if found is None:
            return f"{os.path.basename(at.elf.path)}+{vaddr:#x}"  # noqa: PTH119
        return f"{found.name}+{vaddr - found.value:#x}"

    def _range_of(self, address: int) -> _Range | None:
        index = bisect.bisect_right(self._ranges, address, key=lambda each: each.start) - 1
        if index < 0 or address >= self._ranges[index].end:
            return None
        return self._ranges[index]

    def _variable(self, elf: Binary, vaddr: int) -> Symbol | None:
        known = self._variables.get(id(elf))
        if known is None:
            known = self._variables[id(elf)] = elf.symbols.variables()
        index = bisect.bisect_right(known, vaddr, key=lambda symbol: symbol.value) - 1
        if index < 0 or vaddr >= known[index].value + max(known[index].size, 1):
            return None
        return known[index]


def _ranges(file: File) -> list[_Range]:
    """Where the parts of a file are; nothing for one that is loaded twice, or cannot be read."""
    if file.elf is None:
        return []
    found = biases(file.module, file.elf)
    if len(found) != 1:
        return []
    return [
        _Range(each.start, each.end, each.executable, found[0], file.elf)
        for each in file.module.mappings
    ]


class Addresses:
    """The addresses of any process."""

    def __init__(self) -> None:
        self._processes: dict[int, _Process] = {}

    def name_places(self, record: messages.Record) -> None:
        """Say what is at the addresses that a record logged."""
        for item in record.log:
            if item.get("kind") == "ptr":
                place = self.place(record.pid, item["value"], record.comm)
                if place:
                    item["place"] = place

    def place(self, pid: int, address: int, comm: str) -> str:
        """What is at an address of a process, one of whose threads has the name ``comm``; empty
        where that is not known.

        Of one that has ended it is what was known of it, if that has the same name: else it may
        have executed another program since.
        """
        try:
            status = os.stat(f"/proc/{pid}/exe")  # noqa: PTH116
        except OSError:
            known = self._processes.get(pid)
            return known.place(address) if known is not None and known.comm == comm else ""
        program = (status.st_dev, status.st_ino, status.st_mtime_ns)
        process = self._processes.get(pid)
        if process is None or process.program != program:
            if len(self._processes) >= _PROCESSES:
                self._processes.clear()
            process = self._processes[pid] = _Process(pid, program)
        return process.place(address)
