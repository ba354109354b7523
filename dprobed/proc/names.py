"""The names of threads as they are now: a thread may give itself another one at any time."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from dprobed.arch.x86_64.same_again import ROOM, SameAgain
from dprobed.proc import procfs

#: Files that are open at most; the one opened first is closed for the next.
_MOST: Final = 128


class ThreadNames:
    """Reads names again and again, from files that stay open: 1 us each, of 8 us to open one too.

    An open file is of that thread, and tells of no other one that has its number later. Of a
    thread that is asked about again and again it is only looked whether its name is still the same.
    """

    def __init__(self) -> None:
        self._files: Final[dict[int, int]] = {}
        #: The thread whose name was read last; the one that ``_again`` knows, and its name.
        self._read_last = -1
        self._known = -1
        self._name = b""
        self._again: SameAgain | None = None
        self._can_know = True
        self._is_same: Callable[[], int] = lambda: 0

    def of(self, tid: int) -> bytes:
        """The name of a thread; empty when it is gone."""
        if tid == self._known:
            # By a local name: an attribute's call is a slow one.
            is_same = self._is_same
            if is_same():
                return self._name
        try:
            name = os.pread(self._files[tid], ROOM, 0)
        except KeyError:
            return self._opened(tid)
        except OSError:  # of a thread that has ended
            self.forget(tid)
            return self._opened(tid)
        if tid == self._read_last and self._can_know:
            self._know(tid, name)
        self._read_last = tid
        return name[:-1]

    def _know(self, tid: int, name: bytes) -> None:
        """The same thread was asked about twice in a row."""
        if self._again is None:
            try:
                self._again = SameAgain()
            except OSError:
                self._can_know = False
                return
            self._is_same = self._again.is_same
        self._again.know(self._files[tid], name)
        self._known, self._name = tid, name[:-1]

    def _opened(self, tid: int) -> bytes:
        try:
            file = os.open(f"/proc/{tid}/comm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return procfs.comm(tid)
        if len(self._files) >= _MOST:
            self.forget(next(iter(self._files)))
        self._files[tid] = file
        try:
            return os.pread(file, ROOM, 0)[:-1]
        except OSError:
            return b""

    def forget(self, tid: int) -> None:
        """A thread has ended."""
        if tid == self._known:
            # Its descriptor may be another file's from now on.
            self._known = -1
        file = self._files.pop(tid, None)
        if file is not None:
            os.close(file)

    def close(self) -> None:
        """Close all files."""
        for tid in list(self._files):
            self.forget(tid)


#: Those that this process reads.
NAMES: Final = ThreadNames()
