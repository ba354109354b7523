"""What code is where in an address space, for stacks: files, the vDSO, code made at run time.

Read when a stack first leads to an address that is in none of what is known, and forgotten when
the loader says that something was mapped or unmapped.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from collections.abc import Callable, Hashable
from typing import Final, NamedTuple

from dprobed.proc import maps, procfs
from dprobed.proc.maps import Module
from dprobed.program.user_stack import module_bytes
from dprobed.resolver.client import MappedFile
from dprobed.resolver.errors import LocationError
from dprobed.tracer.stacks.tables import Tables
from dprobed.wire.resolver import FileFacts, Rule

#: Seconds between two looks at the mappings because of an address that is in none.
_AGAIN: Final = 0.05
_VDSO: Final = b"[vdso]"
#: No vDSO has more.
_MOST_VDSO: Final = 1 << 18


class Code(NamedTuple):
    """What is known of an address: the module, packed (empty: no file's), what to take off the
    address to have that in the file, and how the caller is found.

    ``missing``: that could not be asked; ``anonymous``: code that was made at run time.
    """

    module: bytes
    bias: int
    rule: Rule | None
    missing: bool = False
    anonymous: bool = False


class _Source:
    """One file whose code is mapped."""

    def __init__(self, tables: Tables, module: Module) -> None:
        self._tables = tables
        self.module = module
        self._file: MappedFile | None = None
        self._packed = b""

    def code(self, address: int, start: int, offset: int) -> Code:
        """What is known of an address; its mapping begins at ``start``, with this byte."""
        if self._file is None:
            self._file = self._tables.describe(self.module)
        file = self._file
        if file is None:
            return Code(b"", 0, None, missing=True)
        there = address - start + offset
        for segment in file.facts.segments:
            if segment.executable and 0 <= there - segment.offset < segment.file_size:
                break
        else:
            return Code(b"", 0, None)
        if not self._packed:
            self._packed = module_bytes(self.module.path, file.facts.build_id or "")
        vaddr = there - segment.offset + segment.vaddr
        try:
            rule = self._tables.rule(file.identity, file, vaddr)
        except LocationError:
            return Code(self._packed, address - vaddr, None, missing=True)
        return Code(self._packed, address - vaddr, rule)


class _Vdso:
    """The kernel's code in the process: an ELF file in memory alone."""

    def __init__(self, tables: Tables, peek: Callable[[int, int], bytes], size: int) -> None:
        self._tables = tables
        self._peek = peek
        self._size = min(size, _MOST_VDSO)
        self._descriptor = -1
        self._facts: FileFacts | None = None
        self._key: Hashable = None

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def code(self, address: int, start: int, offset: int) -> Code:
        """See ``_Source``."""
        if self._descriptor < 0:
            image = self._peek(start, self._size)
            self._descriptor = os.memfd_create("dprobed-vdso", os.MFD_CLOEXEC)
            os.write(self._descriptor, image)
            self._key = image
            self._facts = self._tables.facts(self._descriptor, _VDSO.decode())
        facts = self._facts
        if facts is None:
            return Code(b"", 0, None, missing=True)
        # Linked to begin at 0: one segment, whose bytes are where they are in the file.
        packed = module_bytes(_VDSO.decode(), facts.build_id or "")
        try:
            rule = self._tables.rule(self._key, self._descriptor, address - start)
        except LocationError:
            return Code(packed, start, None, missing=True)
        return Code(packed, start, rule)


class _Area(NamedTuple):
    """A mapping that can be executed."""

    start: int
    end: int
    offset: int
    source: _Source | _Vdso | None


class Layout:
    """The code of one address space."""

    def __init__(self, pid: int, tables: Tables, peek: Callable[[int, int], bytes]) -> None:
        self._pid: Final = pid
        self._tables: Final = tables
        self._peek: Final = peek
        self._areas: list[_Area] = []
        self._starts: list[int] = []
        self._sources: dict[Module, _Source] = {}
        self._vdso: _Vdso | None = None
        self._read = 0.0

    def code(self, address: int, tid: int) -> Code | None:
        """What is known of an address; None: it is no code.

        ``tid``: a living thread, for when the leading one has ended.
        """
        area = self._area(address)
        if area is None:
            now = time.monotonic()
            if now < self._read:
                return None
            self._look(tid)
            self._read = time.monotonic() + _AGAIN
            area = self._area(address)
        if area is None:
            return None
        if area.source is None:
            return Code(b"", 0, None, anonymous=True)
        return area.source.code(address, area.start, area.offset)

    def _area(self, address: int) -> _Area | None:
        index = bisect_right(self._starts, address) - 1
        if index < 0 or address >= self._areas[index].end:
            return None
        return self._areas[index]

    def _look(self, tid: int) -> None:
        pid = tid if procfs.run_state(self._pid) in "ZX" else self._pid
        try:
            lines = maps.lines(procfs.mappings(pid))
            modules = maps.modules(pid)
        except (OSError, maps.MapsError):
            return
        by_start: dict[int, _Source] = {}
        sources: dict[Module, _Source] = {}
        for module in modules:
            source = self._sources.get(module) or _Source(self._tables, module)
            sources[module] = source
            by_start.update(dict.fromkeys([each.start for each in module.mappings], source))
        self._sources = sources
        self._areas = [
            _Area(line.start, line.end, line.offset, self._source(line, by_start))
            for line in lines
            if line.perms[2:3] == b"x"
        ]
        self._starts = [area.start for area in self._areas]

    def _source(self, line: maps.Line, files: dict[int, _Source]) -> _Source | _Vdso | None:
        if line.name == _VDSO:
            if self._vdso is None:
                self._vdso = _Vdso(self._tables, self._peek, line.end - line.start)
            return self._vdso
        return files.get(line.start)
