"""Thread-local variables: where each thread has its own copy, as far as the file tells.

Layout: "ELF Handling For Thread-Local Storage", variant II. The variables of the program and of the
libraries that were loaded with it lie below the thread pointer, at an offset that is the same in
every thread: the program's own first, so that its linker knew the offset; those of a library where
the dynamic linker put them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from dprobed.binary.elf import ElfFile
from dprobed.binary.errors import SIMILAR, LocationError
from dprobed.binary.file import Binary
from dprobed.binary.headers import SHT_DYNSYM, SHT_SYMTAB
from dprobed.binary.relocations import numbers_of, thread_offsets
from dprobed.binary.suggest import similar
from dprobed.binary.symbols import STT_TLS, SYMBOL, has_symbol_table, raw_tables

_STB_LOCAL = 0


class ThreadLocal(msgspec.Struct, frozen=True):
    """A variable's offset from the thread pointer: ``more``, and what is to be added to it.

    ``base``: nothing more (``"thread"``); the word of the module at ``vaddr``, as the dynamic
    linker has filled it (``"word"``); where the module's variables begin, which only the dynamic
    linker knows (``"module"``).
    """

    base: Literal["thread", "word", "module"]
    more: int
    vaddr: int = 0


def thread_local(elf: Binary, symbol: str) -> ThreadLocal:
    """Where the thread-local variable ``symbol`` is; raises LocationError."""
    value = _value(elf, symbol)
    block = elf.thread_local_block
    if block is None or value > block.size:
        raise elf.damaged(f"its thread-local variable {symbol} is outside of all of them")
    if elf.kind != "dyn":
        # As the linkers compute it for the code; the block ends at the thread pointer, aligned.
        below = block.size + (-(block.vaddr + block.size) & (max(block.alignment, 1) - 1))
        return ThreadLocal("thread", value - below)
    # Any of the module's own words says where its variables begin, as they lie together.
    for vaddr, addend in thread_offsets(elf):
        return ThreadLocal("word", value - addend, vaddr)
    for table in raw_tables(elf, (SHT_DYNSYM,)):
        for number in numbers_of(table, symbol):
            for vaddr, addend in thread_offsets(elf, number):
                return ThreadLocal("word", -addend, vaddr)
    return ThreadLocal("module", value)


def _value(elf: Binary, symbol: str) -> int:
    """Where in the module's block of thread-local variables it is."""
    own: set[int] = set()
    exported: set[int] = set()
    for table in raw_tables(elf, (SHT_DYNSYM, SHT_SYMTAB)):
        for number in numbers_of(table, symbol):
            _, info, _, section, value, _ = SYMBOL.unpack_from(table.symbols, number * SYMBOL.size)
            if info & 0xF == STT_TLS and section:
                (own if info >> 4 == _STB_LOCAL else exported).add(value)
    if not own | exported and not has_symbol_table(elf):
        own = {each.value for each in elf.symbols.find(symbol) if each.type == STT_TLS}
    values = exported or own
    if not values:
        raise _missing(elf, symbol)
    if len(values) > 1:
        raise LocationError(
            f"{elf.path}: there are {len(values)} thread-local variables {symbol}, "
            "and nothing tells which one is meant"
        )
    return values.pop()


def _missing(elf: ElfFile, symbol: str) -> LocationError:
    text = f"there is no thread-local variable {symbol}"
    names = set()
    for table in raw_tables(elf, (SHT_DYNSYM, SHT_SYMTAB)):
        for offset, info, _, section, _, _ in SYMBOL.iter_unpack(table.symbols):
            if info & 0xF == STT_TLS and section:
                end = table.strings.find(b"\0", offset)
                names.add(table.strings[offset : max(end, offset)].decode("utf-8", "replace"))
    if symbol == "errno":
        return LocationError(
            text,
            "it is the C library's: only a program with name = libc.so.6, "
            "or of a program that is linked statically, has it",
        )
    close = similar(symbol, sorted(names))
    return LocationError(text, SIMILAR if close else "", tuple(close))
