"""The names of threads as they are now: a thread may give itself another one at any time."""

from __future__ import annotations

import os
from typing import Final

from dprobed.proc import procfs

#: Files that are open at most; the one opened first is closed for the next.
_MOST: Final = 128
#: TASK_COMM_LEN, and the line's end.
_ROOM: Final = 17


class ThreadNames:
    """Reads names again and again, from files that stay open: 1 us each, of 8 us to open one too.

    An open file is of that thread, and tells of no other one that has its number later.
    """

    def __init__(self) -> None:
        self._files: Final[dict[int, int]] = {}

    def of(self, tid: int) -> bytes:
        """The name of a thread; empty when it is gone."""
        try:
            return os.pread(self._files[tid], _ROOM, 0)[:-1]
        except KeyError:
            pass
        except OSError:  # of a thread that has ended
            self.forget(tid)
        return self._opened(tid)

    def _opened(self, tid: int) -> bytes:
        try:
            file = os.open(f"/proc/{tid}/comm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return procfs.comm(tid)
        if len(self._files) >= _MOST:
            self.forget(next(iter(self._files)))
        self._files[tid] = file
        try:
            return os.pread(file, _ROOM, 0)[:-1]
        except OSError:
            return b""

    def forget(self, tid: int) -> None:
        """A thread has ended."""
        file = self._files.pop(tid, None)
        if file is not None:
            os.close(file)

    def close(self) -> None:
        """Close all files."""
        for tid in list(self._files):
            self.forget(tid)


#: Those that this process reads.
NAMES: Final = ThreadNames()
