"""Which memory goes into a core: the kernel's own rules (``vma_dump_size`` in fs/coredump.c).

``/proc/PID/smaps`` tells what the kernel looks at: VmFlags (``dd``: MADV_DONTDUMP), and whether a
private mapping has pages of its own. Our resident areas are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from dprobed.arch.x86_64.paging import PAGE
from dprobed.proc.maps import DELETED, detailed

#: Bits of /proc/PID/coredump_filter (core(5)).
ANONYMOUS_PRIVATE: Final = 1 << 0
ANONYMOUS_SHARED: Final = 1 << 1
FILE_PRIVATE: Final = 1 << 2
FILE_SHARED: Final = 1 << 3
ELF_HEADERS: Final = 1 << 4
HUGE_PRIVATE: Final = 1 << 5
HUGE_SHARED: Final = 1 << 6

_OWN_PAGES: Final = re.compile(rb"^(?:Anonymous|Swap): +[1-9]", re.MULTILINE)
_RESIDENT: Final = re.compile(rb"^Rss: +(\d+) kB$", re.MULTILINE)
_FLAGS: Final = re.compile(rb"^VmFlags: (.*)$", re.MULTILINE)
#: Other mappings with a name in brackets are the kernel's.
_ANONYMOUS: Final = (b"[heap]", b"[stack]", b"[anon:")


class Area(msgspec.Struct, frozen=True):
    """One mapping. ``own``: a private one with pages of its own; ``flags``: of VmFlags.

    ``full``: all of its pages were there when it was looked at.
    """

    start: int
    end: int
    perms: bytes
    offset: int
    device: bytes
    inode: int
    path: bytes
    own: bool
    flags: frozenset[bytes]
    full: bool

    @property
    def is_file(self) -> bool:
        """Whether a file is mapped."""
        return self.inode != 0 or self.path.startswith(b"/")

    @property
    def is_anonymous(self) -> bool:
        """Whether pages that were never touched are zero."""
        named = self.path.startswith(b"[") and not self.path.startswith(_ANONYMOUS)
        return not (self.is_file or named or b"sh" in self.flags)


def parse_smaps(text: bytes) -> list[Area]:
    """The mappings in ``/proc/PID/smaps``, by address."""
    areas = []
    for line, body in detailed(text):
        flags = _FLAGS.search(body)
        resident = _RESIDENT.search(body)
        areas.append(
            Area(
                line.start,
                line.end,
                line.perms,
                line.offset,
                line.device,
                line.inode,
                line.name.replace(b"\\012", b"\n"),
                _OWN_PAGES.search(body) is not None,
                frozenset(flags[1].split() if flags else ()),
                resident is not None and int(resident[1]) << 10 == line.end - line.start,
            )
        )
    return areas


def dumped_size(area: Area, wanted: int, is_elf: bool) -> int:
    """How many bytes of a mapping go into the core; ``wanted``: the coredump_filter."""
    size = area.end - area.start
    shared = b"sh" in area.flags
    if area.path in (b"[vdso]", b"[vsyscall]"):
        return size
    if b"dd" in area.flags or b"io" in area.flags:
        return 0
    if b"ht" in area.flags:
        return size if wanted & (HUGE_SHARED if shared else HUGE_PRIVATE) else 0
    if shared:
        nameless = area.path.endswith(DELETED)
        return size if wanted & (ANONYMOUS_SHARED if nameless else FILE_SHARED) else 0
    if area.own and wanted & ANONYMOUS_PRIVATE:
        return size
    if not area.is_file:
        return 0
    if wanted & FILE_PRIVATE:
        return size
    return PAGE if wanted & ELF_HEADERS and area.offset == 0 and is_elf else 0


def without(areas: Iterable[Area], omitted: list[tuple[int, int]]) -> Iterator[Area]:
    """The mappings without these ranges; a mapping is cut where it overlaps one."""
    for area in areas:
        rest = [area]
        for low, high in omitted:
            rest = [part for each in rest for part in _cut(each, low, high)]
        yield from rest


def _cut(area: Area, low: int, high: int) -> Iterator[Area]:
    if high <= area.start or area.end <= low:
        yield area
        return
    if area.start < low:
        yield msgspec.structs.replace(area, end=low)
    if high < area.end:
        shift = high - area.start if area.is_file else 0
        yield msgspec.structs.replace(area, start=high, offset=area.offset + shift)
