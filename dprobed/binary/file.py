"""An ELF file with its symbols, lines and instruction boundaries, each decoded once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from dprobed.binary import debug_files
from dprobed.binary.boundary import Boundaries, Boundary
from dprobed.binary.elf import ElfFile
from dprobed.binary.lines import LineCache
from dprobed.binary.symbols import RawSymbols, SymbolTable, has_symbol_table, pack, raw_tables

if TYPE_CHECKING:
    from dprobed.binary.cfi import UnwindRows
    from dprobed.binary.static_probes import StaticProbe

#: From a file and its raw symbol tables (with what to add to their addresses) to all its symbols.
Packer = Callable[[ElfFile, list[tuple[RawSymbols, int]]], SymbolTable]


def pack_anew(elf: ElfFile, tables: list[tuple[RawSymbols, int]]) -> SymbolTable:
    """Sort the symbols; nothing is kept on disk."""
    return pack(tables)


class Binary(ElfFile):
    """An ELF file with its symbols and lines, also those of its separate debug file.

    ``packer`` makes the symbol table, or gets it from a cache.
    """

    def __init__(self, fd: int, path: str, root: str = "", *, packer: Packer = pack_anew) -> None:
        super().__init__(fd, path, root)
        self._packer = packer
        self.lines = LineCache()
        self.boundaries = Boundaries()

    @cached_property
    def symbols(self) -> SymbolTable:
        """All defined symbols; raises LocationError."""
        tables = [(table, 0) for table in raw_tables(self)]
        if not has_symbol_table(self):
            debug = debug_files.of_symbols(self)
            if debug is not None:
                tables += [(table, debug_files.shift(self, debug)) for table in raw_tables(debug)]
        return self._packer(self, tables)

    @cached_property
    def unwind_rows(self) -> UnwindRows:
        """How callers' frames are found; raises LocationError."""
        # Here: who only looks for places needs none of it.
        from dprobed.binary.cfi import UnwindRows

        return UnwindRows(self)

    @property
    def is_stripped(self) -> bool:
        """Whether only dynamic symbols are known: neither the file nor a debug file has .symtab."""
        if has_symbol_table(self):
            return False
        debug = debug_files.of_symbols(self)
        return debug is None or not has_symbol_table(debug)

    @cached_property
    def static_probes(self) -> list[StaticProbe]:
        """Its static probes; raises LocationError."""
        # Here: it reads notes with pyelftools, whose import takes 60 ms.
        from dprobed.binary.static_probes import static_probes

        return static_probes(self)

    def boundary(self, vaddr: int, name: str) -> Boundary:
        """Whether an instruction begins there: ``ok`` or ``unknown``; raises LocationError."""
        return self.boundaries.check(self, self.symbols, vaddr, name)

    @property
    def kept(self) -> int:
        """About how many bytes of it are kept in memory."""
        symbols = self.__dict__.get("symbols")
        unwind = self.__dict__.get("unwind_table", b"")
        sections = 300 * len(self.__dict__.get("sections", ()))
        table = len(symbols.data) if isinstance(symbols, SymbolTable) else 0
        table += 500 * len(self.__dict__.get("static_probes", ()))
        rows: UnwindRows | None = self.__dict__.get("unwind_rows")
        unwound = rows.size if rows is not None else 0
        kept = table + len(unwind) + sections + unwound
        return kept + self.lines.size + self.boundaries.size
