"""``vFile``: files for the debugger to read, in the target's root folder."""

from __future__ import annotations

import errno
import os
import struct
from typing import Final

from dprobed.proc import files
from dprobed.tracer.debug import rsp

#: The File-I/O protocol's own numbers of errors (gdb manual, "Errno Values").
#: They are Linux's, but for the last.
_SAME: Final = frozenset((1, 2, 4, 9, 13, 14, 16, 17, 19, 20, 21, 22, 23, 24, 27, 28, 29, 30))
_ENAMETOOLONG: Final = 91
_UNKNOWN: Final = 9999
_OPEN_FILES: Final = 64
_ACCESS: Final = 3


def _error_number(number: int) -> int:
    if number == errno.ENAMETOOLONG:
        return _ENAMETOOLONG
    return number if number in _SAME else _UNKNOWN


class Files:
    """Files that one debugger has open, for reading only."""

    def __init__(self, pid: int) -> None:
        self._root = f"/proc/{pid}/root"
        self._open: set[int] = set()

    def serve(self, request: bytes) -> bytes:
        """The answer to what follows ``vFile:``; raises PacketError."""
        operation, _, rest = request.partition(b":")
        try:
            match operation:
                case b"setfs":
                    # Whatever process is named: only the target's files can be read.
                    return b"F0"
                case b"open":
                    return self._do_open(rest)
                case b"pread":
                    return self._pread(rest)
                case b"close":
                    return self._close(rest)
                case b"fstat":
                    return self._fstat(rest)
                case b"readlink":
                    target = os.fsencode(files.read_link(self._path(rsp.unhex(rest))))
                    return b"F%x;%s" % (len(target), target)
                case _:
                    return b""
        except OSError as error:
            return b"F-1,%x" % _error_number(error.errno or 0)

    def _path(self, name: bytes) -> str:
        return self._root + "/" + os.fsdecode(name).lstrip("/")

    def _do_open(self, rest: bytes) -> bytes:
        name, *flags = rest.split(b",")
        if len(flags) != 2:
            raise rsp.PacketError("open takes a name, flags and a mode")
        if rsp.number(flags[0]) & _ACCESS or len(self._open) >= _OPEN_FILES:
            return b"F-1,%x" % 30
        opened = files.open_file(self._path(rsp.unhex(name)))
        self._open.add(opened)
        return b"F%x" % opened

    def _known(self, number: int) -> int:
        if number not in self._open:
            raise OSError(9, "not an open file")
        return number

    def _pread(self, rest: bytes) -> bytes:
        number, count, offset = rsp.numbers(rest, 3)
        data = files.read(self._known(number), min(count, rsp.MAX_PACKET // 2 - 16), offset)
        return b"F%x;%s" % (len(data), data)

    def _close(self, rest: bytes) -> bytes:
        number = self._known(rsp.number(rest))
        self._open.discard(number)
        os.close(number)
        return b"F0"

    def _fstat(self, rest: bytes) -> bytes:
        # struct stat of the File-I/O protocol: big-endian, times in seconds.
        fields = files.status(self._known(rsp.number(rest)))
        widths = "IIIIIIIQQQIII"
        limits = [0xFFFF_FFFF if width == "I" else -1 for width in widths]
        values = [each & limit for each, limit in zip(fields, limits, strict=True)]
        data = struct.pack(">" + widths, *values)
        return b"F%x;%s" % (len(data), data)

    def close(self) -> None:
        """Close all that is open."""
        for number in self._open:
            os.close(number)
        self._open.clear()
