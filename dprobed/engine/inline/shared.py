"""Memory that a target and its tracer share: what the target's trampolines write, we read.

It is a memfd that the target makes (``memfd_create``), whose descriptor it closes again; both map
it. So what was written last is read also when the process was killed meanwhile.
"""

from __future__ import annotations

import array
import fcntl
import mmap
import os
from collections.abc import Sequence
from typing import Final

from dprobed.arch.x86_64.paging import PAGE, WORD
from dprobed.arch.x86_64.syscalls import SYS_CLOSE, SYS_MEMFD_CREATE, SYS_MMAP, SYS_MUNMAP
from dprobed.engine.address_space import AddressSpace
from dprobed.engine.errors import SpaceError
from dprobed.tracee.ptrace import Gone
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup

_MFD_CLOEXEC: Final = 1
_MFD_ALLOW_SEALING: Final = 2
#: With these nobody can cut the file, under us, who would die of SIGBUS (memfd_create(2)).
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_PROT_READ_WRITE: Final = 3
_MAP_SHARED: Final = 1
_MAP_FIXED: Final = 0x10
_MAP_PRIVATE_ANONYMOUS: Final = 0x22
#: Bytes that no two CPUs write to in turn.
LINE: Final = 64


class SharedMemory:
    """One such mapping; ``address``: where the target has it."""

    def __init__(self, address: int, view: memoryview, length: int) -> None:
        self.address: Final = address
        #: Bytes that it takes there.
        self.length: Final = length
        #: Its bytes here.
        self.view: Final = view
        self._used = 0

    @classmethod
    def make(
        cls,
        space: AddressSpace,
        group: ThreadGroup,
        thread: Thread,
        name: int,
        size: int,
        at: int = 0,
    ) -> SharedMemory:
        """Have a borrowed thread map some; ``name``: where it has a string, which names it.

        ``at``: in place of what is mapped there; 0: anywhere. Raises SpaceError and Gone.
        """
        size = -(-size // PAGE) * PAGE
        return cls.map_parts(space, group, thread, name, [(0, 0, size)], at)

    @classmethod
    def map_parts(
        cls,
        space: AddressSpace,
        group: ThreadGroup,
        thread: Thread,
        name: int,
        parts: Sequence[tuple[int, int, int]],
        at: int = 0,
    ) -> SharedMemory:
        """The same, of parts in ascending order: where each is behind the address, where it is in
        the file, and its size. Together they are without a gap."""

        def call(number: int, *arguments: int) -> int:
            return space.calls.call(group, thread, number, *arguments)

        descriptor = call(SYS_MEMFD_CREATE, name, _MFD_CLOEXEC | _MFD_ALLOW_SEALING)
        if descriptor < 0:
            raise SpaceError(f"the target cannot make a memfd: {os.strerror(-descriptor)}")
        begun = at
        there, _, last = parts[-1]
        length = there + last
        try:
            view = _mapped(thread.tid, descriptor, max(begin + size for _, begin, size in parts))
            if len(parts) > 1 and not at:
                at = _checked(call(SYS_MMAP, 0, length, 0, _MAP_PRIVATE_ANONYMOUS, WORD, 0))
            for offset, begin, size in parts:
                flags = _MAP_SHARED | (_MAP_FIXED if at else 0)
                where = at + offset if at else 0
                at = (
                    _checked(
                        call(SYS_MMAP, where, size, _PROT_READ_WRITE, flags, descriptor, begin)
                    )
                    - offset
                )
        except SpaceError:
            if at and not begun:
                call(SYS_MUNMAP, at, length)
            raise
        finally:
            call(SYS_CLOSE, descriptor)
        return cls(at, view, length)

    @property
    def room(self) -> int:
        """Bytes that are free."""
        return len(self.view) - self._used

    def allocate(self, size: int) -> int | None:
        """The offset of so many bytes, at the beginning of a line; None: there is no room."""
        start = -(-self._used // LINE) * LINE
        if start + size > len(self.view):
            return None
        self._used = start + size
        self.view[start : start + size] = bytes(size)
        return start

    def start_anew(self) -> None:
        """What was allocated is not needed any more."""
        self._used = 0

    def words(self, offset: int, count: int) -> memoryview:
        """Words of it."""
        return self.view[offset : offset + 8 * count].cast("Q")

    def twin(self, address: int, view: memoryview) -> SharedMemory:
        """The same in a copy of the address space, which has its own memory there."""
        other = SharedMemory(address, view, self.length)
        other._used = self._used
        view[:] = self.view
        return other


def _checked(result: int) -> int:
    if result < 0:
        raise SpaceError(f"the target cannot map shared memory: {os.strerror(-result)}")
    return result


def _mapped(tid: int, descriptor: int, size: int) -> memoryview:
    try:
        # Another thread may have put something else there, which need not be a file.
        ours = os.open(f"/proc/{tid}/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise Gone(tid) from None
    except OSError as error:
        raise SpaceError(f"the target's memfd cannot be opened: {error.strerror}") from None
    try:
        os.ftruncate(ours, size)
        fcntl.fcntl(ours, fcntl.F_ADD_SEALS, _SEALS)
        if os.fstat(ours).st_size != size:
            raise SpaceError("the target has cut its memfd")
        return memoryview(mmap.mmap(ours, size))
    except OSError as error:
        raise SpaceError(f"the target's memfd cannot be used: {error.strerror}") from None
    finally:
        os.close(ours)


class SharedVariables:
    """``Variables`` in memory that is shared with a target, once there is some."""

    def __init__(self, count: int = 0) -> None:
        self._words: memoryview = memoryview(array.array("Q", bytes(8 * count)))

    def bind(self, words: memoryview) -> None:
        """From now on they are here, with the values that they have."""
        words[:] = self._words
        self._words = words

    def keep(self) -> None:
        """Their memory goes: keep the values that they have."""
        self._words = memoryview(array.array("Q", self._words.tolist()))

    def __len__(self) -> int:
        return len(self._words)

    def read(self, first: int = 0, count: int | None = None) -> list[int]:
        """See Variables."""
        return self._words[first : None if count is None else first + count].tolist()

    def write(self, first: int, words: Sequence[int]) -> None:
        """See Variables."""
        kept = words[: max(len(self._words) - first, 0)]
        self._words[first : first + len(kept)] = memoryview(array.array("Q", kept))

    def reset(self, first: int = 0, count: int | None = None) -> None:
        """See Variables."""
        self.write(first, [0] * len(self.read(first, count)))

    def grow(self, count: int) -> None:
        """See Variables: before they are shared."""
        if count > len(self._words):
            grown = memoryview(array.array("Q", bytes(8 * count)))
            grown[: len(self._words)] = self._words
            self._words = grown
