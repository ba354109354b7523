"""The seam between those who run probe programs and those who place probes.

An ``Executor`` holds one program, ready to run, on behalf of one target. For each hit it is given
a ``Context``, all that the program can see and alter of the thread that hit the probe, and hands
back an ``Outcome``. Executors know nothing of ptrace: the trap engine implements ``Context`` on a
stopped thread, the tests on a table of memory. ``Variables`` outlast hits; where they are kept (a
list, pages that native code shares, the kernel) is known only to the executor that uses them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

import msgspec

from dprobed.program.maps import Entry, Item, MapContents, MapDefinition, MapRoom
from dprobed.program.model import Program
from dprobed.program.user_stack import UserStack

#: Addresses from here on are never a user's (the highest bit of 57-bit addresses is the kernel's);
#: a ``Context`` is only asked for lower ones.
ADDRESS_END: Final = 1 << 56


class MemoryFault(Exception):
    """An access to memory of the target that is not mapped, or not permitted.

    ``address`` is the first byte that could not be accessed.
    """

    def __init__(self, address: int) -> None:
        super().__init__(f"cannot access memory at {address:#x}")
        self.address = address


class Registers(Protocol):
    """27 words of 64 bits, unsigned, in the order of ``USER_REGS`` (a memoryview cast to ``Q``)."""

    def __getitem__(self, index: int, /) -> int: ...
    def __setitem__(self, index: int, value: int, /) -> None: ...


#: Reads an argument of a static probe at one of its places; raises MemoryFault.
Reader = Callable[["Context"], int]


class Context(Protocol):
    """One hit of one probe, as the executor of its program sees it.

    ``regs[USER_REGS.index("rip")]`` is the address of the probed instruction; a program that
    stores another value there makes the thread go on at that address. ``fpregs()`` is the
    512-byte FXSAVE image (Intel SDM vol. 1, table 10-2); who alters it sets ``fp_dirty``.
    ``arguments``: what reads those of a static probe. ``kept``: ``KEPT_WORDS`` words, which the
    entry part of a return probe leaves for its return part; all 0 before it runs.
    """

    regs: Registers
    fp_dirty: bool
    arguments: Sequence[Reader]
    kept: list[int]

    @property
    def pid(self) -> int:
        """The process (thread group) of the thread."""
        ...

    @property
    def tid(self) -> int:
        """The thread."""
        ...

    @property
    def uid(self) -> int:
        """The thread's real user id."""
        ...

    @property
    def gid(self) -> int:
        """The thread's real group id."""
        ...

    @property
    def cpu(self) -> int:
        """The CPU on which the thread hit the probe."""
        ...

    @property
    def comm(self) -> bytes:
        """The thread's name (at most 15 bytes)."""
        ...

    def fpregs(self) -> bytearray:
        """The thread's x87 and SSE state; the same object for the whole hit."""
        ...

    def now(self) -> int:
        """Monotonic time in nanoseconds."""
        ...

    def user_stack(self, depth: int) -> UserStack:
        """The stack of the thread in user mode, at most ``depth`` frames from the innermost on."""
        ...

    def read(self, address: int, length: int) -> bytes:
        """Exactly ``length`` bytes of the target; raises MemoryFault."""
        ...

    def read_partial(self, address: int, length: int) -> bytes:
        """As many bytes as are readable from ``address`` on: at most ``length``, maybe none."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Write to writable memory of the target; nothing is written when MemoryFault is raised."""
        ...

    def writable(self, address: int) -> bool:
        """Whether the byte at ``address`` may be written by the target itself."""
        ...


def read_some(context: Context, address: int, length: int) -> bytes:
    """As many of ``length`` bytes from any ``address`` on as can be read."""
    length = min(length, ADDRESS_END - address)
    return context.read_partial(address, length) if length > 0 else b""


def readable(context: Context, address: int) -> bool:
    """Whether the byte at any ``address`` can be read."""
    return len(read_some(context, address, 1)) == 1


class Outcome(msgspec.Struct, gc=False):
    """The result of one hit.

    ``exit``: 0 for a plain end, n > 0 for facility n, or a code of ``dprobed.program.exits``.
    ``log``: the items, the exception trace last; ``raw``: where words without prefix lie in it, a
    flat run of (byte offset, number of words). ``major``, ``minor``: the record's numbers.
    ``exception``: code, parm1 and parm2 of the exception that ended the program. ``suspend``: hold
    the thread; ``resume``: resume every thread of the target that is held.
    """

    exit: int
    log: bytes
    raw: tuple[int, ...]
    major: int
    minor: int
    exception: tuple[int, int, int] | None
    suspend: bool
    resume: bool


class Variables(Protocol):
    """Words that outlast hits: the local variables of a program or the global ones of a target.

    They are numbered from 0; each is 0 at first.
    """

    def __len__(self) -> int:
        """How many there are."""
        ...

    def read(self, first: int = 0, count: int | None = None) -> list[int]:
        """The values of ``count`` from ``first`` on, as far as there are; all that are left."""
        ...

    def write(self, first: int, words: Sequence[int]) -> None:
        """Give the ones from ``first`` on these values, as far as there are variables."""
        ...

    def reset(self, first: int = 0, count: int | None = None) -> None:
        """Set ``count`` from ``first`` on to 0, as far as there are; all that are left."""
        ...

    def grow(self, count: int) -> None:
        """Be ``count`` at least; the new ones are 0. There are never fewer than before."""
        ...


#: The kind of variables that an executor works on.
Kept = TypeVar("Kept", bound=Variables, contravariant=True)


class KeyedMap(Protocol):
    """A map of a program, in one target."""

    @property
    def definition(self) -> MapDefinition:
        """What it is."""
        ...

    @property
    def lost(self) -> int:
        """Updates for which there was no room."""
        ...

    def __len__(self) -> int:
        """How many keys there are."""
        ...

    def contents(self) -> MapContents:
        """All that is in it."""
        ...

    def load(self, contents: MapContents) -> None:
        """Begin with what another of the same definition has had; what finds no room is lost."""
        ...

    @property
    def is_shared(self) -> bool:
        """Whether threads of the target work on it whenever they run."""
        ...

    def change(self, entries: Sequence[Entry], gone: Sequence[Sequence[Item]]) -> int | None:
        """Set these keys (of a map of values) and forget those; the others stay as they are.

        Gives for how many there was no room; they are not set. No thread runs meanwhile that works
        on it: where one has stopped in the middle of it, None is given, and nothing is changed.
        """
        ...

    def clear(self) -> None:
        """Forget all keys, and what was lost."""
        ...

    def zero(self) -> None:
        """Keep the keys, and begin anew at each; forget what was lost."""
        ...


class Executor(Protocol[Kept]):
    """One verified program, ready to run its probes on behalf of one target."""

    @property
    def program(self) -> Program:
        """What it runs."""
        ...

    @property
    def locals(self) -> Variables:
        """The program's local variables."""
        ...

    @property
    def maps(self) -> Sequence[KeyedMap]:
        """Its maps, in the order of its header."""
        ...

    @property
    def symbols(self) -> list[int]:
        """The values of its symbols, by their index in its names: set where it is placed."""
        ...

    def entry(self, index: int) -> Callable[[Context], Outcome]:
        """The function that runs the probe with this index for one hit.

        It raises nothing but what the methods of ``Context`` raise, except MemoryFault.
        """
        ...

    def entry_part(self, index: int) -> Callable[[Context], Outcome] | None:
        """As ``entry``, for what runs when the function is entered; None where nothing does.

        It ends by `exit`, by `abort` where the call is to be passed over, or by what went wrong.
        """
        ...

    def copy(self, globals_: Kept, room: MapRoom | None = None) -> Executor[Kept]:
        """The same program for a fork child, which begins with what the local variables are now,
        and with empty maps.

        ``globals_``: the global variables of the child; ``room``: that of its maps.
        """
        ...
