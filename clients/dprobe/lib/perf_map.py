"""``/tmp/perf-PID.map``: the names that a just-in-time compiler gives to the code that it makes.

Format: the kernel's tools/perf/Documentation/jit-interface.txt: lines of start, size (both
hexadecimal) and name. It is a file of whoever runs the process, in its own file system and under
the process id that it has there: it is opened without following a link, bounded, and what is no
such line is passed over. Of a process that has ended it is looked for here, as perf does: it must
be ours or root's then, since anybody may make a file of that name.
"""

from __future__ import annotations

import os
import re
import stat
import time
from bisect import bisect_right
from pathlib import Path
from typing import Final

from dprobed.binary.elf import text_of

#: Bytes of a map that are read, of a name that are kept, and seconds between two looks at it.
_MOST: Final = 64 << 20
_LONGEST: Final = 1024
_AGAIN: Final = 0.5
_LINE: Final = re.compile(
    rb"^(?:0x)?([0-9a-fA-F]{1,16}) (?:0x)?([0-9a-fA-F]{1,16}) (.+)$", re.MULTILINE
)


class PerfMap:
    """The map of one process; read again when it has grown, and an address is not in it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._path = ""
        self._known: tuple[int, int] = (-1, -1)
        self._looked = -_AGAIN
        self._starts: list[int] = []
        self._entries: list[tuple[int, int, bytes]] = []

    def at(self, address: int) -> tuple[int, str] | None:
        """Start and name of the code at an address."""
        found = self._find(address)
        if found is None and time.monotonic() - self._looked >= _AGAIN:
            self._looked = time.monotonic()
            self._read()
            found = self._find(address)
        return found

    def _find(self, address: int) -> tuple[int, str] | None:
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        start, end, name = self._entries[index]
        return (start, text_of(name[:_LONGEST])) if address < end else None

    def _read(self) -> None:
        ended = not self._path and not Path(f"/proc/{self._pid}/root/").exists()
        try:
            if not ended:
                self._path = self._path or _path_of(self._pid)
            path = f"/tmp/perf-{self._pid}.map" if ended else self._path
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(path, flags)
        except (OSError, ValueError):
            return
        try:
            status = os.fstat(descriptor)
            known = status.st_ino, status.st_size
            if not stat.S_ISREG(status.st_mode) or known == self._known:
                return
            if ended and status.st_uid not in (0, os.geteuid()):
                return
            with open(os.dup(descriptor), "rb", buffering=0) as file:
                data = file.read(_MOST) or b""
        except OSError:
            return
        finally:
            os.close(descriptor)
        self._known = known
        entries: dict[int, tuple[int, int, bytes]] = {}
        for start, size, name in _LINE.findall(data):
            # A later line is about what was made later, in the same place.
            entries[int(start, 16)] = int(start, 16), int(start, 16) + int(size, 16), name
        self._entries = sorted(entries.values())
        self._starts = [entry[0] for entry in self._entries]


def _path_of(pid: int) -> str:
    """Where a process has its map; raises OSError."""
    status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    inside = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1]
    return f"/proc/{pid}/root/tmp/perf-{int(inside)}.map"
