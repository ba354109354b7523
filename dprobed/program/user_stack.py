"""The stack of a thread: return addresses, innermost first, and why there are no more.

As bytes it stands for itself, in a log and in a key: the same stack is the same bytes in every
process. All numbers are little-endian; a *text* is a 16-bit count of bytes and that much::

    u8   how it ended (``StackEnd``)
    u8   number of modules
    u8   number of frames
    each module, in the order in which the frames name them
        u8, bytes   build-id, empty where the file has none
        text        path, as the kernel shows it; ``[vdso]``
    each frame, u64
        bits 0-55   address in the file, as its symbols have it; without a module: in the process
        bits 56-61  number of the module from 1 on, 0: none (code that was made at run time)
        bit 62      whether it is no function but the way back of a signal handler
        bit 63      whether the address is where the thread is, or was interrupted; else it is where
                    it will return to, behind the call
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from struct import Struct
from struct import error as StructError
from typing import Final

import msgspec

#: Frames of a stack at most, and where nothing is said.
MOST_FRAMES: Final = 255
USUAL_FRAMES: Final = 127
#: Modules of a stack: a frame in a further one has none.
MOST_MODULES: Final = 63
SIGNAL: Final = 1 << 62
ADDRESS: Final = (1 << 56) - 1
EXACT: Final = 1 << 63

#: The module of frames in the kernel: their addresses are counted from the kernel's first one.
KERNEL_MODULE: Final = "[kernel]"

_HEAD: Final = Struct("<BBB")
_COUNT: Final = Struct("<H")
_MODULE_SHIFT: Final = 56
_MOST_PATH: Final = 4096


class StackEnd(IntEnum):
    """How a walk of a stack ended."""

    WHOLE = 0
    DEPTH = 1
    ROOM = 2
    UNREADABLE = 3
    NO_CFI = 4
    NOT_GROWING = 5
    NO_CODE = 6
    NO_TABLE = 7
    NO_RULE = 8
    NONE = 9


#: Why there are no more frames; nothing where there are none.
REASONS: Final[dict[int, str]] = {
    StackEnd.WHOLE: "",
    StackEnd.DEPTH: "more frames than were asked for",
    StackEnd.ROOM: "more frames than the log has room for",
    StackEnd.UNREADABLE: "the memory of the stack cannot be read",
    StackEnd.NO_CFI: "the code has neither unwinding information nor frame pointers",
    StackEnd.NOT_GROWING: "the stack is corrupt: the caller's frame is not above",
    StackEnd.NO_CODE: "the stack is corrupt: the return address is not code",
    StackEnd.NO_TABLE: "the unwinding information could not be read",
    StackEnd.NO_RULE: "the unwinding information cannot be used",
    StackEnd.NONE: "there is no stack here",
}


class UserStack(msgspec.Struct, gc=False):
    """A walked stack: ``modules`` as ``module_bytes`` made them, ``frames`` as above."""

    end: int
    modules: Sequence[bytes]
    frames: Sequence[int]


class StackModule(msgspec.Struct, frozen=True):
    """A file whose code is in a stack; ``build_id`` hex digits, empty where it has none."""

    path: str
    build_id: str


class StackFrame(msgspec.Struct, frozen=True):
    """``address``: in the file of its module, else in the process; ``exact``: is where the thread
    was, not where it returns to; ``signal``: the way back of a signal handler."""

    module: StackModule | None
    address: int
    exact: bool
    signal: bool


def module_bytes(path: str, build_id: str) -> bytes:
    """A module of a stack, packed."""
    identity = bytes.fromhex(build_id)[:255]
    name = path.encode(errors="replace")[-_MOST_PATH:]
    return bytes((len(identity),)) + identity + _COUNT.pack(len(name)) + name


def frame_word(module: int, address: int, *, exact: bool, signal: bool = False) -> int:
    """A frame; ``module``: its number from 1 on, 0: none."""
    flags = (EXACT if exact else 0) | (SIGNAL if signal else 0)
    return address & ADDRESS | module << _MODULE_SHIFT | flags


def stack_bytes(stack: UserStack, room: int) -> bytes | None:
    """A stack in ``room`` bytes, the innermost of its frames if they are too many; None: not one
    fits."""
    size = _HEAD.size + sum(map(len, stack.modules)) + 8 * len(stack.frames)
    if size > room:
        return _shortened(stack, room)
    head = _HEAD.pack(stack.end, len(stack.modules), len(stack.frames))
    frames = Struct(f"<{len(stack.frames)}Q").pack(*stack.frames)
    return head + b"".join(stack.modules) + frames


def _shortened(stack: UserStack, room: int) -> bytes | None:
    """The innermost frames, with only the modules that these name."""
    left = room - _HEAD.size
    named = kept = 0
    for frame in stack.frames:
        number = frame >> _MODULE_SHIFT & MOST_MODULES
        left -= 8 + (len(stack.modules[number - 1]) if number > named else 0)
        if left < 0:
            break
        named, kept = max(named, number), kept + 1
    if not kept:
        return None
    return stack_bytes(UserStack(StackEnd.ROOM, stack.modules[:named], stack.frames[:kept]), room)


def unpacked(data: bytes) -> tuple[list[StackFrame], int]:
    """The frames of a stack, and how it ended; raises ValueError if that is none."""
    try:
        end, modules, frames = _HEAD.unpack_from(data)
        at = _HEAD.size
        found = []
        for _ in range(modules):
            size = data[at]
            identity = data[at + 1 : at + 1 + size].hex()
            at += 1 + size
            (size,) = _COUNT.unpack_from(data, at)
            path = data[at + 2 : at + 2 + size].decode(errors="backslashreplace")
            at += 2 + size
            found.append(StackModule(path, identity))
        words = Struct(f"<{frames}Q").unpack_from(data, at)
        if at + 8 * frames != len(data):
            raise ValueError("bytes after the last frame")
        return [_frame(found, word) for word in words], end
    except (IndexError, StructError) as error:
        raise ValueError(f"no stack: {error}") from error


def _frame(modules: list[StackModule], word: int) -> StackFrame:
    number = word >> _MODULE_SHIFT & MOST_MODULES
    module = modules[number - 1] if number else None  # IndexError: there are not so many
    return StackFrame(module, word & ADDRESS, bool(word & EXACT), bool(word & SIGNAL))
