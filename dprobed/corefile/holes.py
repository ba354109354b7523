"""Which pages of a process there are: looking at one that is not would make the kernel allocate it.

Of a private mapping the page tables tell. PAGEMAP_SCAN (Linux 6.7) passes over empty ones at once,
so that 12 TB of reserved memory take as long as what is used of them; before, ``pagemap`` has eight
bytes for each page. Of a shared mapping they do not: they are not copied by ``fork``, and another
process may have filled it. Its file tells where it has data (SEEK_DATA, lseek(2)).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from dprobed.arch.x86_64.paging import PAGE
from dprobed.corefile.areas import Area
from dprobed.proc import mounts

Range = tuple[int, int]

# include/uapi/linux/fs.h: size, flags, start, end, walk_end, vec, vec_len, max_pages, then the
# masks of categories: inverted, all of, any of, returned.
_SCAN: Final = struct.Struct("=12Q")
_REGION: Final = struct.Struct("=3Q")
_PAGEMAP_SCAN: Final = 3 << 30 | _SCAN.size << 16 | ord("f") << 8 | 16
_PRESENT: Final = 1 << 3
_SWAPPED: Final = 1 << 4
_ZERO: Final = 1 << 5
_REGIONS: Final = 1024

#: Pages whose entries of ``pagemap`` are read at once.
_ENTRIES: Final = 1 << 16
#: Bit 63: present, bit 62: swapped. By the highest byte of an entry.
_TOUCHED: Final = bytes(1 if byte & 0xC0 else 0 for byte in range(256))
_RUN: Final = re.compile(rb"\x01+")


class Holes:
    """What there is of the memory of one process."""

    def __init__(self, pagemap: int, source: int, pid: int, kept: Iterable[Range] = ()) -> None:
        """``source``: whose memory is read, by its descriptor ``pagemap``: process ``pid`` or its
        copy. ``kept``: ranges of which all is there."""
        self._pagemap: Final = pagemap
        self._source: Final = source
        self._pid: Final = pid
        self._kept: Final = list(kept)
        self._regions: Final = (ctypes.c_char * (_REGION.size * _REGIONS))()
        self._may_scan = True

    def used(self, area: Area, low: int, high: int) -> Iterator[Range]:
        """The ranges of a part of a mapping that may be other than zero."""
        if area.full or any(start < high and low < end for start, end in self._kept):
            yield low, high
        elif b"sh" in area.flags and area.is_file:
            yield from self._in_file(area, low, high)
        elif area.is_anonymous or b"ht" in area.flags:
            yield from self._in_tables(low, high)
        elif low < high:
            yield low, high

    # --- by the page tables ---

    def _in_tables(self, low: int, high: int) -> Iterator[Range]:
        while self._may_scan and low < high:
            try:
                found, low = self._scan(low, high)
            except OSError:
                self._may_scan = False
            else:
                yield from found
        while low < high:
            end = min(high, low + _ENTRIES * PAGE)
            size = (end - low) // PAGE * 8
            entries = os.pread(self._pagemap, size, low // PAGE * 8)
            if len(entries) != size:  # not readable for us
                yield low, high
                return
            for run in _RUN.finditer(entries[7::8].translate(_TOUCHED)):
                yield low + run.start() * PAGE, low + run.end() * PAGE
            low = end

    def _scan(self, low: int, high: int) -> tuple[list[Range], int]:
        """Some ranges, and where the next look begins; raises OSError."""
        address = ctypes.addressof(self._regions)
        there = _PRESENT | _SWAPPED
        masks = (_ZERO, _ZERO, there, _PRESENT)
        asked = bytearray(_SCAN.pack(_SCAN.size, 0, low, high, 0, address, _REGIONS, 0, *masks))
        count = fcntl.ioctl(self._pagemap, _PAGEMAP_SCAN, asked)
        found = [
            _REGION.unpack_from(self._regions, number * _REGION.size)[:2] for number in range(count)
        ]
        return found, _SCAN.unpack(asked)[4]

    # --- by the file ---

    def _in_file(self, area: Area, low: int, high: int) -> Iterator[Range]:
        descriptor = self._open(area)
        if descriptor is None:
            yield low, high
            return
        shift = area.start - area.offset
        try:
            for start, end in _data(descriptor, low - shift, high - shift):
                yield start + shift, end + shift
        finally:
            os.close(descriptor)

    def _open(self, area: Area) -> int | None:
        """The mapped file; None: there is no way to it.

        Without the right to follow ``map_files``: by its path, or as a file that the process has
        open.
        """
        wanted = mounts.device_of(area.device), area.inode
        names = [f"/proc/{self._source}/map_files/{area.start:x}-{area.end:x}"]
        if mounts.is_local(wanted[0]):
            names.append(os.fsdecode(area.path))
            with contextlib.suppress(OSError):
                names += [str(each) for each in Path(f"/proc/{self._pid}/fd").iterdir()]
        for name in names:
            try:
                found = os.stat(name)  # noqa: PTH116
                if (found.st_dev, found.st_ino) == wanted:
                    return os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except (OSError, ValueError):
                continue
        return None


def _data(descriptor: int, low: int, high: int) -> Iterator[Range]:
    """Where a file has data, by whole pages."""
    while low < high:
        try:
            start = os.lseek(descriptor, low, os.SEEK_DATA) // PAGE * PAGE
            if start >= high:
                return
            end = os.lseek(descriptor, max(start, low), os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # that is: no more data
                yield low, high
            return
        end = min(-(-end // PAGE) * PAGE, high)
        yield max(start, low), end
        low = end
