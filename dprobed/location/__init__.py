"""Where a probe goes: from a module and a text to addresses in a process.

In the order of use::

    elf = open_elf("/usr/lib/x86_64-linux-gnu/libc.so.6")     # a file, or:
    for module in maps.modules(pid):                          # the files a process maps code of
        elf = maps.open_module(pid, module)                   # the file that is really mapped
        if maps.matches(module, elf, "libc.so.6"): ...        # path, base name, soname, build-id

    place = resolve(elf, "malloc+4")[0]                       # list; several only for file.c:line
    maps.address_of(module, elf, place.file_offset)           # addresses of code in the process

    place = resolve_data(elf, "environ:8")                    # for watchpoints: one Place
    maps.data_address_of(module, elf, place.vaddr)            # addresses of data (also .bss)

    place_at(elf, vaddr)                                      # names code: malloc+0x4
    list_places(elf, "str*")                                  # what can be probed by name

A place of kind ``ifunc`` has the resolver's address. The function that it chose is in one of the
words ``ifunc_slots(elf, place.vaddr)`` of the same module, or ``import_slots(other, place.symbol,
place.version)`` of any other; both are addresses in the file, for ``maps.data_address_of``. Take a
word's value minus ``maps.biases(...)`` to ``place_at``; ``symbol_offset`` counts from there.

``boundary`` of a place is ``ok`` or ``unknown``; a place where surely no instruction begins is
refused. Everything here raises LocationError and nothing else for what a file or user got wrong.
"""

from __future__ import annotations

from dprobed.location.elf import ElfFile, Segment, open_path
from dprobed.location.errors import CrowdedError, LocationError
from dprobed.location.relocations import ifunc_slots, import_slots
from dprobed.location.resolve import (
    NO_OFFSET,
    Place,
    list_places,
    number_of,
    place_at,
    resolve,
    resolve_data,
)

__all__ = [
    "NO_OFFSET",
    "CrowdedError",
    "ElfFile",
    "LocationError",
    "Place",
    "Segment",
    "ifunc_slots",
    "import_slots",
    "list_places",
    "number_of",
    "open_elf",
    "place_at",
    "resolve",
    "resolve_data",
]


def open_elf(path: str) -> ElfFile:
    """Open an executable or shared library; raises LocationError with the reason."""
    return open_path(path)
