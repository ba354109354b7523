"""What the messages of the control socket have in common: the protocol's numbers, types, bases."""

# Without `from __future__ import annotations`: msgspec compiles annotations that are strings, each
# one when a decoder is made, which takes four times as long.

from typing import Annotated, Final, Literal

import msgspec

#: Changes only when an old client could misunderstand a new daemon, or the reverse.
PROTOCOL: Final = 1
#: Longest line that is accepted, in bytes; a program of the largest size fits several times.
MAX_LINE: Final = 16 << 20

Id = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
#: PID_MAX_LIMIT of the kernel (include/linux/threads.h).
Pid = Annotated[int, msgspec.Meta(ge=1, le=1 << 22)]

#: In reports and listings, where a program is in the kernel: no process has that pid.
KERNEL: Final = 0
#: The state of a probe whose process has ended; the others are the tracer's words.
ENDED: Final = "ended"
PidOrKernel = Annotated[int, msgspec.Meta(ge=KERNEL, le=1 << 22)]

Index = Annotated[int, msgspec.Meta(ge=0, le=1 << 16)]
Label = Annotated[str, msgspec.Meta(max_length=255)]
Seconds = Annotated[float, msgspec.Meta(ge=0.001, le=3600)]
Queue = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
Bytes = Annotated[int, msgspec.Meta(ge=1, lt=1 << 53)]
Present = Literal["merge", "replace", "refuse"]
Labels = Annotated[list[Label], msgspec.Meta(min_length=1, max_length=1024)]


class RequestMessage(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=str.lower
):
    """A request. ``id``: the client's number for it."""

    id: Id


class ReplyMessage(msgspec.Struct, frozen=True, kw_only=True, tag=str.lower):
    """A reply. ``id``: that of the request."""

    id: Id


class MapEntry(msgspec.Struct, frozen=True, array_like=True):
    """A key, with bytes as text, and its cell: a list of words that is what the map's kind says."""

    key: list[int | str]
    cell: list[int]
